"""A consumer that outlives whatever Redis does: an outage, and an answer that refuses.

Celery 5.7.0 closes the broken connection while messages are unacknowledged; the half-closed channel then tries to give them back
without a transport and the worker exits ("'NoneType' object has no attribute 'hostname'"). Here the connection is collected and the
broken channel is forgotten before Celery's own handling. tests/functional/test_redis_outage.py fails when this is taken away, and
when a later Celery no longer needs it, that part of this file goes.

An answer that refuses (its disk is full, it is a replica now, a right is missing) is an "unrecoverable error" to Celery, which ends
the worker. Here it is waited out like an outage: tests/functional/test_redis_refuses.py.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

from celery.exceptions import CPendingDeprecationWarning
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.state import maybe_shutdown
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from cbk.cluster import logs
from cbk.cluster.compat import message_guard
from cbk.cluster.outage_log import trouble_of
from cbk.cluster.worker import systemd_notify

COLLECT_TIMEOUT_SECONDS = 1.0
# Before Redis is asked again after it refused: a second at first, twice as long each time, and never longer than this.
LONGEST_PAUSE_SECONDS = 30.0
# After so long without a refusal, the next one is the first.
FORGIVEN_AFTER_SECONDS = 120.0
_STEP_SECONDS = 0.2

# Celery 5.7 announces what 6.0 does, whenever a connection is lost, though the configuration says what is wanted.
warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)


class Consumer(CeleryConsumer):
    """Celery's consumer, with a clean break when the connection is lost, a word to the service manager while it is, and a door."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # What Celery connects again for. Its own list has not the answers that refuse, nor what Kombu makes of them.
        known: Any = self.app.connection_for_read()
        self.connection_errors = (*known.connection_errors, *known.channel_errors, OperationalError, RedisError)
        self._refusals = 0
        self._refused_at = float("-inf")

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Called by Celery when no connection came about."""
        super().on_connection_error_before_connected(exc)
        self._pause_after(exc)

    def _pause_after(self, exc: Exception) -> None:
        """Redis answers, and refuses: unlike an outage, nothing else keeps the worker from asking a thousand times a second."""
        cause = exc.__cause__ if isinstance(exc, OperationalError) else exc
        if not isinstance(cause, RedisError) or isinstance(cause, RedisConnectionError | RedisTimeoutError):
            return  # Celery itself pauses between attempts to connect
        now = time.monotonic()
        self._refusals = self._refusals + 1 if now - self._refused_at < FORGIVEN_AFTER_SECONDS else 1
        self._refused_at = now
        until = now + min(2.0 ** (self._refusals - 1), LONGEST_PAUSE_SECONDS)
        systemd_notify.tell_waiting(trouble_of(exc).message)
        while time.monotonic() < until:
            maybe_shutdown()
            time.sleep(_STEP_SECONDS)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Called by Celery when the broker went away."""
        connection: Any = self.connection
        try:
            connection.collect(socket_timeout=COLLECT_TIMEOUT_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever the dead connection raises, it is given up
            logs.get("worker").debug("broken broker connection given up", extra={"facts": {"reason": type(error).__name__}})
        connection._default_channel = None  # noqa: SLF001 - there is no public way
        super().on_connection_error_after_connected(exc)
        self._pause_after(exc)

    def ensure_connected(self, conn: Any) -> Any:
        """Called by Celery to reach the broker, for as long as that takes; the service manager hears of each vain attempt."""
        ensure = conn.ensure_connection

        def ensure_and_tell(on_error: Callable[[Exception, float], None], *args: Any, **kwargs: Any) -> Any:
            def tell(error: Exception, pause: float) -> None:
                systemd_notify.tell_waiting(trouble_of(error).message)
                on_error(error, pause)

            return ensure(tell, *args, **kwargs)

        conn.ensure_connection = ensure_and_tell
        return super().ensure_connected(conn)

    def connection_for_read(self, heartbeat: Any = None) -> Any:
        """Called by Celery for the connection that messages come on."""
        connection = super().connection_for_read(heartbeat)
        message_guard.survive_messages(connection)
        return connection

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Called by Celery for what is done with a message. One that cannot be handled is rejected, so that nobody waits for it."""
        handle = super().create_task_handler(*args, **kwargs)

        def handle_or_reject(message: Any) -> None:
            try:
                message_guard.require_small(message)
                handle(message)
            except message_guard.OF_THE_CONNECTION:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a message does to the code that handles it
                message_guard.log_thrown_away(error)
                message.reject_log_error(logs.get("worker"), message_guard.OF_THE_CONNECTION)

        return handle_or_reject
