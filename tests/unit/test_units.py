"""The units of scripts/systemd: systemd understands them, and they may do little."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = sorted((Path(__file__).parents[2] / "scripts/systemd").iterdir())
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
MOST_EXPOSED = 2.5  # of 10; systemd calls up to 4 "OK"

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="this machine has no systemd-analyze")


def name_of(path):
    return path.name


def analyze(*arguments):
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


@needs_systemd
def test_systemd_understands_every_unit(tmp_path):
    for unit in UNITS:
        # What is started lies where scripts/install.sh puts it, and is not on this machine.
        (tmp_path / unit.name).write_text(re.sub(r"/opt/cbk/bin/\S+", "/bin/true", unit.read_text()))
    done = analyze("verify", "--man=no", *map(str, tmp_path.iterdir()))
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("service", SERVICES, ids=name_of)
def test_exposure_is_ok(service):
    done = analyze("security", "--offline=yes", "--no-pager", str(service))
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert float(exposure[1]) <= MOST_EXPOSED, done.stdout


@pytest.mark.parametrize("service", SERVICES, ids=name_of)
def test_service_runs_as_its_own_user_comes_back_and_stops_with_the_target(service):
    text = service.read_text()
    assert {"User=cbk", "Group=cbk", "Restart=always", "PartOf=cbk.target", "WantedBy=cbk.target"} <= set(text.splitlines())


def test_worker_may_ask_whether_the_clock_is_synchronised():
    """ProtectClock= and ProtectProc= would make the kit believe that nobody keeps the clock."""
    lines = next(service for service in SERVICES if "worker" in service.name).read_text().splitlines()
    assert "SystemCallFilter=@system-service adjtimex clock_adjtime" in lines
    assert not [line for line in lines if line.startswith(("ProtectClock=", "ProtectProc=", "ProcSubset="))]
