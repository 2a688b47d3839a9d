"""What may go and when: every branch as a table, and what must be so of all that can be asked."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbk.model import Hold, Removal, RemovalKind, Version, VersionState
from cbk.rules.retention.retention import Keep, Remove, decide, replaced_versions, when_due

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
DAY = timedelta(days=1)
WEEK = 7 * DAY
SECOND = timedelta(seconds=1)
WITHOUT_A_COPY = [state for state in VersionState if state not in {VersionState.STORED, VersionState.PRUNED}]


def version(number=1, state="stored", **values):
    return Version(
        **{
            "id": 100 + number,
            "file_id": 1,
            "source_id": str(number),
            "storage": "s3",
            "key": "cars/a.txt",
            "bucket": "s3",
            "place": "s3/cars/a",
            "number": number,
            "sha256": "00" * 32,
            "state": VersionState(state),
            "reason": "",
            "live": not values.get("deleted", False),
        }
        | values
    )


def deleted(through=1, *, seen=WEEK, grace=WEEK, **values):
    """The removal of a deleted file, first seen that long ago."""
    return Removal(
        **{
            "id": 1,
            "kind": RemovalKind.DELETED,
            "first_seen_at": NOW - seen,
            "due_at": NOW - seen + grace,
            "delete_id": "7",
            "row_id": "1",
            "file_id": 1,
            "through": through,
            "covered": frozenset(range(100, 101 + (through or 0))),
        }
        | values
    )


def replaced(number=1, *, seen=WEEK, grace=WEEK, **values):
    """The removal of one version that newer ones have replaced."""
    return Removal(
        **{
            "id": 2,
            "kind": RemovalKind.REPLACED,
            "first_seen_at": NOW - seen,
            "due_at": NOW - seen + grace,
            "file_id": 1,
            "version_id": 100 + number,
            "covered": frozenset({100 + number}),
        }
        | values
    )


def hold(key="cars/a.txt", **values):
    return Hold(**{"id": 1, "key": key, "is_prefix": False} | values)


def decided(of, removal, *others, holds=(), now=NOW, grace=WEEK, keep=1):
    if removal.kind is RemovalKind.DELETED:
        of = replace(of, deleted=True, live=False)
    return decide(of, removal=removal, versions=[*others, of], holds=holds, now=now, grace=grace, keep_versions=keep)


# ---- the grace ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "promised", "grace", "expected"),
    [
        (WEEK, WEEK, WEEK, NOW),
        # A shorter one shortens nothing, a longer one counts.
        (WEEK, WEEK, DAY, NOW),
        (WEEK, WEEK, 8 * DAY, NOW + DAY),
        (WEEK, WEEK, timedelta(0), NOW),
        # A removal whose end was moved later than any setting stays there.
        (WEEK, 30 * DAY, WEEK, NOW + 23 * DAY),
    ],
)
def test_grace_ends_as_it_was_promised_or_later(seen, promised, grace, expected):
    assert when_due(deleted(seen=seen, grace=promised), grace) == expected


@pytest.mark.parametrize("removal", [deleted(), replaced()])
@pytest.mark.parametrize(("early", "goes"), [(SECOND, False), (timedelta(microseconds=1), False), (timedelta(0), True)])
def test_version_goes_at_the_very_end_of_its_grace_and_not_before(removal, early, goes):
    decision = decided(version(), removal, version(2), now=NOW - early)
    assert isinstance(decision, Remove) == goes
    assert goes or decision == Keep(reason="its grace has not passed", until=NOW)


# ---- the order of the answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("holds", "removal", "claimed_until", "kept", "until"),
    [
        ([hold(reason="audit")], deleted(braked=True, brake_id=3, seen=DAY), NOW + DAY, "on hold: audit", None),
        ([hold(until=NOW + DAY)], deleted(braked=True, brake_id=3, seen=DAY), NOW + DAY, "on hold", NOW + DAY),
        ([], deleted(braked=True, brake_id=3, seen=DAY), NOW + DAY, "held by brake 3: `cbk prune --approve 3` lets it go", None),
        ([], deleted(seen=DAY), NOW + DAY, "its grace has not passed", NOW + 6 * DAY),
        ([], deleted(), NOW + DAY, "a worker is at it", NOW + DAY),
        ([], deleted(), NOW, None, None),
        ([], deleted(), NOW - DAY, None, None),
        ([hold(until=NOW)], deleted(), None, None, None),
        ([hold("cars/b.txt")], deleted(), None, None, None),
        ([hold(storage="azure")], deleted(), None, None, None),
    ],
)
def test_hold_is_stronger_than_a_brake_a_brake_than_the_grace_and_that_than_a_worker(holds, removal, claimed_until, kept, until):
    decision = decided(version(claimed_until=claimed_until), removal, holds=holds)
    if kept is None:
        assert isinstance(decision, Remove)
    else:
        assert decision == Keep(reason=kept, until=until)


@pytest.mark.parametrize(
    ("held", "covers"),
    [
        (hold(), True),
        (hold(storage="s3"), True),
        (hold(storage="azure"), False),
        (hold("cars/", is_prefix=True), True),
        (hold("car", is_prefix=True), True),
        (hold("", is_prefix=True), True),
        (hold("cars/", is_prefix=False), False),
        (hold("Cars/", is_prefix=True), False),
        (hold("cars/a.txt2", is_prefix=True), False),
        (hold(until=NOW + SECOND), True),
        (hold(until=NOW), False),
    ],
)
def test_hold_covers_the_file_that_it_names(held, covers):
    assert isinstance(decided(version(), deleted(), holds=[held]), Keep) == covers


def test_first_hold_that_is_in_force_gives_the_reason():
    holds = [hold(until=NOW - DAY, reason="over"), hold(reason="audit"), hold(reason="later")]
    assert decided(version(), deleted(), holds=holds) == Keep(reason="on hold: audit")


# ---- a deleted file ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [state for state in VersionState if state is not VersionState.PRUNED])
def test_version_of_a_deleted_file_goes_in_whatever_state_it_is(state):
    assert decided(version(state=state, deleted=True), deleted()) == Remove(
        reason="its file was deleted (delete-log row 7), and the grace has passed"
    )


@pytest.mark.parametrize("state", [*WITHOUT_A_COPY, VersionState.PRUNED])
def test_only_copy_of_a_file_that_was_created_again_stays_while_the_new_version_has_none(state):
    assert decided(version(deleted=True), deleted(), version(3, state)) == Keep(
        reason="the file was created again, and v3 has no copy yet: this is its only one"
    )


@pytest.mark.parametrize(
    "others",
    [
        # The new version is there.
        [version(2)],
        [version(2, "missing"), version(3)],
        [version(2), version(3, "pending")],
        # There is nothing that lives.
        [version(2, deleted=True)],
        [version(2, "pending", deleted=True)],
        [],
    ],
)
def test_copy_of_a_deleted_file_goes_where_a_newer_one_is_stored_or_nothing_lives(others):
    assert isinstance(decided(version(deleted=True), deleted(), *others), Remove)


def test_copy_that_another_delete_covers_does_not_stand_for_the_file_that_was_created_again():
    others = [version(2, "stored", deleted=True), version(3, "pending")]
    assert isinstance(decided(version(deleted=True), deleted(), *others), Keep)


@pytest.mark.parametrize("state", WITHOUT_A_COPY)
def test_deleted_version_without_a_copy_goes_though_the_new_one_has_none_either(state):
    assert isinstance(decided(version(state=state, deleted=True), deleted(), version(2, "pending")), Remove)


# ---- a replaced version ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("newer", "keep", "expected"),
    [
        ([2], 1, Remove(reason="v2 has replaced it, and the grace has passed")),
        ([4, 3], 1, Remove(reason="v3 has replaced it, and the grace has passed")),
        ([2, 3], 2, Remove(reason="v2 has replaced it, and the grace has passed")),
        ([2], 2, Keep(reason="one of the newest 2 versions of its file")),
        ([], 1, Keep(reason="the only verified copy of its file")),
    ],
)
def test_replaced_copy_goes_once_as_many_newer_ones_are_stored_as_the_setting_asks_for(newer, keep, expected):
    assert decided(version(), replaced(), *map(version, newer), keep=keep) == expected


@pytest.mark.parametrize("state", [*WITHOUT_A_COPY, VersionState.PRUNED])
def test_newer_version_without_a_copy_replaces_nothing(state):
    assert isinstance(decided(version(2), replaced(2), version(3, state), version(1)), Keep)


@pytest.mark.parametrize("state", WITHOUT_A_COPY)
def test_replaced_version_whose_own_copy_was_bad_goes_only_where_a_newer_one_is_stored(state):
    assert isinstance(decided(version(state=state), replaced(), version(2)), Remove)
    assert decided(version(state=state), replaced(), version(2, "missing")) == Keep(
        reason="no newer version of its file has a copy"
    )


@pytest.mark.parametrize(
    ("state", "others", "keep", "expected"),
    [
        ("stored", [version(2)], 1, True),
        ("stored", [version(2)], 2, False),
        ("stored", [version(2), version(3)], 2, True),
        ("stored", [version(2, "pending")], 1, False),
        ("stored", [], 1, False),
        ("pending", [version(2)], 1, False),
        ("pruned", [version(2)], 1, False),
        # A version whose row is gone, or deleted, replaces nothing.
        ("stored", [version(2, live=False)], 1, False),
        ("stored", [version(2, deleted=True)], 1, False),
        ("stored", [version(2**31 - 1, live=False), version(2), version(3)], 1, True),
    ],
)
def test_copy_is_replaced_once_enough_newer_live_ones_are_stored(state, others, keep, expected):
    own = version(1, state)
    replaced_ones, _ = replaced_versions([own, *others], keep)
    assert (own in replaced_ones) == expected


def test_older_copies_that_stay_are_told_apart_from_those_that_go():
    versions = [version(number, newest=number == 4) for number in (1, 2, 3, 4)]
    replaced_ones, kept = replaced_versions(versions, 2)
    assert [each.number for each in replaced_ones] == [2, 1]
    assert [each.number for each in kept] == [3]


def test_version_that_another_row_brings_is_no_matter_of_the_delete():
    live = version(deleted=False)
    assert decide(live, removal=deleted(), versions=[live], holds=[], now=NOW, grace=WEEK, keep_versions=1) is None


def test_delete_that_names_no_row_has_no_due_time_and_keeps():
    removal = deleted(due_at=None)
    assert when_due(removal, WEEK) is None
    assert isinstance(decided(version(), removal), Keep)


# ---- of all that can be asked ------------------------------------------------------------------------------------------------

instants = st.integers(-20, 20).map(lambda hours: NOW + timedelta(hours=hours))
graces = st.integers(0, 30).map(lambda hours: timedelta(hours=hours))
states = st.sampled_from(VersionState)


@st.composite
def situations(draw):
    """A file whose versions are in any state, one of which a removal covers, with holds and a moment."""
    numbers = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5, unique=True))
    own = draw(st.sampled_from(numbers))
    through = draw(st.integers(own, 7))
    kind = draw(st.sampled_from([deleted, replaced]))
    versions = [
        version(
            number,
            draw(states),
            deleted=kind is deleted and number <= through,
            live=not (kind is deleted and number <= through),
            claimed_until=draw(st.none() | instants),
        )
        for number in numbers
    ]
    removal = kind(
        through if kind is deleted else own,
        seen=draw(graces),
        grace=draw(graces),
        braked=draw(st.booleans()),
        brake_id=1,
    )
    holds = draw(
        st.lists(
            st.builds(
                hold,
                st.sampled_from(["cars/a.txt", "cars/", "b"]),
                is_prefix=st.booleans(),
                storage=st.none() | st.sampled_from(["s3", "azure"]),
                until=st.none() | instants,
            ),
            max_size=2,
        )
    )
    asked = {
        "removal": removal,
        "versions": versions,
        "holds": holds,
        "now": draw(instants),
        "grace": draw(graces),
        "keep_versions": draw(st.integers(1, 3)),
    }
    return next(each for each in versions if each.number == own), asked


@given(situations())
def test_nothing_goes_before_it_is_due_or_while_it_is_held_or_worked_at(situation):
    of, asked = situation
    if isinstance(decide(of, **asked), Remove):
        assert asked["now"] >= when_due(asked["removal"], asked["grace"])
        assert asked["now"] >= asked["removal"].due_at
        assert asked["now"] >= asked["removal"].first_seen_at + asked["grace"]
        assert not any(held.covers(of.storage, of.key, asked["now"]) for held in asked["holds"])
        assert not asked["removal"].braked
        assert of.claimed_until is None or of.claimed_until <= asked["now"]


@given(situations())
def test_last_stored_copy_of_a_file_that_is_not_deleted_never_goes(situation):
    of, asked = situation
    lives = any(each.live for each in asked["versions"])
    if of.state is VersionState.STORED and lives and isinstance(decide(of, **asked), Remove):
        others = [each for each in asked["versions"] if each.id != of.id and each.state is VersionState.STORED]
        assert any(not each.deleted for each in others)


@given(situations(), graces)
def test_shorter_grace_shortens_nothing(situation, other):
    of, asked = situation
    shorter, longer = sorted([asked["grace"], other])
    if isinstance(decide(of, **asked | {"grace": longer}), Remove):
        assert isinstance(decide(of, **asked | {"grace": shorter}), Remove)
    if asked["now"] < asked["removal"].due_at:
        assert isinstance(decide(of, **asked | {"grace": timedelta(0)}), Keep)


@given(situations())
def test_what_may_go_may_go_at_any_later_time_unless_a_hold_comes(situation):
    of, asked = situation
    if isinstance(decide(of, **asked), Remove):
        assert isinstance(decide(of, **asked | {"now": asked["now"] + 40 * DAY}), Remove)


@given(situations())
def test_what_is_kept_until_an_instant_is_kept_by_something_else_then_or_goes(situation):
    of, asked = situation
    decision = decide(of, **asked)
    if isinstance(decision, Keep) and decision.until is not None:
        assert decision.until > asked["now"]
        later = decide(of, **asked | {"now": decision.until})
        assert not isinstance(later, Keep) or later.until is None or later.until > decision.until


@given(situations())
def test_deleted_file_is_no_immortal(situation):
    of, asked = situation
    asked |= {"holds": [], "now": NOW + 40 * DAY, "removal": replace(asked["removal"], braked=False)}
    versions = [replace(each, deleted=True, live=False) for each in asked["versions"]]
    if asked["removal"].kind is RemovalKind.DELETED:
        assert isinstance(decide(replace(of, deleted=True, live=False), **asked | {"versions": versions}), Remove)
