"""What the catalog knows of dumps: plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from cbk.model import CopyHeader, Written
from cbk.rules.dump.spec import DumpKind, DumpSpec

# A dump's copies say in their header whose they are: by their content type, which no row's copy has together with no row Id.
_CONTENT_TYPE = "application/vnd.cbk.dump"
_ROLES_FOLDER = "roles"
EXTENSIONS = {"pg_dump -Fc": "dump", "pg_dump": "sql", "mysqldump": "sql", "sqlite": "sqlite"}
_KIND_EXTENSIONS = {DumpKind.POSTGRESQL: "dump", DumpKind.MYSQL: "sql", DumpKind.SQLITE: "sqlite", DumpKind.RAW: "raw"}


class DumpState(StrEnum):
    """Where a dump's version stands."""

    STORED = "stored"
    BAD = "bad"
    PRUNED = "pruned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """One dump by name, whether it is configured still or not. `place` is the folder of its copies, relative to the root.

    `done_slot` is the slot of the schedule that the newest stored version is of. `problem` is why the last try failed, empty where
    it did not; `attempts` counts those that failed in a row.
    """

    id: int
    name: str
    kind: DumpKind
    bucket: str
    place: str
    first_seen_at: datetime
    done_slot: datetime | None = None
    tried_at: datetime | None = None
    retry_at: datetime | None = None
    attempts: int = 0
    problem: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpVersion:
    """One dump that was taken. `rows` are the tables' by name, as they were in its snapshot; None where that is not known.

    `roles` is the copy of the server's users and rights, where they are kept. `drill_problem` is why the last drill failed, empty
    where it passed, None where none was held.
    """

    id: int
    dump_id: int
    number: int
    state: DumpState
    taken_at: datetime
    stored_at: datetime
    seconds: float
    format: str
    sha256: str
    size: int
    stored_size: int
    stored_sha256: str | None = None
    roles_sha256: str | None = None
    server_version: str = ""
    tool_version: str = ""
    rows: Mapping[str, int] | None = field(default=None, repr=False)
    verified_at: datetime | None = None
    drilled_at: datetime | None = None
    drill_problem: str | None = None
    unkept_since: datetime | None = None
    due_at: datetime | None = None
    reasons: str = ""
    reason: str = ""
    pruned_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenDump:
    """A dump that is on the disk and was read back, to be recorded."""

    number: int
    slot: datetime
    taken_at: datetime
    seconds: float
    format: str
    server_version: str
    tool_version: str
    rows: Mapping[str, int] | None
    copy: Written
    roles: Written | None = None


def dump_location(place: str, number: int) -> str:
    """Where a dump lies, relative to the root."""
    return f"{place}/v{number}.gzip"


def roles_folder(place: str) -> str:
    """Where the users and rights of the server lie, beside a dump's own place."""
    return f"{place}/{_ROLES_FOLDER}"


def roles_location(place: str, number: int) -> str:
    """Where those that belong to one version lie."""
    return dump_location(roles_folder(place), number)


def dump_header(spec: DumpSpec, number: int, *, roles: bool = False) -> CopyHeader:
    """What the copy of a dump says about itself; its SHA-256 and its size are known once its last byte has come."""
    extension = "roles.sql" if roles else _KIND_EXTENSIONS[spec.kind]
    return CopyHeader(
        storage=spec.bucket,
        path="",
        name=f"{spec.name}.{extension}",
        version=number,
        sha256="0" * 64,
        size=0,
        content_type=f"{_CONTENT_TYPE}; kind={spec.kind.value}" + ("; roles" if roles else ""),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDump:
    """What a copy on the disk says, where it is one of a dump's."""

    name: str
    kind: DumpKind
    is_roles: bool
    format: str


def dump_of(header: CopyHeader) -> FoundDump | None:
    """Which dump's copy this is, None where it is an ordinary file's: whatever a row's content type says, its copies have an Id."""
    main, _, parameters = (header.content_type or "").partition("; kind=")
    kind, _, roles = parameters.partition("; ")
    if main != _CONTENT_TYPE or header.source_id is not None or header.path or kind not in set(DumpKind):
        return None
    formats = {"postgresql": "pg_dump -Fc", "mysql": "mysqldump"}
    return FoundDump(
        name=header.name.partition(".")[0], kind=DumpKind(kind), is_roles=roles == "roles", format=formats.get(kind, kind)
    )
