"""What a page of accepted rows adds to the catalog: new files with their places, new versions, and rows that contradict one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime

from cbk.model import AcceptedRow, DeclinedRow
from cbk.rules.backup.links import link_digest, link_expires_at
from cbk.rules.intake.layout import place_key, places, variant_of

FileName = tuple[str, str]  # (storage, key)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownVersion:
    """What the catalog knows of one version: its hash, the Ids of its live rows, and whether `v<N>.gzip` is its copy's name."""

    number: int
    sha256: str
    live_rows: frozenset[str] = frozenset()
    has_plain_name: bool = True


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
    variant: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """A row that brings a known Version with another Hash, while rows of that version (`live_rows`) are there."""

    row: AcceptedRow
    declined: DeclinedRow
    live_rows: frozenset[str]


@dataclass(slots=True, kw_only=True)
class IntakePlan:
    """What to write: `rows` are those that bring a version, new or known; `contradictions` those that cannot be true."""

    files: list[NewFile] = field(default_factory=list)
    versions: list[NewVersion] = field(default_factory=list)
    rows: list[AcceptedRow] = field(default_factory=list)
    contradictions: list[Contradiction] = field(default_factory=list)


def plan_intake(
    rows: Iterable[AcceptedRow],
    *,
    known: Mapping[FileName, Iterable[KnownVersion]],
    taken: AbstractSet[str],
    bucket_of: Callable[[str], str],
) -> IntakePlan:
    """What `rows` add to what is `known`.

    `known` has an entry for each (storage, key) of the rows that is a file already, with its versions; `taken` holds those place
    keys of the rows' candidate places that belong to other files. First come, first served, in the order of the rows. The same
    Version with another Hash is another version, if no row of the first one is there any more; else it contradicts it.
    """
    plan = IntakePlan()
    versions: dict[FileName, dict[int, list[KnownVersion]]] = {}
    for name, listed in known.items():
        numbers = versions.setdefault(name, {})
        for version in listed:
            numbers.setdefault(version.number, []).append(version)
    occupied = set(taken)
    for row in rows:
        name = (row.storage, row.key)
        if name not in versions:
            versions[name] = {}
            plan.files.append(_place_file(row, bucket_of(row.storage), occupied))
        same_number = versions[name].setdefault(row.number, [])
        other = next((each for each in same_number if each.sha256 != row.sha256 and each.live_rows - {row.source_id}), None)
        if other is not None:
            plan.contradictions.append(_contradiction(row, other))
            continue
        plan.rows.append(row)
        if all(each.sha256 != row.sha256 for each in same_number):
            plan.versions.append(_new_version(row, plain_name=not any(each.has_plain_name for each in same_number)))
        same_number.append(
            KnownVersion(number=row.number, sha256=row.sha256, live_rows=frozenset({row.source_id}), has_plain_name=True)
        )
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


def _new_version(row: AcceptedRow, *, plain_name: bool) -> NewVersion:
    return NewVersion(
        storage=row.storage,
        key=row.key,
        number=row.number,
        source_id=row.source_id,
        sha256=row.sha256,
        content_type=row.content_type,
        link_digest=link_digest(row.link),
        link_expires_at=link_expires_at(row.link),
        variant="" if plain_name else variant_of(row.sha256),
    )


def _contradiction(row: AcceptedRow, other: KnownVersion) -> Contradiction:
    declined = DeclinedRow(
        source_id=row.source_id,
        storage=row.storage,
        key=row.key,
        version=str(row.number),
        reason=(
            f"version {row.number} is known with another Hash ({other.sha256[:12]}, from row {min(other.live_rows)}), "
            f"not {row.sha256[:12]}: new content needs a higher Version"
        ),
    )
    return Contradiction(row=row, declined=declined, live_rows=other.live_rows - {row.source_id})
