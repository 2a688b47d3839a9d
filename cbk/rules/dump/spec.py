"""What is configured for one dump: `[dumps.NAME]` in the TOML file, or a member of `CBK_DUMPS`.

    [dumps.app]
    url = "postgresql://backup:secret@db.example.com/app"    # or ssh = "backup@db.example.com", or command = [...]
    schedule = "0 3 * * *"
    keep = { daily = 7, weekly = 4, monthly = 12 }           # or a number: so many of the newest

Where the bytes come from (`url`, `ssh` or `command`) and what they are (`kind`) are two questions; a URL answers both.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from enum import StrEnum
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit
from zoneinfo import ZoneInfo

from cbk.rules.dump.schedule import Schedule
from cbk.rules.text.durations import parse_duration

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}")
_SSH_TARGET = re.compile(r"(?:[A-Za-z0-9._][A-Za-z0-9._-]*@)?[A-Za-z0-9][A-Za-z0-9._-]*(?::[0-9]{1,5})?")
_HOST_KEY = re.compile(r"(?:ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/]+=*")
DEFAULT_BUCKET = "dumps"
MAX_KEPT = 10_000


class DumpKind(StrEnum):
    """What the bytes of a dump are, and so how one tells that all of them came."""

    POSTGRESQL = "postgresql"
    MYSQL = "mysql"
    SQLITE = "sqlite"
    # Whatever a command of one's own writes: whole where it exits with 0, and ends in `end_mark` if one is given.
    RAW = "raw"


_SCHEMES = {
    "postgresql": DumpKind.POSTGRESQL,
    "postgres": DumpKind.POSTGRESQL,
    "mysql": DumpKind.MYSQL,
    "mariadb": DumpKind.MYSQL,
    "sqlite": DumpKind.SQLITE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepRules:
    """How many dumps stay: the newest `last`, and the newest of so many days, weeks, months and years that have one."""

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{getattr(self, rule.name)} {rule.name}" for rule in fields(self) if getattr(self, rule.name))


DEFAULT_KEEP = KeepRules(daily=7, weekly=4, monthly=12)


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpSpec:
    """One dump as it is configured. `url` may hold a password: it is never shown, logged or sent through Redis."""

    name: str
    kind: DumpKind
    url: str = field(default="", repr=False)
    ssh: str = ""
    ssh_key: str = ""
    host_key: str = ""
    command: tuple[str, ...] = ()
    # Whether the users and rights of the PostgreSQL server are kept beside the dump (pg_dumpall --globals-only).
    roles: bool = False
    schedule: Schedule = field(default_factory=lambda: Schedule("0 3 * * *"))
    # A dump begins so much later than the schedule says at the most, by its name: not all of them at once.
    jitter: timedelta = timedelta(minutes=5)
    keep: KeepRules = DEFAULT_KEEP
    bucket: str = DEFAULT_BUCKET
    end_mark: str = ""
    # How long the whole may take, and how long the database may send nothing.
    timeout: timedelta = timedelta(hours=12)
    silence: timedelta = timedelta(minutes=30)

    @property
    def place(self) -> SplitResult:
        """The parts of `url`."""
        return urlsplit(self.url)

    @property
    def sqlite_path(self) -> str:
        """The file that a SQLite URL names: `sqlite:///srv/app.db` and `sqlite:////srv/app.db` both mean /srv/app.db."""
        return "/" + unquote(self.place.path).lstrip("/")


def parse_dumps(value: Mapping[str, Any]) -> dict[str, DumpSpec]:
    """All dumps by name. Raises ValueError that names every problem, with what is expected."""
    found, problems = {}, []
    for name, options in value.items():
        try:
            found[str(name)] = parse_dump(str(name), options)
        except ValueError as error:
            problems += [f"{name}: {problem}" for problem in error.args]
    if problems:
        raise ValueError("; ".join(problems))
    return found


def parse_dump(name: str, options: object) -> DumpSpec:
    """One dump. Raises ValueError with one argument for each problem."""
    if not isinstance(options, Mapping):
        raise ValueError('expected a table such as {"url": "postgresql://...", "schedule": "0 3 * * *"}')  # noqa: TRY004
    problems: list[str] = []
    if not NAME.fullmatch(name):
        problems.append("a dump's name is up to 63 lower-case letters, digits, - and _")
    values: dict[str, Any] = {}
    for key, given in options.items():
        if key not in _READERS:
            close = difflib.get_close_matches(str(key), _READERS, n=1)
            problems.append(f"unknown key {key}" + (f" (did you mean {close[0]}?)" if close else ""))
            continue
        try:
            values[key] = _READERS[key](given)
        except ValueError as error:
            problems.append(f"{key}: {error}")
    if not problems:
        problems += _contradictions(values)
    if problems:
        raise ValueError(*problems)
    values["schedule"] = Schedule(values.pop("schedule", "0 3 * * *"), values.pop("timezone", None))
    values.setdefault("kind", kind_of_url(values.get("url", "")))
    values.setdefault("roles", bool(values.get("url")) and values["kind"] is DumpKind.POSTGRESQL)
    return DumpSpec(name=name, **values)


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    problems = []
    url, ssh, command = (bool(values.get(key)) for key in ("url", "ssh", "command"))
    kind = values.get("kind") or kind_of_url(values.get("url", ""))
    if url + (ssh or command) != 1:
        problems.append("expected one of url, ssh and command: where the bytes come from (a command may go with ssh)")
    if kind is None:
        problems.append("kind: is required without a url: postgresql, mysql, sqlite or raw")
    elif url and kind is not kind_of_url(values["url"]):
        problems.append("kind: contradicts the url")
    if not ssh and (values.get("ssh_key") or values.get("host_key")):
        problems.append("ssh_key and host_key go with ssh")
    if values.get("roles") and (kind is not DumpKind.POSTGRESQL or (command and not ssh)):
        problems.append("roles: PostgreSQL alone has them, by a url or over ssh")
    if values.get("end_mark") and kind is not DumpKind.RAW:
        problems.append(f"end_mark: goes with the kind raw; how a dump of {kind} ends is known")
    return problems


def kind_of_url(url: str) -> DumpKind | None:
    """The kind of database that a URL names; None where there is no such kind."""
    return _SCHEMES.get(urlsplit(url).scheme.partition("+")[0]) if url else None


# ---- one key each ------------------------------------------------------------------------------------------------------------


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("expected a text")
    return value


def _url(value: object) -> str:
    text = _text(value)
    try:
        kind, parts = kind_of_url(text), urlsplit(text)
        _ = parts.port  # raises ValueError, whose text is what stands there: a part of a password, where that has a / in it
    except ValueError:
        raise ValueError("cannot be understood: in a user or a password, @ : / ? # and % must be %-encoded") from None
    if kind is None or not parts.path.strip("/"):
        raise ValueError(
            "expected the URL of a database: postgresql://, mysql:// or mariadb://user:password@host/name, sqlite:///path"
        )
    if "@" in parts.path + parts.query + parts.fragment and kind is not DumpKind.SQLITE:
        raise ValueError("a password with / ? or # in it must be %-encoded")
    return text


def _kind(value: object) -> DumpKind:
    try:
        return DumpKind(str(value))
    except ValueError:
        raise ValueError("expected postgresql, mysql, sqlite or raw") from None


def _ssh(value: object) -> str:
    text = _text(value)
    if not _SSH_TARGET.fullmatch(text):
        raise ValueError("expected user@host, user@host:port or a name from ~/.ssh/config")
    return text


def _host_key(value: object) -> str:
    text = " ".join(_text(value).split()[:2])
    if not _HOST_KEY.fullmatch(text):
        raise ValueError('expected the server\'s public key, such as "ssh-ed25519 AAAA...": `ssh-keyscan host` shows it')
    return text


def _command(value: object) -> tuple[str, ...]:
    """A list of arguments, or a text that is split like one: no shell reads it, so that no pipe hides an exit code."""
    parts = shlex.split(value) if isinstance(value, str) else value
    if (
        not isinstance(parts, list)
        or not parts
        or not all(isinstance(part, str) and "\0" not in part for part in parts)
        or not parts[0]
    ):
        raise ValueError('expected a list of arguments, such as ["docker", "exec", "db", "pg_dump", "-Fc", "app"]')
    if set(parts) & {"|", "&&", "||", ";", ">"}:
        raise ValueError("no shell reads it: put pipes and the like into a script that exits with what went wrong")
    return tuple(parts)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")  # noqa: TRY004 - a setting is wrong, not the code
    return value


def _schedule(value: object) -> str:
    return Schedule(_text(value)).text


def _timezone(value: object) -> str:
    try:
        ZoneInfo(_text(value))
    except (OSError, KeyError, ValueError):
        raise ValueError("expected a time zone such as Europe/Vienna") from None
    return str(value)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_KEPT:
        raise ValueError(f"expected a number of dumps, 0 to {MAX_KEPT}")
    return value


def _keep(value: object) -> KeepRules:
    """A number of the newest, or a table of `last`, `daily`, `weekly`, `monthly` and `yearly`."""
    rules = [rule.name for rule in fields(KeepRules)]
    given = value if isinstance(value, Mapping) else {"last": value}
    unknown = [str(name) for name in given if name not in rules]
    if unknown:
        raise ValueError(f"unknown {', '.join(unknown)}; expected some of {', '.join(rules)}")
    keep = KeepRules(**{name: _count(number) for name, number in given.items()})
    if keep == KeepRules():
        raise ValueError("at least one dump has to stay")
    return keep


def _bucket(value: object) -> str:
    text = _text(value)
    if not _BUCKET.fullmatch(text):
        raise ValueError("expected a plain folder name")
    return text


def _positive(value: object) -> timedelta:
    duration = parse_duration(value)
    if not duration:
        raise ValueError("expected more than 0")
    return duration


_READERS: dict[str, Callable[[object], Any]] = {
    "url": _url,
    "kind": _kind,
    "ssh": _ssh,
    "ssh_key": _text,
    "host_key": _host_key,
    "command": _command,
    "roles": _flag,
    "schedule": _schedule,
    "timezone": _timezone,
    "jitter": parse_duration,
    "keep": _keep,
    "bucket": _bucket,
    "end_mark": _text,
    "timeout": _positive,
    "silence": _positive,
}
OPTIONS = tuple(_READERS)
