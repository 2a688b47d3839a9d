"""A consumer that outlives an outage of Redis.

Celery 5.7.0 closes the broken connection while messages are unacknowledged; the half-closed channel then tries to give them back
without a transport and the worker exits ("'NoneType' object has no attribute 'hostname'"). Here the connection is collected and the
broken channel is forgotten before Celery's own handling. tests/functional/test_redis_outage.py fails when this is taken away, and
when a later Celery no longer needs it, this file goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer

from cbk.cluster import logs, message_guard, systemd_notify

COLLECT_TIMEOUT_SECONDS = 1.0


class Consumer(CeleryConsumer):
    """Celery's consumer, with a clean break when the connection is lost, a word to the service manager while it is, and a door."""

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Called by Celery when the broker went away."""
        connection: Any = self.connection
        try:
            connection.collect(socket_timeout=COLLECT_TIMEOUT_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever the dead connection raises, it is given up
            logs.get("worker").warning("broken broker connection given up", extra={"facts": {"reason": type(error).__name__}})
        connection._default_channel = None  # noqa: SLF001 - there is no public way
        super().on_connection_error_after_connected(exc)

    def ensure_connected(self, conn: Any) -> Any:
        """Called by Celery to reach the broker, for as long as that takes; the service manager hears of each vain attempt."""
        ensure = conn.ensure_connection

        def ensure_and_tell(on_error: Callable[[Exception, float], None], *args: Any, **kwargs: Any) -> Any:
            def tell(error: Exception, pause: float) -> None:
                systemd_notify.tell_waiting(type(error).__name__)
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
