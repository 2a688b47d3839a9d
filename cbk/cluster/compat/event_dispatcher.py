"""Events for Flower, which nothing waits for.

Celery 5.7.0 sends a worker's heartbeat from the loop that consumes, and tries again there for as long as Redis is away: meanwhile
the loop neither notices that its connection is lost nor that the worker is to stop. Here an event that cannot be sent is kept, and
sent with the next connection. tests/unit/test_events.py fails when this is taken away.
"""

from __future__ import annotations

from typing import Any

from celery.app.events import Events as CeleryEvents
from celery.events.dispatcher import EventDispatcher as CeleryEventDispatcher


class EventDispatcher(CeleryEventDispatcher):
    """Celery's dispatcher, without patience."""

    def send(self, type: str, *args: Any, **fields: Any) -> None:  # noqa: A002 - the library's signature
        """Send an event once, whatever the caller asks for."""
        super().send(type, *args, **{**fields, "retry": False})


class Events(CeleryEvents):
    """Celery's events, with that dispatcher."""

    dispatcher_cls = "cbk.cluster.compat.event_dispatcher:EventDispatcher"
