"""A machine whose clock is wrong prunes nothing, says so, and goes on by itself once the clock is right."""

import json
import time
from contextlib import closing

import pytest

from cbk.edges.catalog import Catalog
from local_servers import wait_until

GRACE = 6
# Two weeks and two years, and half a day more, so that what is said of them is the same a moment later.
WEEKS_BACK, YEARS_AHEAD = f"-{14 * 24 + 12}h", f"+{730 * 24 + 12}h"


class Clock:
    """The wall clock of all processes of a site; uptime and monotonic time stay as they are, as in a real machine."""

    def __init__(self, site, library):
        self._file = site.folder / "clock"
        self.turn("+0")
        site.env |= {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Without it, threads wait for the interpreter's lock for too long, and everything takes five times as long.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }

    def turn(self, by):
        """Set the clock off by so much, or right again by "+0", while processes run."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(by + "\n")
        fresh.rename(self._file)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.nightly)])
def site(make_site, libfaketime, request):
    """A site of four files whose clock can be turned, with either catalog: that of PostgreSQL has a clock of its own."""
    catalog = {}
    if request.param == "postgresql":
        catalog = {"CBK_CATALOG_URL": request.getfixturevalue("postgres").url(request.getfixturevalue("pg_database"))}
    site = make_site(CBK_GRACE_PERIOD=f"{GRACE}s", CBK_LEASE="3s", **catalog)
    site.clock = Clock(site, libfaketime)
    site.cbk("init", "--on-system-disk")
    site.rows = {name: site.upload(f"{name}.txt", name.encode()) for name in ("a", "b", "c", "d")}
    site.worker(concurrency=2)
    site.beat()
    site.wait_protected(4)
    return site


def delete(site, name):
    """The Id of the delete-log row."""
    statement = 'INSERT INTO "ObjectStorageDeleteLog" ("FileId") VALUES (:row) RETURNING "Id"'
    return site.sql(statement, row=site.rows[name]).scalar_one()


def is_there(site, name):
    return f"car-erp/{name}/v1.gzip" in site.copies()


def wait_known(site, delete_id):
    with closing(Catalog(site.catalog_url, holder="test")) as catalog:
        wait_until(lambda: catalog.removals.of_delete(str(delete_id)), 30, lambda: f"the delete to be known\n{site.logs()[-2000:]}")


def wait_polled(site, count):
    """Wait for so many more polls."""
    polled = "cbk.poll polled"
    until = site.logs().count(polled) + count
    wait_until(lambda: site.logs().count(polled) >= until, 60, lambda: f"{count} polls\n{site.logs()[-3000:]}")


def wait_gone(site, name):
    wait_until(lambda: not is_there(site, name), 60, lambda: f"{name} to be pruned\n{site.logs()[-3000:]}")


def named_by(site):
    """What `status` and `doctor` say of the clock."""
    status = json.loads(site.cbk("status", "--json", expect=4).stdout)
    findings = map(json.loads, site.cbk("doctor", "--json", expect=1).stdout.splitlines())
    broken = [finding["message"] for finding in findings if (finding["part"], finding["level"]) == ("clock", "fail")]
    return [problem["message"] for problem in status["problems"]], broken


def prunes_nothing(site, before, during, turn):
    """`before` is deleted and due soon when the clock is turned, `during` is deleted while it is wrong. Gives what names it."""
    wait_known(site, delete(site, before))
    due_at = time.monotonic() + GRACE
    turn()
    wait_polled(site, 2)  # one may have begun before
    delete(site, during)
    wait_until(lambda: time.monotonic() > due_at + 1, 2 * GRACE, "the grace to pass")
    wait_polled(site, 2)
    problems, broken = named_by(site)
    assert is_there(site, before)
    assert is_there(site, during)
    right_at = time.monotonic()
    site.clock.turn("+0")
    wait_gone(site, before)
    wait_gone(site, during)
    # A grace that began while the clock was wrong would have ended at once, or never.
    assert time.monotonic() - right_at >= GRACE
    assert broken == problems[:1]
    return broken[0]


def test_clock_that_is_wrong_prunes_nothing_and_is_named_until_it_is_right(site):
    def restart_weeks_back():
        for process in site.processes:
            process.kill()
        site.clock.turn(WEEKS_BACK)
        site.worker(concurrency=2)
        site.beat()

    told = [
        prunes_nothing(site, "a", "b", lambda: site.clock.turn(YEARS_AHEAD)),
        prunes_nothing(site, "c", "d", restart_weeks_back),
    ]
    if "CBK_CATALOG_URL" in site.env:
        differ = "nothing is pruned: this machine's clock and that of the catalog's database differ by "
        assert told == [f"{differ}730 days", f"{differ}14 days"]
    else:
        ahead = "nothing is pruned: the clock jumped ahead by 730 days, which this machine's uptime does not explain"
        assert told == [ahead, "nothing is pruned: the clock went back by 14 days"]
    assert site.status()["protected"]
