"""What is wrong with dumps, for `status`: one problem for each dump and each kind of thing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from cbk.rules.dump.records import Dump, DumpVersion
from cbk.rules.dump.retention import BRAKE_REASON
from cbk.rules.dump.schedule import is_late
from cbk.rules.dump.spec import DumpSpec
from cbk.rules.status.health import Kind, Problem, describe_age
from cbk.rules.text.display import counted


def dump_problems(
    spec: DumpSpec, dump: Dump | None, stored: Sequence[DumpVersion], *, now: datetime, alert_after: timedelta
) -> list[Problem]:
    """The problems of one dump. `stored` are its good versions, newest first."""
    newest = stored[0] if stored else None
    problems = []
    done_slot = dump.done_slot if dump and newest else None
    patience = min(alert_after, timedelta(hours=6))
    if is_late(schedule=spec.schedule, done_slot=done_slot, now=now, patience=patience) or (dump and dump.problem):
        why = dump.problem if dump and dump.problem else "no worker takes it: does one serve the queue dump, and does beat run?"
        age = f"the newest is {describe_age(now - newest.taken_at)} old" if newest else "there is none yet"
        hint = (dump.hint if dump else "") or f"`cbk dump now {spec.name}` takes one and shows what goes wrong"
        problems.append(Problem(kind=Kind.DUMP, message=f"dump {spec.name}: {age}; {why}", hint=hint, about=spec.name))
    if newest is not None and newest.drill_problem:
        problems.append(
            Problem(
                kind=Kind.DUMP_DRILL,
                message=f"dump {spec.name} v{newest.number} did not restore: {newest.drill_problem}",
                hint=f"`cbk dump drill {spec.name}` tries again",
                about=spec.name,
            )
        )
    braked = sum(version.reasons == BRAKE_REASON for version in stored)
    if braked:
        message = f"{counted(braked, 'version')} of dump {spec.name} that no rule keeps would go at once: the brake holds them"
        hint = f"`cbk dump prune {spec.name} --plan` lists them; `cbk dump prune {spec.name} --approve` lets them go"
        problems.append(Problem(kind=Kind.BRAKE, message=message, hint=hint, about=f"dump/{spec.name}"))
    return problems


def orphan_names(dumps: Iterable[Dump], configured: Iterable[str]) -> list[str]:
    """Dumps that were configured once: theirs are kept, and none goes."""
    return sorted({dump.name for dump in dumps} - set(configured))
