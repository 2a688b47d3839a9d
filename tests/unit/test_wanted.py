"""Which versions of a file are fetched: tables of (number, state) and what becomes of them."""

import pytest

from cbk.model import Version, VersionState
from cbk.rules.intake.version_selection import PATIENCE_ATTEMPTS, plan_versions
from cbk.rules.lifecycle import LIFECYCLE


def version(number, state="pending", *, reason="", due=False, attempts=0, live=True, deleted=False):
    return Version(
        id=number,
        file_id=1,
        source_id=str(number),
        storage="s3",
        key="a.txt",
        bucket="s3",
        place="s3/a",
        number=number,
        sha256="00" * 32,
        state=VersionState(state),
        reason=reason,
        attempts=attempts,
        due_at=object() if due else None,
        live=live,
        deleted=deleted,
    )


def decided(versions, keep=1):
    return {
        each.version_id: (next(iter(LIFECYCLE[each.event].targets)).value, each.due, each.reason)
        for each in plan_versions(versions, keep)
    }


def test_newest_is_fetched_and_older_ones_wait_for_it():
    assert decided([version(1), version(2), version(3)]) == {
        3: ("pending", True, "waits to be fetched"),
        2: ("pending", False, "waits for v3, which is newer"),
        1: ("pending", False, "waits for v3, which is newer"),
    }


def test_older_one_without_a_copy_is_superseded_once_a_newer_one_is_stored():
    assert decided([version(1), version(2, "expired"), version(3, "stored")]) == {
        2: ("superseded", False, "v3 is stored"),
        1: ("superseded", False, "v3 is stored"),
    }


def test_versions_to_keep_are_fetched_beside_a_stored_newest():
    assert decided([version(1), version(2), version(3, "stored")], keep=2) == {
        2: ("pending", True, "waits to be fetched"),
        1: ("superseded", False, "v3 is stored"),
    }


@pytest.mark.parametrize("state", ["expired", "missing", "mismatch", "declined"])
def test_an_old_copy_beats_none_where_no_newer_one_can_be_had(state):
    assert decided([version(1), version(2, state)]) == {1: ("pending", True, "waits to be fetched")}


def test_an_old_copy_beats_none_where_the_one_between_was_overwritten():
    assert decided([version(1), version(2, "superseded", attempts=1), version(3, "expired")]) == {
        1: ("pending", True, "waits to be fetched")
    }


def test_older_one_waits_while_a_newer_failed_one_is_still_tried():
    assert decided([version(1), version(2, "failed", attempts=PATIENCE_ATTEMPTS - 1)])[1][1] is False


def test_older_one_is_fetched_when_the_newer_one_failed_too_often():
    assert decided([version(1), version(2, "failed", attempts=PATIENCE_ATTEMPTS)])[1][1] is True


def test_stored_and_pruned_and_declined_versions_are_left_alone():
    assert decided([version(1, "stored"), version(2, "pruned"), version(3, "declined"), version(4, "stored")]) == {}


def test_superseded_version_returns_when_more_versions_are_to_be_kept():
    assert decided([version(1, "superseded"), version(2, "stored")], keep=2) == {1: ("pending", True, "waits to be fetched")}


def test_superseded_version_whose_bytes_were_lost_is_not_tried_again():
    assert decided([version(1, "superseded", attempts=1), version(2, "stored")], keep=2) == {}


def test_deciding_twice_changes_nothing_the_second_time():
    waiting = version(1, reason="waits for v2, which is newer")
    assert decided([waiting, version(2, due=True)]) == {}


def test_version_whose_row_is_gone_or_deleted_supersedes_nothing():
    gone = version(2**31 - 1, "mismatch", live=False)
    assert decided([version(1), version(2, "stored", live=False, deleted=True), gone]) == {
        1: ("pending", True, "waits to be fetched")
    }


def test_where_nothing_is_live_what_is_deleted_is_fetched_as_if_it_were():
    assert decided([version(1, live=False, deleted=True), version(2, live=False, deleted=True)]) == {
        2: ("pending", True, "waits to be fetched"),
        1: ("pending", False, "waits for v2, which is newer"),
    }


def test_row_that_vanished_is_not_fetched():
    assert decided([version(1, live=False)]) == {}
