"""Calling the roll: which workers are there."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from cbk.cluster.outage_log import trouble_of
from cbk.errors import BrokerUnavailable

# Workers answer at once; one that is busy with the interpreter's lock needs a moment.
PATIENCE_SECONDS = 2.0


def ask_workers(app: Celery) -> dict[str, int]:
    """How many tasks each worker is at, by its name. Raises BrokerUnavailable."""
    connection: Any = app.connection_for_write()
    broken = (*connection.recoverable_connection_errors, *connection.recoverable_channel_errors, OperationalError, OSError)
    try:
        with connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
            answer = app.control.inspect(timeout=PATIENCE_SECONDS, connection=connection).active()
    except broken as error:
        trouble = trouble_of(error)
        raise BrokerUnavailable(f"the workers cannot be asked: {trouble.message}", hint=trouble.hint) from error
    return {name: len(tasks) for name, tasks in (answer or {}).items()}
