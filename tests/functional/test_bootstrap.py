"""scripts/bootstrap, run for real on a project of one file that needs nothing from outside."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""

# A build backend of the standard library's own: an editable wheel with one module in it, and a note of each build.
BACKEND = """
import zipfile

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    with open("builds", "a") as builds:
        builds.write("built\\n")
    name = "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{wheel_directory}/{name}", "w") as wheel:
        wheel.writestr("tiny.py", "")
        wheel.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n")
        wheel.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("tiny-1.0.dist-info/RECORD", "")
    return name
"""
APP_BACKEND = BACKEND.replace("tiny", "tiny_app")


class Project:
    """A folder with our bootstrap in it, and an environment beside it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.venv = folder / ".venv"
        (folder / "constraints").mkdir(parents=True)
        for name in ("runtime", "demo", "dev"):
            (folder / f"constraints/{name}.txt").write_text("")
        (folder / "pyproject.toml").write_text(PYPROJECT)
        (folder / "backend.py").write_text(BACKEND)
        (folder / "appside").mkdir()
        (folder / "appside/pyproject.toml").write_text(PYPROJECT)
        (folder / "appside/backend.py").write_text(APP_BACKEND)
        (folder / "scripts").mkdir()
        for name in ("bootstrap", "bootstrap.py"):
            shutil.copy(SCRIPTS / name, folder / "scripts")
        shutil.copytree(SCRIPTS / "vendor", folder / "scripts/vendor")

    def bootstrap(self, *arguments, **environment):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "CBK_"))}
        return subprocess.run(
            ["sh", str(self.folder / "scripts/bootstrap"), *arguments],
            env=clean | {"CBK_PYTHON": sys.executable, "PIP_NO_INDEX": "1"} | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    @property
    def builds(self):
        notes = self.folder / "builds"
        return len(notes.read_text().splitlines()) if notes.exists() else 0

    def works(self, module="tiny"):
        return subprocess.run([self.venv / "bin/python", "-c", f"import {module}"], check=False).returncode == 0


@pytest.fixture
def project(tmp_path):
    """A fresh clone."""
    return Project(tmp_path / "project")


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """A clone in which `scripts/bootstrap demo` has been run; `done` is how that ended."""
    project = Project(tmp_path_factory.mktemp("made-once") / "project")
    project.done = project.bootstrap("demo")
    return project


@pytest.fixture
def ready(project, made_once):
    """A clone in which `scripts/bootstrap demo` has been run: a copy of one, made to believe that it was always here."""
    assert made_once.done.returncode == 0, made_once.done.stderr
    shutil.copytree(made_once.folder, project.folder, symlinks=True, dirs_exist_ok=True)
    state = project.venv / "cbk-bootstrap.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"folder": str(project.venv)}))
    return project


def test_bootstrap_makes_an_environment_and_prints_its_commands(made_once):
    done = made_once.done
    assert (done.returncode, done.stdout) == (0, f"{made_once.venv / 'bin'}\n"), done.stderr
    assert made_once.works()
    assert made_once.works("tiny_app")


def test_bootstrap_needs_no_ensurepip(project, tmp_path):
    """Debian's python3 comes without it."""
    bare = tmp_path / "bare-python"
    hide = "import runpy, sys; sys.modules['ensurepip'] = None; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    bare.write_text(f'#!/bin/sh\n[ "$2" = -c ] && exec {sys.executable} "$@"\nshift\nexec {sys.executable} -I -c "{hide}" "$@"\n')
    bare.chmod(0o755)
    done = project.bootstrap("runtime", CBK_PYTHON=str(bare))
    assert done.returncode == 0, done.stderr
    assert project.works()
    assert not project.works("tiny_app")


def test_bootstrap_does_nothing_the_second_time(ready):
    done = ready.bootstrap("demo")
    assert (done.returncode, done.stderr, ready.builds) == (0, "", 1)


def test_bootstrap_takes_a_larger_set_for_a_smaller_one(ready):
    ready.bootstrap("runtime")
    assert ready.builds == 1


def test_bootstrap_installs_a_larger_set_over_a_smaller_one(ready):
    ready.bootstrap("dev")
    assert ready.builds == 2


@pytest.mark.parametrize("name", ["pyproject.toml", "appside/pyproject.toml", "constraints/demo.txt"])
def test_bootstrap_installs_again_when_a_pin_changes(ready, name):
    with (ready.folder / name).open("a") as file:
        file.write("# changed\n")
    ready.bootstrap("demo")
    assert ready.builds == 2


def test_bootstrap_starts_afresh_after_a_run_that_was_cut_short(ready):
    state = ready.venv / "cbk-bootstrap.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"installed": None}))
    debris = next(ready.venv.glob("lib/*/site-packages")) / "half-a-package.py"
    debris.touch()
    done = ready.bootstrap("demo")
    assert done.returncode == 0, done.stderr
    assert ready.works()
    assert not debris.exists()


def test_bootstrap_says_so_before_it_installs(ready):
    """Whatever kills it in between, the next run knows."""
    (ready.folder / "constraints/demo.txt").write_text("# changed\n")
    (ready.folder / "backend.py").write_text("raise SystemExit('cut short')\n")
    assert ready.bootstrap("demo").returncode == 1
    assert json.loads((ready.venv / "cbk-bootstrap.json").read_text())["installed"] is None


def test_bootstrap_asks_before_it_removes_what_it_cannot_know_for_its_own(ready):
    (ready.venv / "cbk-bootstrap.json").write_text('{"folder": ')
    done = ready.bootstrap("demo")
    assert (done.returncode, ready.works()) == (1, True)
    assert "HINT: remove it" in done.stderr


def test_bootstrap_starts_afresh_in_a_folder_that_was_moved(ready, tmp_path):
    ready.folder.rename(tmp_path / "moved")
    ready.folder = tmp_path / "moved"
    ready.venv = ready.folder / ".venv"
    done = ready.bootstrap("demo")
    assert done.returncode == 0, done.stderr
    assert ready.builds == 2


def test_bootstrap_starts_afresh_when_its_python_is_gone(ready):
    (ready.venv / "bin/python").unlink()
    done = ready.bootstrap("demo")
    assert done.returncode == 0, done.stderr
    assert ready.works()


def test_bootstrap_removes_nothing_that_it_did_not_make(project):
    project.venv.mkdir()
    (project.venv / "letter.txt").write_text("dear reader")
    done = project.bootstrap("dev")
    assert done.returncode == 1
    assert "HINT:" in done.stderr
    assert (project.venv / "letter.txt").read_text() == "dear reader"


def test_bootstrap_ignores_pip_settings_that_would_install_elsewhere(project, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    done = project.bootstrap("dev", PIP_TARGET=str(elsewhere), PIP_USER="1", PIP_REQUIRE_VIRTUALENV="1", PYTHONPATH=str(elsewhere))
    assert done.returncode == 0, done.stderr
    assert project.works()
    assert not elsewhere.exists()


def test_bootstrap_refuses_a_pip_that_is_not_the_one_it_knows(project):
    wheel = next((project.folder / "scripts/vendor").glob("pip-*.whl"))
    wheel.write_bytes(wheel.read_bytes()[:-1] + b"!")
    done = project.bootstrap("dev")
    assert done.returncode == 1
    assert "SHA256SUMS" in done.stderr
    assert project.builds == 0


def test_bootstrap_shows_what_pip_said_when_it_fails(project):
    digest = hashlib.sha256(b"").hexdigest()
    (project.folder / "constraints/dev.txt").write_text(f"no-such-package==1.0 --hash=sha256:{digest}\n")
    done = project.bootstrap("dev")
    assert done.returncode == 1
    assert "No matching distribution found for no-such-package" in done.stderr
    assert "HINT:" in done.stderr


def test_bootstrap_without_a_fit_python_says_what_to_install(project):
    done = project.bootstrap("dev", CBK_PYTHON="/bin/false")
    assert done.returncode == 1
    assert "HINT: install one" in done.stderr


def test_bootstrap_without_a_known_set_explains_itself(project):
    assert project.bootstrap("everything").returncode == 2


def test_two_bootstraps_at_once_install_once(project):
    command = ["sh", str(project.folder / "scripts/bootstrap"), "dev"]
    environment = os.environ | {"CBK_PYTHON": sys.executable, "CBK_VENV": "", "PIP_NO_INDEX": "1"}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert project.builds == 1
