"""One application and one kit, a step at a time: for the machine, which chooses the steps, and for tests that tell one history."""

from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

from cbk.errors import CbkError
from tests.model.application import Application
from tests.model.copies import read_copies
from tests.model.laws import LawBroken, Laws
from tests.model.meaning import Content
from tests.model.world import CLOCK, ModelSite

POLL_INTERVAL = timedelta(seconds=61)
GRACE = timedelta(days=7)
SETTINGS = {"min_free_space": "0", "brake_files": 100_000, "verify_every": "0", "verify_rate": "0", "grace_period": "7d"}


class Story:
    """`database` is the application's; `plain` is whether it does nothing that a careful application would not."""

    def __init__(self, database, place, *, plain=False, keep=1, **settings):
        CLOCK.__init__()
        self.place = place
        self.app = Application(database, CLOCK.now)
        self.meaning = self.app.meaning
        self.site = ModelSite(place, database.url, keep_versions=keep, **SETTINGS | settings)
        self.laws = Laws(self.meaning, CLOCK.now, grace=GRACE, keep=keep, plain=plain)

    def close(self):
        self.site.close()
        self.site.require_true_counts()
        self.app.close()

    # The application, in the words of a test

    def upload(self, key, number=1, content=0, *, storage="s3", **how):
        return self.app.upload(Content(storage, key, number, content), **how)

    def change(self, row, key, number=1, content=0, **how):
        self.app.change(row, Content(row.content.storage, key, number, content), **how)

    def replace(self, row, number, content=0, **how):
        self.app.replace(row, Content(*row.content.file, number, content), **how)

    def delete(self, row, **how):
        self.app.delete(row.id, **how)

    # The kit

    def round(self):
        """A poll, a poll interval after the last one, and all that it sends. Raises LawBroken."""
        before = self.meaning.polls
        CLOCK.move(POLL_INTERVAL)
        self.app.tell("-- a round")
        self.laws.begin_round()
        try:
            self.poll()
        except CbkError as error:
            raise LawBroken(f"law 4: the poll failed: {error.message}") from error
        self.site.fetch_all()
        self.site.prune_all()
        if self.meaning.polls > before:
            self.laws.note_round(before)
        self.look()

    def rounds(self, count=2):
        for _ in range(count):
            self.round()

    def poll(self):
        if self.site.read_tables():
            self.meaning.note_poll()

    @staticmethod
    def let_time_pass(by):
        """The kit is off meanwhile."""
        CLOCK.move(by)

    @staticmethod
    def set_clock_forward(by):
        """Nothing happened but that someone set the clock."""
        CLOCK.set_forward(by)

    def pass_grace(self):
        """So much time that all is due which was seen by now, and what comes of it."""
        self.round()
        CLOCK.move(GRACE + timedelta(hours=1))
        self.rounds()

    @contextmanager
    def trouble(self):
        """Something goes wrong in here, which nobody is to mend."""
        CLOCK.move(POLL_INTERVAL)
        self.app.tell("-- trouble")
        with suppress(CbkError):
            yield
        self.laws.note_trouble()
        self.look()

    def look(self):
        """Judge what is there. Raises LawBroken, with all that was done."""
        try:
            self.laws.look(self.site)
        except LawBroken as error:
            told = "\n".join(self.app.told)
            raise LawBroken(f"{error}; {self.app.shape}\n{told}") from None

    def damage(self, copy, *, gone=False):
        """The disk loses a copy, or a bit of it."""
        path = Path(copy.place)
        self.app.tell(f"-- the disk {'loses' if gone else 'damages'} {copy.storage}:{copy.key} v{copy.number}")
        if gone:
            path.unlink()
        else:
            data = bytearray(path.read_bytes())
            data[-9] ^= 1
            path.chmod(0o640)
            path.write_bytes(data)
        for content in self.meaning.bearers:
            if (content.storage, content.key, content.number, content.sha256) == copy.name:
                self.laws.note_damage(content)
        self.laws.note_trouble()

    # The person

    def hold(self, file):
        """Keep a file, whatever is deleted."""
        storage, key = file
        self.site.context.catalog.holds.add(key, is_prefix=False, storage=storage, until=None, reason="")
        self.laws.note_hold(file)
        self.app.tell(f"-- hold {storage}:{key}")

    def release(self):
        """Hold nothing any more."""
        catalog = self.site.context.catalog
        catalog.holds.release([hold.id for hold in catalog.holds.all()])
        catalog.removals.disarm_all()
        self.laws.held.clear()
        self.app.tell("-- release")

    # What there is

    def copies(self):
        """Every good copy on the disk."""
        return sorted((copy for copy in read_copies(self.site.root) if copy.is_good), key=lambda copy: copy.place)

    def has(self, key, number=1, content=0, *, storage="s3"):
        """Whether a good copy of this is on the disk."""
        wanted = Content(storage, key, number, content)
        return (storage, key, number, wanted.sha256) in {copy.name for copy in self.copies()}

    def problems(self):
        """What `status` says, in one text; empty where it is green."""
        return "\n".join(problem.message for problem in self.site.status().problems)
