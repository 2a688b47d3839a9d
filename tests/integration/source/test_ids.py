"""Every row has a text that names it alone, whatever its Id is, and no page leaves one out."""

import uuid

import pytest
from sqlalchemy.exc import NotSupportedError

from tests.integration.source.application import OTHER_COLUMNS, ids_of, pages_of

A_UUID = "1ff7f0ca-0000-4000-8000-00000000000a"
PLAIN_COLUMNS = '"Name", "Path", "Storage", "Version", "Hash", "SignedDownloadUrl"'
BIG = 2**63


def all_of(source, limit=2):
    return [row_id for page in pages_of(source, limit) for row_id in page]


def assert_each_is_found(source, ids):
    assert set(source.rows(ids)) == set(ids)
    assert source.existing([*ids, "no-such-id"]) == set(ids)
    assert [ids_of(source.rows_after(row_id, 1)) for row_id in ids] == [[row_id] for row_id in ids[1:]] + [[]]


# Numbers


@pytest.mark.parametrize("number", [-BIG, -1, 0, 1, BIG - 1])
def test_integer_of_64_bits_is_an_id(application, source, number):
    application.replace_files_table(f'"Id" BIGINT PRIMARY KEY, {OTHER_COLUMNS}')
    application.add_rows(number)

    assert ids_of(source.rows_after(None, 10)) == [str(number)]
    assert ids_of(source.rows_after(number - 1, 10)) == ([] if number == -BIG else [str(number)])
    assert source.row(number).id == source.latest_id() == str(number)


def test_numeric_of_38_digits_is_an_id(pg_application, pg_source):
    numbers = [-(10**38) + 1, -BIG - 1, 0, BIG, 2 * BIG - 1, 10**38 - 1]
    pg_application.replace_files_table(f'"Id" NUMERIC(38, 0) PRIMARY KEY, {OTHER_COLUMNS}')
    pg_application.add_rows(*numbers)

    assert all_of(pg_source) == [str(number) for number in numbers]
    assert_each_is_found(pg_source, [str(number) for number in numbers])
    assert pg_source.ids_are_ordered()
    assert pg_source.latest_id() == str(10**38 - 1)


def test_numeric_with_decimals_is_a_whole_number_or_no_id(pg_application, pg_source):
    pg_application.replace_files_table(f'"Id" NUMERIC(10, 2), {OTHER_COLUMNS}')
    pg_application.add_rows(1, 1.5, "'NaN'", 2, 2.25, 3)

    assert all_of(pg_source, 1) == ["1", "2", "3"]
    assert pg_source.fingerprint().unaddressable == 3


def test_smallint_takes_no_number_that_it_cannot_hold(pg_application, pg_source):
    pg_application.replace_files_table(f'"Id" SMALLINT PRIMARY KEY, {OTHER_COLUMNS}')
    pg_application.add_rows(-5, 7)

    assert pg_source.rows([100_000, BIG, "7"]).keys() == {"7"}
    assert ids_of(pg_source.rows_after(-100_000, 5)) == ["-5", "7"]
    assert pg_source.rows_after(100_000, 5) == []


# PostgreSQL's own types


@pytest.mark.parametrize(
    ("base", "wanted"),
    [
        ("uuid", [str(uuid.UUID(int=number)) for number in (1, 2, 3)]),
        ("bigint", ["-5", "9", str(BIG - 1)]),
        ("numeric(20, 0)", ["-5", "9", str(2 * BIG - 1)]),
        ("text", ["9", "b", "ü"]),
        ("varchar(10)", ["9", "b", "ü"]),
    ],
)
@pytest.mark.parametrize("depth", [1, 2])
def test_domain_is_read_as_what_it_is_made_of(pg_application, pg_source, base, wanted, depth):
    pg_application.run(f"CREATE DOMAIN own1 AS {base} NOT NULL")
    pg_application.run("CREATE DOMAIN own2 AS own1")
    pg_application.replace_files_table(f'"Id" own{depth} PRIMARY KEY, {OTHER_COLUMNS}')
    pg_application.add_rows(*(f"'{row_id}'" for row_id in wanted))

    assert all_of(pg_source) == wanted
    assert_each_is_found(pg_source, wanted)
    assert pg_source.ids_are_ordered() is (wanted[0] == "-5")


@pytest.mark.parametrize(
    ("column_type", "wanted"),
    [
        ("mood", ["happy", "sad", "so-so"]),
        ("double precision", ["-0.1", "1e+300", "5"]),
        ("timestamptz", ["2026-01-01 00:00:00+00", "2026-01-02 00:00:00.5+00", "infinity"]),
        ("inet", ["10.0.0.1/32", "::1/128"]),
        ("oid", ["10", "4294967295", "9"]),
        ("boolean", ["false", "true"]),
        ("int[]", ["{1,2}", "{1}"]),
    ],
)
def test_any_other_type_is_compared_as_the_text_that_the_database_prints(pg_application, pg_source, column_type, wanted):
    pg_application.run("CREATE TYPE mood AS ENUM ('sad', 'so-so', 'happy')")
    pg_application.replace_files_table(f'"Id" {column_type} PRIMARY KEY, {OTHER_COLUMNS}')
    pg_application.add_rows(*(f"'{row_id}'" for row_id in wanted))

    assert all_of(pg_source) == wanted
    assert_each_is_found(pg_source, wanted)


def test_spaces_at_the_end_of_a_char_mean_nothing(pg_application, pg_source):
    pg_application.replace_files_table(f'"Id" CHAR(5) PRIMARY KEY, {OTHER_COLUMNS}')
    pg_application.add_rows("'a'", "'b'")

    assert all_of(pg_source, 1) == ["a", "b"]
    assert_each_is_found(pg_source, ["a", "b"])


def test_ids_that_a_collation_takes_for_equal_are_all_read(pg_application, pg_source):
    try:
        pg_application.run("CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    except NotSupportedError:
        pytest.skip("this PostgreSQL was built without ICU, and has no collation that takes different texts for equal")
    pg_application.replace_files_table(f'"Id" TEXT COLLATE loose, {OTHER_COLUMNS}')
    spellings = ["abc", "ABC", "Abc", "aBC"]
    pg_application.add_rows("'a'", *(f"'{spelling}'" for spelling in spellings), "'b'", "'B'", "'c'")

    assert sorted(all_of(pg_source, 1)) == sorted(["a", *spellings, "b", "B", "c"])
    assert sorted(all_of(pg_source, 3)) == sorted(["a", *spellings, "b", "B", "c"])
    assert pg_source.rows(["ABC"]).keys() == pg_source.existing(["ABC"]) == {"ABC"}


def test_rows_of_one_id_share_a_page(application, source):
    application.replace_files_table(f'"Id" INTEGER, {OTHER_COLUMNS}')
    application.add_rows(1, 2, 2, 2, 3)

    assert pages_of(source, 2) == [["1", "2", "2", "2"], ["3"]]
    assert len(all_of(source, 3)) == 5


def test_tables_that_inherit_vouch_for_no_unique_id(pg_application, pg_source):
    pg_application.run('CREATE TABLE older () INHERITS ("ObjectStorageFiles")')
    pg_application.upload()
    pg_application.run('INSERT INTO older SELECT * FROM ONLY "ObjectStorageFiles"')
    pg_application.let_read()

    assert ids_of(pg_source.rows_after(None, 10)) == ["1", "1"]
    assert [doubt.kind for doubt in pg_source.duplicates()] == ["duplicate-id"]


# MariaDB's own types


@pytest.mark.parametrize(
    ("column_type", "values", "wanted"),
    [
        ("BIGINT UNSIGNED PRIMARY KEY", [0, 5, BIG, 2 * BIG - 1], ["0", "5", str(BIG), str(2 * BIG - 1)]),
        ("DECIMAL(38, 0) PRIMARY KEY", [1 - 10**38, -5, 10**38 - 1], [str(1 - 10**38), "-5", str(10**38 - 1)]),
        ("DECIMAL(10, 2)", [1, 1.5, 2], ["1", "2"]),
        ("BIT(64) PRIMARY KEY", [5, 2 * BIG - 1], ["5", str(2 * BIG - 1)]),
        ("uuid PRIMARY KEY", [f"'{A_UUID.upper()}'"], [A_UUID]),
        ("BINARY(4) PRIMARY KEY", ["x'00ff00ff'", "x'ff00ff00'"], ["00ff00ff", "ff00ff00"]),
        ("CHAR(36) PRIMARY KEY", ["'B'", "'a'", "'c'"], ["a", "B", "c"]),
        ("VARCHAR(36) CHARACTER SET latin1 PRIMARY KEY", ["'a'", "'ü'", "'z'"], ["a", "ü", "z"]),
        ("ENUM('b', 'a', 'c') PRIMARY KEY", ["'b'", "'a'", "'c'"], ["a", "b", "c"]),
        ("DOUBLE PRIMARY KEY", ["0.1", "1e300", "5"], ["0.1", "1e300", "5"]),
        ("VARCHAR(36) PRIMARY KEY", [r"'a\0b'", "'it''s'", r"'\\'"], ["a\0b", "it's", "\\"]),
    ],
)
def test_mariadb_column_is_read_wholly(mysql_application, mysql_source, column_type, values, wanted):
    mysql_application.replace_files_table(f'"Id" {column_type}, {OTHER_COLUMNS}')
    mysql_application.add_rows(*values)

    assert all_of(mysql_source) == wanted
    assert_each_is_found(mysql_source, wanted)


@pytest.mark.parametrize("collation", ["utf8mb4_general_ci", "utf8mb4_bin"])
def test_mariadb_ids_that_a_collation_takes_for_equal_are_all_read(mysql_application, mysql_source, collation):
    mysql_application.replace_files_table(f'"Id" VARCHAR(36) COLLATE {collation}, {OTHER_COLUMNS}')
    spellings = ["a", "A", "b", "a ", "B", "é", "e"]
    mysql_application.add_rows(*(f"'{spelling}'" for spelling in spellings))

    assert sorted(all_of(mysql_source, 1)) == sorted(spellings)
    assert mysql_source.existing(["A", "E"]) == {"A"}


@pytest.mark.parametrize(
    ("id_type", "row_id", "log_type", "file_id"),
    [
        ("BIGINT", "5", "VARCHAR(20)", "'5'"),
        ("BIGINT UNSIGNED", str(2 * BIG - 1), "DECIMAL(38, 0)", str(2 * BIG - 1)),
        ("BIGINT", "-5", "DECIMAL(10, 1)", "-5.0"),
        ("BIGINT", "5", "DOUBLE", "5"),
        ("VARCHAR(20)", "'5'", "BIGINT", "5"),
        ("uuid", f"'{A_UUID}'", "VARCHAR(60)", f"'{A_UUID.upper()}'"),
        ("CHAR(36)", f"'{A_UUID}'", "CHAR(36)", f"'{A_UUID.upper()}'"),
        ("CHAR(32)", f"'{A_UUID.replace('-', '')}'", "uuid", f"'{A_UUID}'"),
        ("BINARY(16)", f"x'{A_UUID.replace('-', '')}'", "CHAR(36)", f"'{A_UUID}'"),
    ],
)
def test_mariadb_file_id_names_the_row_whatever_its_column_is(mysql_application, mysql_source, id_type, row_id, log_type, file_id):
    mysql_application.replace_files_table(f'"Id" {id_type} PRIMARY KEY, {OTHER_COLUMNS}')
    mysql_application.replace_deletes_table(f'"Id" BIGINT PRIMARY KEY, "FileId" {log_type}')
    mysql_application.add_rows(row_id)
    mysql_application.run(f'INSERT INTO "ObjectStorageDeleteLog" VALUES (1, {file_id})')

    (row,) = mysql_source.rows_after(None, 10)

    assert [delete.file_id for delete in mysql_source.deletes_after(None, 10)] == [row.id]


# SQLite, where one column holds anything

EVERYTHING = {
    "": ["-5", "real:2.5", "10", "real:1e+300", "10x", "text:12", "a1ff", "bytes:62ff", "text:real:1", "blob:", "blob:12"],
    "BLOB": ["-5", "real:2.5", "10", "real:1e+300", "10x", "text:12", "text:a1ff", "bytes:62ff", "text:real:1", "", "blob:12"],
    "INTEGER": ["-5", "real:2.5", "10", "real:1e+300", "10x", "a1ff", "bytes:62ff", "text:real:1", "blob:", "blob:12"],
    "REAL": ["-5", "real:2.5", "10", "real:1e+300", "10x", "a1ff", "bytes:62ff", "text:real:1", "blob:", "blob:12"],
    "TEXT": ["-5", "1.0e+300", "10", "10x", "12", "2.5", "a1ff", "bytes:62ff", "text:real:1", "blob:", "blob:12"],
}
VALUES = ["-5", "2.5", "10", "1e300", "'10x'", "'12'", "'a1ff'", "CAST(x'62ff' AS TEXT)", "'real:1'", "x''", "x'12'"]


@pytest.mark.parametrize("declared", EVERYTHING)
@pytest.mark.parametrize("limit", [1, 3, 100])
def test_sqlite_column_of_all_types_is_read_wholly(sqlite_application, sqlite_source, declared, limit):
    sqlite_application.replace_files_table(f'"Id" {declared}, {PLAIN_COLUMNS}')
    sqlite_application.add_rows(*VALUES)
    kept = sqlite_application.run('SELECT count(*) FROM "ObjectStorageFiles"')[0][0]

    found = all_of(sqlite_source, limit)

    assert len(set(found)) == len(found) == kept
    assert set(found) >= set(EVERYTHING[declared])
    assert_each_is_found(sqlite_source, found)


def test_sqlite_integers_and_then_uuids_are_all_read(sqlite_application, sqlite_source):
    sqlite_application.replace_files_table(f'"Id" INTEGER, {PLAIN_COLUMNS}')
    sqlite_application.add_rows(1, 2)
    assert sqlite_source.ids_are_ordered()

    sqlite_application.add_rows(f"'{A_UUID}'")

    assert all_of(sqlite_source) == ["1", "2", A_UUID]
    assert not sqlite_source.ids_are_ordered()
    assert sqlite_source.check().id_kind == "other"


@pytest.mark.parametrize("collation", ["NOCASE", "RTRIM"])
def test_sqlite_ids_that_a_collation_takes_for_equal_are_all_read(sqlite_application, sqlite_source, collation):
    sqlite_application.replace_files_table(f'"Id" TEXT COLLATE {collation}, {OTHER_COLUMNS}')
    sqlite_application.add_rows("'a'", "'A'", "'a '", "'b'")

    assert sorted(all_of(sqlite_source, 1)) == ["A", "a", "a ", "b"]
    assert sqlite_source.existing(["a "]) == {"a "}


# What cannot be addressed


def test_row_without_id_is_counted_and_blocks_nothing(application, source):
    application.replace_files_table(f'"Id" INTEGER, {OTHER_COLUMNS}')
    application.add_rows("NULL", 1, "NULL", 2)

    assert all_of(source, 1) == ["1", "2"]
    assert source.fingerprint().unaddressable == 2


# What the delete log means


@pytest.mark.parametrize(
    ("id_type", "row_id", "log_type", "file_id"),
    [
        ("BIGINT", "5", "TEXT", "5"),
        ("BIGINT", "5", "TEXT", " 5.0 "),
        ("BIGINT", "5", "NUMERIC(10, 1)", "5.0"),
        ("BIGINT", "5", "DOUBLE PRECISION", "5"),
        ("BIGINT", "-5", "VARCHAR(20)", "-5"),
        ("NUMERIC(20, 0)", str(2 * BIG - 1), "TEXT", str(2 * BIG - 1)),
        ("VARCHAR(20)", "5", "BIGINT", "5"),
        ("VARCHAR(20)", "5", "NUMERIC(10, 1)", "5.0"),
        ("uuid", A_UUID, "TEXT", A_UUID.upper()),
        ("uuid", A_UUID, "TEXT", A_UUID.replace("-", "")),
        ("uuid", A_UUID, "VARCHAR(60)", f" {A_UUID} "),
        ("uuid", A_UUID, "bytea", f"\\x{A_UUID.replace('-', '')}"),
        ("TEXT", A_UUID, "uuid", A_UUID),
        ("TEXT", A_UUID.upper(), "uuid", A_UUID),
        ("TEXT", A_UUID.replace("-", ""), "uuid", A_UUID),
        ("TEXT", A_UUID.replace("-", "").upper(), "TEXT", A_UUID),
        ("CHAR(40)", A_UUID, "TEXT", A_UUID.upper()),
        ("TEXT", A_UUID, "CHAR(40)", A_UUID),
        ("bytea", f"\\x{A_UUID.replace('-', '')}", "TEXT", A_UUID),
        ("bytea", f"\\x{A_UUID.replace('-', '')}", "uuid", A_UUID),
    ],
)
def test_file_id_names_the_row_whatever_its_column_is(pg_application, pg_source, id_type, row_id, log_type, file_id):
    pg_application.replace_files_table(f'"Id" {id_type} PRIMARY KEY, {OTHER_COLUMNS}')
    pg_application.replace_deletes_table(f'"Id" BIGINT PRIMARY KEY, "FileId" {log_type}')
    pg_application.add_rows(f"'{row_id}'")
    pg_application.run(f"""INSERT INTO "ObjectStorageDeleteLog" VALUES (1, '{file_id}')""")

    (row,) = pg_source.rows_after(None, 10)
    (delete,) = pg_source.deletes_after(None, 10)

    assert delete.file_id == row.id
    assert pg_source.delete_rows(["1"])["1"].file_id == row.id


@pytest.mark.parametrize(
    ("id_type", "row_id", "log_type", "file_id"),
    [
        ("INTEGER", "5", "TEXT", "'5'"),
        ("INTEGER", "5", "", "'5'"),
        ("INTEGER", "5", "REAL", "5"),
        ("REAL", "5", "INTEGER", "5"),
        ("TEXT", "'5'", "INTEGER", "5"),
        ("", "5", "", "'5'"),
        ("", "'5'", "", "5"),
        ("", "'5'", "TEXT", "5"),
        ("TEXT", f"'{A_UUID}'", "BLOB", f"x'{A_UUID.replace('-', '')}'"),
        ("BLOB", f"x'{A_UUID.replace('-', '')}'", "TEXT", f"'{A_UUID}'"),
        ("INTEGER", f"'{A_UUID}'", "TEXT", f"'{A_UUID.upper()}'"),
        ("INTEGER", "2.5", "REAL", "2.5"),
        ("TEXT", "CAST(x'62ff' AS TEXT)", "TEXT", "CAST(x'62ff' AS TEXT)"),
    ],
)
def test_sqlite_file_id_names_the_row_whatever_its_column_is(sqlite_application, sqlite_source, id_type, row_id, log_type, file_id):
    sqlite_application.replace_files_table(f'"Id" {id_type}, {PLAIN_COLUMNS}')
    sqlite_application.replace_deletes_table(f'"Id" INTEGER PRIMARY KEY, "FileId" {log_type}')
    sqlite_application.add_rows(row_id)
    sqlite_application.run(f'INSERT INTO "ObjectStorageDeleteLog" VALUES (1, {file_id})')

    (row,) = sqlite_source.rows_after(None, 10)

    assert [delete.file_id for delete in sqlite_source.deletes_after(None, 10)] == [row.id]


def test_file_id_of_a_row_that_is_gone_is_spelled_as_the_others(pg_application, pg_source):
    pg_application.replace_files_table(f'"Id" TEXT PRIMARY KEY, {OTHER_COLUMNS}')
    pg_application.replace_deletes_table('"Id" BIGINT PRIMARY KEY, "FileId" uuid')
    pg_application.add_rows(f"'{uuid.uuid4().hex}'")
    pg_application.run(f"""INSERT INTO "ObjectStorageDeleteLog" VALUES (1, '{A_UUID}')""")

    assert pg_source.delete_row(1).file_id == A_UUID.replace("-", "")


def test_file_id_in_capitals_names_the_row_in_capitals_where_both_are(pg_application, pg_source):
    pg_application.replace_files_table(f'"Id" TEXT PRIMARY KEY, {OTHER_COLUMNS}')
    pg_application.replace_deletes_table('"Id" BIGINT PRIMARY KEY, "FileId" TEXT')
    pg_application.add_rows(f"'{A_UUID}'", f"'{A_UUID.upper()}'")
    pg_application.run(f"""INSERT INTO "ObjectStorageDeleteLog" VALUES (1, '{A_UUID.upper()}')""")

    assert pg_source.delete_row(1).file_id == A_UUID.upper()


@pytest.mark.parametrize("file_id", ["five", "1e2", "5.5", "", "9" * 200, "1_0"])
def test_file_id_that_names_no_row_is_left_as_it_is(application, source, file_id):
    application.replace_deletes_table('"Id" BIGINT PRIMARY KEY, "FileId" TEXT')
    application.run('INSERT INTO "ObjectStorageDeleteLog" VALUES (1, :file_id)', file_id=file_id)

    assert source.delete_row(1).file_id == file_id
