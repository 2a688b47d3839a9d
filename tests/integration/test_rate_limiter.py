"""The shared line: workers that book the same line in a real Redis get the limit together, and their shares without it."""

import logging
import threading

import pytest
import redis

from cbk.edges.redis import rate_limiter
from cbk.edges.redis.rate_limiter import RateLimiter

AWAY = "redis://:sesame@127.0.0.1:9/0"
MB = 1_000_000


class Clock:
    """Seconds that pass only when somebody says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def lines(url, number=2, clock=None):
    return [RateLimiter(url, holder=f"worker-{one}", **({"uptime": clock} if clock else {})) for one in range(number)]


def waits(shared, *counts, limit=MB):
    """For how long each amount has to wait, from now."""
    return [shared.reserve(count, limit) - shared.uptime() for count in counts]


def test_two_workers_together_get_the_limit(broker_url):
    first, second = lines(broker_url)
    taken = [each.reserve(MB // 4, MB) - each.uptime() for each in (first, second) * 10]
    # 20 quarters of a second of the line: the last one begins 19 quarters after the first.
    assert taken[0] == pytest.approx(0, abs=0.5)
    assert taken[-1] == pytest.approx(19 / 4, abs=1.0)
    assert taken == sorted(taken)


def test_threads_of_one_worker_are_counted_together(broker_url):
    (shared,) = lines(broker_url, 1)
    threads = [threading.Thread(target=lambda: [shared.reserve(MB // 10, MB) for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert waits(shared, MB // 10) == [pytest.approx(4.0, abs=1.0)]


def test_line_that_nobody_used_for_a_while_is_free_at_once(broker_url):
    (shared,) = lines(broker_url, 1)
    shared.reserve(MB // 10, MB)
    with redis.Redis.from_url(broker_url) as client:
        free_at = float(client.get("cbk:line:free-at"))
        client.set("cbk:line:free-at", free_at - 60)
    assert waits(shared, MB // 10) == [pytest.approx(0, abs=0.5)]


def test_small_amounts_are_booked_together(broker_url):
    (shared,) = lines(broker_url, 1)
    waits(shared, 1)
    with redis.Redis.from_url(broker_url) as client:
        before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        waits(shared, *[1000] * 99)
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == before
        waits(shared, *[1000] * 99)
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] == before + 1


def test_another_limit_begins_without_what_was_booked_under_the_former(broker_url):
    (shared,) = lines(broker_url, 1)
    waits(shared, 10 * MB)
    assert waits(shared, 1000, limit=10 * MB) == [pytest.approx(10, abs=0.5)]
    assert waits(shared, MB, limit=10 * MB) == [pytest.approx(10.1, abs=0.5)]


def test_line_that_was_booked_by_a_clock_that_has_gone_back_is_free(broker_url):
    (shared,) = lines(broker_url, 1)
    waits(shared, 1000)
    with redis.Redis.from_url(broker_url) as client:
        client.set("cbk:line:free-at", float(client.get("cbk:line:free-at")) + 10_000)
    assert waits(shared, MB) == [pytest.approx(0, abs=0.5)]


def test_flushed_redis_forgets_what_was_booked_and_nothing_breaks(broker_url):
    (shared,) = lines(broker_url, 1)
    waits(shared, 10 * MB)
    with redis.Redis.from_url(broker_url) as client:
        client.flushall()
        client.script_flush()
    assert waits(shared, MB) == [pytest.approx(0, abs=0.5)]


# ---- without Redis -----------------------------------------------------------------------------------------------------------


def test_worker_that_never_saw_redis_keeps_to_the_limit():
    clock = Clock()
    (shared,) = lines(AWAY, 1, clock)
    assert waits(shared, MB, MB, MB) == [0, 1, 2]


def test_worker_without_redis_keeps_to_its_share_of_what_was_seen(broker_url, valkey):
    clock = Clock()
    first, second, third = lines(broker_url, 3, clock)
    for each in (first, second, third):
        each.reserve(1, MB)
    valkey.kill()
    try:
        clock.now += 10
        assert waits(third, MB, MB, MB) == [pytest.approx(wait, abs=1.0) for wait in (0, 3, 6)]
    finally:
        valkey.start()


def test_redis_that_is_away_is_one_line_without_its_password_and_tried_again_now_and_then(caplog, monkeypatch):
    clock, asked = Clock(), []
    (shared,) = lines(AWAY, 1, clock)
    ask = shared._ask
    monkeypatch.setattr(shared, "_ask", lambda seconds: asked.append(seconds) or ask(seconds))
    caplog.set_level(logging.DEBUG)
    for _ in range(5):
        clock.now += 1
        shared.reserve(MB, MB)
    assert len(asked) == 1
    clock.now += rate_limiter.RETRY_SECONDS
    shared.reserve(MB, MB)
    assert len(asked) == 2
    facts = {"reason": "ConnectionError", "workers": 1}
    assert [record.facts for record in caplog.records if record.name == rate_limiter.__name__] == [facts, facts]
    assert "sesame" not in caplog.text


def test_redis_behind_a_socket_is_found():
    shared = RateLimiter("redis+socket:///run/redis.sock?virtual_host=2", holder="one")
    assert shared._url == "unix:///run/redis.sock?db=2"
