"""From nothing to a file of settings, and from one release to the next: `setup`, `upgrade`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from cbk.cli.admin.init import print_finding
from cbk.cli.terminal.context import opened
from cbk.errors import CbkError, UsageError
from cbk.jobs.admin import setup as setup_job
from cbk.jobs.admin.doctor import DoctorFinding, Level, look_at_clock
from cbk.jobs.admin.upgrade import roll_back
from cbk.jobs.admin.upgrade import upgrade as upgrade_catalog
from cbk.rules.admin.setup import ACCEPT, QUESTIONS, Question, parse_answer, split_answers
from cbk.settings import config_path, parse_settings, read_values

_console = Console(highlight=False, soft_wrap=True)


@click.command()
@click.option(
    "--answers", type=click.Path(dir_okay=False, path_type=Path), help="Ask nothing: take the settings from this TOML file."
)
@click.option(
    "--export",
    "target",
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    help="Write an answers file for a machine that joins (- for stdout).",
)
@click.option("--dry-run", is_flag=True, help="Try the answers, show the file, and write nothing.")
@click.pass_obj
def setup(config: Path | None, answers: Path | None, target: Path | None, dry_run: bool) -> None:  # noqa: FBT001 - click
    """Ask for the settings, try each answer at once, and write the file of settings; exit 1 where an answer does not hold.

    \b
    Example:
      cbk setup
      cbk setup --answers answers.toml --dry-run
      cbk setup --export second-pi.toml
    """
    path = config_path(config)
    known = read_values(path) if path.exists() else {}
    if target is not None:
        _export(known, target)
        return
    try:
        values = _values_from(answers) if answers is not None else _interview(known)
    except click.Abort as ending:
        # click makes one thing of ^C and of an input that ends; only the latter needs words.
        if not isinstance(ending.__context__, EOFError):
            raise
        click.echo()
        raise UsageError(
            "the input ended before every question was answered; nothing was written",
            hint="`cbk setup` asks at a terminal; without one, `cbk setup --answers FILE` takes the answers",
        ) from None
    _tell([*look_at_clock()])
    values = setup_job.completed(values, known)
    if dry_run:
        parse_settings(values)
        click.echo(f"would write {path}:\n\n{setup_job.written(setup_job.masked(values))}", nl=False)
        return
    setup_job.save(path, values)
    click.echo(f"wrote {path}; `cbk init` comes next, then `cbk doctor`")


def _export(known: Mapping[str, Any], target: Path) -> None:
    if str(target) == "-":
        click.echo(setup_job.export(known), nl=False)
    else:
        setup_job.save_export(target, known)
        click.echo(f"wrote {target}; it holds passwords")


def _values_from(answers: Path) -> dict[str, Any]:
    """The settings of an answers file, once all of them hold. Raises UsageError."""
    values, accepted = split_answers(read_values(answers))
    findings = [*setup_job.try_answers(values, setup_job.TRIED)]
    _tell(findings)
    if any(finding.level is Level.FAIL for finding in findings):
        raise CbkError("not every answer holds; nothing was written", hint="what is wrong is said above")
    missing = [finding for finding in findings if finding.consent and finding.consent not in accepted]
    if missing and not (sys.stdin.isatty() and all(map(_consents, missing))):
        names = ", ".join(f'"{finding.consent}"' for finding in missing)
        raise UsageError(
            f"needs a yes: {'; '.join(finding.message for finding in missing)}; nothing was written",
            hint=f"mend it, or say yes at the top of the answers file: {ACCEPT} = [{names}]",
        )
    return setup_job.with_consents(values, findings)


def _interview(known: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a person gives, starting from those that are `known`."""
    values = dict(known)
    for question in QUESTIONS:
        while True:
            answered = values
            try:
                answered = _ask(question, values)
                findings = [*setup_job.try_answers(answered, [question.setting])]
            except CbkError as error:
                findings = [DoctorFinding(part="settings", level=Level.FAIL, message=error.message, hint=error.hint or "")]
            _tell(findings)
            if all(finding.level is not Level.FAIL and (not finding.consent or _consents(finding)) for finding in findings):
                values = setup_job.with_consents(answered, findings)
                break
    return values


def _ask(question: Question, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with an answer to this question: none of it where the person wants none, the former where they keep it."""
    name = question.setting
    kept = name in values
    shown = "as it is" if kept and setup_job.is_secret(name) else setup_job.shown(values[name]) if kept else question.otherwise
    typed = click.prompt(question.text, default=shown or None, type=str)
    if typed == shown:
        return dict(values)
    value = parse_answer(name, typed)
    if name == "source_url" and setup_job.lacks_password(value):
        value = setup_job.with_password(value, click.prompt("The password of its user", hide_input=True))
    return {**values, name: value}


def _consents(finding: DoctorFinding) -> bool:
    return click.confirm(f"{finding.message}. Go on all the same?", default=False)


def _tell(findings: list[DoctorFinding]) -> None:
    for finding in findings:
        print_finding(_console, finding)


@click.command()
@click.option("--rollback", is_flag=True, help="Put back the catalog as it was before it was last migrated.")
@click.option("--to", "revision", metavar="REVISION", help="With --rollback: the copy at this revision. Default: the last one.")
@click.option("--dry-run", is_flag=True, help="Try the migration, say what would be done, and change nothing; workers may run.")
@click.pass_obj
def upgrade(config: Path | None, *, rollback: bool, revision: str | None, dry_run: bool) -> None:
    """Bring the catalog and the disk to this release, after a copy of the catalog was made; workers and beat must not run.

    \b
    Example:
      cbk upgrade --dry-run
      systemctl stop 'cbk*' && cbk upgrade && systemctl start cbk.target
    """
    if revision is not None and not rollback:
        raise UsageError("--to is for --rollback", hint="`cbk upgrade` alone goes to this release")
    with opened(config) as context:
        for step in roll_back(context, revision, dry_run=dry_run) if rollback else upgrade_catalog(context, dry_run=dry_run):
            click.echo(step)
