"""Whether all of a dump came. Real ones are in tests/integration/test_dump_sources.py; here, what none of them may pass for."""

import sqlite3
from contextlib import closing

import pytest

from cbk.errors import DumpIncomplete
from cbk.rules.dump.formats import end_check, roles_check
from cbk.rules.dump.spec import DumpKind

SQL = b"--\n-- PostgreSQL database dump\n--\n\nCREATE TABLE t (x int);\n\n--\n-- PostgreSQL database dump complete\n--\n\n"
MYSQL = b"-- MariaDB dump\nCREATE TABLE t (x int);\n\n-- Dump completed on 2026-11-30  8:50:52\n"


def integer(value):
    return (b"\1" if value < 0 else b"\0") + abs(value).to_bytes(4, "little")


def text(value):
    return integer(-1) if value is None else integer(len(value)) + value.encode()


def archive(*entries, blocks, version=(1, 15)):
    """A custom-format archive as pg_dump writes one. An entry is (number, tag, description, whether it has data)."""
    out = b"PGDMP" + bytes([*version, 0, 4, 8, 1]) + (b"\0" if version >= (1, 15) else integer(0))
    out += integer(0) * 7 + text("app") + text("16.2") + text("16.3") + integer(len(entries))
    for number, tag, description, has_data in entries:
        out += integer(number) + integer(1) + text("0") + text("0") + text(tag) + text(description) + integer(3)
        out += text("CREATE") + text(None) + text(None) + text("public") + text(None)
        if version >= (1, 14):
            out += text("heap")
        if version >= (1, 16):
            out += integer(114)
        out += text("me") + text("false") + text("7") + text(None) + bytes([1 if has_data else 3]) + bytes(8)
    return out + b"".join(blocks)


def block(number, *chunks, kind=1):
    return bytes([kind]) + integer(number) + b"".join(integer(len(chunk)) + chunk for chunk in chunks) + integer(0)


def check(content, kind=DumpKind.POSTGRESQL, mark="", step=None):
    checking = end_check(kind, mark)
    for start in range(0, len(content), step or len(content) or 1):
        checking.feed(content[start : start + (step or len(content))])
    return checking.finish()


def whole(version=(1, 15)):
    blobs = b"\3" + integer(9) + integer(4242) + integer(3) + b"abc" + integer(0) + integer(0)
    entries = [(7, "t", "TABLE", False), (8, "t", "TABLE DATA", True), (9, "BLOBS", "BLOBS", True)]
    return archive(*entries, blocks=[block(8, b"1\n", b"2\n" * 1000), blobs], version=version)


@pytest.mark.parametrize("version", [(1, 13), (1, 14), (1, 15), (1, 16)])
@pytest.mark.parametrize("step", [1, 7, 4096])
def test_an_archive_of_each_format_is_followed_however_it_is_cut_into_pieces(version, step):
    content = check(whole(version), step=step)
    assert (content.tables, content.server_version, content.tool_version) == (("public.t",), "16.2", "16.3")


def test_an_archive_that_is_cut_anywhere_is_not_whole():
    content = whole()
    for end in range(len(content)):
        with pytest.raises(DumpIncomplete):
            check(content[:end])


def test_an_archive_that_lacks_its_last_piece_names_it():
    content = archive((8, "t", "TABLE DATA", True), (9, "u", "TABLE DATA", True), blocks=[block(8, b"1\n")])
    with pytest.raises(DumpIncomplete, match=r"ends before table data public\.u"):
        check(content)


@pytest.mark.parametrize(
    "blocks", [[block(8), block(8)], [block(8), block(5)], [block(8), b"\0"], [block(8), b"trailing text of some kind"]]
)
def test_what_follows_an_archive_is_not_part_of_it(blocks):
    with pytest.raises(DumpIncomplete):
        check(archive((8, "t", "TABLE DATA", True), blocks=blocks))


def test_an_archive_of_a_format_to_come_is_refused_by_its_name():
    with pytest.raises(DumpIncomplete, match=r"format 1\.17"):
        check(whole()[:5] + bytes([1, 17, 0, 4, 8, 1]) + bytes(100))


def test_the_sql_of_pg_dump_has_its_mark_with_or_without_a_token():
    assert check(SQL).format == "pg_dump"
    assert check(SQL + b"\\unrestrict Abc123\n\n").format == "pg_dump"


@pytest.mark.parametrize(("content", "kind"), [(SQL, DumpKind.POSTGRESQL), (MYSQL, DumpKind.MYSQL)])
def test_sql_that_is_cut_anywhere_is_not_whole(content, kind):
    check(content, kind)
    for end in range(len(content)):
        with pytest.raises(DumpIncomplete):
            check(content[:end], kind)


def test_roles_have_a_mark_of_their_own():
    checking = roles_check()
    checking.feed(SQL)
    with pytest.raises(DumpIncomplete):
        checking.finish()


def test_a_mark_within_the_data_is_none():
    with pytest.raises(DumpIncomplete):
        check(MYSQL + b"INSERT INTO t VALUES (1);\n", DumpKind.MYSQL)


@pytest.mark.parametrize("kind", [DumpKind.POSTGRESQL, DumpKind.MYSQL])
def test_a_compressed_dump_is_refused_because_its_end_cannot_be_told(kind):
    with pytest.raises(DumpIncomplete, match="compressed"):
        check(b"\x1f\x8b\x08\x00 and so on", kind)


def test_a_sqlite_file_has_as_many_pages_as_its_header_says(tmp_path):
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t(x)")
        connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(5000)])
    content = path.read_bytes()
    assert check(content, DumpKind.SQLITE).format == "sqlite"
    for end in (0, 50, 99, 4096, len(content) - 4096, len(content) - 1):
        with pytest.raises(DumpIncomplete):
            check(content[:end], DumpKind.SQLITE)


def test_a_raw_dump_must_not_be_empty_and_must_end_in_its_mark():
    assert check(b"x", DumpKind.RAW).format == "raw"
    assert check(b"data\nBYE\n", DumpKind.RAW, "BYE").format == "raw"
    for content in (b"", b"data\nBYE\nmore"):
        with pytest.raises(DumpIncomplete):
            check(content, DumpKind.RAW, "BYE")
