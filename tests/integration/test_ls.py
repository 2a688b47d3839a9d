"""What `cbk ls` finds, in both databases that a catalog can be in: where what is asked for narrows it down, and to what."""

import uuid
from datetime import timedelta

import pytest

from cbk.jobs.status.listing import VersionFilter, find
from cbk.model import DeclinedRow
from tests.in_process_site import InProcessSite
from tests.origin import status


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def full(request, tmp_path_factory, origin):
    """A site with a little of everything, a deleted file too; for tests that only look."""
    settings = {"buckets": {"s3": "car-erp", "azure": "archive"}}
    if request.param == "postgresql":
        settings["catalog_url"] = request.getfixturevalue("postgres").create_database(f"listed_{uuid.uuid4().hex}")
    site = InProcessSite(tmp_path_factory.mktemp("full"), origin, **settings)
    for key in ("cars/a.png", "cars/b/c.png", "Cars/d.png", "cars/50%_off.txt", "häuser/ß.png", "cars/[x].txt"):
        site.upload(key, key.encode())
    site.upload("cars/a.png", b"new", version=2, served_at="/new")
    site.upload("cars/a.png", b"elsewhere", storage="azure", served_at="/elsewhere")
    site.upload("failed.png", b"x", status(503))
    site.change(site.upload("cars/declined.png", b"x"), Hash="nonsense")
    site.work()
    site.delete("2")
    site.poll()
    yield site
    site.close()


@pytest.fixture(autouse=True)
def short_pages(monkeypatch):
    monkeypatch.setattr("cbk.edges.catalog.status.reports.VERSIONS_PAGE", 3)


def found(site, **asked):
    """Keys with version, in the order of the list."""
    items = find(site.context, VersionFilter(**asked))
    return [f"{item.key} declined" if isinstance(item, DeclinedRow) else f"{item.key} v{item.number}" for item in items]


EVERYTHING = [
    "cars/a.png v1",
    "cars/b/c.png v1",
    "Cars/d.png v1",
    "cars/50%_off.txt v1",
    "häuser/ß.png v1",
    "cars/[x].txt v1",
    "cars/a.png v2",
    "cars/a.png v1",
    "failed.png v1",
    "cars/declined.png declined",
]


def test_what_asks_for_nothing_finds_everything_in_the_order_in_which_it_was_seen(full):
    assert found(full) == EVERYTHING


@pytest.mark.parametrize(
    ("pattern", "indexes"),
    [
        ("*", range(10)),
        ("**", range(10)),
        ("*.png", [0, 1, 2, 4, 6, 7, 8, 9]),
        ("cars/*", [0, 1, 3, 5, 6, 7, 9]),
        ("cars/**", [0, 1, 3, 5, 6, 7, 9]),
        ("cars/?.png", [0, 6, 7]),
        ("[cC]ars/[a-d].png", [0, 2, 6, 7]),
        ("cars/50%_off.txt", [3]),
        ("cars/5_%", []),
        ("cars/[[]x].txt", [5]),
        ("häuser/?.png", [4]),
        ("a.png", []),
        ("cars/a.pn", []),
    ],
)
def test_pattern_is_compared_with_the_whole_key_and_a_star_crosses_slashes(full, pattern, indexes):
    assert found(full, pattern=pattern) == [EVERYTHING[index] for index in indexes]


@pytest.mark.parametrize(
    ("prefix", "indexes"),
    [("cars/", [0, 1, 3, 5, 6, 7, 9]), ("Cars/", [2]), ("cars/50%", [3]), ("cars/_", []), ("häuser/ß", [4]), ("", range(10))],
)
def test_prefix_is_meant_to_the_letter(full, prefix, indexes):
    assert found(full, prefix=prefix) == [EVERYTHING[index] for index in indexes]


def test_key_storage_and_bucket_narrow_down_together(full):
    assert found(full, key="cars/a.png") == ["cars/a.png v1", "cars/a.png v2", "cars/a.png v1"]
    assert found(full, key="cars/a.png", storage="azure") == ["cars/a.png v1"]
    assert found(full, bucket="archive") == ["cars/a.png v1"]
    assert found(full, bucket="archive", storage="s3") == []
    assert found(full, key="cars/declined.png") == ["cars/declined.png declined"]


def test_newest_leaves_out_what_has_a_newer_version(full):
    assert found(full, newest=True) == EVERYTHING[1:9]


def test_deleted_is_what_a_delete_covers(full):
    assert found(full, deleted=True) == ["cars/b/c.png v1"]
    assert found(full, deleted=False) == [EVERYTHING[0], *EVERYTHING[2:]]


def test_time_is_that_of_storing_and_its_end_is_left_out(full):
    stored_at = full.versions()["cars/b/c.png", 1].stored_at
    moment = timedelta(milliseconds=1)
    assert "cars/b/c.png v1" in found(full, since=stored_at)
    assert "cars/b/c.png v1" not in found(full, since=stored_at + moment)
    assert "cars/b/c.png v1" not in found(full, until=stored_at)
    assert "cars/b/c.png v1" in found(full, until=stored_at + moment)
    assert "failed.png v1" not in found(full, until=stored_at + timedelta(days=1))
