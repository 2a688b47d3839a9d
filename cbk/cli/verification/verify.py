"""Proving that files would come back: `verify` and `drill`."""

from __future__ import annotations

from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
from rich.filesize import decimal

from cbk.cli.dump.dump import drill_dumps
from cbk.cli.terminal.context import opened
from cbk.cli.terminal.progress import progress
from cbk.cli.terminal.text import as_line, as_text, counted
from cbk.cli.verification.verification_lines import drill_line
from cbk.errors import UsageError
from cbk.jobs.verification.drill import DRILL_FILES, Plan, plan_drill, require_room
from cbk.jobs.verification.drill import drill as drill_job
from cbk.jobs.verification.verify import Found, Task, Verified, choose
from cbk.jobs.verification.verify import verify as verify_job
from cbk.rules.text.durations import parse_duration
from cbk.rules.verification import CopyFinding, parse_share

EXIT_SOME_FAILED = 3


@click.command()
@click.option("--quick", is_flag=True, help="Compare the bytes on the disk with those that were written, and inflate nothing.")
@click.option("--sample", metavar="PERCENT", help='Only so many copies, at random, such as "1%".')
@click.option("--older-than", metavar="DURATION", help='Only copies that were not read for so long, such as "30d".')
@click.option("--storage", help="Only this storage.")
@click.option("--key", help="Only the file of this key: Path + Name, as in the row, with its extension.")
@click.option("--prefix", help="Only keys that begin like this.")
@click.option("--no-repair", is_flag=True, help="Only report: a bad copy goes on counting, and a good one is not noted as read.")
@click.option("--dry-run", is_flag=True, help="Say how much would be read, and read nothing.")
@click.option("--json", "as_json", is_flag=True, help="One object per bad copy, then a summary; docs/commands.md documents them.")
@click.pass_obj
def verify(
    config: Path | None,
    *,
    quick: bool,
    sample: str | None,
    older_than: str | None,
    storage: str | None,
    key: str | None,
    prefix: str | None,
    no_repair: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Read copies from the disk again and compare them; a bad one is put aside, and workers fetch it again. Exit 3: some are bad.

    \b
    Example:
      cbk verify
      cbk verify --quick --older-than 30d
      cbk verify --sample 1% --json
    """
    if key is not None and prefix is not None:
        raise UsageError("--key and --prefix name different files", hint="give one of them")
    age, share = _duration(older_than), _share(sample)
    with opened(config) as context:
        context.catalog.require_current()
        task = choose(context, storage=storage, key=key, prefix=prefix, older_than=age, share=share)
        if dry_run:
            context.require_disk()
            _print_plan(task, quick=quick, as_json=as_json)
            return
        with progress("verifying", total=task.size, in_bytes=True) as advance:
            verified = verify_job(
                context,
                task,
                by="cbk verify",
                quick=quick,
                repair=not no_repair,
                on_found=lambda found: _print_found(found, as_json=as_json),
                on_read=advance,
            )
    _print_verified(verified, quick=quick, as_json=as_json)
    if verified.found:
        raise click.exceptions.Exit(EXIT_SOME_FAILED)


def _duration(text: str | None) -> timedelta | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--older-than {text!r}: {error}", hint="such as `cbk verify --older-than 30d`") from None


def _share(text: str | None) -> Fraction:
    try:
        return Fraction(1) if text is None else parse_share(text)
    except ValueError as error:
        raise UsageError(f"--sample {text!r}: {error}", hint="such as `cbk verify --sample 1%`") from None


def _print_plan(task: Task, *, quick: bool, as_json: bool) -> None:
    if as_json:
        click.echo(as_line(_summary("would verify", quick=quick, copies=task.copies, size=task.size)))
    else:
        click.echo(f"would read {counted(task.copies, 'copy', 'copies')}, {decimal(task.size)}")


def _print_found(found: Found, *, as_json: bool) -> None:
    if as_json:
        click.echo(as_line(found.facts))
        return
    ends = [f"put aside as {found.quarantined}"] if found.quarantined else []
    ends += ["fetched again by the next poll"] if found.again else []
    ends += ["counts still"] if found.finding is CopyFinding.ALTERED else []
    click.echo(as_text(f"{found.finding.value:<10} {found.version.label}: {'; '.join([found.message, *ends])}"))


def _print_verified(verified: Verified, *, quick: bool, as_json: bool) -> None:
    if as_json:
        item = _summary("verified", quick=quick, copies=verified.copies, size=verified.read)
        click.echo(as_line(item | {"seconds": round(verified.seconds, 3), "found": verified.found}))
        return
    rate = f", {decimal(round(verified.read / verified.seconds))}/s" if verified.seconds else ""
    outcome = f"{verified.found} bad" if verified.found else "all good" if verified.copies else "there was nothing to read"
    click.echo(f"read {counted(verified.copies, 'copy', 'copies')}, {decimal(verified.read)}{rate}: {outcome}")


def _summary(outcome: str, *, quick: bool, copies: int, size: int) -> dict[str, Any]:
    mode = "quick" if quick else "full"
    return {"outcome": outcome, "mode": mode, "copies": copies, "bytes": size, "seconds": 0.0, "found": 0}


@click.command()
@click.option(
    "--files",
    type=click.IntRange(1, 1000),
    default=DRILL_FILES,
    show_default=True,
    help="So many files at random, so many of the newest and so many of the largest.",
)
@click.option(
    "--scratch",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder to restore to; nothing stays there. Default: $TMPDIR, /tmp.",
)
@click.option("--dry-run", is_flag=True, help="Say how much would be restored and whether there is room, and restore nothing.")
@click.option("--json", "as_json", is_flag=True, help="One object; docs/commands.md documents its shape.")
@click.pass_obj
def drill(config: Path | None, *, files: int, scratch: Path | None, dry_run: bool, as_json: bool) -> None:
    """Restore some files to scratch, compare and time them: a restore test with a verdict that `status` shows. Exit 3: it failed.

    \b
    Example:
      cbk drill
      cbk drill --files 20 --scratch /mnt/spare
    """
    with opened(config) as context:
        context.catalog.require_current()
        plan = plan_drill(context, files=files)
        if not plan.versions:
            raise UsageError("there is nothing to restore yet", hint="`cbk status` tells why no file is stored")
        if dry_run:
            _print_drill_plan(plan, require_room(context, plan, scratch=scratch), as_json=as_json)
            return
        with progress("restoring", total=plan.size, in_bytes=True) as advance:
            verdict = drill_job(context, plan, scratch=scratch, on_bytes=advance)
        if as_json:
            click.echo(as_line(verdict.facts))
        else:
            click.echo(drill_line(verdict))
            for failure in verdict.failures:
                click.echo(as_text(f"failed     {failure.label}: {failure.reason}"))
        failed_dumps = drill_dumps(context, scratch=scratch, as_json=as_json)
    if failed_dumps or not verdict.passed:
        raise click.exceptions.Exit(EXIT_SOME_FAILED)


def _print_drill_plan(plan: Plan, place: Path, *, as_json: bool) -> None:
    if as_json:
        click.echo(as_line({"files": len(plan.versions), "bytes": plan.size, "scratch": str(place)}))
    else:
        click.echo(f"would restore {counted(len(plan.versions), 'file')}, {decimal(plan.size)}, one after the other in {place}")
