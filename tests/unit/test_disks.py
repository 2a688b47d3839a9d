"""Which disks are below a filesystem, read from a tree like the kernel's /sys."""

from pathlib import Path

import pytest

from cbk.edges import host


@pytest.fixture
def sysfs(tmp_path):
    """An SD card with a partition, encryption on it, a RAID of two disks, and an NVMe disk without partitions."""
    for folder in ("mmcblk0/mmcblk0p2", "dm-0/slaves", "sda/sda1", "sdb", "md0/slaves", "nvme0n1/slaves"):
        (tmp_path / folder).mkdir(parents=True)
    for partition in ("mmcblk0/mmcblk0p2", "sda/sda1"):
        (tmp_path / partition / "partition").write_text("1\n")
    (tmp_path / "dm-0/slaves/mmcblk0p2").symlink_to("../../mmcblk0/mmcblk0p2")
    (tmp_path / "md0/slaves/sda1").symlink_to("../../sda/sda1")
    (tmp_path / "md0/slaves/sdb").symlink_to("../../sdb")
    return tmp_path


@pytest.mark.parametrize(
    ("entry", "disks"),
    [
        ("mmcblk0/mmcblk0p2", {"mmcblk0"}),
        ("dm-0", {"mmcblk0"}),
        ("md0", {"sda", "sdb"}),
        ("nvme0n1", {"nvme0n1"}),
        ("nothing", set()),
    ],
)
def test_disks_are_found_through_partitions_encryption_and_raid(sysfs, entry, disks):
    assert host._disks_below(sysfs / entry) == disks


def test_other_partition_of_the_systems_disk_is_the_systems_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "_disks", lambda device: frozenset({"mmcblk0"}))
    assert host.shares_system_disk(tmp_path)
    assert host.is_on_sd_card(tmp_path)


def test_other_disk_is_another_one(monkeypatch):
    proc = Path("/proc")  # a filesystem of its own, on no disk
    assert not host.shares_system_disk(proc)
    assert not host.is_on_sd_card(proc)
    assert host.shares_system_disk(Path("/"))
