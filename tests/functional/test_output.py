"""A command whose output cannot be written, or that is interrupted, ends as a person expects: in a line, never in a traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = os.pathsep.join([str(ROOT), str(ROOT / "appside")])
INTERRUPTING_MODULE = """
import os, signal
os.kill(os.getpid(), signal.SIGINT)
raise AssertionError("went on after ^C")
"""


@pytest.fixture
def run(tmp_path):
    """A function that runs `python ARGUMENTS` as somebody who has set nothing, from a folder with a site that was just made."""
    (tmp_path / "backups").mkdir()
    env = {
        "PATH": os.defpath,
        "PYTHONPATH": SOURCES,
        "HOME": str(tmp_path),
        "CBK_SOURCE_URL": f"sqlite:///{tmp_path}/app.db",
        "CBK_BACKUP_ROOT": str(tmp_path / "backups"),
        "CBK_BROKER_URL": "redis://127.0.0.1:1/0",
    }

    def run(*arguments, **options):
        more = options.pop("env", {})
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        return subprocess.run([sys.executable, *arguments], env=env | more, cwd=tmp_path, timeout=60, check=False, **options)

    return run


@pytest.mark.parametrize("unbuffered", [[], ["-u"]], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("command", [["--help"], ["status", "--json"], ["doctor"], ["schema", "mysql"]])
def test_output_to_a_full_disk_ends_with_one_line_and_1(run, command, unbuffered):
    assert run("-m", "cbk.cli", "init", "--on-system-disk").returncode == 0
    with Path("/dev/full").open("w") as full:
        done = run(*unbuffered, "-m", "cbk.cli", *command, stdout=full)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[0] == "cbk: the output cannot be written: no space left on device"
    assert "Traceback" not in done.stderr


def test_messages_to_a_full_disk_change_no_exit_code(run):
    with Path("/dev/full").open("w") as full:
        assert run("-m", "cbk.cli", "no-such-command", stderr=full).returncode == 2


def test_reader_who_goes_away_is_told_nothing(run):
    read, write = os.pipe()
    os.close(read)
    done = run("-m", "cbk.cli", "schema", "mysql", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_interrupt_while_the_command_is_still_loading_ends_with_130_and_no_word(run, tmp_path):
    (tmp_path / "click.py").write_text(INTERRUPTING_MODULE)
    done = run("-m", "cbk.cli", "status", env={"PYTHONPATH": os.pathsep.join([str(tmp_path), SOURCES])})
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_command_that_was_started_with_interrupts_ignored_goes_on_ignoring_them(run, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = run(
        "-m",
        "cbk.cli",
        "schema",
        "sqlite",
        env={"PYTHONPATH": os.pathsep.join([str(tmp_path), SOURCES])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert done.returncode == 0, done.stderr


def test_command_runs_nothing_that_lies_in_the_folder_it_is_started_in(run, tmp_path):
    assert run("-m", "cbk.cli", "init", "--on-system-disk").returncode == 0
    (tmp_path / "celeryconfig.py").write_text("raise SystemExit('run from the current folder')\n")
    done = run("-P", "-m", "cbk.cli", "resync", "--storage", "s3", "--key", "a.txt")
    assert "run from the current folder" not in done.stdout + done.stderr
    assert done.returncode in {1, 2}
