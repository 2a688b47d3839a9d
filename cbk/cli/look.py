"""Looking: `status` and `ls`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cbk.cli.opening import opened
from cbk.jobs.kit import Kit
from cbk.jobs.status import Status, take_status
from cbk.model import DeclinedRow, Version, VersionState
from cbk.rules.health import describe_age
from cbk.rules.layout import copy_location

EXIT_UNPROTECTED = 4


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One object; docs/commands.md documents its shape.")
@click.pass_obj
def status(config: Path | None, as_json: bool) -> None:  # noqa: FBT001 - click hands options over like this
    """What would be left if the cloud account were gone now. Exit 0: everything; 4: not everything.

    \b
    Example:
      cbk status || echo "not everything is protected"
    """
    with opened(config) as kit:
        taken = take_status(kit)
    if as_json:
        click.echo(json.dumps(_status_object(taken), indent=2))
    else:
        _print_status(Console(highlight=False, soft_wrap=True), taken)
    if not taken.is_protected:
        raise click.exceptions.Exit(EXIT_UNPROTECTED)


def _status_object(taken: Status) -> dict[str, Any]:
    counts = taken.counts
    return {
        "protected": taken.is_protected,
        "files": counts.files,
        "protected_files": counts.protected,
        "pending": counts.by_state.get(VersionState.PENDING, 0),
        "states": {state.value: count for state, count in sorted(counts.by_state.items())},
        "declined_rows": counts.declined_rows,
        "copies": counts.copies,
        "size": counts.size,
        "stored_size": counts.stored_size,
        "last_poll_at": _text(taken.polled_at),
        "oldest_unprotected_at": _text(counts.oldest_unprotected_at),
        "newest_protected_at": _text(counts.newest_stored_seen_at),
        "lag_seconds": round(taken.lag.total_seconds(), 3),
        "problems": [{"message": problem.message, "hint": problem.hint} for problem in taken.problems],
        "unprotected": [
            {"state": group.state.value, "reason": group.reason, "count": group.count, "examples": group.examples}
            for group in taken.unprotected
        ],
    }


def _print_status(console: Console, taken: Status) -> None:
    counts = taken.counts
    colour, verdict = ("green", "everything is protected") if taken.is_protected else ("red", "not everything is protected")
    console.print(f"[bold {colour}]{verdict}[/]")
    console.print(f"if the cloud account were gone now: {counts.protected} of {counts.files} files, newest version each")
    console.print(f"copies      {counts.copies}, {_size(counts.size)} of objects in {_size(counts.stored_size)} on disk")
    console.print(f"last poll   {describe_age(counts.now - taken.polled_at) + ' ago' if taken.polled_at else 'never'}")
    if counts.oldest_unprotected_at:
        console.print(f"lag         {describe_age(taken.lag)} since the oldest unprotected file was first seen")
    for problem in taken.problems:
        console.print(f"[red]- {escape(problem.message)}[/]\n  HINT: {escape(problem.hint)}")
    for group in taken.unprotected:
        console.print(f"  {group.count} {group.state.value}: {escape(_plain(group.reason))}")
        console.print(f"      {escape(_plain(', '.join(group.examples)))}{' ...' if group.count > len(group.examples) else ''}")


@click.command()
@click.option("--storage", help="Only this storage.")
@click.option("--prefix", help="Only keys that begin like this.")
@click.option("--state", type=click.Choice([state.value for state in VersionState]), help="Only versions in this state.")
@click.option("--json", "as_json", is_flag=True, help="One object per line; docs/commands.md documents its shape.")
@click.pass_obj
def ls(config: Path | None, storage: str | None, prefix: str | None, state: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's way
    """List every version that the kit knows, with its state and the reason for it.

    \b
    Example:
      cbk ls --prefix cars/ --state stored
      cbk ls --json | jq -r 'select(.state == "expired") | .key'
    """
    with opened(config) as kit:
        kit.catalog.require_current()
        listed = _listed(kit, storage, prefix, VersionState(state) if state else None)
        if as_json:
            for item in listed:
                click.echo(_json_line(item))
        else:
            _print_table(listed)


def _listed(kit: Kit, storage: str | None, prefix: str | None, state: VersionState | None) -> Iterator[dict[str, Any]]:
    for version in kit.catalog.report.versions(storage=storage, prefix=prefix, state=state):
        yield _version_object(version)
    if state in {None, VersionState.DECLINED}:
        for row in kit.catalog.report.declined_rows():
            if (storage is None or row.storage == storage) and (prefix is None or row.key.startswith(prefix)):
                yield _declined_object(row)


def _version_object(version: Version) -> dict[str, Any]:
    stored = version.state is VersionState.STORED
    return {
        "storage": version.storage,
        "bucket": version.bucket,
        "key": version.key,
        "version": version.number,
        "state": version.state.value,
        "reason": version.reason,
        "location": copy_location(version.place, version.number) if stored else None,
        "sha256": version.sha256,
        "size": version.size,
        "stored_size": version.stored_size,
        "stored_at": _text(version.stored_at),
        "row": version.source_id,
        "due_at": _text(version.due_at),
    }


def _declined_object(row: DeclinedRow) -> dict[str, Any]:
    nothing = dict.fromkeys(("location", "sha256", "size", "stored_size", "stored_at"))
    named = {"storage": row.storage, "bucket": None, "key": row.key, "version": row.version}
    return named | {"state": VersionState.DECLINED.value, "reason": row.reason} | nothing | {"row": row.source_id, "due_at": None}


def _json_line(item: dict[str, Any]) -> str:
    """Readable names, but nothing that a terminal obeys: JSON leaves DEL, C1 and the signs that turn a line around as they are."""
    text = json.dumps(item, ensure_ascii=False)
    return "".join(character if character.isprintable() else json.dumps(character)[1:-1] for character in text)


def _print_table(listed: Iterator[dict[str, Any]]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        # For a pipe: tab-separated and unwrapped, in flat memory.
        for item in listed:
            click.echo(
                "\t".join(_plain(item[name]) for name in ("state", "storage", "key", "version", "size", "location", "reason"))
            )
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("state", "key", "version", "size", "location or reason"):
        table.add_column(heading, overflow="fold")
    for item in listed:
        size = _size(item["size"]) if item["size"] is not None else ""
        cells = (item["state"], f"{item['storage']}/{item['key']}", f"v{item['version']}", size, item["location"] or item["reason"])
        table.add_row(*(escape(_plain(cell)) for cell in cells))
    console.print(table)


def _plain(value: object) -> str:
    text = "" if value is None else str(value)
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _text(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant else None


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
