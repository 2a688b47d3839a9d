"""The catalog is gone, on a real site: one command, and the kit says again what it said."""

import json
import os
import subprocess
import sys
from contextlib import closing, suppress
from datetime import timedelta

import pytest

from cbk.edges.catalog import Catalog
from cbk.errors import CatalogError
from cbk.jobs.poll.poll import POLL_LEASE
from local_servers import wait_until
from tests.disk import COLLIDING, HOSTILE, ORDINARY, File, content_of, drop, make_disk

COPIES = 2000
# What the application's database can hold: PostgreSQL has no NUL in a text, and no lone surrogate. A row's Name is not empty.
KEYS = [key for key in (*ORDINARY, *COLLIDING, *HOSTILE) if not {"\0", "\ud800"} & set(key) and not key.endswith("/")]


def stored(site):
    return {name: item for name, item in site.listed().items() if item["state"] == "stored"}


def lose_catalog(site):
    for path in (site.root / ".cbk").glob("catalog.db*"):
        path.unlink()


@pytest.mark.nightly
def test_lost_catalog_is_the_same_again_for_every_stored_version(site):
    contents = {key: content_of(key) for key in KEYS}
    contents |= {f"cars/{number:04}/photo.jpg": b"%d" % number for number in range(300)} | {"cars/empty": b""}
    for number, (key, content) in enumerate(contents.items()):
        site.upload(key, content, object_path=f"/car-erp/{number}")
    site.upload("cars/0001/photo.jpg", b"second", version=2, object_path="/car-erp/second")
    worker = site.worker(concurrency=4)
    beat = site.beat()
    site.wait_protected(len(contents))
    site.cbk("hold", "cars/", "--prefix", "--reason", "court")
    beat.stop()
    worker.stop()
    before = stored(site)
    assert len(before) > 300
    lose_catalog(site)
    done = json.loads(site.cbk("rebuild", "--json").stdout)
    assert (done["added"], done["problems"], done["holds"]) == (len(before), 0, 1)
    # All that the disk can say: when a copy was last verified is not on it.
    assert stored(site) == {name: item | {"verified_at": None} for name, item in before.items()}
    assert [json.loads(line)["key"] for line in site.cbk("hold", "--list", "--json").stdout.splitlines()] == ["cars/"]
    # It is all good, and the workers go on and fetch nothing again.
    site.cbk("verify")
    site.upload("new.txt", b"new")
    site.worker(concurrency=4)
    site.beat()
    site.wait_protected(len(contents) + 1)
    assert stored(site).keys() == before.keys() | {("new.txt", 1)}
    assert max(len(site.origin.requests(f"/car-erp/{number}")) for number in range(len(contents))) == 1


def test_killed_half_way_it_goes_on_with_the_same_command(tmp_path):
    archive, _ = make_disk(tmp_path / "backups", [])
    for number in range(COPIES):
        drop(archive.root, File(f"{number}.txt", b"%d" % number, row=str(number)), f"car-erp/{number}/v1.gzip")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CBK_")},
        "CBK_BACKUP_ROOT": str(archive.root),
        "CBK_SOURCE_URL": f"sqlite:///{tmp_path}/none.db",
        "CBK_BUCKETS": '{"s3": "car-erp"}',
        "CBK_LEASE": "1s",
    }
    command = [sys.executable, "-m", "cbk.cli", "rebuild", "--json"]
    with closing(Catalog(f"sqlite:///{archive.root}/.cbk/catalog.db", holder="test")) as catalog:
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
            wait_until(lambda: copies(catalog), 60, "the first copies in the catalog", every_seconds=0.005)
            process.kill()
        taken = copies(catalog)
        assert 0 < taken < COPIES
        wait_until(lambda: catalog.leases.acquire(POLL_LEASE, timedelta(seconds=1)), 30, "the end of its lease")
        catalog.leases.release(POLL_LEASE)
        done = json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
        assert (done["known"], done["added"]) == (taken, COPIES - taken)
        assert copies(catalog) == COPIES


def copies(catalog):
    """How many copies the catalog knows; none where it has no tables yet."""
    with suppress(CatalogError):
        return catalog.report.counts().copies if catalog.exists else 0
    return 0
