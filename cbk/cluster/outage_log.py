"""Trouble with Redis in the log: one line a minute that names it, where Celery and Kombu write a traceback for each attempt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from time import monotonic

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from cbk.rules.cluster.broker_trouble import BrokerTrouble, describe_trouble

REPEAT_SECONDS = 60.0
# Whose OSErrors are those of the line to Redis.
_OF_CELERY = ("celery", "kombu")


def trouble_of(error: BaseException) -> BrokerTrouble:
    """What an error of Redis, or of the line to it, means."""
    cause = next((one for one in _chain(error) if isinstance(one, RedisError)), error)
    return describe_trouble(type(cause).__name__, str(cause))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it. Kombu and Celery wrap those of Redis, and keep of them no more than the text."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class OneLineOutages(logging.Filter):
    """Lets a record through if it has nothing to do with Redis, or tells of a trouble that was not told for a minute."""

    def __init__(self, uptime: Callable[[], float] = monotonic) -> None:
        super().__init__()
        self._uptime = uptime
        self._told_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written; one that is has become a line of its own."""
        error = next(_errors_in(record), None)
        if error is None:
            return True
        trouble = trouble_of(error)
        now = self._uptime()
        if now - self._told_at.get(trouble.message, float("-inf")) < REPEAT_SECONDS:
            return False
        self._told_at = {told: at for told, at in self._told_at.items() if now - at < REPEAT_SECONDS} | {trouble.message: now}
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg, record.args, record.exc_info, record.exc_text, record.stack_info = trouble.message, (), None, None, None
        record.facts = {"hint": trouble.hint}
        return True


def _errors_in(record: logging.LogRecord) -> Iterator[BaseException]:
    known: tuple[type[BaseException], ...] = (RedisError, OperationalError)
    if record.name.startswith(_OF_CELERY):
        known = (*known, OSError)
    found: list[object] = [record.exc_info[1]] if isinstance(record.exc_info, tuple) else []
    found += record.args if isinstance(record.args, tuple) else ()
    for item in found:
        if isinstance(item, BaseException) and any(isinstance(error, known) for error in _chain(item)):
            yield item
