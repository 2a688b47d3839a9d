"""Removals, brakes and holds in the catalog, on SQLite and on PostgreSQL: the same tests."""

import re
import threading
import uuid
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from cbk.edges.catalog import Catalog, NewDelete, RowChanges, Verdict
from cbk.edges.catalog.database.migration import migrate as migrate_tables
from cbk.edges.catalog.database.schema import brakes, covers, files, metadata, removals, versions
from cbk.edges.catalog.intake.rows import Counters
from cbk.errors import CatalogUnavailable, LeaseLost
from cbk.model import AcceptedRow, BrakeState, RemovalKind, RemovalOutcome, VersionState, Written
from cbk.rules.intake.intake import candidate_place_keys, plan_intake
from cbk.rules.lifecycle import REMOVAL_OUTCOMES
from cbk.rules.retention.coverage import cover
from tests.in_process_site import claim_row
from tests.in_process_site import store as record_stored

LEASE = timedelta(minutes=2)
GRACE = timedelta(days=7)
SLOT = timedelta(hours=12)
NO_TIME = timedelta(0)
HISTORY = 20_000


@contextmanager
def database(request, folder):
    """The URL of a database that is empty."""
    if request.param == "sqlite":
        yield f"sqlite:///{folder}/catalog.db"
        return
    postgres = request.getfixturevalue("postgres").start()
    name = f"test_{uuid.uuid4().hex}"
    postgres.create_database(name)
    yield postgres.url(name)
    postgres.start().execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def opened(request, tmp_path_factory):
    """A catalog, opened by two workers: one for all tests, since making the tables takes longer than they do."""
    with (
        database(request, tmp_path_factory.mktemp("catalog")) as url,
        closing(Catalog(url, holder="one")) as catalog,
        closing(Catalog(url, holder="two")) as rival,
    ):
        catalog.upgrade()
        yield catalog, rival


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


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request, tmp_path):
    """A catalog without tables."""
    with database(request, tmp_path) as url, closing(Catalog(url, holder="one")) as catalog:
        yield catalog


def take(catalog, *named, poll=0):
    """Take in rows of (key, number), whose Ids are the key's first letter and the number."""
    rows = [
        AcceptedRow(source_id=f"{key[0]}{number}", storage="s3", key=key, number=number, sha256="aa" * 32, link="https://h/x")
        for key, number in named
    ]
    plan = plan_intake(
        rows,
        known=catalog.intake.known_versions({(row.storage, row.key) for row in rows}, {row.number for row in rows}),
        taken=catalog.intake.occupied_places(candidate_place_keys(rows, str)),
        bucket_of=str,
    )
    return catalog.intake.write(RowChanges(plan=plan, poll=poll))


def store(catalog, *named):
    """As `take`, and all of them have a copy."""
    take(catalog, *named)
    with catalog.database.writing() as connection:
        connection.execute(sa.update(versions).values(state="stored", due_at=None))


def coverage_of(catalog, key="a.txt", through=1):
    """What a delete covers that names this version."""
    [file_id] = {version.file_id for version in named(catalog, key)}
    entries = catalog.rows.of_files([file_id])[file_id]
    meant = next(entry for entry in entries if entry.number == through)
    return cover(meant, under_its_id=[meant], of_its_file=entries, deleted_at=None, poll=9, ids_are_numbers=False)


def delete(catalog, delete_id, key="a.txt", through=1, *, grace=GRACE, row_id=None):
    """A delete of that version of a file, which gets a copy if it is new; of no known file, if it is "unknown"."""
    if key != "unknown" and not named(catalog, key):
        store(catalog, (key, through))
    coverage = None if key == "unknown" else coverage_of(catalog, key, through)
    new = NewDelete(delete_id=delete_id, row_id=row_id or f"{key[0]}{through}", coverage=coverage)
    catalog.removals.record([new], grace, 0)
    return catalog.removals.of_delete(delete_id)


def replaced(catalog, *, grace=GRACE):
    """Schedule v1 of a.txt."""
    catalog.removals.schedule([v for v in named(catalog) if v.number == 1], [], grace, 0)
    return catalog.removals.of_version(next(v.id for v in named(catalog) if v.number == 1))


def named(catalog, key="a.txt"):
    return sorted(catalog.work.versions_named("s3", key), key=lambda version: version.number)


def states(catalog, key="a.txt"):
    return [version.state.value for version in named(catalog, key)]


def are_deleted(catalog, key="a.txt"):
    return [version.deleted for version in named(catalog, key)]


def all_go(removal, listed, _holds, _now):
    return Verdict(gone={version.id: "test" for version in listed if removal.covers(version)})


# ---- taking in ---------------------------------------------------------------------------------------------------------------


def test_delete_is_known_with_its_grace_and_marks_what_it_covers(catalog):
    store(catalog, ("a.txt", 1), ("a.txt", 2), ("a.txt", 3))
    before = catalog.database.now()
    removal = delete(catalog, "7", through=2)
    assert (removal.kind, removal.row_id, removal.through) == (RemovalKind.DELETED, "a2", 2)
    assert removal.due_at - removal.first_seen_at == GRACE
    assert before <= removal.first_seen_at <= catalog.database.now()
    assert (removal.open, removal.braked) == (True, False)
    assert are_deleted(catalog) == [True, True, False]
    assert set(catalog.removals.known(["7", "8"])) == {"7"}
    assert removal.covered == {version.id for version in named(catalog)[:2]}


def test_deletes_by_the_thousand_are_noted_in_one_go(catalog):
    store(catalog, ("a.txt", 1))
    deletes = [NewDelete(delete_id=str(number), row_id="x") for number in range(1200)]
    catalog.removals.record([*deletes, deletes[0]], GRACE, 0)
    assert len(catalog.removals.known([str(number) for number in range(1200)])) == 1200
    assert len(catalog.removals.unbound(5000)) == 1200
    assert catalog.rows.counters("deletes") == Counters(count=1200, total=sum(range(1200)))


def test_delete_that_is_noted_again_begins_anew_and_lets_go_of_its_old_file(catalog):
    store(catalog, ("a.txt", 1), ("b.txt", 1))
    first = delete(catalog, "7")
    second = delete(catalog, "7", "b.txt", row_id="b1")
    assert second.first_seen_at >= first.first_seen_at
    assert catalog.removals.count_open() == (1, 0)
    assert (are_deleted(catalog), are_deleted(catalog, "b.txt")) == ([False], [True])


def test_two_who_note_the_same_delete_at_once_note_it_once(catalog, rival):
    """Only a database that lets both in finds that out: the second is told to come again."""
    store(catalog, ("a.txt", 1))
    outcomes = at_once(lambda: delete(catalog, "7"), lambda: delete(rival, "7"))
    assert {type(outcome) for outcome in outcomes} <= {type(catalog.removals.of_delete("7")), CatalogUnavailable}
    assert catalog.removals.count_open() == (1, 0)


def test_delete_of_an_unknown_row_is_open_without_a_due_time_until_its_row_is_known(catalog):
    removal = delete(catalog, "7", "unknown", row_id="a1")
    assert (removal.file_id, removal.through, removal.due_at) == (None, None, None)
    store(catalog, ("a.txt", 1))
    before = catalog.database.now()
    catalog.removals.bind([(removal.id, coverage_of(catalog))], grace=GRACE)
    assert are_deleted(catalog) == [True]
    assert catalog.removals.of_delete("7").due_at >= before + GRACE


@pytest.mark.parametrize("outcome", [RemovalOutcome.TAKEN_BACK, RemovalOutcome.REJECTED])
def test_delete_that_ends_without_pruning_covers_nothing_any_more(catalog, outcome):
    store(catalog, ("a.txt", 1))
    removal = delete(catalog, "7")
    catalog.removals.withdraw(removal.id, outcome=outcome, reason="test")
    assert are_deleted(catalog) == [False]
    assert (catalog.removals.of_delete("7").open, catalog.removals.count_open()) == (False, (0, 0))


def test_file_stays_deleted_while_another_delete_of_it_stands(catalog):
    store(catalog, ("a.txt", 1))
    first, _ = delete(catalog, "7"), delete(catalog, "8")
    catalog.removals.withdraw(first.id, outcome=RemovalOutcome.TAKEN_BACK, reason="test")
    assert are_deleted(catalog) == [True]


def test_delete_whose_log_row_vanishes_is_taken_back_also_when_it_was_carried_out(catalog):
    store(catalog, ("a.txt", 1))
    removal = delete(catalog, "7")
    catalog.removals.carry_out(removal.id, all_go)
    assert (states(catalog), are_deleted(catalog)) == (["pruned"], [True])
    [file_id] = catalog.removals.forget_log_rows([removal.id])
    assert named(catalog)[0].file_id == file_id
    assert (named(catalog)[0].live, are_deleted(catalog)) == (True, [False])
    assert catalog.removals.of_delete("7") is None
    assert catalog.rows.counters("deletes").count == 0


@pytest.mark.parametrize("ended", [outcome for outcome in RemovalOutcome if outcome is not RemovalOutcome.OPEN])
@pytest.mark.parametrize("then", [outcome for outcome in RemovalOutcome if outcome is not RemovalOutcome.OPEN])
def test_removal_that_is_over_ends_differently_only_as_its_life_allows(catalog, ended, then):
    store(catalog, ("a.txt", 1))
    removal = delete(catalog, "7")
    catalog.removals.withdraw(removal.id, outcome=ended, reason="first")
    catalog.removals.withdraw(removal.id, outcome=then, reason="then")
    allowed = then in REMOVAL_OUTCOMES[ended]
    assert catalog.removals.of_delete("7").outcome is (then if allowed else ended)


def test_open_deletes_are_looked_at_in_turn(catalog):
    for delete_id in "123":
        delete(catalog, delete_id)
    looked = [removal.delete_id for _ in range(2) for removal in catalog.removals.next_to_check(2)]
    assert set(looked) == {"1", "2", "3"}


def test_row_that_comes_after_a_delete_is_live_whatever_number_it_bears(catalog):
    store(catalog, ("a.txt", 2))
    removal = delete(catalog, "7", through=2)
    catalog.removals.carry_out(removal.id, all_go)
    take(catalog, ("a.txt", 1), poll=1)
    assert are_deleted(catalog) == [False, True]
    assert not catalog.removals.of_delete("7").open


# ---- replaced ----------------------------------------------------------------------------------------------------------------


def test_older_copies_are_listed_until_they_are_scheduled_and_in_turn(catalog):
    store(catalog, ("a.txt", 1), ("a.txt", 2), ("b.txt", 1), ("b.txt", 2), ("c.txt", 1))
    [a], [b] = ({v.file_id for v in named(catalog, key)} for key in ("a.txt", "b.txt"))
    assert sorted([*catalog.removals.files_with_older_copies(1), *catalog.removals.files_with_older_copies(1)]) == [a, b]
    removal = replaced(catalog)
    assert (removal.kind, removal.due_at - removal.first_seen_at) == (RemovalKind.REPLACED, GRACE)
    assert catalog.removals.files_with_older_copies(10) == [b]
    replaced(catalog)
    assert catalog.removals.count_open() == (1, 0)


def test_version_that_a_person_keeps_gets_no_other_removal_and_one_that_is_free_does(catalog):
    store(catalog, ("a.txt", 1), ("a.txt", 2))
    catalog.removals.withdraw(replaced(catalog).id, outcome=RemovalOutcome.REJECTED, reason="test")
    assert catalog.removals.files_with_older_copies(10) == []
    assert replaced(catalog) is None


# ---- sending -----------------------------------------------------------------------------------------------------------------


def arm(catalog, limit=100, *, max_countdown=timedelta(minutes=15)):
    return [
        planned.removal.delete_id for planned in catalog.removals.arm(limit, max_countdown=max_countdown, patience=LEASE, read_in=1)
    ]


def test_what_comes_due_within_the_hop_is_sent_once(catalog):
    store(catalog, ("a.txt", 1))
    delete(catalog, "soon", grace=timedelta(minutes=14))
    delete(catalog, "late", grace=timedelta(minutes=16))
    assert catalog.removals.waits_to_be_sent(timedelta(minutes=15), 1)
    assert arm(catalog) == ["soon"]
    assert arm(catalog) == []
    assert not catalog.removals.waits_to_be_sent(timedelta(minutes=15), 1)
    assert catalog.removals.armed() == 1


def test_most_urgent_is_sent_first_and_no_more_than_asked(catalog):
    for delete_id, minutes in (("c", 3), ("a", 1), ("b", 2)):
        delete(catalog, delete_id, grace=timedelta(minutes=minutes))
    assert arm(catalog, 2) == ["a", "b"]
    assert arm(catalog, 2) == ["c"]


def test_lost_message_is_sent_again_after_a_while_and_one_that_was_not_sent_at_once(catalog):
    delete(catalog, "7", grace=NO_TIME)
    assert arm(catalog) == ["7"]
    [removal] = catalog.removals.known(["7"]).values()
    catalog.removals.disarm([removal.id])
    assert arm(catalog) == ["7"]
    catalog.removals.note_armed(removal.id, catalog.database.now() - LEASE)
    assert arm(catalog) == ["7"]
    catalog.removals.disarm_all()
    assert arm(catalog) == ["7"]
    assert catalog.removals.count_overdue(NO_TIME) == 1


def test_what_something_keeps_is_sent_last_and_takes_nobody_s_place(catalog):
    store(catalog, ("a.txt", 1))
    for delete_id in ("1", "2", "3"):
        removal = delete(catalog, delete_id, grace=NO_TIME)
        look_again = catalog.database.now() + LEASE
        catalog.removals.carry_out(removal.id, lambda *_, at=look_again: Verdict(kept="on hold", look_again_at=at))
    assert catalog.removals.armed() == 0
    catalog.removals.disarm_all()
    delete(catalog, "4", grace=timedelta(minutes=1))
    assert arm(catalog, 2) == ["4", "1"]
    assert catalog.removals.count_overdue(NO_TIME) == 0


def test_postponed_removal_is_due_later_and_not_on_its_way(catalog):
    removal = delete(catalog, "7", grace=NO_TIME)
    arm(catalog)
    catalog.removals.postpone(removal.id, removal.due_at + GRACE)
    assert catalog.removals.armed() == 0
    assert arm(catalog) == []


# ---- carrying out ------------------------------------------------------------------------------------------------------------


def test_carried_out_removal_records_what_went_and_is_over(catalog):
    store(catalog, ("a.txt", 1), ("a.txt", 2), ("a.txt", 3))
    removal = delete(catalog, "7", through=2)
    gone, verdict = catalog.removals.carry_out(removal.id, all_go)
    assert ([version.number for version in sorted(gone, key=lambda v: v.number)], verdict.kept) == ([1, 2], "")
    assert states(catalog) == ["pruned", "pruned", "stored"]
    assert all(version.pruned_at for version in named(catalog)[:2])
    assert {version.id for version in catalog.pruned_copies.leftovers(10)} == {version.id for version in gone}
    assert catalog.removals.of_delete("7").outcome == "done"
    assert catalog.removals.carry_out(removal.id, all_go) is None


def test_kept_removal_stays_open_with_its_reason(catalog):
    store(catalog, ("a.txt", 1))
    removal = delete(catalog, "7", grace=NO_TIME)
    gone, _ = catalog.removals.carry_out(removal.id, lambda *_: Verdict(kept="on hold", look_again_at=None))
    after = catalog.removals.of_delete("7")
    assert (gone, after.open, after.reason) == ([], True, "on hold")
    assert states(catalog) == ["stored"]


def test_judge_that_fails_changes_nothing(catalog):
    store(catalog, ("a.txt", 1))
    removal = delete(catalog, "7")
    with pytest.raises(ZeroDivisionError):
        catalog.removals.carry_out(removal.id, lambda *_: 1 / 0)
    assert (states(catalog), catalog.removals.of_delete("7")) == (["stored"], removal)


def test_removal_that_begins_anew_meanwhile_is_nothing_to_carry_out(catalog):
    store(catalog, ("a.txt", 1))
    first = delete(catalog, "7")
    with catalog.database.writing() as connection:
        connection.execute(sa.delete(covers))
        connection.execute(sa.delete(removals))
    assert catalog.removals.carry_out(first.id, all_go) is None


def test_prune_by_a_delete_ends_the_version_s_own_removal_too(catalog):
    store(catalog, ("a.txt", 1), ("a.txt", 2))
    own = replaced(catalog)
    catalog.removals.carry_out(delete(catalog, "7", through=2).id, all_go)
    assert catalog.removals.of_version(own.version_id) is None
    assert catalog.removals.count_open() == (0, 0)


def test_worker_that_slept_through_a_prune_records_nothing(catalog):
    take(catalog, ("a.txt", 1))
    claim = claim_row(catalog, "a1", LEASE)
    catalog.removals.carry_out(delete(catalog, "7").id, all_go)
    with pytest.raises(LeaseLost):
        record_stored(catalog, claim, Written(sha256="aa" * 32, size=1, stored_size=1, stored_sha256="bb" * 32))
    assert states(catalog) == ["pruned"]


def test_judge_is_told_of_the_worker_and_of_the_holds(catalog):
    take(catalog, ("a.txt", 1))
    claim_row(catalog, "a1", LEASE)
    hold = catalog.holds.add("a.txt", is_prefix=False, storage=None, until=None, reason="audit")
    told = {}

    def judge(removal, listed, holds, now):
        told.update(versions=listed, holds=holds, now=now)
        return Verdict(kept="test")

    catalog.removals.carry_out(delete(catalog, "7").id, judge)
    assert told["holds"] == [hold]
    assert told["versions"][0].claimed_until > told["now"]


# ---- several at once ---------------------------------------------------------------------------------------------------------


def at_once(*works):
    """What came of each, done in threads of their own."""
    outcomes = [None] * len(works)
    ready = threading.Barrier(len(works))

    def do(number, work):
        ready.wait(30)
        try:
            outcomes[number] = work()
        except Exception as error:  # noqa: BLE001 - the test looks at it
            outcomes[number] = error

    threads = [threading.Thread(target=do, args=each) for each in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes


def test_removal_is_carried_out_by_one_of_many_who_try(catalog, rival):
    store(catalog, ("a.txt", 1))
    removal = delete(catalog, "7")
    outcomes = at_once(*(lambda who=who: who.removals.carry_out(removal.id, all_go) for who in (catalog, rival) * 3))
    assert [outcome is None for outcome in outcomes].count(False) == 1
    assert not any(isinstance(outcome, Exception) for outcome in outcomes)


def test_two_removals_of_one_file_do_not_wait_for_each_other_for_ever(catalog, rival):
    for round_number in range(5):
        key = f"{'abcde'[round_number]}.txt"
        store(catalog, (key, 1), (key, 2))
        old = named(catalog, key)[0]
        catalog.removals.schedule([old], [], GRACE, 0)
        own = catalog.removals.of_version(old.id)
        whole = delete(catalog, str(round_number), key, 2)
        outcomes = at_once(
            lambda own=own: catalog.removals.carry_out(own.id, all_go),
            lambda whole=whole: rival.removals.carry_out(whole.id, all_go),
        )
        assert not any(isinstance(outcome, Exception) for outcome in outcomes)
        assert states(catalog, key) == ["pruned", "pruned"]


def test_row_that_a_prune_looks_at_stays_as_it_is_until_the_prune_is_recorded(catalog, rival):
    """A claim, and a delete that is taken back, wait for a prune that has begun to decide."""
    take(catalog, ("a.txt", 1))
    removal = delete(catalog, "7")
    deciding, claims = threading.Event(), []

    def claim():
        deciding.wait(30)
        claims.append(claim_row(rival, "a1", LEASE))

    def judge(removal, listed, holds, now):
        deciding.set()
        claimer.join(0.5)  # it cannot get through: this is no condition to wait for, but for nothing to happen
        return all_go(removal, listed, holds, now)

    claimer = threading.Thread(target=claim)
    claimer.start()
    catalog.removals.carry_out(removal.id, judge)
    claimer.join(30)
    assert claims == [None]


def test_brake_that_is_pulled_while_a_prune_waits_for_the_lock_holds_it(catalog, rival):
    store(catalog, ("a.txt", 1))
    removal = delete(catalog, "7")
    seen, ready = [], threading.Event()

    def prune():
        ready.set()
        rival.removals.carry_out(removal.id, lambda removal, *_: seen.append(removal.braked) or Verdict(kept="test"))

    pruner = threading.Thread(target=prune)
    with catalog.database.writing() as connection:
        values = {"pulled_at": removal.first_seen_at, "stored_files": 1, "state": "held"}
        brake_id = connection.execute(sa.insert(brakes).values(**values)).inserted_primary_key[0]
        connection.execute(sa.update(removals).values(brake_id=brake_id))
        pruner.start()
        ready.wait(30)
        pruner.join(0.5)  # it waits for this transaction
    pruner.join(30)
    assert seen == [True]


# ---- bytes -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pruned(catalog):
    """A version that is pruned in the record."""
    store(catalog, ("a.txt", 1))
    [version], _ = catalog.removals.carry_out(delete(catalog, "7").id, all_go)
    return version


def test_bytes_are_taken_once(catalog, pruned):
    taken = []
    for _ in range(2):
        catalog.pruned_copies.remove_bytes(pruned.id, lambda: taken.append(1), trash=NO_TIME)
    assert taken == [1]
    assert catalog.pruned_copies.leftovers(10) == []


def test_bytes_that_could_not_be_taken_are_left_for_later(catalog, pruned):
    with pytest.raises(ZeroDivisionError):
        catalog.pruned_copies.remove_bytes(pruned.id, lambda: 1 / 0, trash=NO_TIME)
    assert [version.id for version in catalog.pruned_copies.leftovers(10)] == [pruned.id]


def test_bytes_of_a_version_that_was_brought_back_are_not_taken(catalog, pruned):
    for delete_removal in catalog.removals.deletes_of_file(pruned.file_id):
        catalog.removals.withdraw(delete_removal.id, outcome=RemovalOutcome.REJECTED, reason="a person")
    assert catalog.work.make_due([pruned.id], reason="undeleted") == 1
    taken = []
    catalog.pruned_copies.remove_bytes(pruned.id, lambda: taken.append(1), trash=NO_TIME)
    assert taken == []


def test_version_that_is_deleted_is_not_made_due_by_who_looked_before(catalog, pruned):
    assert catalog.work.make_due([pruned.id], reason="its copy was not on the disk") == 0
    catalog.work.note_links([(pruned.id, "fresh", None)], checked=[], due={pruned.id})
    assert states(catalog) == ["pruned"]
    assert catalog.work.dispatch(10, LEASE) == []


def test_bytes_that_came_after_the_prune_have_to_go_too(catalog, pruned):
    catalog.pruned_copies.remove_bytes(pruned.id, lambda: None, trash=NO_TIME)
    assert catalog.pruned_copies.note_leftover(pruned.id)
    assert [version.id for version in catalog.pruned_copies.leftovers(10)] == [pruned.id]
    store(catalog, ("b.txt", 1))
    assert not catalog.pruned_copies.note_leftover(named(catalog, "b.txt")[0].id)


def test_trash_keeps_a_name_until_its_time_is_over(catalog, pruned):
    catalog.pruned_copies.remove_bytes(pruned.id, lambda: "1.gzip", trash=GRACE)
    [version] = catalog.pruned_copies.in_trash(file_id=pruned.file_id)
    assert version.trash_name == "1.gzip"
    assert catalog.pruned_copies.in_trash(over=True) == []
    with catalog.database.writing() as connection:
        connection.execute(sa.update(versions).values(trash_until=catalog.database.now()))
    assert [each.id for each in catalog.pruned_copies.in_trash(over=True)] == [pruned.id]
    catalog.pruned_copies.out_of_trash(version)
    assert (catalog.pruned_copies.in_trash(), states(catalog)) == ([], ["pruned"])


def test_copy_that_is_back_from_the_trash_counts(catalog, pruned):
    catalog.pruned_copies.remove_bytes(pruned.id, lambda: "1.gzip", trash=GRACE)
    now = catalog.database.now()
    written = Written(sha256=pruned.sha256, size=1, stored_size=2, stored_sha256="cd" * 32, stored_at=now)
    catalog.pruned_copies.out_of_trash(pruned, written)
    [version] = named(catalog)
    assert (version.state, version.trash_name, version.pruned_at) == (VersionState.STORED, None, None)
    assert (version.stored_at, version.stored_sha256) == (now, "cd" * 32)


# ---- looking -----------------------------------------------------------------------------------------------------------------


def test_fingerprint_changes_with_removals_that_wait_and_with_nothing_else(catalog):
    store(catalog, ("a.txt", 1))
    prints = [catalog.removals.journal_fingerprints()]
    removal = delete(catalog, "7")
    prints.append(catalog.removals.journal_fingerprints())
    catalog.removals.postpone(removal.id, removal.due_at + GRACE)
    prints.append(catalog.removals.journal_fingerprints())
    catalog.removals.note_armed(removal.id, removal.due_at)
    assert catalog.removals.journal_fingerprints() == prints[-1]
    catalog.removals.withdraw(removal.id, outcome=RemovalOutcome.TAKEN_BACK, reason="")
    assert len({str(each) for each in prints}) == 3
    assert catalog.removals.journal_fingerprints() == prints[0] == {}


def test_plan_lists_pages_in_the_order_of_time_with_names(catalog, monkeypatch):
    monkeypatch.setattr("cbk.edges.catalog.retention.removals.REMOVALS_PAGE", 2)
    store(catalog, ("a_/x.txt", 1), ("aB/y.txt", 1), ("b.txt", 1), ("b.txt", 2))
    for number, key in enumerate(["a_/x.txt", "aB/y.txt", "b.txt"]):
        delete(catalog, str(number), key, grace=timedelta(minutes=9 - number))
    delete(catalog, "9", "unknown", row_id="404")
    catalog.removals.schedule([named(catalog, "b.txt")[0]], [], GRACE, 0)
    labels = ["s3/b.txt", "s3/aB/y.txt", "s3/a_/x.txt", "s3/b.txt v1"]
    assert [planned.label for planned in catalog.removals.planned()] == labels
    assert [planned.label for planned in catalog.removals.planned(prefix="a_")] == ["s3/a_/x.txt"]
    assert list(catalog.removals.planned(storage="azure")) == []


# ---- brakes ------------------------------------------------------------------------------------------------------------------


def test_removals_are_counted_by_the_slot_in_which_they_come_due(catalog):
    store(catalog, ("a.txt", 1))
    length = SLOT // timedelta(milliseconds=1)
    first = delete(catalog, "1")
    for delete_id, instant in (("2", 3 * SLOT), ("3", 3 * SLOT + SLOT / 2), ("4", 4 * SLOT)):
        removal = delete(catalog, delete_id)
        catalog.removals.postpone(
            removal.id, first.due_at.replace(year=2100, month=1, day=1, hour=0, minute=0, second=0, microsecond=0) + instant
        )
    delete(catalog, "5", "unknown", row_id="404")
    counted = catalog.brakes.count_by_slot(SLOT)
    assert sorted(counted.values()) == [1, 1, 2]
    assert all(isinstance(slot, int) for slot in counted)
    assert int(first.due_at.timestamp() * 1000) // length in counted


def test_brake_holds_what_comes_due_in_its_slots_and_nothing_else(catalog):
    store(catalog, ("a.txt", 1), ("b.txt", 1))
    near = delete(catalog, "1")
    far = delete(catalog, "2", "b.txt", grace=30 * GRACE, row_id="b1")
    unknown = delete(catalog, "3", "unknown", row_id="404")
    slot = min(catalog.brakes.count_by_slot(SLOT))
    brake_id = catalog.brakes.pull([slot], SLOT, counted=2, reason="test")
    assert catalog.removals.of_delete(near.delete_id).braked
    assert not catalog.removals.of_delete(far.delete_id).braked
    assert not catalog.removals.of_delete(unknown.delete_id).braked
    [brake] = catalog.brakes.all(BrakeState.HELD)
    assert (brake.id, brake.removals, brake.stored_files) == (brake_id, 1, 2)
    assert catalog.removals.count_open() == (2, 1)
    assert slot not in catalog.brakes.count_by_slot(SLOT)
    assert catalog.brakes.pull([slot], SLOT, counted=2, reason="test") is None
    assert len(catalog.brakes.all()) == 1
    assert arm(catalog, max_countdown=GRACE * 2) == []


@pytest.mark.parametrize(("approve", "is_open", "deleted"), [(True, True, True), (False, False, False)])
def test_brake_is_decided_once(catalog, approve, is_open, deleted):
    store(catalog, ("a.txt", 1))
    delete(catalog, "1")
    brake_id = catalog.brakes.pull(catalog.brakes.count_by_slot(SLOT), SLOT, counted=1, reason="test")
    assert catalog.brakes.decide(brake_id, approve=approve) is not None
    assert catalog.brakes.decide(brake_id, approve=not approve) is None
    assert catalog.brakes.decide(99, approve=approve) is None
    removal = catalog.removals.of_delete("1")
    assert (removal.open, removal.braked, are_deleted(catalog)) == (is_open, False, [deleted])
    assert catalog.brakes.all(BrakeState.HELD) == []


def test_window_counts_the_copies_that_were_here_when_it_began(catalog):
    store(catalog, ("a.txt", 1), ("b.txt", 1), ("c.txt", 1))
    now = catalog.database.now()
    with catalog.database.writing() as connection:
        connection.execute(sa.update(versions).values(stored_at=now - GRACE))
    delete(catalog, "1")
    start = catalog.brakes.window_start(now - GRACE)
    assert start.copies == 3
    store(catalog, ("d.txt", 1))
    delete(catalog, "2", "d.txt")
    with catalog.database.writing() as connection:
        connection.execute(sa.update(versions).where(versions.c.stored_at.is_(None)).values(stored_at=now + GRACE))
    assert catalog.brakes.window_start(now - GRACE) == start
    assert catalog.brakes.waiting(start, now - GRACE) == 1
    catalog.removals.carry_out(catalog.removals.of_delete("1").id, all_go)
    assert (catalog.brakes.used(start, now - GRACE), catalog.brakes.waiting(start, now - GRACE)) == (1, 0)


# ---- holds -------------------------------------------------------------------------------------------------------------------


def test_holds_are_told_apart_by_key_kind_and_storage(catalog):
    for is_prefix, storage in ((False, None), (True, None), (False, "s3"), (False, "azure")):
        catalog.holds.add("a.txt", is_prefix=is_prefix, storage=storage, until=None, reason="")
    assert len(catalog.holds.all()) == 4
    again = catalog.holds.add("a.txt", is_prefix=False, storage=None, until=None, reason="new")
    assert [hold.reason for hold in catalog.holds.all()] == ["new", "", "", ""]
    assert catalog.holds.release([again.id, 99]) == 1


def test_second_hold_takes_the_later_end(catalog):
    now = catalog.database.now()
    asked = [now + GRACE, now + LEASE, None, now + LEASE]
    ends = [catalog.holds.add("a.txt", is_prefix=False, storage=None, until=until, reason="x").until for until in asked]
    assert [end and round((end - now) / LEASE) for end in ends] == [round(GRACE / LEASE)] * 2 + [None, None]


@pytest.mark.parametrize(
    ("key", "is_prefix", "storage", "expected"),
    [
        ("a%/", True, None, 1),
        ("a", True, None, 2),
        ("", True, "s3", 3),
        ("b.txt", False, None, 1),
        ("b", False, None, 0),
        ("", True, "azure", 0),
    ],
)
def test_hold_counts_the_files_that_it_keeps(catalog, key, is_prefix, storage, expected):
    store(catalog, ("a%/x.txt", 1), ("aX/x.txt", 1), ("b.txt", 1))
    hold = catalog.holds.add(key, is_prefix=is_prefix, storage=storage, until=None, reason="")
    assert catalog.holds.files_under(hold) == expected


def test_key_that_no_database_can_hold_is_held_as_it_is(catalog):
    hold = catalog.holds.add("nul\0/\ud800", is_prefix=True, storage=None, until=None, reason="why\0not")
    assert catalog.holds.all() == [hold]
    assert (hold.key, hold.reason) == ("nul\0/\ud800", "why\0not")


# ---- the migration -----------------------------------------------------------------------------------------------------------


def migrate(catalog, revision):
    if not catalog.is_shared:
        Path(catalog.engine.url.database).touch()  # a catalog makes its file itself, and only where it is to be made
    with catalog.engine.begin() as connection:
        migrate_tables(connection, revision)


def test_catalog_of_the_first_release_keeps_its_versions_and_knows_their_rows(empty):
    migrate(empty, "0001")
    with empty.engine.begin() as connection:
        for highest, seen_at in ((10, 1_700_000_000_000), (20, 1_700_000_060_000)):
            connection.execute(sa.text(f"INSERT INTO marks (highest_id, seen_at) VALUES ({highest}, {seen_at})"))
        of_file = {
            "storage": "s3",
            "key": "a.txt",
            "bucket": "b",
            "place": "b/a",
            "name_digest": "11" * 32,
            "place_digest": "22" * 32,
        }
        connection.execute(sa.insert(files).values(**of_file))
        known = sa.table(
            "versions",
            *(
                sa.column(name, versions.c[name].type)
                for name in (
                    "file_id",
                    "number",
                    "source_id",
                    "sha256",
                    "state",
                    "newest",
                    "fence",
                    "first_seen_at",
                    "stored_at",
                    "size",
                )
            ),
        )
        now = empty.database.now()
        for number in (1, 2):
            connection.execute(
                sa.insert(known).values(
                    file_id=1,
                    number=number,
                    source_id=str(number),
                    sha256="aa" * 32,
                    state="stored",
                    newest=number == 2,
                    fence=number,
                    first_seen_at=now,
                    stored_at=now,
                    size=5,
                )
            )
    assert empty.upgrade() is True
    empty.require_current()
    assert empty.rows.counters("files").count == 2
    first, second = empty.work.versions_of_file(1)
    assert [first.state, first.size, first.sha256, first.fence] == [VersionState.STORED, 5, "aa" * 32, 1]
    assert (first.stored_at, second.newest, second.deleted, second.pruned_at) == (first.first_seen_at, True, False, None)
    assert empty.removals.files_with_older_copies(10) == [1]
    assert [entry.version_id for entry in empty.rows.of_files([1])[1]] == [first.id, second.id]
    assert (first.live, second.live, first.variant) == (True, True, "")
    assert empty.upgrade() is False


def test_upgrade_that_dies_half_way_is_done_again(empty, monkeypatch):
    migrate(empty, "0001")
    with empty.engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO marks (highest_id, seen_at) VALUES (10, 1)"))
    with monkeypatch.context() as patched:
        patched.setattr("alembic.op.drop_table", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            empty.upgrade()
    assert empty.upgrade() is True
    empty.require_current()


def test_copy_from_before_a_migration_is_put_back_row_for_row(empty):
    migrate(empty, "0001")

    def add(name):
        with empty.engine.begin() as connection:
            digests = {"name_digest": name * 64, "place_digest": name * 64}
            connection.execute(sa.insert(files).values(storage="s3", bucket="b", key=name, place=f"b/{name}", **digests))

    def keys():
        with empty.engine.connect() as connection:
            return connection.execute(sa.select(files.c.id, files.c.key).order_by(files.c.id)).all()

    add("a")
    empty.kept_copies.keep("0001")
    empty.try_upgrade()
    assert empty.revision == "0001"
    assert empty.upgrade() is True
    add("b")
    empty.kept_copies.put_back("0001")
    assert (empty.revision, keys(), empty.kept_copies.revisions()) == ("0001", [(1, "a")], ["0001"])
    add("c")
    assert keys() == [(1, "a"), (2, "c")]
    assert empty.upgrade() is True
    empty.require_current()


def test_copy_leaves_what_is_not_the_kits_alone_and_counts_nothing_twice(empty):
    empty.upgrade()
    with empty.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE somebody_elses (x integer)")
        connection.exec_driver_sql("INSERT INTO somebody_elses VALUES (1)")
    store(empty, ("a.txt", 1), ("b.txt", 1))
    newest, before = empty.revision, empty.report.counts()
    assert before.copies == 2
    empty.kept_copies.keep(newest)
    with empty.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE somebody_elses SET x = 2")
    empty.kept_copies.put_back(newest)
    assert (empty.report.counts().copies, empty.report.counts().by_state) == (before.copies, before.by_state)
    with empty.engine.connect() as connection:
        # A SQLite catalog is a file of the kit's own, and put back as a whole.
        assert connection.exec_driver_sql("SELECT x FROM somebody_elses").scalar() == (2 if empty.is_shared else 1)


# ---- a long history costs nothing --------------------------------------------------------------------------------------------


@pytest.fixture
def old_catalog(catalog):
    """Much was deleted and pruned long ago, and a little is under way."""
    numbers = range(1_000_001, 1_000_001 + HISTORY)  # above what the tables count themselves
    now = catalog.database.now()
    with catalog.database.writing() as connection:
        digests = ({"name_digest": f"{n:064x}", "place_digest": f"{n:064x}"} for n in numbers)
        connection.execute(
            sa.insert(files),
            [
                {"id": n, "storage": "s3", "key": f"{n}.txt", "bucket": "b", "place": f"b/{n}", **digest}
                for n, digest in zip(numbers, digests, strict=True)
            ],
        )
        gone = {"number": 1, "sha256": "aa" * 32, "state": "pruned", "newest": True, "deleted": True, "first_seen_at": now}
        connection.execute(sa.insert(versions), [{"file_id": n, "source_id": str(n), **gone} for n in numbers])
        over = {"kind": "deleted", "through": 1, "first_seen_at": now, "due_at": now, "open": False, "outcome": "done"}
        connection.execute(sa.insert(removals), [{"delete_id": str(n), "row_id": str(n), "file_id": n, **over} for n in numbers])
    for key in ("x.txt", "y.txt"):
        store_one(catalog, key)
        delete(catalog, key, key, grace=NO_TIME, row_id=f"{key[0]}1")
    if catalog.engine.dialect.name == "postgresql":
        with catalog.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM ANALYZE"))
    return catalog


def store_one(catalog, key):
    take(catalog, (key, 1))
    with catalog.database.writing() as connection:
        connection.execute(sa.update(versions).where(versions.c.source_id == f"{key[0]}1").values(state="stored", due_at=None))


def poll_questions(catalog):
    """What a poll asks about removals, and a prune."""
    r, b = catalog.removals, catalog.brakes
    r.known(["x.txt", "1"])
    r.next_to_check(500)
    r.files_with_older_copies(1000)
    r.armed()
    r.waits_to_be_sent(timedelta(minutes=15), 1)
    r.arm(100, max_countdown=timedelta(minutes=15), patience=LEASE, read_in=1)
    r.waits_for_read(timedelta(minutes=15), 1)
    catalog.pruned_copies.leftovers(1000)
    catalog.pruned_copies.in_trash(over=True)
    r.journal_fingerprints()
    list(r.planned())
    r.count_open()
    r.count_overdue(GRACE)
    b.fingerprint()
    since = catalog.database.now() - GRACE
    start = b.window_start(since)
    b.used(start, since)
    b.waiting(start, since)
    b.pull(b.count_by_slot(SLOT), SLOT, counted=1, reason="test")
    b.all(BrakeState.HELD)
    b.decide(b.all()[0].id, approve=True)
    r.disarm_all()
    r.of_version(5)
    r.deletes_of_file(5)
    r.carry_out(r.of_delete("x.txt").id, all_go)
    r.withdraw(r.of_delete("y.txt").id, outcome=RemovalOutcome.TAKEN_BACK, reason="")
    take(catalog, ("x.txt", 2), ("z.txt", 1))


def steps_of(connection, statement, parameters):
    """How many thousands of steps SQLite makes for a statement."""
    steps = []
    driver = connection.connection.driver_connection
    driver.set_progress_handler(lambda: steps.append(1), 1000)
    try:
        connection.exec_driver_sql(statement, parameters).close()
    finally:
        driver.set_progress_handler(None, 0)
    return len(steps)


def rows_of(connection, statement, parameters):
    """How many rows PostgreSQL reads at the most in one part of the plan of a statement, those that it leaves out as well."""
    [[plan]] = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
    nodes, most = [plan[0]["Plan"]], 0
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", [])
        read = node["Actual Rows"] + sum(value for name, value in node.items() if name.startswith("Rows Removed"))
        most = max(most, int(read * node["Actual Loops"]))
    return most


def test_no_question_of_a_poll_or_of_a_prune_reads_what_was_pruned_long_ago(old_catalog):
    costs = {}
    is_sqlite = old_catalog.engine.dialect.name == "sqlite"

    def measure(connection, _cursor, statement, parameters, _context, _many):
        if connection not in measured and re.match(r"\s*(SELECT|UPDATE|DELETE)", statement):
            measured.add(connection)
            with connection.begin_nested() as nested:
                costs[statement] = (steps_of if is_sqlite else rows_of)(connection, statement, parameters)
                nested.rollback()
            measured.remove(connection)

    measured = set()
    sa.event.listen(old_catalog.engine, "before_cursor_execute", measure)
    poll_questions(old_catalog)
    sa.event.remove(old_catalog.engine, "before_cursor_execute", measure)
    assert len(costs) > 35
    # A thousand steps are some dozens of rows.
    assert {statement: cost for statement, cost in costs.items() if cost > (10 if is_sqlite else 200)} == {}
