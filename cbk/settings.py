"""What is configured: environment `CBK_*` over a TOML file over defaults, validated at start, every problem reported at once.

The TOML file holds the same names in lower case without the prefix (`poll_interval = "60s"`, `[buckets]`). It is the one given by
`--config`, else `CBK_CONFIG`, else `/etc/cbk/cbk.toml` where that exists.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, InitSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from cbk.errors import SettingsError
from cbk.rules.backup.bandwidth import Timetable
from cbk.rules.backup.links import AllowedHosts
from cbk.rules.dump.spec import DumpSpec, parse_dumps
from cbk.rules.text.broker_url import parse_broker_url
from cbk.rules.text.database_url import DatabaseTls, Tls, parse_database_url
from cbk.rules.text.durations import parse_duration
from cbk.rules.text.sizes import parse_size

DEFAULT_CONFIG = Path("/etc/cbk/cbk.toml")
PREFIX = "CBK_"
# Read by other parts of the kit than this model, so that they are no typing errors.
OTHER_NAMES = frozenset({"CBK_CONFIG", "CBK_CELERY_CONFIG", "CBK_VENV", "CBK_ALIVE_FILE"})


def _parse_buckets(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        buckets = json.loads(value or "{}")
    except (ValueError, RecursionError):
        raise ValueError('expected JSON such as {"s3": "car-erp"}') from None
    if not isinstance(buckets, dict) or not all(isinstance(name, str) and name for name in buckets.values()):
        raise ValueError('expected a JSON object of storage names to bucket folders, such as {"s3": "car-erp"}')
    return buckets


def _parse_dumps(value: object) -> object:
    try:
        dumps = json.loads(value or "{}") if isinstance(value, str) else value
    except (ValueError, RecursionError):
        dumps = None
    if not isinstance(dumps, Mapping):  # it is told with the others
        message = 'expected JSON such as {"app": {"url": "postgresql://...", "schedule": "0 3 * * *"}}'
        raise ValueError(message)  # noqa: TRY004 - pydantic takes no other
    return parse_dumps(dumps)


def _parse_mirrors(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        mirrors = json.loads(value or "{}")
    except (ValueError, RecursionError):
        raise ValueError(_MIRRORS_EXPECTED) from None
    if not isinstance(mirrors, dict):
        raise ValueError(_MIRRORS_EXPECTED)  # noqa: TRY004 - what pydantic collects
    return mirrors


_MIRRORS_EXPECTED = 'expected JSON such as {"usb": {"path": "/mnt/usb"}, "b2": {"remote": "b2:bucket/prefix"}}'
_MIRROR_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


def _check_mirror_names(value: dict[str, Mirror]) -> dict[str, Mirror]:
    bad = [name for name in value if not _MIRROR_NAME.fullmatch(name)]
    if bad:
        raise ValueError(f"a mirror is named with small letters, digits, - and _, up to 32: not {bad[0]!r}")
    return value


def _parse_paths(value: object) -> object:
    return [value] if isinstance(value, str | Path) else value


def _check_absolute(value: list[Path]) -> list[Path]:
    if not all(path.is_absolute() for path in value):
        raise ValueError("expected a folder from / on, such as /mnt/usb")
    return value


def _check_remote(value: object) -> object:
    # What rclone takes as the name of a remote. A connection string would show what it holds to every user of this machine.
    text = str(value or "")
    if text and not re.fullmatch(r"[\w.+@-][\w.+@ -]*:.*", text):
        raise ValueError("expected a remote of rclone's configuration, such as b2:bucket/prefix, without options in it")
    return value


def _check_url(value: object) -> object:
    parse_database_url(_revealed(value))
    return value


def _check_authorities(value: object) -> object:
    if value is not None and not Path(str(value)).is_file():
        raise ValueError("expected a file of certificates (PEM) that this user can see")
    return value


def _check_broker(value: object) -> object:
    parse_broker_url(_revealed(value))
    return value


def _revealed(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _check_flower_auth(value: object) -> object:
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value or "")
    if text and not re.fullmatch(r"[^:,\s]+:[^,\s]+", text):
        raise ValueError("expected user:password, without commas and blanks")
    if not text.isascii():
        raise ValueError("expected letters, digits and signs of ASCII: browsers and Flower spell others differently")
    return value or None


def _check_host_names(value: object) -> object:
    text = str(value)
    if not all(re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", name, re.IGNORECASE) for name in _split_names(text)):
        raise ValueError("expected host names without ports, apart by commas")
    return value


def _split_names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _check_token(value: object) -> object:
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value or "")
    # RFC 6750, 2.1: what a bearer token is made of.
    if text and not re.fullmatch(r"[A-Za-z0-9._~+/-]{16,}=*", text):
        raise ValueError("expected 16 or more letters, digits and -._~+/")
    return value or None


def _check_notify(value: object) -> object:
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    if not all(re.match(r"[a-z0-9.+-]+://", url, re.IGNORECASE) for url in _split_urls(text)):
        raise ValueError("expected Apprise URLs such as mailto://user:password@example.com, apart by commas or blanks")
    return value


def _check_heartbeat(value: object) -> object:
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    if text and not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", text):
        raise ValueError("expected the ping URL of a check, such as https://hc-ping.com/<uuid>, without ? and #")
    return value


def _split_urls(text: str) -> list[str]:
    """The URLs of a list; a comma inside of one stays."""
    return [url for url in re.split(r"[\s,]+(?=[a-z0-9.+-]+://)", text.strip().strip(","), flags=re.IGNORECASE) if url]


def _check_hosts(value: object) -> object:
    AllowedHosts.parse(str(value))
    return value


def _check_bandwidth(value: object) -> object:
    Timetable.parse(str(value))
    return str(value)


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
PositiveDuration = Annotated[timedelta, BeforeValidator(parse_duration), Field(gt=timedelta(0))]
Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
DatabaseUrl = Annotated[SecretStr, BeforeValidator(_check_url)]


class Mirror(BaseModel):
    """A further place for copies: a folder, on one disk or on several in turn, or a remote of rclone."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    folders: Annotated[list[Path], BeforeValidator(_parse_paths), AfterValidator(_check_absolute)] = Field(
        default_factory=list,
        alias="path",
        description="A folder: the mount point of a disk or a share; a list, where several disks have one each.",
    )
    remote: Annotated[str, BeforeValidator(_check_remote)] = Field(
        default="", description="Instead of a folder, a remote of rclone's configuration, such as `b2:bucket/prefix`."
    )
    config: Path | None = Field(default=None, description="rclone's configuration file. Default: rclone's own choice.")
    every: PositiveDuration = Field(default=timedelta(hours=1), description="How often what is new goes there.")
    grace: Duration = Field(default=timedelta(days=30), description="How long a copy stays there after it was pruned here.")
    append_only: bool = Field(
        default=False, description="Never remove anything there: for object lock, or a key that cannot delete."
    )
    away: PositiveDuration | None = Field(
        default=None, description="How long a disk, or the remote, may be away before status is red. Default: 14d, of a remote 1d."
    )
    verify_every: Duration = Field(
        default=timedelta(days=90), description="How long it takes at the most until every copy there was verified. 0: none is."
    )
    read_back: Size = Field(
        default=1_000_000_000, description="Bytes per day that are fetched back to verify copies whose hash the remote cannot tell."
    )
    bandwidth: Annotated[str, BeforeValidator(_check_bandwidth)] = Field(
        default="", description="Bytes per second to and from there, or a timetable, as in `CBK_BANDWIDTH`. Default: no limit."
    )
    transfers: int = Field(default=4, ge=1, le=64, description="Files that rclone sends at a time.")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if bool(self.folders) == bool(self.remote):
            raise ValueError("expected either path, a folder, or remote, a remote of rclone")
        if self.config is not None and not self.remote:
            raise ValueError("config is rclone's, and goes with remote")
        return self

    @property
    def away_after(self) -> timedelta:
        """After how long a place that was not seen is a problem."""
        return self.away or (timedelta(days=1) if self.remote else timedelta(days=14))


class Settings(BaseSettings):
    """Every setting; the field's description is its documentation (docs/settings.md)."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True)

    source_url: DatabaseUrl = Field(description="The application's database: a SQLAlchemy URL of a user that may only SELECT.")
    catalog_url: DatabaseUrl | None = Field(
        default=None,
        description="The kit's own database. Default: SQLite at <backup root>/.cbk/catalog.db; several machines need PostgreSQL.",
    )
    database_tls: Literal["verify", "encrypt", "off"] = Field(
        default="verify",
        description=(
            "Lines to databases on other machines: verify (encrypted, and the certificate is that of the host), encrypt, or off. "
            "What a URL itself says (`?sslmode=`) goes before it."
        ),
    )
    database_ca: Annotated[Path | None, BeforeValidator(_check_authorities)] = Field(
        default=None, description="Certificate authorities for databases, where they are not those of the system."
    )
    broker_url: Annotated[SecretStr, BeforeValidator(_check_broker)] = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"), description="Redis or Valkey, the courier between beat and workers."
    )
    backup_root: Path = Field(
        default=Path("/backups"), description="The folder that holds the copies: the mount point of the backup disk."
    )
    on_system_disk: bool = Field(
        default=False, description="Whether `cbk init` may make a backup disk of a folder on the system's own disk."
    )
    buckets: Annotated[dict[str, str], NoDecode, BeforeValidator(_parse_buckets)] = Field(
        default_factory=dict,
        description='Bucket folder of each storage, such as {"s3": "car-erp"}; others use the storage\'s own name.',
    )
    dumps: Annotated[dict[str, InstanceOf[DumpSpec]], NoDecode, BeforeValidator(_parse_dumps)] = Field(
        default_factory=dict,
        description="Databases that are dumped, by name: docs/dumps.md tells what each takes. They may hold passwords.",
    )
    poll_interval: PositiveDuration = Field(
        default=timedelta(seconds=60), description="How often the application's tables are read."
    )
    grace_period: Duration = Field(default=timedelta(days=7), description="How long a deleted file's copies are kept.")
    brake_files: int = Field(
        default=100,
        ge=1,
        description="A set of at most so many copies has no brake. Of a larger one, what exceeds `CBK_BRAKE_SHARE` waits.",
    )
    brake_share: int = Field(
        default=10,
        ge=0,
        le=100,
        description="How many percent of the copies that were here `CBK_BRAKE_WINDOW` ago may go within it without a person.",
    )
    brake_window: PositiveDuration = Field(
        default=timedelta(days=30), description="The time within which what goes is counted against `CBK_BRAKE_SHARE`."
    )
    trash: Duration = Field(
        default=timedelta(0),
        description="How long pruned copies stay in the trash, for `cbk undelete`. 0: they are removed at once.",
    )
    clock_sync: Literal["auto", "require", "ignore"] = Field(
        default="auto",
        description=(
            "Whether to prune only while the system calls its clock synchronised. auto: where a service on it keeps the clock."
        ),
    )
    keep_versions: int = Field(default=1, ge=1, description="How many of a file's newest versions are fetched.")
    concurrency: int | None = Field(
        default=None, ge=1, le=256, description="Downloads at the same time per worker. Default: 8, shared by `CBK_WORKERS`."
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description=(
            "How many workers on this machine share the 8 downloads, rounded up, where `CBK_CONCURRENCY` gives no number to each. "
            "It starts none; `scripts/install.sh` sets it in its units."
        ),
    )
    allowed_hosts: Annotated[str, BeforeValidator(_check_hosts)] = Field(
        default="",
        description=(
            "Comma-separated host, host:port or *.example.com: nothing else is fetched. A host that is named may be private and "
            "plain http; what only a * stands for has to have public addresses. Default: any public host over https."
        ),
    )
    lease: Annotated[timedelta, BeforeValidator(parse_duration), Field(ge=timedelta(seconds=1))] = Field(
        default=timedelta(minutes=2), description="How long dispatched or claimed work may be silent before it is dispatched again."
    )
    settle: Duration = Field(
        default=timedelta(minutes=10), description="How long rows are read again because Ids may commit out of order."
    )
    reconcile_interval: PositiveDuration = Field(default=timedelta(days=1), description="How often every row is read again.")
    dispatch_window: int = Field(
        default=2000, ge=1, le=10000, description="Backup tasks in flight at the most, whatever the backlog."
    )
    min_free_space: Size | None = Field(
        default=None,
        description="No download starts while the backup disk has less free space. Default: 1GiB, or 2 % of a smaller disk.",
    )
    verify_every: Duration = Field(
        default=timedelta(days=30), description="How long it takes at the most until every copy was read again. 0: none is."
    )
    verify_rate: Size = Field(
        default=50_000_000, description="Bytes per second at the most that workers read to verify copies. 0: no limit."
    )
    inventory_max_age: Duration = Field(
        default=timedelta(days=3),
        description="A storage whose last inventory (`cbk-app inventory`) is older than that is a problem.",
    )
    drill_every: Duration = Field(
        default=timedelta(0), description="How often some copies are restored for a test (`cbk drill`). 0: only when asked to."
    )
    bandwidth: Annotated[str, BeforeValidator(_check_bandwidth)] = Field(
        default="",
        description=(
            'Bytes per second at the most that all workers together fetch: "2M", or a timetable in local time, '
            '"Mon-Fri 08:00,1M 18:00,off". Default: no limit.'
        ),
    )
    host_concurrency: int = Field(
        default=0,
        ge=0,
        description="Downloads at the same time from one host, per worker process. 0: as many as `CBK_CONCURRENCY`.",
    )
    max_file_size: Size = Field(default=0, description="Larger objects are declined. 0: no limit.")
    connect_timeout: PositiveDuration = Field(
        default=timedelta(seconds=10), description="For the origin, the look-up of its name, and the databases."
    )
    read_timeout: PositiveDuration = Field(default=timedelta(seconds=30), description="How long an origin may send nothing.")
    statement_timeout: PositiveDuration = Field(
        default=timedelta(seconds=30), description="For each query to the application's database."
    )
    ca_bundle: Annotated[Path | None, BeforeValidator(_check_authorities)] = Field(
        default=None, description="Certificate authorities for origins, where they are not public ones."
    )
    notify: Annotated[SecretStr, BeforeValidator(_check_notify)] = Field(
        default=SecretStr(""),
        description="Who is told what needs a person: Apprise URLs, apart by commas or blanks. They may hold passwords.",
    )
    alert_after: PositiveDuration = Field(
        default=timedelta(hours=6),
        description="How long files may wait to be fetched, or fail to be, before people are told and the heartbeat stops.",
    )
    heartbeat_url: Annotated[SecretStr, BeforeValidator(_check_heartbeat)] = Field(
        default=SecretStr(""),
        description="A dead man's switch (Healthchecks): called while everything is protected, and with `/fail` where it is not.",
    )
    flower_auth: Annotated[SecretStr | None, BeforeValidator(_check_flower_auth)] = Field(
        default=None, description="user:password of Flower's pages. Without it Flower does not start."
    )
    flower_port: int = Field(default=5555, ge=1, le=65535, description="Flower's port on the loopback address.")
    page_auth: Annotated[SecretStr | None, BeforeValidator(_check_flower_auth)] = Field(
        default=None, description="user:password of the page. Default: `CBK_FLOWER_AUTH`; without either it does not start."
    )
    page_address: str = Field(default="127.0.0.1", min_length=1, description="The address that the page listens on.")
    page_port: int = Field(default=5556, ge=1, le=65535, description="The page's port.")
    page_hosts: Annotated[str, BeforeValidator(_check_host_names)] = Field(
        default="",
        description="Comma-separated names by which browsers reach the page, beside localhost and addresses. Others are refused.",
    )
    metrics_token: Annotated[SecretStr | None, BeforeValidator(_check_token)] = Field(
        default=None, description="A bearer token that opens `/metrics` and nothing else. The page's user:password does, too."
    )

    mirrors: Annotated[dict[str, Mirror], NoDecode, BeforeValidator(_parse_mirrors), AfterValidator(_check_mirror_names)] = Field(
        default_factory=dict,
        description=(
            'Further places for the copies, by name, such as {"usb": {"path": "/mnt/usb"}, "b2": {"remote": "b2:bucket/prefix"}}; '
            "in TOML [mirrors.usb]. What each may say is below, under [mirrors](#mirrors)."
        ),
    )

    @field_validator("mirrors")
    @classmethod
    def _mirrors_are_elsewhere(cls, mirrors: dict[str, Mirror], info: ValidationInfo) -> dict[str, Mirror]:
        root = info.data.get("backup_root")
        for name, mirror in mirrors.items():
            for folder in mirror.folders:
                if root is not None and (folder.is_relative_to(root) or root.is_relative_to(folder)):
                    raise ValueError(f"{name} lies in the backup root, or the backup root in it: expected a place elsewhere")
        return mirrors

    @property
    def catalog(self) -> str:
        """The catalog's URL; holds a password where a server needs one."""
        if self.catalog_url is not None:
            return self.catalog_url.get_secret_value()
        return f"sqlite:///{self.backup_root.absolute()}/.cbk/catalog.db"

    @property
    def source(self) -> str:
        """The source's URL; holds a password."""
        return self.source_url.get_secret_value()

    @property
    def broker(self) -> str:
        """The broker's URL; may hold a password. `rules.broker_url` says what is in it."""
        return self.broker_url.get_secret_value()

    @property
    def tls(self) -> DatabaseTls:
        """What lines to databases on other machines have to be."""
        return DatabaseTls(default=Tls(self.database_tls), ca=str(self.database_ca) if self.database_ca else None)

    @property
    def notify_urls(self) -> list[str]:
        """The URLs of who is to be told; they may hold passwords."""
        return _split_urls(self.notify.get_secret_value())

    @property
    def heartbeat(self) -> str:
        """The URL that the dead man's switch listens at; it is a secret. Empty where there is none."""
        return self.heartbeat_url.get_secret_value()

    @property
    def page_pair(self) -> str | None:
        """user:password of the page, None where there is none."""
        pair = self.page_auth or self.flower_auth
        return pair.get_secret_value() if pair else None

    @property
    def page_names(self) -> frozenset[str]:
        """The names, in lower case, by which the page may be reached."""
        return frozenset(name.lower() for name in _split_names(self.page_hosts)) | {"localhost"}

    def bucket(self, storage: str) -> str:
        """The bucket folder of a storage."""
        return self.buckets.get(storage, storage)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the library's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment first, then the file (given as keywords by `load_settings`): no dotenv, no secrets folder."""
        assert isinstance(init_settings, InitSettingsSource)
        return env_settings, init_settings


class _WrittenSettings(Settings):
    """The same, of what is written down alone."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the library's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """No environment."""
        return (init_settings,)


def load_settings(config: Path | None = None) -> Settings:
    """The settings in force. Raises SettingsError that lists every problem by name."""
    path = config_path(config)
    values, problems = _read_file(path) if path.exists() or _is_named(config) else ({}, [])
    hint = f"set them in the environment or in {path}; docs/settings.md lists them"
    return _validated(Settings, values, problems, hint)


def parse_settings(values: Mapping[str, Any]) -> Settings:
    """The settings that a file with these values holds, whatever the environment says. Raises SettingsError, as above."""
    return _validated(_WrittenSettings, dict(values), [], "docs/settings.md says what each of them takes")


def _validated(model: type[Settings], values: dict[str, Any], problems: list[str], hint: str) -> Settings:
    try:
        settings = model(**values)
    except ValidationError as error:
        problems += [_describe(dict(detail), values) for detail in error.errors()]
    if problems:
        raise SettingsError(sorted(problems), hint=hint)
    return settings


def unknown_names(environment: Iterable[str] | None = None) -> list[str]:
    """Names in the environment that begin like a setting but are none, each with the one that was probably meant."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | OTHER_NAMES
    names = os.environ if environment is None else environment
    return [_suggest(name, known) for name in sorted(names) if name.startswith(PREFIX) and name not in known]


def config_path(config: Path | None = None) -> Path:
    """The file that settings are read from, where it is there: `config`, else what CBK_CONFIG names, else the default."""
    return config or Path(os.environ.get("CBK_CONFIG") or DEFAULT_CONFIG)


def _is_named(config: Path | None) -> bool:
    return config is not None or bool(os.environ.get("CBK_CONFIG"))


def read_values(path: Path) -> dict[str, Any]:
    """What a TOML file of settings says, not validated. Raises SettingsError where it cannot be read or is no TOML."""
    values, problems = _read_file(path)
    if problems:
        raise SettingsError(problems, hint="docs/settings.md shows an example of such a file")
    return values


def _read_file(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file), []
    except OSError as error:
        return {}, [f"{path}: cannot be read: {error.strerror}"]
    except (ValueError, RecursionError) as error:  # not only TOMLDecodeError: numbers may be too long, and lists too deep
        return {}, [f"{path}: is not valid TOML: {error}"]


def _describe(detail: dict[str, Any], values: dict[str, Any]) -> str:
    name = str(detail["loc"][0])
    shown = PREFIX + name.upper()
    if detail["type"] == "missing":
        return f"{shown}: is required ({Settings.model_fields[name].description})"
    if detail["type"] == "extra_forbidden" and name in values:
        return f"unknown setting {_suggest(name, set(Settings.model_fields))}"
    within = ".".join(str(part) for part in detail["loc"][1:])
    if detail["type"] == "extra_forbidden":
        return f"{shown}: {within} is unknown; docs/settings.md lists what there is"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{shown}: {within + ': ' if within else ''}{message[:1].lower() + message[1:]}"


def _suggest(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"{name} (did you mean {close[0]}?)" if close else name
