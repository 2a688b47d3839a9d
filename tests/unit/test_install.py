"""scripts/install.sh without a machine to install on: what can be known of it on any. scripts/test-install does the rest."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
INSTALL = SCRIPTS / "install.sh"


def install(*arguments):
    return subprocess.run(["sh", str(INSTALL), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="this machine has no shellcheck; scripts/test-install installs it")
@pytest.mark.parametrize("script", ["install.sh", "test-install"])
def test_shellcheck_has_nothing_to_say(script):
    done = subprocess.run(["shellcheck", str(SCRIPTS / script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_any_posix_shell_can_read_it():
    subprocess.run(["sh", "-n", str(INSTALL)], check=True)


def test_help_is_the_head_of_the_script():
    done = install("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Installs the kit as a service")
    assert "set -eu" not in done.stdout


@pytest.mark.parametrize("wrong", [["--nonsense"], ["--answers"], ["--join"]])
def test_wrong_usage_is_refused_before_anything_is_done(wrong):
    done = install(*wrong)
    assert done.returncode == 1
    assert done.stderr.startswith("install.sh: ")
    assert "\nHINT: " in done.stderr
    assert done.stdout == ""


def test_every_option_that_is_taken_is_in_the_help():
    text = INSTALL.read_text()
    taken = set(re.findall(r"^\s+(--[a-z-]+(?: \| --[a-z-]+)*)\)", text, re.MULTILINE))
    options = {option for group in taken for option in group.split(" | ")}
    assert {"--answers", "--join", "--upgrade", "--uninstall"} <= options
    assert [option for option in options if option not in install("--help").stdout] == []


def test_every_service_that_it_starts_is_a_unit_and_the_other_way_round():
    named = re.search(r'^FIRST="(.*)"$', INSTALL.read_text(), re.MULTILINE)[1].split()
    units = {unit.name for unit in (SCRIPTS / "systemd").glob("*.service")}
    assert {re.sub("@.*[.]", "@.", name) for name in named} == units


def test_constraints_come_with_hashes():
    """What is installed as root is what was pinned."""
    lines = (SCRIPTS.parent / "constraints/runtime.txt").read_text()
    pins = re.findall(r"^[\w.-]+(?:\[.*\])?==", lines, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^\S.*\\\n    --hash=sha256:[0-9a-f]{64}", lines, re.MULTILINE))
