"""Looking back: `history`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cbk.cli.status.ls import declined_object, state_words, version_object
from cbk.cli.terminal.context import opened
from cbk.cli.terminal.text import as_line, as_text
from cbk.jobs.status.history import VersionHistory
from cbk.jobs.status.history import history as history_job
from cbk.model import Version
from cbk.rules.status.history import Event


@click.command()
@click.argument("key")
@click.option("--storage", help="Only this storage.")
@click.option("--json", "as_json", is_flag=True, help="One object per line and version; docs/commands.md documents its shape.")
@click.pass_obj
def history(config: Path | None, key: str, storage: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's way
    """Show every version of one file, newest first, and what happened to each of them when.

    \b
    Example:
      cbk history cars/id-1/thumbnail.png
      cbk history cars/id-1/thumbnail.png --json | jq -c '.events[]'
    """
    with opened(config) as context:
        context.catalog.require_current()
        for version_history in history_job(context, key, storage=storage):
            if as_json:
                click.echo(as_line(_object(version_history)))
            else:
                _print(version_history)


def _object(version_history: VersionHistory) -> dict[str, Any]:
    described = (
        version_object(version_history.of) if isinstance(version_history.of, Version) else declined_object(version_history.of)
    )
    return described | {"events": [_event_object(event) for event in version_history.events]}


def _event_object(event: Event) -> dict[str, Any]:
    return {
        "at": event.at.isoformat(),
        "event": event.what,
        "until": event.until.isoformat() if event.until else None,
        "detail": event.detail,
    }


def _print(version_history: VersionHistory) -> None:
    item = _object(version_history)
    told = ": ".join(filter(None, (state_words(item), item["location"] or item["reason"])))
    click.echo(as_text(f"{item['storage']}/{item['key']} v{item['version']}  {told}"))
    for event in version_history.events:
        until = f"until {event.until.isoformat(' ', 'seconds')}" if event.until else ""
        told = ", ".join(filter(None, (until, event.detail)))
        click.echo(as_text(f"  {event.at.isoformat(' ', 'seconds')}  {event.what:<10}  {told}").rstrip())
