"""The `cbk` command: its groups, and the one place where errors become words and exit codes."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cbk.cli.admin.init import doctor, init, schema
from cbk.cli.admin.rebuild import rebuild
from cbk.cli.admin.setup import setup, upgrade
from cbk.cli.backup.overrides import bandwidth, pause, resume
from cbk.cli.dump.dump import dump
from cbk.cli.mirror import mirror
from cbk.cli.poll.resync import resync
from cbk.cli.restore import cat, restore
from cbk.cli.retention.prune import hold, prune, release, undelete
from cbk.cli.status.history import history
from cbk.cli.status.ls import ls
from cbk.cli.status.notify import notify
from cbk.cli.status.overview import GroupedCommands
from cbk.cli.status.page import page
from cbk.cli.status.status import status
from cbk.cli.terminal.streams import flush_output, guard_output
from cbk.cli.verification.quarantine import quarantine
from cbk.cli.verification.verify import drill, verify
from cbk.cluster import operator_file
from cbk.edges.host import name_files_in_utf8
from cbk.errors import CbkError

EXIT_INTERRUPTED = 130

EPILOG = """\b
Exit codes: 0 done; 1 failed; 2 wrong usage or settings; 3 finished, but some items failed;
4 (status) not everything is protected; 130 interrupted.
"""


@click.group(cls=GroupedCommands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="TOML file of settings. Default: $CBK_CONFIG, /etc/cbk/cbk.toml.",
)
@click.version_option(package_name="cloud-backup-kit", prog_name="cbk")
@click.pass_context
def cli(context: click.Context, config: Path | None) -> None:
    """Keep a verified second copy of object storage on machines that you own.

    \b
    Example, from nothing to a first copy:
      cbk init && cbk doctor
      celery -A cbk worker &  celery -A cbk beat &
      cbk status
    """
    context.obj = config


for command in (
    setup,
    init,
    upgrade,
    doctor,
    status,
    page,
    ls,
    history,
    restore,
    cat,
    verify,
    drill,
    quarantine,
    dump,
    resync,
    pause,
    resume,
    bandwidth,
    rebuild,
    mirror,
    prune,
    hold,
    release,
    undelete,
    schema,
    notify,
):
    cli.add_command(command)


def main() -> None:
    """Run the command and exit with its code."""
    name_files_in_utf8()
    guard_output()
    operator_file.look_in_working_folder = False
    try:
        code = cli.main(prog_name="cbk", standalone_mode=False)
        flush_output()
    except click.exceptions.Exit as ending:
        code = ending.exit_code
    except click.Abort:
        code = EXIT_INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        message = error.format_message().removesuffix(".")
        context: click.Context | None = getattr(error, "ctx", None)
        _tell(message[:1].lower() + message[1:], f"`{context.command_path if context else 'cbk'} --help` shows what it takes")
        code = error.exit_code
    except CbkError as error:
        _tell(error.message, error.hint)
        code = error.exit_code
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    sys.exit(code or 0)


def _tell(message: str, hint: str | None) -> None:
    click.echo(f"cbk: {message}", err=True)
    if hint:
        click.echo(f"HINT: {hint}", err=True)
