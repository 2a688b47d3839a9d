"""The places of a mirror: folders on disks that this machine mounts, and remotes of rclone.

Both take copies from the backup disk and give them back, and carry a note that says whose they are: `.cbk/mirror.json`. A folder is
laid out like a backup disk, with an identity of its own, so that everything that reads a disk reads a mirror as well. What lies
at a remote is fetched to such a folder first.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from cbk.edges import host
from cbk.edges.archive.archive import Archive
from cbk.edges.catalog.mirrors import Arrived
from cbk.edges.mirror import Rclone
from cbk.errors import ArchiveError, CopyCorrupt, CopyMissing, DiskFailed, MirrorError, MirrorUnavailable, RootMissing
from cbk.jobs.mirror.transfer import Wanted, transfer
from cbk.rules.intake.layout import is_copy_location
from cbk.rules.mirror import CopyHere, MirrorCopy
from cbk.rules.verification import BAD_IN_A_ROW_LIMIT
from cbk.settings import Mirror

MARKER = "mirror.json"
FORMAT = 1

Tick = Callable[[], None]
OnBytes = Callable[[int], None]
Bandwidth = Callable[[], int | None]
# By location: the copy, and the hash and size of its gzip file here.
_Good = dict[str, tuple[CopyHere, tuple[str, int]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """What a place says about itself: the mirror that it is of, and which disk it is."""

    mirror: str
    identity: str

    def encode(self) -> bytes:
        """As the note that lies there."""
        return json.dumps({"mirror": self.mirror, "uuid": self.identity, "format": FORMAT}, indent=1).encode() + b"\n"

    @classmethod
    def decode(cls, content: bytes, where: str) -> Marker:
        """Read the note. Raises MirrorError where it is damaged, or of a later release."""
        try:
            document = json.loads(content)
            marker, found_format = cls(mirror=str(document["mirror"]), identity=str(document["uuid"])), int(document["format"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            hint = "put it back as it was: the ledger knows its uuid"
            raise MirrorError(f"the note .cbk/{MARKER} of {where} is damaged", hint=hint) from error
        if found_format > FORMAT:
            raise MirrorError(f"{where} has format {found_format}, this release knows {FORMAT}", hint="install the newer release")
        return marker


@dataclass(slots=True)
class Sent:
    """What became of a batch: what arrived, and of the others why not; `doubted` are those whose copy here may be the bad one."""

    arrived: list[Arrived] = field(default_factory=list)
    problems: list[tuple[CopyHere, str]] = field(default_factory=list)
    doubted: list[CopyHere] = field(default_factory=list)


class MirrorPlace(Protocol):
    """Where copies of a mirror lie. Everything raises MirrorUnavailable where it is away, or stops answering."""

    where: str
    is_remote: bool

    def marker(self) -> Marker | None:
        """Its note; None where there is none."""

    def is_empty(self) -> bool:
        """Whether nothing lies there."""

    def is_mount(self) -> bool:
        """Whether it can be nothing but what was meant: a mount point, or a remote."""

    def prepare(self, mirror: str) -> Marker:
        """Make it a place of that mirror, unless it is one."""

    def tidy(self) -> None:
        """Take away what a pass that was killed left unfinished."""

    def send(self, copies: Sequence[CopyHere], bad: AbstractSet[int], *, tick: Tick, on_bytes: OnBytes) -> Sent:
        """Bring these copies there; those in `bad` replace what is there."""

    def look(self, copies: Sequence[MirrorCopy], *, tick: Tick, on_bytes: OnBytes) -> Iterator[tuple[MirrorCopy, str]]:
        """Verify these copies: what is wrong with each, "" where nothing is. What cannot be told of is left out."""

    @contextmanager
    def reading(self, locations: Sequence[str], *, tick: Tick, on_bytes: OnBytes) -> Iterator[Archive]:
        """A disk from which these copies can be read, those of them that are there."""

    def remove(self, locations: Sequence[str], *, tick: Tick) -> None:
        """Remove these copies; one that is gone already is fine."""

    def locations(self, tick: Tick) -> Iterator[str]:
        """Where copies lie there, all of them, and other files by their path: this lists the place."""

    def read_note(self, name: str) -> bytes | None:
        """A note of the kit's own beside the copies; None where there is none."""

    def write_note(self, name: str, content: bytes) -> None:
        """Keep a note there, in place of what it was."""


class FolderPlace:
    """A folder, most often on a disk that is plugged in now and then. Copies from `source`, the backup disk."""

    is_remote = False

    def __init__(self, folder: Path, source: Archive) -> None:
        self.where = str(folder)
        self._folder = folder
        self._source = source
        self._archive = Archive(folder)

    def marker(self) -> Marker | None:
        """As in `MirrorPlace`."""
        with _unavailable(self.where):
            if not self._folder.is_dir():
                raise MirrorUnavailable(f"there is no folder {self.where}", hint="plug the disk in, and mount it there")
            try:
                content = self._archive.read_note(MARKER)
            except RootMissing:
                return None
            if content is None:
                raise MirrorError(f"{self.where} is a disk of the kit, but no mirror", hint="is it the backup disk itself?")
            marker = Marker.decode(content, self.where)
            if marker.identity != self._archive.identity():
                raise MirrorError(f"the notes of {self.where} name different disks", hint="was it copied from another disk?")
            return marker

    def is_empty(self) -> bool:
        """As in `MirrorPlace`."""
        with _unavailable(self.where):
            return not any(entry.name != "lost+found" for entry in self._folder.iterdir())

    def is_mount(self) -> bool:
        """As in `MirrorPlace`."""
        return os.path.ismount(self._folder)

    def prepare(self, mirror: str) -> Marker:
        """As in `MirrorPlace`."""
        with _unavailable(self.where):
            self._archive = Archive.create(self._folder, now=host.now())
            marker = Marker(mirror=mirror, identity=self._archive.identity())
            self._archive.write_note(MARKER, marker.encode())
            return marker

    def tidy(self) -> None:
        """As in `MirrorPlace`."""
        with _unavailable(self.where):
            self._archive.sweep(lambda _name: False)

    def send(self, copies: Sequence[CopyHere], bad: AbstractSet[int], *, tick: Tick, on_bytes: OnBytes) -> Sent:
        """As in `MirrorPlace`."""
        by_location = {copy.location: copy for copy in copies}
        wanted = [
            Wanted(location=copy.location, sha256=copy.sha256, part_name=f"{copy.id}.part", replaces=copy.id in bad)
            for copy in copies
        ]
        sent = Sent()
        with _unavailable(self.where):
            moved = transfer(self._source, self._archive, wanted, tick=tick, on_read=on_bytes)
        for each in moved:
            copy = by_location[each.wanted.location]
            if each.written is not None:
                written = each.written
                sent.arrived.append(Arrived(copy=copy, stored_sha256=written.stored_sha256, stored_size=written.stored_size))
            elif each.error is not None:
                sent.problems.append((copy, each.error.message))
                sent.doubted.append(copy)
        return sent

    def look(self, copies: Sequence[MirrorCopy], *, tick: Tick, on_bytes: OnBytes) -> Iterator[tuple[MirrorCopy, str]]:
        """As in `MirrorPlace`."""
        unread = 0
        for copy in copies:
            with _unavailable(self.where):
                try:
                    finding, unread = _examine(self._archive, copy, tick, on_bytes), 0
                except DiskFailed as error:
                    unread += 1
                    if unread >= BAD_IN_A_ROW_LIMIT:
                        raise  # it is the disk rather than the copies
                    self._archive.require()
                    finding = error.message
            yield copy, finding

    @contextmanager
    def reading(self, locations: Sequence[str], *, tick: Tick, on_bytes: OnBytes) -> Iterator[Archive]:  # noqa: ARG002 - of the protocol
        """As in `MirrorPlace`."""
        yield self._archive

    def remove(self, locations: Sequence[str], *, tick: Tick) -> None:
        """As in `MirrorPlace`."""
        with _unavailable(self.where):
            for location in locations:
                self._archive.remove(location)
                tick()

    def locations(self, tick: Tick) -> Iterator[str]:
        """As in `MirrorPlace`."""
        with _unavailable(self.where):
            for location in self._archive.walk():
                yield location
                tick()

    def read_note(self, name: str) -> bytes | None:
        """As in `MirrorPlace`."""
        with _unavailable(self.where):
            return self._archive.read_note(name)

    def write_note(self, name: str, content: bytes) -> None:
        """As in `MirrorPlace`."""
        with _unavailable(self.where):
            self._archive.write_note(name, content)


class RemotePlace:
    """A remote of rclone. What is fetched from there comes to a folder in `staging` first."""

    is_remote = True

    def __init__(self, rclone: Rclone, source: Archive, *, staging: Path | None, bandwidth: Bandwidth, read_back: int) -> None:
        self.where = rclone.remote
        self._rclone = rclone
        self._source = source
        self._staging = staging
        self._bandwidth = bandwidth
        self._read_back = read_back

    def marker(self) -> Marker | None:
        """As in `MirrorPlace`."""
        content = self._rclone.read(f".cbk/{MARKER}")
        if content is None:
            self._rclone.compares_by()  # an answer that says nothing is none: this one says whether the remote can be reached
            return None
        return Marker.decode(content, self.where)

    def is_empty(self) -> bool:
        """As in `MirrorPlace`."""
        return next(self._rclone.files(_no_tick), None) is None

    def is_mount(self) -> bool:
        """As in `MirrorPlace`."""
        return True

    def prepare(self, mirror: str) -> Marker:
        """As in `MirrorPlace`."""
        marker = Marker(mirror=mirror, identity=str(uuid4()))
        self._rclone.write(f".cbk/{MARKER}", marker.encode())
        return marker

    def tidy(self) -> None:
        """Nothing that has a name there is unfinished."""

    def send(self, copies: Sequence[CopyHere], bad: AbstractSet[int], *, tick: Tick, on_bytes: OnBytes) -> Sent:
        """As in `MirrorPlace`."""
        sent = Sent()
        good: _Good = {}
        for copy in copies:
            tick()
            try:
                good[copy.location] = copy, self._stored(copy, tick)
            except RootMissing:
                raise
            except ArchiveError as error:
                sent.problems.append((copy, error.message))
                sent.doubted.append(copy)
        told = self._transfer(good, bad, tick, on_bytes)
        answers = self._rclone.confirm(self._source.root, list(good), tick=tick) if good else {}
        others = []
        for location, (copy, (stored_sha256, stored_size)) in good.items():
            answer = answers.get(location, "")
            if answer == "=":
                sent.arrived.append(Arrived(copy=copy, stored_sha256=stored_sha256, stored_size=stored_size))
            elif answer == "*":
                others.append(copy)
            else:
                sent.problems.append((copy, told or f"{location} did not arrive at {self.where}"))
        if others:
            self._take_as_it_is(others, sent, tick)
        return sent

    def _stored(self, copy: CopyHere, tick: Tick) -> tuple[str, int]:
        """Hash and size of the gzip file here, which is what was written, or good by its content. Raises ArchiveError."""
        found = self._source.digest(copy.location)
        if found[0] != copy.stored_sha256:
            written = self._source.check(copy.location, sha256=copy.sha256, tick=tick)
            return written.stored_sha256, written.stored_size
        return found

    def _transfer(self, good: _Good, bad: AbstractSet[int], tick: Tick, on_bytes: OnBytes) -> str:
        told, before = "", 0

        def progress(count: int, _files: int) -> None:
            nonlocal before
            on_bytes(count - before)
            before = count

        for replace in (False, True):
            paths = [location for location, (copy, _) in good.items() if (copy.id in bad) is replace]
            if paths:
                before = 0
                sent = self._rclone.send(
                    self._source.root, paths, replace=replace, bandwidth=self._bandwidth(), tick=tick, on_progress=progress
                )
                told = told or sent.problem
        return told

    def _take_as_it_is(self, copies: Sequence[CopyHere], sent: Sent, tick: Tick) -> None:
        """Another file is there: a copy of the same object is as good, whatever its gzip looks like. Anything else stays."""
        with self.reading([copy.location for copy in copies], tick=tick, on_bytes=_no_bytes) as archive:
            for copy in copies:
                try:
                    written = archive.check(copy.location, sha256=copy.sha256, tick=tick)
                except ArchiveError as error:
                    message = f"another file is there already, and no copy of it: {error.message}"
                    sent.problems.append((copy, message))
                else:
                    sha256, size = written.stored_sha256, written.stored_size
                    sent.arrived.append(Arrived(copy=copy, stored_sha256=sha256, stored_size=size))

    def look(self, copies: Sequence[MirrorCopy], *, tick: Tick, on_bytes: OnBytes) -> Iterator[tuple[MirrorCopy, str]]:
        """As in `MirrorPlace`."""
        same = [copy for copy in copies if self._rclone.compares_by() != "size" and self._is_same_here(copy)]
        answers = self._rclone.confirm(self._source.root, [copy.location for copy in same], tick=tick) if same else {}
        told = {"=": "", "+": "it is not there", "*": "it is another file, by the remote's own hash"}
        rest: list[MirrorCopy] = []
        size = 0
        for copy in copies:
            if answers.get(copy.location) in told:
                yield copy, told[answers[copy.location]]
            elif not rest or size + copy.stored_size <= self._read_back:
                rest.append(copy)
                size += copy.stored_size
        if rest:
            with self.reading([copy.location for copy in rest], tick=tick, on_bytes=on_bytes) as archive:
                for copy in rest:
                    yield copy, _examine(archive, copy, tick, _no_bytes)

    def _is_same_here(self, copy: MirrorCopy) -> bool:
        try:
            return self._source.digest(copy.location)[0] == copy.stored_sha256
        except RootMissing:
            raise
        except ArchiveError:
            return False

    @contextmanager
    def reading(self, locations: Sequence[str], *, tick: Tick, on_bytes: OnBytes) -> Iterator[Archive]:
        """As in `MirrorPlace`."""
        with tempfile.TemporaryDirectory(prefix="cbk-mirror-", dir=self._staging, ignore_cleanup_errors=True) as folder:
            yield self.fetch(Path(folder), locations, tick=tick, on_bytes=on_bytes)

    def fetch(self, folder: Path, locations: Sequence[str], *, tick: Tick, on_bytes: OnBytes) -> Archive:
        """As `reading`, to a folder that stays."""
        archive = Archive.create(folder, now=host.now())
        if not locations:
            return archive
        fetched = self._rclone.fetch(folder, locations, bandwidth=self._bandwidth(), tick=tick)
        if fetched.problem:
            raise MirrorUnavailable(f"{self.where}: {fetched.problem}", hint="the next pass tries it again")
        if len(fetched.undecryptable) >= min(len(locations), BAD_IN_A_ROW_LIMIT) > 1 and not fetched.bytes:
            hint = "has rclone's configuration the passwords with which this mirror was made?"
            raise MirrorUnavailable(f"{self.where}: nothing of what lies there can be decrypted", hint=hint)
        for location in fetched.undecryptable:
            # There, and nothing of it to read: a bad copy, not a missing one.
            (folder / location).parent.mkdir(parents=True, exist_ok=True)
            (folder / location).touch()
        on_bytes(fetched.bytes)
        return archive

    def remove(self, locations: Sequence[str], *, tick: Tick) -> None:
        """As in `MirrorPlace`."""
        done = self._rclone.remove(locations, tick=tick)
        if done.problem:
            hint = "may its key delete? if not, set append_only for this mirror"
            raise MirrorUnavailable(f"{self.where}: {done.problem}", hint=hint)

    def locations(self, tick: Tick) -> Iterator[str]:
        """As in `MirrorPlace`."""
        for file in self._rclone.files(tick):
            if not file.path.startswith(".cbk/"):
                yield file.path

    def read_note(self, name: str) -> bytes | None:
        """As in `MirrorPlace`."""
        return self._rclone.read(f".cbk/{name}")

    def write_note(self, name: str, content: bytes) -> None:
        """As in `MirrorPlace`."""
        self._rclone.write(f".cbk/{name}", content)


def open_places(
    mirror: Mirror, source: Archive, *, staging: Path | None, bandwidth: Bandwidth, read_back: int
) -> list[MirrorPlace]:
    """The places of a mirror as it is set. Nothing is reached yet."""
    if mirror.remote:
        rclone = Rclone(mirror.remote, config=mirror.config, transfers=mirror.transfers)
        return [RemotePlace(rclone, source, staging=staging, bandwidth=bandwidth, read_back=read_back)]
    return [FolderPlace(folder, source) for folder in mirror.folders]


def copies_of(locations: Iterable[str]) -> Iterator[str]:
    """Those that are where a copy may lie; a listing is as untrusted as a row."""
    return (location for location in locations if is_copy_location(location))


def _examine(archive: Archive, copy: MirrorCopy, tick: Tick, on_bytes: OnBytes) -> str:
    """What is wrong with a copy; "" where nothing is. Raises RootMissing, or ArchiveError of a disk that fails."""
    # What the header of a dump's copy says is no key; its hash is its own.
    named = (copy.storage, copy.key, copy.number) if copy.key and not copy.is_dump else None
    try:
        archive.check(copy.location, sha256=copy.sha256, of=named, tick=tick, on_read=on_bytes)
    except CopyMissing:
        archive.require()  # a disk that was just pulled misses every copy
        return "it is not there"
    except CopyCorrupt as error:
        return error.message
    return ""


@contextmanager
def _unavailable(where: str) -> Iterator[None]:
    """A disk that fails, or is gone, is a mirror that is away."""
    try:
        yield
    except OSError as error:
        raise MirrorUnavailable(f"cannot use {where}: {error.strerror}", hint="is the disk plugged in and mounted?") from error
    except ArchiveError as error:
        raise MirrorUnavailable(f"{where}: {error.message}", hint=error.hint) from error


def _no_tick() -> None:
    pass


def _no_bytes(_count: int) -> None:
    pass
