"""Asking for work: `resync`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from cbk.cli.terminal.context import opened
from cbk.jobs.poll.resync import resync as resync_job


@click.command()
@click.option("--storage", help="The storage's name, as in the row.")
@click.option("--key", help="The object key: Path + Name, as in the row, with its extension.")
@click.option("--row", "file_id", help="Instead: the Id of one of the file's rows.")
@click.option("--dry-run", is_flag=True, help="Say what would be fetched again, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help='One object: {"outcome", "file", "rows", "again", "why"}.')
@click.pass_obj
def resync(config: Path | None, storage: str | None, key: str | None, file_id: str | None, dry_run: bool, as_json: bool) -> None:  # noqa: FBT001, PLR0917
    """Read a file's rows again now, check its copies, and send what is missing to the workers.

    \b
    Example:
      cbk resync --storage s3 --key cars/id-1/thumbnail.png
    The same through Celery:
      celery -A cbk call cbk.resync --kwargs='{"storage": "s3", "key": "cars/id-1/thumbnail.png"}'
    """
    if config is not None:
        os.environ["CBK_CONFIG"] = str(config)  # noqa: TID251 - the app, made when it is imported, reads the same file
    # Only this command talks to the workers: the others need no Celery, and start twice as fast without it.
    from cbk.cluster.app import app  # noqa: PLC0415
    from cbk.cluster.publisher import CeleryPublisher  # noqa: PLC0415

    with opened(config) as context:
        summary = resync_job(context, CeleryPublisher(app), storage=storage, key=key, file_id=file_id, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps({"outcome": summary.outcome, **summary.facts}))
    else:
        click.echo(
            f"{summary.outcome}: {', '.join(f'{name} {value}' for name, value in summary.facts.items() if value not in {None, ''})}"
        )
