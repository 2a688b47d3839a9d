"""Hostile and odd values, and tables that are not quite those of the contract."""

import pytest

from cbk.edges.source import Source
from cbk.edges.source.tables import TEXT_MAX_CHARACTERS
from cbk.errors import SourceSchemaError
from cbk.model import DeleteRow, SourceRow
from tests.integration.source.application import INSERT_FILE, OTHER_COLUMNS, ids_of

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
