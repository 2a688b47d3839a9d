"""What the copies on a disk add to a catalog: each is believed where its header and its location fit together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime

from cbk.model import AcceptedRow, CopyHeader, SourceRow
from cbk.rules.intake.intake import FileName, NewFile
from cbk.rules.intake.layout import bucket_folder, copy_location, former_keys, names_file, place_key, places, variant_of
from cbk.rules.intake.rows import read_row


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundCopy:
    """A copy as it lies on the disk. `stored_sha256` is known where every byte of it was read and found good."""

    location: str
    header: CopyHeader
    stored_size: int
    stored_at: datetime
    stored_sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedCopy:
    """A copy that is where its header says that it belongs."""

    found: FoundCopy
    row: AcceptedRow
    bucket: str
    place: str
    variant: str = ""

    @property
    def file_name(self) -> FileName:
        """Whose copy it is."""
        return self.row.storage, self.row.key

    def named(self, name: FileName) -> PlacedCopy:
        """The same, as a copy of the file that has this name."""
        storage, key = name
        return replace(self, row=replace(self.row, storage=storage, key=key))


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildProblem:
    """Something on the disk that a rebuild leaves out, where it is, and why."""

    location: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownFile:
    """What the catalog knows of a file: the folder of its copies, and the number and the SHA-256 of each of its versions."""

    place: str
    versions: AbstractSet[tuple[int, str]]


@dataclass(slots=True, kw_only=True)
class RebuildPlan:
    """What to add. `known` counts the copies whose version the catalog has already, in whatever state."""

    files: list[NewFile] = field(default_factory=list)
    copies: list[PlacedCopy] = field(default_factory=list)
    problems: list[RebuildProblem] = field(default_factory=list)
    known: int = 0


def place_copy(found: FoundCopy, bucket_of: Callable[[str], str]) -> PlacedCopy | RebuildProblem:
    """Whether a copy lies where the layout puts what its header names.

    `bucket_of` gives a storage's bucket as it is set now; a bucket folder of that time is accepted as well, under its own name.
    """
    header = found.header
    # A header is as untrusted as a row, and held to the same limits.
    row = read_row(
        SourceRow(
            id=header.source_id or "",
            storage=header.storage,
            path="/",
            name=header.key,
            version=header.version,
            hash=header.sha256,
            link="-",
            content_type=header.content_type,
        )
    )
    if not isinstance(row, AcceptedRow):
        return RebuildProblem(location=found.location, reason=f"its header makes no sense: {row.reason}")
    folder = found.location.partition("/")[0]
    for bucket in (bucket_of(row.storage), folder):
        for place in _places(bucket, row):
            for variant in ("", variant_of(row.sha256)):
                if bucket_folder(bucket) == folder and copy_location(place, row.number, variant) == found.location:
                    return PlacedCopy(found=found, row=row, bucket=bucket, place=place, variant=variant)
    return RebuildProblem(location=found.location, reason=f"its header says that it is {_label(row)}, which does not belong there")


def _places(bucket: str, row: AcceptedRow) -> Iterator[str]:
    """Where a copy may lie. A file that an earlier release called otherwise keeps the place that it got then."""
    for key in (row.key, *former_keys(row.key)):
        yield from places(bucket, key, row.storage)


def plan_rebuild(
    copies: Iterable[PlacedCopy], *, known: Mapping[FileName, KnownFile], owners: Mapping[str, FileName]
) -> RebuildPlan:
    """What `copies` add to the catalog; what it knows already stays as it is.

    `known` has an entry for each of the copies' and the owners' files that is in the catalog, `owners` one for each of the copies'
    place keys that is some file's.
    """
    plan = RebuildPlan()
    folders = {name: file.place for name, file in known.items()}
    versions = {name: set(file.versions) for name, file in known.items()}
    owned = dict(owners)
    for copy in copies:
        name, key = copy.file_name, place_key(copy.place)
        owner = owned.get(key, name)
        if owner != name and _is_same_file(owner, name):
            # Some of its copies were written when it was called otherwise. Its rows say which name is right.
            copy = copy.named(owner)  # noqa: PLW2901 - the same copy
            name = owner
        if folders.get(name, copy.place) != copy.place:
            where = copy_location(folders[name], copy.row.number)
            plan.problems.append(_left_out(copy, f"it is another copy of {_label(copy.row)}, which belongs to {where}"))
        elif owner != name:
            plan.problems.append(_left_out(copy, f"it is {_label(copy.row)}, but its folder is that of {'/'.join(owner)}"))
        elif (copy.row.number, copy.row.sha256) in versions.get(name, ()):
            plan.known += 1
        else:
            if name not in folders:
                plan.files.append(_new_file(copy, key))
                folders[name], owned[key] = copy.place, name
            versions.setdefault(name, set()).add((copy.row.number, copy.row.sha256))
            plan.copies.append(copy)
    return plan


def _is_same_file(one: FileName, other: FileName) -> bool:
    return one[0] == other[0] and (names_file(one[1], other[1]) or names_file(other[1], one[1]))


def _new_file(copy: PlacedCopy, key_of_place: str) -> NewFile:
    storage, key = copy.file_name
    return NewFile(storage=storage, key=key, bucket=copy.bucket, place=copy.place, place_key=key_of_place)


def _left_out(copy: PlacedCopy, reason: str) -> RebuildProblem:
    return RebuildProblem(location=copy.found.location, reason=reason)


def _label(row: AcceptedRow) -> str:
    return f"{row.storage}/{row.key} v{row.number}"
