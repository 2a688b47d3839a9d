"""Dumps of databases: `cbk dump ls`, `now`, `restore`, `drill`, `verify` and `prune`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from cbk.cli.dump.dump_lines import standing_line, version_line
from cbk.cli.terminal.context import opened
from cbk.cli.terminal.progress import progress
from cbk.cli.terminal.text import as_line, as_size, as_text, counted, parse_instant
from cbk.errors import Busy, UsageError
from cbk.jobs.context import Context
from cbk.jobs.dump.compare import compare_dump
from cbk.jobs.dump.drill import drill_dump
from cbk.jobs.dump.listing import dump_object, gather_dumps, version_object
from cbk.jobs.dump.restore import RestoredDump, choose_version, restore_to_database, restore_to_folder
from cbk.jobs.dump.take import require_spec, take_dump
from cbk.jobs.dump.upkeep import plan_dump, prune_dumps, verify_dumps
from cbk.jobs.mirror.back import FetchAhead, reading_from
from cbk.rules.dump.records import Dump, DumpVersion
from cbk.rules.mirror import dump_here

EXIT_SOME_FAILED = 3


@click.group()
def dump() -> None:
    """Dumps of databases, kept beside the files that they name.

    \b
    CBK_DUMPS names them, for example {"app": {"url": "postgresql://backup:secret@db/app"}}.

    \b
    Example:
      cbk dump now app && cbk dump drill app
      cbk dump ls
    """


@dump.command("ls")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="One object per line; docs/commands.md documents its shape.")
@click.pass_obj
def dump_ls(config: Path | None, *, name: str | None, as_json: bool) -> None:
    """How each dump stands; with NAME, its versions, newest first, and why each of them stays.

    \b
    Example:
      cbk dump ls
      cbk dump ls app --json
    """
    with opened(config) as context:
        context.catalog.require_current()
        now = context.catalog.database.now()
        if name is None:
            standings = gather_dumps(context, now).dumps
            for standing in standings:
                click.echo(as_line(dump_object(standing, now)) if as_json else as_text(standing_line(standing, now)))
            if not standings and not as_json:
                click.echo("no dump is configured: docs/dumps.md tells how")
            return
        known, _ = choose_version(context, name)
        for version in context.catalog.dumps.versions(known.id):
            click.echo(as_line(version_object(known, version)) if as_json else as_text(version_line(version)))


@dump.command("now")
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Say what would be taken, and take nothing.")
@click.option("--json", "as_json", is_flag=True, help="One object; docs/commands.md documents its shape.")
@click.pass_obj
def dump_now(config: Path | None, *, name: str, dry_run: bool, as_json: bool) -> None:
    """Take the dump NAME now, whatever its schedule says. Exit 1: there is none, and why.

    \b
    Example:
      cbk dump now app
    """
    with opened(config) as context:
        spec = require_spec(context, name)
        context.catalog.require_current()
        if dry_run:
            click.echo(
                as_line({"outcome": "would take", "dump": name}) if as_json else f"would take dump {name} ({spec.kind.value})"
            )
            return
        with progress(f"dumping {name}", total=None, in_bytes=True) as advance:
            summary = take_dump(context, name, pause=_never_stops, on_bytes=advance)
        if summary.outcome != "stored":
            raise Busy(f"dump {name} was not taken: {summary.facts['reason']}")
        prune_dumps(context, spec, choose_version(context, name)[0])
    if as_json:
        click.echo(as_line({"outcome": summary.outcome, **summary.facts}))
    else:
        facts = dict(summary.facts)
        size, stored = as_size(int(str(facts["size"]))), as_size(int(str(facts["stored_size"])))
        click.echo(f"dump {name} v{facts['version']}: {size} in {stored} on disk, {facts['seconds']} s")


@dump.command("restore")
@click.argument("name")
@click.option("--to", "target", required=True, metavar="DIR|URL", help="A folder, or the URL of an empty database.")
@click.option("--at", "time", metavar="TIME", help='The newest of then: "2026-11-20 14:00" (local time), ISO 8601, or "3d" ago.')
@click.option("--version", "number", type=int, help="This version. Default: the newest.")
@click.option("--from", "mirror", metavar="MIRROR", help="Read it from this mirror instead of the backup disk.")
@click.option("--dry-run", is_flag=True, help="Say what would be restored, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="One object; docs/commands.md documents its shape.")
@click.pass_obj
def dump_restore(
    config: Path | None,
    *,
    name: str,
    target: str,
    time: str | None,
    number: int | None,
    mirror: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Get the dump NAME back: as files in a folder, with the commands that put them into a server, or into an empty database.

    \b
    Example:
      cbk dump restore app --to /mnt/new
      cbk dump restore app --at "2026-11-20 14:00" --to postgresql://postgres@db.example.com/app
      cbk dump restore app --from usb --to /mnt/new
    """
    with opened(config) as opened_context, reading_from(opened_context, mirror) as (context, ahead):
        at = parse_instant(time, now=context.catalog.database.now(), forward=False) if time else None
        known, version = choose_version(context, name, at=at, number=number, mirror=mirror)
        done: RestoredDump | None = None
        if not dry_run:
            if ahead is not None:
                ahead([copy.location for copy in dump_here(known, version)])
            with progress(f"restoring {name}", total=version.size, in_bytes=True) as advance:
                if "://" in target:
                    done = restore_to_database(context, known, version, target, advance)
                else:
                    done = restore_to_folder(context, known, version, Path(target).absolute(), advance)
    _print_restored(name, version, target, done, as_json=as_json)


def _print_restored(name: str, version: DumpVersion, target: str, done: RestoredDump | None, *, as_json: bool) -> None:
    shown = target.rpartition("@")[2] if "://" in target else target
    files = [str(file) for file in done.files] if done else []
    if as_json:
        item: dict[str, Any] = {"outcome": "restored" if done else "would restore", "name": name, "version": version.number}
        item |= {"taken_at": version.taken_at.isoformat(), "size": version.size, "files": files}
        click.echo(json.dumps(item | {"commands": done.commands if done else []}, ensure_ascii=False))
        return
    verb = "restored" if done else "would restore"
    click.echo(as_text(f"{verb} dump {name} v{version.number} of {version.taken_at:%Y-%m-%d %H:%M} UTC to {shown}"))
    for file in files:
        click.echo(as_text(f"  {file}"))
    if done and done.commands:
        click.echo("to put it into a server:")
        for command in done.commands:
            click.echo(as_text(f"  {command}"))


@dump.command("drill")
@click.argument("name", required=False)
@click.option("--version", "number", type=int, help="This version of NAME. Default: the newest.")
@click.option("--scratch", type=click.Path(file_okay=False, path_type=Path), help="A folder with room. Default: TMPDIR.")
@click.option("--json", "as_json", is_flag=True, help="One object per dump; docs/commands.md documents its shape.")
@click.pass_obj
def dump_drill(config: Path | None, *, name: str | None, number: int | None, scratch: Path | None, as_json: bool) -> None:
    """Restore the newest version of each dump, or of NAME, into a scratch server of its own, and compare tables and rows.

    Exit 3: some did not restore.

    \b
    Example:
      cbk dump drill
      cbk dump drill app --scratch /mnt/big
    """
    with opened(config) as context:
        context.catalog.require_current()
        if drill_dumps(context, name, number=number, scratch=scratch, as_json=as_json):
            raise click.exceptions.Exit(EXIT_SOME_FAILED)


def drill_dumps(
    context: Context, name: str | None = None, *, number: int | None = None, scratch: Path | None = None, as_json: bool
) -> int:
    """Drill this dump, or each that has a good version, and print the verdicts; gives how many failed."""
    failed = 0
    names = [name] if name else [each.name for each in context.catalog.dumps.all() if context.catalog.dumps.newest(each.id)]
    for each in names:
        known, version = choose_version(context, each, number=number)
        problem = drill_dump(context, known, version, tick=lambda: None, scratch=scratch)
        failed += bool(problem)
        if as_json:
            click.echo(as_line({"name": each, "version": version.number, "passed": not problem, "reason": problem}))
            continue
        rows = "" if version.rows is None else f", {counted(len(version.rows), 'table')} with all their rows"
        click.echo(as_text(f"dump {each} v{version.number}: " + (f"FAILED: {problem}" if problem else f"restored{rows}")))
    return failed


@dump.command("verify")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="One object per version; docs/commands.md documents its shape.")
@click.pass_obj
def dump_verify(config: Path | None, *, name: str | None, as_json: bool) -> None:
    """Read the copies of all dumps, or of NAME, to their end, as workers do in turn. Exit 3: some are bad, and were put aside.

    \b
    Example:
      cbk dump verify
    """
    with opened(config) as context:
        context.catalog.require_current()
        context.require_disk()
        if name is not None:
            choose_version(context, name)
        verified = verify_dumps(context, name=name, tick=lambda: None)
    if verified is None:
        raise Busy("a dump is at work, or was killed a moment ago")
    for known, version, problem in verified:
        if as_json:
            click.echo(as_line({"name": known.name, "version": version.number, "good": not problem, "reason": problem}))
        else:
            click.echo(as_text(f"dump {known.name} v{version.number}: {f'BAD: {problem}' if problem else 'good'}"))
    if any(problem for _, _, problem in verified):
        raise click.exceptions.Exit(EXIT_SOME_FAILED)


@dump.command("prune")
@click.argument("name", required=False)
@click.option("--plan", "only_plan", is_flag=True, help="Say what becomes of each version and why, and remove nothing.")
@click.option("--approve", is_flag=True, help="What the brake holds of NAME is meant to go: let it go now.")
@click.option("--json", "as_json", is_flag=True, help="One object per version; docs/commands.md documents its shape.")
@click.pass_obj
def dump_prune(config: Path | None, *, name: str | None, only_plan: bool, approve: bool, as_json: bool) -> None:
    """Remove the versions that no rule keeps and whose grace has passed. Workers do so by themselves after each dump.

    \b
    Example:
      cbk dump prune --plan
      cbk dump prune app --approve
    """
    if approve and name is None:
        raise UsageError("which dump?", hint="such as `cbk dump prune app --approve`; with --plan it only says what would go")
    with opened(config) as context:
        context.catalog.require_current()
        specs = [require_spec(context, name)] if name else list(context.settings.dumps.values())
        for spec in specs:
            known = context.catalog.dumps.get(spec.name)
            if known is None:
                continue
            verdicts = plan_dump(context, spec, known, approved=approve)
            pruned = set() if only_plan else set(prune_dumps(context, spec, known, approved=approve))
            for verdict in verdicts:
                goes = verdict.prune if only_plan else verdict.number in pruned
                what = ("goes" if only_plan else "pruned") if goes else "stays" if verdict.keeps_place else "waits"
                if as_json:
                    item: dict[str, Any] = {
                        "name": spec.name,
                        "version": verdict.number,
                        "outcome": what,
                        "reasons": list(verdict.reasons),
                    }
                    click.echo(as_line(item | {"due_at": verdict.due_at.isoformat() if verdict.due_at else None}))
                else:
                    click.echo(as_text(f"{spec.name} v{verdict.number}: {what}: {', '.join(verdict.reasons)}"))


def restore_dump_beside(
    context: Context, dump: tuple[Dump, DumpVersion], target: str, *, ahead: FetchAhead | None, dry_run: bool, as_json: bool
) -> int:
    """For `cbk restore --with-dump`: the dump as files in the target, if that is a folder, and its file rows without a copy.

    Gives how many there are. `ahead` fetches it, where it comes from a remote.
    """
    known, version = dump
    if ahead is not None:
        ahead([copy.location for copy in dump_here(known, version)])
    if not dry_run and "://" not in target:
        with progress(f"restoring {known.name}", total=version.size, in_bytes=True) as advance:
            done = restore_to_folder(context, known, version, Path(target).absolute(), advance)
        _print_restored(known.name, version, target, done, as_json=as_json)
    compared = compare_dump(context, known, version, tick=lambda: None)
    for row in compared.without:
        item = {"outcome": "without copy", "dump": known.name, "row": row.row, "file": row.label, "reason": row.reason}
        click.echo(as_line(item) if as_json else as_text(f"without copy: {row.label} (row {row.row}): {row.reason}"))
    if not as_json:
        missing = f"{len(compared.without)} without a copy" if compared.without else "each with its copy"
        click.echo(f"dump {known.name} v{version.number} names {counted(compared.rows, 'file row')}: {missing}")
    return len(compared.without)


def _never_stops(_seconds: float) -> bool:
    return False
