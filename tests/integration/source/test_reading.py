"""Rows and deletes, read by their Ids whatever those are, and by the key of an object."""

import os
import threading
import uuid

import pytest
from sqlalchemy import text

from cbk.model import DeleteRow, SourceRow
from local_servers import wait_until
from tests.integration.source.application import (
    INSERT_FILE,
    OTHER_COLUMNS,
    ids_of,
    pages_of,
    sessions_of_cbk,
)


def test_rows_after_gives_the_row_as_it_is(application, source):
    application.upload(name="thumbnail.png", path="cars/id-1/", version=3)

    (row,) = source.rows_after(None, 10)

    assert row == SourceRow(
        id="1",
        storage="s3",
        path="cars/id-1/",
        name="thumbnail.png",
        version=3,
        hash="digest",
        link="https://o.example/secret-link",
        created_at=row.created_at,
    )
    assert row.created_at.startswith("20")


def test_rows_after_pages_through_all_rows_in_the_order_of_their_numbers(application, source):
    for number in range(12):
        application.upload(name=f"{number}.png")

    assert pages_of(source, 5) == [["1", "2", "3", "4", "5"], ["6", "7", "8", "9", "10"], ["11", "12"]]


def test_rows_after_what_cannot_be_an_id_is_nothing(application, source):
    application.upload()

    assert [source.rows_after(text, 10) for text in ("x", "", "1; DROP TABLE x", "9" * 40, "\0", "\ud800", "½")] == [[]] * 7


def test_rows_after_takes_a_number_for_an_id(application, source):
    application.upload()
    application.upload()

    assert ids_of(source.rows_after(1, 10)) == ["2"]


def test_rows_finds_those_that_are_there(application, source):
    application.upload(name="a.png")
    application.upload(name="b.png")

    found = source.rows(["2", 1, "99", "x", "-1", "9223372036854775808"])

    assert {row_id: row.name for row_id, row in found.items()} == {"1": "a.png", "2": "b.png"}


def test_rows_finds_more_than_fit_one_question(application, source):
    numbers = "WITH RECURSIVE numbers(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < 901)"
    application.run(f"{INSERT_FILE.partition(' VALUES')[0]} {numbers} SELECT 'n', 'p', 's3', i, 'digest', 'link' FROM numbers")

    assert len(source.rows([str(number) for number in range(1, 902)])) == 901


def test_rows_of_no_ids_is_nothing(source):
    assert source.rows([]) == {}


def test_row_that_is_not_there_is_none(application, source):
    application.upload()

    assert source.row("2") is None
    assert source.row("x") is None
    assert source.row("1").name == "a.png"


def test_latest_id_is_the_highest(application, source):
    assert source.latest_id() is None

    for _ in range(11):
        application.upload()

    assert source.latest_id() == "11"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("cars/id 1/", "ü.png"),
        ("/cars/id 1/", "ü.png"),
        ("/cars/id 1", "ü.png"),
        ("cars/id 1", "ü.png"),
        ("cars/id 1", "/ü.png"),
        ("cars/", "id 1/ü.png"),
        ("", "cars/id 1/ü.png"),
        ("", "/cars/id 1/ü.png"),
    ],
)
@pytest.mark.parametrize("key", ["cars/id 1/ü.png", "/cars/id 1/ü.png"])
def test_rows_of_key_finds_it_however_it_is_spelled(application, source, path, name, key):
    application.upload(path=path, name=name)

    assert ids_of(source.rows_of_key("s3", key)) == ["1"]


@pytest.mark.parametrize(("path", "name"), [("cars//", "a.png"), ("cars/", "/a.png"), ("cars", "//a.png"), ("/cars/", "/a.png")])
def test_rows_of_key_tells_doubled_slashes_from_single_ones(application, source, path, name):
    application.upload(path=path, name=name)
    application.upload(path="cars/", name="a.png")
    assert ids_of(source.rows_of_key("s3", "cars//a.png")) == ["1"]
    assert ids_of(source.rows_of_key("s3", "cars/a.png")) == ["2"]


def test_rows_of_key_finds_every_version_and_nothing_else(application, source):
    application.upload(path="cars/", name="a.png", version=1)
    application.upload(path="cars", name="a.png", version=2)
    application.upload(path="cars/", name="b.png")
    application.upload(path="", name="a.png")
    application.upload(path="cars/a.png/", name="a.png")

    assert ids_of(source.rows_of_key("s3", "cars/a.png")) == ["1", "2"]
    assert source.rows_of_key("azure", "cars/a.png") == []


def test_rows_of_key_finds_a_row_whose_path_is_null(application, source):
    application.replace_files_table(f'"Id" INTEGER PRIMARY KEY, {OTHER_COLUMNS}')
    application.run("""INSERT INTO "ObjectStorageFiles" ("Id", "Name", "Storage") VALUES (7, 'a.png', 's3')""")

    assert ids_of(source.rows_of_key("s3", "a.png")) == ["7"]


def test_rows_of_key_that_is_longer_than_any_accepted_one_is_not_asked_for(sqlite_application, sqlite_source):
    sqlite_application.upload(path="", name="a" * 4096)
    sqlite_application.upload(path="", name="a" * 4097)

    assert ids_of(sqlite_source.rows_of_key("s3", "a" * 4096)) == ["1"]
    assert sqlite_source.rows_of_key("s3", "a" * 4097) == []


@pytest.mark.parametrize("key", ["", "/", "a\0b", "\ud800"])
def test_rows_of_key_that_no_row_can_have_is_nothing(application, source, key):
    application.upload()

    assert source.rows_of_key("s3", key) == []


def test_deletes_after_pages_through_the_log(application, source):
    for file_id in (30, 20, 20):
        application.delete(file_id)

    first = source.deletes_after(None, 2)
    rest = source.deletes_after(first[-1].id, 2)

    assert [(row.id, row.file_id) for row in first + rest] == [("1", "30"), ("2", "20"), ("3", "20")]
    assert first[0].deleted_at.startswith("20")


def test_delete_row_is_found_by_its_own_id(application, source):
    application.delete(30)

    assert source.delete_row("1").file_id == "30"
    assert source.delete_row("30") is None
    assert source.delete_row("x") is None


def test_deletes_of_finds_all_that_name_the_rows(application, source):
    for file_id in (30, 20, 20, 10):
        application.delete(file_id)

    assert ids_of(source.deletes_of(["20", 10, "x"])) == ["2", "3", "4"]


def test_one_source_serves_many_threads(application, source):
    application.upload()
    found = []
    threads = [threading.Thread(target=lambda: found.extend(source.rows(["1"]))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == ["1"] * 16


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # that threads do not survive it is the point
def test_forked_child_leaves_the_connection_of_its_parent_alone(pg_application, pg_source):
    pg_application.upload()
    session = "SELECT pg_backend_pid()"
    with pg_source._session() as (connection, _):
        parents = connection.execute(text(session)).scalar()
    receiving, sending = os.pipe()

    child = os.fork()
    if not child:
        try:
            with pg_source._session() as (connection, _):
                os.write(sending, str(connection.execute(text(session)).scalar()).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(sending)

    with os.fdopen(receiving) as answer:
        assert answer.read() not in {"", str(parents)}
    with pg_source._session() as (connection, _):
        assert connection.execute(text(session)).scalar() == parents


def test_close_ends_the_connections_and_the_next_question_opens_one(pg_application, pg_source):
    pg_source.latest_id()
    assert sessions_of_cbk(pg_application) == ["idle"]

    pg_source.close()

    wait_until(lambda: not sessions_of_cbk(pg_application), 5, "the session to end")
    assert pg_source.latest_id() is None


def test_ids_are_ordered_where_they_are_numbers(source):
    assert source.ids_are_ordered()
    assert source.deletes_are_ordered()


def test_uuid_ids_are_read_in_their_order_and_found_in_any_spelling(pg_application, pg_source):
    pg_application.replace_files_table(f'"Id" uuid PRIMARY KEY, {OTHER_COLUMNS}')
    wanted = sorted(str(uuid.uuid4()) for _ in range(5))
    for row_id in reversed(wanted):
        pg_application.run('INSERT INTO "ObjectStorageFiles" ("Id", "Name") VALUES (CAST(:id AS uuid), :name)', id=row_id, name="x")

    assert not pg_source.ids_are_ordered()
    assert pages_of(pg_source, 2) == [wanted[:2], wanted[2:4], wanted[4:]]
    assert ids_of(pg_source.rows([wanted[0].upper(), "not-a-uuid"]).values()) == [wanted[0]]
    assert pg_source.latest_id() == wanted[-1]
    assert pg_source.check().id_kind == "uuid"


def test_text_ids_are_read_in_the_order_of_the_database(application, source):
    application.replace_files_table(f'"Id" VARCHAR(40) PRIMARY KEY, {OTHER_COLUMNS}')
    for row_id in ("b", "10", "9", "Ä", "", "a"):
        application.run('INSERT INTO "ObjectStorageFiles" ("Id", "Name") VALUES (:id, :name)', id=row_id, name="x")

    assert not source.ids_are_ordered()
    assert pages_of(source, 2) == [["", "10"], ["9", "a"], ["b", "Ä"]]
    assert source.row("9").id == "9"
    assert source.row("\0") is None
    assert source.row("\ud800") is None


def test_binary_ids_are_read_as_hex(application, source):
    blob = {"sqlite": "BLOB", "postgresql": "bytea", "mysql": "VARBINARY(20)"}[application.dialect]
    application.replace_files_table(f'"Id" {blob} PRIMARY KEY, {OTHER_COLUMNS}')
    for row_id in (b"\xff\x00", b"\x01"):
        application.run('INSERT INTO "ObjectStorageFiles" ("Id", "Name") VALUES (:id, :name)', id=row_id, name="x")

    assert pages_of(source, 1) == [["01"], ["ff00"]]
    assert source.row("ff00").id == "ff00"
    assert source.row("xyz") is None


@pytest.mark.parametrize("declared", ["NUMERIC", "GUID"])
@pytest.mark.parametrize(("kept", "expected"), [((2, 10), ["2", "10"]), (("b", "10x"), ["10x", "b"])])
def test_sqlite_ids_are_what_is_kept_whatever_was_declared(sqlite_application, sqlite_source, declared, kept, expected):
    sqlite_application.replace_files_table(
        f'"Id" {declared} PRIMARY KEY, "Name", "Path", "Storage", "Version", "Hash", "SignedDownloadUrl"'
    )
    for row_id in kept:
        sqlite_application.run('INSERT INTO "ObjectStorageFiles" ("Id") VALUES (:id)', id=row_id)

    assert pages_of(sqlite_source, 1) == [[row_id] for row_id in expected]


def test_log_without_id_is_keyed_by_file_id(application, source):
    application.run('DROP TABLE "ObjectStorageDeleteLog"')
    application.run('CREATE TABLE "ObjectStorageDeleteLog" ("FileId" BIGINT NOT NULL)')
    application.let_read()
    for file_id in (30, 20):
        application.run('INSERT INTO "ObjectStorageDeleteLog" VALUES (:file_id)', file_id=file_id)

    assert source.deletes_after(None, 10) == [DeleteRow(id="20", file_id="20"), DeleteRow(id="30", file_id="30")]
    assert source.deletes_after("20", 10) == [DeleteRow(id="30", file_id="30")]
    assert source.delete_row("30") == DeleteRow(id="30", file_id="30")
    assert not source.deletes_are_ordered()
