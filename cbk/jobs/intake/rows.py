"""Take rows into the catalog: gather what is known of them, decide what they add, write it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from cbk.errors import ArchiveError, CatalogUnavailable
from cbk.jobs.context import Context
from cbk.jobs.copies import remove_bytes
from cbk.model import AcceptedRow, DeclinedRow, SourceRow
from cbk.rules.backup.links import link_digest, link_expires_at
from cbk.rules.intake.intake import candidate_place_keys, plan_intake
from cbk.rules.intake.rows import read_row
from cbk.rules.intake.version_selection import plan_versions

TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeResult:
    """How many versions were new, and the ids of the rows that were declined."""

    new: int
    declined: frozenset[str]


def record_rows(context: Context, rows: Sequence[SourceRow]) -> IntakeResult:
    """Take in these rows; those that are known are no news. Safe to repeat, and beside another intake."""
    parsed = [read_row(row) for row in rows]
    refused = [row for row in parsed if isinstance(row, DeclinedRow)]
    accepted = _without_known(context, [row for row in parsed if isinstance(row, AcceptedRow)])
    for remaining in reversed(range(TRIES)):
        try:
            return _write(context, accepted, refused)
        except CatalogUnavailable:
            # Another process may have added the same file between gathering and writing: then it is known now.
            if not remaining:
                raise
    raise AssertionError("unreachable")


def settle_files(context: Context, file_ids: Iterable[int]) -> None:
    """Decide anew which versions of these files are to be fetched."""
    by_file = context.catalog.work.versions_of_files(file_ids)
    transitions = [t for versions in by_file.values() for t in plan_versions(versions, context.settings.keep_versions)]
    if transitions:
        context.catalog.work.apply(transitions)


def _without_known(context: Context, rows: list[AcceptedRow]) -> list[AcceptedRow]:
    known = context.catalog.intake.known_rows(row.source_id for row in rows)
    return [row for row in rows if (row.source_id, row.storage, row.key, row.number, row.sha256) not in known]


def _write(context: Context, accepted: list[AcceptedRow], refused: list[DeclinedRow]) -> IntakeResult:
    intake = context.catalog.intake
    known = intake.known_versions({(row.storage, row.key) for row in accepted})
    newcomers = [row for row in accepted if (row.storage, row.key) not in known]
    taken = intake.occupied_places(candidate_place_keys(newcomers, context.settings.bucket))
    plan = plan_intake(accepted, known=known, taken=taken, bucket_of=context.settings.bucket)
    if plan.files or plan.versions or plan.declined or refused:
        settle_files(context, intake.write(plan, refused, grace=context.settings.grace_period))
    if plan.repeats and context.source.ids_are_ordered():
        _note_repeats(context, plan.repeats)
    declined = frozenset(row.source_id for row in [*refused, *plan.declined])
    return IntakeResult(new=len(plan.versions), declined=declined)


def _note_repeats(context: Context, repeats: list[AcceptedRow]) -> None:
    """Rows that bring a known version again.

    One that was written after the file was deleted has created it again. One that was written later than the row that could not be
    fetched stands for that row, which may be gone.
    """
    for row in repeats:
        named = context.catalog.work.versions_named(row.storage, row.key)
        version = next((version for version in named if version.number == row.number), None)
        if version is not None and version.deleted:
            with suppress(ArchiveError):  # then it waits until the bytes that have to go are gone
                remove_bytes(context, version)
            context.catalog.removals.end_for_recreation(file_id=version.file_id, number=row.number, row_id=int(row.source_id))
        elif version is not None and int(row.source_id) > int(version.source_id):
            context.catalog.work.adopt_claimed(
                version.id,
                source_id=row.source_id,
                link_digest=link_digest(row.link),
                link_expires_at=link_expires_at(row.link),
            )
