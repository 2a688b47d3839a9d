"""How long a download may take, and how slow its origin may be."""

from __future__ import annotations

from collections.abc import Callable

from cbk.errors import TransferBroken


class Deadline:
    """Measures what comes in from the network during one transfer.

    A silence that is too short to end a transfer may follow each byte: an origin that sends one every 29 seconds would
    hold a worker for days. Only the time spent waiting for the network counts for the speed, not the disk's.
    """

    def __init__(self, monotonic: Callable[[], float], *, bytes_per_second: float, window_seconds: float) -> None:
        self.monotonic = monotonic
        self._bytes_per_second = bytes_per_second
        self._window_seconds = window_seconds
        self.start(float("inf"))

    def start(self, seconds: float) -> None:
        """Begin a transfer that may take `seconds`."""
        self._ends_at = self.monotonic() + seconds
        self._waited = 0.0
        self._received = 0

    def exclude(self, seconds: float) -> None:
        """So much of the transfer's time was not the network's."""
        self._ends_at += seconds

    def check(self) -> None:
        """Raise TransferBroken when the transfer's time is over."""
        if self.monotonic() >= self._ends_at:
            raise TransferBroken("the transfer takes longer than is allowed for one object")

    def received(self, count: int, waited: float) -> None:
        """Take note of `count` bytes after `waited` seconds. Raise TransferBroken when a window was slower than the minimum."""
        self._waited += waited
        self._received += count
        if self._waited >= self._window_seconds:
            if self._received < self._waited * self._bytes_per_second:
                raise TransferBroken(f"the origin sends less than {self._bytes_per_second:.0f} bytes per second")
            self._waited = 0.0
            self._received = 0
