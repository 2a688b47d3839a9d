"""Getting the catalog back: `rebuild`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cbk.cli.terminal.context import opened
from cbk.cli.terminal.progress import progress
from cbk.cli.terminal.text import as_line, as_text, counted
from cbk.jobs.admin.rebuild import Rebuilt
from cbk.jobs.admin.rebuild import rebuild as rebuild_job
from cbk.jobs.mirror.back import adopt_place, pull
from cbk.rules.admin.rebuild import RebuildProblem

EXIT_SOME_FAILED = 3


@click.command()
@click.option(
    "--verify/--trust-headers",
    help="Inflate every copy and compare its SHA-256; else its header is trusted, and the scrub reads it first.",
)
@click.option("--from", "mirror", metavar="MIRROR", help="First bring every copy of this mirror to the backup disk.")
@click.option("--dry-run", is_flag=True, help="Say what would be added, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="One object per line; docs/commands.md documents their shapes.")
@click.pass_obj
def rebuild(config: Path | None, *, verify: bool, mirror: str | None, dry_run: bool, as_json: bool) -> None:
    """Make the catalog again from the copies on the disk, after it was lost, and ask the application for what has no copy.

    What the catalog knows already stays as it is, so this may be broken off and run again. Stop beat and the workers first.
    Exit 3: some copies were left out.

    \b
    Example:
      cbk rebuild --dry-run
      cbk rebuild
      cbk init && cbk rebuild --from usb
    """

    def tell(problem: RebuildProblem) -> None:
        found = {"outcome": "problem", "location": problem.location, "reason": problem.reason}
        click.echo(as_line(found) if as_json else f"{as_text(problem.location)}: {as_text(problem.reason)}")

    with opened(config) as context:
        if mirror is not None:
            with progress(f"copies from {mirror}", total=None) as advance:
                came, present = pull(context, mirror, tell=tell, advance=advance, dry_run=dry_run)
            would = "would bring" if dry_run else "brought"
            if not as_json:
                click.echo(f"{would} {counted(came, 'copy', 'copies')} from {mirror}; {present} were here already")
        with progress("copies", total=None) as advance:
            done = rebuild_job(context, tell=tell, advance=advance, verify=verify, dry_run=dry_run)
        if mirror is not None and not dry_run:
            adopt_place(context, mirror)
    outcome = "would rebuild" if dry_run else "rebuilt"
    if as_json:
        click.echo(as_line(_object(outcome, done)))
    else:
        _print(outcome, done)
    if done.problems:
        raise click.exceptions.Exit(EXIT_SOME_FAILED)


def _object(outcome: str, done: Rebuilt) -> dict[str, Any]:
    return {
        "outcome": outcome,
        "copies": done.copies,
        "dumps": done.dumps,
        "added": done.added,
        "known": done.known,
        "problems": done.problems,
        "holds": done.holds,
        "removals": done.removals,
        "journal_written_at": done.journal_written_at.isoformat() if done.journal_written_at else None,
        "rows": done.rows,
        "pending": done.pending,
        "notes": done.notes,
    }


def _print(outcome: str, done: Rebuilt) -> None:
    left_out = done.copies - done.added - done.known
    click.echo(f"{outcome}: copies {done.copies}, added {done.added}, known already {done.known}, left out {left_out}")
    click.echo(f"from the journal: holds {done.holds}, removals whose grace goes on {done.removals}")
    click.echo(f"from the application: rows {done.rows}, versions without a copy {done.pending}")
    for note in done.notes:
        click.echo(f"- {as_text(note)}")
