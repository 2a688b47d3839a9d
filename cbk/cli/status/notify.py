"""Whether people can be told: `notify --test`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cbk.cli.terminal.context import opened
from cbk.errors import UsageError

SUBJECT = "Cloud Backup Kit: a test"
TEXT = "This is how the kit tells you that something needs a person. Nothing does now."


@click.command()
@click.option("--test", is_flag=True, required=True, help="Send a message to every URL of CBK_NOTIFY.")
@click.option("--json", "as_json", is_flag=True, help='One object per line: {"service", "sent", "problem"}.')
@click.pass_obj
def notify(config: Path | None, test: bool, as_json: bool) -> None:  # noqa: ARG001, FBT001 - click hands options over like this
    """Send a test message to everybody who is told when something needs a person; exit 1 where none arrived, 3 where some did not.

    \b
    Example:
      CBK_NOTIFY='mailto://user:password@example.com, ntfy://alarms' cbk notify --test
    """
    with opened(config) as context:
        if not context.notifier.is_configured:
            raise UsageError("there is nobody to tell", hint="set CBK_NOTIFY to one or more Apprise URLs")
        deliveries = context.notifier.deliver(SUBJECT, TEXT)
    for delivery in deliveries:
        if as_json:
            click.echo(json.dumps({"service": delivery.name, "sent": not delivery.problem, "problem": delivery.problem}))
        else:
            click.echo(f"{delivery.name}: {delivery.problem or 'sent'}")
    if any(delivery.problem for delivery in deliveries):
        raise click.exceptions.Exit(1 if all(delivery.problem for delivery in deliveries) else 3)
