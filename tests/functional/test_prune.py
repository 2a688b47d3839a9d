"""Deletes on real parts: nothing goes early, nothing stays, whatever is killed, flushed or restarted meanwhile."""

import json
import time
from contextlib import closing
from datetime import timedelta

import pytest
import redis
import sqlalchemy as sa

from cbk.edges.catalog import Catalog
from cbk.edges.catalog.database.schema import removals
from local_servers import wait_until

GRACE = 6


class Deletes:
    """Deletes of one site, and when each copy was seen to be gone."""

    def __init__(self, site):
        self.site = site
        self.seen_at = {}

    def catalog(self):
        return closing(Catalog(self.site.catalog_url, holder="test"))

    def listed(self):
        with self.catalog() as catalog, catalog.database.reading() as connection:
            return connection.execute(sa.select(removals)).all()

    def wait_known(self, count):
        wait_until(lambda: len(self.listed()) >= count, 60, lambda: f"{count} deletes known\n{self.site.logs()[-2000:]}")

    def none_went_early(self):
        """Every removal that is over ended no sooner than its grace after it was first seen."""
        ended = [row for row in self.listed() if row.outcome == "done"]
        assert all(row.closed_at - row.first_seen_at >= timedelta(seconds=GRACE) for row in ended)
        return len(ended)

    def wait_gone(self, timeout_seconds=60):
        def explain():
            return f"no copy left, there are {sorted(self.site.copies())[:5]}\n{self.site.logs()[-3000:]}"

        wait_until(lambda: self.site.copies() == set(), timeout_seconds, explain, every_seconds=0.3)


@pytest.fixture
def make_stored(make_site):
    """A function that makes a site with so many stored files, real worker and beat, and gives it with the rows' Ids."""

    def make(count, **settings):
        site = make_site(CBK_GRACE_PERIOD=f"{GRACE}s", CBK_LEASE="3s", CBK_BRAKE_FILES="1000", **settings)
        site.cbk("init", "--on-system-disk")
        rows = [site.upload(f"f/{i}.txt", b"%d" % i) for i in range(count)]
        site.workers, site.beats = [site.worker(concurrency=4)], [site.beat()]
        site.wait_protected(count)
        return site, rows

    return make


def delete(site, rows):
    for row in rows:
        site.sql('INSERT INTO "ObjectStorageDeleteLog" ("FileId") VALUES (:row)', row=row)


def test_deleted_file_goes_after_its_grace_and_takes_its_folders_along(make_stored):
    site, rows = make_stored(2)
    deletes = Deletes(site)
    delete(site, rows[:1])
    deletes.wait_known(1)
    assert len(site.copies()) == 2
    wait_until(lambda: site.copies() == {"car-erp/f/1/v1.gzip"}, 30, lambda: f"one copy, there are {site.copies()}")
    assert deletes.none_went_early() == 1
    assert not (site.root / "car-erp/f/0").exists()
    status = site.status()
    assert (status["protected"], status["files"], status["deleted_files"]) == (True, 1, 0)


@pytest.mark.nightly
def test_one_countdown_task_is_sent_for_each_delete(make_stored, valkey):
    site, rows = make_stored(3)
    client = redis.Redis.from_url(valkey.url)
    with client.monitor() as monitor:
        delete(site, rows)
        sent = []
        deadline = time.monotonic() + 30
        while len(sent) < 3 and time.monotonic() < deadline:
            command = monitor.next_command()["command"]
            if command.startswith("LPUSH cbk:prune"):
                sent.append(command)
    assert len(sent) == 3
    assert all('"eta": "20' in command.replace('\\"', '"') for command in sent)
    Deletes(site).wait_gone()


def test_nothing_goes_early_and_nothing_stays_through_flushes_kills_restarts_and_a_second_beat(make_stored, valkey, postgres):
    site, rows = make_stored(40)
    deletes = Deletes(site)
    site.beats.append(site.beat())
    delete(site, rows[:20])
    deletes.wait_known(20)
    redis.Redis.from_url(valkey.url).flushall()
    delete(site, rows[20:])
    deletes.wait_known(40)
    site.workers[0].kill()
    valkey.restart(immediate=True)  # it keeps nothing
    site.workers = [site.worker(concurrency=4), site.worker(concurrency=4)]
    for beat in site.beats:
        beat.kill()
    postgres.restart(immediate=True)
    site.beats = [site.beat(), site.beat()]
    deletes.wait_gone(90)
    wait_until(lambda: deletes.none_went_early() == 40, 30, "every delete is over")
    assert set(site.states().values()) == {"pruned"}


@pytest.mark.nightly
def test_worker_that_was_down_over_the_due_time_prunes_when_it_is_back(make_stored):
    site, rows = make_stored(5)
    deletes = Deletes(site)
    delete(site, rows)
    deletes.wait_known(5)
    for process in (*site.workers, *site.beats):
        process.kill()
    with deletes.catalog() as catalog:
        wait_until(
            lambda: catalog.database.now() > max(row.due_at for row in deletes.listed()) + timedelta(seconds=1), 30, "past due"
        )
    assert len(site.copies()) == 5
    site.worker(), site.beat()
    deletes.wait_gone()
    assert deletes.none_went_early() == 5


@pytest.mark.nightly
def test_what_is_taken_back_held_created_again_or_the_only_good_version_keeps_its_copy(make_stored):
    site, rows = make_stored(5)
    deletes = Deletes(site)
    site.cbk("hold", "f/1.txt", "--reason", "a court asked for it")
    # The second version of 3.txt never becomes a copy.
    site.upload("f/3.txt", b"new", version=2)
    site.origin.put("/car-erp/f/3.txt", b"not what the row says")
    delete(site, [rows[0], rows[1], rows[2], rows[4]])
    deletes.wait_known(4)
    site.sql('DELETE FROM "ObjectStorageDeleteLog" WHERE "FileId" = :row', row=rows[0])
    site.upload("f/2.txt", b"again", version=2)
    wait_until(lambda: "car-erp/f/4/v1.gzip" not in site.copies(), 30, lambda: f"4.txt is gone, there are {site.copies()}")
    expected = {f"car-erp/f/{name}.gzip" for name in ("0/v1", "1/v1", "2/v2", "3/v1")}
    wait_until(lambda: site.copies() == expected, 30, lambda: f"{expected}, there are {site.copies()}")
    plan = [json.loads(line) for line in site.cbk("prune", "--plan", "--json").stdout.splitlines()]
    assert {(item["key"], item["action"]) for item in plan} == {("f/1.txt", "keep")}
    assert "a court asked for it" in plan[0]["why"]
    site.cbk("release", "f/1.txt")
    wait_until(lambda: "car-erp/f/1/v1.gzip" not in site.copies(), 30, "the released one goes")


@pytest.mark.nightly
def test_mass_deletion_is_held_until_a_person_approves(make_site):
    site = make_site(CBK_GRACE_PERIOD="4s", CBK_BRAKE_WINDOW="1h")
    site.cbk("init", "--on-system-disk")
    site.upload_many((f"m/{i}.bin", b"%d" % i, None) for i in range(300))
    site.worker(concurrency=4)
    site.beat()
    site.wait_protected(300)
    deletes = Deletes(site)
    site.sql('INSERT INTO "ObjectStorageDeleteLog" ("FileId") SELECT "Id" FROM "ObjectStorageFiles"')
    deletes.wait_known(300)
    wait_until(lambda: site.status()["held_by_brake"] == 300, 30, lambda: f"all held: {site.status()}", every_seconds=0.5)
    other = site.upload("single.txt", b"single")
    wait_until(lambda: "car-erp/single/v1.gzip" in site.copies(), 30, "stored")
    delete(site, [other])
    wait_until(lambda: "car-erp/single/v1.gzip" not in site.copies(), 30, "a single delete goes on beside the brake")
    with deletes.catalog() as catalog:
        assert catalog.database.now() > max(row.due_at for row in deletes.listed() if row.brake_id)
    assert len(site.copies()) == 300
    status = site.cbk("status", expect=4).stdout
    assert "300 removals at once are held back by brake 1" in status
    site.cbk("prune", "--approve", "1")
    deletes.wait_gone()
    wait_until(lambda: site.status()["problems"] == [], 30, lambda: f"green again: {site.status()}", every_seconds=0.5)


@pytest.mark.nightly
def test_trash_keeps_what_was_pruned_for_undelete(make_stored):
    site, rows = make_stored(1, CBK_TRASH="1h")
    delete(site, rows)
    Deletes(site).wait_gone()
    assert [path.suffix for path in (site.root / ".cbk/trash").iterdir()] == [".gzip"]
    site.cbk("undelete", "f/0.txt")
    assert site.copies() == {"car-erp/f/0/v1.gzip"}
    assert site.states() == {("f/0.txt", 1): "stored"}
    assert list((site.root / ".cbk/trash").iterdir()) == []
    with Deletes(site).catalog() as catalog:
        # Some more polls do not delete it again.
        polled_at = catalog.facts.get("poll.finished_at")
        wait_until(lambda: catalog.facts.get("poll.finished_at") != polled_at, 30, "another poll")
    assert site.copies() == {"car-erp/f/0/v1.gzip"}
