"""Reading copies from the disk again, by a few threads, and what there is to see of each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from cbk.edges import host
from cbk.edges.archive.archive import Archive, FileIdentity
from cbk.errors import ArchiveError, CopyCorrupt, CopyMissing, CopySwapped, RootMissing
from cbk.model import Version, Written
from cbk.rules.intake.layout import location_of
from cbk.rules.verification import CopyFinding, damage_of

OnRead = Callable[[int], None]


class Stopped(Exception):
    """Reading is to end; raised by `OnRead`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What a reader saw: no finding, or one with what was said; the copy as it is, as far as that could be read."""

    finding: CopyFinding | None = None
    message: str = ""
    written: Written | None = None
    # Whether readings of the same file differed: then the machine is ill, rather than the copy.
    is_flaky: bool = False
    # Which file was read, so that no other one is moved for it.
    identity: FileIdentity | None = None
    stored: tuple[str, int] | None = None


class Reads:
    """Counts what all readers read; once it is stopped, each of them ends with its next chunk."""

    def __init__(self, on_read: OnRead) -> None:
        self.total = 0
        self._on_read = on_read
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def __call__(self, count: int) -> None:
        """So many bytes more."""
        if self._stop.is_set():
            raise Stopped
        with self._lock:
            self.total += count
        self._on_read(count)

    def stop(self) -> None:
        """End the readers."""
        self._stop.set()


def look_at(
    archive: Archive, versions: Iterable[Version], *, quick: bool, readers: int, reads: Reads
) -> Generator[tuple[Version, CheckResult]]:
    """What there is to see of each copy, in the order in which they are done. The readers end with this."""
    running: dict[Future[CheckResult], Version] = {}
    with ThreadPoolExecutor(readers, thread_name_prefix="cbk-verify", initializer=host.read_gently) as pool:
        try:
            for version in versions:
                running[pool.submit(_look, archive, version, quick=quick, on_read=reads)] = version
                if len(running) > readers:
                    yield from _done(running)
            while running:
                yield from _done(running)
        finally:
            reads.stop()
            for future in running:
                future.cancel()


def _done(running: dict[Future[CheckResult], Version]) -> Iterator[tuple[Version, CheckResult]]:
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        yield running.pop(future), future.result()


def _look(archive: Archive, version: Version, *, quick: bool, on_read: OnRead) -> CheckResult:
    try:
        written = _read(archive, version, quick=quick, on_read=on_read)
    except RootMissing:
        raise
    except CopyMissing as error:
        archive.require()  # a disk that has just been unmounted misses every copy
        return CheckResult(finding=CopyFinding.MISSING, message=error.message)
    except CopyCorrupt as error:
        return _look_again(archive, version, error)
    except ArchiveError as error:
        return CheckResult(finding=CopyFinding.UNREADABLE, message=error.message)
    return _compared(version, written)


def _compared(version: Version, written: Written, *, is_flaky: bool = False) -> CheckResult:
    if version.stored_sha256 not in {None, written.stored_sha256}:
        message = f"{location_of(version)}: its content is whole, but the file is not the one that was written"
        return CheckResult(finding=CopyFinding.ALTERED, message=message, written=written, is_flaky=is_flaky)
    return CheckResult(written=written, is_flaky=is_flaky)


def _read(archive: Archive, version: Version, *, quick: bool, on_read: OnRead) -> Written:
    """The copy, good in content. Raises ArchiveError."""
    location = location_of(version)
    if quick and version.stored_sha256 is not None:
        stored_sha256, stored_size = archive.digest(location, on_read=on_read)
        if stored_sha256 == version.stored_sha256:
            size = version.size or 0
            return Written(sha256=version.sha256, size=size, stored_size=stored_size, stored_sha256=stored_sha256)
    named = (version.storage, version.key, version.number)
    return archive.check(location, sha256=version.sha256, size=version.size, of=named, on_read=on_read)


def _look_again(archive: Archive, version: Version, error: CopyCorrupt) -> CheckResult:
    """A copy is bad only if two readings of the same file agree; the disk is asked each time, and not the page cache."""
    location = location_of(version)
    try:
        identity = archive.identify(location)
        first = archive.digest(location)
        if first[0] == version.stored_sha256:
            size = version.size or 0
            as_written = Written(sha256=version.sha256, size=size, stored_size=first[1], stored_sha256=first[0])
            return CheckResult(written=as_written, is_flaky=True)
        try:
            named = (version.storage, version.key, version.number)
            return _compared(version, archive.check(location, sha256=version.sha256, size=version.size, of=named), is_flaky=True)
        except CopyCorrupt:
            second = archive.digest(location)
        if first != second or identity != archive.identify(location):
            message = f"{location}: readings of it differ"
            return CheckResult(finding=CopyFinding.UNREADABLE, message=message, is_flaky=True)
    except RootMissing:
        raise
    except CopyMissing as missing:
        return CheckResult(finding=CopyFinding.MISSING, message=missing.message)
    except ArchiveError as unreadable:
        return CheckResult(finding=CopyFinding.UNREADABLE, message=unreadable.message)
    finding = CopyFinding.SWAPPED if isinstance(error, CopySwapped) else damage_of(first[1], version.stored_size)
    return CheckResult(finding=finding, message=error.message, stored=first, identity=identity)
