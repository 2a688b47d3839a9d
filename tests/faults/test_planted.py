"""The suites find bugs that are planted for them: one flush, one comparison, one lease fewer."""

import pytest

from tests.faults import disks, planted
from tests.faults.planted import is_caught
from tests.faults.planted_rows import ROW_PLANTS

PLANTS = planted.PLANTS | ROW_PLANTS
QUICK = ("the bytes are not flushed", "the hash of a download is not compared", "the fence is not compared")


def test_every_planted_bug_fits_the_code_of_today():
    changes = [change for plant in PLANTS.values() for change in ((plant.file, plant.old, plant.new), *plant.also)]
    assert [(file, old) for file, old, _ in changes if old not in (planted.ROOT / file).read_text()] == []


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.nightly) for name in PLANTS])
def test_planted_bug_is_caught(tmp_path, name):
    if PLANTS[name].needs_cuts and (reason := disks.why_not("ext4")):
        pytest.skip(f"WHETHER THE POWER CUTS FIND A BUG IS NOT TESTED: {reason}")
    caught, said = is_caught(PLANTS[name], tmp_path)
    assert caught, said
