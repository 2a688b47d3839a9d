"""A TCP proxy on loopback: the line between two parts of a site, which can be stalled, reset, cut, slowed, or broken at random.

with Proxy(postgres.port) as proxy:
    url = postgres.url(database).replace(str(postgres.port), str(proxy.port))
    proxy.stall()                                    # nothing passes, nobody hangs up; `go_on` lets it all through
    proxy.lose()                                     # the same for the connections of now: new ones work (half-open)
    proxy.cut(); proxy.mend()                        # every connection is reset and none is taken; the line is back
    proxy.slow(0.05, bytes_per_second=20_000)        # each piece is late, and long ones take their time
    proxy.break_some(random.Random(1), share=0.1)    # every tenth request or so ends its connection with an RST
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import suppress
from enum import StrEnum
from typing import Self

_LOOPBACK = "127.0.0.1"
_PIECE = 65536
_LOOK_SECONDS = 0.02
_PATIENCE_SECONDS = 10
# How PostgreSQL's clients hang up (Terminate, in its protocol's message formats): whoever says this notices nothing any more.
_FAREWELL = b"X\x00\x00\x00\x04"


class Break(StrEnum):
    """Where in an exchange a connection is reset."""

    BEFORE = "before the request"
    AFTER = "after the request"
    WITHIN = "within the answer"


class Proxy:
    """Passes on what comes to `port` to `target` on loopback; a context manager. Thread-safe."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.broken: Counter[Break] = Counter()
        self.connections = 0
        self.is_stalled = False
        self.lost_before = 0
        self.reset_before = 0
        self.delay_seconds = 0.0
        self.bytes_per_second = float("inf")
        self._lock = threading.Lock()
        self._random = None
        self._share = 0.0
        self._listener = _listen(0)
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        self._accept_from(self._listener)
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    @property
    def faults(self) -> int:
        """How many connections were reset at random, each of them while somebody waited for an answer."""
        return self.broken.total()

    def stall(self) -> None:
        """Let nothing pass, whoever connects."""
        self.is_stalled = True

    def lose(self) -> None:
        """Let nothing pass any more on the connections of now: neither end is told."""
        self.lost_before = self.connections

    def reset(self) -> None:
        """End the connections of now with an RST to both ends."""
        self.reset_before = self.connections

    def cut(self) -> None:
        """Reset every connection and refuse new ones."""
        self._listener.close()
        with suppress(OSError):  # closing alone does not wake who waits in accept
            socket.create_connection((_LOOPBACK, self.port), timeout=1).close()
        self.reset()

    def mend(self) -> None:
        """Take connections again, on the same port."""
        self._listener = _listen(self.port)
        self._accept_from(self._listener)

    def slow(self, delay_seconds: float, *, bytes_per_second: float = float("inf")) -> None:
        """Hold each piece back for so long, and let no more through."""
        self.delay_seconds, self.bytes_per_second = delay_seconds, bytes_per_second

    def break_some(self, random, share: float) -> None:
        """Reset this share of the exchanges, each before the request, after it, or within the answer."""
        with self._lock:
            self._random, self._share = random, share

    def go_on(self) -> None:
        """Pass on everything from now; what is lost stays lost."""
        self.is_stalled = False
        self.slow(0)
        self.break_some(None, 0)

    def fate(self, request: bytes) -> Break | None:
        """What becomes of the connection that this request came on."""
        with self._lock:
            if request == _FAREWELL or self._random is None or self._random.random() >= self._share:
                return None
            return self._random.choice(list(Break))

    def note(self, fate: Break) -> None:
        """It happened."""
        with self._lock:
            self.broken[fate] += 1

    def _accept_from(self, listener) -> None:
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = listener.accept()
                self.connections += 1
                threading.Thread(target=_Line(self, client, self.connections).run, daemon=True).start()


class _Line:
    """One connection and its other half."""

    def __init__(self, proxy: Proxy, client: socket.socket, number: int) -> None:
        self._proxy, self._client, self._number = proxy, client, number
        self._server: socket.socket | None = None
        self._fate: Break | None = None

    def run(self) -> None:
        try:
            if self._wait():
                self._server = socket.create_connection((_LOOPBACK, self._proxy.target), timeout=_PATIENCE_SECONDS)
                for sock in (self._client, self._server):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._pass_on()
        except OSError:
            self._reset()
        finally:
            self._client.close()
            if self._server is not None:
                self._server.close()

    @property
    def _is_over(self) -> bool:
        return self._number <= self._proxy.reset_before

    def _wait(self) -> bool:
        """Wait while nothing passes; gives whether the connection is to go on."""
        while (self._proxy.is_stalled or self._number <= self._proxy.lost_before) and not self._is_over:
            time.sleep(_LOOK_SECONDS)
        return not self._is_over

    def _pass_on(self) -> None:
        ends = {self._client: self._server, self._server: self._client}
        while self._wait():
            for end in select.select(list(ends), [], [], _LOOK_SECONDS)[0]:
                if not self._wait():
                    break
                data = end.recv(_PIECE)
                if not data:
                    return
                if not self._pass(data, ends[end]):
                    return
        self._reset()

    def _pass(self, data: bytes, to: socket.socket) -> bool:
        """Pass on a piece, unless the connection is to end here; gives whether it goes on."""
        is_request = to is self._server
        if is_request and self._fate is None:
            self._fate = self._proxy.fate(data)
        if self._fate is None or (is_request and self._fate is not Break.BEFORE):
            self._send(data, to)
            return True
        if self._fate is Break.WITHIN:
            self._send(data[: len(data) // 2], to)
        self._proxy.note(self._fate)
        self._reset()
        return False

    def _send(self, data: bytes, to: socket.socket) -> None:
        if self._proxy.delay_seconds or self._proxy.bytes_per_second < float("inf"):
            time.sleep(self._proxy.delay_seconds + len(data) / self._proxy.bytes_per_second)
        to.sendall(data)

    def _reset(self) -> None:
        """Closed now, both ends get an RST (socket(7), SO_LINGER of zero seconds)."""
        for sock in (self._client, self._server):
            if sock is not None:
                with suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _listen(port: int) -> socket.socket:
    """Deep enough for a whole worker that connects at once."""
    return socket.create_server((_LOOPBACK, port), backlog=128)
