"""Copies from one disk to another, as the gzip files that they are: each is read back and compared where it arrives.

Bytes before record: when this returns, what it names is whole and flushed under its final name; of the rest, nothing is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from cbk.edges.archive.archive import Archive, RawCopy
from cbk.errors import ArchiveError, CopyCorrupt, CopyExists, CopyMissing, CopySwapped, HashMismatch, RootMissing
from cbk.model import Written

Tick = Callable[[], None]
OnRead = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A copy that is to arrive at `location`, and what its object hashes to. `part_name` is unused there.

    `from_location` is where it lies on the disk that it comes from, unless that is the same.
    """

    location: str
    sha256: str
    part_name: str
    from_location: str | None = None
    # What lies there is known to be bad, and makes room.
    replaces: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What became of one: the copy as it lies there now, or what was wrong with it where it came from, or where it was to go."""

    wanted: Wanted
    written: Written | None = None
    error: ArchiveError | None = None


class _SourceError(Exception):
    """Reading failed, not writing."""

    def __init__(self, error: ArchiveError) -> None:
        super().__init__(error.message)
        self.error = error


def transfer(
    source: Archive,
    destination: Archive,
    wanted: Sequence[Wanted],
    *,
    tick: Tick,
    on_read: OnRead = lambda _: None,
    keeps_others: bool = False,
) -> list[Moved]:
    """Bring these copies from `source` to `destination`; what is there already and good stays as it is.

    With `keeps_others` so does a good copy of other bytes, and the one that was to go there has the error CopyExists.
    What is wrong with one is told of it. Raises ArchiveError if `destination` fails: then nothing is known of the rest, which may
    be there. `on_read` is told how many bytes came, and may wait; what it or `tick` raises ends the transfer.
    """
    moved: list[Moved] = []
    with ExitStack() as parts:
        coming: list[tuple[Wanted, RawCopy]] = []
        for each in wanted:
            tick()
            present = _present(destination, each, tick, keeps_others=keeps_others)
            if present is not None:
                moved.append(present)
                continue
            try:
                coming.append((each, _receive(source, destination, each, parts, on_read)))
            except _SourceError as error:
                moved.append(Moved(wanted=each, error=error.error))
        destination.flush([part for _, part in coming])
        ready: list[tuple[Wanted, RawCopy, Written]] = []
        for each, part in coming:
            part.flush()
            try:
                ready.append((each, part, part.read_back(tick=tick)))
            except (CopyCorrupt, HashMismatch) as error:
                moved.append(Moved(wanted=each, error=_corrupt(each, error)))
        with destination.publishing() as publication:
            published = []
            for each, part, written in ready:
                try:
                    publication.put(part, each.location)
                    published.append(Moved(wanted=each, written=written))
                except CopyExists as error:  # somebody was faster: the next pass sees whether it is the same
                    moved.append(Moved(wanted=each, error=error))
        moved += published
    return moved


def _present(destination: Archive, wanted: Wanted, tick: Tick, *, keeps_others: bool) -> Moved | None:
    """What is there already: good, or of something else. What is bad is put aside there. None: there is nothing in the way."""
    if destination.is_free(wanted.location):
        return None
    if not wanted.replaces:
        try:
            return Moved(wanted=wanted, written=destination.adopt(wanted.location, sha256=wanted.sha256, tick=tick))
        except RootMissing:
            raise
        except CopyMissing:
            return None
        except CopyCorrupt as error:
            if keeps_others and isinstance(error, CopySwapped):
                return Moved(wanted=wanted, error=CopyExists(error.message))
    with suppress(CopyMissing):
        destination.quarantine(wanted.location)
    return None


def _receive(source: Archive, destination: Archive, wanted: Wanted, parts: ExitStack, on_read: OnRead) -> RawCopy:
    location = wanted.from_location or wanted.location
    try:
        header = source.inspect(location)
        if header.sha256 != wanted.sha256:
            raise CopyCorrupt(f"{location}: is the copy of other bytes, of SHA-256 {header.sha256}")
    except ArchiveError as error:
        raise _SourceError(error) from error
    part = parts.enter_context(destination.incoming_raw(wanted.part_name, header))
    for chunk in _reading(source.open_raw(location)):
        part.write(chunk)
        on_read(len(chunk))
    part.finish()
    return part


def _reading(chunks: Iterator[bytes]) -> Iterator[bytes]:
    while True:
        try:
            chunk = next(chunks, None)
        except ArchiveError as error:
            raise _SourceError(error) from error
        if chunk is None:
            return
        yield chunk


def _corrupt(wanted: Wanted, error: CopyCorrupt | HashMismatch) -> ArchiveError:
    return CopyCorrupt(f"{wanted.location}: {error.message}", hint=error.hint)
