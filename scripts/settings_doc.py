"""What scripts/settings-doc runs: docs/settings.md, written from the settings' own definitions."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BeforeValidator, SecretStr
from pydantic.fields import FieldInfo

from cbk.rules.text.sizes import parse_size
from cbk.settings import PREFIX, Mirror, Settings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"

_KINDS = {
    timedelta: "duration",
    SecretStr: "text, secret",
    Path: "path",
    dict: "JSON object",
    int: "number",
    str: "text",
    bool: "yes or no",
}

_INTRODUCTION = """\
# Settings

<!-- Written by scripts/settings-doc from cbk/settings.py. Change it there. -->

A setting comes from the environment (`CBK_POLL_INTERVAL=60s`), else from a TOML file (`poll_interval = "60s"`), else it has its
default. The file is the one that `cbk --config FILE` names, else `CBK_CONFIG`, else `/etc/cbk/cbk.toml` where that exists. `celery`
has no `--config`, so set `CBK_CONFIG` for it.

Settings are read once, at the start of a command or a worker, and checked then: every problem is listed at once, by name, and the
command ends with exit code 2. A name that begins with `CBK_` and is no setting is pointed out by `cbk doctor`; in the file it is an
error.

Every process of one site (workers, beat, Flower, `cbk`) needs the same settings. Put the file where only their user can read it
(`chmod 600`): it holds passwords.
"""

_MIRRORS = """\
## Mirrors

What each of `CBK_MIRRORS`, in the file `[mirrors.NAME]`, may say. [Mirrors](mirror.md) has recipes.
"""

_UNITS = """\
## Units

- **Durations**: a number and a unit, `250ms`, `90s`, `15m`, `12h`, `7d`, `2w`, or several, `1h30m`. A number alone is seconds.
- **Sizes**: `500MB` is 500,000,000 bytes, `500MiB` is 524,288,000; k, M, G, T and P in either case, the B may be left out. A number
  alone is bytes.
- **Database URLs** are SQLAlchemy's: `postgresql+psycopg://user:password@host:5432/database`, `sqlite:////absolute/path.db` (four
  slashes), `mysql+pymysql://user:password@host/database` (needs `pip install pymysql`). Special characters in a password are
  percent-encoded. Only the application's database may be MySQL or MariaDB; the catalog is SQLite or PostgreSQL.
- **Secrets** (URLs with passwords, `CBK_FLOWER_AUTH`) are never printed or logged.

## Settings that others read

- `CBK_CONFIG`: the TOML file, see above.
- `CBK_CELERY_CONFIG`: where `celery` finds the operator's `celeryconfig.py` (a path that ends in `.py`, or a module's name).
  Without it, the one in the working folder is used, where there is one.
- `CBK_ALIVE_FILE`: a file that a worker, and beat, touch every 10 seconds while they are in order: also while they wait for Redis,
  and not where messages wait and the worker takes none. In the environment only. For health checks of
  [containers](containers.md#health).
- `CBK_VENV`: where `scripts/bootstrap` puts the virtual environment. Default: `.venv`.

## As a file

```toml
# /etc/cbk/cbk.toml
source_url = "postgresql+psycopg://cbk_reader:choose-one@db.example.com/app"
backup_root = "/backups"
allowed_hosts = "car-erp.s3.eu-central-1.amazonaws.com"
poll_interval = "60s"
flower_auth = "admin:choose-another"

[buckets]
s3 = "car-erp"
```
"""


def main() -> int:
    """Write the page; with `--check` only say, by exit code 1, that it is not what would be written."""
    page = render()
    if sys.argv[1:] == ["--check"]:
        return int(PAGE.read_text(encoding="utf-8") != page)
    PAGE.write_text(page, encoding="utf-8")
    return 0


def render() -> str:
    """The page."""
    rows = ["| setting | what it is | value | default |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        rows.append(f"| `{PREFIX}{name.upper()}` | {_meaning(field)} | {_kind(field)} | {_default(field)} |")
    return "\n".join([_INTRODUCTION, "## All settings", "", *rows, "", _MIRRORS, *_mirror_rows(), "", _UNITS])


def _mirror_rows() -> list[str]:
    rows = ["| name | what it is | value | default |", "|---|---|---|---|"]
    for name, field in Mirror.model_fields.items():
        kind = "path, or a list" if field.alias == "path" else _kind(field)
        rows.append(f"| `{field.alias or name}` | {_meaning(field)} | {kind} | {_default(field)} |")
    return rows


def _meaning(field: FieldInfo) -> str:
    return (field.description or "").replace("|", "\\|").replace("<", "&lt;")


def _kind(field: FieldInfo) -> str:
    """What to write, and between which limits."""
    kind, metadata = _unwrapped(field)
    if any(isinstance(item, BeforeValidator) and item.func is parse_size for item in metadata):
        return "size"
    if get_origin(kind) is Literal:
        return " or ".join(f"`{word}`" for word in get_args(kind))
    limits = _limits(metadata)
    return f"{_KINDS[kind]}, {limits}" if limits else _KINDS[kind]


def _unwrapped(field: FieldInfo) -> tuple[Any, list[Any]]:
    """The plain type of a setting, out of `Annotated[...]` and `... | None`, and what is annotated."""
    kind, metadata = field.annotation, list(field.metadata)
    while get_origin(kind) in {Annotated, Union, UnionType}:
        metadata += getattr(kind, "__metadata__", ())
        kind = get_args(kind)[0]
    return kind if get_origin(kind) is Literal else get_origin(kind) or kind, metadata


def _limits(metadata: list[Any]) -> str:
    """Such as "1 to 256" or "more than 0"."""
    low = next((item.ge for item in metadata if isinstance(item, Ge)), None)
    above = next((item.gt for item in metadata if isinstance(item, Gt)), None)
    high = next((item.le for item in metadata if isinstance(item, Le)), None)
    if low is not None and high is not None:
        return f"{_written(low)} to {_written(high)}"
    if low is not None:
        return f"at least {_written(low)}"
    return "" if above is None else f"more than {_written(above)}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, bool):
        return "`yes`" if default else "`no`"
    if default is None or default in ("", {}, []):
        return "see left" if "Default: " in (field.description or "") else "none"
    return f"`{_size(default) if _kind(field) == 'size' else _written(default)}`"


def _written(value: object) -> str:
    """A value as a person would write it in the environment."""
    if isinstance(value, timedelta):
        return _duration(value)
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _size(value: int) -> str:
    return f"{value // 10**6}MB" if value and value % 10**6 == 0 else str(value)


def _duration(value: timedelta) -> str:
    seconds = value.total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"


if __name__ == "__main__":
    sys.exit(main())
