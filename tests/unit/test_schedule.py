"""Beat sends what is due, and goes on sending when the clock is set back."""

from datetime import UTC, datetime, timedelta

import pytest
from celery import Celery

from cbk.cluster.compat import beat_scheduler
from cbk.cluster.compat.beat_scheduler import Scheduler

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)


class Beat(Scheduler):
    """A scheduler whose clocks a test sets, and which notes what it would send."""

    def __init__(self, monkeypatch):
        self.wall, self.up, self.sent = datetime(2026, 1, 1, 12, tzinfo=UTC), 1000.0, []
        app = Celery("test", broker="memory://", set_as_current=False)
        monkeypatch.setattr(app, "now", lambda: self.wall)
        monkeypatch.setattr(beat_scheduler.host, "now", lambda: self.wall)
        monkeypatch.setattr(beat_scheduler, "monotonic", lambda: self.up)
        app.conf.beat_schedule = {"poll": {"task": "poll", "schedule": 10.0}, "drill": {"task": "drill", "schedule": 60.0}}
        super().__init__(app)

    @property
    def producer(self):
        return None

    def apply_entry(self, entry, producer=None):
        self.sent.append(entry.name)

    def run(self, seconds):
        """What is sent within so many seconds, and how often."""
        self.sent = []
        for _ in range(seconds):
            while self.tick() == 0:
                pass
            self.wall += SECOND
            self.up += 1
        return {name: self.sent.count(name) for name in sorted(self.sent)}

    def setup_schedule(self):
        self.update_from_dict(self.app.conf.beat_schedule)


@pytest.fixture
def beat(monkeypatch):
    return Beat(monkeypatch)


def test_what_is_due_is_sent(beat):
    assert beat.run(125) == {"drill": 2, "poll": 12}


@pytest.mark.parametrize("back", [2 * SECOND, 14 * DAY, 730 * DAY])
def test_everything_goes_on_where_the_clock_is_set_back(beat, back):
    beat.run(125)
    beat.wall -= back
    assert beat.run(125) == {"drill": 2, "poll": 12}


def test_clock_that_was_ahead_for_long_and_is_set_right_stops_nothing(beat):
    beat.run(5)
    beat.wall += 730 * DAY
    assert beat.run(65)["poll"] >= 6
    beat.wall -= 730 * DAY
    assert beat.run(125) == {"drill": 2, "poll": 12}


def test_clock_that_is_kept_by_small_steps_begins_nothing_anew(beat):
    sent = 0
    for _ in range(10):
        beat.wall -= SECOND / 10
        sent += beat.run(6).get("poll", 0)
    assert sent == 5
