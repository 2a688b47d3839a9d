"""The application's database, as it is and as it fails: PostgreSQL with the SELECT-only user of `cbk schema`, and SQLite.

MySQL and MariaDB cannot be had here as servers; what is sent to them is checked as text in tests/unit/test_source_sql.py.
"""

import logging
import os
import sqlite3
import threading
import traceback
import uuid

import psycopg
import pytest
from sqlalchemy import URL, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from cbk.appside.schema import ddl, grants
from cbk.edges.source import Source
from cbk.edges.source.tables import TEXT_MAX_CHARACTERS
from cbk.errors import SettingsError, SourceSchemaError, SourceUnavailable
from cbk.model import DeleteRow, SourceRow
from local_servers import free_port, wait_until

INSERT_FILE = (
    'INSERT INTO "ObjectStorageFiles" ("Name", "Path", "Storage", "Version", "Hash", "SignedDownloadUrl")'
    " VALUES (:name, :path, 's3', :version, 'digest', 'https://o.example/secret-link')"
)
OTHER_COLUMNS = '"Name" TEXT, "Path" TEXT, "Storage" TEXT, "Version" INTEGER, "Hash" TEXT, "SignedDownloadUrl" TEXT'
SECRETS = ("secret-link", "pass word", "pass%20word", "pass+word")


class Application:
    """The application's side of a database: it may do everything."""

    def __init__(self, dialect, url, reader_url):
        self.dialect = dialect
        self.url = url
        self.reader_url = reader_url
        self.engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)

    def run(self, sql, **parameters):
        with self.engine.connect() as connection:
            result = connection.execute(text(sql), parameters)
            return result.all() if result.returns_rows else []

    def script(self, sql):
        with self.engine.connect() as connection:
            cursor = connection.connection.driver_connection.cursor()
            getattr(cursor, "executescript", cursor.execute)(sql)
            cursor.close()

    def upload(self, name="a.png", path="cars/", version=1):
        self.run(INSERT_FILE, name=name, path=path, version=version)

    def delete(self, file_id):
        self.run('INSERT INTO "ObjectStorageDeleteLog" ("FileId") VALUES (:file_id)', file_id=file_id)

    def replace_files_table(self, columns):
        """Make the files table anew with Ids of another type, readable for the kit's user."""
        self.run('DROP TABLE "ObjectStorageFiles"')
        self.run(f'CREATE TABLE "ObjectStorageFiles" ({columns})')
        self.let_read()

    def let_read(self):
        if self.dialect == "postgresql":
            self.run("GRANT SELECT ON ALL TABLES IN SCHEMA public TO public")


@pytest.fixture
def sqlite_application(tmp_path):
    path = tmp_path / "app.db"
    application = Application("sqlite", f"sqlite:///{path}", f"sqlite:///{path}")
    application.script(ddl("sqlite"))
    return application


@pytest.fixture
def pg_application(postgres, pg_database):
    user = f"reader_{uuid.uuid4().hex[:8]}"
    application = Application("postgresql", postgres.url(pg_database), postgres.url(pg_database, user, "pass word"))
    application.script(ddl("postgresql"))
    application.script(grants("postgresql", user))
    yield application
    postgres.start()
    application.script(f'DROP OWNED BY "{user}"; DROP ROLE "{user}"')


@pytest.fixture(params=["sqlite", "postgresql"])
def application(request):
    return request.getfixturevalue({"sqlite": "sqlite_application", "postgresql": "pg_application"}[request.param])


@pytest.fixture
def source(application):
    reader = Source(application.reader_url)
    yield reader
    reader.close()


@pytest.fixture
def pg_source(pg_application):
    reader = Source(pg_application.reader_url, connect_timeout_seconds=5)
    yield reader
    reader.close()


@pytest.fixture
def sqlite_source(sqlite_application):
    return Source(sqlite_application.reader_url)


def ids_of(rows):
    return [row.id for row in rows]


def pages_of(source, limit):
    pages, last_id = [], None
    while page := source.rows_after(last_id, limit):
        pages.append(ids_of(page))
        last_id = page[-1].id
    return pages


def sessions_of_cbk(application):
    query = "SELECT state FROM pg_stat_activity WHERE application_name = 'cbk' AND datname = current_database()"
    return [state for (state,) in application.run(query)]


def assert_tells_no_secret(error):
    told = "".join(traceback.format_exception(error)) + repr(error) + str(error.hint)
    assert not [secret for secret in SECRETS if secret in told]


# Reading


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
    numbers = "WITH RECURSIVE numbers(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < 1201)"
    application.run(f"{numbers} {INSERT_FILE.partition(' VALUES')[0]} SELECT 'n', 'p', 's3', i, 'digest', 'link' FROM numbers")

    assert len(source.rows([str(number) for number in range(1, 1202)])) == 1201


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
        ("/", "/cars/id 1/ü.png"),
    ],
)
@pytest.mark.parametrize("key", ["cars/id 1/ü.png", "/cars/id 1/ü.png"])
def test_rows_of_key_finds_it_however_it_is_spelled(application, source, path, name, key):
    application.upload(path=path, name=name)

    assert ids_of(source.rows_of_key("s3", key)) == ["1"]


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


# What Ids there are


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
    blob = {"sqlite": "BLOB", "postgresql": "bytea"}[application.dialect]
    application.replace_files_table(f'"Id" {blob} PRIMARY KEY, {OTHER_COLUMNS}')
    for row_id in (b"\xff\x00", b"\x01"):
        application.run('INSERT INTO "ObjectStorageFiles" ("Id", "Name") VALUES (:id, :name)', id=row_id, name="x")

    assert pages_of(source, 1) == [["01"], ["ff00"]]
    assert source.row("ff00").id == "ff00"
    assert source.row("xyz") is None


@pytest.mark.parametrize("declared", ["", "NUMERIC", "GUID"])
@pytest.mark.parametrize(("kept", "expected"), [((2, 10), ["2", "10"]), (("b", "10x"), ["10x", "b"])])
def test_sqlite_ids_are_what_is_kept_whatever_was_declared(sqlite_application, sqlite_source, declared, kept, expected):
    sqlite_application.replace_files_table(
        f'"Id" {declared} PRIMARY KEY, "Name", "Path", "Storage", "Version", "Hash", "SignedDownloadUrl"'
    )
    for row_id in kept:
        sqlite_application.run('INSERT INTO "ObjectStorageFiles" ("Id") VALUES (:id)', id=row_id)

    assert pages_of(sqlite_source, 1) == [[row_id] for row_id in expected]


def test_rows_whose_id_is_of_another_kind_are_left_out_and_named_in_the_log(sqlite_application, sqlite_source, caplog):
    sqlite_application.replace_files_table('"Id" INT, "Name", "Path", "Storage", "Version", "Hash", "SignedDownloadUrl"')
    for row_id in (1, None, "odd", 2):
        sqlite_application.run('INSERT INTO "ObjectStorageFiles" ("Id") VALUES (:id)', id=row_id)

    with caplog.at_level(logging.WARNING):
        rows = sqlite_source.rows_after(None, 10)

    assert ids_of(rows) == ["1", "2"]
    assert caplog.messages == ["left out 1 rows of ObjectStorageFiles: their Id is not of kind integer"]


def test_rows_that_are_left_out_do_not_end_the_reading(sqlite_application, sqlite_source):
    sqlite_application.replace_files_table('"Id" TEXT, "Name", "Path", "Storage", "Version", "Hash", "SignedDownloadUrl"')
    for row_id in ("'a'", "'b'", "CAST(x'62ff' AS TEXT)", "'c'", "'d'"):
        sqlite_application.run(f'INSERT INTO "ObjectStorageFiles" ("Id") VALUES ({row_id})')

    assert pages_of(sqlite_source, 2) == [["a", "b"], ["c", "d"]]
    assert pages_of(sqlite_source, 3) == [["a", "b", "c"], ["d"]]


def test_page_of_rows_without_usable_ids_is_an_error(sqlite_application, sqlite_source):
    sqlite_application.replace_files_table('"Id" INT, "Name", "Path", "Storage", "Version", "Hash", "SignedDownloadUrl"')
    for row_id in (1, "odd", "odder"):
        sqlite_application.run('INSERT INTO "ObjectStorageFiles" ("Id") VALUES (:id)', id=row_id)

    with pytest.raises(SourceSchemaError, match='2 Ids of "ObjectStorageFiles" in a row are not of kind integer'):
        sqlite_source.rows_after("1", 2)


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


# Hostile and odd values


def test_nulls_come_through(application, source):
    application.replace_files_table(f'"Id" INTEGER PRIMARY KEY, {OTHER_COLUMNS}')
    application.run('INSERT INTO "ObjectStorageFiles" ("Id") VALUES (1)')

    (row,) = source.rows_after(None, 10)

    assert row == SourceRow(id="1", storage=None, path=None, name=None, version=None, hash=None, link=None)


def test_delete_that_names_nothing_comes_through(application, source):
    application.run('DROP TABLE "ObjectStorageDeleteLog"')
    application.run('CREATE TABLE "ObjectStorageDeleteLog" ("Id" INTEGER, "FileId" INTEGER)')
    application.let_read()
    application.run('INSERT INTO "ObjectStorageDeleteLog" VALUES (1, NULL)')

    assert source.deletes_after(None, 10) == [DeleteRow(id="1", file_id="")]


def test_sqlite_text_that_is_none_comes_as_bytes_and_the_page_goes_on(sqlite_application, sqlite_source):
    sqlite_application.upload(name="before")
    sqlite_application.run(INSERT_FILE.replace(":name", "CAST(x'ff41' AS TEXT)"), path="", version=1)
    sqlite_application.upload(name="a\0b")

    assert [row.name for row in sqlite_source.rows_after(None, 10)] == ["before", b"\xffA", "a\0b"]


def test_sqlite_values_of_any_type_come_through(sqlite_application, sqlite_source):
    sqlite_application.replace_files_table(
        '"Id" INTEGER, "Name", "Path", "Storage", "Version", "Hash", "SignedDownloadUrl", "CreatedAt" DATETIME'
    )
    sqlite_application.run("""INSERT INTO "ObjectStorageFiles" VALUES (1, 2, 3.5, x'00', 'v', NULL, '', 'yesterday')""")

    (row,) = sqlite_source.rows_after(None, 10)

    assert (row.name, row.path, row.storage, row.version, row.created_at) == (2, 3.5, b"\0", "v", "yesterday")


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "4713-01-01 BC", "20000-01-01"])
def test_postgresql_dates_that_python_lacks_come_through(pg_application, pg_source, moment):
    pg_application.upload()
    pg_application.run(f"""UPDATE "ObjectStorageFiles" SET "CreatedAt" = '{moment}'""")

    assert pg_source.rows_after(None, 10)[0].created_at.startswith(moment[:4])


def test_postgresql_text_is_cut_where_nothing_longer_is_accepted(pg_application, pg_source):
    pg_application.upload(name="x" * 100_000)

    assert len(pg_source.rows_after(None, 10)[0].name) == TEXT_MAX_CHARACTERS


def test_postgresql_enum_is_read_as_text(pg_application, pg_source):
    pg_application.run("CREATE TYPE storage AS ENUM ('s3', 'azure')")
    pg_application.run('ALTER TABLE "ObjectStorageFiles" ALTER "Storage" TYPE storage USING "Storage"::storage')
    pg_application.upload()

    assert [row.storage for row in pg_source.rows_of_key("s3", "cars/a.png")] == ["s3"]


def test_views_serve_as_tables(application, source):
    application.upload()
    application.run('ALTER TABLE "ObjectStorageFiles" RENAME TO "uploads"')
    application.run('CREATE VIEW "ObjectStorageFiles" AS SELECT * FROM "uploads"')
    application.let_read()

    assert ids_of(source.rows_after(None, 10)) == ["1"]


# What may be missing


def test_optional_columns_may_be_missing(application, source):
    for table, column in (
        ("ObjectStorageFiles", "ContentType"),
        ("ObjectStorageFiles", "CreatedAt"),
        ("ObjectStorageDeleteLog", "DeletedAt"),
    ):
        application.run(f'ALTER TABLE "{table}" DROP COLUMN "{column}"')
    application.upload()
    application.delete(1)

    assert source.check().missing_optional == (
        "ObjectStorageFiles.ContentType",
        "ObjectStorageFiles.CreatedAt",
        "ObjectStorageDeleteLog.DeletedAt",
    )
    assert source.row("1").created_at is None
    assert source.delete_row("1") == DeleteRow(id="1", file_id="1")


def test_check_looks_anew(application, source):
    assert source.check().missing_optional == ()

    application.run('ALTER TABLE "ObjectStorageDeleteLog" DROP COLUMN "DeletedAt"')

    assert source.check().missing_optional == ("ObjectStorageDeleteLog.DeletedAt",)


def test_content_type_is_read_where_there_is_one(application, source):
    application.upload()
    application.run("""UPDATE "ObjectStorageFiles" SET "ContentType" = 'image/png'""")

    assert source.row("1").content_type == "image/png"


def test_missing_required_columns_are_all_named(application, source):
    application.run('ALTER TABLE "ObjectStorageFiles" RENAME COLUMN "Hash" TO "hash2"')
    application.run('ALTER TABLE "ObjectStorageFiles" RENAME COLUMN "Version" TO "version"')

    with pytest.raises(SourceSchemaError) as missing:
        source.rows_after(None, 1)

    assert missing.value.message == (
        'the application\'s database has no column "Version" of "ObjectStorageFiles", no column "Hash" of "ObjectStorageFiles"'
    )
    assert f"cbk schema {application.dialect}" in missing.value.hint


def test_missing_tables_are_all_named(application, source):
    application.run('DROP TABLE "ObjectStorageFiles"')
    application.run('DROP TABLE "ObjectStorageDeleteLog"')

    with pytest.raises(SourceSchemaError, match=r'no table "ObjectStorageFiles", no table "ObjectStorageDeleteLog"$'):
        source.check()


def test_column_that_goes_away_under_us_is_an_error_once_it_is_back_all_is_well(application, source):
    application.upload()
    source.row("1")
    application.run('ALTER TABLE "ObjectStorageFiles" RENAME COLUMN "Hash" TO "hash2"')

    with pytest.raises(SourceSchemaError, match=r"ash|no such column"):
        source.row("1")
    with pytest.raises(SourceSchemaError, match='no column "Hash" of "ObjectStorageFiles"'):
        source.row("1")
    application.run('ALTER TABLE "ObjectStorageFiles" RENAME COLUMN "hash2" TO "Hash"')
    assert source.row("1").hash == "digest"


def test_column_that_comes_under_us_does_no_harm(application, source):
    application.upload()
    for _ in range(8):  # as often as it takes for a driver to prepare a statement
        source.row("1")
    application.run(
        'ALTER TABLE "ObjectStorageFiles" ALTER "Version" TYPE bigint' if application.dialect == "postgresql" else "SELECT 1"
    )
    application.run('ALTER TABLE "ObjectStorageFiles" ADD COLUMN "Extra" TEXT')

    assert source.row("1").version == 1


def test_user_without_grants_is_told_which_are_needed(postgres, pg_application):
    pg_application.run("CREATE ROLE nothing_granted LOGIN")
    reader = Source(postgres.url(pg_application.engine.url.database, "nothing_granted"))

    with pytest.raises(SourceSchemaError, match="denies reading: permission denied for table") as denied:
        reader.check()

    reader.close()
    pg_application.run("DROP ROLE nothing_granted")
    assert denied.value.hint == "`cbk schema postgresql` prints the grants that are needed"


# Never written


def test_user_of_the_printed_grants_may_not_write(pg_application, pg_source):
    assert pg_source.check().may_write is False
    with psycopg.connect(pg_application.reader_url.replace("+psycopg", "")) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.commit()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute('INSERT INTO "ObjectStorageDeleteLog" ("FileId") VALUES (1)')


@pytest.mark.parametrize("grant", ['DELETE ON "ObjectStorageFiles"', 'UPDATE ("SignedDownloadUrl") ON "ObjectStorageFiles"'])
def test_check_notices_a_grant_too_many(pg_application, pg_source, grant):
    pg_application.run(f"GRANT {grant} TO public")

    assert pg_source.check().may_write is True


def test_check_does_not_know_who_may_write_a_file(sqlite_source):
    assert sqlite_source.check().may_write is None


def test_session_is_read_only_even_for_who_may_write(application):
    owner = Source(application.url)
    with owner._session() as (connection, _), pytest.raises(DBAPIError, match=r"read-only|readonly"):
        connection.execute(text('INSERT INTO "ObjectStorageDeleteLog" ("FileId") VALUES (1)'))
    owner.close()

    assert application.run('SELECT count(*) FROM "ObjectStorageDeleteLog"') == [(0,)]


def test_options_of_the_url_are_kept_beside_ours(pg_application):
    owner = Source(f"{pg_application.url}?options=-c%20work_mem%3D12345kB")

    with owner._session() as (connection, _):
        settings = [connection.execute(text(f"SHOW {name}")).scalar() for name in ("work_mem", "default_transaction_read_only")]

    owner.close()
    assert settings == ["12345kB", "on"]


def test_session_makes_nothing_at_all(application, source):
    with source._session() as (connection, _), pytest.raises(DBAPIError, match=r"read-only|readonly"):
        connection.execute(text("CREATE TEMPORARY TABLE scratch (number INTEGER)"))


def test_no_transaction_stays_open_behind_a_question(pg_application, pg_source):
    with pg_source._session() as (connection, _):
        connection.execute(text("SELECT 1"))

        assert sessions_of_cbk(pg_application) == ["idle"]


# Away, slow, refusing


def test_database_that_is_away_is_unavailable_and_then_read_on(postgres, pg_application, pg_source):
    pg_application.upload()
    assert pg_source.latest_id() == "1"
    postgres.kill()

    with pytest.raises(SourceUnavailable, match="cannot be read") as away:
        pg_source.latest_id()

    assert_tells_no_secret(away.value)
    postgres.start()
    assert pg_source.latest_id() == "1"


def test_database_that_was_restarted_between_questions_is_read_on(postgres, pg_source):
    pg_source.latest_id()

    postgres.restart(immediate=True)

    assert pg_source.latest_id() is None


def test_session_that_is_ended_during_a_question_is_unavailable(pg_application, pg_source):
    end_sessions = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cbk' AND datname = current_database()"
    )

    def ask_while_sessions_end():
        with pg_source._session() as (connection, _):
            pg_application.run(end_sessions)
            connection.execute(text("SELECT 1"))

    with pytest.raises(SourceUnavailable):
        ask_while_sessions_end()

    assert pg_source.latest_id() is None


def test_postgresql_that_does_not_answer_in_time_is_unavailable(pg_application):
    reader = Source(pg_application.reader_url, statement_timeout_seconds=0.2)
    with psycopg.connect(pg_application.url.replace("+psycopg", "")) as connection:
        connection.execute("SET idle_in_transaction_session_timeout = '10s'")  # whatever happens, nobody waits for ever
        connection.execute('LOCK TABLE "ObjectStorageFiles" IN ACCESS EXCLUSIVE MODE')

        with pytest.raises(SourceUnavailable, match=r"did not answer within 0\.2 s$"):
            reader.latest_id()

    assert reader.latest_id() is None
    reader.close()


def test_sqlite_that_does_not_answer_in_time_is_unavailable(sqlite_application):
    sqlite_application.run('DROP TABLE "ObjectStorageFiles"')
    sqlite_application.run(
        'CREATE VIEW "ObjectStorageFiles" AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS "Id",'
        ' i AS "Name", i AS "Path", i AS "Storage", i AS "Version", i AS "Hash", i AS "SignedDownloadUrl" FROM n'
    )

    with pytest.raises(SourceUnavailable, match=r"did not answer within 0\.2 s$"):
        Source(sqlite_application.url, statement_timeout_seconds=0.2).row("-1")


def test_sqlite_that_is_locked_is_unavailable(sqlite_application, tmp_path):
    with sqlite3.connect(tmp_path / "app.db", isolation_level=None) as connection:
        connection.execute("BEGIN EXCLUSIVE")

        with pytest.raises(SourceUnavailable, match="database is locked"):
            Source(sqlite_application.url, connect_timeout_seconds=0.05).latest_id()

    connection.close()


def test_sqlite_in_wal_mode_is_read_while_the_application_writes(sqlite_application, sqlite_source):
    sqlite_application.run("PRAGMA journal_mode = WAL")
    with sqlite_application.engine.connect() as connection:
        connection.execute(text("BEGIN IMMEDIATE"))
        connection.execute(text(INSERT_FILE), {"name": "a", "path": "", "version": 1})
        assert sqlite_source.latest_id() is None
        connection.execute(text("COMMIT"))

        assert sqlite_source.latest_id() == "1"


def test_sqlite_file_that_is_not_there_is_unavailable_and_not_made(tmp_path):
    path = tmp_path / "missing.db"

    with pytest.raises(SourceUnavailable, match="unable to open database file") as missing:
        Source(f"sqlite:///{path}").check()

    assert missing.value.hint.startswith("check the path in CBK_SOURCE_URL")
    assert not path.exists()


def test_sqlite_path_may_hold_what_means_something_in_an_address(tmp_path):
    path = tmp_path / "a?b#c%20d ü.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(ddl("sqlite"))
    connection.close()

    assert Source(str(URL.create("sqlite", database=str(path)))).latest_id() is None


def test_file_that_is_no_database_is_unavailable(tmp_path):
    path = tmp_path / "app.db"
    path.write_bytes(b"not a database" * 100)

    with pytest.raises(SourceUnavailable, match="file is not a database"):
        Source(f"sqlite:///{path}").check()


def test_database_that_refuses_the_user_is_unavailable_with_a_hint(postgres, pg_application):
    url = postgres.url(pg_application.engine.url.database, "nobody_we_know", "pass word")

    with pytest.raises(SourceUnavailable, match="does not exist") as refused:
        Source(url).check()

    assert refused.value.hint == "check the user, the password and the database in CBK_SOURCE_URL"
    assert_tells_no_secret(refused.value)


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_server_that_is_not_there_is_unavailable(scheme):
    url = f"{scheme}://cbk:pass%20word@127.0.0.1:{free_port()}/app"
    with pytest.raises(SourceUnavailable, match="cannot be read") as away:
        Source(url, connect_timeout_seconds=2).check()

    assert_tells_no_secret(away.value)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("secret-link", "CBK_SOURCE_URL: expected a database URL"),
        (
            "oracle://cbk:pass%20word@host/app",
            "CBK_SOURCE_URL: no support for oracle: expected postgresql, mysql, mariadb or sqlite",
        ),
        ("sqlite://", "CBK_SOURCE_URL: expected the path of a SQLite file"),
        ("sqlite:///:memory:", "CBK_SOURCE_URL: expected the path of a SQLite file"),
    ],
)
def test_url_that_leads_nowhere_is_a_setting_to_mend(url, problem):
    with pytest.raises(SettingsError) as wrong:
        Source(url)

    assert wrong.value.problems == (problem,)
    assert_tells_no_secret(wrong.value)


def test_driver_that_is_not_installed_is_a_setting_to_mend():
    with pytest.raises(SettingsError, match="CBK_SOURCE_URL: the driver psycopg2 is not installed"):
        Source("postgresql+psycopg2://cbk@host/app").latest_id()


def test_url_of_heroku_and_others_is_understood(postgres, pg_database):
    reader = Source(postgres.url(pg_database).replace("postgresql+psycopg", "postgres"))

    with pytest.raises(SourceSchemaError, match="no table"):
        reader.check()

    reader.close()
