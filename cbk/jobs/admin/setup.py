"""From answers to a file of settings: each answer is tried at once, on the real database, disk and Redis."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url

from cbk.edges.catalog import Catalog
from cbk.edges.filesystem.config_file import write_config
from cbk.edges.notify.notifier import Notifier
from cbk.edges.source import Source
from cbk.errors import CatalogOutdated, CbkError
from cbk.jobs.admin.doctor import DoctorFinding, Level, look_at_broker, look_at_place, look_at_source
from cbk.rules.admin.setup import for_another_machine, to_toml
from cbk.settings import Settings, parse_settings

FLOWER_USER = "cbk"
# What can be tried on its own, in the order of the questions.
TRIED = ("source_url", "backup_root", "broker_url", "catalog_url", "notify")
HEAD = "Settings of the Cloud Backup Kit, written by `cbk setup`. They hold passwords. docs/settings.md lists all that there are."
HEAD_FOR_ANOTHER = "Settings with which another machine joins this one: `scripts/install.sh --join FILE`. They hold passwords."


def try_answers(values: Mapping[str, Any], names: Iterable[str]) -> Iterator[DoctorFinding]:
    """What the settings `names` are found to be like in the world outside; those that say nothing about it are left out.

    Raises SettingsError where any value makes no sense.
    """
    settings = parse_settings(dict(values))
    parts: dict[str, tuple[str, Callable[[Settings], Iterator[DoctorFinding]]]] = {
        "source_url": ("source", _source),
        "backup_root": ("disk", _disk),
        "broker_url": ("broker", lambda settings: look_at_broker(settings.broker)),
        "catalog_url": ("catalog", _catalog),
        "notify": ("settings", _notify),
    }
    for part, look in (parts[name] for name in names if name in parts):
        try:
            yield from look(settings)
        except CbkError as error:
            yield DoctorFinding(part=part, level=Level.FAIL, message=error.message, hint=error.hint or "")


def _source(settings: Settings) -> Iterator[DoctorFinding]:
    connect, statement = settings.connect_timeout.total_seconds(), settings.statement_timeout.total_seconds()
    source = Source(settings.source, statement_timeout_seconds=statement, connect_timeout_seconds=connect, tls=settings.tls)
    with closing(source):
        yield from look_at_source(source)


def _disk(settings: Settings) -> Iterator[DoctorFinding]:
    root = settings.backup_root
    if root.is_dir():
        yield from look_at_place(root, settings.min_free_space)
    else:
        yield DoctorFinding(
            part="disk",
            level=Level.FAIL,
            message=f"{root} is no folder",
            hint="mount the backup disk there, in /etc/fstab as well; docs/install.md shows how",
        )


def _catalog(settings: Settings) -> Iterator[DoctorFinding]:
    catalog = Catalog(settings.catalog, holder="setup", timeout_seconds=settings.connect_timeout.total_seconds(), tls=settings.tls)
    with closing(catalog):
        try:
            if catalog.exists:
                catalog.require_current()
        except CatalogOutdated:
            message = f"{catalog.place} answers; `cbk init` makes the tables of this release there"
        else:
            message = f"{catalog.place} {'is ready' if catalog.exists else 'will be made by `cbk init`'}"
        yield DoctorFinding(part="catalog", level=Level.OK, message=message)


def _notify(settings: Settings) -> Iterator[DoctorFinding]:
    for number in Notifier(settings.notify_urls).unknown():
        yield DoctorFinding(
            part="settings", level=Level.FAIL, message=f"URL {number} is of no service that Apprise knows", hint="correct it"
        )


def with_consents(values: Mapping[str, Any], findings: Iterable[DoctorFinding]) -> dict[str, Any]:
    """The answers, with what a person said yes to on the way as a setting, if `cbk init` asks for it."""
    on_system_disk = any(finding.consent == "system-disk" for finding in findings)
    return {**values, "on_system_disk": True} if on_system_disk else dict(values)


def lacks_password(url: str) -> bool:
    """Whether a database URL names a user, but no password."""
    parsed = make_url(url)
    return parsed.username is not None and parsed.password is None


def with_password(url: str, password: str) -> str:
    """The URL with this password, whatever characters are in it."""
    return make_url(url).set(password=password).render_as_string(hide_password=False)


def shown(value: Any) -> str:
    """A value as a person would type it."""
    return ", ".join(f"{key}={inner}" for key, inner in value.items()) if isinstance(value, Mapping) else str(value)


def is_secret(setting: str) -> bool:
    """Whether a setting's value is never shown."""
    annotation = str(Settings.model_fields[setting].annotation)
    return "SecretStr" in annotation or "DumpSpec" in annotation


def completed(values: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The answers, with a password for Flower, which does not start without one: the one that is `known` already, or a new one."""
    flower_auth = known.get("flower_auth") or f"{FLOWER_USER}:{secrets.token_urlsafe(12)}"
    return {"flower_auth": flower_auth, **values}


def written(values: Mapping[str, Any], *, head: str = HEAD) -> str:
    """The file of these settings; each with what it means above it."""
    comments = {name: field.description or "" for name, field in Settings.model_fields.items()}
    return to_toml(values, head=head, comments=comments)


def masked(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same, for a person to look at."""
    return {name: "***" if is_secret(name) else value for name, value in values.items()}


def save(path: Path, values: Mapping[str, Any]) -> None:
    """Write the file of settings. Raises SettingsError where they are not valid, UsageError where it cannot be written."""
    parse_settings(dict(values))
    write_config(path, written(values))


def save_export(path: Path, values: Mapping[str, Any]) -> None:
    """Write the answers file of a machine that joins this one. Raises UsageError."""
    write_config(path, export(values))


def export(values: Mapping[str, Any]) -> str:
    """The answers file of a machine that joins this one. Raises UsageError where that could not work with our catalog or Redis."""
    settings = parse_settings(dict(values))
    is_shared = make_url(settings.catalog).get_backend_name() != "sqlite"
    chosen = for_another_machine(values, broker=settings.broker, catalog_is_shared=is_shared)
    return written(chosen, head=HEAD_FOR_ANOTHER)
