"""Who only looks - page, status, ls, cat, restore - may have the disk mounted read-only, and says of it what the workers saw."""

import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from cbk.jobs.backup.disk_space import DISK_FACT, note_disk
from cbk.jobs.status.overview import gather_overview
from cbk.jobs.status.status import gather_status, status_object
from cbk.page import metrics
from cbk.rules.status.health import Kind
from tests.in_process_site import InProcessSite

REPOSITORY = Path(__file__).parents[2]

needs_mounts = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None or subprocess.run(["unshare", "--mount", "true"], check=False).returncode,
    reason="only root may mount",
)


@pytest.fixture
def site(tmp_path, origin, monkeypatch):
    """One file is stored; the catalog is where the disk is not."""
    for name in [name for name in os.environ if name.startswith("CBK_")]:
        monkeypatch.delenv(name)
    site = InProcessSite(tmp_path, origin)
    site.upload("files/a.bin", b"content")
    site.work()
    yield site
    site.close()


def see(monkeypatch, context, *, read_only):
    """Have this process see the disk so."""
    usage = context.archive.usage()._replace(read_only=read_only)
    monkeypatch.setattr(context.archive, "usage", lambda: usage)


def kinds(context):
    return {problem.kind for problem in gather_status(context).problems}


def test_who_has_the_disk_mounted_read_only_calls_it_writable_where_the_workers_do(site, monkeypatch):
    looker = site.open()
    see(monkeypatch, looker, read_only=True)
    assert kinds(looker) == set()
    assert status_object(gather_status(looker))["disk"]["read_only"] is False


def test_who_has_the_disk_mounted_read_only_does_not_judge_by_that_before_any_worker_looked(site, monkeypatch):
    site.forget_fact(DISK_FACT)
    looker = site.open()
    see(monkeypatch, looker, read_only=True)
    assert Kind.DISK_READ_ONLY not in kinds(looker)


def test_disk_that_a_poll_finds_read_only_is_so_for_who_can_write_there(site, monkeypatch):
    looker = site.open()
    see(monkeypatch, site.context, read_only=True)
    site.poll()
    assert kinds(looker) == {Kind.DISK_READ_ONLY}
    assert "disk_read_only 1.0" in metrics_of(looker)


def test_disk_that_one_of_several_workers_finds_read_only_is_not_called_writable(site, monkeypatch):
    other = site.open()
    monkeypatch.setattr("cbk.jobs.backup.disk_space.socket.gethostname", lambda: "other")
    see(monkeypatch, other, read_only=True)
    site.reopen()
    note_disk(other)
    assert kinds(site.context) == {Kind.DISK_READ_ONLY}
    monkeypatch.undo()
    site.poll()
    assert kinds(site.context) == {Kind.DISK_READ_ONLY}


def test_disk_that_is_writable_again_is_called_so_by_the_next_poll(site, monkeypatch):
    with monkeypatch.context() as broken:
        see(broken, site.context, read_only=True)
        site.poll()
    site.poll()
    assert kinds(site.open()) == set()


def test_sightings_of_machines_that_went_are_forgotten(site):
    old = (site.context.catalog.now() - timedelta(days=2)).isoformat()
    site.context.catalog.facts.set(**{DISK_FACT: json.dumps({"gone": {"at": old, "read_only": True}})})
    site.reopen()
    site.poll()
    assert "gone" not in json.loads(site.fact(DISK_FACT))


def metrics_of(context):
    return metrics.render(gather_overview(context), {}).decode()


# ---- with a mount of its own ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=["elsewhere", "on the disk"])
def real_site(request, tmp_path, origin, monkeypatch):
    """As `site`, and also with the catalog on the disk, whose workers run: it has it open."""
    for name in [name for name in os.environ if name.startswith("CBK_")]:
        monkeypatch.delenv(name)
    place = tmp_path / ("catalog.db" if request.param == "elsewhere" else "backups/.cbk/catalog.db")
    site = InProcessSite(tmp_path, origin, catalog_url=f"sqlite:///{place}")
    site.upload("files/a.bin", b"content")
    site.work()
    yield site
    site.close()


@needs_mounts
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("status", "--json"), b'"protected": true'),
        (("ls",), b"files/a.bin"),
        (("cat", "files/a.bin"), b"content"),
        (("restore", "--to", "out"), b"1 restored"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_command_that_only_looks_says_the_same_where_the_disk_is_mounted_read_only(real_site, arguments, said):
    root = real_site.root
    mount = (
        f'mount --bind {root} {root}; mount -o remount,bind,ro {root}; ! touch {root}/x 2>/dev/null; cd {real_site.folder}; "$@"'
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", mount, "sh", sys.executable, "-m", "cbk.cli", *arguments],
        env=os.environ | real_site.environment | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, said in done.stdout) == (0, True), done
