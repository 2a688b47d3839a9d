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


@pytest.mark.parametrize(
    "wrong",
    [["--nonsense"], ["--answers"], ["--join"], ["--workers"], ["--workers", "0"], ["--workers", "10"], ["--workers", "two"]],
)
def test_wrong_usage_is_refused_before_anything_is_done(wrong):
    done = install("--dry-run", *wrong)  # so that a mistake in the script installs nothing on the machine of the tests
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
    assert {*named, "cbk-worker@.service"} == units


@pytest.fixture
def on_a_machine(tmp_path):
    """Calls one function of the script on a machine with these units enabled; the answer is its lines."""
    text = INSTALL.read_text()
    constants = "\n".join(re.findall(r"^(?:FIRST|ROOM_FOR_TWO)=.*$", text, re.MULTILINE))
    functions = text[text.index("default_workers() {") : text.index("\nstart() {")]

    def call(name, *, enabled=(), workers="", join="", processors=4, memory_kb=3_800_000, changed="", answer=0):
        wanted = tmp_path / "cbk.target.wants"
        wanted.mkdir()
        for unit in enabled:
            (wanted / unit).symlink_to("/nowhere")
        (tmp_path / "meminfo").write_text(f"MemTotal:        {memory_kb} kB\nMemFree:          100 kB\n")
        script = f"""set -eu
            {constants}
            WANTED='{wanted}' workers='{workers}' join='{join}' changed='{changed}'
            nproc() {{ echo {processors}; }}
            systemctl() {{ return {answer}; }}
            run() {{ echo "$*"; }}
            {functions.replace("/proc/meminfo", str(tmp_path / "meminfo"))}
            {name}"""
        return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.split("\n")[:-1]

    return call


def units(*instances):
    return [f"cbk-worker@{instance}.service" for instance in instances]


@pytest.mark.parametrize(
    ("processors", "memory_kb", "count"),
    [(2, 1_850_000, 2), (4, 8_000_000, 2), (1, 8_000_000, 1), (4, 950_000, 1)],
    ids=["two and 2 GB", "four and 8 GB", "one processor", "1 GB"],
)
def test_a_new_machine_gets_as_many_workers_as_it_has_room_for(on_a_machine, processors, memory_kb, count):
    got = on_a_machine("workers_here", processors=processors, memory_kb=memory_kb)
    assert got == units(*range(1, count + 1))


def test_workers_that_are_there_are_neither_more_nor_fewer_afterwards(on_a_machine):
    assert on_a_machine("workers_here", enabled=[*units(1), "cbk-beat.service"]) == units(1)


def test_workers_under_names_of_their_own_are_kept(on_a_machine):
    assert on_a_machine("workers_here", enabled=units(2, 7, "verify"), processors=1) == units(2, 7, "verify")


def test_a_machine_whose_workers_were_all_taken_away_gets_none(on_a_machine):
    assert on_a_machine("workers_here", enabled=["cbk-beat.service", "cbk-page.service"]) == []


def test_a_number_that_is_asked_for_holds(on_a_machine):
    assert on_a_machine("workers_here", enabled=units(1, 4), workers="3", processors=1) == units(1, 2, 3)


def test_a_number_that_is_asked_for_takes_away_the_numbers_above_it_alone(on_a_machine):
    assert on_a_machine("workers_too_many", enabled=units(1, 2, 3, 10, "verify"), workers="2") == units(10, 3)


def test_nothing_is_too_much_where_no_number_is_asked_for(on_a_machine):
    assert on_a_machine("workers_too_many", enabled=units(1, 2, 3)) == []


@pytest.mark.parametrize(
    ("enabled", "join", "joined"),
    [([], "", False), ([], "pi@first", True), ([*units(1), "cbk-beat.service"], "", False), (units(1), "", True)],
    ids=["new", "joins", "has beat", "has workers alone"],
)
def test_a_machine_with_workers_alone_has_joined(on_a_machine, enabled, join, joined):
    assert on_a_machine("if has_joined; then echo yes; fi", enabled=enabled, join=join) == ["yes"] * joined


def test_units_are_enabled_all_at_once(on_a_machine):
    """What is enabled is what the next run keeps, so that one that is killed half-way must not leave half of it."""
    assert on_a_machine("enable_units a.service b.service", answer=1) == [
        "systemctl -q disable a.service b.service",
        "systemctl -q enable a.service b.service",
    ]


def test_units_that_are_enabled_are_left_alone_where_nothing_changed(on_a_machine):
    assert on_a_machine("enable_units a.service b.service") == []


def test_constraints_come_with_hashes():
    """What is installed as root is what was pinned."""
    lines = (SCRIPTS.parent / "constraints/runtime.txt").read_text()
    pins = re.findall(r"^[\w.-]+(?:\[.*\])?==", lines, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^\S.*\\\n    --hash=sha256:[0-9a-f]{64}", lines, re.MULTILINE))
