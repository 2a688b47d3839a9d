"""What tells at little cost that a table is not what was read of it: how many rows, the highest Id, the sum of all Ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, Select, case, func, select

from cbk.edges.source.tables import TableShape

_LOW_BITS = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """A table at one moment.

    `count` is of all rows, `unaddressable` those among them whose Id is NULL or cannot be asked for: no page has them. `highest`
    and `total` (the sum) are exact, whatever the size, and None where an Id is not an integer. A delete log without Id of its own
    counts each FileId once.
    """

    count: int
    unaddressable: int
    highest: int | None
    total: int | None


def fingerprint_of(connection: Connection, shape: TableShape) -> Fingerprint:
    """The fingerprint of a table, from one statement."""
    ids = select(shape.column(shape.key).label("id"))
    listed = (ids if shape.key == "Id" else ids.distinct()).subquery()
    key = listed.c[0]
    if not shape.has_numbers:
        count, unaddressable = connection.execute(select(func.count(), _how_many(key.is_(None))).select_from(listed)).one()
        return Fingerprint(count=count, unaddressable=int(unaddressable), highest=None, total=None)
    count, unaddressable, odd, highest, *sums = connection.execute(_numbers(shape, listed, key)).one()
    are_integers = not int(odd)
    return Fingerprint(
        count=count,
        unaddressable=int(unaddressable),
        highest=int(highest) if are_integers and highest is not None else None,
        total=_joined(sums) if are_integers else None,
    )


def sum_of(connection: Connection, shape: TableShape, condition: ColumnElement[bool]) -> tuple[int, int]:
    """How many rows with an Id there are that meet `condition`, and the sum of their Ids."""
    key = shape.column(shape.key)
    listed = select(key.label("id")).where(condition)
    subquery = (listed if shape.key == "Id" else listed.distinct()).subquery()
    count, *sums = connection.execute(select(func.count(), *_sums(shape, subquery.c[0])).select_from(subquery)).one()
    return count, _joined(sums)


def _numbers(shape: TableShape, listed: FromClause, key: ColumnElement[Any]) -> Select[Any]:
    unaddressable: ColumnElement[bool] = key.is_(None)
    odd = shape.ids[shape.key].unaddressable(key)
    if shape.is_sqlite:
        odd = func.typeof(key).not_in(["integer", "null"])
        highest: ColumnElement[Any] = func.max(case((func.typeof(key) == "integer", key)))
    else:
        unaddressable = unaddressable if odd is None else unaddressable | odd
        highest = func.max(key)
    how_odd = _how_many(odd) if odd is not None else func.count() - func.count()
    return select(func.count(), _how_many(unaddressable), how_odd, highest, *_sums(shape, key)).select_from(listed)


def _sums(shape: TableShape, key: ColumnElement[Any]) -> list[ColumnElement[Any]]:
    """The sum of Ids; of SQLite's, which holds 64 bits, the sums of their upper and of their lower halves."""
    if not shape.is_sqlite:
        return [func.sum(key)]
    return [func.sum(case((func.typeof(key) == "integer", half))) for half in (key.op(">>")(32), key.op("&")(_LOW_BITS))]


def _joined(sums: list[Any]) -> int:
    total, *lower = (int(part or 0) for part in sums)
    return (total << 32) + lower[0] if lower else total


def _how_many(condition: ColumnElement[bool]) -> ColumnElement[Any]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)
