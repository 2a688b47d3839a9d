"""Take rows into the catalog: gather what is known of them, decide what they add, write it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from cbk.errors import ArchiveError, CatalogUnavailable
from cbk.jobs.kit import Kit
from cbk.jobs.removing import remove_bytes
from cbk.model import AcceptedRow, DeclinedRow, SourceRow
from cbk.rules.intake import candidate_place_keys, plan_intake
from cbk.rules.links import link_digest, link_expires_at
from cbk.rules.rows import read_row
from cbk.rules.wanted import plan_versions

TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """How many versions were new, and the ids of the rows that were declined."""

    new: int
    declined: frozenset[str]


def take_in(kit: Kit, rows: Sequence[SourceRow]) -> Taken:
    """Take in these rows; those that are known are no news. Safe to repeat, and beside another intake."""
    parsed = [read_row(row) for row in rows]
    refused = [row for row in parsed if isinstance(row, DeclinedRow)]
    accepted = _without_known(kit, [row for row in parsed if isinstance(row, AcceptedRow)])
    for remaining in reversed(range(TRIES)):
        try:
            return _write(kit, accepted, refused)
        except CatalogUnavailable:
            # Another process may have added the same file between gathering and writing: then it is known now.
            if not remaining:
                raise
    raise AssertionError("unreachable")


def settle_files(kit: Kit, file_ids: Iterable[int]) -> None:
    """Decide anew which versions of these files are to be fetched."""
    by_file = kit.catalog.work.versions_of_files(file_ids)
    transitions = [t for versions in by_file.values() for t in plan_versions(versions, kit.settings.keep_versions)]
    if transitions:
        kit.catalog.work.apply(transitions)


def _without_known(kit: Kit, rows: list[AcceptedRow]) -> list[AcceptedRow]:
    known = kit.catalog.intake.known_rows(row.source_id for row in rows)
    return [row for row in rows if (row.source_id, row.storage, row.key, row.number, row.sha256) not in known]


def _write(kit: Kit, accepted: list[AcceptedRow], refused: list[DeclinedRow]) -> Taken:
    intake = kit.catalog.intake
    known = intake.known_versions({(row.storage, row.key) for row in accepted})
    newcomers = [row for row in accepted if (row.storage, row.key) not in known]
    taken = intake.taken_places(candidate_place_keys(newcomers, kit.settings.bucket))
    plan = plan_intake(accepted, known=known, taken=taken, bucket_of=kit.settings.bucket)
    if plan.files or plan.versions or plan.declined or refused:
        settle_files(kit, intake.write(plan, refused, grace=kit.settings.grace_period))
    if plan.repeats and kit.source.ids_are_ordered():
        _note_repeats(kit, plan.repeats)
    declined = frozenset(row.source_id for row in [*refused, *plan.declined])
    return Taken(new=len(plan.versions), declined=declined)


def _note_repeats(kit: Kit, repeats: list[AcceptedRow]) -> None:
    """Rows that bring a known version again.

    One that was written after the file was deleted has created it again. One that was written later than the row that could not be
    fetched stands for that row, which may be gone.
    """
    for row in repeats:
        named = kit.catalog.work.versions_named(row.storage, row.key)
        version = next((version for version in named if version.number == row.number), None)
        if version is not None and version.deleted:
            with suppress(ArchiveError):  # then it waits until the bytes that have to go are gone
                remove_bytes(kit, version)
            kit.catalog.removals.end_for_recreation(file_id=version.file_id, number=row.number, row_id=int(row.source_id))
        elif version is not None and int(row.source_id) > int(version.source_id):
            kit.catalog.work.take_over(
                version.id,
                source_id=row.source_id,
                link_digest=link_digest(row.link),
                link_expires_at=link_expires_at(row.link),
            )
