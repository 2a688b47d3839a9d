"""What an import does with an object, decided from its listing and its newest row."""

from datetime import UTC, datetime, timedelta

import pytest

from cbk_app.contract import INVENTORY_KEY
from cbk_app.importing import Need, Pacer, decide
from cbk_app.rows import KnownRow
from cbk_app.stores.store import StoredObject

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def found(key="cars/a.png", *, size=3, modified=NOW):
    return StoredObject(key=key, size=size, etag="e", modified=modified)


def row(*, created_at=NOW, deleted=False, deleted_at=None):
    return KnownRow(id=1, version=1, hash="0" * 64, created_at=created_at, deleted=deleted, deleted_at=deleted_at)


@pytest.mark.parametrize(
    ("object_", "known", "need"),
    [
        (found(), None, Need.ROW),
        (found(), row(created_at=NOW + MINUTE), Need.NOTHING),
        (found(), row(created_at=NOW), Need.NOTHING),
        (found(), row(created_at=NOW - MINUTE), Need.LOOK),
        (found(), row(created_at=None), Need.NOTHING),
        (found(), row(deleted=True, deleted_at=NOW + MINUTE), Need.DELETED),
        (found(), row(deleted=True, deleted_at=None), Need.DELETED),
        (found(), row(deleted=True, deleted_at=NOW - MINUTE), Need.ROW),
        (found("cars/", size=0), None, Need.SKIP),
        (found("cars/", size=7), None, Need.UNNAMEABLE),
        (found(INVENTORY_KEY), None, Need.SKIP),
        (found("/cars/a.png"), None, Need.ROW),
    ],
)
def test_what_an_object_needs(object_, known, need):
    assert decide(object_, known).need is need


def test_readers_are_held_to_the_rate_that_they_share():
    now, slept = [0.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    pacer = Pacer(1000, clock=lambda: now[0], sleep=sleep)
    for _ in range(10):
        pacer.wait_for(500)
    assert sum(slept) == pytest.approx(5.0)


def test_without_a_rate_nobody_waits():
    Pacer(None, clock=lambda: 0.0, sleep=lambda _: pytest.fail("waited")).wait_for(10**9)
