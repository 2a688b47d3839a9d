"""What Redis may tell a worker: a message that makes no sense is thrown away with a line in the log, and the worker goes on.

Celery and Kombu check what a message asks for, but trust its form: one that is no JSON, has no properties, or names its task by a
list ends a worker of Celery 5.7.0, and others that are started after it. tests/functional/test_forged_messages.py sends them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from queue import Empty
from typing import Any, NoReturn

from kombu import compression
from kombu.exceptions import InconsistencyError
from redis import exceptions as redis_errors

from cbk.cluster import logs

# The kit's own have a few hundred bytes, and with the longest of Ids not half of this.
LARGEST_BYTES = 512 * 1024
# What the connection itself says, or the server, is no message. Kombu counts KeyError to these, which any message can bring about:
# the worker would connect anew, get the message again, and so on.
OF_THE_CONNECTION = (
    OSError,
    InconsistencyError,
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.InvalidResponse,
    redis_errors.ResponseError,
)


def survive_messages(connection: Any) -> None:
    """Have the transport of a connection that is about to be listened to outlive whatever it reads."""
    transport: Any = connection.transport
    transport.on_readable = _surviving(transport.on_readable)
    # Messages that another worker left unacknowledged come back here.
    transport.cycle.on_poll_init = _surviving(transport.cycle.on_poll_init)


def _surviving(read: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(read)
    def survive(*args: Any) -> Any:
        try:
            return read(*args)
        except (*OF_THE_CONNECTION, Empty):
            raise
        except Exception as error:  # noqa: BLE001 - whatever a message does to the code that reads it
            log_thrown_away(error)
            return None

    return survive


def log_thrown_away(error: Exception) -> None:
    """A message makes no sense; it is gone, or its work is sent again when its lease is over."""
    logs.get("worker").warning("message thrown away", extra={"facts": {"error": type(error).__name__, "reason": str(error)}})


def require_small(message: Any) -> None:
    """Raise ValueError for a message that is far larger than any of the kit's: what fails keeps its arguments for a while."""
    size = len(message.body or "") + len(json.dumps(message.headers))
    if size > LARGEST_BYTES:
        raise ValueError(f"a message of {size} bytes")


def refuse_compression() -> None:
    """Inflate no message: a few kilobytes could become all of the memory. The kit's own are not compressed."""

    def refuse(_: object) -> NoReturn:
        raise ValueError("compressed messages are not accepted")

    for content_type in compression.encoders():
        compression.register(refuse, refuse, content_type)
