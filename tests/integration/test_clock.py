"""The clock guard on a site: the machine's own clocks, beside a memory that says that it was another time before."""

import json
import shutil
import subprocess
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from cbk.edges import host
from cbk.edges.catalog.database.schema import removals
from cbk.jobs.retention.clock_guard import check_clock, note_clock, read_clock, trust_clock
from cbk.jobs.status.status import gather_status
from local_servers import wait_until

DAY = timedelta(days=1)
SAYS_NO = "the system says that its clock is not synchronised"


@pytest.fixture(params=["sqlite", "postgresql"])
def site(make_site, request):
    """A site with either catalog."""
    if request.param == "sqlite":
        return make_site()
    server, database = request.getfixturevalue("postgres"), request.getfixturevalue("pg_database")
    return make_site(catalog_url=server.url(database))


@pytest.fixture
def plain(make_site):
    """A site with a catalog in SQLite, where the kind makes no difference."""
    return make_site()


def memory(site):
    return json.loads(site.fact("clock"))


def move_memory(site, by, *, boot=None):
    """As if what is remembered had been noted `by` later than it was, and during another boot."""
    kept = memory(site)
    (known,) = kept["boots"].values()
    for holder, name in ((kept, "latest"), (known, "now"), (known, "seen_at")):
        holder[name] = (datetime.fromisoformat(holder[name]) + by).isoformat()
    kept["boots"] = {boot or host.boot_id(): known}
    site.context.catalog.facts.set(clock=json.dumps(kept))


def test_first_look_is_trusted_and_remembered(site):
    assert note_clock(site.context) is None
    assert list(memory(site)["boots"]) == [host.boot_id()]
    assert note_clock(site.context) is None
    assert check_clock(site.context) is None


def test_look_that_only_checks_remembers_nothing(plain):
    assert check_clock(plain.context) is None
    assert plain.fact("clock") is None


@pytest.mark.parametrize(
    ("by", "told"),
    [
        (14 * DAY + timedelta(hours=1), "the clock went back by 14 days"),
        (-730 * DAY - timedelta(hours=1), "the clock jumped ahead by 730 days, which this machine's uptime does not explain"),
    ],
)
def test_clock_that_is_wrong_is_told_until_it_is_right_again(site, by, told):
    note_clock(site.context)
    move_memory(site, by)
    wrong = site.fact("clock")
    assert [check_clock(site.context), note_clock(site.context)] == [told, told]
    assert site.fact("clock") == wrong
    move_memory(site, -by)
    assert note_clock(site.context) is None


@pytest.mark.parametrize(("synchronised", "is_trusted"), [(True, True), (False, False), (None, False)])
def test_machine_that_was_off_for_days_waits_for_a_synchronised_clock(plain, monkeypatch, synchronised, is_trusted):
    note_clock(plain.context)
    # Longer than the machine that runs the tests is up.
    move_memory(plain, -10_000 * DAY, boot="another")
    monkeypatch.setattr(host, "clock_is_synchronised", lambda: synchronised)
    assert (note_clock(plain.context) is None) is is_trusted
    assert sorted(memory(plain)["boots"]) == ([host.boot_id()] if is_trusted else ["another"])


def test_person_who_knows_that_the_clock_is_right_is_believed(site):
    note_clock(site.context)
    move_memory(site, 14 * DAY)
    assert trust_clock(site.context) is None
    assert note_clock(site.context) is None


def test_person_is_told_what_keeps_the_clock_from_being_trusted_all_the_same(plain, monkeypatch):
    monkeypatch.setattr(host, "clock_is_synchronised", lambda: False)
    plain.reopen(clock_sync="require")
    assert trust_clock(plain.context) == SAYS_NO


def test_clock_that_differs_from_that_of_the_catalog_is_told(site, monkeypatch):
    now = host.now
    monkeypatch.setattr(host, "now", lambda: now() + timedelta(hours=5, minutes=30))
    assert note_clock(site.context) == "this machine's clock and that of the catalog's database differ by 5 h"


def test_catalog_that_answers_slowly_is_no_clock_that_differs(plain, monkeypatch):
    now = host.now
    looks = [now() - timedelta(minutes=10), now() + timedelta(minutes=10)]
    monkeypatch.setattr(host, "now", lambda: looks.pop(0))
    assert check_clock(plain.context) is None


@pytest.mark.parametrize("kept", [True, False])
def test_clock_that_is_not_synchronised_counts_where_a_service_keeps_it(plain, monkeypatch, kept):
    monkeypatch.setattr(host, "clock_is_synchronised", lambda: False)
    monkeypatch.setattr(host, "clock_is_kept", lambda: kept)
    assert note_clock(plain.context) == (SAYS_NO if kept else None)
    assert (plain.fact("clock") is None) is kept


def test_burst_of_looks_writes_once(plain):
    note_clock(plain.context)
    noted = memory(plain)
    for _ in range(5):
        note_clock(plain.context)
    assert memory(plain) == noted
    move_memory(plain, timedelta(seconds=-6))
    note_clock(plain.context)
    assert datetime.fromisoformat(memory(plain)["latest"]) >= datetime.fromisoformat(noted["latest"])
    (boot,) = memory(plain)["boots"].values()
    assert datetime.fromisoformat(boot["now"]) < datetime.fromisoformat(noted["latest"])


def test_workers_that_look_at_once_do_one_another_no_harm(site):
    problems = []

    def look(context, start):
        start.wait()
        try:
            problems.append(note_clock(context))
        except Exception as error:  # noqa: BLE001 - that is what the test is about
            problems.append(error)

    for _ in range(5):
        site.forget_fact("clock")
        start = threading.Barrier(4)
        threads = [threading.Thread(target=look, args=(site.context, start)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert problems == [None] * 20


def test_machine_that_tells_nothing_is_trusted_by_its_clock_alone(plain, monkeypatch):
    for name in ("uptime", "boot_id", "clock_is_synchronised"):
        monkeypatch.setattr(host, name, lambda: None)
    assert note_clock(plain.context) is None
    assert memory(plain)["boots"] == {}


def test_status_is_not_green_and_names_the_clock(plain):
    plain.upload("cars/1/photo.jpg", b"photo")
    plain.poll()
    plain.work()
    assert gather_status(plain.context).is_protected
    move_memory(plain, 14 * DAY + timedelta(hours=1))
    problem = gather_status(plain.context).problems[0]
    assert problem.message == "nothing is pruned: the clock went back by 14 days"
    assert "cbk prune --trust-clock" in problem.hint


# What the machine says


def test_uptime_and_name_of_the_boot_are_those_of_the_kernel(plain):
    first, second = read_clock(plain.context), read_clock(plain.context)
    assert timedelta(0) < first.uptime <= second.uptime
    assert abs(second.uptime.total_seconds() - float(Path("/proc/uptime").read_text().split()[0])) < 60
    assert first.boot == second.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_what_the_kernel_does_not_tell_is_not_known(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(PermissionError()))
    assert (host.uptime(), host.boot_id(), host.clock_is_kept()) == (None, None, Path("/run/systemd/timesync").exists())


@pytest.mark.skipif(host.clock_is_kept(), reason="a service keeps this machine's clock: it cannot be away for the test")
def test_service_that_keeps_the_clock_is_seen_by_its_name(tmp_path):
    daemon = tmp_path / "chronyd"
    shutil.copy("/bin/sleep", daemon)
    with subprocess.Popen([daemon, "60"]) as process:
        wait_until(host.clock_is_kept, 10, "the process to be seen")
        process.kill()
    assert not host.clock_is_kept()


# Deletes


def test_message_that_was_sent_while_the_clock_jumped_ahead_is_sent_again(plain):
    row = plain.upload("a.txt", b"x")
    plain.work()
    plain.delete(row)
    plain.poll()
    plain.pass_grace()
    plain.poll()
    sent, plain.publisher.prunes = plain.publisher.prunes, []
    assert [removal.row_id for removal, _ in sent] == [row]
    database = plain.context.catalog.database
    with database.writing() as connection:
        connection.execute(sa.update(removals).values(armed_until=database.later_sql(730 * DAY)))
    assert [summary.outcome for summary in plain.let_go()] == ["pruned"]


def test_delete_that_is_seen_while_the_clock_is_wrong_begins_its_grace_when_it_is_right(plain):
    row = plain.upload("a.txt", b"x")
    plain.work()
    delete_id = plain.delete(row)
    move_memory(plain, 14 * DAY)
    plain.poll()
    assert plain.removals() == {}
    move_memory(plain, -14 * DAY)
    right = plain.context.catalog.database.now()
    plain.poll()
    assert plain.removals()[delete_id].first_seen_at >= right


def test_prune_that_is_due_waits_while_the_clock_is_wrong(plain):
    row = plain.upload("a.txt", b"x")
    plain.work()
    delete_id = plain.delete(row)
    plain.poll()
    plain.pass_grace()
    move_memory(plain, 14 * DAY + timedelta(hours=1))
    assert plain.let_go() == []
    done = plain.prune(delete_id)
    assert (done.outcome, done.facts["reason"]) == ("kept", "the clock went back by 14 days")
    assert plain.copies() == {"car-erp/a/v1.gzip"}
    move_memory(plain, -14 * DAY - timedelta(hours=1))
    assert [summary.outcome for summary in plain.let_go()] == ["pruned"]
    assert plain.copies() == set()
