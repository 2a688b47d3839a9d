"""Letting go, and keeping: `prune`, `hold`, `release`, `undelete`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cbk.cli.terminal.context import opened
from cbk.cli.terminal.progress import progress
from cbk.cli.terminal.text import as_line, as_text, counted, parse_instant
from cbk.errors import UsageError
from cbk.jobs.context import Context
from cbk.jobs.dump.upkeep import PlannedDump, plan_dumps
from cbk.jobs.retention.clock_guard import trust_clock
from cbk.jobs.retention.holds import Placed, list_holds, place_hold, release_holds
from cbk.jobs.retention.plan import PlannedVersion, decide_brake, files_of_brake, plan, prune_due
from cbk.jobs.retention.undelete import undelete as undelete_job
from cbk.model import Summary

# How many files that a brake holds are named when a person has decided; `--plan` names all.
NAMES_SHOWN = 10

storage_option = click.option("--storage", help="Only this storage.")
json_option = click.option("--json", "as_json", is_flag=True, help="One object per line; docs/commands.md documents its shape.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")


@click.command()
@click.option("--plan", "show_plan", is_flag=True, help="Show what goes when and why, and change nothing.")
@click.option("--approve", type=int, metavar="ID", help="Let go what this brake holds, when it is due.")
@click.option("--reject", type=int, metavar="ID", help="Keep what this brake holds: as if it had not been deleted.")
@click.option("--trust-clock", is_flag=True, help="The clock is right: begin anew with it, after it went back or jumped ahead.")
@click.option(
    "--accept-gone", is_flag=True, help="Files whose rows are gone without a delete are right so: keep their copies, say no more."
)
@storage_option
@click.option("--prefix", help="Only keys that begin like this.")
@dry_run_option
@json_option
@click.pass_obj
def prune(
    config: Path | None,
    *,
    show_plan: bool,
    approve: int | None,
    reject: int | None,
    trust_clock: bool,
    accept_gone: bool,
    storage: str | None,
    prefix: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove the copies whose grace has passed. Workers do this by themselves; this does it here and now.

    \b
    Example:
      cbk prune --plan
      cbk prune --approve 3
    """
    if sum((show_plan, approve is not None, reject is not None, trust_clock, accept_gone)) > 1:
        raise UsageError(
            "--plan, --approve, --reject, --trust-clock and --accept-gone are different things", hint="give one of them"
        )
    with opened(config) as context:
        if trust_clock:
            _trust(context, dry_run=dry_run)
        elif accept_gone:
            _accept_gone(context, dry_run=dry_run, as_json=as_json)
        elif approve is not None or reject is not None:
            _decide(context, approve, reject, dry_run=dry_run, as_json=as_json)
        elif show_plan or dry_run:
            context.catalog.require_current()
            due_only = dry_run and not show_plan
            planned = plan(context, storage=storage, prefix=prefix, due_only=due_only)
            of_dumps = [] if due_only else plan_dumps(context, bucket=storage, prefix=prefix)
            _show(chain(map(_object, planned), map(_dump_object, of_dumps)), as_json=as_json)
        else:
            _carry_out(context, config, storage, prefix, as_json=as_json)


def _trust(context: Context, *, dry_run: bool) -> None:
    if dry_run:
        click.echo("would trust the clock as it is now")
        return
    still = trust_clock(context)
    click.echo("the clock as it is now is trusted" if still is None else f"noted; nothing is pruned all the same: {still}")


def _accept_gone(context: Context, *, dry_run: bool, as_json: bool) -> None:
    context.catalog.require_current()
    files = context.catalog.report.counts().gone_files if dry_run else context.catalog.report.accept_gone()
    outcome = "would accept" if dry_run else "accepted"
    if as_json:
        click.echo(json.dumps({"outcome": outcome, "files": files}))
    else:
        click.echo(f"{outcome}: {counted(files, 'file')} without a row; the copies stay")


def _decide(context: Context, approve: int | None, reject: int | None, *, dry_run: bool, as_json: bool) -> None:
    brake_id = approve if approve is not None else reject
    assert brake_id is not None
    approved = approve is not None
    outcome = ("would approve" if dry_run else "approved") if approved else ("would reject" if dry_run else "rejected")
    brakes = {brake.id: brake.removals for brake in context.catalog.brakes.all()}
    named = files_of_brake(context, brake_id)  # before: what is rejected is no removal any more
    removals = brakes.get(brake_id, 0) if dry_run else decide_brake(context, brake_id, approve=approved)
    if as_json:
        click.echo(json.dumps({"outcome": outcome, "brake": brake_id, "removals": removals}))
    else:
        goes = "goes when it is" if removals == 1 else "go when they are"
        click.echo(f"{outcome}: {counted(removals, 'removal')}" + (f", which {goes} due" if approved else ""))
        for name in named[:NAMES_SHOWN]:
            click.echo(f"  {as_text(name)}")
        if len(named) > NAMES_SHOWN:
            shows = f": `cbk prune --plan` shows {'it' if len(named) == NAMES_SHOWN + 1 else 'them'}" if approved else ""
            click.echo(f"  and {counted(len(named) - NAMES_SHOWN, 'file')} more{shows}")


def _show(items: Iterable[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        for item in items:
            click.echo(as_line(item))
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        for item in items:
            click.echo("\t".join(as_text(value) for value in item.values()))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("what", "when", "version", "why"):
        table.add_column(heading, overflow="fold")
    for item in items:
        name = f"row {item['row']}" if item["key"] is None else f"{item['storage']}/{item['key']} v{item['version']}"
        when = (item["when"] or "")[:16].replace("T", " ")
        table.add_row(item["action"], when, escape(as_text(name)), escape(as_text(item["why"])))
    console.print(table if table.row_count else "nothing waits to be removed")


def _object(item: PlannedVersion) -> dict[str, Any]:
    version = item.version
    return {
        "action": "remove" if item.removes else "keep",
        "when": item.when.isoformat() if item.when else None,
        "storage": version.storage if version else None,
        "key": version.key if version else None,
        "version": version.number if version else None,
        "why": item.reason,
        "kind": item.removal.kind.value,
        "delete": item.removal.delete_id,
        "row": item.removal.row_id,
        "first_seen_at": item.removal.first_seen_at.isoformat(),
        "brake": item.removal.brake_id if item.removal.braked else None,
    }


def _dump_object(item: PlannedDump) -> dict[str, Any]:
    verdict = item.verdict
    removes = verdict.prune or verdict.waits_for_grace
    return {
        "action": "remove" if removes else "keep",
        "when": verdict.due_at.isoformat() if removes and verdict.due_at else None,
        "storage": item.dump.bucket,
        "key": item.dump.name,
        "version": verdict.number,
        "why": ", ".join(verdict.reasons),
        "kind": "dump",
        "delete": None,
        "row": None,
        "first_seen_at": verdict.unkept_since.isoformat() if verdict.unkept_since else None,
        "brake": None,
    }


def _carry_out(context: Context, config: Path | None, storage: str | None, prefix: str | None, *, as_json: bool) -> None:
    if config is not None:
        os.environ["CBK_CONFIG"] = str(config)  # noqa: TID251 - the app, made when it is imported, reads the same file
    from cbk.cluster.app import app  # noqa: PLC0415 - only what talks to the workers needs Celery
    from cbk.cluster.publisher import CeleryPublisher  # noqa: PLC0415

    context.catalog.require_current()
    done: dict[str, int] = {}
    with progress("pruning", total=context.catalog.removals.count_open()[0]) as advance:
        for summary in prune_due(context, CeleryPublisher(app), storage=storage, prefix=prefix):
            advance(1)
            done[summary.outcome] = done.get(summary.outcome, 0) + 1
            if as_json:
                click.echo(as_line({"outcome": summary.outcome, **summary.facts}))
    if not as_json:
        click.echo(", ".join(f"{count} {outcome}" for outcome, count in sorted(done.items())) or "nothing is due")


@click.command()
@click.argument("key", required=False)
@click.option("--prefix", "is_prefix", is_flag=True, help="KEY is the beginning of keys: hold every file below it.")
@click.option("--until", metavar="TIME", help='When the hold ends: "2027-01-31", or "90d" from now. Default: when it is released.')
@click.option("--reason", default="", help="Why, for whoever finds it in a year.")
@click.option("--list", "listing", is_flag=True, help="Show all holds.")
@storage_option
@dry_run_option
@json_option
@click.pass_obj
def hold(
    config: Path | None,
    *,
    key: str | None,
    is_prefix: bool,
    until: str | None,
    reason: str,
    listing: bool,
    storage: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Keep every copy of a file, whatever the application deletes, until the hold ends.

    \b
    Example:
      cbk hold contracts/2026/lease.pdf --reason "legal, ask Ada"
      cbk hold --prefix contracts/ --until 2027-12-31
      cbk hold --list
    """
    if listing == (key is not None):
        raise UsageError("a hold takes a key, or --list", hint="`cbk hold --help` has examples")
    with opened(config) as context:
        context.catalog.require_current()
        if key is None:
            _show_holds(list_holds(context), as_json=as_json)
            return
        ends = parse_instant(until, now=context.catalog.database.now(), forward=True) if until else None
        placed = place_hold(context, key, is_prefix=is_prefix, storage=storage, until=ends, reason=reason, dry_run=dry_run)
    if as_json:
        click.echo(as_line(_hold_object(placed)))
        return
    click.echo(f"{'would hold' if dry_run else f'hold {placed.hold.id}:'} {_describe(placed)}")
    if not placed.files:
        click.echo("HINT: the kit knows no such file yet; the hold counts as soon as there is one", err=True)


def _show_holds(holds: list[Placed], *, as_json: bool) -> None:
    for placed in holds:
        click.echo(as_line(_hold_object(placed)) if as_json else f"{placed.hold.id}\t{_describe(placed)}")
    if not holds and not as_json:
        click.echo("there are no holds")


def _describe(placed: Placed) -> str:
    held = placed.hold
    what = f"{held.storage or '*'}/{held.key}{'*' if held.is_prefix else ''}"
    ends = f"until {held.until.isoformat()}" if held.until else "until it is released"
    return as_text(
        f"{what} ({placed.files} {'file' if placed.files == 1 else 'files'}) {ends}{', ' + held.reason if held.reason else ''}"
    )


def _hold_object(placed: Placed) -> dict[str, Any]:
    held = placed.hold
    return {
        "id": held.id,
        "storage": held.storage,
        "key": held.key,
        "prefix": held.is_prefix,
        "until": held.until.isoformat() if held.until else None,
        "reason": held.reason,
        "created_at": held.created_at.isoformat() if held.created_at else None,
        "files": placed.files,
    }


@click.command()
@click.argument("key", required=False)
@click.option("--prefix", "is_prefix", is_flag=True, help="KEY was held as the beginning of keys.")
@click.option("--id", "hold_id", type=int, help="The hold's number, as `cbk hold --list` shows it.")
@storage_option
@json_option
@click.pass_obj
def release(
    config: Path | None, *, key: str | None, is_prefix: bool, hold_id: int | None, storage: str | None, as_json: bool
) -> None:
    """End a hold. What it kept goes when its grace has passed, which may be now.

    \b
    Example:
      cbk release contracts/2026/lease.pdf
      cbk release --id 4
    """
    if (key is None) == (hold_id is None):
        raise UsageError("a release takes the key that was held, or --id", hint="`cbk hold --list` shows all holds")
    with opened(config) as context:
        context.catalog.require_current()
        released = release_holds(context, key=key, is_prefix=is_prefix, storage=storage, hold_id=hold_id)
    for held in released:
        click.echo(as_line({"released": held.id, "key": held.key}) if as_json else f"released {held.id}: {as_text(held.key)}")


@click.command()
@click.argument("key")
@storage_option
@dry_run_option
@json_option
@click.pass_obj
def undelete(config: Path | None, *, key: str, storage: str | None, dry_run: bool, as_json: bool) -> None:
    """Keep a file although the application deleted it, and bring its copies back from the trash (CBK_TRASH).

    \b
    Example:
      cbk undelete cars/id-1/thumbnail.png
    """
    with opened(config) as context:
        context.catalog.require_current()
        summary = undelete_job(context, key, storage=storage, dry_run=dry_run)
    _echo(summary, as_json=as_json)


def _echo(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        click.echo(as_line({"outcome": summary.outcome, **summary.facts}))
        return
    facts = ", ".join(f"{name} {as_text(value)}" for name, value in summary.facts.items() if value not in {None, "", False})
    click.echo(f"{summary.outcome}: {facts}")
