"""The application's side, on the databases that can be had here: what `cbk schema` prints makes tables that the recorder fills."""

import pytest
from sqlalchemy import create_engine, text

from cbk.appside.recorder import record_delete, record_upload, refresh_link
from cbk.appside.schema import ddl

DIGEST = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'app.db'}"
    else:
        url = request.getfixturevalue("postgres").url(request.getfixturevalue("pg_database"))
    engine = create_engine(url)
    with engine.begin() as connection:
        for statement in ddl(request.param).split(";"):
            if statement.strip():
                connection.execute(text(statement))
    yield engine
    engine.dispose()


def upload(connection, **overrides):
    values = {"storage": "s3", "path": "cars/id-1/", "name": "a.png", "version": 1, "sha256": DIGEST, "link": "https://o.example/1"}
    return record_upload(connection, **values | overrides)


def rows_of(database, table):
    with database.connect() as connection:
        return [dict(row) for row in connection.execute(text(f'SELECT * FROM "{table}" ORDER BY "Id"')).mappings()]


def test_record_upload_writes_the_row_and_returns_its_id(database):
    with database.begin() as connection:
        file_id = upload(connection, sha256=DIGEST.upper(), content_type="image/png")

    (row,) = rows_of(database, "ObjectStorageFiles")
    assert row.pop("CreatedAt") is not None
    assert row == {
        "Id": file_id,
        "Name": "a.png",
        "Path": "cars/id-1/",
        "Storage": "s3",
        "Version": 1,
        "Hash": DIGEST,
        "SignedDownloadUrl": "https://o.example/1",
        "ContentType": "image/png",
    }


def test_record_upload_numbers_rows_upwards(database):
    with database.begin() as connection:
        first, second = upload(connection), upload(connection, version=2)

    assert second > first


def test_record_upload_works_without_the_optional_columns(database):
    with database.begin() as connection:
        connection.execute(text('ALTER TABLE "ObjectStorageFiles" DROP COLUMN "ContentType"'))
        connection.execute(text('ALTER TABLE "ObjectStorageFiles" DROP COLUMN "CreatedAt"'))
        upload(connection)

    assert len(rows_of(database, "ObjectStorageFiles")) == 1


@pytest.mark.parametrize("digest", ["", "x" * 64, DIGEST[:-1], f"{DIGEST}\n"])
def test_record_upload_refuses_what_is_no_hash(database, digest):
    with database.begin() as connection, pytest.raises(ValueError, match="64 hex digits"):
        upload(connection, sha256=digest)


def test_record_upload_falls_with_the_transaction_of_the_application(database):
    def fail_after_recording():
        with database.begin() as connection:
            upload(connection)
            raise RuntimeError("the application changed its mind")

    with pytest.raises(RuntimeError):
        fail_after_recording()

    assert rows_of(database, "ObjectStorageFiles") == []


def test_record_delete_names_the_row(database):
    with database.begin() as connection:
        log_id = record_delete(connection, 42)

    (row,) = rows_of(database, "ObjectStorageDeleteLog")
    assert row.pop("DeletedAt") is not None
    assert row == {"Id": log_id, "FileId": 42}


def test_refresh_link_changes_the_one_row(database):
    with database.begin() as connection:
        first, second = upload(connection), upload(connection, version=2)
        refresh_link(connection, second, "https://o.example/fresh")

    links = {row["Id"]: row["SignedDownloadUrl"] for row in rows_of(database, "ObjectStorageFiles")}
    assert links == {first: "https://o.example/1", second: "https://o.example/fresh"}


def test_refresh_link_of_a_row_that_is_gone_says_so(database):
    with database.begin() as connection, pytest.raises(LookupError, match="no row with Id 7"):
        refresh_link(connection, 7, "https://o.example/fresh")
