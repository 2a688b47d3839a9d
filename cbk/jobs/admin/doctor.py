"""Look at every part of the kit and say what is well, what is odd and what is broken, each with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from cbk.edges import host
from cbk.edges.redis.broker import check_broker
from cbk.edges.source import Source
from cbk.errors import CbkError, DiskFailed
from cbk.jobs.admin.findings import DoctorFinding, Level, ok, warn
from cbk.jobs.context import Context
from cbk.jobs.dump.doctor import look_at_dumps
from cbk.jobs.mirror.doctor import look_at_mirrors
from cbk.jobs.retention.clock_guard import check_clock
from cbk.rules.backup.disk_space import judge_disk_space
from cbk.rules.status.health import CLOCK_HINT, describe_age
from cbk.settings import unknown_names

__all__ = ["DoctorFinding", "Level", "examine", "look_at_broker", "look_at_clock", "look_at_place", "look_at_source"]

FREE_SHARE_LOW = 0.10
CLOCK_SKEW_SECONDS = 2.0
BYTES_PER_GB = 10**9


def examine(context: Context) -> Iterator[DoctorFinding]:
    """The findings, one part after the other; a part that cannot be looked at is a finding of its own."""
    parts: dict[str, Callable[[Context], Iterator[DoctorFinding]]] = {
        "settings": _settings,
        "source": _source,
        "catalog": _catalog,
        "broker": _broker,
        "disk": _disk,
        "clock": _clock,
        "dumps": look_at_dumps,
        "mirrors": look_at_mirrors,
    }
    for part, look in parts.items():
        try:
            yield from look(context)
        except CbkError as error:
            yield DoctorFinding(part=part, level=Level.FAIL, message=error.message, hint=error.hint or "")


def _settings(context: Context) -> Iterator[DoctorFinding]:
    settings = context.settings
    poll, grace, lease = map(describe_age, (settings.poll_interval, settings.grace_period, settings.lease))
    yield ok("settings", f"valid; poll every {poll}, grace {grace}, lease {lease}")
    for name in unknown_names():
        yield warn("settings", f"{name} is no setting of this kit", "correct the name, or remove it")
    if not settings.allowed_hosts:
        yield warn(
            "settings",
            "CBK_ALLOWED_HOSTS is not set: links to any public host are fetched",
            "name your storage's host, such as *.s3.eu-central-1.amazonaws.com",
        )

    for number in context.notifier.unknown():
        yield DoctorFinding(
            part="settings",
            level=Level.FAIL,
            message=f"URL {number} of CBK_NOTIFY is of no service that Apprise knows",
            hint="correct it; `cbk notify --test` sends a message",
        )


def _source(context: Context) -> Iterator[DoctorFinding]:
    return look_at_source(context.source)


def look_at_source(source: Source) -> Iterator[DoctorFinding]:
    """What there is to say of the application's tables. Raises SourceError or SettingsError where they cannot be read."""
    report = source.check()
    yield ok("source", "both tables are there, with every required column")
    if report.missing_optional:
        yield ok("source", f"works without the optional {', '.join(report.missing_optional)}")
    for doubt in (*source.unreadable(), *source.duplicates()):
        yield DoctorFinding(part="source", level=Level.FAIL, message=doubt.message, hint=doubt.hint)
    if not source.ids_are_ordered():
        yield warn("source", "Ids are not integers: every poll reads every row", "an integer Id makes polls cheap")
    if report.may_write:
        yield DoctorFinding(
            part="source",
            level=Level.WARN,
            message="the database user may write to the tables",
            hint="`cbk schema postgresql` prints a user that may only SELECT",
            consent="source-writable",
        )


def _catalog(context: Context) -> Iterator[DoctorFinding]:
    context.catalog.require_current()
    yield ok("catalog", f"ready at {context.catalog.place}")


def _broker(context: Context) -> Iterator[DoctorFinding]:
    return look_at_broker(context.settings.broker)


def look_at_broker(url: str) -> Iterator[DoctorFinding]:
    """What there is to say of Redis. Raises BrokerUnavailable."""
    report = check_broker(url)
    yield ok("broker", f"{report.version} answers")
    if report.denied:
        yield DoctorFinding(
            part="broker",
            level=Level.FAIL,
            message=f"Redis denies the kit's user: {', '.join(report.denied)}",
            hint="docs/threat-model.md has the line for `users.acl` that gives what is needed",
        )
    if report.eviction not in {"", "noeviction"}:
        yield warn(
            "broker", f"it throws messages away when its memory is full ({report.eviction})", "set maxmemory-policy noeviction"
        )


def _disk(context: Context) -> Iterator[DoctorFinding]:
    context.require_disk()
    root = context.archive.root
    yield ok("disk", f"{root} is the disk {context.archive.identity()}")
    if not host.is_writable(root):
        yield DoctorFinding(
            part="disk", level=Level.FAIL, message=f"{root} is not writable", hint="who owns it, is it mounted read-only?"
        )
    yield from look_at_place(root, context.settings.min_free_space)


def look_at_place(root: Path, least_free: int | None = None) -> Iterator[DoctorFinding]:
    """What there is to say of the folder that is to be the backup root: its disk, and the room there. Raises DiskFailed."""
    try:
        yield from _look_at_place(root, least_free)
    except OSError as error:
        raise DiskFailed(
            f"{root} cannot be looked at: {error.strerror}", hint="is it mounted? the system's log tells more"
        ) from error


def _look_at_place(root: Path, least_free: int | None) -> Iterator[DoctorFinding]:
    if host.shares_system_disk(root):
        yield DoctorFinding(
            part="disk",
            level=Level.WARN,
            message=f"{root} is on the system's own disk",
            hint="mount the backup disk there; one disk is one way to lose both",
            consent="system-disk",
        )
    elif host.is_on_sd_card(root):
        yield DoctorFinding(
            part="disk",
            level=Level.WARN,
            message=f"{root} is on an SD card",
            hint="an SSD or a hard disk lasts longer under this load",
            consent="sd-card",
        )
    free, total = host.usage(root)
    problem = judge_disk_space(free=free, total=total, read_only=False, least_free=least_free, files_left=host.files_left(root))
    if problem is not None:
        yield DoctorFinding(part="disk", level=Level.FAIL, message=problem.message, hint=problem.hint)
        return
    message = f"{free / BYTES_PER_GB:.1f} GB free of {total / BYTES_PER_GB:.1f} GB"
    is_low = free < FREE_SHARE_LOW * total
    yield warn("disk", message, "make room before it is full") if is_low else ok("disk", message)


def _clock(context: Context) -> Iterator[DoctorFinding]:
    yield from look_at_clock()
    problem = check_clock(context)
    if problem:
        yield DoctorFinding(part="clock", level=Level.FAIL, message=f"nothing is pruned: {problem}", hint=CLOCK_HINT)
        return
    skew = abs((host.now() - context.catalog.database.now()).total_seconds())
    if skew > CLOCK_SKEW_SECONDS:
        yield warn("clock", f"this machine and the catalog's database differ by {skew:.0f} s", "synchronise both")


def look_at_clock() -> Iterator[DoctorFinding]:
    """What the operating system says of its clock."""
    synchronised = host.clock_is_synchronised()
    if synchronised is False:
        yield warn(
            "clock",
            "the operating system says that the clock is not synchronised",
            "`timedatectl` shows why; install systemd-timesyncd, for a container on its host",
        )
    elif synchronised is None:
        yield warn("clock", "this system does not tell whether the clock is synchronised", "make sure that it is")
    else:
        yield ok("clock", "synchronised")
