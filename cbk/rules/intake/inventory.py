"""Does the bucket hold what the catalog knows? An inventory, which the application puts into its bucket, says what is there.

It is an ordinary object with an ordinary row under a reserved key: gzip, each line a JSON value. First comes a header, then an
array for each object (key, size, ETag, when it was modified), then a footer that counts them, without which it is not whole:

    {"format": "cbk-inventory-1", "storage": "s3", "prefix": "", "taken_at": "2026-11-30T09:00:00+00:00"}
    ["cars/id-1/thumbnail.png", 1234, "5d41402abc4b2a76b9719d911017c592", "2026-11-01T12:00:00+00:00"]
    {"objects": 1}
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from cbk.errors import InventoryUnreadable
from cbk.rules.status.health import Kind, Problem, describe_age
from cbk.rules.text.display import counted

INVENTORY_KEY = "cbk-inventory/inventory.jsonl.gz"
INVENTORY_FORMAT = "cbk-inventory-1"

# An object's key has 4 KB at most, each byte of it perhaps an escape of six characters.
LONGEST_INVENTORY_LINE = 64 * 1024
_GZIP = 31  # zlib's word for a gzip header and trailer

_HINT = "`cbk-app inventory` makes another one"


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryHeader:
    """What an inventory is of: a storage, below a prefix, as of when its listing began."""

    storage: str
    prefix: str
    taken_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryEntry:
    """An object in the bucket."""

    key: str
    size: int
    modified: datetime | None


class FindingKind(StrEnum):
    """What is not as it should be."""

    UNRECORDED = "unrecorded"  # an object without a row
    ABSENT = "absent"  # a row without an object
    OTHER_SIZE = "other_size"  # an object of another size than the copy of its newest version


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryFinding:
    """One object, or file, of which that is so. `number` is the newest version, if there is one."""

    kind: FindingKind
    key: str
    size: int | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogFile:
    """What the catalog knows of a file: its newest version, and when its last delete was first seen."""

    number: int
    size: int | None
    stored: bool
    deleted: bool
    deleted_at: datetime | None
    first_seen_at: datetime


def judge_entry(entry: InventoryEntry, known: CatalogFile | None) -> InventoryFinding | None:
    """What is wrong with an object in the bucket; None if nothing is.

    One that the application deleted may lie there for a while. If it was written since, it is another one, and has no row.
    """
    if known is None:
        return InventoryFinding(kind=FindingKind.UNRECORDED, key=entry.key, size=entry.size)
    if known.deleted:
        written_since = entry.modified is not None and known.deleted_at is not None and entry.modified > known.deleted_at
        return InventoryFinding(kind=FindingKind.UNRECORDED, key=entry.key, size=entry.size) if written_since else None
    if known.stored and known.size != entry.size:
        return InventoryFinding(kind=FindingKind.OTHER_SIZE, key=entry.key, size=entry.size, number=known.number)
    return None


def is_settled(finding: InventoryFinding, known: CatalogFile | None) -> bool:
    """Whether a finding is none any more, by what the catalog knows now."""
    if finding.kind is FindingKind.UNRECORDED:
        return known is not None and not known.deleted
    return known is None or known.deleted or known.number != finding.number


# Reading one


def read_inventory(chunks: Iterable[bytes]) -> tuple[InventoryHeader, Iterator[InventoryEntry]]:
    """The header of an inventory, and its objects.

    Raise InventoryUnreadable for what is none; the objects raise it too, at the latest at their end, for one that is not whole.
    """
    lines = _lines(chunks)
    return _header(next(lines, b"")), _entries(lines)


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    inflate, rest = zlib.decompressobj(_GZIP), b""
    for chunk in chunks:
        todo = chunk
        while todo:
            try:
                rest += inflate.decompress(todo, LONGEST_INVENTORY_LINE)
            except zlib.error as error:
                raise InventoryUnreadable(f"the inventory cannot be inflated: {error}", hint=_HINT) from error
            todo = inflate.unconsumed_tail
            *whole, rest = rest.split(b"\n")
            yield from whole
            if len(rest) > LONGEST_INVENTORY_LINE:
                raise InventoryUnreadable("a line of the inventory is too long to be one", hint=_HINT)
    if rest or not inflate.eof:
        raise InventoryUnreadable("the inventory ends in the middle", hint=_HINT)


def _header(line: bytes) -> InventoryHeader:
    try:
        value = json.loads(line)
        if value["format"] != INVENTORY_FORMAT:
            raise InventoryUnreadable("the inventory is of another format", hint="is the kit as new as the application's package?")
        taken_at = datetime.fromisoformat(value["taken_at"]).astimezone(UTC)
        return InventoryHeader(storage=str(value["storage"]), prefix=str(value.get("prefix", "")), taken_at=taken_at)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise InventoryUnreadable("the inventory has no header", hint=_HINT) from error


def _entries(lines: Iterator[bytes]) -> Iterator[InventoryEntry]:
    for count, line in enumerate(lines):
        try:
            value = json.loads(line)
            if isinstance(value, dict):
                if value["objects"] != count or next(lines, None) is not None:
                    raise InventoryUnreadable("the inventory counts other objects than it names", hint=_HINT)
                return
            key, size, _etag, modified = value
            yield InventoryEntry(key=str(key), size=int(size), modified=_instant(modified))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InventoryUnreadable(f"line {count + 2} of the inventory makes no sense", hint=_HINT) from error
    raise InventoryUnreadable("the inventory ends in the middle", hint=_HINT)


def _instant(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


# What a person is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The last inventory of a storage as it was compared; `as_of` is when its listing began, or when we first saw it."""

    storage: str
    as_of: datetime | None
    objects: int = 0
    counts: Mapping[FindingKind, int] = field(default_factory=dict)
    problem: str = ""


_ABOUT = {
    FindingKind.UNRECORDED: (
        Kind.UNRECORDED,
        "in {storage} has no row",
        "in {storage} have no row",
        "object",
        "`cbk ls --unrecorded` lists them, `cbk-app import` writes their rows",
    ),
    FindingKind.ABSENT: (
        Kind.ABSENT,
        "of {storage} has no object",
        "of {storage} have no object",
        "file",
        "was it removed without a row in the delete log?",
    ),
    FindingKind.OTHER_SIZE: (
        Kind.OTHER_SIZE,
        "in {storage} is of another size than its copy",
        "in {storage} are of another size than their copies",
        "object",
        "changed without a new row? `cbk-app import` writes one",
    ),
}


def inventory_problems(inventories: Iterable[Inventory], *, now: datetime, max_age: timedelta) -> list[Problem]:
    """What the inventories say that keeps the answer from being "everything is protected"."""
    problems = []
    for inventory in inventories:
        for kind, (problem_kind, one, many, word, hint) in _ABOUT.items():
            if count := inventory.counts.get(kind, 0):
                message = f"{counted(count, word)} {(one if count == 1 else many).format(storage=inventory.storage)}"
                problems.append(Problem(kind=problem_kind, message=message, hint=hint, about=inventory.storage))
        problems += _trouble(inventory, now, max_age)
    return problems


def _trouble(inventory: Inventory, now: datetime, max_age: timedelta) -> Iterator[Problem]:
    if inventory.problem:
        yield Problem(
            kind=Kind.INVENTORY,
            message=f"the inventory of {inventory.storage} could not be compared: {inventory.problem}",
            hint=_HINT,
            about=inventory.storage,
        )
    if inventory.as_of is not None and now - inventory.as_of > max_age:
        yield Problem(
            kind=Kind.INVENTORY,
            message=f"the last inventory of {inventory.storage} is {describe_age(now - inventory.as_of)} old",
            hint="does `cbk-app inventory` run once a day?",
            about=inventory.storage,
        )
