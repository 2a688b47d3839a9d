"""When so many removals come due together that a person has to say whether they are meant."""

from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbk.rules.retention.brake import SLOTS_PER_WINDOW, Allowance, allowed_of, find_burst, limit_of


@pytest.mark.parametrize(
    ("stored", "files", "share", "limit"),
    [
        (0, 100, 10, 100),
        (300, 100, 10, 100),
        (1000, 100, 10, 100),
        (1010, 100, 10, 101),
        (1009, 100, 10, 100),
        (50_000, 100, 10, 5000),
        (50_000, 100, 0, 100),
        (50_000, 100, 100, 50_000),
        (3, 1, 50, 1),
    ],
)
def test_limit_is_the_larger_of_a_number_and_of_a_share_of_what_is_stored(stored, files, share, limit):
    assert limit_of(stored=stored, files=files, share=share) == limit


@pytest.mark.parametrize(
    ("slots", "burst"),
    [
        ({}, set()),
        # Exactly at the limit, and one above it.
        ({5: 100}, set()),
        ({5: 101}, {5}),
        # Together within a window, which may lie across three slots.
        ({5: 60, 6: 41}, {5, 6}),
        ({5: 60, 7: 41}, {5, 7}),
        ({5: 60, 6: 40}, set()),
        # Too far apart.
        ({5: 60, 8: 60}, set()),
        # What is single stays out of it, what is near is caught with it.
        ({1: 1, 5: 300, 9: 1}, {5}),
        ({3: 1, 4: 1, 5: 300, 6: 1, 7: 1, 8: 1}, {3, 4, 5, 6, 7}),
        # A burst that goes on for long.
        (dict.fromkeys(range(10, 20), 40), set(range(10, 20))),
        (dict.fromkeys(range(10, 20), 33), set()),
        # Two of them.
        ({1: 101, 50: 101}, {1, 50}),
        # Before 1970, as a broken clock has it.
        ({-2: 60, -1: 41}, {-2, -1}),
    ],
)
def test_burst_is_where_more_than_the_limit_comes_due_within_a_window(slots, burst):
    assert find_burst(slots, limit=100) == burst


@pytest.mark.parametrize(
    ("copies", "files", "share", "allowed"),
    [
        # So small a set has no brake.
        (0, 100, 10, None),
        (100, 100, 10, None),
        # A larger one has its share, and no number beside it.
        (101, 100, 10, 10),
        (300, 100, 10, 30),
        (50_000, 100, 10, 5000),
        (50_000, 100, 0, 0),
        (50_000, 100, 100, 50_000),
    ],
)
def test_window_allows_its_share_of_what_was_here_and_only_the_smallest_sets_are_exempt(copies, files, share, allowed):
    assert allowed_of(copies, files=files, share=share) == allowed


@pytest.mark.parametrize(
    ("used", "waiting", "allowed", "exceeded"),
    [
        (0, 30, 30, False),
        (0, 31, 30, True),
        (29, 1, 30, False),
        (30, 1, 30, True),
        (30, 0, 30, False),
        (0, 10_000, None, False),
        (0, 1, 0, True),
    ],
)
def test_what_went_and_what_waits_count_together(used, waiting, allowed, exceeded):
    allowance = Allowance(used=used, waiting=waiting, allowed=allowed, since=datetime(2026, 3, 1, tzinfo=UTC))
    assert allowance.is_exceeded == exceeded


moments = st.lists(st.integers(0, 200), max_size=60)


@given(moments, st.integers(1, 12), st.integers(1, 20), st.integers(0, 200))
def test_any_window_with_more_than_the_limit_is_caught_entirely(due, half, limit, start):
    window = half * SLOTS_PER_WINDOW
    burst = find_burst(Counter(moment // half for moment in due), limit=limit)
    within = [moment for moment in due if start <= moment <= start + window]
    if len(within) > limit:
        assert {moment // half for moment in within} <= burst


@given(moments, st.integers(1, 12), st.integers(1, 20))
def test_what_is_far_from_every_burst_is_not_caught(due, half, limit):
    burst = find_burst(Counter(moment // half for moment in due), limit=limit)
    for moment in due:
        # No more than these can be counted together with it.
        near = [other for other in due if abs(other - moment) < half * (SLOTS_PER_WINDOW + 1)]
        if len(near) <= limit:
            assert moment // half not in burst


@given(st.dictionaries(st.integers(-50, 50), st.integers(0, 30), max_size=20), st.integers(0, 60))
def test_only_slots_in_which_something_comes_due_are_caught(slots, limit):
    assert all(slots[slot] > 0 for slot in find_burst(slots, limit=limit))


@given(st.dictionaries(st.integers(-50, 50), st.integers(1, 30), max_size=20), st.integers(0, 60), st.integers(0, 60))
def test_higher_limit_catches_no_more(slots, limit, more):
    assert find_burst(slots, limit=limit + more) <= find_burst(slots, limit=limit)
