"""Which versions of a backlog share a message."""

from dataclasses import replace

from cbk.rules.backup.batches import LARGEST, SHARES, share_out
from tests.unit.test_wanted import version


def fresh(count, start=0):
    return [version(start + number) for number in range(count)]


def sizes(batches):
    return [len(batch) for batch in batches]


def test_single_new_version_is_a_task_of_its_own():
    assert share_out(fresh(1), in_flight=0) == [fresh(1)]


def test_few_versions_are_tasks_of_their_own():
    assert sizes(share_out(fresh(SHARES), in_flight=0)) == [1] * SHARES


def test_backlog_is_shared_out_in_its_order():
    batches = share_out(fresh(2000), in_flight=0)
    assert [each for batch in batches for each in batch] == fresh(2000)
    assert sizes(batches) == [31] * 64 + [16]


def test_what_tops_a_backlog_up_shares_messages_as_well():
    assert sizes(share_out(fresh(64), in_flight=1936)) == [31, 31, 2]


def test_no_batch_is_larger_than_the_largest():
    assert max(sizes(share_out(fresh(10_000), in_flight=0))) == LARGEST


def test_version_that_was_tried_before_is_alone():
    tried = [replace(each, attempts=1) for each in fresh(2, start=5000)]
    batches = share_out([tried[0], *fresh(100), tried[1], *fresh(100, start=200)], in_flight=1800)
    assert batches[0] == [tried[0]]
    assert [tried[1]] in batches
    assert sum(sizes(batches)) == 202


def test_nothing_is_shared_out_to_no_message():
    assert share_out([], in_flight=2000) == []


def test_row_that_brings_two_versions_is_named_once_in_a_message():
    twice = [replace(each, source_id="7") for each in fresh(2)]
    batches = share_out([*twice, *fresh(10, start=10)], in_flight=2000)
    assert all(len({each.source_id for each in batch}) == len(batch) for batch in batches)
    assert sum(sizes(batches)) == 12
