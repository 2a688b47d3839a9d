"""Take rows into the catalog: gather what is known of them, decide what they add, write it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cbk.edges.catalog import PresentRow, RefusedRow, Restated, RowChanges
from cbk.errors import CatalogUnavailable
from cbk.jobs.context import Context
from cbk.jobs.intake.names import former_name, rename_files
from cbk.model import AcceptedRow, DeclinedRow, SourceRow
from cbk.rules.backup.hashes import Hashes, agree
from cbk.rules.intake.intake import IntakePlan, candidate_place_keys, plan_intake
from cbk.rules.intake.rows import name_of, number_of, read_row
from cbk.rules.intake.version_selection import Transition, decides, plan_versions

TRIES = 3
# So many of a file's newest versions are looked at beyond those that are kept, before all of them are.
LOOKED_AT = 20
POLL_NUMBER = "poll.number"


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeResult:
    """How many versions were new, and the ids of the rows that were declined."""

    new: int = 0
    declined: frozenset[str] = frozenset()


def record_rows(context: Context, rows: Sequence[SourceRow]) -> IntakeResult:
    """Take in these rows; those that are known are no news. Safe to repeat, and beside another intake.

    A known Id that says something else is another row, and the earlier one is gone.
    """
    for remaining in reversed(range(TRIES)):
        try:
            return _record(context, rows)
        except CatalogUnavailable:
            # Another process may have added the same file between gathering and writing: then it is known now.
            if not remaining:
                raise
    raise AssertionError("unreachable")


def say_otherwise(context: Context, rows: Sequence[SourceRow]) -> bool:
    """Whether one of these rows is known by its Id, and said something else when it was read last."""
    known = context.catalog.rows.present(row.id for row in rows)
    return any(_is_another(read_row(row), known.get(row.id, ())) for row in rows)


def _is_another(row: AcceptedRow | DeclinedRow, entries: Iterable[PresentRow]) -> bool:
    known = [each for each in entries if each.says is not None]
    if not known or isinstance(row, DeclinedRow):
        return bool(known)
    said = (row.storage, row.key, row.number, row.hash)
    return not any(each.says == said or _means_the_same(each, row) for each in known)


def poll_number(context: Context) -> int:
    """The number of the poll that works now, or that was the last one."""
    return int(context.catalog.facts.get(POLL_NUMBER) or 0)


def record_rows_of(context: Context, source_ids: Sequence[str]) -> dict[str, SourceRow]:
    """Read these rows again and take them in; those that are not there are gone. Returns those that are. Raises SourceError."""
    found = context.source.rows(list(source_ids)) if source_ids else {}
    record_rows(context, list(found.values()))
    missing = [source_id for source_id in source_ids if source_id not in found]
    known = context.catalog.rows.present(missing) if missing else {}
    gone = [row.entry_id for listed in known.values() for row in listed]
    if gone:
        forget_rows(context, gone)
    return found


def forget_rows(context: Context, entry_ids: Iterable[int]) -> None:
    """These rows were looked for and are not there any more."""
    settle_files(context, context.catalog.rows.mark_gone(entry_ids))


def settle_files(context: Context, file_ids: Iterable[int]) -> None:
    """Decide anew which versions of these files are to be fetched."""
    transitions = decide_files(context, file_ids)
    if transitions:
        context.catalog.work.apply(transitions)


def decide_files(context: Context, file_ids: Iterable[int]) -> list[Transition]:
    """What changes among the versions of these files, without a look at all of them where a file has very many."""
    keep_versions = context.settings.keep_versions
    ranks = keep_versions + LOOKED_AT
    by_file, partly = context.catalog.work.undecided_of_files(file_ids, ranks)
    undecided = [file_id for file_id in partly if not decides(by_file[file_id], ranks)]
    by_file |= context.catalog.work.versions_of_files(undecided)
    return [transition for versions in by_file.values() for transition in plan_versions(versions, keep_versions)]


def _record(context: Context, rows: Sequence[SourceRow]) -> IntakeResult:
    rename_files(context, rows)
    known = context.catalog.rows.present(row.id for row in rows)
    says: dict[str, set[tuple[str, str, int, str]]] = {}
    accepted: list[AcceptedRow] = []
    dates: dict[int, str | None] = {}
    refused: list[RefusedRow] = []
    moved: dict[str, int] = {}
    restated: list[Restated] = []
    for row in rows:
        parsed = read_row(row)
        if isinstance(parsed, DeclinedRow):
            refused.append(RefusedRow(row=parsed, name=name_of(row), number=number_of(row), created_at=_text(row.created_at)))
            says.setdefault(parsed.source_id, set())
            continue
        said = (parsed.storage, parsed.key, parsed.number, parsed.hash)
        says.setdefault(parsed.source_id, set()).add(said)
        same = next((each for each in known.get(parsed.source_id, ()) if each.says == said), None)
        in_other_words = next((each for each in known.get(parsed.source_id, ()) if _means_the_same(each, parsed)), None)
        if same is None and in_other_words is not None and in_other_words.says is not None:
            restated.append(Restated(entry=in_other_words, row=parsed))
            says[parsed.source_id].add(in_other_words.says)
        elif same is None:
            accepted.append(parsed)
            moved |= _taken_for_another(row, parsed, known.get(row.id, ()))
        elif same.created_at != _text(row.created_at):
            dates[same.entry_id] = _text(row.created_at)
    if dates:
        context.catalog.rows.note_dates(dates)
    if restated:
        context.catalog.rows.restate(restated)
    # Entries that say something else than their row does now. One that was declined stays, and is filled in where it makes sense.
    gone = [
        each.entry_id
        for source_id, entries in known.items()
        for each in entries
        if each.says is not None and each.says not in says.get(source_id, set()) and each.entry_id not in moved.values()
    ]
    if not accepted and not refused and not gone:
        return IntakeResult()
    entries = {source_id: each.entry_id for source_id, listed in known.items() for each in listed if each.says is None}
    changes = RowChanges(
        plan=IntakePlan(),
        refused=refused,
        gone=gone,
        created_at={row.id: _text(row.created_at) for row in rows},
        entries=entries | moved,
        moved=list(moved.values()),
        poll=poll_number(context),
    )
    return _write(context, changes, accepted)


def _taken_for_another(row: SourceRow, parsed: AcceptedRow, entries: Iterable[PresentRow]) -> dict[str, int]:
    """The entry of a row that was taken for one of another file and is still the same: whatever covers it goes on covering it."""
    former = former_name(row)
    ours = [each for each in entries if former is not None and each.says == (*former, parsed.number, parsed.hash)]
    return {each.source_id: each.entry_id for each in ours}


def _write(context: Context, changes: RowChanges, accepted: list[AcceptedRow]) -> IntakeResult:
    changes.plan = _plan(context, changes, accepted)
    if changes.plan.contradictions:
        # A row that is not there any more contradicts nothing.
        against = sorted({row_id for each in changes.plan.contradictions for row_id in each.live_rows})
        there = context.source.rows(against)
        stale = [
            each.entry_id
            for row_id, entries in context.catalog.rows.present(against).items()
            for each in entries
            if each.says is not None and each.says != _said(there.get(row_id))
        ]
        if stale:
            changes.gone = [*changes.gone, *stale]
            changes.plan = _plan(context, changes, accepted)
    settle_files(context, context.catalog.intake.write(changes))
    declined = frozenset(
        [each.row.source_id for each in changes.refused] + [each.declined.source_id for each in changes.plan.contradictions]
    )
    return IntakeResult(new=len(changes.plan.versions), declined=declined)


def _plan(context: Context, changes: RowChanges, accepted: list[AcceptedRow]) -> IntakePlan:
    intake, bucket = context.catalog.intake, context.settings.bucket
    names, numbers = {(row.storage, row.key) for row in accepted}, {row.number for row in accepted}
    known = intake.known_versions(names, numbers, without=[*changes.gone, *changes.moved])
    newcomers = [row for row in accepted if (row.storage, row.key) not in known]
    taken = intake.occupied_places(candidate_place_keys(newcomers, bucket))
    return plan_intake(accepted, known=known, taken=taken, bucket_of=bucket)


def _said(row: SourceRow | None) -> tuple[str, str, int, str] | None:
    parsed = read_row(row) if row is not None else None
    return (parsed.storage, parsed.key, parsed.number, parsed.hash) if isinstance(parsed, AcceptedRow) else None


def _means_the_same(entry: PresentRow, row: AcceptedRow) -> bool:
    """Whether a row has another Hash than it had, and it is one of the bytes that are here: it says no more than it did."""
    if entry.says is None or entry.says[:3] != (row.storage, row.key, row.number):
        return False
    return agree(Hashes(sha256=entry.sha256, md5=entry.md5), Hashes(sha256=row.sha256, md5=row.md5))


def _text(value: object) -> str | None:
    return None if value is None else str(value)
