"""The recorder on real databases, through SQLAlchemy and through the drivers: transactions, threads, versions."""

import hashlib
import io
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pymysql
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from cbk_app.errors import AppUsageError
from cbk_app.recorder import Hashing, Recorder, refresh_link
from cbk_app.rows import RowReader
from cbk_app.schema import FILES
from tests.integration.appside.conftest import spelled

SHA256 = hashlib.sha256(b"abc").hexdigest()
KEY = "cars/id-1/a.png"


@pytest.fixture
def recorder():
    return Recorder(storage="s3", link=lambda key: f"https://app.example.com/{key}")


@contextmanager
def sqlalchemy_connection(engine):
    with engine.begin() as connection:
        yield connection


@contextmanager
def orm_session(engine):
    with Session(engine) as session, session.begin():
        yield session


@contextmanager
def driver_connection(engine):
    """What the driver itself gives, with a transaction round it."""
    if engine.dialect.name == "sqlite":
        connection = sqlite3.connect(engine.url.database, timeout=30)
        try:
            with connection:
                yield connection
        finally:
            connection.close()
    elif engine.dialect.name == "mysql":
        url = engine.url
        with pymysql.connect(
            host=url.host, port=url.port, user=url.username, password=url.password, database=url.database
        ) as connection:
            yield connection
            connection.commit()
    else:
        url = engine.url
        with psycopg.connect(host=url.host, port=url.port, user=url.username, dbname=url.database) as connection:
            yield connection


HANDS = [sqlalchemy_connection, orm_session, driver_connection]


@pytest.fixture(params=HANDS, ids=lambda each: each.__name__)
def opened(request, engine):
    """A function that opens a transaction one way or another."""
    return lambda: request.param(engine)


def pytest_generate_tests(metafunc):
    """Every test runs on each database."""
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", ["sqlite", "postgresql", "mariadb"], indirect=True)


def test_an_upload_becomes_a_row(opened, recorder, rows_of):
    with opened() as connection:
        recorded = recorder.record_upload(connection, KEY, b"abc", content_type="image/png")

    (row,) = rows_of()
    assert row.pop("CreatedAt") is not None
    assert row == {
        "Id": recorded.id,
        "Name": "a.png",
        "Path": "cars/id-1/",
        "Storage": "s3",
        "Version": 1,
        "Hash": SHA256,
        "SignedDownloadUrl": f"https://app.example.com/{KEY}",
        "ContentType": "image/png",
    }


def test_an_upload_of_the_same_key_is_the_next_version(opened, recorder, rows_of):
    for content in (b"1", b"2", b"3"):
        with opened() as connection:
            recorder.record_upload(connection, KEY, content)
    with opened() as connection:
        recorder.record_upload(connection, "cars/id-2/a.png", b"1")

    assert [(row["Path"], row["Version"]) for row in rows_of()] == [
        ("cars/id-1/", 1),
        ("cars/id-1/", 2),
        ("cars/id-1/", 3),
        ("cars/id-2/", 1),
    ]


def test_versions_go_on_from_rows_that_split_the_key_elsewhere(engine, opened, recorder):
    insert = """INSERT INTO "ObjectStorageFiles" ("Storage", "Path", "Name", "Version", "Hash", "SignedDownloadUrl")
        VALUES ('s3', '/cars', 'id-1/a.png', 7, NULL, '')"""
    with engine.begin() as connection:
        connection.execute(spelled(engine, insert))
    with opened() as connection:
        assert recorder.record_upload(connection, KEY, b"abc").version == 8


def test_twenty_threads_that_save_one_key_at_once_make_twenty_versions(opened, recorder, rows_of):
    begin = threading.Barrier(20)

    def save(number):
        begin.wait()
        with opened() as connection:
            recorder.record_upload(connection, KEY, str(number).encode())

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(save, range(20)))

    rows = rows_of()
    assert sorted(row["Version"] for row in rows) == list(range(1, 21))
    assert len({row["Hash"] for row in rows}) == 20


def test_a_transaction_that_sees_the_past_goes_on_past_it(postgres, pg_database, recorder):
    """With REPEATABLE READ a version that was taken since is never seen."""
    engine = create_engine(postgres.url(pg_database), isolation_level="REPEATABLE READ")
    FILES.metadata.create_all(engine)
    with engine.begin() as early:
        early.execute(text('SELECT 1 FROM "ObjectStorageFiles"')).all()
        for _ in range(3):
            with engine.begin() as other:
                recorder.record_upload(other, KEY, b"other")
        early.execute(text("CREATE TABLE beside (n int)"))
        assert recorder.record_upload(early, KEY, b"mine").version == 4
    with engine.connect() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM beside")).scalar() == 0
    engine.dispose()


def test_a_row_falls_with_the_transaction_of_the_application(opened, recorder, rows_of):
    def fail():
        with opened() as connection:
            recorder.record_upload(connection, KEY, b"abc")
            raise RuntimeError("the application changed its mind")

    with pytest.raises(RuntimeError):
        fail()
    assert rows_of() == []


def test_what_passes_through_is_hashed(opened, recorder):
    body = Hashing(io.BytesIO(b"a" * 100_000))
    while body.read(4096):
        pass
    with opened() as connection:
        assert recorder.record_upload(connection, KEY, body).hash == hashlib.sha256(b"a" * 100_000).hexdigest()


def test_a_stream_that_was_not_read_to_its_end_has_no_hash(opened, recorder, rows_of):
    body = Hashing(io.BytesIO(b"a" * 100))
    body.read(99)
    with opened() as connection, pytest.raises(ValueError, match="only 99 bytes"):
        recorder.record_upload(connection, KEY, body)
    assert rows_of() == []


def test_boto_uploads_what_is_hashed(opened, recorder, s3, bucket):
    content = b"b" * 9_000_000  # more than one part
    body = Hashing(io.BytesIO(content))
    s3.client().upload_fileobj(body, bucket, KEY)
    with opened() as connection:
        assert recorder.record_upload(connection, KEY, body).hash == hashlib.sha256(content).hexdigest()
    assert s3.client().get_object(Bucket=bucket, Key=KEY)["Body"].read() == content


def test_a_hash_that_the_application_has_is_taken(opened, recorder, rows_of):
    with opened() as connection:
        recorder.record_upload(connection, KEY, hash=f"sha256:{SHA256.upper()}")
    assert [row["Hash"] for row in rows_of()] == [SHA256]


@pytest.mark.parametrize("given", ["etag", None])
def test_what_is_no_hash_is_refused(opened, recorder, given):
    with opened() as connection, pytest.raises(ValueError, match="hash"):
        recorder.record_upload(connection, KEY, hash=given)


def test_a_delete_names_the_newest_row(opened, recorder, rows_of):
    with opened() as connection:
        recorder.record_upload(connection, KEY, b"1")
        newest = recorder.record_upload(connection, KEY, b"2")
        recorder.record_upload(connection, KEY, b"0", version=0)
        log_id = recorder.record_delete(connection, KEY)

    (row,) = rows_of("ObjectStorageDeleteLog")
    assert row.pop("DeletedAt") is not None
    assert row == {"Id": log_id, "FileId": newest.id}


def test_a_delete_of_what_was_never_recorded_says_so(opened, recorder):
    with opened() as connection, pytest.raises(LookupError, match="no row of s3/cars"):
        recorder.record_delete(connection, KEY)


def test_a_version_that_is_there_is_refused_and_the_transaction_with_it(opened, recorder, rows_of):
    def twice():
        with opened() as connection:
            recorder.record_upload(connection, KEY, b"1", version=3)
            recorder.record_upload(connection, KEY, b"2", version=3)

    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        twice()
    assert rows_of() == []


def test_tables_without_the_optional_columns_will_do(tmp_path, recorder):
    engine = create_engine(f"sqlite:///{tmp_path / 'bare.db'}")
    FILES.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(text('ALTER TABLE "ObjectStorageFiles" DROP COLUMN "ContentType"'))
        connection.execute(text('ALTER TABLE "ObjectStorageFiles" DROP COLUMN "CreatedAt"'))
    with engine.begin() as connection:
        assert recorder.record_upload(connection, KEY, b"abc").version == 1
    engine.dispose()


def test_rows_are_dated_in_utc_whatever_the_zone_of_the_database(engine, recorder):
    zone = {"mysql": "SET time_zone = '+05:00'", "postgresql": "SET LOCAL TIME ZONE 'Asia/Karachi'"}.get(engine.dialect.name)
    with engine.connect() as connection:
        if zone:
            connection.exec_driver_sql(zone)
        recorder.record_upload(connection, KEY, b"1")
        recorder.record_delete(connection, KEY)
        row = RowReader(connection).newest("s3", [KEY])[KEY]
        connection.commit()
        connection.invalidate()  # with its zone
    assert [abs(datetime.now(UTC) - at) < timedelta(hours=1) for at in (row.created_at, row.deleted_at)] == [True, True]


def test_a_fresh_link_changes_the_one_row(opened, recorder, rows_of):
    with opened() as connection:
        first = recorder.record_upload(connection, KEY, b"1")
        second = recorder.record_upload(connection, KEY, b"2")
        refresh_link(connection, second.id, "https://app.example.com/fresh")

    links = {row["Id"]: row["SignedDownloadUrl"] for row in rows_of()}
    assert links == {first.id: f"https://app.example.com/{KEY}", second.id: "https://app.example.com/fresh"}


def test_a_fresh_link_of_a_row_that_is_gone_says_so(opened):
    with opened() as connection, pytest.raises(LookupError, match="no row with Id 7"):
        refresh_link(connection, 7, "https://app.example.com/fresh")


def test_what_is_no_connection_is_refused(recorder):
    with pytest.raises(AppUsageError, match=r"cannot write rows through a _io\.BytesIO"):
        recorder.record_upload(io.BytesIO(), KEY, b"abc")
