"""A worker that looks after itself: where work waits and it takes none, it connects again, and ends where that does not help.

A consumer that hears nothing any more after a connection was lost is the known failure of Celery on Redis: the process lives and
does nothing. So a thread looks from the side, over a connection of its own, at what the consumer ought to see. What it decides by
is in `rules/cluster/watchdog.py`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn

from celery import signals
from celery.worker import state

from cbk.cluster import logs
from cbk.cluster.publisher import CeleryPublisher
from cbk.errors import BrokerUnavailable
from cbk.rules.cluster.watchdog import Act, ConsumerState, Silence, judge
from cbk.settings import load_settings

EXIT_CODE = os.EX_TEMPFAIL
# Kombu notices by itself that a connection is dead when its health check was missed twice: it is given the time for a third.
HEALTH_CHECKS = 3
LOOKS_PER_PATIENCE = 4


class Watchdog:
    """Looks at the worker of `consumer` until `stop`, from a thread of its own."""

    def __init__(self, consumer: Any, *, patience: timedelta, end: Callable[[int], NoReturn] = os._exit) -> None:
        self._consumer = consumer
        self._publisher = CeleryPublisher(consumer.app)
        self._patience = patience
        self._end = end
        self._silence = Silence()
        self._over = threading.Event()
        self._taken = 0

    @property
    def is_consuming(self) -> bool:
        """Whether nothing had to be done about this worker since it last took a message."""
        return self._silence.tried == 0

    def count(self, **_signal: object) -> None:
        """One more message was taken, whatever became of it."""
        self._taken += 1

    def start(self) -> None:
        """Count what is taken, and look."""
        for signal in (signals.task_received, signals.task_rejected, signals.task_unknown):
            signal.connect(self.count)
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(self._patience.total_seconds() / LOOKS_PER_PATIENCE):
            try:
                self.look()
            except Exception:  # noqa: BLE001 - it is logged, and the watchdog must not be what falls silent
                logs.get("watchdog").exception("the look failed")

    def look(self) -> Act:
        """Look once, and do what the rule says."""
        act, self._silence = judge(self._see(), self._silence, patience=self._patience)
        if act is Act.NOTHING:
            return act
        facts = {"reason": "work waits, and none was taken", "for": f"{self._patience.total_seconds():.0f}s"}
        logs.get("watchdog").warning(f"the worker {act.value}", extra={"facts": facts})
        if act is Act.RECONNECT:
            self._consumer.call_soon(_lose_the_connection)
        elif act is Act.STOP:
            worker: Any = state  # Celery declares the flag by its first value, None
            worker.should_stop = EXIT_CODE
        else:
            self._end(EXIT_CODE)
        return act

    def _see(self) -> ConsumerState | None:
        try:
            waiting = self._publisher.count_waiting(self._consumer.app.amqp.queues.consume_from)
        except BrokerUnavailable:
            return None
        free = self._consumer.pool.num_processes - len(state.reserved_requests)
        return ConsumerState(at=time.monotonic(), waiting=waiting, taken=self._taken, free=free)


def _lose_the_connection() -> None:
    """Called in the consumer's loop, which then does what it does whenever its connection is lost."""
    raise ConnectionResetError("given up by the watchdog: nothing was heard on it")


def patience_for(lease: timedelta, transport_options: dict[str, Any]) -> timedelta:
    """How long a worker may be silent: as long as any piece of work, and until kombu itself would have noticed."""
    return max(lease, timedelta(seconds=HEALTH_CHECKS * transport_options["health_check_interval"]))


_of_this_worker: Watchdog | None = None


def is_consuming() -> bool:
    """Whether this worker takes what there is, as far as its watchdog has seen."""
    return _of_this_worker is None or _of_this_worker.is_consuming


@signals.worker_ready.connect
def _begin(sender: Any, **_signal: object) -> None:
    global _of_this_worker  # noqa: PLW0603 - Celery has one worker in a process, and signals for it that know no more
    patience = patience_for(load_settings().lease, sender.app.conf.broker_transport_options)
    _of_this_worker = Watchdog(sender, patience=patience)
    _of_this_worker.start()


@signals.worker_shutdown.connect
def _cease(**_signal: object) -> None:
    if _of_this_worker is not None:
        _of_this_worker.stop()
