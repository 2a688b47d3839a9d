"""The counts that the database keeps of versions: whatever is written, and by whom, they are what is there."""

import os
import threading
from contextlib import closing
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from bench import scale
from cbk.edges.catalog import Catalog
from cbk.edges.catalog.database.schema import files, version_counts, versions
from cbk.edges.catalog.status.version_counts import UNFOLDED, VersionCount, recount, total_of
from cbk.jobs.context import open_context
from cbk.jobs.poll.version_counts import AUDIT_EVERY, keep_version_counts
from cbk.jobs.status.overview import gather_overview
from cbk.model import VersionState

EPOCH = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog(request, tmp_path):
    url = f"sqlite:///{tmp_path}/catalog.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").url(request.getfixturevalue("pg_database"))
    with closing(Catalog(url, holder="test")) as catalog:
        catalog.upgrade()
        yield catalog


def add(connection, number, *, bucket="b", count=1, **values):
    """Files of these numbers, `count` of them, each with one version."""
    numbers = range(number, number + count)
    digests = [f"{each:064x}" for each in numbers]
    named = [
        {
            "id": each,
            "storage": "s3",
            "key": str(each),
            "bucket": bucket,
            "place": str(each),
            "name_digest": digest,
            "place_digest": digest,
        }
        for each, digest in zip(numbers, digests, strict=True)
    ]
    connection.execute(sa.insert(files), named)
    version = {
        "number": 1,
        "source_id": "1",
        "state": "stored",
        "newest": True,
        "size": 10,
        "stored_size": 7,
        "fence": 0,
        "attempts": 0,
    }
    added = [
        version | {"id": each, "file_id": each, "sha256": digest} | values for each, digest in zip(numbers, digests, strict=True)
    ]
    connection.execute(sa.insert(versions), [each | {"first_seen_at": EPOCH} for each in added])


def of(catalog, **values):
    return total_of(
        count for count in catalog.version_counts.all() if all(getattr(count, name) == value for name, value in values.items())
    )


def test_a_version_counts_from_when_it_is_added_until_it_is_removed(catalog):
    with catalog.database.writing() as connection:
        add(connection, 1, count=3)
    stored = VersionCount(
        bucket="b",
        gone_accepted=False,
        state=VersionState.STORED,
        newest=True,
        deleted=False,
        live=True,
        number=3,
        size=30,
        stored_size=21,
    )
    assert catalog.version_counts.all() == [stored]
    with catalog.database.writing() as connection:
        connection.execute(sa.delete(versions).where(versions.c.id == 2))
    assert of(catalog) == 2
    assert not catalog.version_counts.audit()


@pytest.mark.parametrize(
    ("column", "value"),
    [("state", "pruned"), ("newest", False), ("deleted", True), ("live", False), ("size", None), ("size", 99), ("stored_size", 1)],
)
def test_a_version_that_changes_counts_as_what_it_is(catalog, column, value):
    with catalog.database.writing() as connection:
        add(connection, 1, count=4)
        connection.execute(sa.update(versions).where(versions.c.id <= 2).values({column: value}))
    assert not catalog.version_counts.audit()
    assert of(catalog) == 4


def test_a_version_that_is_read_sent_or_claimed_changes_no_count(catalog):
    with catalog.database.writing() as connection:
        add(connection, 1)
        before = connection.scalar(sa.select(sa.func.count()).select_from(version_counts))
        connection.execute(sa.update(versions).values(fence=5, holder="me", checked_at=EPOCH, state="stored"))
        assert connection.scalar(sa.select(sa.func.count()).select_from(version_counts)) == before
    assert not catalog.version_counts.audit()


def test_a_file_that_a_person_has_accepted_as_gone_counts_apart_with_all_its_versions(catalog):
    with catalog.database.writing() as connection:
        add(connection, 1, count=2, live=False)
        connection.execute(sa.update(files).where(files.c.id == 1).values(gone_accepted=True))
    assert sum(count.number for count in catalog.version_counts.all() if count.is_gone) == 1
    assert of(catalog, gone_accepted=True) == 1
    with catalog.database.writing() as connection:
        connection.execute(sa.update(files).values(gone_accepted=False))
    assert of(catalog, gone_accepted=True) == 0
    assert not catalog.version_counts.audit()


def test_a_version_that_goes_to_another_file_counts_there(catalog):
    with catalog.database.writing() as connection:
        add(connection, 1, bucket="one")
        add(connection, 2, bucket="other")
        connection.execute(sa.update(versions).where(versions.c.id == 1).values(file_id=2))
    assert (of(catalog, bucket="one"), of(catalog, bucket="other")) == (0, 2)
    assert not catalog.version_counts.audit()


def test_what_is_rolled_back_counts_for_nothing(catalog):
    with catalog.engine.connect() as connection:
        add(connection, 1)
        connection.rollback()
    assert of(catalog) == 0


def test_a_name_that_a_database_cannot_hold_counts(catalog):
    with catalog.database.writing() as connection:
        add(connection, 1, bucket="a\0b")
    assert of(catalog, bucket="a\0b") == 1
    assert not catalog.version_counts.audit()


def test_an_audit_finds_counts_that_are_wrong_and_mends_them(catalog):
    with catalog.database.writing() as connection:
        add(connection, 1, count=3)
        connection.execute(sa.update(version_counts).values(number=version_counts.c.number + 1))
    assert catalog.version_counts.audit()
    assert of(catalog) == 3
    assert not catalog.version_counts.audit()
    with catalog.database.writing() as connection:
        connection.execute(sa.update(versions).values(state="pruned"))
    assert of(catalog, state=VersionState.PRUNED) == 3


def test_writers_at_the_same_time_lose_no_count(catalog):
    with catalog.database.writing() as connection:
        add(connection, 1, count=40)

    def prune(first):
        with closing(Catalog(str(catalog.engine.url.render_as_string(hide_password=False)), holder=str(first))) as other:
            for number in range(first, first + 10):
                with other.database.writing() as connection:
                    connection.execute(sa.update(versions).where(versions.c.id == number).values(state="pruned"))
                other.version_counts.fold()

    threads = [threading.Thread(target=prune, args=(first,)) for first in (1, 11, 21)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert of(catalog, state=VersionState.PRUNED) == 30
    assert not catalog.version_counts.audit()


def test_changes_are_summed_up_once_they_are_many(catalog):
    with catalog.database.writing() as connection:
        add(connection, 1, count=UNFOLDED)
        connection.execute(sa.update(versions).values(state="pruned"))
        connection.execute(sa.update(versions).values(state="stored"))
    before = catalog.version_counts.all()
    catalog.version_counts.fold()
    with catalog.database.reading() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(version_counts)) <= 2
    assert {count for count in catalog.version_counts.all() if count.number} == {count for count in before if count.number}


def test_a_recount_beside_a_writer_waits_for_it(catalog):
    with catalog.database.writing() as connection:
        add(connection, 1, count=3)
        recount(connection)
    assert of(catalog) == 3


def test_a_poll_mends_wrong_counts_once_a_day(site):
    site.upload("cars/a.png", b"x")
    site.poll()
    site.work()
    engine = site.context.catalog.engine
    with engine.begin() as connection:
        connection.execute(sa.update(version_counts).values(number=50))
    site.poll()
    assert site.context.catalog.report.counts().copies == 50
    audited_at = datetime.fromisoformat(site.fact("version_counts.audited_at"))
    site.context.catalog.facts.set(**{"version_counts.audited_at": (audited_at - AUDIT_EVERY).isoformat()})
    site.poll()
    assert site.context.catalog.report.counts().copies == 1


def test_poll_that_begins_while_another_one_audits_begins_no_second_audit(site, monkeypatch):
    begun = []

    def audit():
        begun.append(1)
        keep_version_counts(site.context)

    monkeypatch.setattr(site.context.catalog.version_counts, "audit", audit)
    keep_version_counts(site.context)
    assert len(begun) == 1


def test_counts_that_are_wrong_never_hide_a_file_without_a_copy(site):
    site.upload("cars/a.png", b"x", 404)
    site.poll()
    with site.context.catalog.engine.begin() as connection:
        connection.execute(sa.delete(version_counts))
    assert sum(site.context.catalog.report.counts().by_state.values()) == 1
    with site.context.catalog.engine.begin() as connection:
        recount(connection)


# What runs by itself


class Steps:
    """Steps of SQLite's machine, as they are taken in the catalog."""

    def __init__(self):
        self.taken = 0

    def watch(self, connection, _record):
        path = connection.execute("PRAGMA database_list").fetchone()[2]
        if path.endswith("catalog.db"):
            connection.set_progress_handler(self.step, 100)

    def step(self):
        self.taken += 100


@pytest.fixture
def steps():
    steps = Steps()
    sa.event.listen(sa.engine.Engine, "connect", steps.watch)
    yield steps
    sa.event.remove(sa.engine.Engine, "connect", steps.watch)


def _steps_of_an_idle_minute(folder, number, steps):
    settings = scale.settings_of(folder)
    scale.make_site(folder, settings, number)
    with closing(open_context(settings)) as context:
        for _ in range(2):
            scale.idle_poll(context)
        steps.taken = 0
        scale.idle_poll(context)
        gather_overview(context)
        return steps.taken


def test_what_runs_by_itself_takes_the_same_steps_whatever_the_history(tmp_path, steps, monkeypatch):
    for name in list(os.environ):
        if name.startswith("CBK_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    few, many = (_steps_of_an_idle_minute(tmp_path / str(number), number, steps) for number in (2_000, 20_000))
    assert few > 0
    assert many < few * 1.5
