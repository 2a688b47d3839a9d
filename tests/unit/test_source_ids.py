"""An Id is text to the kit and a value to the database; what goes out has to come back as the same row."""

import uuid
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import BLOB, CHAR, NUMERIC, UUID, BigInteger, Enum, Integer, SmallInteger, Text
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.types import NullType

from cbk.edges.source.ids import IdKind, Ids, is_sql_text

VALUES = {
    IdKind.INTEGER: st.integers(-(2**63), 2**63 - 1),
    IdKind.UUID: st.uuids(),
    IdKind.BINARY: st.binary(max_size=20),
    IdKind.TEXT: st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
}


@pytest.mark.parametrize("kind", IdKind)
@given(data=st.data())
def test_id_comes_back_from_its_text(kind, data):
    value = data.draw(VALUES[kind])
    ids = Ids(kind)

    assert ids.from_text(ids.to_text(value)) == value


@pytest.mark.parametrize("kind", IdKind)
@given(text=st.text())
def test_from_text_takes_any_text(kind, text):
    value = Ids(kind).from_text(text)

    assert value is None or isinstance(value, int | uuid.UUID | bytes | str)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (IdKind.INTEGER, "1.0"),
        (IdKind.INTEGER, " 1"),
        (IdKind.INTEGER, "1_0"),
        (IdKind.INTEGER, "٣"),
        (IdKind.INTEGER, "9223372036854775808"),
        (IdKind.INTEGER, True),
        (IdKind.UUID, "1"),
        (IdKind.BINARY, "0"),
        (IdKind.TEXT, "a\0"),
        (IdKind.TEXT, "\ud800"),
    ],
)
def test_from_text_knows_what_no_id_is_written_like(kind, text):
    assert Ids(kind).from_text(text) is None


def test_to_text_writes_a_whole_decimal_as_the_number_it_is():
    assert Ids(IdKind.INTEGER).to_text(Decimal(20)) == "20"


@pytest.mark.parametrize(
    ("kind", "value"), [(IdKind.INTEGER, "x"), (IdKind.INTEGER, Decimal("1.5")), (IdKind.TEXT, b"\xff"), (IdKind.TEXT, None)]
)
def test_to_text_knows_what_would_not_come_back(kind, value):
    assert Ids(kind).to_text(value) is None


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
        (Enum("a"), IdKind.TEXT),
        (NullType(), IdKind.TEXT),
    ],
)
def test_kind_follows_the_type_of_the_column(column_type, kind):
    assert IdKind.of(column_type) is kind


def test_sql_text_is_what_every_database_takes():
    assert is_sql_text("cars/ü 1.png")
    assert not is_sql_text("a\0b")
    assert not is_sql_text("\udcff")
