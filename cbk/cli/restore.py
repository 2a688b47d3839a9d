"""Getting files back: `restore` and `cat`."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.filesize import decimal

from cbk.cli.dump.dump import restore_dump_beside
from cbk.cli.terminal.context import opened
from cbk.cli.terminal.progress import progress
from cbk.cli.terminal.text import as_line, as_text, parse_instant
from cbk.edges.destinations import StreamDestination, open_destination
from cbk.errors import CbkError, UsageError
from cbk.jobs.context import Context
from cbk.jobs.dump.restore import choose_version
from cbk.jobs.mirror.back import reading_from
from cbk.jobs.restore.restore import DEFAULT_JOBS, FetchAhead, RestoreOutcome, Result, Totals, planned_restore, restore_one
from cbk.rules.intake.layout import object_key
from cbk.rules.restore import RestoreFilter

EXIT_SOME_FAILED = 3


@click.command()
@click.option("--to", "url", metavar="TARGET", help="A folder, s3://BUCKET/PREFIX or azure://ACCOUNT/CONTAINER/PREFIX.")
@click.option("--stdout", "to_stdout", is_flag=True, help="Write the one file that is named to standard output instead.")
@click.option("--storage", help="Only this storage.")
@click.option("--key", help="Only the file of this key: Path + Name, as in the row, with its extension.")
@click.option("--prefix", help="Only keys that begin like this.")
@click.option("--version", "number", type=int, help="This version. Default: the newest one that has a copy.")
@click.option("--at", "time", metavar="TIME", help='What was live then: "2026-11-20 14:00" (local time), ISO 8601, or "3d" ago.')
@click.option("--deleted", is_flag=True, help="Also what was deleted, as long as its grace runs.")
@click.option("--with-dump", metavar="NAME", help="Files and database of one moment: that of the newest dump NAME, or of --at.")
@click.option("--overwrite", is_flag=True, help="Replace what is there with another content. Default: such a file fails.")
@click.option("--no-properties", is_flag=True, help="Object storage: bytes and Content-Type alone, no headers and metadata.")
@click.option("--jobs", type=click.IntRange(1, 64), default=DEFAULT_JOBS, show_default=True, help="Files at the same time.")
@click.option("--from", "mirror", metavar="MIRROR", help="Read the copies from this mirror instead of the backup disk.")
@click.option("--dry-run", is_flag=True, help="Say what would be restored, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="One object per file, then a summary; docs/commands.md documents them.")
@click.pass_obj
def restore(
    config: Path | None,
    *,
    url: str | None,
    to_stdout: bool,
    storage: str | None,
    key: str | None,
    prefix: str | None,
    number: int | None,
    time: str | None,
    deleted: bool,
    with_dump: str | None,
    overwrite: bool,
    no_properties: bool,
    jobs: int,
    mirror: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Bring files back, each compared with its SHA-256 while it is written. What is there already and right is skipped, so
    that a restore that was interrupted goes on. Exit 3: finished, but some files could not be restored.

    \b
    Example:
      cbk restore --to /mnt/new
      cbk restore --to s3://new-bucket
      cbk restore --to /mnt/new --prefix cars/ --at "2026-11-20 14:00"
      cbk restore --to /mnt/new --with-dump app
      cbk restore --to /mnt/new --from usb
      cbk restore --stdout --key cars/id-1/thumbnail.png > thumbnail.png
    """
    if to_stdout == (url is not None):
        raise UsageError("a restore takes --to or --stdout", hint="such as `cbk restore --to /mnt/new`")
    if to_stdout and (dry_run or as_json or overwrite):
        raise UsageError("--stdout writes the file and nothing else", hint="--dry-run, --json and --overwrite go with --to")
    if key is not None and prefix is not None:
        raise UsageError("--key and --prefix name different files", hint="give one of them")
    if number is not None and time is not None:
        raise UsageError("--version and --at name different versions", hint="give one of them")
    if with_dump is not None and (to_stdout or number is not None):
        raise UsageError("--with-dump restores what was live when the dump was taken", hint="give --to, and perhaps --at")
    with opened(config) as opened_context, reading_from(opened_context, mirror) as (context, ahead):
        at = parse_instant(time, now=context.catalog.database.now(), forward=False) if time else None
        dump = choose_version(context, with_dump, at=at, mirror=mirror) if with_dump is not None else None
        at = dump[1].taken_at if dump else at
        restore_filter = RestoreFilter(storage=storage, key=_key(key), prefix=_key(prefix), number=number, at=at, deleted=deleted)
        if url is None:
            _write_out(context, restore_filter)
        else:
            missing = restore_dump_beside(context, dump, url, ahead=ahead, dry_run=dry_run, as_json=as_json) if dump else 0
            options = _Options(
                overwrite=overwrite, properties=not no_properties, jobs=jobs, dry_run=dry_run, as_json=as_json, ahead=ahead
            )
            _restore(context, restore_filter, url, options)
            if missing:
                raise click.exceptions.Exit(EXIT_SOME_FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    overwrite: bool
    properties: bool
    jobs: int
    dry_run: bool
    as_json: bool
    ahead: FetchAhead | None


def _restore(context: Context, restore_filter: RestoreFilter, url: str, options: _Options) -> None:
    totals = Totals()
    hints: dict[str, None] = {}
    with (
        closing(open_destination(url, overwrite=options.overwrite)) as target,
        planned_restore(
            context, target, restore_filter, dry_run=options.dry_run, properties=options.properties, ahead=options.ahead
        ) as planned,
    ):
        try:
            with (
                progress("restoring", total=planned.size, in_bytes=True) as advance,
                closing(planned.results(advance, jobs=options.jobs)) as results,
            ):
                for result in results:
                    totals.add(result)
                    if result.hint:
                        hints[result.hint] = None
                    _print_result(result, as_json=options.as_json)
        except CbkError:
            _print_totals(totals, url, restore_filter.at, files=planned.files, as_json=options.as_json)
            raise
        _print_totals(totals, url, restore_filter.at, files=planned.files, as_json=options.as_json)
    for hint in hints:
        click.echo(f"HINT: {hint}", err=True)
    if totals.failed:
        raise click.exceptions.Exit(EXIT_SOME_FAILED)


def _print_result(result: Result, *, as_json: bool) -> None:
    version = result.version
    if as_json:
        item = {
            "outcome": result.outcome.value,
            "storage": version.storage,
            "bucket": version.bucket,
            "key": version.key,
            "version": version.number,
            "sha256": version.sha256,
            "size": version.size,
            "path": result.path,
            "older": result.is_older,
            "reason": result.reason,
        }
        click.echo(as_line(item))
    elif result.reason or result.outcome is RestoreOutcome.PLANNED:
        click.echo(as_text(f"{result.outcome.value}: {version.label}{f': {result.reason}' if result.reason else ''}"))


def _print_totals(totals: Totals, url: str, at: datetime | None, *, files: int, as_json: bool) -> None:
    if as_json:
        item: dict[str, Any] = {
            "target": url,
            "at": at.isoformat() if at else None,
            "files": files,
            "restored": totals.restored,
            "present": totals.present,
            "planned": totals.planned,
            "older": totals.older,
            "failed": totals.failed,
            "unfinished": files - totals.files,
            "size": totals.size,
        }
        click.echo(as_line(item))
        return
    parts = [
        f"{totals.restored or totals.planned} {'would be ' if totals.planned else ''}restored ({decimal(totals.size)})",
        f"{totals.present} there already" if totals.present else "",
        f"{totals.older} in an older version" if totals.older else "",
        f"{totals.failed} failed" if totals.failed else "",
        f"{files - totals.files} not reached" if files > totals.files else "",
    ]
    as_of = f", as of {at:%Y-%m-%d %H:%M} UTC" if at else ""
    click.echo(f"{files} {'file' if files == 1 else 'files'} to {url}{as_of}: {', '.join(filter(None, parts))}")


@click.command()
@click.argument("key")
@click.option("--storage", help="The storage, where several have that key.")
@click.option("--bucket", help="The bucket folder, where several have that key.")
@click.option("--version", "number", type=int, help="This version. Default: the newest one that has a copy.")
@click.pass_obj
def cat(config: Path | None, *, key: str, storage: str | None, bucket: str | None, number: int | None) -> None:
    """Write a file's content to standard output; also a deleted file's, as long as its grace runs. Exit 1: what came out is not
    the file.

    \b
    Example:
      cbk cat cars/id-1/thumbnail.png > thumbnail.png
      cbk cat reports/2026.csv --version 3 | head
    """
    with opened(config) as context:
        _write_out(context, RestoreFilter(storage=storage, bucket=bucket, key=_key(key), number=number, deleted=True))


def _write_out(context: Context, restore_filter: RestoreFilter) -> None:
    choice = restore_one(context, StreamDestination(sys.stdout.buffer), restore_filter)
    if choice.reason:
        click.echo(as_text(f"cbk: v{choice.version.number} is an {choice.reason}"), err=True)


def _key(key: str | None) -> str | None:
    return None if key is None else object_key("", key)
