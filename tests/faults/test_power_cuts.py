"""The plug is pulled: nothing that is called stored is lost or wrong, and a start afterwards is all that it takes.

`scripts/test-faults` does the same at length, and writes docs/reliability.md.
"""

import pytest

from tests.faults.cuts import cut_after_init, cut_at_random, cut_at_steps
from tests.faults.steps import NEW_FOLDERS, STEPS

CATALOG = pytest.mark.parametrize("catalog_on_disk", [True, False], ids=["catalog on the disk", "catalog elsewhere"])
# In turn about a new file and about a new version of one that is there.
ALTERNATING = [(label, number % 2 == 1 and label not in NEW_FOLDERS) for number, label in enumerate(STEPS)]
# Where a flush that is missing, or a record that comes too early, would show: by whether the catalog is on the disk.
TELLING = {
    True: [("recorded", False), ("bytes gone", False)],
    False: [("renamed, not flushed", False), ("recorded", True), ("batch recorded", False)],
}


@pytest.mark.parametrize("kind", ["ext4"], indirect=True)
def test_cut_at_each_step_loses_nothing(tmp_path, origin, kind):
    tally = cut_at_steps(tmp_path, origin, kind, catalog_on_disk=True, steps=ALTERNATING)
    assert tally.findings == []
    assert tally.times == len(STEPS)


@CATALOG
def test_cut_where_a_missing_flush_would_show_loses_nothing(tmp_path, origin, kind, catalog_on_disk):
    tally = cut_at_steps(tmp_path, origin, kind, catalog_on_disk=catalog_on_disk, steps=TELLING[catalog_on_disk])
    assert tally.findings == []
    assert tally.times == len(TELLING[catalog_on_disk])


@CATALOG
def test_cut_under_load_loses_nothing(tmp_path, origin, kind, catalog_on_disk):
    times = 3 if kind == "ext4" else 1
    tally = cut_at_random(tmp_path, origin, kind, catalog_on_disk=catalog_on_disk, times=times, files=32)
    assert tally.findings == []
    assert tally.times == times


def test_cut_right_after_init_leaves_a_disk_that_is_ready(tmp_path, origin, kind):
    assert cut_after_init(tmp_path, origin, kind).findings == []


@pytest.mark.nightly
@CATALOG
def test_cut_at_every_step_of_both_ways_loses_nothing(tmp_path, origin, kind, catalog_on_disk):
    assert cut_at_steps(tmp_path, origin, kind, catalog_on_disk=catalog_on_disk).findings == []


@pytest.mark.nightly
@CATALOG
def test_many_cuts_under_load_lose_nothing(tmp_path, origin, kind, catalog_on_disk):
    assert cut_at_random(tmp_path, origin, kind, catalog_on_disk=catalog_on_disk, times=50).findings == []
