"""The places of a mirror: folders on disks that this machine mounts, and remotes of rclone.

Both take copies from the backup disk and give them back, and carry a note that says whose they are: `.cbk/mirror.json`. A folder is
laid out like a backup disk, with an identity of its own, so that everything that reads a disk reads a mirror as well. What lies
at a remote is fetched to such a folder first.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cbk.edges import host
from cbk.edges.archive.archive import Archive
from cbk.edges.catalog.mirror import Arrived
from cbk.errors import (
    ArchiveError,
    CopyCorrupt,
    CopyExists,
    CopyMissing,
    DiskFailed,
    MirrorError,
    MirrorUnavailable,
    RootMissing,
)
from cbk.jobs.mirror.transfer import Wanted, transfer
from cbk.rules.intake.layout import is_copy_location
from cbk.rules.mirror import CopyHere, MirrorCopy
from cbk.rules.verification import BAD_IN_A_ROW_LIMIT

MARKER = "mirror.json"
FORMAT = 1

Tick = Callable[[], None]
OnBytes = Callable[[int], None]


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

    def __add__(self, other: Sent) -> Sent:
        return Sent(
            arrived=self.arrived + other.arrived, problems=self.problems + other.problems, doubted=self.doubted + other.doubted
        )


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
        by_target = {copy.target: copy for copy in copies}
        wanted = [
            Wanted(
                location=copy.target,
                from_location=copy.location,
                sha256=copy.sha256,
                part_name=f"{copy.id}.part",
                replaces=copy.id in bad,
            )
            for copy in copies
        ]
        sent = Sent()
        with _unavailable(self.where):
            moved = transfer(self._source, self._archive, wanted, tick=tick, on_read=on_bytes, keeps_others=True)
        others = []
        for each in moved:
            copy = by_target[each.wanted.location]
            if isinstance(each.error, CopyExists) and copy.may_give_way:
                others.append(dataclasses.replace(copy, there=copy.other))
            elif each.written is not None:
                written = each.written
                sent.arrived.append(Arrived(copy=copy, stored_sha256=written.stored_sha256, stored_size=written.stored_size))
            elif each.error is not None:
                sent.problems.append((copy, each.error.message))
                sent.doubted.append(copy)
        return sent + self.send(others, frozenset(), tick=tick, on_bytes=on_bytes) if others else sent

    def look(self, copies: Sequence[MirrorCopy], *, tick: Tick, on_bytes: OnBytes) -> Iterator[tuple[MirrorCopy, str]]:
        """As in `MirrorPlace`."""
        unread = 0
        for copy in copies:
            with _unavailable(self.where):
                try:
                    finding, unread = examine(self._archive, copy, tick, on_bytes), 0
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


def copies_of(locations: Iterable[str]) -> Iterator[str]:
    """Those that are where a copy may lie; a listing is as untrusted as a row."""
    return (location for location in locations if is_copy_location(location))


def examine(archive: Archive, copy: MirrorCopy, tick: Tick, on_bytes: OnBytes) -> str:
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
