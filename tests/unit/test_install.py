"""scripts/install.sh without a machine to install on: what can be known of it on any. scripts/test-install does the rest."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
INSTALL = SCRIPTS / "install.sh"


def install(*arguments, **environment):
    return subprocess.run(
        ["sh", str(INSTALL), *arguments], env=os.environ | environment, capture_output=True, text=True, check=False
    )


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


def test_system_of_32_bits_is_refused_before_anything_is_done(tmp_path):
    (tmp_path / "getconf").write_text('#!/bin/sh\n[ "$1" = LONG_BIT ] && echo 32\n')
    (tmp_path / "getconf").chmod(0o755)
    done = install("--dry-run", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "32-bit system" in done.stderr
    assert "HINT: install the 64-bit Raspberry Pi OS" in done.stderr


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
    """Calls functions of the script on a machine with these units enabled and these files; the answer is its lines.

    `systemctl enable` and `disable` do so there, and `enabled` is what is enabled in the end. With `killed_before` the script ends
    before the first command in which this pattern of the shell is found.
    """
    text = INSTALL.read_text()
    constants = "\n".join(re.findall(r"^(?:FIRST|ROOM_FOR_TWO)=.*$", text, re.MULTILINE))
    functions = text[text.index("default_workers() {") : text.index("\nstart() {")]
    put = re.search(r"^put\(\) \{.*?^\}$", text, re.MULTILINE | re.DOTALL)[0]
    starting = re.search(r"^start\(\) \{.*?^\}$", text, re.MULTILINE | re.DOTALL)[0]
    wanted = tmp_path / "cbk.target.wants"
    wanted.mkdir()

    def call(
        commands,
        *,
        enabled=(),
        files=(),
        workers="",
        join="",
        processors=4,
        memory_kb=3_800_000,
        changed="",
        killed_before="nothing",
    ):
        for unit in enabled:
            (wanted / unit).symlink_to("/nowhere")
        for name, content in dict(files).items():
            (tmp_path / name).write_text(content)
        (tmp_path / "meminfo").write_text(f"MemTotal:        {memory_kb} kB\nMemFree:          100 kB\n")
        script = f"""set -eu
            {constants}
            UNITS='{tmp_path}' WANTED='{wanted}' SWAP='{tmp_path}/swap'
            CONFIG='{tmp_path}/cbk.toml' ROLE='{tmp_path}/role' UNFINISHED='{tmp_path}/unfinished'
            workers='{workers}' join='{join}' changed='{changed}' dry='' mount=new.mount
            nproc() {{ echo {processors}; }}
            say() {{ echo "$*"; }}
            fail() {{ echo "$1"; exit 1; }}
            run() {{ changed=yes; case "$*" in *{killed_before}*) exit 0 ;; esac; echo "$*"; "$@"; }}
            systemctl() {{
                case "$*" in
                    "-q is-enabled"*) shift 2; test "$1" = cbk.target || test -L "$WANTED/$1"; return ;;
                    "-q enable"*) shift 2; for unit in "$@"; do ln -sf /nowhere "$WANTED/$unit"; done ;;
                    "-q disable --now"*) shift 3; for unit in "$@"; do rm "$WANTED/$unit"; done ;;
                esac
            }}
            {put}
            {functions.replace("/proc/meminfo", str(tmp_path / "meminfo"))}
            {starting}
            {commands}"""
        return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.split("\n")[:-1]

    call.enabled = lambda: sorted(unit.name for unit in wanted.iterdir() if unit.name != "cbk.target")
    return call


def units(*instances):
    return [f"cbk-worker@{instance}.service" for instance in instances]


FIRST = ["cbk-beat.service", "cbk-flower.service", "cbk-page.service"]
SETTINGS = ("cbk.toml", "")


@pytest.mark.parametrize(
    ("processors", "memory_kb", "count"),
    [(2, 1_850_000, 2), (4, 8_000_000, 2), (1, 8_000_000, 1), (4, 950_000, 1)],
    ids=["two and 2 GB", "four and 8 GB", "one processor", "1 GB"],
)
def test_a_new_machine_gets_as_many_workers_as_it_has_room_for(on_a_machine, processors, memory_kb, count):
    got = on_a_machine("decide; workers_here", processors=processors, memory_kb=memory_kb)
    assert got == units(*range(1, count + 1))


def test_workers_that_are_there_are_neither_more_nor_fewer_afterwards(on_a_machine):
    assert on_a_machine("decide; workers_here", enabled=[*units(1), "cbk-beat.service"]) == units(1)


def test_workers_under_names_of_their_own_are_kept(on_a_machine):
    assert on_a_machine("decide; workers_here", enabled=units(2, 7, "verify"), processors=1) == units(2, 7, "verify")


def test_a_machine_whose_workers_were_all_taken_away_gets_none(on_a_machine):
    assert on_a_machine("decide; workers_here", enabled=["cbk-beat.service", "cbk-page.service"]) == []


def test_a_number_that_is_asked_for_holds(on_a_machine):
    assert on_a_machine("decide; workers_here", enabled=units(1, 4), workers="3", processors=1) == units(1, 2, 3)


def test_a_number_that_is_asked_for_takes_away_the_numbers_above_it_alone(on_a_machine):
    assert on_a_machine("workers_too_many", enabled=units(1, 2, 3, 10, "verify"), workers="2") == units(10, 3)


def test_nothing_is_too_much_where_no_number_is_asked_for(on_a_machine):
    assert on_a_machine("workers_too_many", enabled=units(1, 2, 3)) == []


@pytest.mark.parametrize(
    ("enabled", "join", "role"),
    [([], "", "first"), ([], "pi@first", "joined"), ([*units(1), "cbk-beat.service"], "", "first"), (units(1), "", "joined")],
    ids=["new", "joins", "has beat", "has workers alone"],
)
def test_a_machine_of_a_former_release_with_workers_alone_has_joined(on_a_machine, enabled, join, role):
    assert on_a_machine("decide; echo $role", enabled=enabled, join=join, files=[SETTINGS]) == [role]


@pytest.mark.parametrize(
    ("role", "enabled"),
    [("first", units(1)), ("joined", []), ("joined", [*units(1), "cbk-beat.service"])],
    ids=["beat was taken away", "nothing is enabled", "somebody enabled beat"],
)
def test_a_role_that_was_noted_holds_whatever_is_enabled(on_a_machine, role, enabled):
    assert on_a_machine("decide; echo $role", enabled=enabled, files=[SETTINGS, ("role", f"{role}\n")]) == [role]


def test_a_first_machine_that_is_told_to_join_has_joined(on_a_machine):
    assert on_a_machine("decide; echo $role", join="pi@first", files=[SETTINGS, ("role", "first\n")]) == ["joined"]


def test_a_role_without_settings_is_what_an_attempt_left(on_a_machine):
    assert on_a_machine("decide; echo $role", files=[("role", "joined\n")]) == ["first"]


def test_the_role_is_noted_before_the_settings():
    settle = re.search(r"^settle\(\) \{.*?^\}$", INSTALL.read_text(), re.MULTILINE | re.DOTALL)[0]
    assert 0 < settle.find('put 644 "$ROLE"') < settle.find("cbk setup")


def test_beat_comes_back_on_a_first_machine(on_a_machine):
    on_a_machine("decide; start", enabled=units(1), files=[SETTINGS, ("role", "first\n")])
    assert on_a_machine.enabled() == [*FIRST, *units(1)]


def test_a_joined_machine_where_nothing_is_enabled_gets_workers_alone_and_says_so(on_a_machine):
    said = on_a_machine("decide; start", files=[SETTINGS, ("role", "joined\n")])
    assert on_a_machine.enabled() == units(1, 2)
    assert [line for line in said if "has joined another one" in line]


@pytest.mark.parametrize("word", ["-q?enable", "-q?disable", "daemon-reload", "restart"])
def test_a_run_that_is_killed_is_made_up_for_by_the_next(on_a_machine, word):
    state = [SETTINGS, ("role", "first\n")]
    on_a_machine("decide; start", enabled=[*units(1, 2, 3), "cbk-beat.service"], workers="2", files=state, killed_before=word)
    on_a_machine("decide; start", files=state)
    assert on_a_machine.enabled() == [*FIRST, *units(1, 2)]


def test_units_that_only_half_were_enabled_are_made_up_for(on_a_machine):
    state = [SETTINGS, ("role", "first\n")]
    on_a_machine("decide; start", files=state, killed_before="-q?enable")
    on_a_machine("decide; start", enabled=units(1), files=state)
    assert on_a_machine.enabled() == [*FIRST, *units(1, 2)]


def test_a_run_that_is_killed_before_all_is_started_starts_it_the_next_time(on_a_machine):
    state = [SETTINGS, ("role", "first\n")]
    on_a_machine("decide; start", files=state, killed_before="restart")
    assert "systemctl restart cbk.target" in on_a_machine("decide; start", files=state)


def test_nothing_is_disabled_before_all_that_stays_is_enabled(on_a_machine):
    said = on_a_machine("decide; start", enabled=[*units(1, 3), *FIRST], workers="2", files=[SETTINGS])
    assert [line.split()[2] for line in said if line.startswith("systemctl -q")] == ["enable", "disable"]


def test_a_run_that_ended_leaves_nothing_to_do(on_a_machine):
    state = [SETTINGS, ("role", "first\n")]
    on_a_machine("decide; start", workers="2", files=state)
    assert on_a_machine("decide; start", workers="2", files=state) == []


def test_a_disk_that_was_left_starts_no_worker_any_more(on_a_machine, tmp_path):
    for place in ("old.mount.wants", "new.mount.wants"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "cbk-worker@1.service").symlink_to("/nowhere")
    on_a_machine("forget_former_disks")
    assert [path.parent.name for path in tmp_path.glob("*.mount.wants/*")] == ["new.mount.wants"]


@pytest.mark.parametrize(
    ("enabled", "workers", "sharers"),
    [
        ([*units(1, 2, 3), "cbk-beat.service"], "", "3"),
        (units(1, 2, 3), "2", "2"),
        (units(1, "verify"), "", "1"),
        (units("verify"), "", "1"),
    ],
    ids=["all that are enabled", "as many as asked for", "not one with a purpose of its own", "at least one"],
)
def test_workers_under_a_number_share_the_downloads(on_a_machine, enabled, workers, sharers):
    assert on_a_machine("decide; sharing", enabled=enabled, workers=workers) == [sharers]


def test_constraints_come_with_hashes():
    """What is installed as root is what was pinned."""
    lines = (SCRIPTS.parent / "constraints/runtime.txt").read_text()
    pins = re.findall(r"^[\w.-]+(?:\[.*\])?==", lines, re.MULTILINE)
    assert len(pins) == len(re.findall(r"^\S.*\\\n    --hash=sha256:[0-9a-f]{64}", lines, re.MULTILINE))
