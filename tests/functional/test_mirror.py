"""A mirror with real processes: beat sends its passes, a worker makes them, and what is lost here comes back by itself."""

import hashlib
import json
import shutil
import sqlite3
from contextlib import closing

import pytest

from local_servers import wait_until
from tests.integration.mirror.conftest import copies_in
from tests.origin import status


@pytest.fixture
def mirrored(make_site, tmp_path):
    """A site with a mirror in a folder, and a dump; nothing runs yet."""
    (tmp_path / "mirror").mkdir()
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.execute("CREATE TABLE orders(x)")
        connection.executemany("INSERT INTO orders VALUES (?)", [(number,) for number in range(200)])
        connection.commit()
    site = make_site(
        CBK_MIRRORS=json.dumps({"there": {"path": str(tmp_path / "mirror"), "every": "2s"}}),
        CBK_DUMPS=json.dumps({"shop": {"url": f"sqlite:///{tmp_path}/shop.db"}}),
    )
    site.init()
    return site


def digests(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in copies_in(folder)}


def wait_for(site, condition, what):
    wait_until(condition, 120, lambda: f"{what}\n{site.logs()[-5000:]}", every_seconds=0.5)


def wait_stored(site, files):
    """Status is red until the mirror has it all: it cannot be waited for."""
    wait_for(site, lambda: list(site.states().values()) == ["stored"] * files, f"{files} files are stored")


def test_workers_bring_files_and_dumps_elsewhere_and_what_is_lost_here_back(mirrored, tmp_path):
    site, there = mirrored, tmp_path / "mirror"
    for number in range(5):
        site.upload(f"cars/id-{number}/photo.png", b"content of %d" % number * 50)
    site.worker(concurrency=4)
    site.beat()
    wait_stored(site, 5)
    # An empty folder may be a disk that is not mounted: nobody but a person says that it is meant.
    assert copies_in(there) == set()
    site.cbk("mirror", "there")
    site.upload("cars/new.png", b"new" * 50)
    wait_stored(site, 6)
    wait_for(site, lambda: len(digests(there)) == 7 and digests(there) == digests(site.root), "six files and a dump are there")
    assert "dumps/shop/v1.gzip" in digests(there)
    # The origin has lost a file, and so has the disk: the mirror has it.
    before = digests(site.root)
    lost = min(name for name in before if name.startswith("car-erp/cars/id-3"))
    site.origin.put("/car-erp/cars/id-3/photo.png", b"", status(404))
    (site.root / lost).write_bytes(b"rubbish")
    (site.root / "dumps/shop/v1.gzip").write_bytes(b"rubbish")
    site.cbk("verify", expect=3)
    site.cbk("dump", "verify", expect=3)
    wait_for(site, lambda: digests(site.root).items() >= before.items(), "the copy and the dump are back")
    assert site.status()["elsewhere"]["held"] >= 6


def test_everything_comes_back_from_the_mirror_to_a_new_machine(mirrored, tmp_path):
    site = mirrored
    for number in range(5):
        site.upload(f"cars/id-{number}/photo.png", b"content of %d" % number * 50)
    worker, beat = site.worker(concurrency=4), site.beat()
    wait_stored(site, 5)
    site.cbk("dump", "now", "shop")
    site.cbk("mirror", "there")
    beat.stop()
    worker.stop()
    before = digests(site.root)
    shutil.rmtree(site.root)
    site.root.mkdir()
    site.init()
    site.cbk("rebuild", "--from", "there")
    assert digests(site.root) == before
    site.cbk("restore", "--to", str(tmp_path / "back"))
    site.cbk("dump", "restore", "shop", "--to", str(tmp_path / "back"))
    with closing(sqlite3.connect(next((tmp_path / "back").glob("shop-v*.sqlite")))) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (200,)
