"""What can go wrong between a delete and the end of its bytes, each as it was found once."""

import json
from contextlib import suppress
from datetime import timedelta

import pytest
import sqlalchemy as sa

from cbk.appside.schema import DELETE_LOG
from cbk.edges import machine
from cbk.errors import ArchiveError, CbkError
from cbk.jobs.removing import remove_bytes
from cbk.jobs.undelete import undelete
from tests.integration.test_brake import delete_all, stock, stored

WEEK = timedelta(days=7)
COPY = "car-erp/a/v1.gzip"


@pytest.fixture(autouse=True)
def _clock_that_is_kept(monkeypatch):
    """Where it is not, each prune looks at every process of the machine."""
    monkeypatch.setattr(machine, "clock_is_synchronised", lambda: True)


@pytest.fixture
def row(desk):
    """The row of one stored file, a.txt."""
    row = desk.upload("a.txt", b"x")
    desk.work()
    assert desk.copies() == {COPY}
    return row


def carry_out(desk, delete_id):
    """What a worker does that dies, or falls asleep, right after it has recorded; gives the version."""

    def judge(_removal, versions, *_):
        return Verdict(gone={version.id: "test" for version in versions})

    from cbk.edges.catalog import Verdict  # noqa: PLC0415 - beside its only use

    removals = desk.kit.catalog.removals
    [version], _ = removals.carry_out(removals.of_delete(delete_id).id, judge)
    return version


# ---- which file a delete means -----------------------------------------------------------------------------------------------


def test_delete_that_names_a_row_which_repeats_a_version_is_of_its_file(desk, row):
    again = desk.upload("a.txt", b"x")
    desk.poll()
    assert desk.versions()["a.txt", 1].source_id == row
    desk.delete(again)
    desk.poll()
    desk.pass_grace()
    desk.let_go()
    assert desk.copies() == set()


def test_delete_that_names_a_row_which_was_declined_is_of_its_file(desk, row):
    forged = desk.upload("a.txt", b"another content under the same version")
    nonsense = desk.upload("a.txt", b"y", version=2)
    desk.change(nonsense, Hash="nonsense")
    desk.poll()
    assert set(desk.declined()) == {forged, nonsense}
    deletes = [desk.delete(forged), desk.delete(nonsense)]
    desk.poll()
    assert [desk.removals()[delete].through for delete in deletes] == [1, 1]
    assert desk.declined() == {}
    desk.pass_grace()
    desk.let_go()
    assert desk.copies() == set()


def test_delete_that_names_the_row_that_a_file_had_before_it_was_created_again_is_of_that_file(desk, row):
    desk.delete(row)
    desk.poll()
    again = desk.upload("a.txt", b"x")
    desk.poll()
    assert desk.versions()["a.txt", 1].source_id == again
    delete = desk.delete(row)
    desk.poll()
    assert desk.removals()[delete].through == 1
    desk.pass_grace()
    desk.let_go()
    assert desk.copies() == set()


def test_many_deletes_of_unknown_rows_cost_a_poll_a_few_questions(desk):
    desk.poll()
    with counting(desk) as idle:
        desk.poll()
    delete_all(desk, range(5000, 5400))
    desk.poll()
    with counting(desk) as busy:
        desk.poll()
    assert len(busy) <= len(idle) + 15


def test_deletes_of_unknown_rows_fill_no_journal(desk, row):
    delete_all(desk, range(5000, 5400))
    delete = desk.delete(row)
    desk.poll()
    lines = [json.loads(line) for line in (desk.root / ".cbk/retention.jsonl").read_text().splitlines()]
    assert [line["removal"]["delete_id"] for line in lines if "removal" in line] == [delete]


# ---- between the record and the bytes ----------------------------------------------------------------------------------------


def test_worker_that_slept_after_it_recorded_does_not_take_bytes_that_count_again(desk, row):
    delete = desk.delete(row)
    desk.poll()
    desk.drop(row)
    sleeper_s = carry_out(desk, delete)
    desk.poll()  # it makes good what the sleeper has not done
    assert desk.copies() == set()
    desk.upload("a.txt", b"x")
    desk.work()
    assert desk.states() == {("a.txt", 1): "stored"}
    remove_bytes(desk.kit, sleeper_s)
    assert desk.copies() == {COPY}


@pytest.mark.parametrize("trash", ["0", "1d"])
def test_file_that_is_created_again_while_its_bytes_have_still_to_go_is_stored_again(make_desk, trash):
    desk = make_desk(trash=trash)
    row = desk.upload("a.txt", b"x")
    desk.work()
    delete = desk.delete(row)
    desk.poll()
    desk.drop(row)
    carry_out(desk, delete)
    desk.upload("a.txt", b"x")
    desk.work()
    desk.poll()
    assert desk.states() == {("a.txt", 1): "stored"}
    assert desk.copies() == {COPY}
    assert not desk.versions()["a.txt", 1].deleted


def test_copy_that_cannot_be_removed_keeps_none_of_the_others(desk):
    rows = [desk.upload(key, b"x") for key in ("a.txt", "b.txt", "c.txt")]
    desk.work()
    deletes = [desk.delete(row) for row in rows]
    desk.poll()
    for delete in deletes:
        carry_out(desk, delete)
    (desk.root / COPY).unlink()
    (desk.root / COPY).mkdir()
    with pytest.raises(ArchiveError):
        desk.poll()
    assert desk.copies() == set()
    assert "remove car-erp/a/v1.gzip" in desk.fact("poll.problem")
    (desk.root / COPY).rmdir()
    desk.poll()
    assert desk.fact("poll.problem") is None
    assert desk.kit.catalog.removals.leftovers(10) == []


# ---- the trash ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def left(make_desk):
    """A desk with a trash, whose worker died after it had recorded a prune; the link of the file is dead."""
    desk = make_desk(trash="1d")
    row = desk.upload("a.txt", b"x")
    desk.work()
    delete = desk.delete(row)
    desk.poll()
    carry_out(desk, delete)
    desk.origin.remove("/car-erp/a.txt")
    return desk


def back_and_nothing_in_the_trash(desk):
    desk.work()
    return desk.states() == {("a.txt", 1): "stored"} and desk.copies() == {COPY} and not trashed(desk)


def trashed(desk):
    return list((desk.root / ".cbk/trash").iterdir())


@pytest.mark.parametrize("moved", [False, True])
def test_undelete_brings_back_what_a_worker_left_on_the_way_into_the_trash(left, moved, monkeypatch):
    if moved:
        with monkeypatch.context() as patched:
            patched.setattr(left.kit.archive, "trash", dying_after(left.kit.archive.trash))
            with pytest.raises(SystemExit):
                left.poll()
        assert len(trashed(left)) == 1
    undelete(left.kit, "a.txt")
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
    undelete(left.kit, "a.txt")
    assert back_and_nothing_in_the_trash(left)


def test_undelete_takes_the_good_copy_where_something_bad_lies_at_its_place(left):
    left.poll()
    (left.root / COPY).parent.mkdir(parents=True)
    (left.root / COPY).write_bytes(b"something else")
    undelete(left.kit, "a.txt")
    assert back_and_nothing_in_the_trash(left)
    assert left.quarantined() == [b"something else"]


# ---- what keeps, and what it must not keep -----------------------------------------------------------------------------------


def test_held_files_take_nobody_s_place_in_the_window(make_desk):
    desk = make_desk(dispatch_window=2)
    rows = stock(desk, 6)
    for key in ("0.txt", "1.txt", "2.txt"):
        desk.kit.catalog.holds.add(key, is_prefix=False, storage=None, until=None, reason="audit")
    delete_all(desk, rows[:3])
    desk.poll()
    desk.pass_grace()
    for _ in range(4):
        desk.let_go()
    delete_all(desk, rows[3:])
    desk.poll()
    desk.pass_grace()
    for _ in range(2):
        desk.let_go()
    assert {key for (key, _), state in desk.states().items() if state == "stored"} == {"0.txt", "1.txt", "2.txt"}


def test_replaced_copy_that_turns_out_bad_together_with_the_newer_one_is_fetched_again(desk):
    desk.upload("a.txt", b"one", served_at="/one")
    desk.work()
    desk.upload("a.txt", b"two", version=2, served_at="/two")
    desk.work()
    desk.poll()
    desk.origin.remove("/two")
    for version in desk.versions().values():
        (desk.root / f"car-erp/a/v{version.number}.gzip").unlink()
    desk.pass_grace()
    [summary] = desk.let_go()
    assert summary.outcome == "kept"
    with suppress(CbkError):
        desk.back_up(desk.versions()["a.txt", 2].source_id)
    with desk.kit.catalog.database.reading():
        desk.kit.catalog.work.make_due([desk.versions()["a.txt", 1].id], reason="its copy was not on the disk")
    desk.pass_grace()
    assert [summary.outcome for summary in desk.let_go()] == ["kept"]
    desk.pass_backoff()
    desk.work()
    assert desk.copies() == {COPY}


def test_file_that_becomes_known_at_the_last_moment_keeps_its_only_good_copy(desk):
    """The row of a delete commits so late that only the prune finds its file; what was created again is bad on the disk."""
    delete = desk.delete(10)
    desk.poll()
    desk.upload("a.txt", b"one", row_id=10, served_at="/one")
    desk.upload("a.txt", b"two", row_id=20, version=2, served_at="/two")
    desk.pass_grace()
    desk.back_up("10")
    desk.back_up("20")
    (desk.root / "car-erp/a/v2.gzip").unlink()
    assert desk.prune(delete).outcome == "kept"
    assert desk.copies() == {COPY}


# ---- many --------------------------------------------------------------------------------------------------------------------


class counting:  # noqa: N801 - reads as a verb
    """The statements that the catalog executes meanwhile."""

    def __init__(self, desk):
        self._engine = desk.kit.catalog.engine
        self._statements = []

    def _note(self, _connection, _cursor, statement, *_):
        if not statement.startswith(("PRAGMA", "BEGIN")):
            self._statements.append(statement)

    def __enter__(self):
        sa.event.listen(self._engine, "before_cursor_execute", self._note)
        return self._statements

    def __exit__(self, *_):
        sa.event.remove(self._engine, "before_cursor_execute", self._note)


def test_ten_thousand_pending_deletes_send_no_message_and_cost_a_poll_a_few_questions(make_desk):
    desk = make_desk(grace_period="30d", brake_files=100_000)
    rows = stock(desk, 10_000)
    desk.poll()
    with counting(desk) as idle:
        desk.poll()
    delete_all(desk, rows)
    desk.poll()
    assert desk.kit.catalog.removals.count_open() == (10_000, 0)
    with counting(desk) as busy:
        desk.poll()
    desk.pass_grace(timedelta(days=29, hours=23))
    desk.poll()
    assert desk.courier.prunes == []
    assert len(busy) <= len(idle) + 15
    desk.pass_grace(timedelta(minutes=50))
    for _ in range(3):
        desk.poll()
    assert len(desk.courier.prunes) == 2000
    assert all(countdown > timedelta(minutes=8) for _, countdown in desk.courier.prunes)
    assert stored(desk) == 10_000


def test_delete_log_that_is_emptied_takes_everything_back(make_desk):
    desk = make_desk(grace_period="30d", brake_files=100_000)
    delete_all(desk, stock(desk, 300))
    desk.poll()
    with desk.application.begin() as connection:
        connection.execute(sa.delete(DELETE_LOG))
    desk.poll()
    assert desk.kit.catalog.removals.count_open() == (0, 0)
    assert desk.kit.catalog.report.counts().protected == 300


# ---- rows that come and go ---------------------------------------------------------------------------------------------------


def test_version_whose_row_was_replaced_before_it_was_fetched_is_fetched_from_the_new_row(desk):
    first = desk.upload("a.txt", b"x")
    desk.poll()
    desk.courier.take()
    second = desk.upload("a.txt", b"x")
    desk.drop(first)
    desk.poll()
    desk.back_up(first)
    assert desk.states() == {("a.txt", 1): "missing"}
    desk.forget_fact("files.window")
    desk.work()
    assert desk.copies() == {COPY}
    assert desk.versions()["a.txt", 1].source_id == second


def test_older_row_of_a_version_that_cannot_be_fetched_changes_nothing(desk):
    first = desk.upload("a.txt", b"x", served_at="/one", row_id=5)
    second = desk.upload("a.txt", b"x", served_at="/two", row_id=3)
    desk.origin.remove("/two")
    desk.work()
    assert desk.versions()["a.txt", 1].source_id == second
    for _ in range(2):
        desk.forget_fact("files.window")
        desk.work()
    assert desk.versions()["a.txt", 1].source_id == first
    assert desk.copies() == {COPY}
