"""What is sent to MySQL and MariaDB, as text: there is no such server among the wheels that the other tests start.

What is true of every database is tried on PostgreSQL and SQLite in tests/integration/source.
"""

from unittest.mock import MagicMock

import pytest
from sqlalchemy import column as sql_column
from sqlalchemy import make_url, text
from sqlalchemy import table as sql_table
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError

from cbk.edges.source.engine import Timeouts, open_engine, read_url
from cbk.edges.source.errors import source_errors
from cbk.edges.source.ids import Ids
from cbk.edges.source.privileges import grants_allow_writing
from cbk.edges.source.tables import FILES_OPTIONAL, FILES_REQUIRED, TableShape
from cbk.errors import SourceSchemaError, SourceUnavailable

URL = make_url("mysql+pymysql://cbk:pass%20word@db.example/shop")
TYPES = {"Id": mysql.BIGINT(), "Version": mysql.INTEGER(), "CreatedAt": mysql.DATETIME()}


class DriverError(Exception):
    """As PyMySQL raises them: a number and a text."""


@pytest.fixture
def files():
    columns = {name: TYPES.get(name, mysql.VARCHAR(255)) for name in (*FILES_REQUIRED, *FILES_OPTIONAL)}
    clause = sql_table("ObjectStorageFiles", *map(sql_column, columns))
    return TableShape(clause=clause, columns=columns, key="Id", ids={"Id": Ids.of(mysql.BIGINT(), "mysql")}, cuts_text=True)


def sql_of(statement):
    return " ".join(str(statement.compile(dialect=mysql.dialect(), compile_kwargs={"literal_binds": True})).split())


def raised_for(number, told="nothing in particular"):
    with pytest.raises((SourceUnavailable, SourceSchemaError)) as raised, source_errors(URL, statement_seconds=30.0):
        raise DBAPIError("SELECT", {}, DriverError(number, told))
    return raised.value


def test_mysql_names_are_quoted_and_long_text_is_cut(files):
    assert sql_of(files.select("Id", "Name")) == (
        "SELECT `ObjectStorageFiles`.`Id` AS `Id`, substr(`ObjectStorageFiles`.`Name`, 1, 8193) AS substr_1"
        " FROM `ObjectStorageFiles` WHERE `ObjectStorageFiles`.`Id` IS NOT NULL ORDER BY `ObjectStorageFiles`.`Id`"
    )


def test_mysql_pages_by_the_number_of_the_row(files):
    assert sql_of(files.select("Id").where(files.column("Id") > text("7")).limit(5)) == (
        "SELECT `ObjectStorageFiles`.`Id` AS `Id` FROM `ObjectStorageFiles`"
        " WHERE `ObjectStorageFiles`.`Id` IS NOT NULL AND `ObjectStorageFiles`.`Id` > 7 ORDER BY `ObjectStorageFiles`.`Id` LIMIT 5"
    )


def test_mysql_dates_are_read_as_text(files):
    assert "CAST(`ObjectStorageFiles`.`CreatedAt` AS CHAR)" in sql_of(files.select("CreatedAt"))


def test_column_that_is_not_there_is_read_as_null(files):
    assert sql_of(files.select("Extra")).startswith("SELECT NULL AS anon_1 FROM `ObjectStorageFiles`")


def test_mysql_session_is_read_only_and_limited_in_time():
    driver_connection = MagicMock()
    *_, ours = open_engine(URL, Timeouts(connect=10, statement=1.5)).pool.dispatch.connect

    ours(driver_connection, None)

    told = [call.args[0] for call in driver_connection.cursor().__enter__().execute.call_args_list]
    assert told == [
        "SET SESSION TRANSACTION READ ONLY",
        "SET @cbk = 0 /*!50708 , SESSION max_execution_time = 1500 */ /*M!100101 , SESSION max_statement_time = 1.5 */",
    ]


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("mysql://cbk@host/shop", "mysql+pymysql"),
        ("mariadb://cbk@host/shop", "mariadb+pymysql"),
        ("postgres://cbk@host/shop", "postgresql+psycopg"),
        ("postgresql://cbk@host/shop", "postgresql+psycopg"),
        ("sqlite:///shop.db", "sqlite+pysqlite"),
        ("mysql+mysqldb://cbk@host/shop", "mysql+pymysql"),
    ],
)
def test_url_without_a_driver_gets_ours(given, driver):
    assert read_url(given).drivername == driver


@pytest.mark.parametrize("number", [3024, 1969])
def test_mysql_that_does_not_answer_in_time_is_unavailable(number):
    assert raised_for(number).message == "the application's database did not answer within 30 s"


@pytest.mark.parametrize("number", [1146, 1054])
def test_mysql_without_a_table_or_column_has_another_schema(number):
    error = raised_for(number, "Table 'shop.ObjectStorageFiles' doesn't exist")

    assert isinstance(error, SourceSchemaError)
    assert error.hint == "`cbk schema mysql` prints the tables and columns that are expected"


def test_mysql_that_denies_reading_names_the_grants():
    error = raised_for(1142, "SELECT command denied to user 'cbk'@'host' for table 'ObjectStorageFiles'")

    assert isinstance(error, SourceSchemaError)
    assert error.hint == "`cbk schema mysql` prints the grants that are needed"


def test_mysql_that_refuses_the_user_says_what_to_check():
    error = raised_for(1045, "Access denied for user 'cbk'@'host' (using password: YES)")

    assert isinstance(error, SourceUnavailable)
    assert error.hint == "check the user, the password and the database in CBK_SOURCE_URL"


def test_mysql_that_went_away_is_unavailable():
    assert isinstance(raised_for(2013, "Lost connection to MySQL server during query"), SourceUnavailable)


def test_password_that_a_driver_repeats_is_not_passed_on():
    assert raised_for(9999, "cannot use pass word, pass%20word or pass+word.\nmore").message == (
        "the application's database cannot be read: cannot use ***, *** or ***"
    )


def test_connection_pooler_that_refuses_our_options_is_named():
    assert raised_for(9999, "FATAL: unsupported startup parameter: options").hint.startswith(
        "CBK_SOURCE_URL leads to a connection pooler"
    )


@pytest.mark.parametrize(
    ("grant", "writes"),
    [
        ("GRANT USAGE ON *.* TO `cbk`@`%`", False),
        ("GRANT SELECT ON `shop`.`ObjectStorageFiles` TO `cbk`@`%`", False),
        ("GRANT SELECT ON *.* TO `cbk`@`%`", False),
        ("GRANT `reader`@`%` TO `cbk`@`%`", False),
        ("GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION", True),
        ("GRANT SELECT, INSERT ON `shop`.* TO `cbk`@`%`", True),
        ("GRANT SELECT, INSERT ON `other`.* TO `cbk`@`%`", False),
        ("GRANT SELECT, DELETE ON `shop`.`objectstoragedeletelog` TO `cbk`@`%`", True),
        ("GRANT DELETE ON `shop`.`invoices` TO `cbk`@`%`", False),
        ("GRANT SELECT, UPDATE (`Hash`) ON `shop`.`ObjectStorageFiles` TO `cbk`@`%`", True),
        ("GRANT INSERT ON `sh\\_op`.* TO `cbk`@`%`", False),
    ],
)
def test_grant_of_mysql_allows_writing_or_not(grant, writes):
    assert grants_allow_writing([grant], "shop") is writes
