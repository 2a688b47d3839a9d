"""What `cbk setup` asks, and how answers become a file of settings, or one for another machine.

An *answers file* is a file of settings with one more name in it, `accept`: the warnings that a person says yes to beforehand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cbk.errors import UsageError

ACCEPT = "accept"
# Whom Flower and the page let in stays on the machine that runs them.
NOT_FOR_OTHERS = frozenset({"flower_auth", "flower_port", "page_auth", "page_address", "page_port", "page_hosts", "metrics_token"})
_LOOPBACK = frozenset({"", "localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a person is asked for a setting, and what holds (in words) where they answer nothing."""

    setting: str
    text: str
    otherwise: str = ""


QUESTIONS = (
    Question(setting="source_url", text="The application's database, such as postgresql+psycopg://cbk_reader@db.example.com/app"),
    Question(setting="backup_root", text="Where the backup disk is mounted", otherwise="/backups"),
    Question(setting="buckets", text="The folder of each storage, such as s3=car-erp", otherwise="each storage's own name"),
    Question(setting="allowed_hosts", text="The hosts that files come from, such as *.amazonaws.com", otherwise="any public one"),
    Question(setting="broker_url", text="Redis or Valkey", otherwise="redis://127.0.0.1:6379/0"),
    Question(setting="catalog_url", text="The kit's own database", otherwise="SQLite on the backup disk"),
    Question(setting="notify", text="Who is told what needs a person (Apprise URLs)", otherwise="nobody"),
)


def parse_answer(setting: str, text: str) -> Any:
    """The value that a person typed for a setting. Raises UsageError.

    >>> parse_answer("buckets", "s3=car-erp, r2=media")
    {'s3': 'car-erp', 'r2': 'media'}
    """
    if setting != "buckets" or text.lstrip().startswith("{"):
        return text.strip()
    buckets = {}
    for item in text.split(","):
        storage, sign, folder = (part.strip() for part in item.partition("="))
        if not (storage and sign and folder):
            raise UsageError(f"{item.strip()!r} is no storage with its folder", hint="such as s3=car-erp, r2=media")
        buckets[storage] = folder
    return buckets


def split_answers(answers: Mapping[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """The settings of an answers file, and the warnings that it accepts. Raises UsageError."""
    accepted = answers.get(ACCEPT, [])
    if not isinstance(accepted, list) or not all(isinstance(name, str) for name in accepted):
        raise UsageError(f"`{ACCEPT}` is no list of names", hint=f'such as {ACCEPT} = ["system-disk"]')
    return {name: value for name, value in answers.items() if name != ACCEPT}, frozenset(accepted)


def for_another_machine(values: Mapping[str, Any], *, broker: str, catalog_is_shared: bool) -> dict[str, Any]:
    """The settings with which another machine joins this one; `broker` is Redis's URL in force.

    Raises UsageError where the other one could not reach what both need.
    """
    if not catalog_is_shared:
        raise UsageError(
            "the catalog is SQLite, which one machine alone can use",
            hint="several machines need PostgreSQL: set CBK_CATALOG_URL, then `cbk init` and `cbk rebuild`",
        )
    if not broker.startswith(("redis://", "rediss://")) or (urlsplit(broker).hostname or "") in _LOOPBACK:
        raise UsageError(
            "no other machine reaches the Redis of CBK_BROKER_URL: it is on the loopback address",
            hint="have it listen on the network behind a password, and name this machine in CBK_BROKER_URL",
        )
    return {name: value for name, value in values.items() if name not in NOT_FOR_OTHERS}


def to_toml(values: Mapping[str, Any], *, head: str, comments: Mapping[str, str]) -> str:
    """A TOML file (v1.0) with `head` as its first comment and one above each value: text, number, list, or table of these."""
    lines = _comment(head)
    for name, value in sorted(values.items(), key=lambda item: isinstance(item[1], Mapping)):  # tables come last
        lines += ["", *_comment(comments.get(name, ""))]
        if isinstance(value, Mapping):
            lines += [f"[{_key(name)}]", *(f"{_key(key)} = {_value(inner)}" for key, inner in value.items())]
        else:
            lines.append(f"{_key(name)} = {_value(value)}")
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return [f"# {line}".rstrip() for line in text.splitlines()]


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else _value(name)


def _value(value: object) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # of what TOML wants escaped, JSON leaves DEL alone
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_key(key)} = {_value(inner)}' for key, inner in value.items())}}}"
    return repr(value)
