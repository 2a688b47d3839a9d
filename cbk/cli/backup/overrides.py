"""Orders that workers follow while they run: `pause`, `resume`, `bandwidth`."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from cbk.cli.terminal.context import opened
from cbk.cli.terminal.text import parse_instant
from cbk.errors import UsageError
from cbk.jobs.backup import overrides
from cbk.jobs.context import Context
from cbk.rules.backup.bandwidth import describe_limit
from cbk.rules.backup.overrides import BANDWIDTH_FACT

AUTO = "auto"

_TIME_OF_DAY = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)", re.ASCII)

one_object_option = click.option("--json", "as_json", is_flag=True, help="One object; docs/commands.md documents its shape.")


@click.command()
@click.argument("duration", required=False)
@click.option("--until", metavar="TIME", help='Instead: until when, such as "07:00" (the next), or "2027-01-31 07:00".')
@one_object_option
@click.pass_obj
def pause(config: Path | None, *, duration: str | None, until: str | None, as_json: bool) -> None:
    """Fetch nothing new for DURATION, on all workers: downloads under way end, and everything else goes on.

    \b
    Example:
      cbk pause 2h
      cbk pause --until 07:00
    """
    when = duration or until
    if when is None or (duration and until):
        raise UsageError("a pause takes a duration, or --until", hint="such as `cbk pause 2h`")
    with opened(config) as context:
        context.catalog.require_current()
        ends = _parse_end(when, context.catalog.database.now())
        overrides.pause(context, ends)
    if as_json:
        click.echo(json.dumps({"paused_until": ends.isoformat()}))
    else:
        click.echo(f"paused until {ends.astimezone():%Y-%m-%d %H:%M %Z}: nothing new is fetched. `cbk resume` ends it")


@click.command()
@one_object_option
@click.pass_obj
def resume(config: Path | None, *, as_json: bool) -> None:
    """End a pause: workers go on within seconds, and the next poll sends what waits.

    \b
    Example:
      cbk resume
    """
    with opened(config) as context:
        context.catalog.require_current()
        was_paused = overrides.resume(context)
    if as_json:
        click.echo(json.dumps({"resumed": was_paused}))
    else:
        click.echo("resumed" if was_paused else "nothing is paused")


@click.command()
@click.argument("limit", nargs=-1)
@one_object_option
@click.pass_obj
def bandwidth(config: Path | None, *, limit: tuple[str, ...], as_json: bool) -> None:
    """Show or change how many bytes per second all workers together fetch at the most. They follow within seconds.

    LIMIT is a number of bytes per second, `off` for no limit, a timetable as in CBK_BANDWIDTH, or `auto`: as CBK_BANDWIDTH says.

    \b
    Example:
      cbk bandwidth 2M
      cbk bandwidth 08:00,1M 23:00,off
      cbk bandwidth auto
    """
    with opened(config) as context:
        context.catalog.require_current()
        if limit:
            text = " ".join(limit)
            overrides.override_bandwidth(context, None if text.lower() == AUTO else text)
        shown = _bandwidth_object(context)
    if as_json:
        click.echo(json.dumps(shown))
    else:
        by = "ordered by `cbk bandwidth`" if shown["ordered"] else "as CBK_BANDWIDTH says"
        click.echo(f"{describe_limit(shown['bandwidth'])} now, {by}" + (f": {shown['timetable']}" if shown["timetable"] else ""))


def _bandwidth_object(context: Context) -> dict[str, Any]:
    ordered = context.catalog.facts.get(BANDWIDTH_FACT)
    timetable = context.settings.bandwidth if ordered is None else ordered
    return {"bandwidth": overrides.bandwidth_now(context), "ordered": ordered is not None, "timetable": timetable}


def _parse_end(text: str, now: datetime) -> datetime:
    """The end of a pause: the next time of day, or as `parse_instant`. Raises UsageError."""
    match = _TIME_OF_DAY.fullmatch(text.strip())
    if match is None:
        return parse_instant(text, now=now, forward=True)
    today = now.astimezone().replace(tzinfo=None)
    end = today.replace(hour=int(match[1]), minute=int(match[2]), second=0, microsecond=0)
    return (end if end > today else end + timedelta(days=1)).astimezone(UTC)
