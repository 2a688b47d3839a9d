"""Whether the disk takes new copies."""

import pytest

from cbk.rules.backup.disk_space import judge_disk_space, reserve

GIB = 1 << 30


@pytest.mark.parametrize(
    ("total", "least_free", "expected"),
    [
        (50 * GIB, None, GIB),
        (2000 * GIB, None, GIB),
        (25 * GIB, None, GIB // 2),
        (0, None, 0),
        (25 * GIB, 3 * GIB, 3 * GIB),
        (25 * GIB, 0, 0),
    ],
)
def test_reserve_is_what_is_set_or_fits_the_disk(total, least_free, expected):
    assert reserve(total, least_free) == expected


@pytest.mark.parametrize(
    ("free", "read_only", "least_free", "expected"),
    [
        (GIB, False, None, None),
        (GIB - 1, False, None, "almost full"),
        (0, False, None, "almost full"),
        (0, False, 0, None),
        (GIB - 1, False, 2 * GIB, "almost full"),
        (90 * GIB, True, None, "read-only"),
        (0, True, None, "read-only"),
    ],
)
def test_disk_takes_new_copies_while_it_is_writable_and_its_reserve_is_free(free, read_only, least_free, expected):
    problem = judge_disk_space(free=free, total=100 * GIB, read_only=read_only, least_free=least_free)
    assert (problem is None) is (expected is None)
    assert expected is None or (expected in problem.message and "by itself" in problem.hint)


def test_problem_says_how_much_is_left_and_how_much_is_kept():
    problem = judge_disk_space(free=123_000_000, total=100 * GIB, read_only=False, least_free=2_000_000_000)
    assert "123 MB are free, 2,000 MB stay free" in problem.message
    assert "CBK_MIN_FREE_SPACE" in problem.hint
