"""Look at how things stand, tell people what needs them, and keep the dead man's switch from going off while all is well."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

from cbk.errors import ArchiveError, CatalogError
from cbk.jobs.gentle import alone
from cbk.jobs.kit import Kit
from cbk.jobs.status import take_status
from cbk.model import Summary
from cbk.rules.health import Kind, Problem
from cbk.rules.text import counted
from cbk.rules.voice import SOON, Entry, Memory, Message, decide, worth_telling

# Begins each subject.
SENDER = "Cloud Backup Kit"
LEASE = "watch"
FACT = "voice"
# How many of the bad copies a message names.
TOLD_BY_NAME = 20
# Each process tells so often at the most that there is no catalog to remember what was told in.
REPEAT_LAST_WORDS_AFTER = timedelta(hours=1)

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


class LastWords:
    """What a process says where the catalog does not answer: it cannot look up what was told, so it remembers that by itself."""

    def __init__(self, uptime: Callable[[], float] = monotonic) -> None:
        self._uptime = uptime
        self._since: float | None = None
        self._told_at = float("-inf")

    def forget(self) -> None:
        """The catalog answers."""
        self._since = None

    def say(self, kit: Kit, error: CatalogError) -> Summary:
        """The catalog does not answer: once that has lasted, tell people, and the dead man's switch."""
        now = self._uptime()
        self._since = now if self._since is None else self._since
        if now - self._since < min(SOON, kit.settings.alert_after).total_seconds():
            return Summary(outcome="not told yet", facts={"reason": error.message})
        heartbeat = kit.heartbeat.fail([Kind.CATALOG])
        if now - self._told_at < REPEAT_LAST_WORDS_AFTER.total_seconds() or not kit.notifier.is_configured:
            return Summary(outcome="quiet", facts={"reason": error.message, "heartbeat": heartbeat})
        self._told_at = now
        text = f"{error.message}.\n    {error.hint or 'is its database up, is the backup disk mounted? `cbk doctor`'}"
        outcome = (
            "told" if kit.notifier.notify(f"{SENDER}: the catalog cannot be read, nothing is backed up", text) else "nobody took it"
        )
        return Summary(outcome=outcome, facts={"reason": error.message, "heartbeat": heartbeat})


def watch(kit: Kit, last_words: LastWords) -> Summary:
    """One look. Whatever becomes of messages is in the summary, and never raised: a later look tries again."""
    try:
        with alone(kit, LEASE) as leases:
            last_words.forget()
            return Summary(outcome="skipped", facts={"reason": "another one looks"}) if leases is None else _look(kit)
    except CatalogError as error:
        return last_words.say(kit, error)


def _look(kit: Kit) -> Summary:
    noted = kit.catalog.facts.get(FACT)
    memory = _read(noted)
    view = _view(kit, memory)
    now = kit.catalog.database.now()
    speech = decide(
        view.problems,
        memory,
        now=now,
        alert_after=kit.settings.alert_after,
        verdict=view.verdict,
        complete=view.complete,
    )
    kinds = sorted({problem.kind for problem in speech.grave})
    heartbeat = _call_switch(kit, kinds, view)
    outcome, kept = "quiet", speech.memory
    if speech.message is not None:
        outcome = _send(kit, speech.message)
        if outcome == "told":
            kept = replace(speech.told, found=view.found)
        elif outcome == "nobody to tell":
            kept = replace(speech.memory, tried_at=None)
    written = _write(kept)
    if written != noted:
        kit.catalog.facts.set(**{FACT: written})
    return Summary(outcome=outcome, facts={"problems": kinds, "heartbeat": heartbeat})


def _call_switch(kit: Kit, kinds: list[Kind], view: _View) -> bool | None:
    """What has not lasted yet is neither good news nor bad."""
    if kinds:
        return kit.heartbeat.fail(kinds)
    return None if view.problems else kit.heartbeat.beat()


def _send(kit: Kit, message: Message) -> str:
    if not kit.notifier.is_configured:
        return "nobody to tell"
    return "told" if kit.notifier.notify(f"{SENDER}: {message.subject}", message.text) else "nobody took it"


def _view(kit: Kit, memory: Memory) -> _View:
    try:
        status = take_status(kit)
    except ArchiveError as error:
        problem = Problem(kind=Kind.DISK_MISSING, message=f"nothing is backed up: {error.message}", hint=error.hint or _DISK_HINT)
        return _View(problems=[problem], verdict="", found=memory.found, complete=False)
    counts, standing = status.counts, status.verification
    problems = worth_telling(status.problems, counts.oldest_by_state, now=counts.now, alert_after=kit.settings.alert_after)
    if standing.found > memory.found:
        problems.append(_corrupt(standing.found - memory.found, standing.latest))
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


def _read(noted: str | None) -> Memory:
    if noted is None:
        return Memory()
    facts = json.loads(noted)
    entries = {
        key: Entry(
            message=entry["message"],
            since=datetime.fromisoformat(entry["since"]),
            told_at=_instant(entry["told_at"]),
            is_open=entry["open"],
            gone_at=_instant(entry["gone_at"]),
        )
        for key, entry in facts["entries"].items()
    }
    spoke_at, tried_at = _instant(facts["spoke_at"]), _instant(facts["tried_at"])
    return Memory(entries=entries, spoke_at=spoke_at, tried_at=tried_at, found=facts["found"])


def _write(memory: Memory) -> str:
    entries = {
        key: {
            "message": entry.message,
            "since": entry.since.isoformat(),
            "told_at": _text(entry.told_at),
            "open": entry.is_open,
            "gone_at": _text(entry.gone_at),
        }
        for key, entry in sorted(memory.entries.items())
    }
    spoke_at, tried_at = _text(memory.spoke_at), _text(memory.tried_at)
    return json.dumps({"entries": entries, "spoke_at": spoke_at, "tried_at": tried_at, "found": memory.found})


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()
