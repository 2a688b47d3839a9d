"""The backup disk: copies come in, are read back, are put under their names, and are found again.

    <root>/.cbk/identity       which disk this is; nothing is written where it is missing
    <root>/.cbk/README.txt     for the person who has only the disk, and other notes of the kit
    <root>/.cbk/incoming/      copies in arrival
    <root>/.cbk/lock           held while empty folders are removed
    <root>/.cbk/quarantine/    copies that turned out bad; nothing here is ever deleted by the kit
    <root>/.cbk/trash/         copies that were pruned, where CBK_TRASH keeps them for a while
    <root>/<place>/v1.gzip     a copy, at the *location* that rules/intake/layout.py gives it

A copy comes in like this, in this order, and counts only once all of it is done (bytes before record):

    with archive.incoming("17-3", header) as part:
        part.expect(size)                   # where it is known; a large copy is then read back while it still comes in
        part.write(...)                     # any number of times
        part.finish()                       # whole; of a large one, the disk begins to write
        part.flush()                        # all of it is on the disk
        written = part.read_back()          # the same file, opened again by name, inflated, hashed, and compared
        with archive.publishing() as publication:
            publication.put(part, location) # renamed without overwriting
        ...                                 # and at the end of the block the folders are flushed to the disk

Several copies go through each of these steps together, so that the disk is waited for once: `archive.flush(parts)`, and the end of
`publishing`, flush the whole file system where that is as good as flushing each file. Whatever fails on the way takes
the part with it.

Locations are relative to the root; every folder on the way is entered without following symbolic links, so that a planted one leads
nowhere. Every OSError leaves here as an ArchiveError.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import threading
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple, Self, TypeVar, cast

from cbk.errors import (
    ArchiveError,
    CopyCorrupt,
    CopyExists,
    CopyMissing,
    CopySwapped,
    DiskFailed,
    DiskFull,
    HashMismatch,
    RootMissing,
)
from cbk.model import CopyHeader, ObjectProperties, Written
from cbk.rules.backup.gzip_format import (
    HEADER_MAX_BYTES,
    SIZE_MAX_BYTES,
    TRAILER_BYTES,
    UNTOLD_SHA256,
    Decoder,
    Encoder,
    decode_header,
    encode_header,
    ends_with_size,
)
from cbk.rules.intake.layout import COPY_NAME, NOT_BUCKETS, PLACE_MAX_SEGMENTS, is_copy_location, names_file

Tick = Callable[[], None]
OnRead = Callable[[int], None]
OnProblem = Callable[[str, ArchiveError], None]
_Incoming = TypeVar("_Incoming", bound="IncomingCopy")

FORMAT = 1  # of the folder tree; a later release that changes it counts up

_KIT = ".cbk"
_IDENTITY = f"{_KIT}/identity"
_INCOMING = f"{_KIT}/incoming"
_LOCK = f"{_KIT}/lock"
_QUARANTINE = f"{_KIT}/quarantine"
_TRASH = f"{_KIT}/trash"

# What a file system answers to a call that it does not have; EPERM is what FAT says to link(2).
_NOT_SUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})

_FILE_MODE = 0o640
_FOLDER_MODE = 0o750
_ROOT_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_REPLACE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_APPEND_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
_SHORT_HEADER_BYTES = 4 * 1024  # one page, in which nearly every header ends
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_READ_BYTES = 256 * 1024
_BACKGROUND_FROM_BYTES = 8 * 1024 * 1024  # of a file, from which on a thread more is worth its start
_BACKGROUND_CHUNKS = 2  # that wait for it at the most, so that memory is flat
_WRITEBACK_FROM_BYTES = 1024 * 1024  # of a part, from which on the disk begins at its end; smaller ones are flushed together soon
_DROP_EVERY_BYTES = 8 * 1024 * 1024
_SYNC_EVERY_BYTES = 128 * 1024 * 1024  # keeps each wait short: a slow SSD needs seconds for this much, and minutes for a large file
_READBACK_FROM_BYTES = 64 * 1024 * 1024  # of an object, from which on it is read back while it still comes in
_READBACK_STEP_BYTES = 32 * 1024 * 1024  # each costs a flush
_READBACK_GAP_BYTES = 4 * 1024 * 1024  # left at the end of it: the last page, of up to 2 MiB, is written to, and so stays cached
_READBACK_TICK_SECONDS = 1.0
_RENAME_NOREPLACE = 1  # <linux/fs.h>
_SYNC_FILE_RANGE_WRITE = 2  # as above
_TOGETHER = 3  # so many copies, and flushing the whole file system is cheaper than flushing each
# <linux/magic.h>: ext2 to ext4, XFS, Btrfs and F2FS. Others do not wait for the disk in syncfs(2), or nobody has tried.
_SYNCED_WHOLE = frozenset({0xEF53, 0x58465342, 0x9123683E, 0xF2F52010})
_STATFS_BYTES = 256  # more than struct statfs has anywhere
_AT_FDCWD = -100  # <fcntl.h>

_DENIED_HINT = "the user that the workers run as must own the backup root"
_GONE_HINT = "the network share or the disk went away under the kit: mount it again; work goes on by itself"
_ERRNO_ERRORS: dict[int, tuple[type[ArchiveError], str | None]] = {
    errno.ENOSPC: (DiskFull, "make room on the backup disk, or prune; work goes on by itself"),
    errno.EDQUOT: (DiskFull, "raise the quota of the workers' user, or prune; work goes on by itself"),
    errno.EROFS: (DiskFailed, "see dmesg for why it became read-only; check the disk and mount it for writing"),
    errno.ESTALE: (DiskFailed, _GONE_HINT),
    errno.ENOTCONN: (DiskFailed, _GONE_HINT),
    errno.EACCES: (ArchiveError, _DENIED_HINT),
    errno.EPERM: (ArchiveError, _DENIED_HINT),
    errno.EEXIST: (ArchiveError, "something else has that name"),
    errno.EFBIG: (ArchiveError, "the file system cannot hold a file of this size; FAT32 ends at 4 GiB"),
    errno.ELOOP: (ArchiveError, "there is a symbolic link below the backup root, and none is followed"),
    errno.ENOTDIR: (ArchiveError, "there is a file or a symbolic link where a folder should be"),
}


class FileIdentity(NamedTuple):
    """Which file it is: another one in its place has another inode, or another time of its last change."""

    device: int
    inode: int
    changed_ns: int
    size: int


class Examined(NamedTuple):
    """A copy as it lies on the disk, unverified: its header, its size in bytes, and when it was written, in whole milliseconds."""

    header: CopyHeader
    stored_size: int
    stored_at: datetime


class DiskUsage(NamedTuple):
    """Bytes that the workers may still write, all that the disk has, and whether it is mounted read-only.

    `files_left` is how many more files it can hold (inodes); None if there is no such limit.
    """

    free: int
    total: int
    read_only: bool
    files_left: int | None = None


class Archive:
    """The disk under `root`. Where `identity` is given, or once one was seen, no other disk is written to.

    One object serves any number of threads.
    """

    def __init__(self, root: Path | str, *, identity: str | None = None) -> None:
        self.root = Path(root)
        self._root = str(root)
        self._identity_path = f"{root}/{_IDENTITY}"
        self._expected = identity
        self._seen: tuple[tuple[int, int, int], str] | None = None

    @classmethod
    def create(cls, root: Path | str, *, now: datetime) -> Archive:
        """Prepare `root`, which may exist, and give it an identity, unless it has one; a second time changes nothing."""
        archive = cls(root)
        with _disk_errors(f"prepare {root}"):
            archive.root.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)
            for folder in (_INCOMING, _QUARANTINE):
                with _folder(archive._root, folder, create=True):
                    pass
            identity = {"uuid": str(uuid.uuid4()), "created": now.isoformat(), "format": FORMAT}
            with contextlib.suppress(FileExistsError):
                archive._place(_IDENTITY, json.dumps(identity).encode() + b"\n")
        archive.require()
        return archive

    # ---- which disk ----------------------------------------------------------------------------------------------------------

    def identity(self) -> str:
        """The disk's UUID. Raises RootMissing where there is none: most likely the disk is not mounted."""
        path = self._identity_path
        with _disk_errors(f"read {path}"):
            try:
                stat = os.stat(path)  # noqa: PTH116 - once for each copy, and twice as quick
                version = (stat.st_dev, stat.st_ino, stat.st_mtime_ns)
                if self._seen is None or self._seen[0] != version:
                    self._seen = (version, _identity_in(Path(path).read_bytes()))
                return self._seen[1]
            except (FileNotFoundError, NotADirectoryError):
                hint = f"see that the disk is mounted there (`findmnt {self.root}`); only one that is new is prepared by `cbk init`"
                raise RootMissing(f"no backup disk is mounted at {self.root}: {path} is missing", hint=hint) from None

    def require(self, identity: str | None = None) -> None:
        """Raise RootMissing unless this is the disk `identity`, or the one that was worked with so far. Costs one stat."""
        found = self.identity()
        expected = identity or self._expected or found
        if found != expected:
            hint = f"mount the disk that the catalog belongs to at {self.root}, or point CBK_CATALOG_URL to this disk's catalog"
            raise RootMissing(f"{self.root} is disk {found}, expected {expected}", hint=hint)
        self._expected = expected

    def usage(self) -> DiskUsage:
        """What room there is on the disk. Raises RootMissing where it is not mounted."""
        self.require()
        with _disk_errors(f"measure {self.root}"):
            usage = shutil.disk_usage(self.root)
            room = os.statvfs(self.root)
        files_left = room.f_favail if room.f_files else None
        read_only = bool(room.f_flag & os.ST_RDONLY)
        return DiskUsage(free=usage.free, total=usage.total, read_only=read_only, files_left=files_left)

    # ---- in ------------------------------------------------------------------------------------------------------------------

    @contextmanager
    def incoming(self, part_name: str, header: CopyHeader) -> Iterator[IncomingCopy]:
        """A new part, which is removed at the end unless it was published. `part_name` is one plain file name, unused so far.

        `header.sha256` is what the bytes must hash to; `header.size` is found out.
        """
        with self._incoming(IncomingCopy, part_name, header) as part:
            yield part

    @contextmanager
    def incoming_raw(self, part_name: str, header: CopyHeader) -> Iterator[RawCopy]:
        """As `incoming`, for a copy that comes as the gzip file that it is, with this header: from another disk."""
        with self._incoming(RawCopy, part_name, header) as part:
            yield part

    @contextmanager
    def _incoming(self, kind: type[_Incoming], part_name: str, header: CopyHeader) -> Iterator[_Incoming]:
        self.require()
        with _disk_errors(f"open part {part_name}"):
            try:
                part = kind(self._root, part_name, header)
            except FileNotFoundError:  # somebody tidied up
                with _folder(self._root, _INCOMING, create=True):
                    part = kind(self._root, part_name, header)
        try:
            yield part
        finally:
            part.discard()

    def flush(self, parts: Sequence[IncomingCopy]) -> None:
        """Flush finished parts together, as far as that can be done: `IncomingCopy.flush` does the rest, and says
        of which one it fails.
        """
        if len(parts) >= _TOGETHER and parts[0].syncs_all():
            for part in parts:
                part.is_flushed = True

    @contextmanager
    def publishing(self) -> Iterator[Publication]:
        """Publish copies together: once this ends without an error, all that were put survive a power cut.

        Raises ArchiveError where they may not, though they are under their names.
        """
        self.require()
        with _disk_errors(f"publish copies below {self._root}"):
            publication = Publication(self._root)
            try:
                yield publication
                publication.flush()
            finally:
                publication.close()

    def is_free(self, location: str) -> bool:
        """Whether nothing lies at `location`, at the cost of one call and followed links: only a place to save a closer look."""
        return not os.path.lexists(f"{self._root}/{location}")

    def adopt(
        self,
        location: str,
        *,
        sha256: str,
        md5: str = "",
        of: tuple[str, str, int] | None = None,
        tick: Tick | None = None,
    ) -> Written:
        """As `check`, and flushed to the disk: what a worker left behind that died between publishing and recording."""
        written = self.check(location, sha256=sha256, md5=md5, of=of, tick=tick)
        with _disk_errors(f"flush {location}"), self._open(location) as descriptor:
            os.fsync(descriptor)
            for folder in _parents(location):
                with _folder(self._root, folder) as parent:
                    _sync_folder(parent)
        return written

    # ---- there ---------------------------------------------------------------------------------------------------------------

    def inspect(self, location: str) -> CopyHeader:
        """What a copy says about itself, unverified. Raises CopyMissing, or CopyCorrupt where there is no header of ours."""
        with _disk_errors(f"read {location}"), _about(location), self._open(location) as descriptor:
            return _header_of(descriptor)

    def examine(self, location: str) -> Examined:
        """As `inspect`, with what the disk says about the file, at the cost of two small reads, of whatever size the copy is.

        Raises CopyCorrupt also where the copy does not end as one of that size does: it is cut short.
        """
        with _disk_errors(f"read {location}"), _about(location), self._open(location) as descriptor:
            header, status = _header_of(descriptor), os.fstat(descriptor)
            if not ends_with_size(os.pread(descriptor, TRAILER_BYTES, max(0, status.st_size - TRAILER_BYTES)), header.size):
                raise CopyCorrupt(f"does not end as a copy of {header.size} bytes does: it is cut short, or was overwritten")
            return Examined(header, status.st_size, _written_at(status))

    def check(
        self,
        location: str,
        *,
        sha256: str,
        md5: str = "",
        size: int | None = None,
        of: tuple[str, str, int] | None = None,
        tick: Tick | None = None,
        on_read: OnRead | None = None,
    ) -> Written:
        """Read a copy from the disk, inflate it and compare it with `sha256`. Raises CopyMissing, CopySwapped or CopyCorrupt.

        Where nobody knows that yet (""), what its own header says counts, with this `md5`, if there is one. `of` is the storage,
        key and version that its header must name, where that is asked. `tick` is called with each chunk, so that a lease can be
        kept, and `on_read` with the number of bytes of each read; what they raise ends the check.
        """
        with _disk_errors(f"read {location}"), _about(location), self._open(location) as descriptor:
            header, written = _verify(_Reading(descriptor, on_read), tick)
            if not sha256 and md5 not in {"", header.md5}:
                raise CopySwapped(f"is a good copy of bytes whose MD5 is not {md5}, or is not known")
            if (sha256 or header.sha256) != header.sha256 or size not in {None, header.size}:
                expected = f"{sha256} ({header.size if size is None else size} bytes)"
                raise CopySwapped(
                    f"is a good copy of other bytes: SHA-256 {header.sha256} ({header.size} bytes), expected {expected}"
                )
            if of is not None and not _is_of(header, *of):
                raise CopySwapped(f"is the copy of {header.storage}/{header.key} v{header.version}")
            return written

    def digest(self, location: str, *, on_read: OnRead | None = None) -> tuple[str, int]:
        """SHA-256 in hex and size of the gzip file as it lies there, not inflated. Raises CopyMissing. `on_read` as in `check`."""
        with _disk_errors(f"read {location}"), self._open(location) as descriptor, _uncached(descriptor):
            reading = _Reading(descriptor, on_read)
            for _ in reading:
                pass
            return reading.sha256, reading.size

    def open_copy(self, location: str, *, sha256: str | None = None) -> Iterator[bytes]:
        """The bytes of a copy, inflated, in chunks. They count only once the iteration has ended without CopyCorrupt.

        Where `sha256` is given, they hash to that then. Raises CopySwapped, before any byte, where the header names others.
        """
        with _disk_errors(f"read {location}"), _about(location), self._open(location) as descriptor, _uncached(descriptor):
            decoder = Decoder(_Reading(descriptor, hashes=False))
            if sha256 not in {None, decoder.header.sha256}:
                raise CopySwapped(f"its header names other bytes, of SHA-256 {decoder.header.sha256}")
            yield from decoder

    def open_raw(self, location: str) -> Iterator[bytes]:
        """The bytes of the gzip file itself, in chunks, for `incoming_raw` of another disk, which compares them."""
        with _disk_errors(f"read {location}"), _about(location), self._open(location) as descriptor, _uncached(descriptor):
            yield from _Reading(descriptor, hashes=False)

    def walk(self, on_problem: OnProblem | None = None) -> Iterator[str]:
        """The locations of all copies, in no order, in flat memory.

        A folder that cannot be listed goes to `on_problem` with the reason, and the walk goes on. Raises ArchiveError without it.
        """
        self.require()
        yield from self._walk("", on_problem)

    # ---- notes ---------------------------------------------------------------------------------------------------------------

    def write_note(self, name: str, content: bytes) -> None:
        """Keep `content` as the file `name` in `.cbk`, in place of what was there: after a power cut it is the old or the new one.

        What is the same already is not written again. Raises ArchiveError, with the old one still there.
        """
        self.require()
        _plain_name(name)
        with _disk_errors(f"write {_KIT}/{name}"), _folders_held(self._root), _folder(self._root, _KIT) as folder:
            if _read_note(folder, name) == content:
                return
            new = f"{name}.new"  # under the lock, so what a killed process left is nobody's
            descriptor = os.open(new, _REPLACE_FLAGS, _FILE_MODE, dir_fd=folder)
            try:
                _give_to_owner(descriptor, os.fstat(folder))
                _write_all(descriptor, content)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
            _sync_folder(folder)

    def add_to_note(self, name: str, content: bytes, *, size: int) -> bool:
        """Add to the end of a note of so many bytes; after a power cut, some of it may be there. False where it has another size.

        Raises ArchiveError, with nothing added where the disk is full.
        """
        self.require()
        _plain_name(name)
        with _disk_errors(f"write {_KIT}/{name}"), _folders_held(self._root), _folder(self._root, _KIT) as folder:
            try:
                descriptor = os.open(name, _APPEND_FLAGS, dir_fd=folder)
            except FileNotFoundError:
                return False
            try:
                if os.fstat(descriptor).st_size != size:
                    return False
                try:
                    _write_all(descriptor, content)
                    os.fsync(descriptor)
                except OSError:
                    os.ftruncate(descriptor, size)
                    raise
            finally:
                os.close(descriptor)
        return True

    def read_note(self, name: str) -> bytes | None:
        """What `write_note` kept under this name; None where there is nothing. Raises RootMissing, or ArchiveError."""
        self.require()
        _plain_name(name)
        with _disk_errors(f"read {_KIT}/{name}"), _folder(self._root, _KIT) as folder:
            return _read_note(folder, name)

    # ---- out -----------------------------------------------------------------------------------------------------------------

    def remove(self, location: str) -> None:
        """Delete a copy and the folders that it leaves empty, up to the bucket's. One that is gone already is fine."""
        self.require()
        place, name = _split(location)
        with _disk_errors(f"remove {location}"):
            with contextlib.suppress(FileNotFoundError), _folder(self._root, place) as folder:
                os.unlink(name, dir_fd=folder)
                _sync_folder(folder)
            with _folders_held(self._root):
                self._remove_empty(place)

    def identify(self, location: str) -> FileIdentity:
        """Which file lies there now. Raises CopyMissing."""
        with _disk_errors(f"read {location}"), self._open(location) as descriptor:
            return _identity_of_file(os.fstat(descriptor))

    def quarantine(self, location: str, *, only: FileIdentity | None = None) -> str:
        """Take a bad copy out of the way without losing the evidence; gives its new path, relative to the root.

        `only` this very file, if it is given: another one that lies there by now stays. Raises CopyMissing then.
        """
        self.require()
        place, name = _split(location)
        stem = hashlib.sha256(location.encode()).hexdigest()[:16]
        with (
            _disk_errors(f"move {location} to quarantine"),
            _missing(location),
            _folder(self._root, _QUARANTINE, create=True) as target,
            _folder(self._root, place) as source,
        ):
            if only is not None and only != _identity_of_file(os.stat(name, dir_fd=source, follow_symlinks=False)):
                raise CopyMissing(f"{location} is another file by now")
            new_name = _move_to_free_name(source, name, target, stem)
            _sync_folder(target)
            _sync_folder(source)
        return f"{_QUARANTINE}/{new_name}"

    def quarantined(self) -> Iterator[tuple[str, CopyHeader]]:
        """What lies in quarantine and has a header that can be read: its name there, and whose copy it says that it is."""
        self.require()
        with _disk_errors("list quarantine"), _folder(self._root, _QUARANTINE, create=True) as folder:
            for name in sorted(os.listdir(folder)):  # noqa: PTH208 - a descriptor, not a path
                with contextlib.suppress(CopyCorrupt, OSError), _opened(folder, name) as descriptor:
                    yield name, _header_of(descriptor)

    def check_quarantined(self, name: str, *, sha256: str) -> None:
        """Read a copy in quarantine to its end. Raises CopyMissing or CopyCorrupt unless it is one of these bytes."""
        self.require()
        _plain_name(name)
        with (
            _disk_errors(f"read {name} in quarantine"),
            _about(name),
            _missing(name),
            _folder(self._root, _QUARANTINE) as folder,
            _opened(folder, name) as descriptor,
        ):
            header, _ = _verify(_Reading(descriptor), None)
            if header.sha256 != sha256:
                raise CopySwapped(f"is a good copy of other bytes: SHA-256 {header.sha256}, expected {sha256}")

    def release(self, name: str, location: str) -> None:
        """Put a copy from quarantine back at its place. Raises CopyMissing, or CopyExists where its place is taken."""
        self.require()
        _plain_name(name)
        self._put_back(_QUARANTINE, name, location, CopyMissing(f"{name} is not in quarantine"))

    def purge_quarantine(self, location: str) -> None:
        """Delete what lies in quarantine from this place, and what is known about it: nothing of a deleted file stays."""
        self.require()
        stem = hashlib.sha256(location.encode()).hexdigest()[:16]
        with _disk_errors(f"purge quarantine of {location}"), _folder(self._root, _QUARANTINE, create=True) as folder:
            for name in os.listdir(folder):  # noqa: PTH208 - a descriptor, not a path
                if name.startswith(f"{stem}-"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=folder)
            _sync_folder(folder)

    def describe(self, quarantined: str, evidence: Mapping[str, object]) -> None:
        """Put what is known about a copy beside it in quarantine, as JSON: `x-1.gzip` gets `x-1.json`."""
        with _disk_errors(f"describe {quarantined}"):
            self._place(quarantined.removesuffix(".gzip") + ".json", json.dumps(evidence, indent=1).encode() + b"\n")

    def trash(self, location: str, name: str) -> bool:
        """Move a copy into the trash as `name`, and remove the folders that it leaves empty. False where neither place has it.

        Safe to repeat: what was moved already stays.
        """
        self.require()
        _plain_name(name)
        place, copy = _split(location)
        with _disk_errors(f"move {location} to the trash"), _folder(self._root, _TRASH, create=True) as target:
            with contextlib.suppress(FileNotFoundError), _folder(self._root, place) as source:
                os.rename(copy, name, src_dir_fd=source, dst_dir_fd=target)
                _sync_folder(target)
                _sync_folder(source)
            with _folders_held(self._root):
                self._remove_empty(place)
            return _exists(target, name)

    def restore_from_trash(self, name: str, location: str) -> None:
        """Put a copy back at its place. Raises CopyMissing where the trash has none, CopyExists where its place is taken.

        Safe to repeat: one that is back already stays.
        """
        self.require()
        _plain_name(name)
        gone = CopyMissing(f"{location} is not in the trash", hint="the next poll or `cbk resync` fetches it again")
        self._put_back(_TRASH, name, location, gone)

    def _put_back(self, folder: str, name: str, location: str, gone: CopyMissing) -> None:
        place, copy = _split(location)
        with (
            _disk_errors(f"bring back {location}"),
            _folder(self._root, folder, create=True) as source,
            _folders_held(self._root),  # of several at once, the others find it gone
        ):
            if not _exists(source, name):
                raise gone
            with _folder(self._root, place, create=True) as target:
                try:
                    _move(source, name, target, copy)
                except FileExistsError:
                    raise CopyExists(f"{location} is there already", hint="`cbk resync` tells whether it is good") from None
                except FileNotFoundError:  # its time in the trash was over just now
                    raise gone from None
                _sync_folder(target)
                _sync_folder(source)

    def empty_trash(self, name: str) -> None:
        """Delete a copy from the trash for good; one that is gone already is fine."""
        self.require()
        _plain_name(name)
        with (
            _disk_errors(f"remove {name} from the trash"),
            contextlib.suppress(FileNotFoundError),
            _folder(self._root, _TRASH) as folder,
        ):
            os.unlink(name, dir_fd=folder)
            _sync_folder(folder)

    def sweep(self, keep: Callable[[str], bool]) -> int:
        """Remove the parts that workers left behind when they died: those whose name `keep` denies. Gives their number."""
        self.require()
        removed = 0
        with _disk_errors(f"sweep {_INCOMING}"), _folder(self._root, _INCOMING, create=True) as folder:
            for name in os.listdir(folder):  # noqa: PTH208 - a descriptor, not a path
                if not keep(name):
                    # What is no file, or is held open over NFS, is nobody's part: it stays, and keeps nobody from working.
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=folder)
                        removed += 1
        return removed

    # ---- within --------------------------------------------------------------------------------------------------------------

    @contextmanager
    def _open(self, location: str) -> Iterator[int]:
        """A descriptor of a copy. Raises CopyMissing, but only where the disk itself is there."""
        place, name = _split(location)
        self.require()
        with _missing(location), _folder(self._root, place) as folder:
            descriptor = os.open(name, _READ_FLAGS, dir_fd=folder)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _place(self, path: str, content: bytes) -> None:
        """Write a file of the kit's own, whole and durable. Raises FileExistsError where there is one."""
        folder_name, _, name = path.rpartition("/")
        temporary = f"{name}.{uuid.uuid4().hex}"
        with _folder(self._root, folder_name) as folder:
            descriptor = os.open(temporary, _CREATE_FLAGS, _FILE_MODE, dir_fd=folder)
            try:
                _give_to_owner(descriptor, os.fstat(folder))
                _write_all(descriptor, content)
                os.fsync(descriptor)
                _move(folder, temporary, folder, name)
            finally:
                os.close(descriptor)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)
            _sync_folder(folder)

    def _remove_empty(self, place: str) -> None:
        while "/" in place:
            place, _, leaf = place.rpartition("/")
            try:
                with _folder(self._root, place) as folder:
                    os.rmdir(leaf, dir_fd=folder)
                    _sync_folder(folder)
            except FileNotFoundError:
                continue
            except OSError as exc:
                if exc.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                    return
                raise

    def _walk(self, folder: str, on_problem: OnProblem | None) -> Iterator[str]:
        try:
            with _disk_errors(f"list {folder or self._root}"):
                yield from self._copies_below(folder, on_problem)
        except ArchiveError as error:
            if on_problem is None:
                raise
            on_problem(folder, error)

    def _copies_below(self, folder: str, on_problem: OnProblem | None) -> Iterator[str]:
        try:
            entries = os.scandir(f"{self._root}/{folder}")
        except FileNotFoundError:  # removed since it was listed
            return
        with entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if path not in NOT_BUCKETS and path.count("/") < PLACE_MAX_SEGMENTS:
                        yield from self._walk(path, on_problem)
                elif folder and COPY_NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    yield path


class IncomingCopy:
    """A copy in arrival, for one thread, from `Archive.incoming`: expect, write, finish, flush, read_back, `Publication.put`."""

    def __init__(self, root: str, name: str, header: CopyHeader) -> None:
        _plain_name(name)
        self.name = name
        self.header = header
        self.written: Written | None = None
        self._path = f"{root}/{_INCOMING}/{name}"
        self._encoder = Encoder()
        self._unsynced = 0
        self._started = False
        self._sealed = False
        self._finished = False
        # Whether all of it is on the disk already, by `syncs_all` of an older part.
        self.is_flushed = False
        self._published = False
        self._readback: _StreamingReadback | None = None
        self._descriptor: int | None = os.open(self._path, _CREATE_FLAGS, _FILE_MODE)
        _give_to_owner(self._descriptor, os.stat(os.path.dirname(self._path)))  # noqa: PTH116, PTH120 - Path costs more

    @property
    def bytes_in(self) -> int:
        """How many bytes of the object were written so far."""
        return self._encoder.bytes_in

    def expect(self, size: int) -> None:
        """Be told how many bytes the object is said to have, before the first of them; it may turn out to have others.

        A large copy is read back from here on, while it comes in. Raises DiskFailed where it cannot be.
        """
        if self.bytes_in or size > SIZE_MAX_BYTES:  # nonsense, which an end that does not come will tell
            return
        self.header = dataclasses.replace(self.header, size=size)
        # One that is sealed in the end gets another header then than what would have been read back.
        if size >= _READBACK_FROM_BYTES and self._readback is None and self.header.sha256 != UNTOLD_SHA256:
            # Where no thread can be had, it is read back afterwards.
            with _disk_errors(f"read part {self.name}"), contextlib.suppress(RuntimeError):
                self._readback = _StreamingReadback(self.name, self._path)

    def describe(self, properties: ObjectProperties | None) -> None:
        """Be told what the object is besides its bytes, before the first of them: its header keeps that."""
        if not self._started:
            self.header = dataclasses.replace(self.header, properties=properties)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the object; `data` may be reused afterwards.

        Raises DiskFull or DiskFailed; CopyCorrupt where the disk gave other bytes already than were written.
        """
        if self._readback is not None:
            with _about(f"part {self.name}"):
                # Beyond the announced size, it may be no more than that which is wrong; it is read back from the start then.
                self._readback.check(may_be_bad=self.bytes_in > self.header.size)
        with _disk_errors(f"write part {self.name}"):
            descriptor = self._open_descriptor()
            for output in self._encoder.feed(data):
                self._put(descriptor, output)

    def seal(self, sha256: str, md5: str = "") -> None:
        """Be told, after the last byte and before `finish`, what they hash to, if nobody knew it when the first one came."""
        sealed = dataclasses.replace(self.header, sha256=sha256, md5=md5)
        self._sealed = sealed != self.header
        self.header = sealed

    def finish(self) -> None:
        """End the copy; of a large one, the disk begins to write what is left. Raises DiskFull or DiskFailed."""
        rest = self._encoder.finish()
        size_is_new = self.bytes_in != self.header.size
        self.header = dataclasses.replace(self.header, size=self.bytes_in)
        if size_is_new and self._readback is not None:  # what it has read is not what the copy will be
            self._close_readback().check(may_be_bad=True)
        with _disk_errors(f"write part {self.name}"):
            descriptor = self._open_descriptor()
            header_is_wrong = self._started and (size_is_new or self._sealed)
            self._put(descriptor, rest)
            if header_is_wrong:
                os.lseek(descriptor, 0, os.SEEK_SET)
                _write_all(descriptor, encode_header(self.header))
            if self._unsynced >= _WRITEBACK_FROM_BYTES:
                _begin_writeback(descriptor)
        self._finished = True

    def flush(self) -> None:
        """Wait until all of the finished copy is on the disk, unless it is. Raises DiskFull or DiskFailed."""
        if not self._finished:
            raise ValueError("a part is flushed after it was finished")
        if self._descriptor is not None:
            with _disk_errors(f"write part {self.name}"):
                if not self.is_flushed:
                    os.fsync(self._descriptor)
                descriptor, self._descriptor = self._descriptor, None
                os.close(descriptor)
        if self._readback is not None:
            self._readback.reach_end()

    def syncs_all(self) -> bool:
        """Flush the file system that this part is on: all that was written since the part was opened is on the disk, if True."""
        return _sync_filesystem(self._open_descriptor())

    def read_back(self, *, tick: Tick | None = None) -> Written:
        """Open the flushed file again by its name, and verify every byte. `tick` as in `Archive.check`.

        Where that goes on since `expect`, it is waited for, and `tick` is called every second.
        Raises CopyCorrupt where the disk gives other bytes than were written; HashMismatch where it gives the same, as the trailer
        tells, but they are not what the header says: they came so.
        """
        if self._descriptor is not None:
            raise ValueError("a part is read back after it was flushed")
        with _disk_errors(f"read part {self.name}"), _about(f"part {self.name}"):
            found = self._read_back_streamed(tick)
            if found is None:
                descriptor = os.open(self._path, _READ_FLAGS)
                try:
                    found = _verify(_Reading(descriptor), tick, compares=False)
                finally:
                    os.close(descriptor)
            header, written = found
            if header != self.header:
                raise CopyCorrupt("its header is not the one that was written")
        if written.sha256 != header.sha256:
            message = f"the object has SHA-256 {written.sha256}, but its row says {header.sha256}"
            raise HashMismatch(message, expected=header.sha256, actual=written.sha256)
        self.written = written
        return written

    def move(self, folder: int, name: str) -> None:
        """Move the file into an open folder, for `Publication.put`; nothing of the part is left then. Raises FileExistsError."""
        _move(None, self._path, folder, name)
        self._published = True

    def discard(self) -> None:
        """Close the part and remove its file, if it was not published. Never raises: whatever led here matters more."""
        if self._readback is not None:
            self._close_readback()
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None
        if not self._published:
            with contextlib.suppress(OSError):
                os.unlink(self._path)  # noqa: PTH108 - all paths of parts are text

    def _read_back_streamed(self, tick: Tick | None) -> tuple[CopyHeader, Written] | None:
        """What was found while the copy came in; None where nothing was, or of another file than the one that has the name now."""
        if self._readback is None:
            return None
        try:
            return self._readback.finish(self._path, tick)
        finally:
            self._close_readback()

    def _close_readback(self) -> _StreamingReadback:
        readback, self._readback = cast("_StreamingReadback", self._readback), None
        readback.close()
        return readback

    def _put(self, descriptor: int, output: bytes) -> None:
        if not self._started:
            output = encode_header(self.header) + output
            self._started = True
        _write_all(descriptor, output)
        if self._readback is not None:
            self._readback.follow(len(output))
        self._unsynced += len(output)
        if self._unsynced >= _SYNC_EVERY_BYTES:
            os.fdatasync(descriptor)
            self._unsynced = 0

    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            raise ValueError("a part that was flushed takes no more bytes")
        return self._descriptor


class RawCopy(IncomingCopy):
    """A copy in arrival as the gzip file that it is: what is written is kept as it comes, and read back like any other."""

    def __init__(self, root: str, name: str, header: CopyHeader) -> None:
        super().__init__(root, name, header)
        self._started = True  # its header comes with its bytes

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the file."""
        with _disk_errors(f"write part {self.name}"):
            self._put(self._open_descriptor(), bytes(data))

    def finish(self) -> None:
        """All of it came."""
        with _disk_errors(f"write part {self.name}"):
            if self._unsynced >= _WRITEBACK_FROM_BYTES:
                _begin_writeback(self._open_descriptor())
        self._finished = True


class _ReadbackStopped(Exception):
    """Nobody waits for what is read any more."""


class _StreamingReadback:
    """Reads a part back while it still comes in: a thread beside its writer, and a descriptor opened anew by the part's name.

    Nothing is read that was not flushed by this descriptor and then dropped from the page cache, and the end only after the writer
    has flushed the whole. The writer shares the disk with it, but waits for it only to `finish` and to `close`; `check` tells it of
    a disk that fails. Raises RuntimeError where no thread can be had.
    """

    def __init__(self, part_name: str, path: str) -> None:
        self._part_name = part_name
        self._moved = threading.Condition()
        self._written = 0
        self._at_end = False
        self._stopped = False
        self._found: tuple[CopyHeader, Written] | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="cbk-trail", daemon=True)
        # Before anything is written: an error that writing meets from here on is told to whoever flushes by it.
        self._descriptor = os.open(path, _READ_FLAGS)
        try:
            self._thread.start()
        except BaseException:
            os.close(self._descriptor)
            raise

    def follow(self, count: int) -> None:
        """So many bytes more were written."""
        with self._moved:
            self._written += count
            self._moved.notify()

    def reach_end(self) -> None:
        """All of the part was written, and flushed."""
        with self._moved:
            self._at_end = True
            self._moved.notify()

    def check(self, *, may_be_bad: bool) -> None:
        """Raise what went wrong so far; where it `may_be_bad`, for its size is another than announced, all but CopyCorrupt."""
        if self._error is not None and not (may_be_bad and isinstance(self._error, CopyCorrupt)):
            raise self._error

    def finish(self, path: str, tick: Tick | None) -> tuple[CopyHeader, Written] | None:
        """Wait for what is found, after `reach_end`; None where `path` leads to another file by now, or to a link.

        What `tick` raises ends it. Raises what went wrong: CopyCorrupt, unless of that other file, or as `check`.
        """
        while self._thread.is_alive():
            if tick:
                tick()
            self._thread.join(_READBACK_TICK_SECONDS)
        self.check(may_be_bad=True)
        if not os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(self._descriptor)):  # noqa: PTH116
            return None
        self.check(may_be_bad=False)
        if self._found is None:
            raise ValueError("a copy counts only once all of it was read")
        return self._found

    def close(self) -> None:
        """End the thread, which is at most within one call on the disk, and close the descriptor. Never raises."""
        with self._moved:
            self._stopped = True
            self._moved.notify()
        self._thread.join()
        with contextlib.suppress(OSError):
            os.close(self._descriptor)

    def _run(self) -> None:
        try:
            with _disk_errors(f"read part {self._part_name}"):
                reading = _Reading(self._descriptor, up_to=self._up_to)
                self._found = _verify(reading, self._go_on, compares=False)
        except _ReadbackStopped:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            self._error = error

    def _up_to(self, position: int) -> int:
        """Up to where may be read, once that is further than `position`."""
        with self._moved:
            wanted = position + _READBACK_STEP_BYTES + _READBACK_GAP_BYTES
            self._moved.wait_for(lambda: self._stopped or self._at_end or self._written >= wanted)
            written, at_end = self._written, self._at_end
        self._go_on()
        with _disk_errors(f"write part {self._part_name}"):
            os.fdatasync(self._descriptor)
            # From the gap before on, and to the end: a page may begin before what it is of.
            os.posix_fadvise(self._descriptor, max(0, position - _READBACK_GAP_BYTES), 0, os.POSIX_FADV_DONTNEED)
        return sys.maxsize if at_end else written - _READBACK_GAP_BYTES

    def _go_on(self) -> None:
        if self._stopped:
            raise _ReadbackStopped


class Publication:
    """Copies that are put under their names, and the folders to flush for it: from `Archive.publishing`."""

    def __init__(self, root: str) -> None:
        self._root = root
        # Before anything is changed: an error that writing meets from here on is told to whoever flushes by it.
        self._root_descriptor = os.open(root, _ROOT_FLAGS)
        self._walk = _FolderHandles(root)
        self._changed: set[str] = set()
        self._count = 0

    def put(self, part: IncomingCopy, location: str) -> None:
        """Put a part that was read back under its name.

        Raises CopyExists, with the part still there, where `location` is taken: `Archive.adopt` tells whether by the same copy.
        """
        if part.written is None:
            raise ValueError("a part is published after it was read back")
        place, name = _split(location)
        with _disk_errors(f"publish {location}"):
            try:
                try:
                    self._put(part, place, name)
                except FileNotFoundError:  # somebody removed a folder, then empty, after it was opened here
                    self._walk.close()
                    with _folders_held(self._root):
                        self._put(part, place, name)
            except FileExistsError:
                raise CopyExists(f"{location} is there already", hint="`cbk resync` tells whether it is good") from None

    def flush(self) -> None:
        """Flush what the folders say about the copies that were put. Raises ArchiveError."""
        with _disk_errors(f"flush {len(self._changed)} folders"):
            if self._count >= _TOGETHER and _sync_filesystem(self._root_descriptor):
                self._changed.clear()
            for path in sorted(self._changed, reverse=True):
                # One that is gone was empty again: what was put there was pruned meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    _sync_folder(self._walk.enter(path))
        self._changed.clear()

    def close(self) -> None:
        """Close the folders that are open."""
        self._walk.close()
        os.close(self._root_descriptor)

    def _put(self, part: IncomingCopy, place: str, name: str) -> None:
        folder = self._walk.enter(place, create=True)
        self._changed |= self._walk.collect_changed()
        part.move(folder, name)
        self._changed.add(place)
        self._count += 1


class _Reading:
    """A file's bytes in chunks, counted and, unless `hashes` is False, hashed on the way; they do not stay in the page cache.

    The bytes of a large file are hashed in a thread beside, while whoever takes them works on them. Of a file that still grows,
    `up_to` says how far it may be read: it is called with the offset reached, and returns once there is a later one.
    """

    def __init__(
        self, descriptor: int, on_read: OnRead | None = None, *, hashes: bool = True, up_to: Callable[[int], int] | None = None
    ) -> None:
        self.size = 0
        self.descriptor = descriptor
        self._up_to = up_to
        self._limit = 0 if up_to else sys.maxsize
        self._on_read = on_read
        self._dropped = 0
        self._hashes = hashes
        self._sha256 = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of all bytes, once the iteration has ended."""
        return self._sha256.hexdigest()

    def __iter__(self) -> Generator[bytes, None, None]:
        if not self._hashes or (self._up_to is None and os.fstat(self.descriptor).st_size < _BACKGROUND_FROM_BYTES):
            yield from self._chunks(self._sha256.update if self._hashes else len)
            return
        with _BackgroundWorker(self._sha256.update, "cbk-hash") as hashing:
            yield from self._chunks(hashing.feed)

    def _chunks(self, feed: Callable[[bytes], object]) -> Iterator[bytes]:
        while data := os.read(self.descriptor, self._next_bytes()):
            feed(data)
            self.size += len(data)
            if self.size - self._dropped >= _DROP_EVERY_BYTES:
                os.posix_fadvise(self.descriptor, self._dropped, self.size - self._dropped, os.POSIX_FADV_DONTNEED)
                self._dropped = self.size
            if self._on_read:
                self._on_read(len(data))
            yield data

    def _next_bytes(self) -> int:
        if self._up_to is not None and self.size >= self._limit:
            self._limit = self._up_to(self.size)
        return min(_READ_BYTES, self._limit - self.size)


class _BackgroundWorker:
    """Does `work` with chunk after chunk, in order, in a thread beside until the end of the block; itself where none can be had."""

    def __init__(self, work: Callable[[bytes], object], name: str) -> None:
        self._work = work
        self._chunks: Queue[bytes | None] = Queue(_BACKGROUND_CHUNKS)
        self._error: BaseException | None = None
        # A daemon, and no pool: a worker that is stopped at once finishes what is under way, when pools take nothing any more.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._has_thread = False

    def __enter__(self) -> Self:
        with contextlib.suppress(RuntimeError):
            self._thread.start()
            self._has_thread = True
        return self

    def __exit__(self, *exception: object) -> None:
        if self._has_thread:
            self._chunks.put(None)
            self._thread.join()
        if self._error is not None and exception[0] is None:
            raise self._error

    def feed(self, chunk: bytes) -> None:
        """Have this worked on; waits while there are too many before it."""
        if self._has_thread:
            self._chunks.put(chunk)
        else:
            self._work(chunk)

    def _run(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            if self._error is None:
                try:
                    self._work(chunk)
                except BaseException as error:  # noqa: BLE001 - it is raised at the end of the block
                    self._error = error


@contextmanager
def _uncached(descriptor: int) -> Iterator[None]:
    """Ask the disk for a file, not the page cache, and leave nothing of it there in the end: other files' pages stay."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        yield
    finally:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _verify(reading: _Reading, tick: Tick | None, *, compares: bool = True) -> tuple[CopyHeader, Written]:
    """Read a copy to its end; raises CopyCorrupt unless its bytes are what its header and its trailer say.

    Where it `compares` not, the SHA-256 of what was inflated may be another than the header's.
    """
    with _uncached(reading.descriptor), contextlib.closing(iter(reading)) as chunks:  # so that its thread ends with it
        decoder = Decoder(chunks, compares=compares)
        for _ in decoder:
            if tick:
                tick()
    written = Written(
        sha256=decoder.sha256,
        size=decoder.size,
        stored_size=reading.size,
        stored_sha256=reading.sha256,
        stored_at=_written_at(os.fstat(reading.descriptor)),
        md5=decoder.header.md5,
    )
    return decoder.header, written


def _identity_of_file(status: os.stat_result) -> FileIdentity:
    return FileIdentity(status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


@contextmanager
def _opened(folder: int, name: str) -> Iterator[int]:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _header_of(descriptor: int) -> CopyHeader:
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # no more than is asked for
    prefix = os.read(descriptor, _SHORT_HEADER_BYTES)
    try:
        return decode_header(prefix)[0]
    except CopyCorrupt:
        return decode_header(prefix + os.read(descriptor, HEADER_MAX_BYTES - len(prefix)))[0]


def _is_of(header: CopyHeader, storage: str, key: str, version: int) -> bool:
    """Whether it is the header of that version's copy, also one that an earlier release has written."""
    return (header.storage, header.version) == (storage, version) and names_file(header.key, key)


def _written_at(status: os.stat_result) -> datetime:
    return _EPOCH + timedelta(milliseconds=status.st_mtime_ns // 1_000_000)


def _identity_in(content: bytes) -> str:
    try:
        document = json.loads(content)
        identity, tree_format = str(document["uuid"]), int(document["format"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as exc:
        raise RootMissing(
            "the disk's identity is damaged", hint=f"put {_IDENTITY} back as it was; the catalog knows its uuid"
        ) from exc
    if tree_format > FORMAT:
        raise ArchiveError(f"the disk has format {tree_format}, this release knows {FORMAT}", hint="install the newer release")
    return identity


# ---- translating errors ------------------------------------------------------------------------------------------------------


@contextmanager
def _disk_errors(doing: str) -> Iterator[None]:
    """Turn every OSError into the ArchiveError that says what it means. `doing` completes the sentence "cannot ..."."""
    try:
        yield
    except OSError as exc:
        number = exc.errno or 0
        kind, hint = _ERRNO_ERRORS.get(number, (DiskFailed, "see the system's log (dmesg) for what the disk says"))
        name = errno.errorcode.get(number, "no error number")
        raise kind(f"cannot {doing}: {os.strerror(number).lower()} ({name})", hint=hint) from exc


@contextmanager
def _missing(location: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise CopyMissing(f"{location} is not on the disk", hint="the next poll or `cbk resync` fetches it again") from None


@contextmanager
def _about(subject: str) -> Iterator[None]:
    try:
        yield
    except CopyCorrupt as exc:
        raise type(exc)(f"{subject}: {exc.message}", hint=exc.hint) from exc


# ---- the file system ---------------------------------------------------------------------------------------------------------


class _FolderHandles:
    """Open folders below `root`, reached segment by segment without following a symbolic link: those on the way to one at a time.

    What the way to the next one has in common with it stays open.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._segments: list[str] = []
        self._descriptors: list[int] = []
        self._changed: set[str] = set()

    def enter(self, path: str, *, create: bool = False) -> int:
        """A descriptor of the folder `path`, until the next call. With `create`, what is missing is made."""
        segments = path.split("/") if path else []
        common = 0
        while common < min(len(segments), len(self._segments)) and segments[common] == self._segments[common]:
            common += 1
        self._close_below(common)
        if not self._descriptors:  # the root itself may be reached by a link
            self._descriptors.append(os.open(self._root, _ROOT_FLAGS))
        for segment in segments[common:]:
            descriptor, made = _enter(self._descriptors[-1], segment, create=create)
            if made:
                self._changed.add("/".join(self._segments))
            self._descriptors.append(descriptor)
            self._segments.append(segment)
        return self._descriptors[-1]

    def collect_changed(self) -> set[str]:
        """The folders that others were made in since the last call: they have to be flushed."""
        changed, self._changed = self._changed, set()
        return changed

    def close(self) -> None:
        """Close all of them."""
        self._close_below(0)
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _close_below(self, depth: int) -> None:
        while len(self._segments) > depth:
            self._segments.pop()
            os.close(self._descriptors.pop())


@contextmanager
def _folder(root: str, path: str, *, create: bool = False) -> Iterator[int]:
    """A descriptor of the folder `path` below `root`, reached segment by segment without following a symbolic link.

    With `create`, what is missing is made, and is flushed to the disk at the end, after what the body put in.
    """
    walk = _FolderHandles(root)
    try:
        yield walk.enter(path, create=create)
        for changed in sorted(walk.collect_changed(), reverse=True):
            _sync_folder(walk.enter(changed))
    finally:
        walk.close()


@contextmanager
def _folders_held(root: str) -> Iterator[None]:
    """While this lasts, nobody else removes empty folders, on any machine that shares the disk (flock(2))."""
    descriptor = os.open(f"{root}/{_LOCK}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)
    try:
        _give_to_owner(descriptor, os.stat(f"{root}/{_KIT}"))  # noqa: PTH116 - as above
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _enter(parent: int, segment: str, *, create: bool) -> tuple[int, bool]:
    try:
        return os.open(segment, _FOLDER_FLAGS, dir_fd=parent), False
    except FileNotFoundError:
        if not create:
            raise
    with contextlib.suppress(FileExistsError):  # another worker was faster, but may not have flushed it yet: so do we
        os.mkdir(segment, _FOLDER_MODE, dir_fd=parent)
    made = os.open(segment, _FOLDER_FLAGS, dir_fd=parent)
    _give_to_owner(made, os.fstat(parent))
    return made, True


def _give_to_owner(descriptor: int, folder: os.stat_result) -> None:
    """What root makes belongs to whoever has the folder that it is in: workers, who are not root, have to go on with it."""
    if os.geteuid() == 0 and (folder.st_uid, folder.st_gid) != (0, 0):
        with contextlib.suppress(OSError):  # a share on which root is nobody
            os.fchown(descriptor, folder.st_uid, folder.st_gid)


def _sync_folder(descriptor: int) -> None:
    """Flush what a folder says about its files; some network file systems cannot be asked to, and need not be."""
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in _NOT_SUPPORTED:
            raise


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _split(location: str) -> tuple[str, str]:
    """The place and the name of a copy. Raises ArchiveError where `location` is not one that the layout gives."""
    place, _, name = location.rpartition("/")
    if not is_copy_location(location):
        raise ArchiveError(f"{location!r} is not the location of a copy")
    return place, name


def _plain_name(name: str) -> None:
    if "/" in name or name in {"", ".", ".."}:
        raise ValueError(f"not a plain file name: {name!r}")


def _read_note(folder: int, name: str) -> bytes | None:
    try:
        descriptor = os.open(name, _READ_FLAGS, dir_fd=folder)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def _parents(location: str) -> Iterator[str]:
    """The folders that `location` lies in, innermost first; the root, "", is the last."""
    while location:
        location = location.rpartition("/")[0]
        yield location


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _move(source_folder: int | None, source: str, target_folder: int, target: str) -> None:
    """Rename between two open folders of one disk. Raises FileExistsError instead of replacing anything."""
    for move in (_rename_noreplace, _link_and_unlink):
        try:
            move(source_folder, source, target_folder, target)
        except OSError as exc:
            if exc.errno not in _NOT_SUPPORTED:
                raise
        else:
            return
    _checked_rename(source_folder, source, target_folder, target)


def _move_to_free_name(source_folder: int | None, source: str, target_folder: int, stem: str) -> str:
    number = 1
    while True:
        target = f"{stem}-{number}.gzip"
        try:
            _move(source_folder, source, target_folder, target)
        except FileExistsError:
            number += 1
        else:
            return target


def _rename_noreplace(source_folder: int | None, source: str, target_folder: int, target: str) -> None:
    """renameat2(2) of Linux 3.15: atomic, on local disks. Network file systems refuse the flag."""
    if _renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    above = _AT_FDCWD if source_folder is None else source_folder
    if _renameat2(above, os.fsencode(source), target_folder, os.fsencode(target), _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def _link_and_unlink(source_folder: int | None, source: str, target_folder: int, target: str) -> None:
    """Atomic as well, wherever there are hard links; NFS among them. A kill in between leaves a part for `sweep`."""
    os.link(source, target, src_dir_fd=source_folder, dst_dir_fd=target_folder, follow_symlinks=False)
    os.unlink(source, dir_fd=source_folder)


def _checked_rename(source_folder: int | None, source: str, target_folder: int, target: str) -> None:
    """The rest: two workers at one name in the same instant could replace one another's copy, of the same version."""
    try:
        os.stat(target, dir_fd=target_folder, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(source, target, src_dir_fd=source_folder, dst_dir_fd=target_folder)
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)


def _begin_writeback(descriptor: int) -> None:
    """Let the disk begin to write a file while others are made (sync_file_range(2)). It promises nothing; fsync waits less then."""
    if _sync_file_range is not None:
        _sync_file_range(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)


def _sync_filesystem(descriptor: int) -> bool:
    """Whether all that was written to the file system of this descriptor since it was opened is on the disk now (syncfs(2)).

    False where nothing is known: on file systems that do not promise it, and where something could not be written.
    """
    if _syncfs is None or _fstatfs is None or not _SYNCFS_TELLS:
        return False
    status = ctypes.create_string_buffer(_STATFS_BYTES)
    if _fstatfs(descriptor, status) != 0 or ctypes.c_long.from_buffer(status).value not in _SYNCED_WHOLE:
        return False
    return _syncfs(descriptor) == 0 and _still_takes(descriptor)


def _still_takes(descriptor: int) -> bool:
    """Whether the file system can be flushed still: of one that an error has made read-only, syncfs(2) says that all is well."""
    try:
        os.fsync(descriptor)
        return not os.fstatvfs(descriptor).f_flag & os.ST_RDONLY
    except OSError:
        return False


def _syncfs_tells() -> bool:
    """Whether syncfs(2) tells of what could not be written: of data since Linux 5.8, of what the file system meets since 5.17."""
    system, _, release, *_ = os.uname()
    number = re.match(r"(\d+)\.(\d+)", release)
    return system == "Linux" and number is not None and (int(number[1]), int(number[2])) >= (5, 17)


def _from_libc(name: str, *arguments: type[ctypes._SimpleCData[Any]]) -> Callable[..., int] | None:
    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (AttributeError, OSError):  # musl has not all of them
        return None
    function.argtypes = arguments
    function.restype = ctypes.c_int
    return cast("Callable[..., int]", function)


_renameat2 = _from_libc("renameat2", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_syncfs = _from_libc("syncfs", ctypes.c_int)
_fstatfs = _from_libc("fstatfs", ctypes.c_int, ctypes.c_char_p)
_SYNCFS_TELLS = _syncfs_tells()
_sync_file_range = _from_libc("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
