"""Looking at all of it: `status`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from cbk.cli.dump.dump_lines import standing_line
from cbk.cli.terminal.context import opened
from cbk.cli.terminal.text import as_line, as_size, as_text, counted
from cbk.cli.verification.verification_lines import verification_lines
from cbk.errors import CbkError
from cbk.jobs.context import Context
from cbk.jobs.status.status import Disk, Retention, Status, gather_status, status_object
from cbk.rules.backup.bandwidth import describe_limit
from cbk.rules.backup.hashes import describe_proofs
from cbk.rules.mirror import describe_mirrors
from cbk.rules.status.health import describe_age

EXIT_UNPROTECTED = 4
WATCH_SECONDS = 5.0
SHORTEST_WATCH_SECONDS = 0.1
# More buckets than that are on the page, and in the JSON.
BUCKET_LINES = 20
BAR_CHARACTERS = 20


@click.command()
@click.option(
    "--watch",
    "every_seconds",
    metavar="[SECONDS]",
    is_flag=False,
    flag_value=WATCH_SECONDS,
    type=click.FloatRange(min=SHORTEST_WATCH_SECONDS),
    help="Look again and again until ^C, every 5 seconds or as often as you say.",
)
@click.option("--json", "as_json", is_flag=True, help="One object; docs/commands.md documents its shape.")
@click.pass_obj
def status(config: Path | None, *, every_seconds: float | None, as_json: bool) -> None:
    """What would be left if the cloud account were gone now. Exit 0: everything; 4: not everything.

    \b
    Example:
      cbk status || echo "not everything is protected"
      cbk status --watch
    """
    with opened(config) as context:
        if every_seconds is not None:
            _watch(context, every_seconds, as_json=as_json)
        taken = gather_status(context)
    if as_json:
        click.echo(json.dumps(status_object(taken), indent=2))
    else:
        _console().print("\n".join(_lines(taken)))
    if not taken.is_protected:
        raise click.exceptions.Exit(EXIT_UNPROTECTED)


def _watch(context: Context, every_seconds: float, *, as_json: bool) -> None:
    """Until somebody interrupts: on a terminal always the latest answer, elsewhere one after the other."""
    console = _console()
    if as_json or not console.is_terminal:
        while True:
            if as_json:
                click.echo(as_line(status_object(gather_status(context))))
            else:
                console.print("\n".join(_answer(context)), end="\n\n")
            time.sleep(every_seconds)
    with Live(console=Console(highlight=False), auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            live.update(Text.from_markup("\n".join(_answer(context))), refresh=True)
            time.sleep(every_seconds)


def _answer(context: Context) -> list[str]:
    """The lines of the answer, or why there is none: what goes wrong for a while ends no watch."""
    try:
        return list(_lines(gather_status(context)))
    except CbkError as error:
        hint = [f"  HINT: {escape(error.hint)}"] if error.hint else []
        return [f"[bold red]nothing is known: {escape(as_text(error.message))}[/]", *hint]


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def _lines(taken: Status) -> Iterator[str]:
    """The answer for a person, in rich's markup."""
    counts = taken.counts
    colour, verdict = ("green", "everything is protected") if taken.is_protected else ("red", "not everything is protected")
    yield f"[bold {colour}]{verdict}[/]"
    yield f"if the cloud account were gone now: {counts.protected} of {counted(counts.files, 'file')}, newest version each"
    if taken.protected_until:
        yield f"complete    up to {taken.protected_until:%Y-%m-%d %H:%M:%S} UTC: every row that was seen before that is protected"
    yield from _bucket_lines(taken)
    if counts.weaker:
        yield f"proof       {describe_proofs(counts.by_proof)}"
    yield f"copies      {counts.copies}, {as_size(counts.size)} of objects in {as_size(counts.stored_size)} on disk"
    yield f"disk        {disk_line(taken.disk)}"
    yield from map(escape, verification_lines(taken))
    for standing in taken.dumps:
        yield f"dump        {escape(as_text(standing_line(standing, counts.now)))}"
    yield from _mirror_lines(taken)
    yield from map(escape, _inventory_lines(taken))
    yield f"last poll   {describe_age(counts.now - taken.polled_at) + ' ago' if taken.polled_at else 'never'}"
    if taken.ordered.paused_until:
        until = f"{taken.ordered.paused_until.astimezone():%Y-%m-%d %H:%M %Z}"
        yield f"paused      until {until}: nothing new is fetched; `cbk resume` ends it"
    if taken.ordered.bandwidth is not None or taken.ordered.is_ordered:
        by = " (by `cbk bandwidth`)" if taken.ordered.is_ordered else ""
        yield f"bandwidth   {describe_limit(taken.ordered.bandwidth)} for all workers together{by}"
    yield from map(escape, _retention_lines(taken.retention))
    if counts.oldest_unprotected_at:
        yield f"lag         {describe_age(taken.lag)} since the oldest unprotected file was first seen"
    if taken.refresh.count:
        rows = "1 row needs" if taken.refresh.count == 1 else f"{taken.refresh.count} rows need"
        yield f"links       {rows} a fresh one: `cbk ls --refresh` prints the Ids"
    for problem in taken.problems:
        yield f"[red]- {escape(problem.message)}[/]\n  HINT: {escape(problem.hint)}"
    for group in taken.unprotected:
        yield f"  {group.count} {group.state.value}: {escape(as_text(group.reason))}"
        yield f"      {escape(as_text(', '.join(group.examples)))}{' ...' if group.count > len(group.examples) else ''}"


def _mirror_lines(taken: Status) -> Iterator[str]:
    for number, line in enumerate(describe_mirrors(taken.mirrors, taken.counts.now)):
        yield escape(as_text(line if number == 0 else f"            {line}"))


def _retention_lines(retention: Retention) -> Iterator[str]:
    """What waits to go, and how much of the brake's window is used; that is nothing where so few copies are here that it is off."""
    if retention.removals:
        wait = "waits" if retention.removals == 1 else "wait"
        yield f"removals    {retention.removals} {wait} for the end of a grace: `cbk prune --plan`"
    if retention.partial:
        named = "1 delete names" if retention.partial == 1 else f"{retention.partial} deletes name"
        yield f"deletes     {named} an older version than the newest, which stays: `cbk prune --plan`"
    allowance = retention.allowance
    if allowance is not None and allowance.allowed is not None:
        yield (
            f"brake       {allowance.used} of {allowance.allowed} copies went without a person's word "
            f"since {allowance.since:%Y-%m-%d}; {allowance.waiting} wait"
        )


def _inventory_lines(taken: Status) -> Iterator[str]:
    """What the last inventory of each storage is of, or that there is none: then the kit answers for the rows alone."""
    if not taken.inventories:
        yield "inventory   none: what is in the bucket without a row is not known; `cbk-app inventory` tells"
    for each in taken.inventories:
        age = f", {describe_age(taken.counts.now - each.as_of)} old" if each.as_of else ""
        yield f"inventory   {as_text(each.storage)}: {counted(each.objects, 'object')}{age}"


def _bucket_lines(taken: Status) -> Iterator[str]:
    if len(taken.buckets) < 2:
        return
    for bucket in taken.buckets[:BUCKET_LINES]:
        done = BAR_CHARACTERS * bucket.protected // bucket.files if bucket.files else BAR_CHARACTERS
        colour = "green" if bucket.protected == bucket.files else "red"
        bar = f"[{colour}]{'#' * done}{'.' * (BAR_CHARACTERS - done)}[/]"
        stands = f"{bucket.protected} of {counted(bucket.files, 'file')}"
        yield f"  {bar} {escape(as_text(bucket.bucket))}: {stands}, {as_size(bucket.stored_size)}"
    if len(taken.buckets) > BUCKET_LINES:
        yield f"  and {counted(len(taken.buckets) - BUCKET_LINES, 'more bucket')}"


def disk_line(disk: Disk) -> str:
    """What room there is, and for how long."""
    usage = f"{as_size(disk.usage.free)} of {as_size(disk.usage.total)} free"
    return usage if disk.days_left is None else f"{usage}, full in about {describe_age(timedelta(days=disk.days_left))}"
