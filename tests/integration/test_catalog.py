"""The catalog, on SQLite and on PostgreSQL: the same tests."""

from contextlib import closing
from datetime import timedelta

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from cbk import errors
from cbk.edges.catalog import Catalog, RefusedRow, RowChanges
from cbk.edges.catalog.database.connection import refuse_network_share
from cbk.edges.catalog.database.schema import leases, metadata, versions
from cbk.model import AcceptedRow, DeclinedRow, VersionState, Written
from cbk.rules.backup.retry import FetchOutcome
from cbk.rules.intake.intake import candidate_place_keys, plan_intake
from cbk.rules.intake.version_selection import Transition
from cbk.rules.lifecycle import StateEvent
from tests.in_process_site import claim_row, store

LEASE = timedelta(minutes=2)
WRITTEN = Written(sha256="aa" * 32, size=10, stored_size=8, stored_sha256="bb" * 32)


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog_url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalog.db"
    postgres = request.getfixturevalue("postgres")
    return postgres.url(request.getfixturevalue("pg_database"))


@pytest.fixture
def catalog(catalog_url):
    catalog = Catalog(catalog_url, holder="one")
    catalog.upgrade()
    yield catalog
    catalog.close()


@pytest.fixture
def rival(catalog, catalog_url):
    """The same catalog, opened by another worker."""
    rival = Catalog(catalog_url, holder="two")
    yield rival
    rival.close()


def row(number=1, *, key="cars/a.png", source_id=None, sha256="aa" * 32):
    return AcceptedRow(
        source_id=source_id or f"{key}-{number}",
        storage="s3",
        key=key,
        number=number,
        sha256=sha256,
        link="https://h/x",
        content_type="image/png",
    )


def take(catalog, *rows, refused=()):
    names = {(row.storage, row.key) for row in rows}
    plan = plan_intake(
        rows,
        known=catalog.intake.known_versions(names, {row.number for row in rows}),
        taken=catalog.intake.occupied_places(candidate_place_keys(rows, str)),
        bucket_of=str,
    )
    return catalog.intake.write(RowChanges(plan=plan, refused=[RefusedRow(row=row) for row in refused]))


def states(catalog):
    return {v.source_id: v.state.value for v in catalog.report.versions()}


def expire_leases(catalog):
    with catalog.database.writing() as connection:
        connection.execute(
            sa.update(versions).where(versions.c.lease_until.is_not(None)).values(lease_until=catalog.database.now() - LEASE)
        )


def test_upgrade_makes_exactly_the_tables_that_the_code_speaks_of(catalog):
    def is_declared(_object, name, *_):
        # Another one in each database, and one that only SQLite has.
        return name not in {"ix_files_folder", "uq_version_counts_kind"}

    with catalog.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_object": is_declared})
        assert compare_metadata(context, metadata) == []


def test_upgrade_a_second_time_changes_nothing(catalog):
    assert catalog.upgrade() is False


def test_require_current_names_the_command_where_there_are_no_tables(catalog_url):
    with closing(Catalog(catalog_url, holder="one")) as catalog, pytest.raises(errors.CatalogOutdated) as caught:
        catalog.require_current()
    assert "run `cbk init`" in caught.value.hint


def test_sqlite_catalog_is_kept_in_wal_mode(tmp_path):
    with closing(Catalog(f"sqlite:///{tmp_path}/c.db", holder="one")) as catalog:
        catalog.upgrade()
        with catalog.engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


@pytest.mark.parametrize(("kind", "refused"), [("nfs4", True), ("cifs", True), ("ext4", False)])
def test_sqlite_catalog_on_a_network_share_is_refused_with_a_hint(tmp_path, kind, refused):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/root / ext4 rw 0 0\nserver:/x {tmp_path}/with\\040blank {kind} rw 0 0\n")
    folder = tmp_path / "with blank" / ".cbk"
    folder.mkdir(parents=True)
    if not refused:
        refuse_network_share(folder / "catalog.db", mounts)
        return
    with pytest.raises(errors.CatalogMisplaced) as caught:
        refuse_network_share(folder / "catalog.db", mounts)
    assert "PostgreSQL" in caught.value.hint


def test_catalog_that_is_away_is_unavailable_and_tells_no_password():
    url = "postgresql+psycopg://cbk:hunter2@127.0.0.1:1/nothing"
    with closing(Catalog(url, holder="one", timeout_seconds=1)) as catalog, pytest.raises(errors.CatalogUnavailable) as caught:
        catalog.database.now()
    assert "hunter2" not in str(caught.value) + catalog.place


def test_new_file_is_due_with_its_place(catalog):
    assert take(catalog, row()) == []
    [version] = catalog.report.versions()
    assert (version.place, version.state, version.due_at is not None) == ("s3/cars/a", VersionState.PENDING, True)


def test_intake_of_the_same_rows_again_adds_nothing(catalog):
    take(catalog, row())
    take(catalog, row())
    assert len(list(catalog.report.versions())) == 1


def test_second_key_of_the_same_folder_keeps_its_extension(catalog):
    take(catalog, row(key="cars/a.png"), row(key="cars/a.jpg"))
    take(catalog, row(key="Cars/A.gif"))
    assert [v.place for v in catalog.report.versions()] == ["s3/cars/a", "s3/cars/a.jpg", "s3/Cars/A.gif"]


@pytest.mark.parametrize("key", ["nul\0.txt", "lone\ud800.txt", "escape\uf8ff0000.txt"])
def test_key_that_no_database_can_hold_comes_back_as_it_was(catalog, key):
    take(catalog, row(key=key, source_id="1"), row(key="beside.txt", source_id="2"))
    assert [v.key for v in catalog.report.versions()] == [key, "beside.txt"]
    assert [v.source_id for v in catalog.work.versions_named("s3", key)] == ["1"]


def test_version_known_with_another_hash_is_declined_and_never_overwrites(catalog):
    take(catalog, row(1, sha256="aa" * 32))
    take(catalog, row(1, sha256="cc" * 32, source_id="forged"))
    [version], [declined] = catalog.report.versions(), catalog.report.declined_rows()
    assert version.sha256 == "aa" * 32
    assert (declined.source_id, "higher Version" in declined.reason) == ("forged", True)


def test_file_of_several_versions_is_reported_for_a_decision(catalog):
    take(catalog, row(1))
    [file_id] = take(catalog, row(2))
    assert {v.number for v in catalog.work.versions_of_file(file_id)} == {1, 2}
    assert catalog.report.counts().files == 1


def test_declined_row_keeps_when_it_was_first_seen_and_can_be_forgiven(catalog):
    bad = DeclinedRow(source_id="9", reason="Hash is not a SHA-256", key="k")
    take(catalog, refused=[bad])
    take(catalog, refused=[bad])
    assert list(catalog.report.declined_rows()) == [bad]
    catalog.intake.clear_declined(catalog.intake.declined_ids(10))
    assert list(catalog.report.declined_rows()) == []


def test_dispatch_takes_each_version_once_and_no_more_than_asked(catalog, rival):
    take(catalog, *(row(key=f"f{i}.txt") for i in range(5)))
    first, second = catalog.work.dispatch(3, LEASE), rival.work.dispatch(10, LEASE)
    assert (len(first), len(second)) == (3, 2)
    assert catalog.work.in_flight() == 5
    assert not catalog.work.has_backlog()


def test_dispatch_puts_the_link_that_dies_first_in_front(catalog):
    late, never, early = (
        AcceptedRow(source_id=name, storage="s3", key=f"{name}.txt", number=1, sha256="aa" * 32, link=link)
        for name, link in (
            ("late", "https://h/x?X-Amz-Date=20990101T000000Z&X-Amz-Expires=600"),
            ("never", "https://h/x"),
            ("early", "https://h/x?X-Amz-Date=20980101T000000Z&X-Amz-Expires=600"),
        )
    )
    take(catalog, late, never, early)
    assert [v.source_id for v in catalog.work.dispatch(10, LEASE)] == ["early", "late", "never"]


def test_work_lost_with_the_broker_is_dispatched_again_once_its_lease_has_run_out(catalog):
    take(catalog, row())
    catalog.work.dispatch(10, LEASE)
    assert catalog.work.silent(10) == []
    expire_leases(catalog)
    assert catalog.work.silent(10) == ["cars/a.png-1"]
    assert len(catalog.work.dispatch(10, LEASE)) == 1


def test_message_that_still_waits_keeps_its_version_from_being_sent_again(catalog):
    take(catalog, row())
    catalog.work.dispatch(10, LEASE)
    expire_leases(catalog)
    catalog.work.extend_dispatched(["cars/a.png-1"], LEASE)
    assert catalog.work.dispatch(10, LEASE) == []


def test_undo_dispatch_makes_it_due_at_once(catalog):
    take(catalog, row())
    catalog.work.undo_dispatch(v.id for v in catalog.work.dispatch(10, LEASE))
    assert len(catalog.work.dispatch(10, LEASE)) == 1


def test_claim_is_given_to_one_worker_only(catalog, rival):
    take(catalog, row())
    catalog.work.dispatch(10, LEASE)
    assert claim_row(catalog, "cars/a.png-1", LEASE) is not None
    assert claim_row(rival, "cars/a.png-1", LEASE) is None
    assert claim_row(catalog, "cars/a.png-1", LEASE) is None


def test_worker_that_slept_through_its_lease_can_neither_renew_nor_record(catalog, rival):
    take(catalog, row())
    sleeper = claim_row(catalog, "cars/a.png-1", LEASE)
    expire_leases(catalog)
    other = claim_row(rival, "cars/a.png-1", LEASE)
    assert catalog.work.renew([sleeper], LEASE) == [sleeper]
    assert catalog.work.record_stored([(sleeper, WRITTEN)]) == [sleeper]
    with pytest.raises(errors.LeaseLost):
        catalog.work.record_outcome(sleeper, FetchOutcome(state=VersionState.MISSING, reason="late"))
    catalog.work.give_back([sleeper], LEASE, reason="late")
    assert (states(catalog), catalog.work.renew([other], LEASE)) == ({"cars/a.png-1": "pending"}, [])
    store(rival, other, WRITTEN)
    assert states(catalog) == {"cars/a.png-1": "stored"}


def test_same_process_that_slept_through_its_lease_is_fenced_off_too(catalog):
    take(catalog, row())
    sleeper = claim_row(catalog, "cars/a.png-1", LEASE)
    expire_leases(catalog)
    assert claim_row(catalog, "cars/a.png-1", LEASE).fence == sleeper.fence + 1
    with pytest.raises(errors.LeaseLost):
        store(catalog, sleeper, WRITTEN)


def test_stored_version_is_not_claimed_again(catalog):
    take(catalog, row())
    store(catalog, claim_row(catalog, "cars/a.png-1", LEASE), WRITTEN)
    [version] = catalog.report.versions()
    assert (version.size, version.stored_size, version.stored_sha256) == (10, 8, "bb" * 32)
    assert version.stored_at == version.verified_at
    assert claim_row(catalog, "cars/a.png-1", LEASE) is None
    assert catalog.work.dispatch(10, LEASE) == []


def test_failed_version_is_due_only_at_its_time(catalog):
    take(catalog, row())
    claim = claim_row(catalog, "cars/a.png-1", LEASE)
    catalog.work.record_outcome(claim, FetchOutcome(state=VersionState.FAILED, reason="503", due_at=catalog.database.now() + LEASE))
    assert catalog.work.dispatch(10, LEASE) == []
    assert claim_row(catalog, "cars/a.png-1", LEASE) is None


def test_give_back_does_not_count_the_attempt(catalog):
    take(catalog, row())
    catalog.work.give_back([claim_row(catalog, "cars/a.png-1", LEASE)], timedelta(0), reason="disk full")
    again = claim_row(catalog, "cars/a.png-1", LEASE).version
    assert (again.attempts, again.reason) == (1, "disk full")


def test_fresh_link_makes_an_expired_version_due(catalog):
    take(catalog, row())
    claim = claim_row(catalog, "cars/a.png-1", LEASE)
    catalog.work.record_outcome(claim, FetchOutcome(state=VersionState.EXPIRED, reason="the link has expired"))
    [(version, digest)] = catalog.work.refreshable(10)
    assert (version.source_id, digest != "") == ("cars/a.png-1", True)
    catalog.work.note_links([(version.id, "fresh", None)], checked=[version.id], due={version.id})
    assert [v.source_id for v in catalog.work.dispatch(10, LEASE)] == ["cars/a.png-1"]


def test_transition_never_touches_a_stored_version(catalog):
    take(catalog, row())
    claim = claim_row(catalog, "cars/a.png-1", LEASE)
    store(catalog, claim, WRITTEN)
    catalog.work.apply([Transition(version_id=claim.version.id, event=StateEvent.OVERTAKEN, reason="late", due=False)])
    assert states(catalog) == {"cars/a.png-1": "stored"}


def test_lease_is_held_by_one_until_it_is_released(catalog, rival):
    assert catalog.leases.acquire("poll", LEASE)
    assert catalog.leases.acquire("poll", LEASE)
    assert not rival.leases.acquire("poll", LEASE)
    rival.leases.release("poll")
    assert not rival.leases.acquire("poll", LEASE)
    catalog.leases.release("poll")
    assert rival.leases.acquire("poll", LEASE)


def test_transaction_of_a_worker_that_is_stopped_within_it_ends_by_itself_and_records_nothing(postgres, pg_database):
    url = postgres.url(pg_database)
    patient = f"{url}?options=-c%20lock_timeout%3D20s"
    with closing(Catalog(url, holder="stopped", timeout_seconds=1)) as stopped, closing(Catalog(patient, holder="other")) as other:
        stopped.upgrade()

        def take_the_lease_and_stop_before_the_end():
            with stopped.database.writing() as connection:
                connection.execute(sa.insert(leases).values(name="poll", holder="stopped", until=stopped.database.later_sql(LEASE)))
                assert other.leases.acquire("poll", LEASE)

        with pytest.raises(errors.CatalogUnavailable):
            take_the_lease_and_stop_before_the_end()
        with stopped.database.reading() as connection:
            assert connection.scalar(sa.select(leases.c.holder)) == "other"


def test_lease_whose_holder_fell_silent_goes_to_another(catalog, rival):
    assert catalog.leases.acquire("poll", timedelta(0))
    assert rival.leases.acquire("poll", LEASE)


def test_facts_are_kept_replaced_and_forgotten(catalog):
    catalog.facts.set(a="1", b="2")
    catalog.facts.set(a="3", b=None)
    assert {name: value for name, value in catalog.facts.all().items() if not name.endswith(".counters")} == {"a": "3"}


def test_counts_count_files_by_their_newest_version(catalog):
    take(catalog, row(1), row(2), row(key="b.txt"))
    store(catalog, claim_row(catalog, "b.txt-1", LEASE), WRITTEN)
    counts = catalog.report.counts()
    assert (counts.files, counts.protected, counts.copies, counts.size, counts.stored_size) == (2, 1, 1, 10, 8)
    assert counts.by_state == {VersionState.PENDING: 1, VersionState.STORED: 1}
    assert counts.oldest_unprotected_at <= counts.now


def test_versions_are_listed_whole_over_many_pages_and_filtered(catalog):
    take(catalog, *(row(key=f"p%/{i}.txt") for i in range(1200)), row(key="px/other.txt"))
    assert len(list(catalog.report.versions())) == 1201
    assert len(list(catalog.report.versions(prefix="p%/"))) == 1200
    assert list(catalog.report.versions(storage="azure")) == []
