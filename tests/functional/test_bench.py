"""The benchmarks still run; what they measure is theirs to say, and no test's."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.targets import TARGETS

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


@pytest.mark.nightly
def test_table_is_made_of_what_was_measured(tmp_path):
    """A tiny run of the kit, a peer and a history: the numbers in the table follow from the processes' own figures."""
    command = [sys.executable, "-m", "bench", "small", "poll", "--scale", "0.003", "--rounds", "1"]
    command += ["--only", "us,rclone-compress", "--json", str(tmp_path / "runs.json")]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=180)
    assert printed.returncode == 0, printed.stderr
    runs = {(run["case"], run["contender"]): run for run in json.loads((tmp_path / "runs.json").read_text())["runs"]}
    ours, theirs, taken = runs["small", "us"], runs["small", "rclone-compress"], runs["intake", "us"]
    assert (ours["files"], theirs["files"], taken["files"]) == (30, 30, 3000)
    assert taken["facts"]["messages"] > 0
    assert set(ours["used"]) == {"worker-1", "worker-2", "beat", "valkey", "postgresql"}
    assert all(used["memory"] > 0 for run in (ours, theirs, taken) for used in run["used"].values())
    assert all(used["cpu"] > 0 for used in (ours["used"]["worker-1"], theirs["used"]["rclone-compress"], taken["used"]["poll"]))
    ratios = {
        "small files/s, over `rclone copy` to": theirs["seconds"] / ours["seconds"],
        "poll with nothing new": runs["poll", "history"]["seconds"] / runs["poll", "empty"]["seconds"],
        "peak memory of a worker": max(
            used["memory"] for run in runs.values() for name, used in run["used"].items() if name.startswith("worker-")
        )
        / 1e6,
        "Redis memory": taken["facts"]["redis_bytes"] / 1e6,
    }
    for what, expected in ratios.items():
        shown = re.search(rf"^\| {re.escape(what)}[^|]*\|[^|]*\| ([0-9.]+) ", printed.stdout, flags=re.MULTILINE)
        assert float(shown[1]) == pytest.approx(expected, abs=0.01)


@pytest.mark.nightly
def test_every_target_is_measured_by_a_run_of_everything(tmp_path):
    command = [sys.executable, "-m", "bench", "--scale", "0.002", "--rounds", "1", "--markdown", str(tmp_path / "tables.md")]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    assert printed.returncode == 0, printed.stderr
    verdicts = re.findall(r"^\|.*\| [≥≤] [0-9.]+ \| (.*) \| (.*) \|$", (tmp_path / "tables.md").read_text(), flags=re.MULTILINE)
    assert len(verdicts) == len(TARGETS)
    assert {verdict for _, verdict in verdicts} <= {"met", "**missed**"}
