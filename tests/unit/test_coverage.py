"""Which rows a delete covers: tables of rows, in the order in which the kit saw them, and what stays live."""

from datetime import UTC, datetime

import pytest

from cbk.model import DeleteRow, Removal, RemovalKind, RowEntry
from cbk.rules.retention.coverage import Coverage, cover, cover_anew, is_after, name_row, says_other
from tests.disk import NOW

BEFORE, DURING, AFTER = "2026-03-01 11:00:00", "2026-03-01 12:00:00", "2026-03-01 13:00:00"


def entry(entry_id, number=1, *, row="1", poll=1, present=True, created_at=None, file_id=1):
    return RowEntry(
        id=entry_id,
        source_id=row,
        file_id=file_id,
        version_id=entry_id,
        number=number,
        poll=poll,
        present=present,
        created_at=created_at,
    )


def covered(named, *others, deleted_at=None, poll=9, ids_are_numbers=True):
    coverage = cover(
        named,
        under_its_id=[each for each in (named, *others) if each.source_id == named.source_id],
        of_its_file=[each for each in (named, *others) if each.file_id == named.file_id],
        deleted_at=deleted_at,
        poll=poll,
        ids_are_numbers=ids_are_numbers,
    )
    return sorted(coverage.rows), coverage.keeps_newer, bool(coverage.doubt)


@pytest.mark.parametrize(
    ("named", "others", "rows", "keeps_newer"),
    [
        # The row alone; lower versions with it; a higher one never.
        (entry(1), [], [1], None),
        (entry(3, 3, row="3"), [entry(1, 1, row="1"), entry(2, 2, row="2")], [1, 2, 3], None),
        (entry(1, 1, row="1"), [entry(2, 2, row="2")], [1], 2),
        (entry(2, 2, row="2"), [entry(1, 1, row="1"), entry(3, 3, row="3")], [1, 2], 3),
        # What came later is a re-creation, whatever number it bears.
        (entry(2, 2, row="2"), [entry(3, 1, row="3", poll=2)], [2], None),
        (entry(2, 2, row="2"), [entry(3, 2, row="3", poll=2)], [2], None),
        # Also within one poll, where its Id says so.
        (entry(2, 2, row="2"), [entry(3, 1, row="3")], [2], None),
        # An Id between two others says as much; one that is no number among numbers says nothing, and keeps.
        (entry(2, 2, row="2"), [entry(3, 1, row="2.5")], [2], None),
        (entry(2, 2, row="2"), [entry(3, 1, row="1.5")], [2, 3], None),
        (entry(2, 2, row="2"), [entry(3, 1, row="late")], [2], None),
        (entry(2, 2, row="late"), [entry(3, 1, row="1")], [2], None),
        (entry(2, 2, row="2"), [entry(3, 1, row="nan")], [2], None),
        # An earlier row of the same version goes with it; of two that were seen together nobody knows which was first.
        (entry(2, 1, row="2", poll=2), [entry(1, 1, row="1")], [1, 2], None),
        (entry(2, 1, row="2"), [entry(1, 1, row="1")], [2], None),
        # Rows that are gone already are covered like the others; a higher one that is gone keeps nothing.
        (entry(2, 2, row="2"), [entry(1, 1, row="1", present=False)], [1, 2], None),
        (entry(1, 1, row="1"), [entry(2, 2, row="2", present=False)], [1], None),
        # Another file's rows are not its matter.
        (entry(2, 2, row="2"), [entry(1, 1, row="1", file_id=7)], [2], None),
    ],
)
def test_delete_covers_its_row_and_those_of_its_file_that_are_not_later(named, others, rows, keeps_newer):
    assert covered(named, *others) == (rows, keeps_newer, False)


def test_ids_that_are_no_numbers_say_nothing_of_the_order():
    rows, _, _ = covered(entry(2, 2, row="b"), entry(3, 1, row="c"), ids_are_numbers=False)
    assert rows == [2, 3]


@pytest.mark.parametrize(
    ("created_at", "rows"),
    [(AFTER, [2]), (DURING, [1, 2]), (BEFORE, [1, 2]), (None, [1, 2]), ("soon", [1, 2]), ("01.03.2026 13:00:00", [1, 2])],
)
def test_date_after_the_delete_keeps_and_no_other_date_removes(created_at, rows):
    found, _, _ = covered(entry(2, 2, row="2"), entry(1, 1, row="1", created_at=created_at), deleted_at=DURING)
    assert found == rows


def test_row_that_was_created_after_the_named_one_is_kept():
    named = entry(2, 2, row="2", created_at=BEFORE)
    assert covered(named, entry(1, 1, row="1", created_at=DURING))[0] == [2]


@pytest.mark.parametrize(
    ("created_at", "deleted_at"), [(None, None), (DURING, DURING), (BEFORE, DURING), (BEFORE, None), (None, DURING)]
)
def test_id_that_changed_its_meaning_in_the_poll_that_saw_the_delete_is_in_doubt_whatever_the_dates(created_at, deleted_at):
    earlier = entry(1, 1, row="5", present=False, file_id=2)
    now = entry(2, 1, row="5", poll=9, created_at=created_at)
    assert covered(now, earlier, deleted_at=deleted_at, poll=9)[2]


def test_row_that_was_created_after_its_delete_is_in_doubt():
    assert covered(entry(1, created_at=AFTER), deleted_at=DURING) == ([1], None, True)


def test_id_that_changed_its_meaning_in_an_earlier_poll_means_what_it_names_now():
    earlier = entry(1, 1, row="5", present=False, file_id=2)
    assert covered(entry(2, 1, row="5", poll=8), earlier, poll=9) == ([2], None, False)


@pytest.mark.parametrize(
    ("entries", "deleted_at", "named"),
    [
        ([entry(1)], None, 1),
        ([entry(1, present=False)], None, 1),
        ([entry(1, present=False), entry(2)], None, 2),
        ([entry(1), entry(2, present=False)], None, 1),
        ([entry(1, present=False), entry(2, present=False)], None, 2),
        # What was created after the delete cannot be what was deleted.
        ([entry(1, present=False), entry(2, created_at=AFTER, poll=9)], DURING, 1),
        (
            [entry(1, present=False), entry(2, created_at=AFTER, poll=9, present=False), entry(3, created_at=AFTER, poll=9)],
            DURING,
            1,
        ),
        ([entry(2, created_at=AFTER)], DURING, 2),
        # What an earlier poll saw under the Id, before any delete, was not written after it: its date is wrong, or the delete's.
        ([entry(1, present=False), entry(2, created_at=AFTER, poll=8)], DURING, 2),
        ([entry(1, present=False), entry(2, created_at=AFTER, poll=8, present=False)], DURING, 2),
        ([entry(1, present=False), entry(2, created_at=AFTER, poll=8), entry(3, created_at=AFTER, poll=9)], DURING, 3),
        ([], None, None),
    ],
)
def test_delete_names_the_row_that_is_there_now_or_the_last_one_that_was(entries, deleted_at, named):
    found = name_row(entries, deleted_at, 9)
    assert (found.id if found else None) == named


@pytest.mark.parametrize(
    ("rows", "before", "asks"), [({1}, {1}, False), ({1}, {1, 2}, False), ({1, 2}, {1}, True), ({1}, set(), True)]
)
def test_delete_that_bears_another_date_asks_a_person_before_it_takes_more_than_it_did(rows, before, asks):
    coverage = Coverage(named=entry(1, row="5"), rows=frozenset(rows))
    assert ("row 5 may not have been meant" in cover_anew(coverage, frozenset(before)).doubt) is asks


@pytest.mark.parametrize(
    ("noted", "read", "is_other"),
    [
        (None, None, False),
        (None, DURING, False),  # nothing was noted that could be compared
        (DURING, DURING, False),
        (DURING, AFTER, True),
        (DURING, BEFORE, True),
        (DURING, None, True),
        ("2026-03-01 13:00:00+01:00", datetime(2026, 3, 1, 12, tzinfo=UTC), False),
        (DURING, datetime(2026, 3, 1, 12), False),  # noqa: DTZ001 - as a driver reads a column without a time zone
        (DURING, datetime(2026, 3, 1, 12, tzinfo=UTC), True),
        ("infinity", "infinity", False),
        ("infinity", DURING, True),
    ],
)
def test_delete_log_row_of_another_date_is_another_delete(noted, read, is_other):
    removal = Removal(id=1, kind=RemovalKind.DELETED, first_seen_at=NOW, delete_id="1", row_id="5", deleted_at=noted)
    assert says_other(removal, DeleteRow(id="1", file_id="5", deleted_at=read)) is is_other
    assert says_other(removal, DeleteRow(id="1", file_id="6", deleted_at=noted))


@pytest.mark.parametrize(
    ("one", "other", "after"),
    [
        (AFTER, BEFORE, True),
        (BEFORE, AFTER, False),
        (DURING, DURING, False),
        (None, BEFORE, False),
        (AFTER, None, False),
        ("infinity", BEFORE, False),
        ("20000-01-01 00:00:00", BEFORE, False),
        ("2026-03-01T13:00:00+00:00", "2026-03-01T12:00:00+02:00", True),
        ("2026-03-01T13:00:00+00:00", BEFORE, False),
        (1772000000, BEFORE, False),
    ],
)
def test_only_dates_that_can_be_read_and_compared_say_anything(one, other, after):
    assert is_after(one, other) == after
