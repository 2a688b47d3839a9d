"""Copies that rot on the disk: found, named and whole again by themselves, by real workers."""

import json
import random
from contextlib import closing

import pytest
import sqlalchemy as sa

from cbk.edges.catalog import Catalog
from cbk.edges.catalog.database.schema import leases, versions
from local_servers import wait_until

KINDS = {"flipped.bin": "corrupt", "cut.bin": "truncated", "lost.bin": "missing", "here.bin": "swapped", "there.bin": "swapped"}
WELL = [f"well/{number}.bin" for number in range(20)]


def store(site):
    site.upload_many((key, key.encode() * 3000, None) for key in [*KINDS, *WELL])
    site.wait_protected(len(KINDS) + len(WELL))


def damage(site):
    """A flipped bit, a cut copy, a lost one, and a pair that changed places."""
    flipped, cut, lost, here, there = (site.root / f"car-erp/{key.removesuffix('.bin')}/v1.gzip" for key in KINDS)
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 4
    flipped.write_bytes(data)
    cut.write_bytes(cut.read_bytes()[:-1])
    lost.unlink()
    spare = here.rename(here.with_suffix(".spare"))
    there.rename(here)
    spare.rename(there)


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


def evidence(site):
    found = [json.loads(path.read_text()) for path in (site.root / ".cbk/quarantine").glob("*.json")]
    return {one["key"]: (one["finding"], one["found_by"]) for one in found}


@pytest.mark.nightly
def test_verify_names_each_kind_of_damage_and_workers_make_it_whole_again(site):
    site.worker()
    site.beat()
    store(site)
    damage(site)
    *found, summary = objects(site.cbk("verify", "--json", expect=3).stdout)
    assert {one["key"]: one["finding"] for one in found} == KINDS
    assert (summary["copies"], summary["found"]) == (25, 5)
    site.wait_protected(25)
    assert evidence(site) == {key: (finding, "cbk verify") for key, finding in KINDS.items() if finding != "missing"}
    # The same, and a drill, as tasks that a person sends.
    site.celery("call", "cbk.verify", "--kwargs", '{"prefix": "well/1"}')
    site.celery("call", "cbk.drill")
    wait_until(lambda: {"cbk.verify verified", "cbk.drill passed"} <= set(outcomes(site)), 60, site.logs, every_seconds=0.5)
    assert "cbk.verify verified copies=11" in site.logs()
    assert site.status()["last_drill_passed"] is True


def outcomes(site):
    return [" ".join(line.split()[2:4]) for line in site.logs().splitlines()]


def test_beat_and_a_worker_find_each_kind_of_damage_and_make_it_whole_again(make_site):
    site = make_site(CBK_VERIFY_EVERY="40s", CBK_DRILL_EVERY="1h")
    site.cbk("init", "--on-system-disk")
    site.worker()
    site.beat()
    store(site)
    damage(site)
    # Two slices may be needed, and each copy has its turn: these have it now.
    with closing(Catalog(site.catalog_url, holder="test")) as catalog, catalog.database.writing() as connection:
        connection.execute(sa.update(versions).values(verified_at=None))

    def explain():
        return f"five bad copies, found {evidence(site)}\n{site.status()}\n{site.logs()[-3000:]}"

    wait_until(lambda: site.status().get("found_bad") == 5, 60, explain, every_seconds=1)
    site.wait_protected(25)
    assert evidence(site) == {key: (finding, "cbk.verify") for key, finding in KINDS.items() if finding != "missing"}
    assert objects(site.cbk("verify", "--json", expect=0).stdout)[-1]["found"] == 0
    assert site.logs().count("bad copy finding=") == 5


def test_worker_that_is_to_stop_does_not_wait_for_the_end_of_a_copy(make_site):
    site = make_site(CBK_VERIFY_EVERY="40s", CBK_VERIFY_RATE="1kB")
    site.cbk("init", "--on-system-disk")
    worker = site.worker()
    site.beat()
    site.upload("slow.bin", random.Random(1).randbytes(300_000))  # five minutes, at this rate
    with closing(Catalog(site.catalog_url, holder="test")) as catalog:
        wait_until(lambda: catalog.report.counts().protected == 1, 60, site.logs, every_seconds=0.5)
        with catalog.database.writing() as connection:
            connection.execute(sa.update(versions).values(verified_at=None))

        seen = []

        def holder():
            with catalog.database.reading() as connection:
                return connection.scalar(sa.select(leases.c.holder).where(leases.c.name == "verify"))

        def has_been_reading_for_a_while():
            seen.append(holder())
            return seen[-1] is not None and seen[-3:] == seen[-1:] * 3

        wait_until(has_been_reading_for_a_while, 60, site.logs, every_seconds=0.5)
        worker.stop(timeout=60)
        assert "cbk.verify stopped" in worker.log
        assert holder() is None
