"""What a page of accepted rows adds to the catalog: new files with their places, new versions, and rows that contradict one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime

from cbk.model import AcceptedRow, DeclinedRow
from cbk.rules.backup.links import link_digest, link_expires_at
from cbk.rules.intake.layout import place_key, places

FileName = tuple[str, str]  # (storage, key)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownVersion:
    """What the catalog knows of one version: the row that brought it, its hash, and whether a copy is there."""

    source_id: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file to add, with the folder that its copies will have."""

    storage: str
    key: str
    bucket: str
    place: str
    place_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVersion:
    """A version to add to the file (storage, key)."""

    storage: str
    key: str
    number: int
    source_id: str
    sha256: str
    content_type: str | None
    link_digest: str
    link_expires_at: datetime | None


@dataclass(slots=True, kw_only=True)
class IntakePlan:
    """What to write. `declined` are rows that contradict a version that is known, `repeats` other rows that bring it again."""

    files: list[NewFile] = field(default_factory=list)
    versions: list[NewVersion] = field(default_factory=list)
    declined: list[DeclinedRow] = field(default_factory=list)
    repeats: list[AcceptedRow] = field(default_factory=list)


def plan_intake(
    rows: Iterable[AcceptedRow],
    *,
    known: Mapping[FileName, Mapping[int, KnownVersion]],
    taken: AbstractSet[str],
    bucket_of: Callable[[str], str],
) -> IntakePlan:
    """What `rows` add to what is `known`.

    `known` has an entry for each (storage, key) of the rows that is a file already, with its versions by number; `taken` holds
    those place keys of the rows' candidate places that belong to other files. First come, first served, in the order of the rows.
    """
    plan = IntakePlan()
    versions: dict[FileName, dict[int, KnownVersion]] = {name: dict(numbers) for name, numbers in known.items()}
    occupied = set(taken)
    for row in rows:
        name = (row.storage, row.key)
        if name not in versions:
            versions[name] = {}
            plan.files.append(_place_file(row, bucket_of(row.storage), occupied))
        earlier = versions[name].get(row.number)
        if earlier is None:
            versions[name][row.number] = KnownVersion(source_id=row.source_id, sha256=row.sha256)
            plan.versions.append(_new_version(row))
        elif earlier.sha256 != row.sha256:
            plan.declined.append(_contradiction(row, earlier))
        elif earlier.source_id != row.source_id:
            plan.repeats.append(row)
    return plan


def candidate_place_keys(rows: Iterable[AcceptedRow], bucket_of: Callable[[str], str]) -> set[str]:
    """The place keys that `plan_intake` may want for these rows: which of them are taken has to be known first."""
    names = {(row.storage, row.key) for row in rows}
    return {place_key(place) for storage, key in names for place in places(bucket_of(storage), key, storage)}


def _place_file(row: AcceptedRow, bucket: str, occupied: set[str]) -> NewFile:
    candidates = places(bucket, row.key, row.storage)
    # The last candidate carries the whole SHA-256 of the key and cannot be another file's.
    place = next((place for place in candidates if place_key(place) not in occupied), candidates[-1])
    occupied.add(place_key(place))
    return NewFile(storage=row.storage, key=row.key, bucket=bucket, place=place, place_key=place_key(place))


def _new_version(row: AcceptedRow) -> NewVersion:
    return NewVersion(
        storage=row.storage,
        key=row.key,
        number=row.number,
        source_id=row.source_id,
        sha256=row.sha256,
        content_type=row.content_type,
        link_digest=link_digest(row.link),
        link_expires_at=link_expires_at(row.link),
    )


def _contradiction(row: AcceptedRow, earlier: KnownVersion) -> DeclinedRow:
    return DeclinedRow(
        source_id=row.source_id,
        storage=row.storage,
        key=row.key,
        version=str(row.number),
        reason=(
            f"version {row.number} is known with another Hash ({earlier.sha256[:12]}, from row {earlier.source_id}), "
            f"not {row.sha256[:12]}: new content needs a higher Version"
        ),
    )
