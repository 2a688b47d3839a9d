"""What fetching costs by itself: CPU time for each object of 20 KB over loopback, without a hash, a disk or a catalog.

    python -m bench.fetch [COUNT]

The kit's download, with its checks of the link and of the answer, beside requests (a `Session`) and urllib3 alone, in one thread.
"""

from __future__ import annotations

import multiprocessing
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import requests
import urllib3

from cbk.edges.download import Downloader
from cbk.rules.backup.links import AllowedHosts

SIZE = 20_000
HEAD = (
    f'HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\nETag: "0123456789abcdef"\r\nContent-Type: image/png\r\n'
    "Last-Modified: Thu, 01 Jan 2026 12:00:00 GMT\r\nAccept-Ranges: bytes\r\nServer: bench\r\nx-amz-request-id: 1\r\n\r\n"
)
ROUNDS = 5


class Nowhere:
    """A sink that keeps nothing."""

    def expect(self, size: int, /) -> None:
        """Told and forgotten."""

    def write(self, data: memoryview, /) -> None:
        """Taken and forgotten."""


def serve(listener: socket.socket) -> None:
    """Answer every request on each connection with the same object."""
    answer = HEAD.encode() + bytes(SIZE)

    def talk(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while sock.recv(65536):
            sock.sendall(answer)

    while True:
        threading.Thread(target=talk, args=(listener.accept()[0],), daemon=True).start()


def cost(fetch: Callable[[], object], count: int) -> float:
    """Milliseconds of this process' CPU time for each of `count` calls; the best of some rounds."""
    fetch()
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(count):
            fetch()
        best = min(best, (time.process_time() - began) / count * 1000)
    return best


def main(count: int = 1000) -> None:
    """Measure and print."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        server = multiprocessing.get_context("fork").Process(target=serve, args=(listener,), daemon=True)
        server.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        link = f"http://{address}/bucket/object.png?X-Amz-Signature=0123"
        downloader, session, pool = Downloader(AllowedHosts.parse(address)), requests.Session(), urllib3.PoolManager()
        fetches: dict[str, Callable[[], object]] = {
            "the kit": lambda: downloader.fetch(link, Nowhere(), tick=lambda _: None, now=lambda: datetime.now(UTC)),
            "urllib3": lambda: pool.request("GET", link).data,
            "requests": lambda: session.get(link).content,
        }
        for name, fetch in fetches.items():
            print(f"{name:10} {cost(fetch, count):.3f} ms of CPU time for each object of {SIZE} bytes")
        server.terminate()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
