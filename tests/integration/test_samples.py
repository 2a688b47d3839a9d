"""Samples of how things stand, on SQLite and on PostgreSQL, and the poll that notes them."""

from datetime import timedelta

import pytest

from cbk.edges.catalog import Catalog
from cbk.rules.status.samples import COARSE, EVERY, FINE_FOR, KEPT_FOR, Sample

NUMBERS = {"files": 3, "protected": 2, "lag": timedelta(seconds=90), "copies": 2, "size": 20, "stored_size": 16}


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog(request, tmp_path):
    url = f"sqlite:///{tmp_path}/catalog.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").url(request.getfixturevalue("pg_database"))
    catalog = Catalog(url, holder="one")
    catalog.upgrade()
    yield catalog
    catalog.close()


def sample(at):
    return Sample(at=at, **NUMBERS, free=2**40, total=2**42)


def noted(catalog, *instants):
    for instant in instants:
        catalog.samples.note(sample(instant))
    return [one.at for one in catalog.samples.since(min(instants) - KEPT_FOR)]


def whole(instant):
    return instant.replace(minute=0, second=0, microsecond=0)


def test_sample_comes_back_as_it_was_noted(catalog):
    now = catalog.database.now()
    catalog.samples.note(sample(now))
    assert catalog.samples.since(now) == [sample(now)]
    assert catalog.samples.last_at() == now


def test_old_samples_are_thinned_to_the_first_of_each_hour(catalog):
    old = whole(catalog.database.now()) - FINE_FOR - 3 * COARSE
    instants = [old, old + EVERY, old + COARSE, old + COARSE + EVERY]
    now = old + FINE_FOR + 2 * COARSE
    assert noted(catalog, *instants, now) == [instants[0], instants[2], now]


def test_young_samples_are_all_kept(catalog):
    now = catalog.database.now()
    instants = [now - 3 * EVERY, now - 2 * EVERY, now - EVERY, now]
    assert noted(catalog, *instants) == instants


def test_samples_of_more_than_a_year_ago_go(catalog):
    now = catalog.database.now()
    assert noted(catalog, now - KEPT_FOR - COARSE, now) == [now]


def test_samples_that_lie_in_the_future_go(catalog):
    now = catalog.database.now()
    assert noted(catalog, now + FINE_FOR, now) == [now]


def test_poll_notes_how_things_stand_once_in_a_while(site):
    site.upload("a.txt", b"x" * 100)
    site.poll()
    site.work()
    [one] = site.context.catalog.samples.since(site.context.catalog.database.now() - EVERY)
    assert (one.files, one.protected) == (1, 0)
    assert 0 < one.free < one.total
