"""An origin that makes its objects up while it sends them, so that a large one costs neither memory nor disk.

All transfers run abreast: none begins before every object has been asked for, and none gets further, as a share of its own length,
than the largest. So as long as the largest is on its way, all are in flight.
"""

from __future__ import annotations

import hashlib
import http.server
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

CHUNK_BYTES = 1024 * 1024
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Object:
    """`size` bytes that depend on `seed`: by turns a chunk of noise, which gzip has to store, and one of text."""

    seed: int
    size: int

    def chunks(self) -> Iterator[memoryview]:
        noise = memoryview(random.Random(self.seed).randbytes(CHUNK_BYTES))
        line = b"%d, a line of text that compresses well\n" % self.seed
        text = memoryview(line * (CHUNK_BYTES // len(line) + 1))[:CHUNK_BYTES]
        for number, start in enumerate(range(0, self.size, CHUNK_BYTES)):
            yield (noise, text)[number % 2][: self.size - start]

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()


class Origin:
    """Serves `objects` by their paths, as a context manager, at an `address` on loopback.

    `most_in_flight` is how many of them were on their way at the same time.
    """

    def __init__(self, objects: dict[str, Object]) -> None:
        self.objects = objects
        self.most_in_flight = 0
        self._in_flight: set[str] = set()
        self._largest = max(objects, key=lambda path: objects[path].size)
        self._share = 0.0  # of the largest that was sent
        self._moved = threading.Condition()
        handler = type("Handler", (_Handler,), {"origin": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def send(self, path: str, write: Callable[[memoryview], object]) -> None:
        """Send the object at `path`, abreast of the others."""
        self._begin(path)
        sent, size = 0, self.objects[path].size
        for chunk in self.objects[path].chunks():
            share = (sent + len(chunk)) / size
            if path != self._largest:
                self._wait_until(lambda share=share: self._share >= share)
            write(chunk)
            sent += len(chunk)
            if path == self._largest:
                self._move(share)
        self._in_flight.discard(path)

    def _begin(self, path: str) -> None:
        with self._moved:
            self._in_flight.add(path)
            self.most_in_flight = max(self.most_in_flight, len(self._in_flight))
            self._moved.notify_all()
        self._wait_until(lambda: self.most_in_flight == len(self.objects))

    def _move(self, share: float) -> None:
        with self._moved:
            self._share = share
            self._moved.notify_all()

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        with self._moved:
            if not self._moved.wait_for(condition, PATIENCE_SECONDS):
                raise TimeoutError("the transfers are not in flight together")


class _Handler(http.server.BaseHTTPRequestHandler):
    origin: Origin
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(self.origin.objects[self.path].size))
        self.end_headers()
        self.origin.send(self.path, self.wfile.write)

    def log_message(self, *_: object) -> None:
        pass
