"""Look at how things stand, tell people what needs them, and keep the dead man's switch from going off while all is well."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

from cbk.errors import ArchiveError, CatalogError
from cbk.jobs.context import Context
from cbk.jobs.status.status import gather_status
from cbk.jobs.verification.pacer import alone
from cbk.model import Summary
from cbk.rules.status.alerting import SOON, AlertEntry, AlertMessage, AlertState, decide, worth_telling
from cbk.rules.status.health import Kind, Problem
from cbk.rules.text.display import counted

# Begins each subject.
SENDER = "Cloud Backup Kit"
ALERTS_LEASE = "watch"
ALERTS_FACT = "voice"
# How many of the bad copies a message names.
TOLD_BY_NAME = 20
# Each process tells so often at the most that there is no catalog to remember what was told in.
REPEAT_OUTAGE_ALERT_AFTER = timedelta(hours=1)

_DISK_HINT = "the system's log (dmesg) tells why; `cbk doctor`"


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """What there is to see: the problems that count, how things stand in one line, how many bad copies were ever found.

    It is not `complete` where the disk is away: what else there may be cannot be seen then.
    """

    problems: list[Problem]
    verdict: str
    found: int
    complete: bool


class CatalogOutageAlert:
    """What a process says where the catalog does not answer: it cannot look up what was told, so it remembers that by itself."""

    def __init__(self, uptime: Callable[[], float] = monotonic) -> None:
        self._uptime = uptime
        self._since: float | None = None
        self._told_at = float("-inf")

    def forget(self) -> None:
        """The catalog answers."""
        self._since = None

    def say(self, context: Context, error: CatalogError | ArchiveError) -> Summary:
        """The catalog, or the disk that it lies on, is away: once that has lasted, tell people, and the dead man's switch."""
        now = self._uptime()
        self._since = now if self._since is None else self._since
        if now - self._since < min(SOON, context.settings.alert_after).total_seconds():
            return Summary(outcome="not told yet", facts={"reason": error.message})
        is_disk = isinstance(error, ArchiveError)
        heartbeat = context.heartbeat.fail([Kind.DISK_MISSING if is_disk else Kind.CATALOG])
        if now - self._told_at < REPEAT_OUTAGE_ALERT_AFTER.total_seconds() or not context.notifier.is_configured:
            return Summary(outcome="quiet", facts={"reason": error.message, "heartbeat": heartbeat})
        self._told_at = now
        text = f"{error.message}.\n    {error.hint or 'is its database up, is the backup disk mounted? `cbk doctor`'}"
        outcome = (
            "told"
            if context.notifier.notify(
                f"{SENDER}: {'the backup disk is away' if is_disk else 'the catalog cannot be read'}, nothing is backed up", text
            )
            else "nobody took it"
        )
        return Summary(outcome=outcome, facts={"reason": error.message, "heartbeat": heartbeat})


def send_alerts(context: Context, catalog_outage_alert: CatalogOutageAlert) -> Summary:
    """One look. Whatever becomes of messages is in the summary, and never raised: a later look tries again."""
    try:
        with alone(context, ALERTS_LEASE) as leases:
            catalog_outage_alert.forget()
            return Summary(outcome="skipped", facts={"reason": "another one looks"}) if leases is None else _look(context)
    except (CatalogError, ArchiveError) as error:
        return catalog_outage_alert.say(context, error)


def _look(context: Context) -> Summary:
    noted = context.catalog.facts.get(ALERTS_FACT)
    state = _read(noted)
    view = _view(context, state)
    now = context.catalog.database.now()
    speech = decide(
        view.problems,
        state,
        now=now,
        alert_after=context.settings.alert_after,
        verdict=view.verdict,
        complete=view.complete,
    )
    kinds = sorted({problem.kind for problem in speech.grave})
    heartbeat = _call_switch(context, kinds, view)
    outcome, kept = "quiet", speech.state
    if speech.message is not None:
        outcome = _send(context, speech.message)
        if outcome == "told":
            kept = replace(speech.told, found=view.found)
        elif outcome == "nobody to tell":
            kept = replace(speech.state, tried_at=None)
    written = _write(kept)
    if written != noted:
        context.catalog.facts.set(**{ALERTS_FACT: written})
    return Summary(outcome=outcome, facts={"problems": kinds, "heartbeat": heartbeat})


def _call_switch(context: Context, kinds: list[Kind], view: _View) -> bool | None:
    """What has not lasted yet is neither good news nor bad."""
    if kinds:
        return context.heartbeat.fail(kinds)
    return None if view.problems else context.heartbeat.beat()


def _send(context: Context, message: AlertMessage) -> str:
    if not context.notifier.is_configured:
        return "nobody to tell"
    return "told" if context.notifier.notify(f"{SENDER}: {message.subject}", message.text) else "nobody took it"


def _view(context: Context, state: AlertState) -> _View:
    try:
        status = gather_status(context)
    except ArchiveError as error:
        problem = Problem(kind=Kind.DISK_MISSING, message=f"nothing is backed up: {error.message}", hint=error.hint or _DISK_HINT)
        return _View(problems=[problem], verdict="", found=state.found, complete=False)
    counts, standing = status.counts, status.verification
    problems = worth_telling(status.problems, counts.oldest_by_state, now=counts.now, alert_after=context.settings.alert_after)
    if standing.found > state.found:
        problems.append(_corrupt(standing.found - state.found, standing.latest))
    verdict = f"If the cloud account were gone now: {counts.protected} of {counted(counts.files, 'file')}."
    return _View(problems=problems, verdict=verdict, found=standing.found, complete=True)


def _corrupt(count: int, latest: list[dict[str, Any]]) -> Problem:
    copies = "1 bad copy was" if count == 1 else f"{count} bad copies were"
    named = [f"{one['storage']}/{one['key']} v{one['version']}: {one['finding']}" for one in latest[-count:]][-TOLD_BY_NAME:]
    more = ["..."] if count > len(named) else []
    return Problem(
        kind=Kind.CORRUPT,
        message=f"{copies} found on the backup disk",
        hint="\n    ".join(
            ["they count no more, and are fetched again where their links live; look at the disk's health", *named, *more]
        ),
    )


# ---- the memory in the catalog -----------------------------------------------------------------------------------------------


def _read(noted: str | None) -> AlertState:
    if noted is None:
        return AlertState()
    facts = json.loads(noted)
    entries = {
        key: AlertEntry(
            message=entry["message"],
            since=datetime.fromisoformat(entry["since"]),
            told_at=_instant(entry["told_at"]),
            is_open=entry["open"],
            gone_at=_instant(entry["gone_at"]),
        )
        for key, entry in facts["entries"].items()
    }
    spoke_at, tried_at = _instant(facts["spoke_at"]), _instant(facts["tried_at"])
    return AlertState(entries=entries, spoke_at=spoke_at, tried_at=tried_at, found=facts["found"])


def _write(state: AlertState) -> str:
    entries = {
        key: {
            "message": entry.message,
            "since": entry.since.isoformat(),
            "told_at": _text(entry.told_at),
            "open": entry.is_open,
            "gone_at": _text(entry.gone_at),
        }
        for key, entry in sorted(state.entries.items())
    }
    spoke_at, tried_at = _text(state.spoke_at), _text(state.tried_at)
    return json.dumps({"entries": entries, "spoke_at": spoke_at, "tried_at": tried_at, "found": state.found})


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()
