"""scripts/test-install: a fresh Debian that boots its own systemd, from installation to uninstallation."""

import os
import subprocess
from pathlib import Path

import pytest

TEST_INSTALL = Path(__file__).parents[2] / "scripts/test-install"


@pytest.mark.nightly
@pytest.mark.skipif(os.geteuid() != 0, reason="a container with a systemd of its own needs root")
@pytest.mark.skipif(not Path("/etc/debian_version").exists(), reason="debootstrap and systemd-nspawn come from Debian")
def test_kit_lives_and_goes_as_a_service_of_a_fresh_debian():
    done = subprocess.run([TEST_INSTALL], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    assert done.stdout.endswith("\nall is well\n")
