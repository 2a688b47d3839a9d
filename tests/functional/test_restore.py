"""`cbk restore` and `cbk cat` as real processes: killed, on full disks and read-only ones, and while backups go on."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path

import pytest

from local_servers import wait_until
from tests.in_process_site import InProcessSite

REPOSITORY = Path(__file__).parents[2]
LARGE = b"\0" * 150_000_000  # its copy is small and quickly made, and restoring it takes a while


@pytest.fixture
def make_site(tmp_path, origin, monkeypatch):
    """A function that makes a site whose catalog is on the backup disk, as it is by default."""
    for name in list(os.environ):
        if name.startswith("CBK_"):
            monkeypatch.delenv(name)
    sites = []

    def make(**settings):
        sites.append(InProcessSite(tmp_path, origin, catalog_url=f"sqlite:///{tmp_path}/backups/.cbk/catalog.db", **settings))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.fixture
def site(make_site):
    return make_site()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def command(*arguments):
    return [sys.executable, "-m", "cbk.cli", *map(str, arguments)]


def environment(site):
    return os.environ | site.environment


def cbk(site, *arguments, within=None, **options):
    """Run to the end; `within` is a shell script that runs the command as "$@"."""
    wrapped = ["unshare", "--mount", "sh", "-ec", within, "sh"] if within else []
    return subprocess.run(
        [*wrapped, *command(*arguments)],
        env=environment(site),
        cwd=REPOSITORY,
        capture_output=True,
        timeout=120,
        check=False,
        **options,
    )


def started(site, *arguments):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command(*arguments), env=environment(site), cwd=REPOSITORY, start_new_session=True, **pipes)


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unfinished(folder):
    return [path for path in folder.rglob(".cbk-part*") if path.stat().st_size > 1_000_000]


def upload(site, **contents):
    for name, content in contents.items():
        site.upload(f"files/{name}.bin", content)
    site.work()


needs_mounts = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None or subprocess.run(["unshare", "--mount", "true"], check=False).returncode,
    reason="only root may mount",
)


@pytest.mark.parametrize(
    ("signal_number", "exit_code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)], ids=["killed", "interrupted"]
)
def test_restore_that_ends_half_way_is_finished_by_the_same_command(site, out, signal_number, exit_code):
    upload(site, a=b"first", large=LARGE, z=b"last")
    process = started(site, "restore", "--to", out)
    wait_until(lambda: unfinished(out), 60, lambda: f"no unfinished file in {tree(out).keys()}", every_seconds=0.001)
    os.kill(process.pid, signal_number)
    _, complained = process.communicate(timeout=60)
    assert process.returncode == exit_code, complained
    assert b"Traceback" not in complained
    assert "car-erp/files/large.bin" not in tree(out)
    # Only what was killed had no time to tidy up.
    assert bool(unfinished(out)) == (signal_number == signal.SIGKILL)
    done = cbk(site, "restore", "--to", out, "--json")
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, summary["restored"] + summary["present"], summary["failed"]) == (0, 3, 0)
    assert tree(out) == {f"car-erp/files/{name}.bin": each for name, each in {"a": b"first", "large": LARGE, "z": b"last"}.items()}


@needs_mounts
def test_full_disk_ends_the_restore_and_a_larger_one_finishes_it(site, tmp_path, out):
    contents = {f"f{number}": random.Random(number).randbytes(400_000) for number in range(6)}
    upload(site, **contents)
    out.mkdir()
    script = f'mount -t tmpfs -o size=1m none {out}; "$@" || echo "exit $?"; find {out} -type f -printf "%s %p\\n"'
    done = cbk(site, "restore", "--to", out, within=script)
    assert b"no space left on device (ENOSPC)" in done.stderr
    assert b"HINT: make room there, then run the same command again" in done.stderr
    summary, ended, *files = done.stdout.decode().splitlines()
    assert "not reached" in summary
    assert ended == "exit 1"
    assert {line.split()[0] for line in files} == {"400000"}
    assert not any("cbk-part" in line for line in files)


@needs_mounts
@pytest.mark.parametrize("ending", ["closed", "killed", "open"])
def test_restore_works_on_a_disk_that_is_mounted_read_only(site, out, ending):
    upload(site, a=b"content")
    if ending == "closed":
        site.close()
    elif ending == "killed":
        opened = f"import os, sqlite3; c = sqlite3.connect({str(site.root / '.cbk/catalog.db')!r}); c.execute('BEGIN IMMEDIATE')"
        site.close()
        write = "c.execute(\"INSERT INTO facts VALUES ('of the', 'log')\"); c.commit(); os._exit(0)"
        subprocess.run([sys.executable, "-c", f"{opened}; {write}"], check=True)
        assert (site.root / ".cbk/catalog.db-wal").stat().st_size
    before = {path: path.stat().st_mtime_ns for path in site.root.rglob("*")}
    script = f'mount --bind {site.root} {site.root}; mount -o remount,bind,ro {site.root}; ! touch {site.root}/x 2>&1; "$@"'
    done = cbk(site, "restore", "--to", out, within=script)
    assert done.returncode == 0, done.stderr
    assert tree(out) == {"car-erp/files/a.bin": b"content"}
    assert cbk(site, "cat", "files/a.bin", within=script).stdout.endswith(b"content")
    assert {path: path.stat().st_mtime_ns for path in site.root.rglob("*")} == before


def test_restore_while_backups_go_on_gives_whole_versions(make_site, out):
    site = make_site(keep_versions=2)
    contents = {}

    def upload_version(key, version):
        content = random.Random(f"{key}{version}").randbytes(50_000)
        contents[sha256(content).hexdigest()] = content
        site.upload(key, content, version=version, served_at=f"/{key}/{version}")

    keys = [f"{number}.bin" for number in range(20)]
    for key in keys:
        upload_version(key, 1)
    site.work()
    stop = threading.Event()

    def go_on():
        version = 1
        while not stop.is_set():
            version += 1
            for key in keys:
                upload_version(key, version)
            site.work()

    backups = threading.Thread(target=go_on)
    backups.start()
    try:
        done = cbk(site, "restore", "--to", out, "--json")
    finally:
        stop.set()
        backups.join()
    *items, summary = map(json.loads, done.stdout.splitlines())
    assert (done.returncode, summary["restored"], summary["failed"]) == (0, 20, 0), done.stderr
    assert tree(out) == {item["path"]: contents[item["sha256"]] for item in items}


def test_cat_into_a_pipe_that_is_closed_early_ends_quietly(site):
    upload(site, large=LARGE[:20_000_000])
    process = started(site, "cat", "files/large.bin")
    assert process.stdout.read(10) == b"\0" * 10
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 1


def test_output_that_cannot_be_written_is_an_error_and_no_traceback(site):
    upload(site, a=b"content")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command("cat", "files/a.bin"), env=environment(site), cwd=REPOSITORY, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[0] == "cbk: the output cannot be written: no space left on device"
