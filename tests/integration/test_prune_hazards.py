"""What can go wrong between a delete and the end of its bytes, each as it was found once."""

import json
from contextlib import suppress
from datetime import timedelta

import pytest
import sqlalchemy as sa

from cbk.edges import host
from cbk.errors import ArchiveError, CbkError
from cbk.jobs.copies import remove_bytes
from cbk.jobs.retention.undelete import undelete
from cbk_app.schema import DELETE_LOG
from tests.integration.test_brake import delete_all, stock, stored

WEEK = timedelta(days=7)
COPY = "car-erp/a/v1.gzip"


@pytest.fixture(autouse=True)
def _clock_that_is_kept(monkeypatch):
    """Where it is not, each prune looks at every process of the machine."""
    monkeypatch.setattr(host, "clock_is_synchronised", lambda: True)


@pytest.fixture
def row(site):
    """The row of one stored file, a.txt."""
    row = site.upload("a.txt", b"x")
    site.work()
    assert site.copies() == {COPY}
    return row


def carry_out(site, delete_id):
    """What a worker does that dies, or falls asleep, right after it has recorded; gives the version."""

    def judge(_removal, versions, *_):
        return Verdict(gone={version.id: "test" for version in versions})

    from cbk.edges.catalog import Verdict  # noqa: PLC0415 - beside its only use

    removals = site.context.catalog.removals
    [version], _ = removals.carry_out(removals.of_delete(delete_id).id, judge)
    return version


# ---- which file a delete means -----------------------------------------------------------------------------------------------


def test_delete_of_a_row_that_repeats_an_earlier_one_covers_both(site, row):
    again = site.upload("a.txt", b"x")
    site.poll()
    site.delete(again)
    site.poll()
    site.pass_grace()
    site.let_go()
    assert site.copies() == set()


def test_delete_of_the_earlier_of_two_rows_of_a_version_leaves_it_live(site, row):
    site.upload("a.txt", b"x")
    site.poll()
    site.delete(row)
    site.poll()
    site.pass_grace()
    site.let_go()
    assert site.copies() == {COPY}


def test_delete_that_names_a_row_which_was_declined_covers_what_its_version_does(site, row):
    forged = site.upload("a.txt", b"another content under the same version")
    nonsense = site.upload("a.txt", b"y", version=2)
    site.change(nonsense, Hash="nonsense")
    site.poll()
    assert set(site.declined()) == {forged, nonsense}
    deletes = [site.delete(forged), site.delete(nonsense)]
    site.poll()
    assert [site.removals()[delete].through for delete in deletes] == [1, 2]
    assert site.declined() == {}
    site.pass_grace()
    site.let_go()
    assert site.copies() == set()


def test_second_delete_of_the_same_row_does_not_cover_what_was_created_again(site, row):
    site.delete(row)
    site.poll()
    site.upload("a.txt", b"x")
    site.poll()
    site.delete(row)
    site.poll()
    site.pass_grace()
    site.let_go()
    assert site.copies() == {COPY}


def test_many_deletes_of_unknown_rows_cost_a_poll_a_few_questions(site):
    site.poll()
    with counting(site) as idle:
        site.poll()
    delete_all(site, range(5000, 5400))
    site.poll()
    with counting(site) as busy:
        site.poll()
    assert len(busy) <= len(idle) + 15


def test_deletes_of_unknown_rows_fill_no_journal(site, row):
    delete_all(site, range(5000, 5400))
    delete = site.delete(row)
    site.poll()
    lines = [json.loads(line) for line in (site.root / ".cbk/retention.jsonl").read_text().splitlines()]
    assert [line["removal"]["delete_id"] for line in lines if "removal" in line] == [delete]


# ---- between the record and the bytes ----------------------------------------------------------------------------------------


def test_worker_that_slept_after_it_recorded_does_not_take_bytes_that_count_again(site, row):
    delete = site.delete(row)
    site.poll()
    site.drop(row)
    sleeper_s = carry_out(site, delete)
    site.poll()  # it makes good what the sleeper has not done
    assert site.copies() == set()
    site.upload("a.txt", b"x")
    site.work()
    assert site.states() == {("a.txt", 1): "stored"}
    remove_bytes(site.context, sleeper_s)
    assert site.copies() == {COPY}


@pytest.mark.parametrize("trash", ["0", "1d"])
def test_file_that_is_created_again_while_its_bytes_have_still_to_go_is_stored_again(make_site, trash):
    site = make_site(trash=trash)
    row = site.upload("a.txt", b"x")
    site.work()
    delete = site.delete(row)
    site.poll()
    site.drop(row)
    carry_out(site, delete)
    site.upload("a.txt", b"x")
    site.work()
    site.poll()
    assert site.states() == {("a.txt", 1): "stored"}
    assert site.copies() == {COPY}
    assert not site.versions()["a.txt", 1].deleted


def test_copy_that_cannot_be_removed_keeps_none_of_the_others(site):
    rows = [site.upload(key, b"x") for key in ("a.txt", "b.txt", "c.txt")]
    site.work()
    deletes = [site.delete(row) for row in rows]
    site.poll()
    for delete in deletes:
        carry_out(site, delete)
    (site.root / COPY).unlink()
    (site.root / COPY).mkdir()
    with pytest.raises(ArchiveError):
        site.poll()
    assert site.copies() == set()
    assert "remove car-erp/a/v1.gzip" in site.fact("poll.problem")
    (site.root / COPY).rmdir()
    site.poll()
    assert site.fact("poll.problem") is None
    assert site.context.catalog.pruned_copies.leftovers(10) == []


# ---- the trash ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def left(make_site):
    """A site with a trash, whose worker died after it had recorded a prune; the link of the file is dead."""
    site = make_site(trash="1d")
    row = site.upload("a.txt", b"x")
    site.work()
    delete = site.delete(row)
    site.poll()
    carry_out(site, delete)
    site.origin.remove("/car-erp/a.txt")
    return site


def back_and_nothing_in_the_trash(site):
    site.work()
    return site.states() == {("a.txt", 1): "stored"} and site.copies() == {COPY} and not trashed(site)


def trashed(site):
    trash = site.root / ".cbk/trash"
    return list(trash.iterdir()) if trash.exists() else []


@pytest.mark.parametrize("moved", [False, True])
def test_undelete_brings_back_what_a_worker_left_on_the_way_into_the_trash(left, moved, monkeypatch):
    if moved:
        with monkeypatch.context() as patched:
            patched.setattr(left.context.archive, "trash", dying_after(left.context.archive.trash))
            with pytest.raises(SystemExit):
                left.poll()
        assert len(trashed(left)) == 1
    undelete(left.context, "a.txt")
    assert back_and_nothing_in_the_trash(left)


def dying_after(act):
    def die(*args):
        act(*args)
        raise SystemExit

    return die


def test_undelete_finds_the_copy_in_both_places_where_an_earlier_one_died_between_them(left):
    """As on a file system that cannot rename without replacing: the second name comes before the first one goes."""
    left.poll()
    [name] = trashed(left)
    (left.root / COPY).parent.mkdir(parents=True)
    (left.root / COPY).hardlink_to(name)
    undelete(left.context, "a.txt")
    assert back_and_nothing_in_the_trash(left)


def test_undelete_takes_the_good_copy_where_something_bad_lies_at_its_place(left):
    left.poll()
    (left.root / COPY).parent.mkdir(parents=True)
    (left.root / COPY).write_bytes(b"something else")
    undelete(left.context, "a.txt")
    assert back_and_nothing_in_the_trash(left)
    assert left.quarantined() == [b"something else"]


# ---- what keeps, and what it must not keep -----------------------------------------------------------------------------------


def test_held_files_take_nobody_s_place_in_the_window(make_site):
    site = make_site(dispatch_window=2)
    rows = stock(site, 6)
    for key in ("0.txt", "1.txt", "2.txt"):
        site.context.catalog.holds.add(key, is_prefix=False, storage=None, until=None, reason="audit")
    delete_all(site, rows[:3])
    site.poll()
    site.pass_grace()
    for _ in range(4):
        site.let_go()
    delete_all(site, rows[3:])
    site.poll()
    site.pass_grace()
    for _ in range(2):
        site.let_go()
    assert {key for (key, _), state in site.states().items() if state == "stored"} == {"0.txt", "1.txt", "2.txt"}


def test_replaced_copy_that_turns_out_bad_together_with_the_newer_one_is_fetched_again(site):
    site.upload("a.txt", b"one", served_at="/one")
    site.work()
    site.upload("a.txt", b"two", version=2, served_at="/two")
    site.work()
    site.poll()
    site.origin.remove("/two")
    for version in site.versions().values():
        (site.root / f"car-erp/a/v{version.number}.gzip").unlink()
    site.pass_grace()
    [summary] = site.let_go()
    assert summary.outcome == "kept"
    with suppress(CbkError):
        site.back_up(site.versions()["a.txt", 2].source_id)
    with site.context.catalog.database.reading():
        site.context.catalog.work.make_due([site.versions()["a.txt", 1].id], reason="its copy was not on the disk")
    site.pass_grace()
    assert [summary.outcome for summary in site.let_go()] == ["kept"]
    site.pass_backoff()
    site.work()
    assert site.copies() == {COPY}


# ---- many --------------------------------------------------------------------------------------------------------------------


class counting:  # noqa: N801 - reads as a verb
    """The statements that the catalog executes meanwhile."""

    def __init__(self, site):
        self._engine = site.context.catalog.engine
        self._statements = []

    def _note(self, _connection, _cursor, statement, *_):
        if not statement.startswith(("PRAGMA", "BEGIN")):
            self._statements.append(statement)

    def __enter__(self):
        sa.event.listen(self._engine, "before_cursor_execute", self._note)
        return self._statements

    def __exit__(self, *_):
        sa.event.remove(self._engine, "before_cursor_execute", self._note)


def test_ten_thousand_pending_deletes_send_no_message_and_cost_a_poll_a_few_questions(make_site):
    site = make_site(grace_period="30d", brake_files=100_000)
    rows = stock(site, 10_000)
    site.poll()
    with counting(site) as idle:
        site.poll()
    delete_all(site, rows)
    site.poll()
    assert site.context.catalog.removals.count_open() == (10_000, 0)
    with counting(site) as busy:
        site.poll()
    site.pass_grace(timedelta(days=29, hours=23))
    site.poll()
    assert site.publisher.prunes == []
    assert len(busy) <= len(idle) + 15
    site.pass_grace(timedelta(minutes=50))
    for _ in range(3):
        site.poll()
    assert len(site.publisher.prunes) == 2000
    assert all(countdown > timedelta(minutes=8) for _, countdown in site.publisher.prunes)
    assert stored(site) == 10_000


def test_delete_log_that_is_emptied_takes_everything_back(make_site):
    site = make_site(grace_period="30d", brake_files=100_000)
    delete_all(site, stock(site, 300))
    site.poll()
    with site.application.begin() as connection:
        connection.execute(sa.delete(DELETE_LOG))
    site.poll()
    assert site.context.catalog.removals.count_open() == (0, 0)
    assert site.context.catalog.report.counts().protected == 300


# ---- rows that come and go ---------------------------------------------------------------------------------------------------


def test_version_whose_row_was_replaced_before_it_was_fetched_is_fetched_from_the_new_row(site):
    first = site.upload("a.txt", b"x")
    site.poll()
    site.publisher.take()
    second = site.upload("a.txt", b"x")
    site.drop(first)
    site.poll()
    site.back_up(first)
    assert site.states() == {("a.txt", 1): "pending"}
    site.work()
    assert site.copies() == {COPY}
    assert site.versions()["a.txt", 1].source_id == second


@pytest.mark.parametrize("row_id", [3, 7])
def test_version_whose_link_is_dead_is_fetched_by_the_row_that_is_written_anew_under_any_id(site, row_id):
    first = site.upload("a.txt", b"x", served_at="/one", row_id=5)
    site.origin.remove("/one")
    site.work()
    site.drop(first)
    second = site.upload("a.txt", b"x", served_at="/two", row_id=row_id)
    site.work()
    assert site.versions()["a.txt", 1].source_id == second
    assert site.copies() == {COPY}
