"""Looking back: `history`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cbk.cli.look import declined_object, version_object
from cbk.cli.opening import opened
from cbk.cli.text import as_line, as_text
from cbk.jobs.history import Past
from cbk.jobs.history import history as history_job
from cbk.model import Version
from cbk.rules.history import Event


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
    with opened(config) as kit:
        kit.catalog.require_current()
        for past in history_job(kit, key, storage=storage):
            if as_json:
                click.echo(as_line(_object(past)))
            else:
                _print(past)


def _object(past: Past) -> dict[str, Any]:
    described = version_object(past.of) if isinstance(past.of, Version) else declined_object(past.of)
    return described | {"events": [_event_object(event) for event in past.events]}


def _event_object(event: Event) -> dict[str, Any]:
    return {
        "at": event.at.isoformat(),
        "event": event.what,
        "until": event.until.isoformat() if event.until else None,
        "detail": event.detail,
    }


def _print(past: Past) -> None:
    item = _object(past)
    state = f"{item['state']}, deleted" if item["deleted"] else item["state"]
    told = ": ".join(filter(None, (state, item["location"] or item["reason"])))
    click.echo(as_text(f"{item['storage']}/{item['key']} v{item['version']}  {told}"))
    for event in past.events:
        until = f"until {event.until.isoformat(' ', 'seconds')}" if event.until else ""
        told = ", ".join(filter(None, (until, event.detail)))
        click.echo(as_text(f"  {event.at.isoformat(' ', 'seconds')}  {event.what:<10}  {told}").rstrip())
