"""Keeps a download to its share of the line, which all workers have together."""

from __future__ import annotations

import time
from collections.abc import Callable

from cbk.jobs.backup.overrides import bandwidth_now
from cbk.jobs.context import Context

# At the longest, before the claim is kept and new orders are looked for.
THROTTLE_STEP_SECONDS = 0.5
# What is read at a time under a limit is a tenth of a second's: no thread waits for long, and Redis is asked ten times a second.
SHARE_OF_SECOND = 10
LEAST_PIECE = 4096
LARGEST_PIECE = 320 * 1024


class Throttle:
    """The `tick` of a download: calls that of its claim, and waits while more was fetched than the limit allows.

    Without a limit it does nothing more. One instance is for one download; `sleep` is the outside world, for tests.
    """

    def __init__(self, context: Context, tick: Callable[[int], None], *, sleep: Callable[[float], object] = time.sleep) -> None:
        self._context = context
        self._tick = tick
        self._sleep = sleep
        self._position = 0

    def piece(self) -> int:
        """How many bytes to read next."""
        limit = bandwidth_now(self._context)
        return LARGEST_PIECE if limit is None else min(max(limit // SHARE_OF_SECOND, LEAST_PIECE), LARGEST_PIECE)

    def tick(self, position: int) -> None:
        """So many bytes have come so far. Raises what the claim's tick does."""
        self._tick(position)
        count, self._position = position - self._position, position
        limit = bandwidth_now(self._context)
        if limit is None or count <= 0:
            return
        rate_limiter = self._context.rate_limiter
        ready_at = rate_limiter.reserve(count, limit)
        # A limit that was changed meanwhile holds from the next piece on.
        while (left := ready_at - rate_limiter.uptime()) > 0 and bandwidth_now(self._context) == limit:
            self._sleep(min(left, THROTTLE_STEP_SECONDS))
            self._tick(position)
