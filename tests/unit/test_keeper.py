"""Leases are kept from inside the work, also while the catalog is away for a moment."""

from datetime import timedelta
from types import SimpleNamespace

import pytest

from cbk.edges.catalog import LeaseRenewer
from cbk.errors import CatalogUnavailable, LeaseLost

CLAIM = SimpleNamespace(version=SimpleNamespace(id=1, label="s3/a.png v1"))


class Work:
    """The catalog: away, there, or with another worker's claim in it."""

    def __init__(self):
        self.is_away = False
        self.lost = []
        self.asked = 0

    def renew(self, _claims, _lease):
        self.asked += 1
        if self.is_away:
            raise CatalogUnavailable("it is away")
        return self.lost


@pytest.fixture
def uptime(monkeypatch):
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr("cbk.edges.catalog.backup.work_queue.uptime", lambda: clock.seconds)
    return clock


@pytest.fixture
def work():
    return Work()


@pytest.fixture
def tick(work, uptime):
    """A function that ticks so many seconds after the claim."""
    keeper = LeaseRenewer(work, [CLAIM], timedelta(seconds=120))

    def tick(seconds):
        uptime.seconds = seconds
        keeper.tick(CLAIM)

    return tick


def test_lease_is_renewed_once_a_third_of_it_has_passed(tick, work):
    for seconds in (1, 39, 41, 60, 80, 82):
        tick(seconds)
    assert work.asked == 2


def test_catalog_that_is_away_for_a_moment_ends_no_work(tick, work):
    work.is_away = True
    tick(41)
    work.is_away = False
    tick(60)
    tick(99)
    assert work.asked == 2


def test_catalog_that_is_away_is_asked_now_and_then_and_not_with_each_chunk(tick, work):
    work.is_away = True
    for seconds in (41, 42, 43, 50.9, 51.1):
        tick(seconds)
    assert work.asked == 2


def test_work_ends_while_nobody_else_may_have_it_yet_where_the_catalog_stays_away(tick, work):
    work.is_away = True
    tick(79)
    with pytest.raises(CatalogUnavailable):
        tick(90)


def test_claim_that_is_lost_is_noticed_as_soon_as_the_catalog_is_back(tick, work):
    work.is_away = True
    tick(41)
    work.is_away, work.lost = False, [CLAIM]
    with pytest.raises(LeaseLost):
        tick(52)
