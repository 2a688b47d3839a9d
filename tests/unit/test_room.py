"""Whether the disk takes new copies."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cbk.edges import host
from cbk.rules.backup.disk_space import Sighting, is_read_only, judge_disk_space, reserve

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


# ---- for who only looks ---------------------------------------------------------------------------------------------------------

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
WRITABLE, READ_ONLY = (Sighting(at=NOW - timedelta(seconds=70), read_only=read_only) for read_only in (False, True))
LONG_AGO = Sighting(at=NOW - timedelta(hours=1), read_only=True)


@pytest.mark.parametrize(
    ("sightings", "disk_is", "shares", "expected"),
    [
        ([], False, False, False),
        ([WRITABLE], False, False, False),
        ([READ_ONLY], False, False, True),
        ([WRITABLE, READ_ONLY], False, False, True),
        ([LONG_AGO], False, False, False),
        ([LONG_AGO, WRITABLE], False, False, False),
        ([WRITABLE], True, False, False),  # a share that is mounted read-only on the looker's machine
        ([], True, False, True),
        ([LONG_AGO], True, False, True),
        ([WRITABLE], True, True, True),  # and no worker can note it, where the catalog is on this disk
    ],
)
def test_disk_is_read_only_where_workers_say_so_or_where_nobody_can_write_to_it(sightings, disk_is, shares, expected):
    found = is_read_only(sightings, now=NOW, poll_interval=timedelta(minutes=1), disk_is=disk_is, shares=shares)
    assert found is expected


def test_sighting_counts_as_long_as_polls_may_take():
    seen = [Sighting(at=NOW - timedelta(hours=2), read_only=True)]
    assert is_read_only(seen, now=NOW, poll_interval=timedelta(hours=1), disk_is=False, shares=False)


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("/backups/x", False),  # the mount is read-only, not the disk
        ("/mnt/my ssd", True),
        ("/mnt/my ssd/again", False),  # another disk was mounted over it
        ("/mnt/my ssd2", False),
        ("/elsewhere", False),
    ],
)
def test_disk_is_told_from_a_mount_that_is_read_only(tmp_path, root, expected):
    (tmp_path / "mountinfo").write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n"
        "36 22 8:17 /b /backups ro,relatime shared:2 master:1 - ext4 /dev/sdb1 rw\n"
        "37 22 8:18 / /mnt/my\\040ssd rw,noatime - ext4 /dev/sdb2 ro,errors=remount-ro\n"
        "38 37 8:33 / /mnt/my\\040ssd/again ro - ext4 /dev/sdc1 ro\n"
        "39 38 8:34 / /mnt/my\\040ssd/again ro - ext4 /dev/sdc2 rw,rota\n"
    )
    assert host.is_disk_read_only(Path(root), tmp_path / "mountinfo") is expected


def test_disk_is_not_called_read_only_where_mounts_cannot_be_read(tmp_path):
    assert host.is_disk_read_only(tmp_path, tmp_path / "nothing") is False
