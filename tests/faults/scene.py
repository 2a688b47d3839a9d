"""A site whose disk and worker come to grief, and what is known about its files from elsewhere."""

import gzip
import os
import random
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256

import sqlalchemy as sa

from cbk.edges.catalog.database.schema import leases
from cbk.errors import CbkError
from cbk.jobs.intake.rows import record_rows
from cbk.jobs.verification.verify import choose, verify
from cbk.model import VersionState
from cbk.rules.intake.layout import copy_location
from tests.faults.disks import BALLAST
from tests.in_process_site import InProcessSite, version_of_row
from tests.origin import serve, status

_ROUNDS = 6
_SHARE_OF_NEW_VERSIONS = 0.2
_NO_COPIES = {".cbk", "lost+found", BALLAST}
# What stands in the place of a copy where a test puts something bad there, and how it counts.
_SPOILED = b"no copy at all"
_SPOILED_COUNTS_AS = "bad on purpose"


@dataclass
class Tally:
    """How often a fault happened, how many files were looked at afterwards, and what was found."""

    fault: str
    times: int = 0
    files: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    hands: list[str] = field(default_factory=list)
    # Faults that did not happen as they were meant to: what was found then says nothing.
    missed: list[str] = field(default_factory=list)

    @property
    def findings(self):
        return [*self.lost, *self.wrong, *self.hands, *self.missed]


def describe(kind, catalog_on_disk):
    """Such as "ext4, catalog on it", for tables."""
    return f"{kind or 'any disk'}, catalog {'on it' if catalog_on_disk else 'elsewhere'}"


class Scene:
    """A site below `folder`, whose backup root is what is mounted at `folder / "backups"`, if anything is.

    The truth about the files is kept here, in memory: SHA-256 of each version by key and number, the newest number of each key that
    the application still has, and the keys that it has deleted. Unless `settings` say otherwise there is no grace: what was deleted
    or replaced goes at once.
    """

    def __init__(self, folder, origin, *, catalog_on_disk, seed=0, **settings):
        if catalog_on_disk:
            settings["catalog_url"] = f"sqlite:///{folder}/backups/.cbk/catalog.db"
        at_once = {"grace_period": "0s", "brake_files": 1_000_000, "clock_sync": "ignore", "min_free_space": "0"}
        self.site = InProcessSite(folder, origin, **at_once | settings)
        self.random = random.Random(seed)
        self.truth = {}
        self.newest = {}
        self.deleted = set()
        self._rows = {}
        self._names = 0
        self._links = 0
        self._quarantined = 0

    # The application

    def upload(self, *, size=None, again=False, wrong_first=False, leave_copy=False, answers=()):
        """One more file with its row, or where `again` is true one more version of a file; gives the row's Id.

        `wrong_first`: the origin gives other bytes to the first who asks; `answers` are what it gives before it serves the object.
        `leave_copy`: a worker died right after publishing it.
        """
        key = self.random.choice(list(self.newest)) if again else self._new_key()
        number = self.newest.get(key, 0) + 1
        content = self.random.randbytes(self._size() if size is None else size)
        self.truth[key, number] = sha256(content).hexdigest()
        self.newest[key] = number
        if wrong_first:
            answers = [status(200, b"something else")]
        if answers:
            answers = [*answers, serve()]
        row_id = self.site.upload(key, content, *answers, version=number, served_at=f"/car-erp/{key}/{number}")
        self._rows[key] = row_id
        if leave_copy:
            self.record_rows(row_id)
            place = version_of_row(self.site.context.catalog, row_id).place
            self.site.leave_copy(key, content, location=copy_location(place, number), version=number)
        return row_id

    def record_rows(self, row_id):
        """Let the catalog know of the row, as a poll does; gives its Id."""
        record_rows(self.site.context, [self.site.context.source.row(row_id)])
        return row_id

    def spoil(self, row_id):
        """Put something in the place of this row's copy that is none."""
        version = version_of_row(self.site.context.catalog, row_id)
        path = self.site.root / copy_location(version.place, version.number)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(_SPOILED)
            file.flush()
            os.fsync(file.fileno())

    def upload_some(self, files):
        """So many files, some of them new versions of files that are there."""
        for _ in range(files):
            self.upload(again=bool(self.newest) and self.random.random() < _SHARE_OF_NEW_VERSIONS)

    def delete(self):
        """The application deletes one of the files, and says so; gives the Id in its delete log."""
        key = self.random.choice(list(self.newest))
        del self.newest[key]
        self.deleted.add(key)
        return self.site.delete(self._rows[key])

    def delete_some(self, files):
        """So many files are deleted, as many as there are; their grace is over, and their prunes are the next poll's to send."""
        for _ in range(min(files, len(self.newest))):
            self.delete()
        self.site.poll()
        self.site.pass_grace()
        self.site.publisher.take()
        self.site.publisher.prunes.clear()

    def freshen(self):
        """The application writes a new link into the rows of expired versions."""
        for version in self.site.context.catalog.report.versions(state=VersionState.EXPIRED):
            self._links += 1
            link = self.site.origin.url(f"/car-erp/{version.key}/{version.number}", f"X-Amz-Signature={self._links}")
            self.site.change(version.source_id, SignedDownloadUrl=link)

    def _new_key(self):
        """Names share folders, and some would share a place."""
        self._names += 1
        number = self._names
        name = f"{number // 2}.{'png' if number % 2 else 'jpg'}" if number % 10 < 2 else f"{number}.bin"
        return f"cars/{number // 20}/{number // 5}/photo-{name}"

    def _size(self):
        return self.random.choice([0, 100, self.random.randint(1_000, 60_000), self.random.randint(60_000, 400_000)])

    # What is there

    def check(self, tally, *, moment):
        """The invariants, on every file: what is called stored is there and right, what has a copy's name is one."""
        on_disk = self._copies()
        versions = {(version.key, version.number): version for version in self.site.context.catalog.report.versions()}
        tally.files += len(versions)
        for version in versions.values():
            found = on_disk.pop(copy_location(version.place, version.number), None)
            truth = self.truth[version.key, version.number]
            if version.state is VersionState.STORED and found is None:
                tally.lost.append(f"{moment}: {version.label} is stored, and its copy is not there")
            elif found not in {None, truth, _SPOILED_COUNTS_AS}:
                tally.wrong.append(f"{moment}: the copy of {version.label} holds other bytes ({found})")
        # A catalog that lost its last seconds does not know every copy: each is some file's, whole.
        known = {*self.truth.values(), _SPOILED_COUNTS_AS}
        strangers = [location for location, found in on_disk.items() if found not in known]
        tally.wrong += [f"{moment}: {location} is no copy of anything ({on_disk[location]})" for location in strangers]

    def _copies(self):
        """SHA-256 by location of everything outside of `.cbk`, read without any code of the kit."""
        found = {}
        for path in self.site.root.rglob("*"):
            relative = path.relative_to(self.site.root)
            if relative.parts[0] in _NO_COPIES or path.is_dir():
                continue
            content = path.read_bytes()
            if content == _SPOILED:
                found[str(relative)] = _SPOILED_COUNTS_AS
                continue
            try:
                found[str(relative)] = sha256(gzip.decompress(content)).hexdigest() if content else "empty"
            except (OSError, EOFError, ValueError, zlib.error) as error:
                found[str(relative)] = f"{type(error).__name__}: {error}"
        return found

    def unfinished(self):
        """The newest versions that are not stored yet, as (key, number)."""
        stored = self.site.context.catalog.report.versions(state=VersionState.STORED)
        return set(self.newest.items()) - {(version.key, version.number) for version in stored}

    def undeleted(self):
        """Versions of deleted files that are stored, or have bytes on the disk, as (key, number)."""
        if not self.deleted:
            return set()
        return {
            (version.key, version.number)
            for version in self.site.context.catalog.report.versions()
            if version.key in self.deleted
            and (version.state is VersionState.STORED or (self.site.root / copy_location(version.place, version.number)).exists())
        }

    # Afterwards

    def recover(self, tally, *, moment, spoiled=False, verified=False):
        """Start again and let time pass, and do nothing else: everything becomes stored, and no debris stays.

        `spoiled`: a bad copy was there on purpose, and is in quarantine afterwards. `verified`: a verification finds it first.
        """
        if verified:
            verify(self.site.context, choose(self.site.context), by="a test")
        for _ in range(_ROUNDS):
            self.pass_time()
            try:
                self.site.poll()
            except CbkError as error:
                tally.hands.append(f"{moment}: the poll afterwards said: {error}")
                break
            for row_id in self.site.publisher.take():
                with suppress(CbkError):
                    self.site.back_up(row_id)
            removals, self.site.publisher.prunes = self.site.publisher.prunes, []
            for removal, _ in removals:
                self.site.prune(removal.delete_id, removal.version_id)
            if not self.unfinished() and not self.undeleted():
                break
        states = self.site.versions()
        tally.hands += [f"{moment}: {name} is {self._story(states.get(name))}" for name in self.unfinished()]
        tally.hands += [f"{moment}: {name} was deleted, and is still there" for name in self.undeleted()]
        tally.wrong += [f"{moment}: {name} stays in incoming" for name in self.site.parts()]
        quarantined = sum(path.suffix == ".gzip" for path in (self.site.root / ".cbk/quarantine").iterdir())
        if quarantined != self._quarantined + spoiled:
            tally.wrong.append(f"{moment}: {quarantined - self._quarantined} copies went to quarantine, not {int(spoiled)}")
        self._quarantined = quarantined
        self.check(tally, moment=f"{moment}, afterwards")

    def pass_time(self):
        """Every lease has run out, and every delay and grace is over."""
        self.site.expire_leases()
        self.site.pass_backoff()
        self.site.pass_grace()
        database = self.site.context.catalog.database
        with database.writing() as connection:
            connection.execute(sa.update(leases).values(until=database.later_sql(timedelta(minutes=-1))))

    def _story(self, version):
        return "unknown" if version is None else f"{version.state.value} ({version.reason})"

    def leave(self):
        """Close all that this process has open, so that the disk can be taken away; what is asked for next opens it again."""
        self.site.close()
