"""Everything that may happen to files on one site, in any order, against a simple model of what must be there.

Time is the only thing that is not real: the catalog's clock and the machine's stand still but for what a step lets pass. A worker
dies at any commit of the catalog and around any change of the disk, as `kill -9` has it: what was under way is not done.
"""

import gzip
import os
import shutil
import tempfile
import zlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from cbk.edges import host
from cbk.edges.archive.archive import Archive
from cbk.edges.catalog import connection as catalog_engine
from cbk.edges.catalog.schema import files, removals, versions
from cbk.errors import CbkError
from cbk.jobs.retention.undelete import undelete
from cbk.rules.intake.layout import copy_location
from tests.in_process_site import InProcessSite
from tests.origin import Origin

KEYS = ("a/x.txt", "a/x.png", "b.txt")
ANCIENT = datetime(2000, 1, 1, tzinfo=UTC)
UNKNOWN_ROW = 999_999
ROW_STEP = 10
VERSION_STEP = 2
LEASE = timedelta(minutes=2)
GRACES = {"1h": timedelta(hours=1), "7d": timedelta(days=7), "30d": timedelta(days=30)}
LONGEST_GRACE = timedelta(days=30)
TIMES = [
    timedelta(seconds=30),
    timedelta(minutes=3),
    timedelta(minutes=50),
    timedelta(hours=25),
    timedelta(days=6, hours=23, minutes=50),
    timedelta(days=31),
]


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

    def quarantine(self, location):
        self.fate.step()
        quarantined = super().quarantine(location)
        self.fate.step()
        return quarantined

    def write_note(self, name, content):
        self.fate.step()
        super().write_note(name, content)
        self.fate.step()


class ModelDesk(InProcessSite):
    """A site that is copied from one that was prepared once."""

    template = None

    def __init__(self, folder, origin, fate, **settings):
        self._fate = fate
        super().__init__(folder, origin, **settings)

    def prepare(self):
        if ModelDesk.template is None:
            super().prepare()
            self.close()
            ModelDesk.template = Path(tempfile.mkdtemp(dir=self.folder.parent))
            shutil.copytree(self.folder, ModelDesk.template, dirs_exist_ok=True)
        else:
            shutil.copytree(ModelDesk.template, self.folder, dirs_exist_ok=True)

    def open(self, **settings):
        context = super().open(**settings)
        context.archive = MortalArchive(self.root)
        context.archive.fate = self._fate
        sa.event.listen(context.catalog.engine, "commit", self._fate.step)
        return context


@dataclass
class Row:
    """A row of the application; `there` is whether it still is."""

    key: str
    number: int
    there: bool = True


@dataclass
class Seen:
    """A removal as the catalog first had it, and what was so then."""

    at: datetime
    grace: timedelta
    row_id: int | None = None
    rows_through: int | None = None
    through: int | None = None
    kept: int = 1


@dataclass
class Stand:
    """What the catalog says, at one moment."""

    versions: dict = field(default_factory=dict)
    removals: list = field(default_factory=list)


@contextmanager
def world():
    """An origin, a folder in memory, and a clock that stands still."""
    folder = tempfile.mkdtemp(prefix="cbk-model-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    with Origin() as origin, pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("CBK_"):
                patch.delenv(name)
        patch.setattr(catalog_engine, "datetime", CLOCK)
        patch.setattr(host, "now", CLOCK.now)
        patch.setattr(host, "uptime", CLOCK.uptime)
        patch.setattr(host, "clock_is_synchronised", lambda: True)
        World.folder, World.origin = Path(folder), origin
        try:
            yield
        finally:
            ModelDesk.template = None
            shutil.rmtree(folder, ignore_errors=True)


CLOCK = Clock()


class World:
    """What all examples of a run share."""

    folder = None
    origin = None


class Retention(RuleBasedStateMachine):
    """One site: its application, its workers, its disk and the person who keeps it."""

    def __init__(self):
        super().__init__()
        CLOCK.__init__()
        self.folder = Path(tempfile.mkdtemp(dir=World.folder))
        self.fate = Fate()
        self.site = ModelDesk(
            self.folder,
            World.origin,
            self.fate,
            min_free_space="0",
            brake_files=100_000,
            dispatch_window=50,
            settle="10m",
        )
        self.grace = timedelta(days=7)
        self.keep = 1
        self.trash = "0"
        self.rows = {}
        self.log = {}
        self.delete_ids = 0
        self.seen = {}
        self.replaced = {}
        self.void = set()
        self.rejected = set()
        self.holds = {}
        self.bad = set()
        self.broken = set()
        self.stand = Stand()
        # Not while a step is under way: what failed half-way needs no look at its end.
        self.sound = False

    def teardown(self):
        try:
            if self.sound:
                self.check_the_end()
        finally:
            self.site.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    @initialize(replaced=st.booleans())
    def begin(self, replaced):
        """Two files, of which one may have been replaced."""
        self._upload(KEYS[0], VERSION_STEP, dated=False)
        self._upload(KEYS[2], VERSION_STEP, dated=False)
        self.work()
        if replaced:
            self._upload(KEYS[0], 2 * VERSION_STEP, dated=False)
            self.work()

    # The application

    @rule(key=st.sampled_from(KEYS), broken=st.booleans(), dated=st.booleans())
    def upload(self, key, broken, dated):
        """A new file, or a higher version."""
        self._upload(key, self._highest(key) + VERSION_STEP, broken=broken, dated=dated)

    @precondition(lambda self: self._may_be_late())
    @rule(data=st.data(), dated=st.booleans())
    def upload_late(self, data, dated):
        """A lower version whose row commits after higher ones."""
        key = data.draw(st.sampled_from(self._may_be_late()))
        self._upload(key, self._highest(key) - 1, row_id=max(self.rows) - 3, dated=dated)

    @rule(data=st.data(), instead=st.booleans())
    def upload_again(self, data, instead):
        """The highest version a second time, beside the row that there is or instead of it."""
        key = data.draw(st.sampled_from(sorted({row.key for row in self.rows.values()})))
        before = self._rows_of(key)
        self._upload(key, self._highest(key), dated=False)
        if instead and self._all_deletes_are_seen():
            self._drop(before)

    @precondition(lambda self: self._deleted_rows() and self._all_deletes_are_seen())
    @rule(data=st.data())
    def drop_rows_of_a_deleted_file(self, data):
        """The application tidies up."""
        self._drop(self._rows_of(self.rows[data.draw(st.sampled_from(self._deleted_rows()))].key))

    @precondition(lambda self: self.broken)
    @rule()
    def mend_objects(self):
        """What was not there yet is."""
        for key, number in self.broken:
            self.site.origin.put(self._served_at(key, number), self._content(key, number))
        self.broken.clear()

    @rule(data=st.data(), dated=st.booleans())
    def delete(self, data, dated):
        """Delete a file, naming any of its rows, or one that there never was."""
        row_id = data.draw(st.sampled_from([*self._rows_of(*KEYS), UNKNOWN_ROW]))
        self.delete_ids += 1
        self._tick()
        self.site.delete(row_id, delete_id=self.delete_ids, deleted_at=CLOCK.time if dated else ANCIENT)
        self.log[self.delete_ids] = row_id

    @precondition(lambda self: self._waiting_deletes())
    @rule(data=st.data())
    def withdraw(self, data):
        """Take a delete back before it is carried out."""
        delete_id = data.draw(st.sampled_from(self._waiting_deletes()))
        self.site.withdraw(delete_id)
        del self.log[delete_id]

    @precondition(lambda self: self._waiting_deletes())
    @rule(data=st.data())
    def change_delete(self, data):
        """The row of the delete log names another row now."""
        delete_id = data.draw(st.sampled_from(self._waiting_deletes()))
        row_id = data.draw(st.sampled_from([*self._rows_of(*KEYS), UNKNOWN_ROW]))
        self._tick()
        self.site.change_delete(delete_id, FileId=row_id, DeletedAt=CLOCK.time)
        self.log[delete_id] = row_id

    # The kit

    @rule(fate=st.none() | st.integers(0, 60))
    def poll(self, fate):
        """A poll, which may die at any of its steps."""
        with self._mortal(fate) as life:
            life.polled = self.site.poll().outcome == "polled"
        if life.polled:
            self._note_recreations()

    @precondition(lambda self: self.site.publisher.sent)
    @rule(data=st.data(), fate=st.none() | st.integers(0, 8), twice=st.booleans(), lost=st.booleans())
    def deliver_backup(self, data, fate, twice, lost):
        """One of the messages that were sent arrives, once or twice, or is lost."""
        row_id = data.draw(st.sampled_from(self.site.publisher.sent))
        if lost or not twice:
            self.site.publisher.sent.remove(row_id)
        if not lost:
            with self._mortal(fate), suppress(CbkError):
                self.site.back_up(row_id)

    @rule()
    def work(self):
        """A poll, and all backups that it sends."""
        self.poll(None)
        for row_id in self.site.publisher.take():
            with suppress(CbkError):
                self.site.back_up(row_id)

    @precondition(lambda self: self.site.publisher.prunes)
    @rule(data=st.data(), fate=st.none() | st.integers(0, 12), twice=st.booleans(), lost=st.booleans())
    def deliver_prune(self, data, fate, twice, lost):
        """As `deliver_backup`; its countdown may have been cut short."""
        message = data.draw(st.sampled_from(self.site.publisher.prunes))
        if lost or not twice:
            self.site.publisher.prunes.remove(message)
        if not lost:
            self._prune(message[0].delete_id, message[0].version_id, fate)

    @precondition(lambda self: self.stand.removals)
    @rule(data=st.data(), fate=st.none() | st.integers(0, 12))
    def stray_prune(self, data, fate):
        """A message that nobody sent now."""
        removal = data.draw(st.sampled_from(self.stand.removals))
        self._prune(removal.delete_id, removal.version_id, fate)

    @rule()
    def pass_grace(self):
        """As much time as the last grace takes, and what is due then."""
        self.poll(None)
        CLOCK.move(self.grace)
        self.let_go()

    @rule()
    def let_go(self):
        """Poll, and carry out every prune that was sent."""
        self.poll(None)
        messages, self.site.publisher.prunes = self.site.publisher.prunes, []
        for removal, _ in messages:
            self._prune(removal.delete_id, removal.version_id, None)

    @rule(grace=st.sampled_from(sorted(GRACES)), keep=st.integers(1, 2), trash=st.sampled_from(["0", "2d"]))
    def start_anew(self, grace, keep, trash):
        """Other settings, a new process."""
        self.grace, self.keep, self.trash = GRACES[grace], keep, trash
        self.site.settings |= {"grace_period": grace, "keep_versions": keep, "trash": trash}
        self._restart()

    # The person, the disk and time

    @rule(named=st.sampled_from([(KEYS[0], False), (KEYS[2], False), ("a/", True)]), until=st.none() | st.sampled_from(TIMES[2:]))
    def hold(self, named, until):
        """Keep a file, or all of a folder."""
        key, is_prefix = named
        ends = None if until is None else CLOCK.time + until
        self.site.context.catalog.holds.add(key, is_prefix=is_prefix, storage=None, until=ends, reason="")
        if named in self.holds and (self.holds[named] is None or ends is None):
            ends = None
        elif named in self.holds:
            ends = max(ends, self.holds[named])
        self.holds[named] = ends

    @precondition(lambda self: self.holds)
    @rule()
    def release(self):
        """Release every hold."""
        catalog = self.site.context.catalog
        catalog.holds.release([hold.id for hold in catalog.holds.all()])
        catalog.removals.disarm_all()
        self.holds.clear()

    @precondition(lambda self: self.seen)
    @rule(key=st.sampled_from(KEYS), fate=st.none() | st.integers(0, 12))
    def want_back(self, key, fate):
        """A person wants a file back that the application deleted."""
        with self._mortal(fate), suppress(CbkError):
            undelete(self.site.context, key)

    @precondition(lambda self: self._good())
    @rule(data=st.data(), gone=st.booleans())
    def spoil_copy(self, data, gone):
        """The disk loses a copy, or a bit of one."""
        name = data.draw(st.sampled_from(self._good()))
        path = self._path(name)
        if gone:
            path.unlink()
        else:
            content = bytearray(path.read_bytes())
            content[-9] ^= 1
            path.chmod(0o640)
            path.write_bytes(content)
        self.bad.add(name)

    @rule(by=st.sampled_from(TIMES))
    def pass_time(self, by):
        """Time goes on."""
        CLOCK.move(by)

    # What must be so

    @invariant()
    def nothing_went_that_should_not(self):
        """Compare what the catalog says with what it said, and with the disk."""
        self.sound = False
        self._observe()
        self.sound = True

    def _observe(self):
        before, self.stand = self.stand, self._look()
        self.rejected = {int(removal.delete_id) for removal in self.stand.removals if removal.outcome == "rejected"}
        self._check_removals()
        for name, version in self.stand.versions.items():
            then = before.versions.get(name)
            if then is not None and then.state == "stored" and version.state != "stored":
                self._check_gone(name, version)
            self._check_disk(name, version)

    def _check_removals(self):
        replaced = set()
        for removal in self.stand.removals:
            if removal.kind == "replaced":
                replaced.add(removal.version_id)
                self._check_replaced(removal)
                continue
            delete_id = int(removal.delete_id)
            seen = self.seen.get(delete_id)
            if seen is None or seen.at != removal.first_seen_at:
                assert removal.first_seen_at == CLOCK.time, "a grace begins when the delete is first seen"
                assert self.log.get(delete_id) == int(removal.row_id)
                self._note_seen(delete_id, removal)
            seen = self.seen[delete_id]
            assert removal.due_at >= seen.at + seen.grace, "nothing shortens a grace"

    def _note_seen(self, delete_id, removal):
        self.void.discard(delete_id)
        key = self._key_of(int(removal.row_id))
        assert (removal.file_id is None) == (key is None), f"delete {delete_id} of {key} was not understood"
        known = [number for (of, number) in self.stand.versions if of == key]
        if known:
            assert removal.through <= max(known)
        self.seen[delete_id] = Seen(
            at=removal.first_seen_at,
            grace=self.grace,
            row_id=int(removal.row_id),
            rows_through=removal.rows_through,
            through=removal.through,
        )

    def _check_replaced(self, removal):
        [name] = [name for name, version in self.stand.versions.items() if version.id == removal.version_id]
        if removal.id not in self.replaced:
            newer = [n for n, v in self.stand.versions.items() if n[0] == name[0] and n[1] > name[1] and v.state == "stored"]
            assert len(newer) >= self.keep or self.stand.versions[name].state != "stored"
            assert removal.first_seen_at == CLOCK.time
            self.replaced[removal.id] = Seen(at=CLOCK.time, grace=self.grace)
        seen = self.replaced[removal.id]
        assert removal.due_at >= seen.at + seen.grace

    def _check_gone(self, name, version):
        """A copy that counted counts no more."""
        if version.state != "pruned":
            assert name in self.bad, f"{name} was good, and is {version.state}"
            return
        assert not self._is_held(name[0]), f"{name} was on hold"
        assert self._may_go(name, version), f"{name} went without a reason"
        if any(n[0] == name[0] and not self._covering(n) for n in self.stand.versions):
            good = [n for n, v in self.stand.versions.items() if n[0] == name[0] and v.state == "stored" and n not in self.bad]
            assert good or name in self.bad, f"{name} was the last good copy of a file that lives"

    def _may_go(self, name, version):
        for delete_id in self._covering(name):
            seen = self.seen[delete_id]
            if CLOCK.time >= seen.at + max(seen.grace, self.grace):
                return True
        for removal in self.stand.removals:
            if removal.kind == "replaced" and removal.version_id == version.id:
                seen = self.replaced[removal.id]
                if CLOCK.time >= seen.at + max(seen.grace, self.grace):
                    return True
        return False

    def _check_disk(self, name, version):
        path = self._path(name)
        if version.state == "stored" and name not in self.bad:
            assert path.exists(), f"{name} is stored in the record alone"
            assert gzip.decompress(path.read_bytes()) == self._content(*name)
        elif version.state == "stored":
            # Bad copies that were fetched again are good.
            if path.exists() and self._is_good(name):
                self.bad.discard(name)
        elif version.state == "pruned" and not version.leftover:
            assert not path.exists(), f"{name} is pruned, and its bytes are still there"
        if version.state != "stored":
            self.bad.discard(name)

    def check_the_end(self):
        """With everything healthy, exactly the copies that must be there are there."""
        self.fate.left = None
        self._restart()
        self.mend_objects()
        self.release()
        for _ in range(6):
            CLOCK.move(LONGEST_GRACE + timedelta(days=1))
            self.work()
            self.let_go()
        for key in KEYS:
            self._check_end_of(key)
        assert self.site.parts() == set()
        trash = self.site.root / ".cbk" / "trash"
        assert not trash.exists() or not list(trash.iterdir())

    def _check_end_of(self, key):
        ours = {number: version for (of, number), version in self.stand.versions.items() if of == key}
        there = {row.number for row in self.rows.values() if row.key == key and row.there}
        assert there <= set(ours), "every row is seen"
        live = sorted((number for number in ours if not self._covering((key, number))), reverse=True)
        stored = {number for number, version in ours.items() if version.state == "stored"}
        if not live:
            assert stored == set(), f"{key} is deleted, and v{stored} stay for ever"
            assert {version.state for version in ours.values()} <= {"pruned"}
        elif set(live) <= there:
            if self.bad.isdisjoint({(key, number) for number in ours}):
                # What was replaced while the setting was lower is not fetched again for a higher one.
                assert set(live[:1]) <= stored <= set(live[: self.keep]), f"of {key}, v{live} live"
        elif stored & set(live):
            assert stored <= set(live)
        covered = {number for number in ours if self._covering((key, number))}
        for removal in self.stand.removals:
            if removal.open and removal.file_id in {version.file_id for version in ours.values()}:
                assert stored & covered or self.bad or not set(live) <= there or self._rests(removal, ours), f"{key}: {removal}"

    def _rests(self, removal, ours):
        """A replaced copy that settings of today want again."""
        return removal.kind == "replaced" and any(v.id == removal.version_id and v.state == "stored" for v in ours.values())

    # What the model knows

    def _covering(self, name):
        """The deletes that speak of this version: in the log, seen, and not overtaken by a later row or by a person."""
        key, number = name
        found = []
        for delete_id, seen in self.seen.items():
            of = self._key_of(seen.row_id)
            if of != key or self.log.get(delete_id) != seen.row_id or delete_id in self.void | self.rejected:
                continue
            if seen.through is not None and number <= seen.through:
                found.append(delete_id)
        return found

    def _note_recreations(self):
        """After a whole poll: rows that were written after a delete was seen, and bring what it covers."""
        for delete_id, seen in self.seen.items():
            key = self._key_of(seen.row_id)
            for row_id, row in self.rows.items():
                if row.there and row.key == key and row.number <= (seen.through or 0) and row_id > (seen.rows_through or row_id):
                    self.void.add(delete_id)

    def _rows_of(self, *keys):
        return [row_id for row_id, row in self.rows.items() if row.key in keys and row.there]

    def _deleted_rows(self):
        return [row_id for row_id in self._rows_of(*KEYS) if row_id in self.log.values()]

    def _may_be_late(self):
        """Files of which a row may commit late: below all that was known when a delete of them was seen."""
        row_id, found = max(self.rows) - 3, []
        for key in sorted({row.key for row in self.rows.values()}):
            numbers = {row.number for row in self.rows.values() if row.key == key}
            marks = [seen.rows_through for seen in self.seen.values() if seen.rows_through and self._key_of(seen.row_id) == key]
            if self._highest(key) - 1 not in numbers and row_id not in self.rows and row_id < min(marks, default=row_id + 1):
                found.append(key)
        return found

    def _waiting_deletes(self):
        """Deletes that are not carried out: their row may still go or change."""
        over = {int(r.delete_id) for r in self.stand.removals if r.delete_id and not r.open}
        return sorted(set(self.log) - over)

    def _all_deletes_are_seen(self):
        known = {int(r.delete_id): int(r.row_id) for r in self.stand.removals if r.delete_id}
        return all(known.get(delete_id) == row_id for delete_id, row_id in self.log.items())

    def _is_held(self, key):
        return any(
            (until is None or CLOCK.time < until) and (key.startswith(named) if is_prefix else key == named)
            for (named, is_prefix), until in self.holds.items()
        )

    def _good(self):
        return sorted(name for name, version in self.stand.versions.items() if version.state == "stored" and name not in self.bad)

    def _is_good(self, name):
        with suppress(OSError, EOFError, zlib.error):
            return gzip.decompress(self._path(name).read_bytes()) == self._content(*name)
        return False

    def _highest(self, key):
        return max((row.number for row in self.rows.values() if row.key == key), default=0)

    def _key_of(self, row_id):
        return self.rows[row_id].key if row_id in self.rows else None

    @staticmethod
    def _content(key, number):
        return f"{key} v{number}\n".encode() * 3

    @staticmethod
    def _served_at(key, number):
        return f"/{key}/{number}"

    def _path(self, name):
        return self.site.root / copy_location(self.stand.versions[name].place, name[1])

    # Doing

    def _upload(self, key, number, *, row_id=None, broken=False, dated):
        self._tick()
        row_id = row_id or (max(self.rows, default=0) // ROW_STEP + 1) * ROW_STEP
        content = self._content(key, number)
        self.site.upload(key, content, version=number, row_id=row_id, served_at=self._served_at(key, number))
        self.site.change(row_id, CreatedAt=CLOCK.time if dated else ANCIENT)
        self.rows[row_id] = Row(key, number)
        if broken:
            self.site.origin.remove(self._served_at(key, number))
            self.broken.add((key, number))
        else:
            self.broken.discard((key, number))

    def _drop(self, row_ids):
        for row_id in row_ids:
            self.site.drop(row_id)
            self.rows[row_id].there = False

    def _prune(self, delete_id, version_id, fate):
        with self._mortal(fate), suppress(CbkError):
            self.site.prune(delete_id, version_id)

    @contextmanager
    def _mortal(self, fate):
        """A process that dies after so many steps; another one takes its place."""
        self._tick()
        self.sound = False
        life = Life()
        self.fate.left = fate
        try:
            yield life
        except Killed:
            self._restart()
        finally:
            self.fate.left = None
        self._observe()

    def _restart(self):
        self.fate.left = None
        self.site.context.close()
        self.site.reopen()

    @staticmethod
    def _tick():
        CLOCK.move(timedelta(seconds=1))

    def _look(self):
        with self.site.context.catalog.database.reading() as connection:
            listed = connection.execute(sa.select(versions, files.c.key, files.c.place).join_from(versions, files)).all()
            return Stand(
                versions={(row.key, row.number): row for row in listed},
                removals=list(connection.execute(sa.select(removals).order_by(removals.c.id)).all()),
            )


@dataclass
class Life:
    """What came of a process: whether it lived to the end of a whole poll."""

    polled: bool = False


def run(examples, steps):
    profile = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    with world():
        run_state_machine_as_test(Retention, settings=profile)


def test_nothing_goes_early_is_lost_or_stays_whatever_happens_in_whatever_order():
    run(examples=6, steps=20)


@pytest.mark.nightly
def test_nothing_goes_early_is_lost_or_stays_in_thousands_of_orders():
    run(examples=2000, steps=40)
