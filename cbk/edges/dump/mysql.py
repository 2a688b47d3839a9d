"""MySQL and MariaDB by URL: one transaction of the dump tool's own, and rows counted before and after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote

from cbk.edges.dump.process import Meaning, Program, Tick, find_meaning, last_line, run
from cbk.edges.dump.source import ProgramSource
from cbk.edges.dump.tools import find
from cbk.errors import DrillFailed, DumpError, DumpRefused, DumpUnavailable
from cbk.rules.dump.spec import DumpSpec

_ARGUMENTS = [
    "--single-transaction",
    "--quick",
    "--routines",
    "--triggers",
    "--events",
    "--hex-blob",
    "--no-tablespaces",
    "--default-character-set=utf8mb4",
]
_COUNT_SECONDS = 86_400
_TABLES = (
    "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE' ORDER BY 1"
)


@contextmanager
def mysql_source(spec: DumpSpec, *, tick: Tick, scratch: Path) -> Iterator[ProgramSource]:
    """The dump of a database by its URL; `scratch` is a folder that only this user may read. Raises DumpError, ToolMissing."""
    options = write_options(spec.place, scratch)
    database = unquote(spec.place.path.strip("/"))
    tool = find("mariadb-dump", "mysqldump")
    dump = Program(name=Path(tool).name, arguments=[tool, options, *_ARGUMENTS, "--", database], explain=explain_mysql)
    client = Client(find("mariadb", "mysql"), [options, database])
    yield _MysqlSource(spec, dump, tick, client)


class Client:
    """The client, for queries. `arguments` say which server and database."""

    def __init__(self, program: str, arguments: list[str], account: tuple[int, int] | None = None) -> None:
        self._program = program
        self._arguments = arguments
        self._account = account

    def program(self, *more: str) -> Program:
        """What to run for it."""
        arguments = [self._program, *self._arguments, "--default-character-set=utf8mb4", *more]
        return Program(name="mariadb", arguments=arguments, explain=_explain_client, account=self._account)

    def rows(self, tick: Tick) -> dict[str, int]:
        """Rows of each table by name. Raises DumpError."""
        tables = self._ask(_TABLES, tick)
        if not tables:
            return {}
        counts = [f"SELECT {_text(table)}, COUNT(*) FROM {_name(table)}" for table in tables]  # noqa: S608 - names are quoted
        found = (line.rpartition("\t") for line in self._ask(" UNION ALL ".join(counts), tick))
        return {table: int(count) for table, _, count in found}

    def _ask(self, query: str, tick: Tick) -> list[str]:
        asked = self.program("--batch", "--skip-column-names", "--raw", f"--execute={query}")
        return run(asked, tick=tick, timeout_seconds=_COUNT_SECONDS).splitlines()


class _MysqlSource(ProgramSource):
    def __init__(self, spec: DumpSpec, program: Program, tick: Tick, client: Client) -> None:
        super().__init__(spec, program, tick)
        self._client = client
        self._before: dict[str, int] = {}

    def chunks(self) -> Iterator[bytes]:
        self._before = self._client.rows(self._tick)
        yield from super().chunks()

    def rows(self) -> dict[str, int] | None:
        """Nobody else can look into the dump's transaction: what was the same before and after it, was so within."""
        after = self._client.rows(self._tick)
        return {table: count for table, count in after.items() if self._before.get(table) == count}


def write_options(place: SplitResult, scratch: Path) -> str:
    """An option file: a password among the arguments could be read by everybody on the machine."""
    values = {
        "host": place.hostname or "localhost",
        "port": str(place.port) if place.port else "",
        "user": unquote(place.username) if place.username else "",
        "password": unquote(place.password) if place.password else "",
    }
    known = {"unix_socket": "socket", "ssl_ca": "ssl-ca", "ssl_cert": "ssl-cert", "ssl_key": "ssl-key"}
    for name, value in parse_qsl(place.query):
        if name in known:
            values[known[name]] = value
    file = scratch / "client.cnf"
    file.touch(mode=0o600)
    file.write_text(
        "[client]\n" + "".join(f"{name}={_quoted(value)}\n" for name, value in values.items() if value), encoding="utf-8"
    )
    return f"--defaults-extra-file={file}"


_MEANINGS = (
    Meaning(
        texts=("access denied", "unknown database", "is not allowed to connect"),
        error=DumpRefused,
        sentence="the server refuses",
        hint="check user, password and rights in the dump's url (SELECT, SHOW VIEW, TRIGGER, EVENT)",
    ),
    Meaning(
        texts=(
            "can't connect",
            "unknown mysql server host",
            "unknown server host",
            "lost connection",
            "gone away",
            "too many conn",
        ),
        error=DumpUnavailable,
        sentence="the database cannot be reached",
    ),
)


def explain_mysql(said: str) -> DumpError | None:
    """What the server or its tools mean, in one sentence; None where that is not known."""
    return find_meaning(said, _MEANINGS, last_line(said))


def _explain_client(said: str) -> DumpError | None:
    """As `explain_mysql`; an error with a line number is one of what is restored."""
    errors = [line for line in said.splitlines() if "ERROR" in line]
    if errors and " at line " in said:
        return DrillFailed(f"the server does not take the dump: {last_line(errors[0])}")
    return explain_mysql(said)


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _name(table: str) -> str:
    return "`" + table.replace("`", "``") + "`"


def _text(table: str) -> str:
    return "'" + table.replace("\\", "\\\\").replace("'", "''") + "'"
