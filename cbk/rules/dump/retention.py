"""Which dumps stay: the newest N, and the newest of so many days, weeks, months and years (grandfather, father, son).

Only dumps that are there are counted, not days: where none are made any more, none go. Only good ones take a place, and the newest
good one always has one. Whatever has no place waits for its whole grace, from when it was first seen to have none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from cbk.rules.dump.spec import KeepRules

# So many may always go beside those that new ones replace, however few there are.
LEAST_ALLOWED = 2
BRAKE_REASON = "the brake holds it: too many would go at once"
# What went by a person's word uses up nothing of what may go without one.
APPROVED_REASON = "a person let it go"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptDump:
    """A dump that is on the disk. `due_at` is when its grace ends, None while it has a place."""

    number: int
    taken_at: datetime
    is_good: bool = True
    unkept_since: datetime | None = None
    due_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpVerdict:
    """What becomes of one dump, and why: `reasons` are the rules that keep it, or the one reason that it goes or waits for.

    `prune`: it goes now. `waits_for_grace`: nothing but its grace keeps it, which ends at `due_at`.
    """

    number: int
    keeps_place: bool
    reasons: tuple[str, ...]
    unkept_since: datetime | None = None
    due_at: datetime | None = None
    prune: bool = False
    waits_for_grace: bool = False

    @property
    def is_braked(self) -> bool:
        """Whether it goes only if a person says so."""
        return self.reasons == (BRAKE_REASON,)


_PERIODS: dict[str, Callable[[datetime], tuple[int, ...]]] = {
    "daily": lambda at: (at.year, at.month, at.day),
    "weekly": lambda at: at.isocalendar()[:2],
    "monthly": lambda at: (at.year, at.month),
    "yearly": lambda at: (at.year,),
}


def places(dumps: Iterable[KeptDump], keep: KeepRules, zone: tzinfo) -> dict[int, tuple[str, ...]]:
    """The rules by which each dump has a place, by number; those without one are not in it."""
    newest_first = sorted((dump for dump in dumps if dump.is_good), key=lambda dump: (dump.taken_at, dump.number), reverse=True)
    reasons: dict[int, list[str]] = {}
    for dump in newest_first[:1]:
        reasons[dump.number] = ["newest"]
    for position, dump in enumerate(newest_first[: keep.last], start=1):
        reasons.setdefault(dump.number, []).append(f"last {position} of {keep.last}")
    for rule, period in _PERIODS.items():
        wanted, seen = getattr(keep, rule), set[tuple[int, ...]]()
        for dump in newest_first:
            of = period(dump.taken_at.astimezone(zone))
            if of not in seen and len(seen) < wanted:
                seen.add(of)
                reasons.setdefault(dump.number, []).append(f"{rule} {len(seen)} of {wanted}")
    return {number: tuple(found) for number, found in reasons.items()}


def plan(
    dumps: Sequence[KeptDump],
    *,
    keep: KeepRules,
    grace: timedelta,
    zone: tzinfo,
    now: datetime,
    is_held: bool,
    allowed: int,
) -> list[DumpVerdict]:
    """What becomes of each dump, newest first. At most `allowed` of them are pruned (`brake_allowance`), the oldest first.

    A grace that runs is never shortened, whatever the settings say by now; one that a place interrupts begins anew after it.
    """
    kept = places(dumps, keep, zone)
    verdicts = []
    for dump in sorted(dumps, key=lambda dump: (dump.taken_at, dump.number)):
        if dump.number in kept:
            verdicts.append(DumpVerdict(number=dump.number, keeps_place=True, reasons=kept[dump.number]))
            continue
        since = dump.unkept_since or now
        due_at = max(since + grace, dump.due_at or since)
        keeps = _what_keeps_it(is_held=is_held, has_good=bool(kept))
        wait = keeps or _why_it_waits(due_at, now, allowed=allowed)
        allowed -= wait is None
        verdicts.append(
            DumpVerdict(
                number=dump.number,
                keeps_place=False,
                reasons=(wait or f"no rule keeps it ({keep}), and its grace has passed",),
                unkept_since=since,
                due_at=due_at,
                prune=wait is None,
                waits_for_grace=keeps is None and now < due_at,
            )
        )
    return verdicts[::-1]


def _what_keeps_it(*, is_held: bool, has_good: bool) -> str | None:
    if not has_good:
        return "there is no good dump to stay in its place"
    return "a hold keeps it" if is_held else None


def _why_it_waits(due_at: datetime, now: datetime, *, allowed: int) -> str | None:
    if now < due_at:
        return f"its grace ends on {due_at:%Y-%m-%d %H:%M} UTC"
    return BRAKE_REASON if allowed <= 0 else None


def brake_allowance(*, share: int, stored: int, added: int, pruned: int) -> int:
    """How many dumps may go now: one for each that was `added` within the brake's window, and `share` percent of those `stored`.

    `pruned` is how many went within the window without a person's word. A rule that is changed, or a clock, has no more
    removed than that unless a person says so.
    """
    return max(0, added + max(LEAST_ALLOWED, stored * share // 100) - pruned)
