"""What the catalog knows of copies that are read again, on SQLite and on PostgreSQL: the same tests."""

import uuid
from datetime import timedelta

import pytest
import sqlalchemy as sa

from cbk.edges.catalog import Catalog, RowChanges, Scope
from cbk.edges.catalog import verification as module
from cbk.edges.catalog.database.schema import metadata, versions
from cbk.model import AcceptedRow, VersionState, Written
from cbk.rules.intake.intake import candidate_place_keys, plan_intake
from cbk.rules.verification import Batch
from tests.in_process_site import claim_row, version_of_row

LEASE = timedelta(minutes=2)
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def catalog_url(request, tmp_path_factory):
    """One database for all tests: making the tables takes longer than they do."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('catalog')}/catalog.db"
        return
    postgres = request.getfixturevalue("postgres")
    name = f"test_{uuid.uuid4().hex}"
    postgres.start().create_database(name)
    yield postgres.url(name)
    postgres.start().execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="module")
def opened(catalog_url):
    catalog, rival = (Catalog(catalog_url, holder=holder) for holder in ("one", "two"))
    catalog.upgrade()
    yield catalog, rival
    catalog.close()
    rival.close()


@pytest.fixture
def catalog(opened):
    """An empty catalog."""
    catalog, _ = opened
    yield catalog
    with catalog.database.writing() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(sa.delete(table))


@pytest.fixture
def rival(opened):
    """The same catalog, opened by another worker."""
    return opened[1]


@pytest.fixture
def store(catalog):
    """A function that makes a stored version, by default verified now."""

    def store(key, *, number=1, storage="s3", ago=timedelta(0), size=10, stored_size=8, **columns):
        row = AcceptedRow(
            source_id=f"{key}-{number}", storage=storage, key=key, number=number, sha256="aa" * 32, link="https://h/x"
        )
        plan = plan_intake(
            [row],
            known=catalog.intake.known_versions({(storage, key)}, {number}),
            taken=catalog.intake.occupied_places(candidate_place_keys([row], str)),
            bucket_of=str,
        )
        catalog.intake.write(RowChanges(plan=plan))
        now = catalog.database.now()
        values = {
            "state": "stored",
            "due_at": None,
            "size": size,
            "stored_size": stored_size,
            "stored_sha256": "bb" * 32,
            "stored_at": now - ago,
            "verified_at": now - ago,
        }
        with catalog.database.writing() as connection:
            connection.execute(sa.update(versions).where(versions.c.source_id == row.source_id).values(**values | columns))
        return version_of_row(catalog, row.source_id)

    return store


def keys(catalog, **scope):
    return [version.key for version in catalog.verification.copies(Scope(**scope))]


# ---- which copies ------------------------------------------------------------------------------------------------------------


def test_copies_come_longest_unread_first_and_those_never_read_before_them(catalog, store):
    store("young", ago=HOUR)
    store("never", verified_at=None)
    store("old", ago=3 * HOUR)
    store("pending", ago=9 * HOUR, state="pending")
    assert keys(catalog) == ["never", "old", "young"]


def test_copy_that_was_verified_by_a_clock_that_was_ahead_counts_as_never_read(catalog, store):
    store("old", ago=3 * HOUR)
    store("ahead", ago=-9000 * HOUR)
    assert keys(catalog) == ["ahead", "old"]


@pytest.mark.parametrize("never", [True, False])
def test_copies_come_whole_over_page_borders_also_where_they_were_read_in_the_same_instant(catalog, store, monkeypatch, never):
    monkeypatch.setattr(module, "COPIES_PAGE", 2)
    instant = catalog.database.now() - HOUR
    for number in range(5):
        store(f"{number}", verified_at=None if never else instant)
    store("later", ago=timedelta(minutes=1))
    assert keys(catalog) == ["0", "1", "2", "3", "4", "later"]


def test_copies_that_are_recorded_on_the_way_do_not_come_again(catalog, store, monkeypatch):
    monkeypatch.setattr(module, "COPIES_PAGE", 2)
    for number in range(5):
        store(f"{number}", ago=(9 - number) * HOUR)
    seen = []
    for version in catalog.verification.copies(Scope()):
        seen.append(version.key)
        catalog.verification.record_good([(version, written())])
    assert seen == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("scope", "found"),
    [
        ({"storage": "azure"}, {"cars/b"}),
        ({"key": "cars/a"}, {"cars/a"}),
        ({"prefix": "cars/"}, {"cars/a", "cars/b"}),
        ({"prefix": "Cars/"}, {"Cars/a"}),
        ({"prefix": "100%_"}, {"100%_off"}),
        ({"prefix": "x\udcff\0"}, {"x\udcff\0y"}),
        ({"prefix": "cars/", "storage": "s3"}, {"cars/a"}),
        ({"prefix": "nothing"}, set()),
    ],
)
def test_copies_are_chosen_by_name(catalog, store, scope, found):
    for key in ("cars/a", "Cars/a", "100%_off", "100 off", "x\udcff\0y"):
        store(key)
    store("cars/b", storage="azure")
    assert set(keys(catalog, **scope)) == found
    assert catalog.verification.total(Scope(**scope)) == (len(found), 8 * len(found))


def test_copies_are_chosen_by_when_they_were_read(catalog, store):
    store("young", ago=HOUR)
    store("old", ago=3 * HOUR)
    store("never", verified_at=None)
    before = catalog.database.now() - 2 * HOUR
    assert keys(catalog, before=before) == ["never", "old"]
    assert catalog.verification.total(Scope(before=before)) == (2, 16)


def test_total_of_nothing_is_nothing(catalog):
    assert catalog.verification.total(Scope()) == (0, 0)


def test_batches_are_the_bytes_of_copies_by_when_they_were_read(catalog, store):
    store("a", ago=timedelta(minutes=1), stored_size=1)
    old = store("b", ago=70 * HOUR, stored_size=10)
    store("c", ago=70 * HOUR - timedelta(seconds=1), stored_size=100)
    store("d", verified_at=None, stored_size=1000)
    store("e", ago=-HOUR, stored_size=10_000)
    store("f", ago=90 * HOUR, state="pending", stored_size=100_000)
    never, first, *others = catalog.verification.batches(HOUR * 24 * 365)
    assert never == Batch(read_at=None, size=11_000)
    assert first.read_at == old.verified_at
    assert first.size + sum(other.size for other in others) == 111


def test_batches_of_no_copies_are_none(catalog):
    assert catalog.verification.batches(timedelta(microseconds=1)) == []


def test_sample_has_some_at_random_and_of_the_newest_and_largest_the_others(catalog, store):
    for number in range(10):
        store(f"f{number}", ago=(20 - number) * HOUR, size=number if number != 3 else 1000)
    store("pending", state="pending", size=10**9)
    store("deleted", deleted=True, size=10**9)
    store("older", newest=False, size=10**9)
    chance, others = catalog.verification.sample(2)
    names = [version.key for version in [*chance, *others]]
    assert len(chance) == 2
    assert len(names) == len(set(names))
    assert {"f9", "f8", "f3"} <= set(names) <= {f"f{number}" for number in range(10)}
    assert catalog.verification.restorable() == (10, sum(range(10)) - 3 + 1000)


def test_sample_is_another_one_each_time(catalog, store):
    for number in range(12):
        store(f"{number}")
    assert len({frozenset(version.key for version in catalog.verification.sample(3)[0]) for _ in range(12)}) > 1


# ---- what was found ----------------------------------------------------------------------------------------------------------


def written(sha256="bb" * 32, size=8):
    return Written(sha256="aa" * 32, size=10, stored_size=size, stored_sha256=sha256)


def test_good_copies_are_verified_now_and_known_as_they_are(catalog, store):
    before = catalog.database.now()
    good = [store("a", ago=HOUR), store("b", ago=HOUR, stored_at=None)]
    catalog.verification.record_good([(version, written("cc" * 32, 99)) for version in good])
    for name in ("a-1", "b-1"):
        version = version_of_row(catalog, name)
        assert version.verified_at >= before
        assert (version.stored_sha256, version.stored_size) == ("cc" * 32, 99)


@pytest.mark.parametrize("change", [{"state": "pruned"}, {"state": "pending"}, {"stored_at": "later"}])
def test_copy_that_was_pruned_or_stored_anew_meanwhile_is_left_as_it_is(catalog, store, change):
    version = store("a", ago=HOUR)
    values = {name: catalog.database.now() if value == "later" else value for name, value in change.items()}
    with catalog.database.writing() as connection:
        connection.execute(sa.update(versions).values(**values))
    before = version_of_row(catalog, "a-1")
    assert not catalog.verification.is_as_it_was(version)
    catalog.verification.record_good([(version, written("cc" * 32))])
    assert catalog.verification.claim_bad(version, LEASE, reason="bad") is None
    assert version_of_row(catalog, "a-1") == before


def test_recording_no_copies_does_nothing(catalog):
    catalog.verification.record_good([])


def test_bad_copy_counts_no_more_and_is_due_but_nobody_elses_until_it_is_given_back(catalog, rival, store):
    version = store("a", ago=HOUR)
    claim = catalog.verification.claim_bad(version, LEASE, reason="its copy was corrupt")
    found = version_of_row(catalog, "a-1")
    assert (found.state, found.reason, found.fence) == (VersionState.PENDING, "its copy was corrupt", version.fence + 1)
    assert rival.work.dispatch(10, LEASE) == []
    assert claim_row(rival, "a-1", LEASE) is None
    assert catalog.verification.claim_bad(version, LEASE, reason="twice") is None
    catalog.work.give_back([claim], timedelta(0), reason=found.reason)
    assert [version.source_id for version in rival.work.dispatch(10, LEASE)] == ["a-1"]
    taken = claim_row(rival, "a-1", LEASE)
    assert (taken.version.attempts, taken.version.reason) == (1, "its copy was corrupt")


def test_bad_copy_whose_finder_died_is_due_when_the_lease_has_run_out(catalog, rival, store):
    catalog.verification.claim_bad(store("a"), LEASE, reason="its copy was corrupt")
    with catalog.database.writing() as connection:
        connection.execute(sa.update(versions).values(lease_until=catalog.database.now() - HOUR))
    assert [version.source_id for version in rival.work.dispatch(10, LEASE)] == ["a-1"]


def test_bad_copy_is_recorded_so_that_no_power_cut_takes_it_back(catalog, store, monkeypatch):
    durable = []
    real = catalog.database.writing
    monkeypatch.setattr(catalog.database, "writing", lambda **options: durable.append(options) or real(**options))
    catalog.verification.claim_bad(store("a"), LEASE, reason="bad")
    assert {"durable": True} in durable


def test_standing_counts_what_is_overdue_and_names_the_last_that_were_bad(catalog, store):
    now = catalog.database.now()
    assert catalog.verification.standing(now).oldest_at is None
    store("a", ago=HOUR)
    oldest = store("b", ago=5 * HOUR)
    store("c", ago=9 * HOUR, state="pending")
    for number in range(module.REMEMBERED + 3):
        catalog.verification.note_found({"key": f"k{number}\udcff"})
    standing = catalog.verification.standing(now - 2 * HOUR)
    assert (standing.oldest_at, standing.overdue, standing.found) == (oldest.verified_at, 1, module.REMEMBERED + 3)
    assert [one["key"] for one in standing.latest] == [f"k{number}\udcff" for number in range(3, module.REMEMBERED + 3)]


def test_copy_that_a_rebuild_found_is_overdue_by_when_it_was_written(catalog, store):
    now = catalog.database.now()
    store("just written", verified_at=None)
    assert catalog.verification.standing(now - 2 * HOUR).overdue == 0
    store("long ago", ago=5 * HOUR, verified_at=None)
    assert catalog.verification.standing(now - 2 * HOUR).overdue == 1


def test_longest_unread_copies_are_found_by_the_index(catalog, store):
    """Without it, each page of a million copies would sort them all."""
    store("a")
    order = "SELECT id FROM versions WHERE state = 'stored' AND verified_at >= 5 ORDER BY verified_at, id LIMIT 5"
    with catalog.engine.connect() as connection:
        if catalog.engine.dialect.name == "sqlite":
            plan = " ".join(str(row) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {order}"))
            assert "TEMP B-TREE" not in plan
        else:
            connection.exec_driver_sql("SET enable_seqscan = off")
            plan = " ".join(str(row) for row in connection.exec_driver_sql(f"EXPLAIN {order}"))
    assert "ix_versions_verified" in plan
