"""The `cbk` command: its groups, and the one place where errors become words and exit codes."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cbk.cli.look import ls, status
from cbk.cli.setup import doctor, init, schema
from cbk.cli.work import resync
from cbk.errors import CbkError

EXIT_INTERRUPTED = 130

EPILOG = """\b
Exit codes: 0 done; 1 failed; 2 wrong usage or settings; 3 finished, but some items failed;
4 (status) not everything is protected; 130 interrupted.
"""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="TOML file of settings. Default: $CBK_CONFIG, /etc/cbk/cbk.toml.",
)
@click.version_option(package_name="cloud-backup-kit", prog_name="cbk")
@click.pass_context
def cli(context: click.Context, config: Path | None) -> None:
    r"""Keep a verified second copy of object storage on machines that you own.

    \b
    Example, from nothing to a first copy:
      cbk init && cbk doctor
      celery -A cbk worker &  celery -A cbk beat &
      cbk status
    """
    context.obj = config


for command in (init, doctor, status, ls, resync, schema):
    cli.add_command(command)


def main() -> None:
    """Run the command and exit with its code."""
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Exit as ending:
        code = ending.exit_code
    except click.Abort:
        code = EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except CbkError as error:
        click.echo(f"cbk: {error.message}", err=True)
        if error.hint:
            click.echo(f"HINT: {error.hint}", err=True)
        code = error.exit_code
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    sys.exit(code or 0)
