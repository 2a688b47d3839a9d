"""The states of a version, and everything that can move it from one to another.

`edges/catalog/database/transitions.py` is the one writer. `python -m cbk.rules.lifecycle` prints the graph for
docs/architecture.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from cbk.model import RemovalOutcome, VersionState

_S = VersionState
_ALL = frozenset(VersionState)
_WITHOUT_COPY = _ALL - {_S.STORED, _S.PRUNED}
_REFUSED = frozenset({_S.EXPIRED, _S.MISSING, _S.MISMATCH, _S.DECLINED, _S.FAILED})


class StateEvent(StrEnum):
    """What happens to a version."""

    WANTED = "it is one of those to be fetched"
    WAITS = "a newer one is fetched first"
    OVERTAKEN = "a newer one is stored"
    COPIED = "its copy is on the disk and was read back"
    REFUSED = "an attempt failed, or its row makes no sense"
    ROW_CHANGED = "its row has a fresh link, or another row brings it"
    ROW_GONE = "its rows are gone, and it has no copy"
    CREATED_AGAIN = "a row that no delete covers brings it again"
    FOUND_BAD = "its copy was found bad, or missing"
    RESYNCED = "a person asked for it"
    FOUND_WHOLE = "its copy lies whole in its place"
    PRUNED = "its grace has passed"
    UNDELETED = "its copy came back from the trash"


@dataclass(frozen=True, slots=True)
class StateChange:
    """From which states an event moves a version, and to which."""

    sources: frozenset[VersionState]
    targets: frozenset[VersionState]


LIFECYCLE: dict[StateEvent, StateChange] = {
    StateEvent.WANTED: StateChange(frozenset({_S.PENDING, _S.SUPERSEDED}), frozenset({_S.PENDING})),
    StateEvent.WAITS: StateChange(frozenset({_S.PENDING}), frozenset({_S.PENDING})),
    StateEvent.OVERTAKEN: StateChange(_WITHOUT_COPY - {_S.SUPERSEDED, _S.DECLINED}, frozenset({_S.SUPERSEDED})),
    StateEvent.COPIED: StateChange(_WITHOUT_COPY, frozenset({_S.STORED})),
    StateEvent.REFUSED: StateChange(_WITHOUT_COPY, _REFUSED | {_S.SUPERSEDED}),
    StateEvent.ROW_CHANGED: StateChange(_REFUSED, frozenset({_S.PENDING})),
    StateEvent.ROW_GONE: StateChange(_WITHOUT_COPY - {_S.SUPERSEDED}, frozenset({_S.MISSING})),
    StateEvent.CREATED_AGAIN: StateChange(frozenset({_S.PRUNED, _S.SUPERSEDED}) | _REFUSED, frozenset({_S.PENDING})),
    StateEvent.FOUND_BAD: StateChange(frozenset({_S.STORED}), frozenset({_S.PENDING})),
    StateEvent.RESYNCED: StateChange(_ALL, frozenset({_S.PENDING})),
    StateEvent.FOUND_WHOLE: StateChange(_WITHOUT_COPY, frozenset({_S.STORED})),
    StateEvent.PRUNED: StateChange(_ALL - {_S.PRUNED}, frozenset({_S.PRUNED})),
    StateEvent.UNDELETED: StateChange(frozenset({_S.PRUNED, _S.PENDING}), frozenset({_S.STORED})),
}

REMOVAL_OUTCOMES: dict[RemovalOutcome, frozenset[RemovalOutcome]] = {
    RemovalOutcome.OPEN: frozenset(RemovalOutcome) - {RemovalOutcome.OPEN},
    # A delete-log row that vanishes takes its delete back, whatever has been carried out; so does a person with `cbk undelete`.
    RemovalOutcome.DONE: frozenset({RemovalOutcome.TAKEN_BACK, RemovalOutcome.REJECTED, RemovalOutcome.OPEN}),
    RemovalOutcome.RECREATED: frozenset({RemovalOutcome.TAKEN_BACK, RemovalOutcome.REJECTED, RemovalOutcome.OPEN}),
    RemovalOutcome.TAKEN_BACK: frozenset(),
    RemovalOutcome.REJECTED: frozenset(),
}


def mermaid() -> str:
    """The graph of a version's states, as the documentation draws it."""
    lines = ["stateDiagram-v2", "    [*] --> pending: its row is seen", "    [*] --> stored: a rebuild finds its copy"]
    arrows = {
        (source, target, event)
        for event, transition in LIFECYCLE.items()
        for source in transition.sources
        for target in transition.targets
        if source is not target
    }
    lines += [f"    {source} --> {target}: {event}" for source, target, event in sorted(arrows)]
    return "\n".join(lines)


if __name__ == "__main__":
    print(mermaid())  # noqa: T201 - it is a command then
