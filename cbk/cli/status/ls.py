"""Looking at single files: `ls`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cbk.cli.terminal.context import opened
from cbk.cli.terminal.text import as_line, as_size, as_text, parse_instant
from cbk.jobs.context import Context
from cbk.jobs.status.listing import VersionFilter, find
from cbk.model import DeclinedRow, Proof, Version, VersionState
from cbk.rules.intake.inventory import FindingKind
from cbk.rules.intake.layout import location_of, object_key

EXIT_SOME_FAILED = 3
TABLE_ROWS = 1000

_PIPED = ("state", "storage", "key", "version", "size", "location", "reason")
_PIPED_LONG = (
    "bucket",
    "row",
    "newest",
    "deleted",
    "stored_size",
    "stored_at",
    "verified_at",
    "pruned_at",
    "due_at",
    "sha256",
    "proof",
)
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_.:@+-]+")
_PROOF_WORDS = {Proof.MD5.value: "by MD5", Proof.FIRST_SEEN.value: "as first seen"}
_MORE_HEADINGS = ("on disk", "stored", "verified", "row")


@click.command()
@click.argument("pattern", required=False)
@click.option("--key", help="Only the file of this key.")
@click.option("--prefix", help="Only keys that begin like this.")
@click.option("--storage", help="Only this storage.")
@click.option("--bucket", help="Only this bucket folder.")
@click.option("--state", type=click.Choice([state.value for state in VersionState]), help="Only versions in this state.")
@click.option("--newest", is_flag=True, help="Only the newest version of each file.")
@click.option("--deleted/--no-deleted", default=None, help="Only what the application deleted, or only what it did not.")
@click.option("--since", metavar="TIME", help='Only what was stored then or later: "2026-11-24", "2026-11-24 08:00", or "2d" ago.')
@click.option("--until", metavar="TIME", help="Only what was stored before.")
@click.option(
    "--refresh", is_flag=True, help="Only what waits for a fresh link, and of that only the rows' Ids, as SQL takes them."
)
@click.option("--gone", is_flag=True, help="Only what has a copy here and no row any more, though nobody deleted it.")
@click.option("--unrecorded", is_flag=True, help="Only what the last inventories name and no row does: objects, not versions.")
@click.option("--long", "is_long", is_flag=True, help="More columns.")
@click.option("--json", "as_json", is_flag=True, help="One object per line; docs/commands.md documents its shape.")
@click.pass_obj
def ls(
    config: Path | None,
    *,
    pattern: str | None,
    key: str | None,
    prefix: str | None,
    storage: str | None,
    bucket: str | None,
    state: str | None,
    newest: bool,
    deleted: bool | None,
    since: str | None,
    until: str | None,
    refresh: bool,
    gone: bool,
    unrecorded: bool,
    is_long: bool,
    as_json: bool,
) -> None:
    """List every version that the kit knows, with its state and the reason for it.

    PATTERN is compared with the whole key: * stands for any characters, slashes too, ? for one, [abc] for one of these.

    \b
    Example:
      cbk ls 'cars/*.png' --newest
      cbk ls --prefix cars/ --state stored --since 2d
      cbk ls --refresh | paste -sd,
      cbk ls --json | jq -r 'select(.state == "expired") | .key'
    """
    with opened(config) as context:
        context.catalog.require_current()
        if unrecorded:
            _print_unrecorded(context, as_json=as_json)
            return
        now = context.catalog.database.now()
        filters = VersionFilter(
            storage=storage,
            key=None if key is None else object_key("", key),
            prefix=prefix and object_key("", prefix),
            pattern=pattern and object_key("", pattern),
            bucket=bucket,
            state=VersionState(state) if state else None,
            newest=newest or None,
            deleted=deleted,
            refresh=refresh,
            gone=gone,
            since=parse_instant(since, now=now, forward=False) if since else None,
            until=parse_instant(until, now=now, forward=False) if until else None,
        )
        found = find(context, filters)
        first = next(found, None)
        if first is None and filters.names_something:
            click.echo(f"cbk: nothing that the kit knows matches\nHINT: {_nothing_hint(filters)}", err=True)
        listed = map(_object, chain([] if first is None else [first], found))
        if as_json:
            for item in listed:
                click.echo(as_line(item))
        elif refresh:
            _print_ids(item["row"] for item in listed)
        else:
            _print_table(listed, is_long=is_long)


def _print_unrecorded(context: Context, *, as_json: bool) -> None:
    """Objects that have no row, as far as they are known by name: the bucket's name for each, and its size."""
    for kept in context.catalog.inventories.findings(FindingKind.UNRECORDED):
        found = {"storage": kept.storage, "key": kept.finding.key, "size": kept.finding.size}
        click.echo(as_line(found) if as_json else "\t".join(as_text(value) for value in found.values()))


def _nothing_hint(filters: VersionFilter) -> str:
    if filters.pattern is not None:
        return (
            f"a pattern is compared with the whole key, which has no storage or bucket in front of it: cbk ls '*{filters.pattern}*'"
        )
    return "`cbk ls` without options lists everything, with storage and key; upper and lower case differ"


def _object(item: Version | DeclinedRow) -> dict[str, Any]:
    return version_object(item) if isinstance(item, Version) else declined_object(item)


def version_object(version: Version) -> dict[str, Any]:
    """What `ls --json` says of a version."""
    stored = version.state is VersionState.STORED
    return {
        "storage": version.storage,
        "bucket": version.bucket,
        "key": version.key,
        "version": version.number,
        "state": version.state.value,
        "reason": version.reason,
        "location": location_of(version) if stored else None,
        "sha256": version.sha256 or None,
        "proof": version.proof.value,
        "size": version.size,
        "stored_size": version.stored_size,
        "stored_at": _text(version.stored_at),
        "row": version.source_id,
        "due_at": _text(version.due_at),
        "newest": version.newest,
        "deleted": version.deleted,
        "live": version.live,
        "verified_at": _text(version.verified_at),
        "pruned_at": _text(version.pruned_at),
    }


def declined_object(row: DeclinedRow) -> dict[str, Any]:
    """What `ls --json` says of a declined row: the same names, with what could be made out of it."""
    named = {"storage": row.storage, "bucket": None, "key": row.key, "version": row.version}
    nothing = dict.fromkeys(("location", "sha256", "proof", "size", "stored_size", "stored_at"))
    unknown = dict.fromkeys(("due_at", "newest", "deleted", "live", "verified_at", "pruned_at"))
    return named | {"state": VersionState.DECLINED.value, "reason": row.reason} | nothing | {"row": row.source_id} | unknown


def _print_ids(ids: Iterator[str]) -> None:
    """One per line, as SQL takes them. Ids come from outside: one that could end its own quotes is not written."""
    left_out = 0
    for row_id in ids:
        if _WHOLE_NUMBER.fullmatch(row_id):
            click.echo(row_id)
        elif _PLAIN_WORD.fullmatch(row_id):
            click.echo(f"'{row_id}'")
        else:
            left_out += 1
    if left_out:
        named = "1 Id is" if left_out == 1 else f"{left_out} Ids are"
        click.echo(f"cbk: {named} not written: other characters than letters, digits and -_.:@+\nHINT: --json has them", err=True)
        raise click.exceptions.Exit(EXIT_SOME_FAILED)


def _print_table(listed: Iterator[dict[str, Any]], *, is_long: bool) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        # For a pipe: tab-separated and unwrapped.
        names = (*_PIPED, *_PIPED_LONG) if is_long else _PIPED
        for item in listed:
            click.echo("\t".join(as_text(item[name]) for name in names))
        return
    headings = ("state", "key", "version", "size", *(_MORE_HEADINGS if is_long else ()), "location or reason")
    # Tables of so many lines: one of all would hold all of it in memory.
    for first in listed:
        table = Table(box=None, pad_edge=False)
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for item in (first, *islice(listed, TABLE_ROWS - 1)):
            table.add_row(*(escape(as_text(cell)) for cell in _cells(item, is_long=is_long)))
        console.print(table)


def _cells(item: dict[str, Any], *, is_long: bool) -> tuple[object, ...]:
    shown: tuple[object, ...] = (
        state_words(item),
        f"{item['storage']}/{item['key']}",
        f"v{item['version']}",
        _size_or_nothing(item["size"]),
    )
    if is_long:
        moments = ((item[name] or "").replace("T", " ")[:16] for name in ("stored_at", "verified_at"))
        shown += (_size_or_nothing(item["stored_size"]), *moments, item["row"])
    return (*shown, item["location"] or item["reason"])


def state_words(item: dict[str, Any]) -> str:
    """A version's state, what proves its copy if that is no SHA-256, and whether it is deleted; `item` is a `version_object`."""
    words = [item["state"]]
    if item["location"] and item["proof"] in _PROOF_WORDS:
        words.append(_PROOF_WORDS[item["proof"]])
    if item["deleted"]:
        words.append("deleted")
    return ", ".join(words)


def _size_or_nothing(count: int | None) -> str:
    return "" if count is None else as_size(count)


def _text(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant else None
