"""What a worker and a beat write while Redis fails."""

import logging

import pytest
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from cbk.cluster.outage_log import REPEAT_SECONDS, OneLineOutages

REFUSED = "Error 111 connecting to 127.0.0.1:6379. Connection refused."


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines(clock):
    """A logger's written records, with the filter before them."""
    written = []
    handler = logging.Handler()
    handler.emit = written.append
    handler.addFilter(OneLineOutages(clock))
    root = logging.getLogger()
    before, root.handlers = root.handlers, [handler]
    yield written
    root.handlers = before


def test_same_trouble_is_one_line_a_minute_without_a_traceback(lines, clock):
    beat = logging.getLogger("celery.beat")
    for second in range(150):
        clock.now = float(second)
        try:
            raise RedisConnectionError(REFUSED)
        except RedisConnectionError as error:
            beat.error("Message Error: %s\n%s", error, ["a stack"], exc_info=True)
    assert len(lines) == 3
    assert {record.getMessage() for record in lines} == {
        "Redis is away: error 111 connecting to 127.0.0.1:6379. Connection refused"
    }
    assert all(record.exc_info is None for record in lines)
    assert "start it" in lines[0].facts["hint"]


def test_another_trouble_is_told_at_once(lines):
    logger = logging.getLogger("celery.worker.consumer.consumer")
    logger.warning("%s (%r)", "lost", RedisConnectionError(REFUSED))
    logger.warning("%s (%r)", "lost", ResponseError("MISCONF Valkey is configured to save RDB snapshots, but ..."))
    assert len(lines) == 2


def test_cause_of_an_error_of_kombu_is_what_is_told(lines):
    try:
        try:
            raise ResponseError("MISCONF Valkey is configured to save RDB snapshots, but ...")
        except ResponseError as cause:
            raise OperationalError(str(cause)) from cause
    except OperationalError:
        logging.getLogger("celery.beat").exception("Message Error")
    assert "cannot save to its disk" in lines[0].getMessage()


def test_what_has_nothing_to_do_with_redis_is_written_as_it_is(lines):
    for _ in range(2):
        logging.getLogger("cbk.backup").error("%s", OSError("no space left on device"))
        logging.getLogger("celery.worker").error("something else")
    assert len(lines) == 4
    assert REPEAT_SECONDS == 60.0
