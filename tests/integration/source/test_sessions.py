"""What the server, the database or the role is set to changes nothing of what is read."""

import sys
import uuid

import pymysql
import pytest

from cbk.edges.source import Source
from cbk.edges.source.errors import source_errors
from cbk.errors import SourceUnavailable
from cbk_app.schema import ddl
from tests.integration.source.application import INSERT_FILE, OTHER_COLUMNS, Application, pages_of

ODD_TEXT = "convert_from('\\xff41', 'SQL_ASCII')"


@pytest.fixture
def ascii_application(postgres):
    """An application whose database takes any bytes for text."""
    name = f"ascii_{uuid.uuid4().hex}"
    postgres.start().execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C'")
    application = Application("postgresql", f"{postgres.url(name)}?client_encoding=utf8", postgres.url(name))
    application.script(ddl("postgresql"))
    yield application
    application.engine.dispose()
    postgres.start().execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def ascii_source(ascii_application):
    reader = Source(ascii_application.reader_url)
    yield reader
    reader.close()


def test_settings_of_a_postgresql_database_do_not_change_what_is_read(pg_application, pg_source):
    pg_application.upload(name="ü€")
    pg_application.run("""UPDATE "ObjectStorageFiles" SET "CreatedAt" = '2026-11-05 23:30:00+00'""")
    database = pg_application.engine.url.database
    settings = {
        "datestyle": "'German, DMY'",
        "timezone": "'Asia/Tokyo'",
        "client_encoding": "'LATIN1'",
        "bytea_output": "'escape'",
        "intervalstyle": "'iso_8601'",
        "extra_float_digits": "-10",
        "standard_conforming_strings": "off",
    }
    for name, value in settings.items():
        pg_application.run(f'ALTER DATABASE "{database}" SET {name} = {value}')

    (row,) = pg_source.rows_after(None, 10)

    assert (row.name, row.created_at) == ("ü€", "2026-11-05 23:30:00+00")
    assert pg_source.unreadable() == []


def test_floats_are_told_apart_whatever_the_database_prints(pg_application, pg_source):
    database = pg_application.engine.url.database
    pg_application.run(f'ALTER DATABASE "{database}" SET extra_float_digits = -10')
    pg_application.replace_files_table(f'"Id" DOUBLE PRECISION PRIMARY KEY, {OTHER_COLUMNS}')
    pg_application.add_rows("0.1", "0.10000000000000002")

    assert pages_of(pg_source, 1) == [["0.1"], ["0.10000000000000002"]]


def test_text_that_is_no_utf8_is_bytes_and_the_page_goes_on(ascii_application, ascii_source):
    ascii_application.upload(name="ü")
    ascii_application.run(INSERT_FILE.replace(":name", ODD_TEXT), path="", version=1)
    ascii_application.upload(name="after")

    assert [row.name for row in ascii_source.rows_after(None, 10)] == ["ü", b"\xffA", "after"]


def test_id_that_is_no_utf8_names_its_row(ascii_application, ascii_source):
    ascii_application.replace_files_table(f'"Id" TEXT PRIMARY KEY, {OTHER_COLUMNS}')
    ascii_application.replace_deletes_table('"Id" BIGINT PRIMARY KEY, "FileId" TEXT')
    ascii_application.add_rows(ODD_TEXT, "'ü'", "'bytes:ff41'", "'text:bytes:ff41'", "'text:a'")
    ascii_application.run(f'INSERT INTO "ObjectStorageDeleteLog" VALUES (1, {ODD_TEXT})')

    ids = [row_id for page in pages_of(ascii_source, 2) for row_id in page]

    assert sorted(ids) == ["bytes:ff41", "text:a", "text:bytes:ff41", "text:text:bytes:ff41", "ü"]
    assert set(ascii_source.rows(ids)) == ascii_source.existing(ids) == set(ids)
    assert ascii_source.delete_row(1).file_id == "bytes:ff41"


def test_settings_of_a_mysql_server_do_not_change_what_is_read(mysql_application, mysql_source):
    mysql_application.replace_files_table(f'"Id" CHAR(5) PRIMARY KEY, "CreatedAt" TIMESTAMP NULL, {OTHER_COLUMNS}')
    mysql_application.run("SET time_zone = '+00:00'")
    mysql_application.add_rows("'a'", "'b'", "'it''s'", r"'\\'")
    server = {
        "sql_mode": "'PAD_CHAR_TO_FULL_LENGTH,ANSI_QUOTES,NO_BACKSLASH_ESCAPES,NO_ZERO_DATE,STRICT_ALL_TABLES'",
        "time_zone": "'+05:00'",
        "sql_select_limit": "1",
    }
    before = {name: mysql_application.run(f"SELECT @@GLOBAL.{name}")[0][0] for name in server}
    for name, value in server.items():
        mysql_application.run(f"SET GLOBAL {name} = {value}")

    try:
        found = sorted(mysql_source.rows(["a", "b", "it's", "\\"]))
        pages = pages_of(mysql_source, 2)
    finally:
        for name, value in before.items():
            mysql_application.run(f"SET GLOBAL {name} = {value!r}")

    assert found == sorted(row_id for page in pages for row_id in page) == ["\\", "a", "b", "it's"]


def test_mysql_dates_are_read_in_utc_and_as_they_are_kept(mysql_application, mysql_source):
    mysql_application.upload()
    mysql_application.run("""SET sql_mode = 'ANSI_QUOTES'; UPDATE "ObjectStorageFiles" SET "CreatedAt" = '0000-00-00 00:00:00'""")

    assert mysql_source.row(1).created_at.startswith("0000-00-00 00:00:00")


def test_login_of_mysql_without_cryptography_names_the_package(monkeypatch):
    monkeypatch.setattr(pymysql._auth, "_have_cryptography", False)

    assert_is_named("cryptography", lambda: pymysql._auth.sha2_rsa_encrypt(b"password", b"salt", b""))


def test_login_of_mariadb_without_pynacl_names_the_package(monkeypatch):
    monkeypatch.setattr(pymysql._auth, "_nacl_bindings", False)
    monkeypatch.setitem(sys.modules, "nacl", None)

    assert_is_named("pynacl", lambda: pymysql._auth.ed25519_password(b"password", b"salt"))


def assert_is_named(package, log_in):
    with pytest.raises(SourceUnavailable) as missing, source_errors(None, statement_seconds=1):
        log_in()

    assert missing.value.message == f"the login of this server needs the package {package}, which is not installed"
    assert missing.value.hint == "pip install 'cloud-backup-kit[mysql]' brings it"
