"""A third copy elsewhere: `mirror`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from cbk.cli.terminal.context import opened
from cbk.cli.terminal.progress import progress
from cbk.cli.terminal.text import as_line, as_size, as_text, counted
from cbk.errors import UsageError
from cbk.jobs.context import Context
from cbk.jobs.mirror.audit import Audited, audit
from cbk.jobs.mirror.report import elsewhere_object, mirror_standings
from cbk.jobs.mirror.run import MirrorWork, Passed, PassResult, find_work, mirror_of, run_pass
from cbk.rules.mirror import describe_mirrors

EXIT_SOME_FAILED = 3


@click.command()
@click.argument("name", required=False)
@click.option("--init", "prepare", is_flag=True, help="What is at its place now is to be a disk of this mirror.")
@click.option("--retire", metavar="LABEL", help="This disk is gone for good: forget what was on it.")
@click.option("--approve", is_flag=True, help="What is due to go from there, and many at once, is meant: let it go.")
@click.option("--audit", "list_all", is_flag=True, help="List all that lies there, and compare it with the ledger.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent and removed, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="One object; docs/commands.md documents its shape.")
@click.pass_obj
def mirror(
    config: Path | None,
    *,
    name: str | None,
    prepare: bool,
    retire: str | None,
    approve: bool,
    list_all: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Bring what is new to the mirror NAME now, verify some of what is there, and remove what was pruned long ago. Without NAME,
    say how all mirrors stand. Workers do the same by themselves. Exit 3: finished, but something is still missing there.

    \b
    Example:
      cbk mirror
      cbk mirror usb
      cbk mirror usb --init
    """
    chosen = [option for option in (prepare, retire, approve, list_all, dry_run) if option]
    if name is None and chosen:
        raise UsageError("which mirror?", hint="such as `cbk mirror usb --init`")
    if len(chosen) > 1:
        raise UsageError("one of --init, --retire, --approve, --audit and --dry-run at a time", hint="`cbk mirror --help`")
    with opened(config) as context:
        if name is None:
            _print_standings(context, as_json=as_json)
            return
        mirror_of(context, name)
        if retire is not None:
            _retire(context, name, retire)
        elif approve:
            _approve(context, name)
        elif list_all:
            _audit(context, name, as_json=as_json)
        elif dry_run:
            _plan(context, name, as_json=as_json)
        else:
            _run(context, name, prepare=prepare, as_json=as_json)


def _run(context: Context, name: str, *, prepare: bool, as_json: bool) -> None:
    total = max((size for _, size in context.catalog.mirrors.missing_by_disk(name).values()), default=0)
    with progress(f"mirror {name}", total=total or None, in_bytes=True) as advance:
        passed = run_pass(
            context,
            name,
            pause=lambda _seconds: False,
            prepare=prepare,
            by_person=True,
            on_progress=lambda _copies, size: advance(size),
        )
    if as_json:
        click.echo(json.dumps(_passed_object(passed), indent=2))
    else:
        _print_passed(passed)
    if passed.failed or any(done.missing or done.problems for done in passed.done):
        raise click.exceptions.Exit(EXIT_SOME_FAILED)


def _passed_object(passed: Passed) -> dict[str, Any]:
    return {
        "mirror": passed.mirror,
        "outcome": passed.summary.outcome,
        "disks": [
            {
                "disk": done.disk,
                "sent": done.sent,
                "size": done.size,
                "verified": done.verified,
                "bad": done.bad,
                "repaired": done.repaired,
                "removed": done.removed,
                "kept": done.kept,
                "braked": done.braked,
                "missing": done.missing,
                "problems": done.problems,
            }
            for done in passed.done
        ],
        "away": passed.away,
        "failed": passed.failed,
    }


def _print_passed(passed: Passed) -> None:
    if passed.skipped:
        click.echo(f"{passed.mirror}: a worker is at it now; `cbk mirror` says how it stands")
    for done in passed.done:
        click.echo(f"{passed.mirror}, disk {done.disk}: {_told(done)}")
        for problem in done.problems:
            click.echo(f"- {as_text(problem)}")
        if done.braked:
            click.echo(
                f"- {counted(done.braked, 'removal waits', 'removals wait')}: `cbk mirror {passed.mirror} --approve` lets them go"
            )
    for reason in passed.away:
        click.echo(f"not used: {as_text(reason)}")
    for reason in passed.failed:
        click.echo(f"broken off: {as_text(reason)}")


def _told(done: PassResult) -> str:
    parts = [f"{counted(done.sent, 'copy', 'copies')} sent ({as_size(done.size)})"]
    parts += [f"{done.verified} verified, {done.bad} bad"] if done.verified else []
    parts += [f"{done.repaired} brought back here"] if done.repaired else []
    parts += [f"{done.removed} removed"] if done.removed else []
    parts += [f"{done.kept} kept by a hold"] if done.kept else []
    return ", ".join([*parts, f"{done.missing} missing" if done.missing else "complete"])


def _print_standings(context: Context, *, as_json: bool) -> None:
    standings = mirror_standings(context, context.catalog.facts.all())
    if as_json:
        click.echo(json.dumps(elsewhere_object(standings), indent=2))
        return
    lines = describe_mirrors(standings, context.catalog.database.now())
    for line in map(as_text, lines) if lines else ["there are no mirrors: CBK_MIRRORS names them, docs/mirror.md tells how"]:
        click.echo(line)


def _retire(context: Context, name: str, label: str) -> None:
    disk = next((disk for disk in context.catalog.mirrors.disks(name) if disk.label == label), None)
    if disk is None:
        labels = ", ".join(disk.label for disk in context.catalog.mirrors.disks(name)) or "none"
        raise UsageError(f"mirror {name} has no disk {label!r}", hint=f"it has: {labels}")
    context.catalog.mirrors.retire(disk.id)
    click.echo(f"{name}: disk {label} is forgotten; `cbk mirror {name} --init` takes it in again")


def _approve(context: Context, name: str) -> None:
    before = context.catalog.database.now() - mirror_of(context, name).grace
    count = context.catalog.mirrors.approve(name, before)
    click.echo(f"{name}: {counted(count, 'copy', 'copies')} may go with the next pass")


def _audit(context: Context, name: str, *, as_json: bool) -> None:
    with progress(f"listing {name}", total=None) as advance:
        found = audit(context, name, advance=advance)
    for each in found:
        if as_json:
            item = {"disk": each.disk, "files": each.files, "unknown": each.unknown, "missing": each.missing}
            click.echo(as_line({"mirror": name, **item}))
        else:
            _print_audited(name, each)
    if any(each.unknown or each.missing for each in found):
        raise click.exceptions.Exit(EXIT_SOME_FAILED)


def _print_audited(name: str, found: Audited) -> None:
    click.echo(
        f"{name}, disk {found.disk}: {counted(found.files, 'file')}, {len(found.unknown)} unknown, {len(found.missing)} missing"
    )
    for location in found.unknown:
        click.echo(as_text(f"unknown: {location}"))
    for location in found.missing:
        click.echo(as_text(f"missing: {location}"))


def _plan(context: Context, name: str, *, as_json: bool) -> None:
    work = find_work(context, name)
    if as_json:
        click.echo(json.dumps({"mirror": name, "disks": [_work_object(each) for each in work]}, indent=2))
        return
    for each in work:
        size = as_size(each.size)
        click.echo(
            f"{name}, disk {each.disk}: would send {counted(each.copies, 'copy', 'copies')} ({size}), and remove {each.removals}"
        )
    if not work:
        click.echo(f"{name}: no disk is known yet; the first pass sends everything")


def _work_object(work: MirrorWork) -> dict[str, Any]:
    """What would be done, as JSON."""
    return {"disk": work.disk, "send": work.copies, "size": work.size, "remove": work.removals}
