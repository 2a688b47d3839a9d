"""What `cbk schema` prints, as text and, where no server is needed, as tables; PostgreSQL runs it in the integration tests."""

import sqlite3

import pytest

from cbk_app.errors import AppUsageError
from cbk_app.schema import DIALECTS, ddl, grants

REQUIRED = {
    "ObjectStorageFiles": ["Id", "Name", "Path", "Storage", "Version", "Hash", "SignedDownloadUrl"],
    "ObjectStorageDeleteLog": ["Id", "FileId"],
}
OPTIONAL = {"ObjectStorageFiles": ["ContentType", "CreatedAt"], "ObjectStorageDeleteLog": ["DeletedAt"]}


@pytest.fixture
def database():
    connection = sqlite3.connect(":memory:")
    connection.executescript(ddl("sqlite"))
    yield connection
    connection.close()


@pytest.mark.parametrize("table", REQUIRED)
def test_ddl_makes_the_columns_of_the_contract(database, table):
    names = [column[1] for column in database.execute(f'PRAGMA table_info("{table}")')]

    assert names == REQUIRED[table] + OPTIONAL[table]


def test_ddl_never_gives_an_id_twice(database):
    insert = 'INSERT INTO "ObjectStorageDeleteLog" ("FileId") VALUES (1)'
    first = database.execute(insert).lastrowid
    database.execute('DELETE FROM "ObjectStorageDeleteLog"')

    assert database.execute(insert).lastrowid > first


def test_ddl_dates_the_rows_by_itself(database):
    database.execute('INSERT INTO "ObjectStorageDeleteLog" ("FileId") VALUES (1)')

    assert database.execute('SELECT "DeletedAt" IS NOT NULL FROM "ObjectStorageDeleteLog"').fetchone() == (1,)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_ddl_quotes_every_name(dialect):
    quote = "`" if dialect == "mysql" else '"'
    words = [name for table in REQUIRED for name in (table, *REQUIRED[table], *OPTIONAL[table])]

    assert all(f"{quote}{word}{quote}" in ddl(dialect) for word in words)


def test_ddl_for_mysql_tells_keys_apart_by_case():
    columns = {line.split("`")[1]: line for line in ddl("mysql").splitlines() if line.startswith("    `")}

    assert all("COLLATE utf8mb4_bin" in columns[name] for name in ("Name", "Path", "Storage"))


def test_ddl_for_mysql_indexes_no_more_of_a_key_than_an_index_holds():
    assert "(`Name`(255), `Path`(255))" in ddl("mysql")


def test_ddl_of_an_unknown_database_names_the_known_ones():
    with pytest.raises(AppUsageError, match="'oracle'") as refused:
        ddl("oracle")

    assert refused.value.hint == "choose one of postgresql, mysql, sqlite"


@pytest.mark.parametrize("dialect", ["postgresql", "mysql"])
def test_grants_allow_reading_and_nothing_else(dialect):
    granted = [line.split()[1:3] for line in grants(dialect).splitlines() if line.startswith("GRANT")]

    assert {words[0] for words in granted} - {"USAGE"} == {"SELECT"}
    assert [words[1] for words in granted if words[0] == "USAGE"] in ([], ["ON"])


@pytest.mark.parametrize("dialect", ["postgresql", "mysql"])
def test_grants_leave_the_password_to_the_administrator(dialect):
    lines = [line for line in grants(dialect).splitlines() if "PASSWORD" in line or "IDENTIFIED" in line]

    assert lines
    assert all(line.startswith("--") for line in lines)


def test_grants_for_mysql_lock_the_user_until_there_is_a_password():
    assert "CREATE USER 'cbk_reader'@'%' ACCOUNT LOCK;" in grants("mysql")


@pytest.mark.parametrize(
    ("dialect", "quoted"), [("postgresql", 'CREATE ROLE "o\'""x" LOGIN;'), ("mysql", "CREATE USER 'o''\"x'@'%' ACCOUNT LOCK;")]
)
def test_grants_quote_the_user(dialect, quoted):
    assert quoted in grants(dialect, "o'\"x")


def test_grants_for_sqlite_are_comments():
    assert all(line.startswith("-- ") for line in grants("sqlite").splitlines())
