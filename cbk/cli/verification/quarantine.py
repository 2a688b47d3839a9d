"""`quarantine`: what was put aside as bad, and what of it is whole after all."""

from __future__ import annotations

from pathlib import Path

import click

from cbk.cli.terminal.context import opened
from cbk.cli.terminal.text import as_line, as_text, counted
from cbk.jobs.verification.quarantine import Quarantined, QuarantineVerdict, look_into_quarantine


@click.command()
@click.option("--put-back", is_flag=True, help="Put copies that are whole back into their places, if their versions have none.")
@click.option("--json", "as_json", is_flag=True, help="One object per copy; docs/commands.md documents them.")
@click.pass_obj
def quarantine(config: Path | None, *, put_back: bool, as_json: bool) -> None:
    """Read what was put aside as bad once more. Without --put-back, nothing is changed.

    After a fault of the machine rather than of the disk (memory, a cable), copies there may be whole.

    \b
    Example:
      cbk quarantine
      cbk quarantine --put-back
    """
    found: list[Quarantined] = []
    with opened(config) as context:
        context.catalog.require_current()
        for each in look_into_quarantine(context, put_back=put_back):
            found.append(each)
            click.echo(as_line(each.facts) if as_json else _line(each))
    if as_json:
        return
    if not found:
        click.echo("nothing is in quarantine")
    whole = sum(each.verdict is QuarantineVerdict.WHOLE for each in found)
    if whole and not put_back:
        click.echo(f"{counted(whole, 'copy is', 'copies are')} whole: `cbk quarantine --put-back` puts them back")


def _line(found: Quarantined) -> str:
    header = found.header
    label = as_text(f"{header.storage}/{header.key} v{header.version}")
    return f"{found.verdict}: {label}, {found.name}: {as_text(found.reason)}"
