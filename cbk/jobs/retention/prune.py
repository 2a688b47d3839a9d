"""Prune what a removal covers, when it is due: ask the application's row and the disk once more, decide, record, then remove.

Record before bytes: a copy that the record still calls stored is there. Bytes that a worker leaves when it dies, the next poll
removes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import datetime, timedelta

from cbk.edges.catalog import Planned, Verdict
from cbk.errors import CopyCorrupt, CopyMissing, UsageError
from cbk.jobs.context import Context, Publisher
from cbk.jobs.copies import remove_bytes
from cbk.jobs.intake.doubts import why_nothing_goes
from cbk.jobs.intake.rows import poll_number, settle_files
from cbk.jobs.intake.table_reader import reading_of
from cbk.jobs.retention.clock_guard import note_clock
from cbk.jobs.retention.deletes import record_deletes
from cbk.model import Hold, Removal, RemovalKind, RemovalOutcome, Summary, Version, VersionState
from cbk.rules.intake.layout import location_of
from cbk.rules.retention.coverage import says_other
from cbk.rules.retention.retention import Keep, decide, when_due
from cbk.settings import Settings

# A message is sent when so much remains: well under the time after which Redis would deliver it a second time.
MAX_COUNTDOWN = timedelta(minutes=15)
# What stays for a reason that has no end is looked at again after so many polls, at most after this time.
LOOK_AGAIN_POLLS = 10
LOOK_AGAIN_MAX = timedelta(hours=1)
SHORTEST_PATIENCE = timedelta(seconds=5)
UNREAD = "every row is read once more before it goes"

Judge = Callable[[Removal, list[Version], list[Hold], datetime], Verdict]


def patience(settings: Settings) -> timedelta:
    """How long after it was due a removal may be silent before its message counts as lost."""
    return max(settings.poll_interval * 2, SHORTEST_PATIENCE)


def prune(  # noqa: PLR0911 - each reason why nothing is done has its words
    context: Context, publisher: Publisher, *, delete_id: str | None = None, version_id: int | None = None
) -> Summary:
    """Carry out the removal of this delete-log row, or of this replaced version. Early, late and doubled messages do no harm.

    Raises UsageError unless one of them is given, SourceError, CatalogError or RootMissing: then a later poll sends it again.
    """
    if (delete_id is None) == (version_id is None):
        raise UsageError("a prune takes the Id of a delete-log row", hint="such as --args='[\"17\"]'")
    context.require_disk()
    removals = context.catalog.removals
    removal = removals.of_delete(delete_id) if delete_id is not None else removals.of_version(version_id or 0)
    if removal is None:
        return Summary(outcome="nothing to do", facts={"delete": delete_id, "version": version_id, "reason": "no poll has seen it"})
    if not removal.open:
        return _summary("nothing to do", removal, reason=f"it is over: {removal.outcome}")
    problem = note_clock(context) or why_nothing_goes(context)
    if problem is not None:
        return _summary("kept", removal, reason=problem)
    now = context.catalog.now()
    due_at = when_due(removal, context.settings.grace_period)
    if due_at is None:
        return _summary("nothing to do", removal, reason="it names no row that the kit knows")
    if now < due_at:
        return _wait(context, publisher, removal, due_at, now)
    if removal.kind is RemovalKind.DELETED:
        over = _ask_the_row(context, removal)
        if over is not None:
            return over
    return _carry_out(context, removal)


def _wait(context: Context, publisher: Publisher, removal: Removal, due_at: datetime, now: datetime) -> Summary:
    """It is early: come back when it is due, or leave it to the poll that comes before that."""
    context.catalog.removals.postpone(removal.id, due_at)
    if due_at - now <= MAX_COUNTDOWN:
        context.catalog.removals.note_armed(removal.id, due_at + patience(context.settings))
        named = Planned(removal=dataclasses.replace(removal, due_at=due_at), storage=None, key=None, number=None)
        publisher.send_prunes([named], now)
    return _summary("early", removal, due_at=due_at.isoformat())


def _ask_the_row(context: Context, removal: Removal) -> Summary | None:
    """Whether the delete still stands, by the application's row. None: it does, and the file is known."""
    row = context.source.delete_row(removal.delete_id or "")
    if row is None:
        settle_files(context, context.catalog.removals.forget_log_rows([removal.id]))
        return _summary("taken back", removal)
    if says_other(removal, row):
        record_deletes(context, [row], poll_number(context))
        return _summary("kept", removal, reason="its delete-log row is another one now: the grace starts anew")
    return None


def _carry_out(context: Context, removal: Removal) -> Summary:
    judge = _judge_of(context)
    if removal.file_id is not None and not judge(*_as_things_stand(context, removal)).kept:
        _check_survivor(context, removal)  # read from the disk only for what would go
    done = context.catalog.removals.carry_out(removal.id, judge)
    if done is None:
        return _summary("nothing to do", removal, reason="it is over")
    gone, verdict = done
    for version in gone:
        remove_bytes(context, version)
    names = ", ".join(version.label for version in gone)
    return _summary("kept" if verdict.kept else "pruned", removal, pruned=names, count=len(gone), reason=verdict.kept)


def _as_things_stand(context: Context, removal: Removal) -> tuple[Removal, list[Version], list[Hold], datetime]:
    catalog = context.catalog
    versions = catalog.work.versions_of_file(removal.file_id) if removal.file_id is not None else []
    return removal, versions, catalog.holds.all(), catalog.now()


def _judge_of(context: Context) -> Judge:
    settings = context.settings
    read_in = reading_of(context, "files").clean_poll

    def judge(removal: Removal, versions: list[Version], holds: list[Hold], now: datetime) -> Verdict:
        gone, kept = {}, []
        again_at = now + min(settings.poll_interval * LOOK_AGAIN_POLLS, LOOK_AGAIN_MAX)
        if removal.poll >= read_in:
            # Every row is read once more first: one that came meanwhile may bring again what is to go.
            return Verdict(kept=UNREAD, look_again_at=now + settings.poll_interval)
        concerned = 0
        for version in versions:
            if not removal.covers(version) or version.state is VersionState.PRUNED:
                continue
            decision = decide(
                version,
                removal=removal,
                versions=versions,
                holds=holds,
                now=now,
                grace=settings.grace_period,
                keep_versions=settings.keep_versions,
            )
            concerned += 1
            if isinstance(decision, Keep):
                kept.append(decision)
            elif decision is not None:
                gone[version.id] = decision.reason
        if not kept:
            is_back = concerned > 0 and not gone
            return Verdict(gone=gone, outcome=RemovalOutcome.RECREATED if is_back else RemovalOutcome.DONE)
        ends = [keep.until for keep in kept if keep.until is not None]
        return Verdict(gone=gone, kept=kept[0].reason, look_again_at=min([again_at, *ends]))

    return judge


def _check_survivor(context: Context, removal: Removal) -> None:
    """Read the newest copy of a file that lives on: where it is bad, the record says so first, and the rule keeps the older one."""
    if removal.file_id is None:
        return
    stored = [version for version in context.catalog.work.versions_of_file(removal.file_id) if version.state is VersionState.STORED]
    staying = [version for version in stored if not version.deleted and not removal.covers(version)]
    if not staying:
        return
    newest = max(staying, key=lambda version: (version.live, version.number))
    try:
        context.archive.check(location_of(newest), sha256=newest.sha256)
    except CopyMissing:
        _give_up(context, newest, "its copy was not on the disk")
    except CopyCorrupt:
        _give_up(context, newest, "its copy was corrupt")


def _give_up(context: Context, version: Version, reason: str) -> None:
    """The copy counts no more, and is fetched again; one that was pruned or stored anew meanwhile is left as it is."""
    claim = context.catalog.verification.claim_bad(version, context.settings.lease, reason=reason)
    if claim is not None:
        context.catalog.work.give_back([claim], timedelta(0), reason=reason)


def _summary(outcome: str, removal: Removal, **facts: object) -> Summary:
    named = {"delete": removal.delete_id, "row": removal.row_id, "version": removal.version_id}
    return Summary(outcome=outcome, facts=named | facts)
