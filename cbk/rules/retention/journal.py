"""The journal of what the disk must not forget with the catalog: holds, and the removals whose grace runs or has ended.

It is one JSON object per line, in ASCII. The first line says what it is and how many of each follow; every other one has a `crc32`
of what it holds, so that a damaged line costs that line alone, and never turns into an earlier end of a grace.

    {"journal":"cbk-retention","format":2,"written_at":"2026-03-01T12:00:00+00:00","holds":1,"removals":1}
    {"hold":{"storage":null,"key":"cars/","is_prefix":true, ...},"crc32":"89abcdef"}
    {"removal":{"kind":"deleted","delete_id":"7", ...},"crc32":"01234567"}

Very many removals lie in segments (format 3). A segment in which something has changed is added to the end, and takes the place of
the earlier one with its number. Where it cannot be read, the earlier one does not count either: what was taken back since would be
waiting in it, with its grace over.

    {"segment":{"number":4,"removals":2},"crc32":"a0b1c2d3"}
    {"removal":{"kind":"deleted","delete_id":"1007", ...},"crc32":"76543210"}
    {"removal":{"kind":"deleted","delete_id":"1012", ...},"crc32":"00112233"}
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cbk.model import Hold, RemovalKind

JOURNAL_NAME = "retention.jsonl"
_FORMAT = 2
_FORMAT_WITH_SEGMENTS = 3

_MARK = "cbk-retention"
_NUMBER_MAX = 2**63 - 1  # what the catalog can hold
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)

_Reader = Callable[[object], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalRemoval:
    """A `model.Removal` with names instead of the catalog's own ids.

    `storage` and `key` are None where the delete-log row names no file that the kit knows; `number` is the version that was
    replaced, None for a deleted file, and `sha256` tells it from another version of that number. `covers` are the rows that a
    delete covers, as (Id, Version, SHA-256); a journal of an earlier release has none.
    """

    kind: RemovalKind
    first_seen_at: datetime
    due_at: datetime
    delete_id: str | None = None
    row_id: str | None = None
    storage: str | None = None
    key: str | None = None
    number: int | None = None
    sha256: str | None = None
    through: int | None = None
    deleted_at: str | None = None
    covers: tuple[tuple[str, int, str], ...] = ()
    outcome: str = ""
    open: bool = True


@dataclass(slots=True, kw_only=True)
class Journal:
    """What a journal says. `problems` names what in it could not be read; the holds' ids are 0."""

    written_at: datetime | None = None
    holds: list[Hold] = field(default_factory=list)
    removals: list[JournalRemoval] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def encode_journal(
    holds: Iterable[Hold],
    removals: Iterable[JournalRemoval],
    written_at: datetime,
    *,
    segments: Iterable[tuple[int, Sequence[JournalRemoval]]] = (),
) -> bytes:
    """The journal's bytes; the same for the same holds and removals in the same order, but for `written_at`.

    The removals are in `removals`, or with numbers in `segments`.
    """
    in_segments = encode_segments(segments)
    hold_lines = [_line("hold", {name: value for name, value in _values_of(hold).items() if name != "id"}) for hold in holds]
    removal_lines = [_line("removal", _values_of(removal)) for removal in removals]
    counts = {"holds": len(hold_lines), "removals": len(removal_lines)}
    number = _FORMAT_WITH_SEGMENTS if in_segments else _FORMAT
    first = _json({"journal": _MARK, "format": number, "written_at": written_at.isoformat(), **counts})
    return "".join(f"{line}\n" for line in (first, *hold_lines, *removal_lines)).encode("ascii") + in_segments


def encode_segments(segments: Iterable[tuple[int, Sequence[JournalRemoval]]]) -> bytes:
    """What is added to a journal's end, so that these segments take the place of the earlier ones with their numbers."""
    lines = []
    for number, removals in segments:
        lines.append(_line("segment", {"number": number, "removals": len(removals)}))
        lines += [_line("removal", _values_of(removal)) for removal in removals]
    return "".join(f"{line}\n" for line in lines).encode("ascii")


def decode_journal(content: bytes) -> Journal:
    """What these bytes say, as far as they can be read; raises nothing, whatever they are."""
    reading = _Reading()
    journal = reading.journal
    first, *rest = content.split(b"\n")
    counts: tuple[int, int] | None = None
    try:
        tree_format, counts = _read_first(journal, first)
    except _UNREADABLE:
        journal.problems.append("line 1 is damaged")
    else:
        if tree_format > _FORMAT_WITH_SEGMENTS:
            known = f"this release knows {_FORMAT_WITH_SEGMENTS}"
            journal.problems.append(f"it has format {tree_format}, {known}: nothing of it was read")
            return journal
    for number, line in enumerate(rest, start=2):
        try:
            if line:
                reading.read(line, is_torn=number == len(rest) + 1)
        except _UNREADABLE:
            journal.problems.append(f"line {number} is damaged")
    if counts and (missing := sum(counts) - len(journal.holds) - len(journal.removals)):
        journal.problems.append(f"{missing} of its {sum(counts)} holds and removals could not be read")
    reading.finish()
    return journal


class _Reading:
    """The lines of a journal, one after another."""

    def __init__(self) -> None:
        self.journal = Journal()
        self._segments: dict[int, list[JournalRemoval]] = {}
        # How many each has.
        self._sizes: dict[int, int] = {}
        self._number: int | None = None
        self._listed: list[JournalRemoval] = []
        # Lines since the segment's own, whatever they held.
        self._lines = 0

    def read(self, line: bytes, *, is_torn: bool) -> None:
        """Raises one of `_UNREADABLE` where a line is damaged. `is_torn`: it has no end, and is of what was not all added."""
        self._lines += not is_torn
        fields = json.loads(line)
        (kind,) = fields.keys() - {"crc32"}
        body = fields[kind]
        if fields["crc32"] != _crc32(body):
            raise ValueError(line)
        if kind == "hold":
            self.journal.holds.append(Hold(id=0, **_read_fields(body, _HOLD_FIELDS)))
        elif kind == "removal":
            removal = JournalRemoval(**_read_fields(body, _REMOVAL_FIELDS))
            (self.journal.removals if self._number is None else self._listed).append(removal)
        elif kind == "segment":
            self._begin_segment(_whole(body["number"]), _whole(body["removals"]))
        else:
            raise ValueError(kind)

    def _begin_segment(self, number: int, size: int) -> None:
        self._lines -= 1
        self._end_segment()
        self._number, self._listed, self._lines = number, [], 0
        self._sizes[number] = size

    def finish(self) -> None:
        """There are no more lines."""
        self._end_segment()
        removals, problems = self.journal.removals, self.journal.problems
        if self._sizes and removals:
            removals.clear()
            problems.append("which segment comes first could not be read")
        for number, listed in sorted(self._segments.items()):
            removals += listed
            if len(listed) < self._sizes[number]:
                problems.append(f"{self._sizes[number] - len(listed)} removals of segment {number} could not be read")

    def _end_segment(self) -> None:
        if self._number is None:
            return
        if self._lines > self._sizes[self._number]:
            # The first line of another segment is damaged: any of the earlier ones may be out of date.
            self.journal.problems.append(f"which segment follows segment {self._number} could not be read: none before it counts")
            self._segments.clear()
            return
        self._segments[self._number] = self._listed


def _values_of(thing: Hold | JournalRemoval) -> dict[str, Any]:
    """As `dataclasses.asdict`, which copies every value and takes most of the time of a long journal with that."""
    return {each.name: getattr(thing, each.name) for each in dataclasses.fields(thing)}


def _line(kind: str, fields: Mapping[str, Any]) -> str:
    body = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in fields.items()}
    return _json({kind: body, "crc32": _crc32(body)})


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _crc32(body: object) -> str:
    return f"{zlib.crc32(_json(body).encode('ascii')):08x}"


def _read_first(journal: Journal, line: bytes) -> tuple[int, tuple[int, int]]:
    """The format, and how many holds and removals follow."""
    fields = json.loads(line)
    if fields["journal"] != _MARK:
        raise ValueError(line)
    journal.written_at = _instant(fields["written_at"])
    return _whole(fields["format"]), (_whole(fields["holds"]), _whole(fields["removals"]))


def _read_fields(body: Mapping[str, Any], readers: Mapping[str, _Reader]) -> dict[str, Any]:
    return {name: read(body[name]) for name, read in readers.items() if name in body or name not in _SINCE_FORMAT_2}


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value <= _NUMBER_MAX:
        raise TypeError(value)
    return value


def _instant(value: object) -> datetime:
    instant = datetime.fromisoformat(_text(value))
    if instant.tzinfo is None:
        raise ValueError(value)
    return instant.astimezone(UTC)


def _covers(value: object) -> tuple[tuple[str, int, str], ...]:
    if not isinstance(value, list):
        raise TypeError(value)
    return tuple((_text(row_id), _whole(number), _text(sha256)) for row_id, number, sha256 in value)


def _or_none(read: _Reader) -> _Reader:
    return lambda value: None if value is None else read(value)


_HOLD_FIELDS: Mapping[str, _Reader] = {
    "storage": _or_none(_text),
    "key": _text,
    "is_prefix": _flag,
    "until": _or_none(_instant),
    "reason": _text,
    "created_at": _or_none(_instant),
}
_SINCE_FORMAT_2 = frozenset({"sha256", "deleted_at", "covers"})
_REMOVAL_FIELDS: Mapping[str, _Reader] = {
    "kind": lambda value: RemovalKind(_text(value)),
    "first_seen_at": _instant,
    "due_at": _instant,
    "delete_id": _or_none(_text),
    "row_id": _or_none(_text),
    "storage": _or_none(_text),
    "key": _or_none(_text),
    "number": _or_none(_whole),
    "through": _or_none(_whole),
    "sha256": _or_none(_text),
    "deleted_at": _or_none(_text),
    "covers": _covers,
    "outcome": _text,
    "open": _flag,
}
