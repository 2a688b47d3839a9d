"""A fast static origin, one process: `python -m bench.static FOLDER PORT [DELAY]` serves the files below a folder from memory.

It answers GET and HEAD with a length, keeps connections open, lists folders as links, and costs a fraction of an S3 server.
Files above 1 MiB are sent from the disk. With DELAY (seconds) it stands that far away: a round trip passes before it answers a
request, and another one before the first request of a connection, for the handshake.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from html import escape
from pathlib import Path
from urllib.parse import quote, unquote

LOOPBACK = "127.0.0.1"
IN_MEMORY_BYTES = 1024 * 1024


class Files:
    """What there is below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cache  # noqa: B019 - one for the life of the process
    def find(self, target: bytes) -> tuple[bytes, bytes | Path]:
        """The head of the answer, and its body or where it lies."""
        path = self.folder / unquote(target.partition(b"?")[0].decode()).lstrip("/")
        if path.is_dir():
            return _answer(200, self._listing(path), "text/html")
        if not path.is_file() or not path.resolve().is_relative_to(self.folder.resolve()):
            return _answer(404, b"not here\n", "text/plain")
        size = path.stat().st_size
        if size <= IN_MEMORY_BYTES:
            return _answer(200, path.read_bytes(), "application/octet-stream")
        return _head(200, size, "application/octet-stream"), path

    def _listing(self, folder: Path) -> bytes:
        names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
        return "".join(f'<a href="{quote(name)}">{escape(name)}</a>\n' for name in names).encode()


def _answer(code: int, body: bytes, kind: str) -> tuple[bytes, bytes]:
    return _head(code, len(body), kind), body


def _head(code: int, size: int, kind: str) -> bytes:
    dated = "Last-Modified: Thu, 01 Oct 2026 12:00:00 GMT"
    return f"HTTP/1.1 {code} -\r\nContent-Type: {kind}\r\n{dated}\r\nContent-Length: {size}\r\n\r\n".encode()


class Connection(asyncio.Protocol):
    """One client. Requests have no body, and the next one comes when the last was answered."""

    def __init__(self, files: Files, delay: float) -> None:
        self._files = files
        self._delay = delay
        self._wait = 2 * delay
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._received.endswith(b"\r\n\r\n"):
            return
        method, target, _ = self._received.split(b" ", 2)
        self._received = b""
        if not self._wait:
            self._answer(method, target)
            return
        asyncio.get_running_loop().call_later(self._wait, self._answer, method, target)
        self._wait = self._delay

    def _answer(self, method: bytes, target: bytes) -> None:
        if self._transport.is_closing():
            return
        head, body = self._files.find(target)
        if method == b"HEAD":
            self._transport.write(head)
        elif isinstance(body, bytes):
            self._transport.write(head + body)
        else:
            self._sending = asyncio.get_running_loop().create_task(self._send(head, body))

    async def _send(self, head: bytes, path: Path) -> None:
        self._transport.write(head)
        with path.open("rb") as file:
            await asyncio.get_running_loop().sendfile(self._transport, file)


async def serve(folder: Path, port: int, delay: float) -> None:
    """Serve until the process is ended."""
    files = Files(folder)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(files, delay), LOOPBACK, port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0))
