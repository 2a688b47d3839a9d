"""What people are told, and when: a problem once it has lasted, all of them folded into one message, and once that it is over.

What was told when is the `AlertState`, which goes in and comes out. Keeping it and sending are for others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import chain

from cbk.model import VersionState
from cbk.rules.status.health import Kind, Problem

# What passes by itself more often than not (a database that restarts, a row that is mended) has so long to do so.
SOON = timedelta(minutes=15)
# What was told and comes again is not told again before, and what no service took is not tried again before.
REPEAT_AFTER = timedelta(hours=6)
TRY_AGAIN_AFTER = timedelta(minutes=15)
# What goes on is told again so often.
DIGEST_EVERY = timedelta(days=1)

# Nothing to wait for: it does not pass by itself, or has lasted already when it is a problem at all.
_AT_ONCE = frozenset(
    {
        Kind.BRAKE,
        Kind.CLOCK,
        Kind.CORRUPT,
        Kind.DISK_FULL,
        Kind.DISK_MISSING,
        Kind.DISK_READ_ONLY,
        Kind.DRILL,
        Kind.DUMP_DRILL,
        Kind.PAUSED,
    }
)
# Files that are worked on: right after an upload that is no news, and it is measured by the file that has waited longest.
_WAITING = {Kind.PENDING: VersionState.PENDING, Kind.FAILED: VersionState.FAILED}


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertEntry:
    """What is known of one problem: since when it goes on, when it was told last, and when it was gone, if it is.

    `is_open`: people were told of it, and not yet that it is over. `message` is how it was put last.
    """

    message: str
    since: datetime
    told_at: datetime | None = None
    is_open: bool = False
    gone_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertState:
    """What was told when: an entry for each problem, the instants of the last message and of the last one that nobody took.

    `found` is how many bad copies people were told of.
    """

    entries: Mapping[str, AlertEntry] = field(default_factory=dict)
    spoke_at: datetime | None = None
    tried_at: datetime | None = None
    found: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertMessage:
    """What is sent."""

    subject: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertDecision:
    """What to say now: nothing where `message` is None.

    `grave` are the problems that have lasted long enough to count; `state` is what to keep, and `told` what to keep instead once a
    service has taken the message.
    """

    message: AlertMessage | None
    grave: list[Problem]
    state: AlertState
    told: AlertState


def patience(kind: Kind, alert_after: timedelta) -> timedelta:
    """How long a problem lasts before it is told."""
    return timedelta(0) if kind in _AT_ONCE else min(SOON, alert_after)


def worth_telling(
    problems: Iterable[Problem], oldest: Mapping[VersionState, datetime], *, now: datetime, alert_after: timedelta
) -> list[Problem]:
    """The problems without what only waits for its turn: of pending and failed files, those count that have waited `alert_after`.

    `oldest` is when the file was first seen that has been longest in a state.
    """

    def is_young(problem: Problem) -> bool:
        state = _WAITING.get(problem.kind)
        return state is not None and state in oldest and now - oldest[state] < alert_after

    return [problem for problem in problems if not is_young(problem)]


def decide(
    problems: Sequence[Problem],
    state: AlertState,
    *,
    now: datetime,
    alert_after: timedelta,
    verdict: str = "",
    complete: bool = True,
) -> AlertDecision:
    """What to say of these problems. Where the view is not `complete`, what is missing from it is not taken to be over.

    `verdict` is one line on how things stand, for the end of a message.
    """
    state = _until(state, now)
    found = {_key(problem): problem for problem in problems}
    entries = _look(found, state.entries, now, complete=complete)
    grave = {key: each for key, each in found.items() if now - entries[key].since >= patience(each.kind, alert_after)}
    news = [key for key in grave if not entries[key].is_open and _may_repeat(entries[key], now)]
    still = [key for key in grave if entries[key].is_open]
    over = [key for key, entry in entries.items() if entry.is_open and entry.gone_at is not None]
    is_clear = bool(over) and not found and all(now - (entries[key].gone_at or now) >= min(SOON, alert_after) for key in over)
    is_due = bool(still) and (state.spoke_at is None or now - state.spoke_at >= DIGEST_EVERY)
    message = None
    if _may_speak(state, now) and (news or is_clear or is_due):
        parts = [
            [_lines(found[key]) for key in news],
            [f"Still: {_lines(found[key])}" for key in still],
            [f"Over: {entries[key].message}" for key in over],
            [verdict] if verdict else [],
        ]
        subject = _subject([found[key].message for key in news], [found[key].message for key in still])
        message = AlertMessage(subject=subject, text="\n".join(chain.from_iterable(parts)))
    kept = replace(state, entries=entries)
    told = {
        key: replace(entry, told_at=now, is_open=True)
        if key in news or key in still
        else replace(entry, is_open=entry.is_open and key not in over)
        for key, entry in entries.items()
    }
    return AlertDecision(
        message=message,
        grave=list(grave.values()),
        state=replace(kept, tried_at=now) if message else kept,
        told=replace(kept, entries=told, spoke_at=now, tried_at=None),
    )


def _key(problem: Problem) -> str:
    return f"{problem.kind}.{problem.about}" if problem.about else str(problem.kind)


def _until(state: AlertState, now: datetime) -> AlertState:
    """The memory without what lies ahead: it was noted by a clock that has gone back since."""

    def past(instant: datetime | None) -> datetime | None:
        return instant and min(instant, now)

    entries = {
        key: replace(entry, since=min(entry.since, now), told_at=past(entry.told_at), gone_at=past(entry.gone_at))
        for key, entry in state.entries.items()
    }
    return replace(state, entries=entries, spoke_at=past(state.spoke_at), tried_at=past(state.tried_at))


def _look(found: Mapping[str, Problem], known: Mapping[str, AlertEntry], now: datetime, *, complete: bool) -> dict[str, AlertEntry]:
    """The entries as they are after this look; what is over and of no more use is forgotten."""
    entries = {}
    for key, entry in known.items():
        if key in found:
            since = now if entry.gone_at is not None else entry.since
            entries[key] = replace(entry, message=found[key].message, since=since, gone_at=None)
        elif not complete:
            entries[key] = entry
        elif entry.is_open or (entry.told_at is not None and now - entry.told_at < REPEAT_AFTER):
            entries[key] = replace(entry, gone_at=entry.gone_at or now)
    return {key: AlertEntry(message=problem.message, since=now) for key, problem in found.items() if key not in entries} | entries


def _may_repeat(entry: AlertEntry, now: datetime) -> bool:
    return entry.told_at is None or now - entry.told_at >= REPEAT_AFTER


def _may_speak(state: AlertState, now: datetime) -> bool:
    return state.tried_at is None or now - state.tried_at >= TRY_AGAIN_AFTER


def _lines(problem: Problem) -> str:
    return f"{problem.message}.\n    {problem.hint}"


def _subject(news: list[str], still: list[str]) -> str:
    if not news and not still:
        return "all clear: what was told is over"
    first, *more = news or [f"still: {message}" for message in still]
    return f"{first} (and {len(more)} more)" if more else first
