"""Every call on the disk fails in turn: a job ends with an error of the kit, nothing wrong is called stored, a later try stores it.

The faults come from strace: the code under test knows nothing of them. What missed the disk does not count.
"""

import pytest

from tests.faults.injections import ERRORS, KILL, WAYS, inject_all
from tests.faults.strace import CUT

pytestmark = pytest.mark.usefixtures("tracing")

IN = {"openat", "mkdirat", "write", "read", "fsync", "renameat2", "close"}
CASES = {
    "a new file": (IN, (*ERRORS, KILL)),
    "a bad copy in the place": ({"read", "renameat2", "fsync"}, ("EIO", KILL)),
    "wrong bytes from the origin": ({"unlink"}, ("EIO", KILL)),
    "a new file, no renameat2": ({"linkat", "unlink"}, ("EIO", KILL)),
    "a deleted file": ({"flock", "unlinkat", "fsync"}, ("EIO", KILL)),
}


@pytest.mark.parametrize("way", CASES)
def test_first_call_of_each_name_that_fails_does_no_harm(tmp_path, origin, way):
    names, harms = CASES[way]
    injected = inject_all(tmp_path, origin, catalog_on_disk=False, ways=[way], harms=harms, first_of=names)
    assert injected.findings == []
    assert injected.hit == names
    assert injected.times == len(names) * len(harms)


def test_catalog_on_the_disk_that_fails_does_no_harm(tmp_path, origin):
    names = {"pwrite64", "pread64", "fdatasync"}
    injected = inject_all(tmp_path, origin, catalog_on_disk=True, ways=["a new file"], harms=["EIO", KILL], first_of=names)
    assert injected.findings == []
    assert injected.hit == names


@pytest.mark.nightly
@pytest.mark.parametrize("catalog_on_disk", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_every_call_that_fails_does_no_harm(tmp_path, origin, way, catalog_on_disk):
    injected = inject_all(tmp_path, origin, catalog_on_disk=catalog_on_disk, ways=[way])
    assert injected.findings == []
    assert injected.times > injected.planned * 0.9


@pytest.mark.nightly
@pytest.mark.parametrize("way", WAYS)
def test_power_cut_at_every_call_loses_nothing(tmp_path, origin, kind, way):
    injected = inject_all(tmp_path, origin, catalog_on_disk=True, kind=kind, ways=[way], harms=[CUT])
    assert injected.findings == []
    assert injected.times > injected.planned * 0.9
