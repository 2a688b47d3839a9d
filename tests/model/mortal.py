"""Time that only the tests move, and workers that die at any commit of the catalog and around any change of the disk."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from cbk.edges.archive.archive import Archive


class Killed(BaseException):
    """The worker is dead: nothing of it goes on, not even what stands in `finally`."""


class Clock:
    """Stands still, but for `move`; the uptime moves with it, so that nobody distrusts it."""

    def __init__(self):
        self.time = datetime(2026, 3, 1, 12, tzinfo=UTC)
        self._start = self.time

    def now(self, _zone=None):
        return self.time

    def uptime(self):
        return timedelta(hours=1) + (self.time - self._start)

    def move(self, by):
        self.time += by

    def set_forward(self, by):
        """Somebody sets it; the uptime tells."""
        self.time += by
        self._start += by


class Fate:
    """Counts the steps that a worker has to live; None: it lives on."""

    def __init__(self):
        self.left = None

    def step(self, *_):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed


class MortalArchive(Archive):
    """A real disk, before and after every change of which its worker may die."""

    fate = Fate()

    def restore_from_trash(self, name, location):
        self.fate.step()
        super().restore_from_trash(name, location)
        self.fate.step()

    @contextmanager
    def publishing(self):
        self.fate.step()
        with super().publishing() as publication:
            yield publication
            self.fate.step()
        self.fate.step()

    def remove(self, location):
        self.fate.step()
        super().remove(location)
        self.fate.step()

    def trash(self, location, name):
        self.fate.step()
        moved = super().trash(location, name)
        self.fate.step()
        return moved

    def empty_trash(self, name):
        self.fate.step()
        super().empty_trash(name)
        self.fate.step()

    def quarantine(self, location, **named):
        self.fate.step()
        quarantined = super().quarantine(location, **named)
        self.fate.step()
        return quarantined

    def write_note(self, name, content):
        self.fate.step()
        super().write_note(name, content)
        self.fate.step()
