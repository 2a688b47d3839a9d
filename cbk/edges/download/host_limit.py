"""How many downloads at a time one host gets from this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

# How long a thread waits before it says that it still does.
WAIT_STEP_SECONDS = 1.0


class HostLimit:
    """At most `limit` at a time for each host; None: no limit."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._free = threading.Condition()
        # Hosts that something is fetched from now: rows could name any number of others.
        self._taken: dict[str, int] = {}

    @contextmanager
    def slot(self, link: str, waiting: Callable[[], object]) -> Iterator[None]:
        """A turn at the link's host, once one is free. Until then `waiting` is called each second; what it raises ends the wait."""
        if self._limit is None:
            yield
            return
        host = _host(link)
        while not self._try_to_enter(host, self._limit):
            waiting()
        try:
            yield
        finally:
            with self._free:
                self._taken[host] -= 1
                if not self._taken[host]:
                    del self._taken[host]
                self._free.notify_all()

    def _try_to_enter(self, host: str, limit: int) -> bool:
        with self._free:
            if not self._free.wait_for(lambda: self._taken.get(host, 0) < limit, WAIT_STEP_SECONDS):
                return False
            self._taken[host] = self._taken.get(host, 0) + 1
            return True


def _host(link: str) -> str:
    """Who is asked; a link that is none shares its turns with all others that are none, and is refused in time."""
    try:
        return urlsplit(link).netloc.rpartition("@")[2].lower()
    except ValueError:
        return ""
