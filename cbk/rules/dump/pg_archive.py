"""PostgreSQL's custom format (`pg_dump -Fc`), read as it streams by, to tell whether all of it came.

The format has no mark at its end. What it has is a table of contents, which names every piece of data by a number, and after it the
pieces, each with its number in front and a zero behind. So an archive is whole if each piece that the table names has come and has
ended, and nothing follows. Layout: pg_backup_archiver.c and pg_backup_custom.c of PostgreSQL, format versions 1.12 (PostgreSQL
9.0) to 1.16 (17 and later).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator

from cbk.errors import DumpIncomplete

MAGIC = b"PGDMP"
_CUSTOM = 1
_OLDEST, _NEWEST = (1, 12), (1, 16)
_COMPRESSION_IS_BYTE = (1, 15)
_HAS_TABLE_AM = (1, 14)
_HAS_RELKIND = (1, 16)
_NO_DATA = 3  # K_OFFSET_NO_DATA
_DATA, _BLOBS = 1, 3  # BLK_DATA, BLK_BLOBS
_TEXT_MAX_BYTES = 256 * 1024 * 1024  # of a function's body, or a view's: more is no archive any more
_CHUNK_HEAD = struct.Struct("<xI")
_STRINGS_BEFORE_SECTION = 4  # table's oid, oid, tag, description
_STRINGS_AFTER_SECTION = 5  # definition, drop and copy statement, schema, tablespace

_Need = Generator[int, bytes, None]
_Text = Generator[int, bytes, str]
_Number = Generator[int, bytes, int]


def _read_head(integer_bytes: int) -> Callable[[bytearray, int], tuple[int, ...]]:
    """Reads the length of a chunk, behind a byte for its sign: of four bytes everywhere, and there quickly."""
    if integer_bytes == _CHUNK_HEAD.size - 1:
        return _CHUNK_HEAD.unpack_from
    return lambda buffer, position: (int.from_bytes(buffer[position + 1 : position + 1 + integer_bytes], "little"),)


class PgArchive:
    """Follows one archive. Memory: one entry of the table of contents, and a chunk."""

    def __init__(self) -> None:
        self.server_version = ""
        self.tool_version = ""
        self.tables: list[str] = []
        self._unseen: dict[int, str] = {}
        self._integer_bytes = 4
        self._offset_bytes = 8
        self._buffer = bytearray()
        self._skip = 0
        self._where = "in its header"
        self._between = False  # whether it might end here
        self._in_data = False
        self._parser = self._parse()
        self._wants = next(self._parser)

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """The next bytes of the archive. Raises DumpIncomplete where this is none."""
        if self._skip >= len(data):
            self._skip -= len(data)
            return
        self._buffer += memoryview(data)[self._skip :]
        self._skip = 0
        position = 0
        while True:
            if self._in_data:
                position = self._walk_chunks(position)
            if self._in_data or len(self._buffer) - position < self._wants:
                break
            piece = bytes(self._buffer[position : position + self._wants])
            position += self._wants
            self._wants = self._parser.send(piece)
        del self._buffer[:position]

    def finish(self) -> None:
        """The archive has ended. Raises DumpIncomplete unless all of it came."""
        if not self._between or self._buffer or self._skip:
            raise DumpIncomplete(f"the archive ends {self._where}")
        if self._unseen:
            raise DumpIncomplete(f"the archive ends before {next(iter(self._unseen.values()))}")

    # ---- pieces of data ------------------------------------------------------------------------------------------------------

    def _walk_chunks(self, position: int) -> int:
        """Pass by the chunks of a piece that are in the buffer; there may be one for each row. The new position.

        At the zero behind the piece, `_in_data` ends.
        """
        buffer, head, end = self._buffer, self._integer_bytes + 1, len(self._buffer)
        last, read_head = end - head, _read_head(self._integer_bytes)
        while position <= last:
            count = read_head(buffer, position)[0]
            position += head
            if not count:
                self._in_data = False
                return position
            position += count
        if position > end:
            self._skip = position - end
            return end
        return position

    # ---- the rest, byte by byte ----------------------------------------------------------------------------------------------

    def _parse(self) -> _Need:
        yield from self._header()
        count = yield from self._integer()
        self._where = "in its table of contents"
        for _ in range(count):
            yield from self._entry()
        while True:
            self._where, self._between = "between two pieces of data", True
            kind = (yield 1)[0]
            self._between = False
            number = yield from self._integer()
            label = self._unseen.pop(number, None)
            if label is None or kind not in {_DATA, _BLOBS}:
                raise DumpIncomplete("the archive's data is not what its table of contents names")
            self._where = f"in {label}"
            if kind == _DATA:
                yield from self._chunks()
            else:
                while (yield from self._integer()):
                    yield from self._chunks()

    def _chunks(self) -> _Need:
        self._in_data = True
        yield 0

    def _header(self) -> _Need:
        fixed = yield 11
        if fixed[:5] != MAGIC or fixed[10] != _CUSTOM:
            raise DumpIncomplete("what came is no archive in PostgreSQL's custom format (pg_dump -Fc)")
        self._version = (fixed[5], fixed[6])
        if not _OLDEST <= self._version <= _NEWEST:
            raise DumpIncomplete(
                f"the archive has format {fixed[5]}.{fixed[6]}, and this release knows 1.12 to 1.16", hint="install a newer release"
            )
        self._integer_bytes, self._offset_bytes = fixed[8], fixed[9]
        if self._version >= _COMPRESSION_IS_BYTE:
            yield 1
        else:
            yield from self._integer()
        for _ in range(7):  # seconds to "is summer time"
            yield from self._integer()
        yield from self._string()  # the database
        self.server_version = yield from self._string()
        self.tool_version = yield from self._string()

    def _entry(self) -> _Need:
        number = yield from self._integer()
        yield from self._integer()
        _, _, tag, description = yield from self._strings(_STRINGS_BEFORE_SECTION)
        yield from self._integer()
        _, _, _, schema, _ = yield from self._strings(_STRINGS_AFTER_SECTION)
        if self._version >= _HAS_TABLE_AM:
            yield from self._string()
        if self._version >= _HAS_RELKIND:
            yield from self._integer()
        yield from self._strings(2)  # owner, with oids
        while (yield from self._nullable()) is not None:  # dependencies
            pass
        has_data = (yield 1)[0] != _NO_DATA
        yield self._offset_bytes
        name = f"{schema}.{tag}" if schema else tag
        if has_data:
            self._unseen[number] = f"{description.lower()} {name}"
        if description == "TABLE":
            self.tables.append(name)

    def _integer(self) -> _Number:
        piece = yield 1 + self._integer_bytes
        value = int.from_bytes(piece[1:], "little")
        return -value if piece[0] else value

    def _nullable(self) -> Generator[int, bytes, str | None]:
        length = yield from self._integer()
        if length < 0:
            return None
        if length > _TEXT_MAX_BYTES:
            raise DumpIncomplete(f"the archive is damaged {self._where}")
        if not length:
            return ""
        return (yield length).decode(errors="replace")

    def _string(self) -> _Text:
        return (yield from self._nullable()) or ""

    def _strings(self, count: int) -> Generator[int, bytes, list[str]]:
        found = []
        for _ in range(count):
            found.append((yield from self._string()))  # noqa: PERF401 - a comprehension cannot yield
        return found
