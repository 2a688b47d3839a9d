"""Looking names up without being held up: the system's resolver knows no time limit, and an origin's name is hostile input.

A look-up that hangs cannot be broken off, only left behind. So look-ups are made by a few threads that are kept for the next one,
and whoever asks waits for so long and no longer. Many names that hang use up the threads at most, not the workers.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cbk.rules.backup.links import is_address

Address: TypeAlias = tuple[int, Any]  # address family and what `socket.connect` takes for it
LookUp: TypeAlias = Callable[[str, int], list[Address]]

MOST_THREADS = 64


def look_up(host: str, port: int) -> list[Address]:
    """Every address of a host, by the system's resolver and in its order. Raises OSError or UnicodeError; may take minutes."""
    return [(family, address) for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@dataclass(slots=True)
class _Question:
    host: str
    port: int
    is_answered: threading.Event = field(default_factory=threading.Event)
    addresses: list[Address] = field(default_factory=list)
    error: Exception | None = None


class DnsResolver:
    """Looks up as `look_up` does, and raises TimeoutError after `timeout_seconds`, or at once where `most_threads` hang.

    Who asks for a name that is being looked up gets the same answer. One instance serves all threads of a process.
    """

    def __init__(self, timeout_seconds: float, *, look_up: LookUp = look_up, most_threads: int = MOST_THREADS) -> None:
        self._timeout_seconds = timeout_seconds
        self._look_up = look_up
        self._most_threads = most_threads
        self._lock = threading.Lock()
        self._open: dict[tuple[str, int], _Question] = {}
        self._asked: queue.SimpleQueue[_Question] = queue.SimpleQueue()
        self._threads = 0

    def __call__(self, host: str, port: int) -> list[Address]:
        """Every address of a host. Raises OSError, of which TimeoutError is one, or UnicodeError."""
        if is_address(host):
            return self._look_up(host, port)
        question = self._ask(host, port)
        if not question.is_answered.wait(self._timeout_seconds):
            raise TimeoutError
        if question.error is not None:
            raise question.error
        return question.addresses

    def _ask(self, host: str, port: int) -> _Question:
        with self._lock:
            question = self._open.get((host, port))
            if question is not None:
                return question
            if len(self._open) >= self._most_threads:
                raise TimeoutError
            question = self._open[host, port] = _Question(host, port)
            if len(self._open) > self._threads:
                # They wait for nothing but names: none of them keeps a process from ending.
                threading.Thread(target=self._serve, name="cbk-names", daemon=True).start()
                self._threads += 1
        self._asked.put(question)
        return question

    def _serve(self) -> None:
        while True:
            question = self._asked.get()
            try:
                question.addresses = self._look_up(question.host, question.port)
            except Exception as error:  # noqa: BLE001 - whatever it is, those who asked raise it
                question.error = error
            with self._lock:
                del self._open[question.host, question.port]
            question.is_answered.set()
