"""What goes when, and why: the plan that `cbk prune --plan` shows, and carrying out by hand what is due."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from cbk.edges.catalog import Planned
from cbk.errors import UsageError
from cbk.jobs.context import Context, Publisher
from cbk.jobs.intake.doubts import why_nothing_goes
from cbk.jobs.intake.rows import settle_files
from cbk.jobs.retention.clock_guard import check_clock
from cbk.jobs.retention.journal import write_journal
from cbk.jobs.retention.prune import prune
from cbk.jobs.retention.sweep import pull_brake
from cbk.model import BrakeState, Hold, Removal, Summary, Version, VersionState
from cbk.rules.retention.retention import Decision, Keep, Remove, decide, when_due

FILES_AT_ONCE = 200
UNBOUND_SHOWN = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedVersion:
    """A version with an open removal: when it goes, or what keeps it. `when` is None where that depends on something else."""

    removal: Removal
    version: Version | None
    removes: bool
    when: datetime | None
    reason: str


def plan(
    context: Context, *, storage: str | None = None, prefix: str | None = None, due_only: bool = False
) -> Iterator[PlannedVersion]:
    """What open removals would do to each version that they cover, as things stand; changes nothing.

    `due_only`: only what would go this moment.
    """
    problem = check_clock(context) or why_nothing_goes(context)
    judge = _Judge(context, context.catalog.holds.all(), context.catalog.now(), problem)
    waiting: list[Planned] = []
    for planned in context.catalog.removals.planned(storage=storage, prefix=prefix):
        waiting.append(planned)
        if len(waiting) == FILES_AT_ONCE:
            yield from judge.all(waiting, due_only=due_only)
            waiting = []
    yield from judge.all(waiting, due_only=due_only)
    if storage is None and prefix is None and not due_only:
        for removal in context.catalog.removals.unbound(UNBOUND_SHOWN):
            yield from judge.one(removal, [])


@dataclass(frozen=True, slots=True)
class _Judge:
    context: Context
    holds: list[Hold]
    now: datetime
    problem: str | None

    def all(self, planned: list[Planned], *, due_only: bool) -> Iterator[PlannedVersion]:
        ids = {each.removal.file_id for each in planned if each.removal.file_id is not None}
        files = self.context.catalog.work.versions_of_files(ids)
        for each in planned:
            for item in self.one(each.removal, files.get(each.removal.file_id or 0, [])):
                if not due_only or (item.removes and item.when is not None and item.when <= self.now):
                    yield item

    def one(self, removal: Removal, versions: list[Version]) -> Iterator[PlannedVersion]:
        due_at = when_due(removal, self.context.settings.grace_period)
        if removal.file_id is None or due_at is None:
            reason = f"names row {removal.row_id}, which the kit does not know: its grace begins when that is seen"
            yield PlannedVersion(removal=removal, version=None, removes=False, when=None, reason=reason)
            return
        for version in versions:
            if not removal.covers(version) or version.state is VersionState.PRUNED:
                continue
            # As if its grace were over: what keeps it beyond that is worth knowing now.
            decision = decide(
                version,
                removal=removal,
                versions=versions,
                holds=self.holds,
                now=max(self.now, due_at),
                grace=self.context.settings.grace_period,
                keep_versions=self.context.settings.keep_versions,
            )
            if decision is not None:
                yield self._planned(removal, version, decision, due_at)

    def _planned(self, removal: Removal, version: Version, decision: Decision, due_at: datetime) -> PlannedVersion:
        if isinstance(decision, Keep):
            return PlannedVersion(removal=removal, version=version, removes=False, when=decision.until, reason=decision.reason)
        if removal.keeps_newer is not None and isinstance(decision, Remove):
            decision = Remove(
                reason=f"{decision.reason}; v{removal.keeps_newer} is newer than the version that it names, and stays"
            )
        if self.problem is not None:
            return PlannedVersion(removal=removal, version=version, removes=False, when=None, reason=self.problem)
        over = self.now >= due_at
        reason = decision.reason if over else decision.reason.removesuffix(", and the grace has passed")
        return PlannedVersion(removal=removal, version=version, removes=True, when=due_at, reason=reason)


def prune_due(
    context: Context, publisher: Publisher, *, storage: str | None = None, prefix: str | None = None
) -> Iterator[Summary]:
    """Carry out here what is due; the brake is looked at first. Raises SourceError, CatalogError or RootMissing: run it again."""
    pull_brake(context)
    now = context.catalog.now()
    for planned in context.catalog.removals.planned(storage=storage, prefix=prefix):
        removal = planned.removal
        due_at = when_due(removal, context.settings.grace_period)
        if due_at is None or due_at > now:
            continue
        yield prune(context, publisher, delete_id=removal.delete_id, version_id=removal.version_id)


def files_of_brake(context: Context, brake_id: int) -> list[str]:
    """Which files a brake keeps from going, as "storage/key", those that are due first in front."""
    braked = (each for each in context.catalog.removals.planned() if each.removal.brake_id == brake_id)
    return list(dict.fromkeys(f"{each.storage}/{each.key}" for each in braked))


def decide_brake(context: Context, brake_id: int, *, approve: bool) -> int:
    """A person's word on a mass deletion; gives the number of removals. Raises UsageError where no such brake is held."""
    brake = next((brake for brake in context.catalog.brakes.all() if brake.id == brake_id), None)
    changed = None if brake is None else context.catalog.brakes.decide(brake_id, approve=approve)
    if brake is None or changed is None:
        held = ", ".join(str(brake.id) for brake in context.catalog.brakes.all(BrakeState.HELD)) or "none"
        raise UsageError(f"no brake {brake_id} is held", hint=f"held are: {held}; `cbk status` shows them")
    settle_files(context, changed)
    write_journal(context, decided=True)
    return brake.removals
