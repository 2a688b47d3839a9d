"""The overview as it was a moment ago: counting millions of versions takes seconds, and many may look at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from cbk.errors import CbkError
from cbk.jobs.status.overview import Overview

# An overview serves for this time, or for so many times what it took to take, whichever is longer: looking costs a tenth at most.
FRESH_SECONDS = 5.0
REST = 9


@dataclass(frozen=True, slots=True)
class _Taken:
    overview: Overview | None
    error: CbkError | None
    until: float


class Snapshot:
    """What `take` gives, kept for a while. Any number of threads may ask: one takes, the others wait for it."""

    def __init__(self, take: Callable[[], Overview], *, clock: Callable[[], float] = monotonic) -> None:
        self._take = take
        self._clock = clock
        self._lock = threading.Lock()
        self._taken: _Taken | None = None

    def get(self) -> Overview:
        """The overview. Raises the CbkError that kept it from being taken: an old answer is none."""
        with self._lock:
            if self._taken is None or self._clock() >= self._taken.until:
                self._taken = self._look()
            taken = self._taken
        if taken.overview is None:
            assert taken.error is not None
            raise taken.error.with_traceback(None)
        return taken.overview

    def _look(self) -> _Taken:
        began = self._clock()
        overview, error = None, None
        try:
            overview = self._take()
        except CbkError as raised:
            error = raised
        ended = self._clock()
        return _Taken(overview, error, ended + max(FRESH_SECONDS, REST * (ended - began)))
