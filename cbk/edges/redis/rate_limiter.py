"""The line to the outside, which all workers share: who wants to go on reading books the next free moment of it, in Redis.

One number in Redis is the instant at which the line is free again (the generic cell rate algorithm, without a burst). A booking
moves it by what the bytes take at the limit, and gets the instant at which it was free: nobody asks twice, nobody is passed over,
and all workers together get the limit. Small amounts are booked together: Redis is asked ten times a second or so.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from cbk.rules.text.broker_url import parse_broker_url

REDIS_TIMEOUT_SECONDS = 1.0
# Without Redis, each worker keeps to its share; whether it is there again is tried so often.
RETRY_SECONDS = 5.0
# What is booked at least, in seconds of the line.
BOOKING_SECONDS = 0.1
# A worker that booked nothing for so long takes no share.
SEEN_SECONDS = 60.0
# Nobody books further ahead: an instant beyond was noted by a clock that has gone back since.
FARTHEST_SECONDS = 3600.0

_KEYS = ("cbk:line:free-at", "cbk:line:workers")
_BOOK = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local free_at = tonumber(redis.call('GET', KEYS[1]) or '0')
if free_at < now or free_at > now + tonumber(ARGV[3]) then free_at = now end
local after = free_at + tonumber(ARGV[1])
redis.call('SET', KEYS[1], string.format('%.6f', after), 'PX', math.ceil((after - now) * 1000) + 60000)
redis.call('ZADD', KEYS[2], string.format('%.6f', now), ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('(%.6f', now - tonumber(ARGV[4])))
redis.call('EXPIRE', KEYS[2], math.ceil(tonumber(ARGV[4])))
return {string.format('%.6f', free_at - now), redis.call('ZCARD', KEYS[2])}
"""

logger = logging.getLogger(__name__)


class RateLimiter:
    """The line, for the process `holder`. `url` is the broker's; nothing is connected before something is taken.

    `uptime` are seconds on a clock that only goes forward.
    """

    def __init__(self, url: str, *, holder: str, uptime: Callable[[], float] = monotonic) -> None:
        self._url = parse_broker_url(url).redis
        self._holder = holder
        self.uptime = uptime
        self._lock = threading.Lock()
        self._script: Any = None
        self._workers = 1
        self._limit = 0
        # Bytes that were booked and not taken yet, and from when on they are ours.
        self._booked = 0
        self._ready_at = float("-inf")
        # Without Redis: when our own share of the line is free again.
        self._free_at = float("-inf")
        self._redis_at = float("-inf")

    def reserve(self, count: int, limit: int) -> float:
        """`count` bytes have come, under a limit in bytes per second for all workers together. When to go on reading, as uptime."""
        with self._lock:
            if limit != self._limit:
                self._limit, self._booked, self._ready_at = limit, 0, float("-inf")
            if self._booked < count:
                missing = max(count - self._booked, int(limit * BOOKING_SECONDS))
                self._ready_at = self._book(missing, limit)
                self._booked += missing
            self._booked -= count
            return self._ready_at

    def _book(self, count: int, limit: int) -> float:
        now = self.uptime()
        if now >= self._redis_at:
            try:
                wait, self._workers = self._ask(count / limit)
            except (redis.RedisError, OSError) as error:
                self._redis_at = now + RETRY_SECONDS
                facts = {"reason": type(error).__name__, "workers": self._workers}
                logger.warning("bandwidth kept without Redis", extra={"facts": facts})
            else:
                self._free_at = now + wait + count / limit
                return now + wait
        start = max(self._free_at, now)
        self._free_at = start + count * self._workers / limit
        return start

    def _ask(self, seconds: float) -> tuple[float, int]:
        """Book so much time: how long until it begins, and how many processes share the line."""
        if self._script is None:
            client = redis.Redis.from_url(
                self._url,
                socket_timeout=REDIS_TIMEOUT_SECONDS,
                socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
                retry=Retry(NoBackoff(), 1),
            )
            self._script = client.register_script(_BOOK)
        wait, workers = self._script(keys=_KEYS, args=(f"{seconds:.6f}", self._holder, FARTHEST_SECONDS, SEEN_SECONDS))
        return float(wait), max(int(workers), 1)
