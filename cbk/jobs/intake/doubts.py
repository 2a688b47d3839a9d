"""What of the application's tables cannot be read, or is not what it was: nothing is removed while there is such a doubt."""

from __future__ import annotations

import json

from cbk.jobs.context import Context
from cbk.jobs.intake.table_reader import reading_of
from cbk.rules.intake.reading import Losses
from cbk.rules.status.health import Doubt

_FACT = "source.doubts"
TABLES = ("files", "deletes")


def note_doubts(context: Context) -> list[Doubt]:
    """Ask the source what it hides, put beside it what full reads found, and remember all of it. Raises SourceError."""
    doubts = [Doubt(message=each.message, hint=each.hint) for each in context.source.unreadable()]
    for name in TABLES:
        doubt = reading_of(context, name).doubt
        if doubt:
            doubts.append(Doubt(message=doubt, hint="`cbk doctor` tells more: which rows have no Id, or share one"))
    gone, live = context.catalog.report.gone_and_live()
    loss = Losses(gone_files=gone, live_files=live).doubt(context.settings.brake_share)
    if loss:
        hint = "restore the table; or, if all is well, `cbk prune --accept-gone` keeps their copies and says no more of them"
        doubts.append(Doubt(message=loss, hint=hint))
    context.catalog.facts.set(**{_FACT: json.dumps([[doubt.message, doubt.hint] for doubt in doubts]) if doubts else None})
    return doubts


def doubts_of(context: Context) -> list[Doubt]:
    """As they were noted last."""
    value = context.catalog.facts.get(_FACT)
    return [Doubt(message=message, hint=hint) for message, hint in json.loads(value)] if value else []


def why_nothing_goes(context: Context) -> str | None:
    """The first reason why nothing is removed now because of what cannot be read; None if there is none."""
    return next((f"the application's tables are in doubt: {doubt.message}" for doubt in doubts_of(context)), None)
