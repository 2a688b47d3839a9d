"""scripts/install.sh from one release to another, on a machine whose systemd, pip and programs are played by short scripts.

Whatever breaks, and wherever the run is killed, the former release runs again, a sentence says so, and a second try works.
scripts/test-install tries it on a machine.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
REVISIONS = {"one": "0012", "two": "0014", "three": "0014"}

# Each of these is called by its name; $MACHINE is the machine's folder, and `broken` in it names the step that does not work.
PLAYED = {
    "id": "echo 0",
    "python3": f'exec "{sys.executable}" "$@"',
    "sleep": ":",
    "chown": ":",
    "getent": ":",
    "apt-get": ":",
    "mountpoint": ":",
    "redis-server": ":",
    "findmnt": "echo /",
    "systemd-escape": "echo backups.mount",
    "runuser": 'shift 3; exec "$@"',
    "systemctl": """
        echo "$*" >>$MACHINE/systemctl.log
        case "$*" in
            "stop cbk*") breaks stop; rm -f $MACHINE/runs ;;
            "list-units"*) cat $MACHINE/runs 2>/dev/null || : ;;
            "-q enable"*) shift 2; for unit in "$@"; do ln -sf /nowhere $MACHINE/etc/systemd/system/cbk.target.wants/$unit; done ;;
            "-q is-enabled"*) test "$3" = cbk.target || test -L $MACHINE/etc/systemd/system/cbk.target.wants/$3 ;;
            "restart cbk.target"|"start cbk.target")
                breaks restart
                release=$(cat $MACHINE/opt/cbk/release)
                test "$(cat $MACHINE/catalog)" = "$(cat $MACHINE/opt/cbk/revision)" || exit 0
                ! cmp -s $MACHINE/etc/systemd/system/cbk.target $MACHINE/etc/unit-of-$release || :
                if ! is_broken start; then echo $release >$MACHINE/runs; fi ;;
            "-q is-active"*) test -e $MACHINE/runs ;;
            "show --value"*) if is_broken crash; then echo activating; echo 3; else echo active; echo 0; fi ;;
        esac
    """,
}

# The programs of a release, which scripts/bootstrap puts into a folder.
BOOTSTRAP = """#!/bin/sh
set -eu
. $MACHINE/broken.sh
breaks download
mkdir -p $CBK_VENV/bin $CBK_VENV/lib/python3.11/site-packages/cbk/edges/catalog/migrations/versions
cp $MACHINE/tree/release $MACHINE/tree/revision $CBK_VENV
touch $CBK_VENV/cbk-bootstrap.json $CBK_VENV/lib/python3.11/site-packages/cbk/edges/catalog/migrations/versions/0001_first.py
touch $CBK_VENV/lib/python3.11/site-packages/cbk/edges/catalog/migrations/versions/$(cat $MACHINE/tree/revision)_newest.py
cp $MACHINE/played/python $MACHINE/played/cbk $CBK_VENV/bin
"""
PYTHON = """
case "$*" in
    *"import cbk.celery"*) breaks import ;;
    *"import cbk"*) ;;
    *wheel-dir*) while [ "$1" != --wheel-dir ]; do shift; done; touch $2/cloud_backup_kit-1-py3-none-any.whl ;;
    *man_pages*) mkdir -p $3; echo page >$3/cbk.1 ;;
esac
"""
CBK = """
here=$(cd "$(dirname "$0")/.." && pwd -P)
echo "$(cat $here/release): cbk $*" >>$MACHINE/cbk.log
mine=$(cat $here/revision) now=$(cat $MACHINE/catalog 2>/dev/null || echo none)
case "$*" in
    "upgrade --dry-run")
        breaks trial
        if [ "$now" != "$mine" ]; then echo "tried the migration from revision $now: it succeeds"; fi ;;
    upgrade)
        if [ "$now" = none ]; then echo "there is no catalog" >&2; exit 1; fi
        if [ "$now" != "$mine" ]; then breaks migration; cp $MACHINE/catalog $MACHINE/catalog.$now; echo $mine >$MACHINE/catalog; fi
        breaks migrated ;;
    *--rollback*--dry-run) ;;
    "upgrade --rollback --to "*)
        if [ "$now" = "$4" ]; then echo "is at revision $4 already"; exit; fi
        cp $MACHINE/catalog.$4 $MACHINE/catalog
        echo "is at revision $4 again" ;;
    init) breaks init; echo $mine >$MACHINE/catalog ;;
    setup*) echo 'source_url = "sqlite:///app.db"' >$MACHINE/etc/cbk/cbk.toml
        printf 'backup_root = "%s"\\n' "$MACHINE/backups" >>$MACHINE/etc/cbk/cbk.toml ;;
esac
"""
BROKEN = """
is_broken() { test "$(cat $MACHINE/broken 2>/dev/null)" = "$1" && test "$(cat ${here:-$MACHINE/opt/cbk}/release)" != one; }
breaks() {
    case "$(cat $MACHINE/broken 2>/dev/null)" in
        "$1") echo "$1 failed" >&2; exit 1 ;;
        "KILL $1"|"TERM $1") signal=$(cut -d ' ' -f 1 $MACHINE/broken); rm $MACHINE/broken; kill -$signal 0; sleep 5 ;;
    esac
}
"""


class Machine:
    """A machine below `folder` on which `one` is installed and runs."""

    def __init__(self, folder):
        self.folder = folder
        for name in (
            "played",
            "tree/scripts/vendor",
            "tree/constraints",
            "etc/systemd/system/cbk.target.wants",
            "etc/cbk",
            "backups",
        ):
            (folder / name).mkdir(parents=True)
        for name in ("opt", "usr/local/bin"):
            (folder / name).mkdir(parents=True)
        tree = folder / "tree"
        script = (SCRIPTS / "install.sh").read_text()
        for place in ("/opt/cbk", "/etc/cbk", "/etc/systemd/system", "/usr/local"):
            script = script.replace(f"={place}", f"={folder}{place}")
        (tree / "scripts/install.sh").write_text(script)
        shutil.copytree(SCRIPTS / "systemd", tree / "scripts/systemd")
        (tree / "scripts/vendor/SHA256SUMS").write_text("")
        (tree / "scripts/vendor/pip-1.whl").write_text("")
        (tree / "cbk").mkdir()
        (tree / "pyproject.toml").write_text("")
        (folder / "broken.sh").write_text(BROKEN)
        self.play({"python": PYTHON, "cbk": CBK} | PLAYED)
        bootstrap = tree / "scripts/bootstrap"
        bootstrap.write_text(BOOTSTRAP)
        bootstrap.chmod(0o755)
        self.check_out("one")
        done = self.install()
        assert done.returncode == 0, done.stderr

    def play(self, parts):
        for name, text in parts.items():
            file = self.folder / "played" / name
            file.write_text(f"#!/bin/sh\nset -eu\n. $MACHINE/broken.sh\n{text}\n")
            file.chmod(0o755)

    def check_out(self, release):
        tree = self.folder / "tree"
        (tree / "release").write_text(f"{release}\n")
        (tree / "revision").write_text(f"{REVISIONS[release]}\n")
        (tree / "constraints/runtime.txt").write_text(release)
        (tree / "scripts/systemd/cbk.target").write_text(f"# of {release}\n")

    def install(self, *arguments, broken=""):
        (self.folder / "broken").write_text(f"{broken}\n")
        environment = {
            "MACHINE": str(self.folder),
            "PATH": f"{self.folder}/played:{os.environ['PATH']}",
            "TMPDIR": str(self.folder),
        }
        return subprocess.run(
            ["sh", str(self.folder / "tree/scripts/install.sh"), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
            timeout=60,
        )

    def read(self, name):
        file = self.folder / name
        return file.read_text().strip() if file.exists() else None

    @property
    def state(self):
        """The release that runs, the revision of the catalog, and the release that the units are of."""
        return self.read("runs"), self.read("catalog"), self.read("etc/systemd/system/cbk.target")

    def make_former_layout(self):
        """As releases before this one installed: /opt/cbk is a folder."""
        link = self.folder / "opt/cbk"
        release = link.readlink()
        link.unlink()
        release.rename(link)
        shutil.rmtree(self.folder / "opt/cbk-releases")

    def releases(self):
        return sorted(
            each.joinpath("release").read_text().strip()
            for each in (self.folder / "opt/cbk-releases").iterdir()
            if each.is_dir() and not each.is_symlink()
        )


ONE = ("one", "0012", "# of one")
TWO = ("two", "0014", "# of two")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A machine, and a copy of its folder."""
    made = Machine(tmp_path_factory.mktemp("machine") / "here")
    assert made.state == ONE
    saved = made.folder.with_name("saved")
    shutil.copytree(made.folder, saved, symlinks=True)
    return made, saved


@pytest.fixture
def installed(fresh):
    """A machine with `one`, as it is after its installation."""
    made, saved = fresh
    shutil.rmtree(made.folder)
    shutil.copytree(saved, made.folder, symlinks=True)
    return made


@pytest.fixture
def machine(request, installed):
    """A machine with `one`, where `two` is checked out. /opt/cbk is a folder there if the test asks for "folder"."""
    if getattr(request, "param", "link") == "folder":
        installed.make_former_layout()
    installed.check_out("two")
    (installed.folder / "systemctl.log").unlink()
    return installed


both_layouts = pytest.mark.parametrize("machine", ["link", "folder"], indirect=True)


@both_layouts
def test_upgrade_builds_and_tries_the_other_release_before_anything_stops(machine):
    done = machine.install("--upgrade")
    assert (done.returncode, machine.state) == (0, TWO), done.stderr
    said = machine.read("cbk.log").splitlines()
    assert said.index("two: cbk upgrade --dry-run") < said.index("two: cbk upgrade")
    assert machine.releases() == ["one", "two"]
    assert "--rollback goes back to it" in done.stdout


@pytest.mark.parametrize("step", ["download", "import", "trial"])
def test_what_fails_before_the_swap_stops_nothing(machine, step):
    done = machine.install("--upgrade", broken=step)
    assert (done.returncode, machine.state) == (1, ONE)
    assert f"{step} failed" in done.stderr + (machine.read("tried") or "")
    assert "the former release runs on" in done.stderr
    assert "stop" not in (machine.read("systemctl.log") or "")
    assert machine.install("--upgrade").returncode == 0
    assert machine.state == TWO


@both_layouts
@pytest.mark.parametrize("step", ["migration", "migrated", "start", "crash", "TERM migration", "TERM migrated", "TERM restart"])
def test_what_fails_in_the_swap_starts_the_former_release_again(machine, step):
    done = machine.install("--upgrade", broken=step)
    assert done.returncode in {1, 128 + signal.SIGTERM}
    assert machine.state == ONE, done.stderr
    assert "the upgrade failed; the former release runs again" in done.stderr
    second = machine.install("--upgrade")
    assert (second.returncode, machine.state) == (0, TWO), second.stderr


@pytest.mark.parametrize("step", ["download", "stop", "migration", "migrated", "restart"])
def test_run_that_was_killed_is_taken_back_by_the_next_which_then_upgrades(machine, step):
    killed = machine.install("--upgrade", broken=f"KILL {step}")
    assert killed.returncode == -signal.SIGKILL
    next_one = machine.install("--upgrade", broken="download")
    assert machine.state == ONE, next_one.stderr
    assert ("an upgrade was cut off; the former release runs again" in next_one.stderr) == (step != "download")
    assert machine.install("--upgrade").returncode == 0
    assert machine.state == TWO


def test_what_came_while_the_other_release_ran_is_taken_in(machine):
    machine.install("--upgrade", broken="crash")
    assert "one: cbk rebuild" in machine.read("cbk.log")


@both_layouts
def test_rollback_goes_to_the_former_release_with_the_catalog_that_it_left(machine):
    assert machine.install("--rollback").returncode == 1
    machine.install("--upgrade")
    done = machine.install("--rollback")
    assert (done.returncode, machine.state) == (0, ONE), done.stderr
    assert "rolled back; the former release runs again" in done.stderr
    assert "one: cbk rebuild" in machine.read("cbk.log")
    assert machine.install("--upgrade").returncode == 0
    assert machine.state == TWO


def test_rollback_between_releases_of_one_catalog_leaves_that_alone(machine):
    machine.install("--upgrade")
    machine.check_out("three")
    machine.install("--upgrade")
    assert machine.releases() == ["three", "two"]
    (machine.folder / "cbk.log").unlink()
    assert machine.install("--rollback").returncode == 0
    assert machine.state == TWO
    assert "rollback" not in (machine.read("cbk.log") or "")


def test_catalog_that_another_machine_migrated_is_not_put_back(machine):
    (machine.folder / "catalog").write_text("0014\n")
    machine.install("--upgrade", broken="crash")
    assert machine.read("catalog") == "0014"


def test_dry_run_changes_nothing(machine):
    before = sorted(machine.folder.rglob("*"))
    done = machine.install("--upgrade", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "would: build the programs" in done.stdout
    assert [path for path in sorted(machine.folder.rglob("*")) if path not in before] in ([], [machine.folder / "systemctl.log"])


def test_installation_that_broke_between_settings_and_disk_is_made_whole_by_the_next_run(installed):
    for name in ("catalog", "runs", "etc/cbk/cbk.toml", "etc/cbk/role"):
        (installed.folder / name).unlink()
    assert installed.install(broken="init").returncode == 1
    done = installed.install()
    assert (done.returncode, installed.state) == (0, ONE), done.stderr


def test_folder_with_something_in_it_is_not_taken_over(installed):
    installed.play({"mountpoint": "exit 1", "stat": "echo root", "chown": "echo taken over"})
    (installed.folder / "backups/somebody's").write_text("")
    done = installed.install()
    assert (done.returncode, "is neither a disk of its own nor empty" in done.stderr) == (1, True)
    assert "taken over" not in done.stdout
