"""An HTTP/1.1 origin on loopback that serves objects, and misbehaves where it is told to.

    with Origin() as origin:
        link = origin.put("/bucket/a.bin", b"...")                       # well-behaved: ETag, Range, If-Range, keep-alive
        origin.put("/bucket/b.bin", data, cut(1000), serve())            # the first request is cut off, later ones are not
        origin.put("/bucket/c.bin", data, status(503, retry_after="7"))  # every request is refused
        origin.requests("/bucket/b.bin")                                 # what was asked, with its headers

Each path has a list of answers: one for each request, and the last one for all that follow. An answer is a function of the
`Exchange`; it returns whether the connection may stay open. Paths are matched without their query, so that a link may carry
any signature. `Origin(tls=True)` speaks TLS with a certificate of its own authority, whose PEM file is `origin.ca_file`.
"""

from __future__ import annotations

import email.utils
import hashlib
import itertools
import socket
import socketserver
import ssl
import struct
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import quote

import trustme

LAST_MODIFIED = email.utils.formatdate(1_700_000_000, usegmt=True)
PATIENCE_SECONDS = 30  # a stalled answer ends by itself after this, should a test forget to release it


@dataclass(frozen=True)
class Request:
    """One request: `headers` have lower-case names."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]

    @property
    def range_start(self) -> int | None:
        """The N of "Range: bytes=N-"."""
        value = self.headers.get("range", "")
        return int(value[6:-1]) if value.startswith("bytes=") and value.endswith("-") else None


@dataclass
class Exchange:
    """A request, the object that it asks for, and the socket to answer on."""

    origin: Origin
    request: Request
    data: bytes
    content_type: str | None
    etag: str | None
    sock: socket.socket

    def head(self, code: int, headers: Mapping[str, object]) -> None:
        """Send the status line and the headers."""
        self.sock.sendall(_head(code, headers))

    def send(self, code: int, headers: Mapping[str, object], body: bytes | memoryview = b"") -> None:
        """Send a whole answer, with its length unless `headers` say otherwise."""
        head = _head(code, {"Content-Length": len(body)} | headers)
        if self.request.method == "HEAD":
            body = b""
        if len(body) < 65536:
            self.sock.sendall(head + bytes(body))
        else:
            self.sock.sendall(head)
            self.sock.sendall(body)

    def reset(self) -> None:
        """End the connection with an RST, as a machine does that lost its state."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


Answer = Callable[[Exchange], bool]


def _head(code: int, headers: Mapping[str, object]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value is not None)
    return f"HTTP/1.1 {code} -\r\n{lines}\r\n".encode("latin-1")


def serve(*, etag: str | None = "", last_modified: str | None = LAST_MODIFIED, ranges: bool = True, **headers: str) -> Answer:
    """Answer as an object store does. `etag` "" is the object's, None is left out; `headers` as in Content_Encoding="gzip"."""
    extra = {name.replace("_", "-"): value for name, value in headers.items()}

    def answer(exchange: Exchange) -> bool:
        tag = exchange.etag if etag == "" else etag
        fields = {"Content-Type": exchange.content_type, "ETag": tag, "Last-Modified": last_modified} | extra
        request, data, start = exchange.request, exchange.data, exchange.request.range_start
        current = request.headers.get("if-range") in {None, tag, last_modified}
        if not ranges or start is None or not current:
            exchange.send(200, fields, data)
        elif start >= len(data):
            exchange.send(416, fields | {"Content-Range": f"bytes */{len(data)}"})
        else:
            part = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            exchange.send(206, fields | part, memoryview(data)[start:])
        return True

    return answer


def cut(after: int, *, reset: bool = False, etag: str | None = "", last_modified: str | None = LAST_MODIFIED) -> Answer:
    """Announce the whole object (or the rest that was asked for), send `after` bytes of it and end the connection."""

    def answer(exchange: Exchange) -> bool:
        _begin(exchange, etag, last_modified, after)
        if reset:
            exchange.reset()
        return False

    return answer


def stall(after: int, *, etag: str | None = "") -> Answer:
    """Announce the whole object (or the rest that was asked for), send `after` bytes of it and fall silent until released."""

    def answer(exchange: Exchange) -> bool:
        _begin(exchange, etag, LAST_MODIFIED, after)
        exchange.origin.released.wait(PATIENCE_SECONDS)
        return False

    return answer


def silence() -> Answer:
    """Take the request and answer nothing until `Origin.release`."""

    def answer(exchange: Exchange) -> bool:
        exchange.origin.released.wait(PATIENCE_SECONDS)
        return False

    return answer


def _begin(exchange: Exchange, etag: str | None, last_modified: str | None, after: int) -> None:
    start = exchange.request.range_start or 0
    rest = exchange.data[start:]
    fields = {"ETag": exchange.etag if etag == "" else etag, "Last-Modified": last_modified, "Content-Length": len(rest)}
    if start:
        fields["Content-Range"] = f"bytes {start}-{len(exchange.data) - 1}/{len(exchange.data)}"
    exchange.sock.sendall(_head(206 if start else 200, fields) + rest[:after])


def announce(length: object) -> Answer:
    """Send the object under another Content-Length than it has."""

    def answer(exchange: Exchange) -> bool:
        exchange.send(200, {"Content-Length": length, "ETag": exchange.etag}, exchange.data)
        return False

    return answer


def chunked(piece: int = 1000, *, cut_after: int | None = None, etag: str | None = "", trailers: Iterable[bytes] = ()) -> Answer:
    """Send the object in chunks of `piece` bytes, without a length; with `cut_after`, end within the chunk at that byte."""

    def answer(exchange: Exchange) -> bool:
        exchange.head(200, {"Transfer-Encoding": "chunked", "ETag": exchange.etag if etag == "" else etag})
        for start in range(0, len(exchange.data), piece):
            part = exchange.data[start : start + piece]
            size = b"%x\r\n" % len(part)
            if cut_after is not None and start + len(part) > cut_after:
                exchange.sock.sendall(size + part[: cut_after - start])
                return False
            exchange.sock.sendall(size + part + b"\r\n")
        exchange.sock.sendall(b"0\r\n")
        for line in trailers:
            exchange.sock.sendall(line)
        exchange.sock.sendall(b"\r\n")
        return True

    return answer


def until_close(*, cut_after: int | None = None) -> Answer:
    """Send the object as HTTP/1.0 does: no length, the end of the connection is its end."""

    def answer(exchange: Exchange) -> bool:
        exchange.sock.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + exchange.data[:cut_after])
        return False

    return answer


def drip(piece: int = 1) -> Answer:
    """Send the object in pieces, each of them only after `Origin.drop` was called once more."""

    def answer(exchange: Exchange) -> bool:
        exchange.head(200, {"Content-Length": len(exchange.data), "ETag": exchange.etag})
        for start in range(0, len(exchange.data), piece):
            exchange.origin.wait_for_drop()
            exchange.sock.sendall(exchange.data[start : start + piece])
        return True

    return answer


def endless(line: bytes, *, before: bytes = b"") -> Answer:
    """Send `line` again and again until the other end hangs up."""

    def answer(exchange: Exchange) -> bool:
        exchange.sock.sendall(before)
        for _ in itertools.repeat(None):
            exchange.sock.sendall(line)
        return False

    return answer


def raw(data: bytes) -> Answer:
    """Send these bytes, whatever they are, and end the connection."""

    def answer(exchange: Exchange) -> bool:
        exchange.sock.sendall(data)
        return False

    return answer


def status(code: int, body: bytes = b"", *, retry_after: str | None = None, **headers: str) -> Answer:
    """Send a status with a body of its own. `headers` as in serve."""
    extra = {name.replace("_", "-"): value for name, value in headers.items()}

    def answer(exchange: Exchange) -> bool:
        exchange.send(code, {"Retry-After": retry_after} | extra, body)
        return True

    return answer


def html_page() -> Answer:
    """Success, with a page for people: what captive portals and broken gateways answer."""
    return status(200, b"<!doctype html><title>Please sign in</title>", Content_Type="text/html")


def s3_error(code: int, name: str, message: str) -> Answer:
    """Refuse as S3 does, quoting the request like S3 does."""

    def answer(exchange: Exchange) -> bool:
        quoted = f"<Resource>{exchange.request.path}</Resource><StringToSign>{exchange.request.query}</StringToSign>"
        body = f'<?xml version="1.0"?>\n<Error><Code>{name}</Code><Message>{message}</Message>{quoted}</Error>'
        exchange.send(code, {"Content-Type": "application/xml"}, body.encode())
        return True

    return answer


def redirect(to: str, code: int = 302) -> Answer:
    """Point to another place."""
    return status(code, Location=to)


@dataclass
class _Stored:
    data: bytes
    content_type: str | None
    etag: str
    answers: list[Answer]
    requests: list[Request] = field(default_factory=list)


class Origin:
    """The server; a context manager. Thread-safe: objects may be put while it serves."""

    def __init__(self, *, host: str = "127.0.0.1", tls: bool = False, names: Iterable[str] = ("localhost", "127.0.0.1")) -> None:
        self.released = threading.Event()
        self.drops = threading.Semaphore(0)
        self.connections = 0
        self._stored: dict[str, _Stored] = {}
        self._lost: dict[str, list[Request]] = defaultdict(list)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._tls: ssl.SSLContext | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.ca_file: str | None = None
        if tls:
            self._set_up_tls(names)
        self._server = _Server((host, 0), self)

    def _set_up_tls(self, names: Iterable[str]) -> None:
        authority = trustme.CA()
        self._folder = tempfile.TemporaryDirectory()
        self.ca_file = str(Path(self._folder.name) / "ca.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names).configure_cert(self._tls)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, release what is stalled and end every connection."""
        self._server.shutdown()
        self._server.server_close()
        self.release()
        self.hang_up()
        if self._folder is not None:
            self._folder.cleanup()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def address(self) -> str:
        """As an entry of CBK_ALLOWED_HOSTS."""
        return "{}:{}".format(*self._server.server_address)

    def url(self, path: str, query: str = "") -> str:
        """The link to a path."""
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{self.address}{quote(path)}" + (f"?{query}" if query else "")

    def put(self, path: str, data: bytes, *answers: Answer, content_type: str | None = "application/octet-stream") -> str:
        """Store an object with the answers to come (default: serve it); return the link to it."""
        stored = _Stored(data, content_type, f'"{hashlib.md5(data).hexdigest()}"', list(answers) or [serve()])
        with self._lock:
            self._stored[quote(path)] = stored
        return self.url(path)

    def put_as_is(self, path: str, data: bytes, *answers: Answer) -> None:
        """Store an object under a path in this very spelling: another one of the same name is not found."""
        with self._lock:
            self._stored[path] = _Stored(data, None, f'"{hashlib.md5(data).hexdigest()}"', list(answers) or [serve()])

    def remove(self, path: str) -> None:
        """Forget an object: 404 from now on."""
        with self._lock:
            del self._stored[quote(path)]

    def requests(self, path: str) -> list[Request]:
        """The requests for a path since it was put there (all of them, where nothing is), in the order of their arrival."""
        with self._lock:
            stored = self._stored.get(quote(path))
            return list(stored.requests if stored else self._lost[quote(path)])

    def count(self, path: str) -> int:
        """How often a path was asked for."""
        return len(self.requests(path))

    def release(self) -> None:
        """Let stalled answers end, and drip run on."""
        self.released.set()
        self.drops.release()

    def wait_for_drop(self) -> None:
        """Wait until one more piece may be sent; once released, nobody waits any more."""
        self.drops.acquire(timeout=PATIENCE_SECONDS)
        if self.released.is_set():
            self.drops.release()

    def drop(self) -> None:
        """Let drip send one more piece."""
        self.drops.release()

    def hang_up(self) -> None:
        """End every connection that is open now."""
        with self._lock:
            for sock in self._open:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _answer(self, request: Request, sock: socket.socket) -> bool:
        with self._lock:
            stored = self._stored.get(request.path)
            (stored.requests if stored else self._lost[request.path]).append(request)
            if stored:
                answer = stored.answers.pop(0) if len(stored.answers) > 1 else stored.answers[0]
        if stored is None:
            missing = s3_error(404, "NoSuchKey", "The specified key does not exist.")
            return missing(Exchange(self, request, b"", None, None, sock))
        return answer(Exchange(self, request, stored.data, stored.content_type, stored.etag, sock))

    def _serve(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is not None:
            sock = self._tls.wrap_socket(sock, server_side=True)
        with self._lock:
            self.connections += 1
            self._open.add(sock)
        try:
            with sock.makefile("rb") as stream:
                while (request := _read_request(stream)) and self._answer(request, sock):
                    pass
        finally:
            with self._lock:
                self._open.discard(sock)
            sock.close()


def _read_request(stream) -> Request | None:
    words = stream.readline(65536).decode("latin-1").split(" ")
    if len(words) != 3:  # the end, or something else than HTTP
        return None
    method, target, _ = words
    headers = {}
    while (line := stream.readline(65536)) not in {b"\r\n", b""}:
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.lower()] = value.strip()
    path, _, query = target.partition("?")
    return Request(method, path, query, headers)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], origin: Origin) -> None:
        super().__init__(address, socketserver.BaseRequestHandler)
        self.origin = origin

    def finish_request(self, request, client_address) -> None:
        # The other end hanging up, or not trusting the certificate, is what the tests are about.
        with suppress(OSError):
            self.origin._serve(request)

    def shutdown_request(self, request) -> None:
        self.close_request(request)
