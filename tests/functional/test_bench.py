"""The benchmarks still run; what they measure is theirs to say, and no test's."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_memory_is_measured_with_all_files_in_flight():
    command = [sys.executable, "-m", "bench.memory", "--files", "3", "--large", "3MiB", "--small", "100KiB"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert "stored: 3 of 3 files" in printed.stdout, printed.stderr
    assert "3 were in flight at the same time" in printed.stdout
    idle, peak = map(float, re.findall(r"([0-9.]+) MB (?:idle|at its peak)", printed.stdout))
    assert 0 < idle < peak


def test_rebuild_is_measured_with_an_empty_and_with_a_full_catalog():
    command = [sys.executable, "-m", "bench.rebuild", "300"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert len(re.findall(r"^300 copies .*: [0-9.]+ s, [0-9]+ copies/s", printed.stdout, flags=re.MULTILINE)) == 2, printed.stderr


def test_transfers_are_measured_beside_those_of_rclone(tmp_path):
    command = [sys.executable, "-m", "bench", "small", "--scale", "0.003", "--rounds", "1", "--only", "us,rclone-compress"]
    command += ["--json", str(tmp_path / "runs.json")]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert printed.returncode == 0, printed.stderr
    ours, theirs = json.loads((tmp_path / "runs.json").read_text())["runs"]
    assert [run["files"] for run in (ours, theirs)] == [30, 30]
    assert set(ours["used"]) == {"worker-1", "beat", "valkey", "postgresql"}
    assert all(used["memory"] > 0 for run in (ours, theirs) for used in run["used"].values())
    assert ours["used"]["worker-1"]["cpu"] > 0 < theirs["used"]["rclone-compress"]["cpu"]
    rates = [run["files"] / run["seconds"] for run in (ours, theirs)]
    shown = re.findall(r"^\| (us|rclone-compress) \| (\d+) \|.*\| ([0-9.]*)", printed.stdout, flags=re.MULTILINE)
    assert [(name, int(rate)) for name, rate, _ in shown] == [("us", round(rates[0])), ("rclone-compress", round(rates[1]))]
    assert f"{rates[0] / rates[1]:.2f}" in printed.stdout
