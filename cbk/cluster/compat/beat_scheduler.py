"""Beat's schedule, which outlives a clock that is set back."""

from __future__ import annotations

from time import monotonic
from typing import Any

from celery import beat

from cbk.cluster.worker import systemd_notify
from cbk.edges import host

CLOCK_STEP_SECONDS = 1.0


class Scheduler(beat.Scheduler):
    """Celery's own goes by when it sent what: where that lies in the future, it sends nothing until it comes again."""

    _last_look = float("-inf")

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """One look at what is due; gives the seconds until the next. Where the clock was set back, the intervals begin anew."""
        look = host.now().timestamp() - monotonic()
        if look < self._last_look - CLOCK_STEP_SECONDS:
            for entry in self.schedule.values():
                entry.last_run_at = entry.default_now()
            self._heap = None
        self._last_look = look
        systemd_notify.tell("WATCHDOG=1")
        systemd_notify.touch_alive_file()
        pause = super().tick(*args, **kwargs)
        return pause if systemd_notify.alive_file() is None else min(pause, systemd_notify.TOUCH_EVERY.total_seconds())
