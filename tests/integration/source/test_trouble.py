"""Never written, and read on whatever happened: a database that is away, slow, refusing or restarted."""

import sqlite3
import sys
from contextlib import closing

import psycopg
import pytest
from sqlalchemy import URL, column, insert, table, text
from sqlalchemy.exc import DBAPIError

from cbk.edges.source import Source
from cbk.errors import SettingsError, SourceSchemaError, SourceUnavailable
from cbk_app.schema import ddl
from local_servers import free_port
from tests.integration.source.application import INSERT_FILE, assert_tells_no_secret, sessions_of_cbk

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
    statement = insert(table("ObjectStorageDeleteLog", column("FileId"))).values(FileId=1)
    with owner._session() as (connection, _), pytest.raises(DBAPIError, match=r"(?i)read.?only"):
        connection.execute(statement)
    owner.close()

    assert application.run('SELECT count(*) FROM "ObjectStorageDeleteLog"') == [(0,)]


def test_options_of_the_url_are_kept_beside_ours(pg_application):
    owner = Source(f"{pg_application.url}?options=-c%20work_mem%3D12345kB")

    with owner._session() as (connection, _):
        settings = [connection.execute(text(f"SHOW {name}")).scalar() for name in ("work_mem", "default_transaction_read_only")]

    owner.close()
    assert settings == ["12345kB", "on"]


def test_session_makes_nothing_at_all(application, source):
    with source._session() as (connection, _), pytest.raises(DBAPIError, match=r"(?i)read.?only"):
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
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as connection, connection:
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
    with closing(sqlite3.connect(path)) as connection, connection:
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


def test_driver_that_is_not_installed_is_a_setting_to_mend(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(SettingsError, match="CBK_SOURCE_URL: the driver pymysql is not installed"):
        Source("mysql://cbk@host/app").latest_id()


def test_url_of_heroku_and_others_is_understood(postgres, pg_database):
    reader = Source(postgres.url(pg_database).replace("postgresql+psycopg", "postgres"))

    with pytest.raises(SourceSchemaError, match="no table"):
        reader.check()

    reader.close()
