"""Getting ready: `init`, `doctor`, `schema`."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from cbk.cli.terminal.context import opened
from cbk.jobs.admin.doctor import DoctorFinding, Level, examine
from cbk.jobs.admin.init import initialise, require_own_disk
from cbk_app.schema import ddl, grants

COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


@click.command()
@click.option(
    "--on-system-disk", is_flag=True, help="Make a backup disk of a folder on the system's own disk. Default: that is refused."
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.pass_obj
def init(config: Path | None, *, on_system_disk: bool, dry_run: bool) -> None:
    """Prepare the backup disk and the catalog. Safe to repeat; a disk that is prepared stays as it is.

    \b
    Example:
      CBK_BACKUP_ROOT=/backups CBK_SOURCE_URL=postgresql+psycopg://cbk_reader:...@db/app cbk init
    """
    with opened(config) as context:
        if not (on_system_disk or context.settings.on_system_disk):
            require_own_disk(context)
        for step in initialise(context, dry_run=dry_run):
            click.echo(step)


@click.command()
@click.option("--json", "as_json", is_flag=True, help='One object per line: {"part", "level": "ok|warn|fail", "message", "hint"}.')
@click.pass_obj
def doctor(config: Path | None, as_json: bool) -> None:  # noqa: FBT001 - click hands options over like this
    """Look at settings, source, catalog, broker, disk and clock; exit 1 where a part is broken.

    \b
    Example:
      cbk doctor
      cbk doctor --json | jq 'select(.level != "ok")'
    """
    console = Console(highlight=False, soft_wrap=True)
    broken = False
    with opened(config) as context:
        for finding in examine(context):
            broken = broken or finding.level is Level.FAIL
            if as_json:
                click.echo(
                    json.dumps({"part": finding.part, "level": finding.level, "message": finding.message, "hint": finding.hint})
                )
            else:
                print_finding(console, finding)
    if broken:
        raise click.exceptions.Exit(1)


def print_finding(console: Console, finding: DoctorFinding) -> None:
    """One line, and another with the hint where there is something to do."""
    colour = COLOURS[finding.level]
    console.print(f"[{colour}]{finding.level:<4}[/] {finding.part:<8} {escape(finding.message)}")
    if finding.hint and finding.level is not Level.OK:
        console.print(f"              HINT: {escape(finding.hint)}")


@click.command()
@click.argument("dialect", type=click.Choice(["postgresql", "mysql", "sqlite"]))
@click.option("--user", default="cbk_reader", show_default=True, help="The restricted user's name.")
def schema(dialect: str, user: str) -> None:
    """Print the application's two tables, and the user that may only SELECT from them.

    \b
    Example:
      cbk schema postgresql | psql app
    """
    click.echo(ddl(dialect))
    click.echo(grants(dialect, user=user))
