"""Whether all of a dump came, by what its format says of its own end: an exit code of 0 alone proves nothing.

check = end_check(kind, end_mark)
for chunk in stream:
check.feed(chunk)
content = check.finish()        # raises DumpIncomplete
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from cbk.errors import DumpIncomplete
from cbk.rules.dump.pg_archive import MAGIC, PgArchive
from cbk.rules.dump.spec import DumpKind

_TAIL_BYTES = 4096
_ENDS = {
    # Since the releases of August 2025 a token comes after the mark, the same as at the beginning.
    "pg_dump": re.compile(rb"\n--\n-- PostgreSQL database dump complete\n--\n\n(?:\\unrestrict \w+\n\n?)?\Z"),
    "pg_dumpall": re.compile(rb"\n--\n-- PostgreSQL database cluster dump complete\n--\n\n\Z"),
    "mysqldump": re.compile(rb"\n-- Dump completed(?: on [-: 0-9]+)?\r?\n\Z"),
}
_GZIP, _ZSTD, _XZ = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ"
_SQLITE_MAGIC = b"SQLite format 3\0"
_SQLITE_HEADER_BYTES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpContent:
    """What a whole dump says about itself. `tables` are names with their schema, where the format tells them as it streams by."""

    format: str
    server_version: str = ""
    tool_version: str = ""
    tables: tuple[str, ...] = ()


class EndCheck(Protocol):
    """Follows one dump."""

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """The next bytes."""

    def finish(self) -> DumpContent:
        """What came. Raises DumpIncomplete unless all of it did."""


def end_check(kind: DumpKind, end_mark: str = "") -> EndCheck:
    """The check for a dump of this kind."""
    if kind is DumpKind.POSTGRESQL:
        return _PostgresEnd()
    if kind is DumpKind.MYSQL:
        return _TextEnd("mysqldump", "-- Dump completed")
    if kind is DumpKind.SQLITE:
        return _SqliteEnd()
    return _RawEnd(end_mark)


def roles_check() -> EndCheck:
    """The check for what `pg_dumpall --globals-only` writes."""
    return _TextEnd("pg_dumpall", "-- PostgreSQL database cluster dump complete")


class _PostgresEnd:
    """An archive in the custom format, or SQL: the first bytes tell which."""

    def __init__(self) -> None:
        self._head = b""
        self._check: _ArchiveEnd | _TextEnd | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        if self._check is None:
            self._head += bytes(data)
            if len(self._head) < len(MAGIC):
                return
            is_archive = self._head.startswith(MAGIC)
            self._check = _ArchiveEnd() if is_archive else _TextEnd("pg_dump", "-- PostgreSQL database dump complete")
            data, self._head = self._head, b""
        self._check.feed(data)

    def finish(self) -> DumpContent:
        if self._check is None:
            raise _nothing_came(self._head)
        return self._check.finish()


class _ArchiveEnd:
    def __init__(self) -> None:
        self._archive = PgArchive()
        self.feed = self._archive.feed

    def finish(self) -> DumpContent:
        self._archive.finish()
        return DumpContent(
            format="pg_dump -Fc",
            server_version=self._archive.server_version,
            tool_version=self._archive.tool_version,
            tables=tuple(self._archive.tables),
        )


class _TextEnd:
    """Text whose last lines say that it is whole."""

    def __init__(self, format_: str, mark: str) -> None:
        self._format = format_
        self._mark = mark
        self._tail = _Tail()

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        self._tail.feed(data)

    def finish(self) -> DumpContent:
        self._tail.require_any(refuse_compressed=True)
        if not _ENDS[self._format].search(self._tail.bytes):
            raise DumpIncomplete(f"the dump does not end in {self._mark!r}: it was cut short, or is no dump of this kind")
        return DumpContent(format=self._format)


class _SqliteEnd:
    """A database file, whose header says how many pages it has."""

    def __init__(self) -> None:
        self._head = b""
        self._size = 0

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        if len(self._head) < _SQLITE_HEADER_BYTES:
            self._head += bytes(data[:_SQLITE_HEADER_BYTES])
        self._size += len(data)

    def finish(self) -> DumpContent:
        head = self._head
        if not head.startswith(_SQLITE_MAGIC) or len(head) < _SQLITE_HEADER_BYTES:
            raise _nothing_came(head) if not head else DumpIncomplete("what came is no SQLite database")
        page = int.from_bytes(head[16:18], "big")
        expected = (65_536 if page == 1 else page) * int.from_bytes(head[28:32], "big")
        if head[24:28] != head[92:96]:
            raise DumpIncomplete(
                "the database's header does not say its size",
                hint="take it with .backup, not with cp",
            )
        if self._size != expected:
            raise DumpIncomplete(f"the database has {expected} bytes, and {self._size} came")
        return DumpContent(format="sqlite")


class _RawEnd:
    """Whatever it is: it must not be empty, and must end in its mark, if it has one; white space after it does not count."""

    def __init__(self, mark: str) -> None:
        self._mark = mark.encode()
        self._tail = _Tail()

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        self._tail.feed(data)

    def finish(self) -> DumpContent:
        self._tail.require_any(refuse_compressed=False)
        if self._mark and not self._tail.bytes.rstrip().endswith(self._mark.rstrip()):
            raise DumpIncomplete(f"the dump does not end in {self._mark.decode()!r}: it was cut short")
        return DumpContent(format="raw")


class _Tail:
    def __init__(self) -> None:
        self.bytes = b""
        self._head = b""

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        if len(self._head) < len(_XZ):
            self._head += bytes(data[: len(_XZ)])
        self.bytes = bytes(data[-_TAIL_BYTES:]) if len(data) >= _TAIL_BYTES else (self.bytes + bytes(data))[-_TAIL_BYTES:]

    def require_any(self, *, refuse_compressed: bool) -> None:
        if not self.bytes:
            raise _nothing_came(b"")
        if refuse_compressed and self._head.startswith((_GZIP, _ZSTD, _XZ)):
            raise DumpIncomplete(
                "the dump came compressed, so that its end cannot be told",
                hint="send it as it is: a pipe into gzip hides what its tool exits with, and the kit compresses by itself",
            )


def _nothing_came(head: bytes) -> DumpIncomplete:
    return DumpIncomplete(f"the dump ends after {len(head)} bytes" if head else "nothing came")
