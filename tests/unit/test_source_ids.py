"""An Id is text to the kit and a value to the database; what goes out has to come back as the same row."""

import uuid
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import BLOB, CHAR, NUMERIC, UUID, BigInteger, Enum, Float, Integer, SmallInteger, Text
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.types import NullType

from cbk.edges.source.ids import IdKind, Ids, is_sql_text
from cbk.edges.source.sqlite_ids import RawText, SqliteIds

BIGINT = mysql.BIGINT(unsigned=True)
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
COLUMNS = {
    "integer": (Ids.of(BigInteger(), "postgresql"), st.integers(-(2**63), 2**63 - 1)),
    "unsigned": (Ids.of(BIGINT, "mysql"), st.integers(-(2**63), 2**64 - 1)),
    "numeric": (Ids.of(NUMERIC(38, 0), "postgresql"), st.integers(-(10**38) + 1, 10**38 - 1)),
    "uuid": (Ids.of(UUID(), "postgresql"), st.uuids()),
    "binary": (Ids.of(BLOB(), "mysql"), st.binary(max_size=20)),
    "text": (Ids.of(Text(), "postgresql"), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))),
    "mysql text": (Ids.of(Text(), "mysql"), UNICODE),
}
SQLITE_VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    UNICODE,
    st.from_regex(r"(real|text|blob|bytes|integer):[0-9a-f.]*|-?[0-9]{1,20}|[0-9a-f]+", fullmatch=True),
    st.binary(max_size=20),
    st.binary(min_size=1, max_size=20).map(RawText).filter(lambda raw: not is_utf8(raw)),
)


def is_utf8(raw):
    try:
        return bool(raw.decode()) or True
    except UnicodeDecodeError:
        return False


@pytest.mark.parametrize("column", COLUMNS)
@given(data=st.data())
def test_id_comes_back_from_its_text(column, data):
    ids, values = COLUMNS[column]
    value = data.draw(values)

    assert ids.from_text(ids.to_text(value)) == value


@pytest.mark.parametrize("column", COLUMNS)
@given(text=st.text())
def test_from_text_takes_any_text(column, text):
    value = COLUMNS[column][0].from_text(text)

    assert value is None or isinstance(value, int | uuid.UUID | bytes | str)


@pytest.mark.parametrize("declared", ["INTEGER", "BIGINT", "TEXT", "VARCHAR(36)", "BLOB", "GUID", "NUMERIC", ""])
@given(value=SQLITE_VALUES)
def test_sqlite_id_of_any_type_comes_back_from_its_text(declared, value):
    ids = SqliteIds.of(declared)

    returned = ids.from_text(ids.to_text(value))

    assert (type(returned), returned) == (type(value), value)


@given(one=SQLITE_VALUES, other=SQLITE_VALUES)
def test_no_two_values_of_sqlite_have_one_text(one, other):
    ids = SqliteIds.of("")

    assert (ids.to_text(one) == ids.to_text(other)) is ((type(one), repr(one)) == (type(other), repr(other)))


@given(text=st.text())
def test_sqlite_takes_any_text_for_an_id_or_none(text):
    assert SqliteIds.of("").from_text(text) is not NotImplemented


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("integer", "1.0"),
        ("integer", " 1"),
        ("integer", "1_0"),
        ("integer", "٣"),
        ("integer", "9223372036854775808"),
        ("integer", True),
        ("unsigned", str(2**64)),
        ("numeric", "9" * 66),
        ("uuid", "1"),
        ("binary", "0"),
        ("text", "a\0"),
        ("text", "\ud800"),
    ],
)
def test_from_text_knows_what_no_id_is_written_like(column, text):
    assert COLUMNS[column][0].from_text(text) is None


@pytest.mark.parametrize("text", ["real:x", "blob:0", "bytes:zz", "integer:1.5", "\ud800", "text:\ud800"])
def test_from_text_knows_what_no_id_of_sqlite_is_written_like(text):
    assert SqliteIds.of("").from_text(text) is None


def test_to_text_writes_a_whole_decimal_as_the_number_it_is():
    assert COLUMNS["integer"][0].to_text(Decimal("20.00")) == "20"


@pytest.mark.parametrize("value", [Decimal("1.5"), Decimal("NaN"), Decimal("Infinity"), None])
def test_to_text_knows_what_no_row_is_asked_for_by(value):
    assert COLUMNS["numeric"][0].to_text(value) is None


@pytest.mark.parametrize(
    ("column_type", "kind"),
    [
        (Integer(), IdKind.INTEGER),
        (SmallInteger(), IdKind.INTEGER),
        (BigInteger(), IdKind.INTEGER),
        (mysql.BIGINT(unsigned=True), IdKind.INTEGER),
        (NUMERIC(20, 0), IdKind.INTEGER),
        (UUID(), IdKind.UUID),
        (postgresql.UUID(), IdKind.UUID),
        (BLOB(), IdKind.BINARY),
        (mysql.BINARY(16), IdKind.BINARY),
        (postgresql.BYTEA(), IdKind.BINARY),
        (Text(), IdKind.TEXT),
        (CHAR(36), IdKind.TEXT),
        (Enum("a"), IdKind.OTHER),
        (Float(), IdKind.OTHER),
        (postgresql.CITEXT(), IdKind.OTHER),
        (NullType(), IdKind.OTHER),
    ],
)
def test_kind_follows_the_type_of_the_column(column_type, kind):
    assert IdKind.of(column_type) is kind


def test_sql_text_is_what_every_database_takes():
    assert is_sql_text("cars/ü 1.png")
    assert not is_sql_text("a\0b")
    assert not is_sql_text("\udcff")
