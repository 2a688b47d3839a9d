"""The journal on the disk: holds, open removals, and deletes that a person took back.

So a lost catalog neither shortens a grace nor forgets what somebody wants kept. Where very many removals wait, what has changed is
added to its end, until there is as much of that as of the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from cbk.edges.catalog import Planned
from cbk.edges.catalog.retention.removals import JOURNAL_SEGMENT
from cbk.jobs.context import Context
from cbk.rules.retention.journal import JOURNAL_NAME, JournalRemoval, encode_journal, encode_segments

_WRITTEN = "journal.written"
# Up to this size it is always written anew, as is one to which as much was added as there was.
SMALL_BYTES = 100_000


def write_journal(context: Context, *, decided: bool = False) -> None:
    """Write the journal where an open removal or a hold has changed since it was last written, or a person has just decided.

    Raises ArchiveError or CatalogError.
    """
    segments = context.catalog.removals.journal_fingerprints()
    now = {
        "holds": [repr(hold) for hold in context.catalog.holds.all()],
        "segments": {str(each): segments[each] for each in segments},
    }
    written = _written(context)
    if not decided and all(written.get(name) == value for name, value in now.items()):
        return
    sizes = _add(context, written, now) if not decided else None
    if sizes is None:
        content = _whole(context)
        context.archive.write_note(JOURNAL_NAME, content)
        sizes = {"size": len(content), "whole": len(content)}
    context.catalog.facts.set(**{_WRITTEN: json.dumps(now | sizes)})


def _written(context: Context) -> dict[str, Any]:
    """What was last written, and how large that was; empty where it is not known."""
    try:
        known = json.loads(context.catalog.facts.get(_WRITTEN) or "{}")
    except ValueError:
        return {}
    return known if isinstance(known, dict) and isinstance(known.get("segments"), dict) else {}


def _add(context: Context, written: dict[str, Any], now: dict[str, Any]) -> dict[str, int] | None:
    """Add the segments that have changed; None where the journal is to be written anew."""
    if written.get("holds") != now["holds"] or written.get("whole", 0) <= SMALL_BYTES:
        return None
    before, after = written["segments"], now["segments"]
    changed = sorted(int(each) for each in before.keys() | after.keys() if before.get(each) != after.get(each))
    removals = context.catalog.removals
    content = encode_segments((each, _described(context, removals.journalled(each))) for each in changed)
    size: int = written["size"]
    if size + len(content) > 2 * written["whole"] or not context.archive.add_to_note(JOURNAL_NAME, content, size=size):
        return None
    return {"size": size + len(content), "whole": written["whole"]}


def _whole(context: Context) -> bytes:
    holds, at = context.catalog.holds.all(), context.catalog.now()
    listed = list(context.catalog.removals.journalled())
    if len(listed) <= JOURNAL_SEGMENT:
        return encode_journal(holds, _described(context, listed), at)
    return encode_journal(holds, [], at, segments=_in_segments(context, listed))


def _in_segments(context: Context, listed: Iterable[Planned]) -> Iterator[tuple[int, list[JournalRemoval]]]:
    for segment, some in groupby(listed, lambda planned: planned.removal.id // JOURNAL_SEGMENT):
        yield segment, _described(context, some)


def _described(context: Context, some: Iterable[Planned]) -> list[JournalRemoval]:
    listed = list(some)
    covered = context.catalog.removals.covered_rows([planned.removal for planned in listed])
    sha256s = context.catalog.report.sha256_of({each.removal.version_id for each in listed if each.removal.version_id is not None})
    return [
        JournalRemoval(
            kind=planned.removal.kind,
            first_seen_at=planned.removal.first_seen_at,
            due_at=planned.removal.due_at or planned.removal.first_seen_at,
            delete_id=planned.removal.delete_id,
            row_id=planned.removal.row_id,
            deleted_at=planned.removal.deleted_at,
            storage=planned.storage,
            key=planned.key,
            number=planned.number,
            sha256=sha256s.get(planned.removal.version_id or 0),
            through=planned.removal.through,
            covers=tuple(covered.get(planned.removal.id, ())),
            outcome=planned.removal.outcome.value,
            open=planned.removal.open,
        )
        for planned in listed
    ]
