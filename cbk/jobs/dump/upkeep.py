"""What dumps need beside being taken: those that no rule keeps go after their grace, copies are read again, a drill is held."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from cbk.edges.catalog import Leases
from cbk.errors import ArchiveError, CopyCorrupt, CopyMissing, RootMissing
from cbk.jobs.context import Context
from cbk.jobs.dump.drill import drill_dump, drill_is_due_for
from cbk.jobs.dump.take import DUMP_LEASE
from cbk.jobs.retention.clock_guard import note_clock
from cbk.jobs.verification.pacer import Pacer, Pause, alone
from cbk.jobs.verification.reader import Stopped
from cbk.model import Summary
from cbk.rules.dump.records import Dump, DumpState, DumpVersion, dump_location, roles_location
from cbk.rules.dump.retention import APPROVED_REASON, DumpVerdict, KeptDump, brake_allowance, plan
from cbk.rules.dump.spec import DumpSpec

# The share of CBK_VERIFY_EVERY after which a copy is read again: the rest is for those that have to wait.
READ_AFTER = 0.8


def tidy(context: Context, name: str, *, pause: Pause, after: Summary) -> Summary:
    """Do whatever else is due for this dump, and add it to the summary `after` which it comes.

    A dump that was put off or is another worker's leaves this for later as well.
    """
    if after.outcome not in {"stored", "nothing to do"}:
        return after
    spec, dump = context.settings.dumps.get(name), context.catalog.dumps.get(name)
    if spec is None or dump is None:
        return after
    newest = context.catalog.dumps.newest(dump.id)
    drills = newest is not None and drill_is_due_for(context, newest)
    overdue = _overdue(context)
    if after.outcome != "stored" and not drills and overdue is None and not _something_goes(context, dump):
        return after
    with alone(context, DUMP_LEASE) as leases:
        if leases is None:
            return after
        pacer = Pacer(context, leases, DUMP_LEASE, pause, rate=context.settings.verify_rate)
        facts: dict[str, object] = {"pruned": len(prune_dumps(context, spec, dump))}
        try:
            if overdue is not None:
                facts |= {"read_again": verify_dump(context, *overdue, pacer=pacer) or "good"}
            if newest is not None and drills:
                facts |= {"drill": drill_dump(context, dump, newest, tick=lambda: pacer(0)) or "passed"}
        except Stopped:
            facts |= {"stopped": "the worker is to stop"}
    return Summary(outcome=after.outcome, facts={**after.facts, **facts})


def _something_goes(context: Context, dump: Dump) -> bool:
    """Whether a grace has passed, or bytes were left behind: asked with each message, so at the cost of one query."""
    now = context.catalog.database.now()
    stored = context.catalog.dumps.stored(dump.id)
    return bool(context.catalog.dumps.leftovers()) or any(each.due_at is not None and each.due_at <= now for each in stored)


# ---- retention ---------------------------------------------------------------------------------------------------------------


def plan_dump(context: Context, spec: DumpSpec, dump: Dump, *, approved: bool = False) -> list[DumpVerdict]:
    """What becomes of each version, newest first. Changes nothing. `approved`: a person lets go what the brake would hold."""
    settings, now = context.settings, context.catalog.database.now()
    stored = context.catalog.dumps.stored(dump.id)
    added, pruned = context.catalog.dumps.counts_since(dump.id, now - settings.brake_window)
    return plan(
        [
            KeptDump(number=version.number, taken_at=version.taken_at, unkept_since=version.unkept_since, due_at=version.due_at)
            for version in stored
        ],
        keep=spec.keep,
        grace=settings.grace_period,
        zone=spec.schedule.zone,
        now=now,
        is_held=any(hold.covers(dump.bucket, dump.name, now) for hold in context.catalog.holds.all()),
        allowed=len(stored)
        if approved
        else brake_allowance(share=settings.brake_share, stored=len(stored), added=added, pruned=pruned),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDump:
    """A version of a dump that no rule keeps, and what becomes of it."""

    dump: Dump
    verdict: DumpVerdict


def plan_dumps(context: Context, *, bucket: str | None = None, prefix: str | None = None) -> Iterator[PlannedDump]:
    """The versions that no rule keeps, of all dumps that are configured, or of those in `bucket` whose name begins so."""
    for dump in context.catalog.dumps.all():
        spec = context.settings.dumps.get(dump.name)
        if spec is not None and bucket in {None, dump.bucket} and dump.name.startswith(prefix or ""):
            verdicts = plan_dump(context, spec, dump)
            yield from (PlannedDump(dump=dump, verdict=verdict) for verdict in verdicts if not verdict.keeps_place)


def prune_dumps(context: Context, spec: DumpSpec, dump: Dump, *, approved: bool = False) -> list[int]:
    """Remove what no rule keeps and whose grace has passed; gives the numbers. Record before bytes.

    Nothing goes by a clock that is not trusted, nor where the newest copy is not as it was written. `approved` as in `plan_dump`.
    """
    remove_leftovers(context)
    if note_clock(context) is not None:
        return []
    verdicts = plan_dump(context, spec, dump, approved=approved)
    context.catalog.dumps.record_verdicts(dump, verdicts)
    going = {verdict.number for verdict in verdicts if verdict.prune}
    stored = {version.number: version for version in context.catalog.dumps.stored(dump.id)}
    if not going or not _newest_is_there(context, dump, stored[max(stored)]):
        return []
    for number in sorted(going):
        context.catalog.dumps.record_pruned(stored[number], APPROVED_REASON if approved else "")
        _remove(context, dump, stored[number])
    return sorted(going)


def remove_leftovers(context: Context) -> None:
    """Finish what somebody began who was killed: bytes of versions that are pruned already."""
    for dump, version in context.catalog.dumps.leftovers():
        _remove(context, dump, version)


def _remove(context: Context, dump: Dump, version: DumpVersion) -> None:
    context.archive.remove(dump_location(dump.place, version.number))
    if version.roles_sha256 is not None:
        context.archive.remove(roles_location(dump.place, version.number))
    context.catalog.dumps.forget_leftover(version)


def _newest_is_there(context: Context, dump: Dump, newest: DumpVersion) -> bool:
    try:
        found = context.archive.examine(dump_location(dump.place, newest.number))
    except RootMissing:
        raise
    except (CopyMissing, CopyCorrupt) as error:
        put_aside(context, dump, newest, error)
        return False
    return found.header.sha256 == newest.sha256 and found.stored_size == newest.stored_size


# ---- reading again -----------------------------------------------------------------------------------------------------------


def _overdue(context: Context) -> tuple[Dump, DumpVersion] | None:
    """The copy that was not read for the longest, if it is its turn: each is read within CBK_VERIFY_EVERY."""
    every = context.settings.verify_every
    return context.catalog.dumps.oldest_unread(context.catalog.database.now() - every * READ_AFTER) if every else None


def verify_dump(context: Context, dump: Dump, version: DumpVersion, *, pacer: Pacer) -> str:
    """Read a dump's copies to their end; gives what is wrong, empty where nothing is. A bad one is recorded and put aside.

    Raises ArchiveError where the disk does not answer: that tells nothing of the copy.
    """
    try:
        context.archive.check(dump_location(dump.place, version.number), sha256=version.sha256, on_read=pacer)
        if version.roles_sha256 is not None:
            context.archive.check(roles_location(dump.place, version.number), sha256=version.roles_sha256, on_read=pacer)
    except (CopyMissing, CopyCorrupt) as error:
        return put_aside(context, dump, version, error)
    context.catalog.dumps.record_verified(version)
    return ""


def verify_dumps(
    context: Context, *, tick: Callable[[], None], only: Collection[int] | None = None, name: str | None = None
) -> list[tuple[Dump, DumpVersion, str]] | None:
    """Read the copies of all good versions, of `only` these, or of the dump `name`; each with what is wrong, "" where nothing is.

    A bad one is put aside. None: a dump is at work, and nothing was read. Raises what `verify_dump` does, and `tick`.
    """
    with alone(context, DUMP_LEASE) as leases:
        if leases is None:
            return None
        pacer = ticking_pacer(context, leases, tick)
        return [
            (dump, version, verify_dump(context, dump, version, pacer=pacer))
            for dump, version in context.catalog.dumps.found(DumpState.STORED)
            if (only is None or version.id in only) and name in {None, dump.name}
        ]


def ticking_pacer(context: Context, leases: Leases, tick: Callable[[], None]) -> Pacer:
    """Keeps the lease `dump` beside whatever `tick` keeps, which ends the work by what it raises."""

    def goes_on(_seconds: float) -> bool:
        tick()
        return False

    return Pacer(context, leases, DUMP_LEASE, goes_on)


def put_aside(context: Context, dump: Dump, version: DumpVersion, error: ArchiveError) -> str:
    """Record that a copy does not count any more, then move its bytes to quarantine. Gives why."""
    context.catalog.dumps.record_bad(version, error.message)
    for location in (dump_location(dump.place, version.number), roles_location(dump.place, version.number)):
        if not context.archive.is_free(location):
            context.archive.quarantine(location)
    return error.message
