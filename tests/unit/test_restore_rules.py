"""Which version of a file a restore takes: tables of versions and wishes; and which paths are wanted by several files."""

from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cbk.edges.destinations import WantedPaths
from cbk.model import Version, VersionState
from cbk.rules.intake.layout import contested_paths, place_key
from cbk.rules.restore import Deletion, RestoreFilter, choose

NO_CLOCK = settings(deadline=None)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def version(number, state="stored", *, reason="", deleted=False, seen=None):
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
        deleted=deleted,
        first_seen_at=NOON + (seen or timedelta(0)),
    )


def chosen(versions, deletions=(), **restore_filter):
    """(number, has a copy, reason), or None."""
    choice = choose(versions, RestoreFilter(**restore_filter), deletions)
    return choice and (choice.version.number, choice.has_copy, choice.reason)


def test_newest_version_is_restored():
    assert chosen([version(9), version(10), version(2)]) == (10, True, "")


def test_older_copy_stands_in_for_a_newest_version_without_one_and_says_so():
    listed = [version(1), version(2), version(3, "superseded"), version(4, "expired", reason="the link expired")]
    assert chosen(listed) == (2, True, "older version: v4 is expired (the link expired)")


def test_file_without_any_copy_says_why_its_newest_version_has_none():
    assert chosen([version(1, "pruned"), version(2, "failed")]) == (2, False, "v2 has no copy: it is failed")


@pytest.mark.parametrize(
    ("restore_filter", "number"), [({}, None), ({"deleted": True}, 2), ({"number": 1}, None), ({"number": 1, "deleted": True}, 1)]
)
def test_deleted_file_is_restored_only_when_deleted_ones_are_asked_for(restore_filter, number):
    choice = choose([version(1, deleted=True), version(2, deleted=True)], RestoreFilter(**restore_filter))
    assert (choice and choice.version.number) == number


def test_copy_from_before_a_delete_does_not_stand_in_for_the_file_that_was_created_again():
    assert chosen([version(1, deleted=True), version(2, "pending")]) == (2, False, "v2 has no copy: it is pending")


def test_named_version_is_restored_and_no_other_stands_in():
    listed = [version(1), version(2, "expired"), version(3)]
    assert chosen(listed, number=1) == (1, True, "")
    assert chosen(listed, number=2) == (2, False, "v2 has no copy: it is expired")
    assert chosen(listed, number=4) is None


@pytest.mark.parametrize(
    ("at", "number"),
    [(NOON - timedelta(milliseconds=1), None), (NOON, 1), (NOON + HOUR, 1), (NOON + 2 * HOUR, 2), (NOON + 9 * HOUR, 3)],
)
def test_instant_gives_the_highest_version_that_had_been_seen_by_then(at, number):
    listed = [version(1), version(2, seen=2 * HOUR), version(3, seen=3 * HOUR)]
    choice = choose(listed, RestoreFilter(at=at))
    assert (choice and choice.version.number) == number


DELETED_AT_ONE = Deletion(through=2, seen_at=NOON + HOUR)
LIVED_AGAIN_AT_TWO = Deletion(through=2, seen_at=NOON + HOUR, ended_at=NOON + 2 * HOUR)


@pytest.mark.parametrize(
    ("deletion", "hours", "number"),
    [
        (DELETED_AT_ONE, 0, 2),
        (DELETED_AT_ONE, 1, None),
        (DELETED_AT_ONE, 4, None),
        (DELETED_AT_ONE, 5, 3),
        (LIVED_AGAIN_AT_TWO, 1, None),
        (LIVED_AGAIN_AT_TWO, 2, 2),
    ],
)
def test_instant_gives_nothing_of_a_file_that_was_deleted_then(deletion, hours, number):
    listed = [version(1), version(2), version(3, seen=5 * HOUR)]
    choice = choose(listed, RestoreFilter(at=NOON + hours * HOUR), [deletion])
    assert (choice and choice.version.number) == number


def test_instant_before_a_delete_gives_the_file_although_it_is_deleted_now():
    assert chosen([version(1, deleted=True)], [DELETED_AT_ONE], at=NOON) == (1, True, "")


def test_instant_after_a_delete_gives_the_file_where_deleted_ones_are_asked_for():
    assert chosen([version(1, deleted=True)], [DELETED_AT_ONE], at=NOON + 2 * HOUR, deleted=True) == (1, True, "")


VERSIONS = st.lists(
    st.builds(version, st.integers(0, 9), st.sampled_from(["stored", "pruned", "pending"]), deleted=st.booleans()),
    unique_by=lambda version: version.number,
)


@NO_CLOCK
@given(VERSIONS, st.booleans())
def test_choice_is_the_highest_wanted_version_that_has_a_copy(listed, deleted):
    wanted = [version for version in listed if deleted or not version.deleted]
    stored = [version.number for version in wanted if version.state == "stored"]
    choice = choose(listed, RestoreFilter(deleted=deleted))
    assert (choice is None) == (not wanted)
    assert not stored or choice.version.number == max(stored)
    assert not stored or (choice.reason == "") == (max(stored) == max(version.number for version in wanted))


# ---- paths -------------------------------------------------------------------------------------------------------------------

PATHS = st.lists(st.lists(st.sampled_from(["a", "b", "A", "a.b", "a\x01", "%long"]), min_size=1, max_size=4).map("/".join))


@NO_CLOCK
@given(PATHS)
def test_paths_kept_outside_of_memory_are_contested_as_the_layout_says(paths):
    with closing(WantedPaths()) as wanted:
        for path in paths:
            wanted.add(path)
        assert {path for path in paths if wanted.is_contested(path)} == contested_paths(paths)


@NO_CLOCK
@given(PATHS)
def test_paths_that_are_one_on_the_target_are_contested_as_one(paths):
    with closing(WantedPaths(same=place_key)) as wanted:
        for path in paths:
            wanted.add(path)
        folded = contested_paths(map(place_key, paths))
        assert {path for path in paths if wanted.is_contested(path)} == {path for path in paths if place_key(path) in folded}


def test_path_that_is_wanted_again_after_it_was_asked_for_is_contested():
    with closing(WantedPaths()) as wanted:
        wanted.add("a/b")
        assert not wanted.is_contested("a/b")
        wanted.add("a/b")
        assert wanted.is_contested("a/b")
