"""The scripts folder: what is true of every command in it."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bootstrap

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
COMMANDS = sorted(path for path in SCRIPTS.iterdir() if path.is_file() and not path.suffix)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda path: path.name)
def test_command_can_be_run_by_any_posix_shell(command):
    assert command.read_text().startswith("#!/bin/sh\n")
    assert command.stat().st_mode & 0o111 == 0o111
    subprocess.run(["sh", "-n", command], check=True)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda path: path.name)
def test_command_is_in_the_readme(command):
    assert f"| `scripts/{command.name}` |" in (SCRIPTS / "README.md").read_text()


def test_readme_names_no_command_that_is_not_there():
    named = re.findall(r"\| `scripts/([\w-]+)` \|", (SCRIPTS / "README.md").read_text())
    assert sorted(named) == [command.name for command in COMMANDS]


def test_vendored_pip_is_the_one_that_dev_pins():
    digest, name = (SCRIPTS / "vendor/SHA256SUMS").read_text().split()
    pinned = re.search(
        r"^pip==(\S+) (?:\\\n +--hash=sha256:[0-9a-f]{64} ?)+", (ROOT / "constraints/dev.txt").read_text(), re.MULTILINE
    )
    assert name == f"pip-{pinned[1]}-py3-none-any.whl"
    assert digest in pinned[0]
    assert hashlib.sha256((SCRIPTS / "vendor" / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(
    ("smaller", "larger"), [("runtime", "demo"), ("demo", "dev"), ("dev", "page-tests"), ("dev", "fuzz"), ("dev", "mutants")]
)
def test_larger_set_pins_all_of_the_smaller_one(smaller, larger):
    """So that an environment made for one serves the other."""
    pins = {
        name: re.findall(r"^[\w.-]+==\S+", (ROOT / f"constraints/{name}.txt").read_text(), re.MULTILINE)
        for name in (smaller, larger)
    }
    assert set(pins[smaller]) < set(pins[larger])


def test_python_of_32_bits_is_refused_before_anything_is_made(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    monkeypatch.setenv("CBK_VENV", str(tmp_path / "venv"))
    assert bootstrap.main(["runtime"]) == 1
    said = capsys.readouterr().err
    assert "32-bit" in said
    assert "HINT: install the 64-bit Raspberry Pi OS" in said
    assert not (tmp_path / "venv").exists()


def test_pip_environment_keeps_where_packages_come_from():
    source = {
        "PIP_INDEX_URL": "a",
        "PIP_EXTRA_INDEX_URL": "b",
        "PIP_CERT": "c",
        "PIP_PROXY": "d",
        "PIP_CACHE_DIR": "e",
        "HOME": "f",
    }
    assert source.items() <= bootstrap.pip_environment(source).items()


@pytest.mark.parametrize(
    "name", ["PIP_TARGET", "PIP_PREFIX", "PIP_CONSTRAINT", "PIP_NO_BINARY", "PIP_DRY_RUN", "PIP_QUIET", "PYTHONPATH"]
)
def test_pip_environment_drops_what_would_change_the_installation(name):
    assert name not in bootstrap.pip_environment({name: "1"})
