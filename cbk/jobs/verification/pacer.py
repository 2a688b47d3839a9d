"""Long work by a worker that nobody waits for: one at a time, at a bounded rate, and over when the worker is to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from cbk.edges.catalog import Leases
from cbk.errors import LeaseLost
from cbk.jobs.context import Context
from cbk.jobs.verification.reader import Stopped

# The rate is kept by pauses of at least this length.
SHORTEST_PAUSE_SECONDS = 0.05

# Waits for so many seconds, and says whether the worker is to stop.
Pause = Callable[[float], bool]


@contextmanager
def alone(context: Context, name: str) -> Iterator[Leases | None]:
    """The lease of this name while it lasts; None where another worker has it."""
    leases = context.catalog.leases.for_one()
    if not leases.acquire(name, context.settings.lease):
        yield None
        return
    try:
        yield leases
    finally:
        leases.release(name)


class Pacer:
    """Told what was read: keeps to `rate` bytes per second by pausing (0: no limit), and keeps the lease `name`."""

    def __init__(self, context: Context, leases: Leases, name: str, pause: Pause, *, rate: int = 0) -> None:
        self._rate = rate
        self._lease = context.settings.lease
        self._third = self._lease.total_seconds() / 3
        self._leases = leases
        self._name = name
        self._pause = pause
        self._renewed_at = monotonic()
        self._free_at = 0.0

    def __call__(self, count: int) -> None:
        """So many bytes more. Raises Stopped where the worker is to stop, LeaseLost where another one has taken over."""
        if self._rate:
            self._free_at = max(self._free_at, monotonic()) + count / self._rate
        while True:
            self._renew()
            ahead = self._free_at - monotonic()
            waits = ahead >= SHORTEST_PAUSE_SECONDS
            if self._pause(min(ahead, self._third) if waits else 0.0):
                raise Stopped
            if not waits:
                return

    def _renew(self) -> None:
        if monotonic() - self._renewed_at > self._third:
            if not self._leases.acquire(self._name, self._lease):
                raise LeaseLost("another worker has taken over")
            self._renewed_at = monotonic()
