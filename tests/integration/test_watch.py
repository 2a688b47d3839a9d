"""`jobs.watch`: what is wrong reaches a real receiver once, and the dead man's switch is called only while all is well."""

import json
import logging
import socket
import threading
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import sqlalchemy as sa

from cbk.edges.archive.archive import DiskUsage
from cbk.edges.catalog.database.schema import versions
from cbk.edges.notify import heartbeat
from cbk.edges.notify.heartbeat import Heartbeat
from cbk.jobs.admin.init import initialise
from cbk.jobs.retention.plan import decide_brake
from cbk.jobs.status.alerts import CatalogOutageAlert, send_alerts
from cbk.jobs.status.status import gather_status
from cbk.jobs.verification.drill import drill, plan_drill
from cbk.jobs.verification.scheduled import scrub
from local_servers import wait_until
from tests.integration.test_notify import NOBODY, receiving
from tests.origin import s3_error

HOUR = timedelta(hours=1)


class Switch:
    """A dead man's switch: what it was called with is in `calls`, as (path, body); `answer` is its status."""

    def __init__(self, server):
        self.url = f"http://127.0.0.1:{server.server_port}/ping/sesame"
        self.calls = []
        self.answer = 200

    @property
    def paths(self):
        return [path for path, _ in self.calls]


@contextmanager
def switching():
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
            switch.calls.append((self.path.removeprefix("/ping/sesame"), body))
            self.send_response(switch.answer)
            if switch.answer == 302:
                self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        switch = Switch(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield switch
        server.shutdown()


@pytest.fixture
def switch():
    with switching() as switch:
        yield switch


@pytest.fixture
def receiver():
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def site(make_site, receiver, switch):
    """A site on which one file is protected, with somebody who is told and a dead man's switch."""
    site = make_site(notify=receiver.url, heartbeat_url=switch.url, brake_files=3, trash="1d")
    site.upload("cars/a.png", b"the first")
    site.work()
    return site


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.DEBUG)
    return caplog


def told(receiver):
    """The subjects, without the sender's name that begins each."""
    assert all(subject.startswith("Cloud Backup Kit: ") for subject in receiver.subjects)
    return [subject.removeprefix("Cloud Backup Kit: ") for subject in receiver.subjects]


def pass_time(site, by):
    """Everything that was noted of what was told, and of files that wait, is so much older."""
    voice = json.loads(site.fact("voice"), object_hook=lambda noted: {name: _earlier(value, by) for name, value in noted.items()})
    site.context.catalog.facts.set(voice=json.dumps(voice))
    with site.context.catalog.database.writing() as connection:
        seen = sa.type_coerce(versions.c.first_seen_at, sa.BigInteger) - by // timedelta(milliseconds=1)
        older = sa.type_coerce(seen, versions.c.first_seen_at.type)
        connection.execute(sa.update(versions).where(versions.c.state != "stored").values(first_seen_at=older))
    site.context.heartbeat = Heartbeat(site.settings["heartbeat_url"])


def _earlier(value, by):
    try:
        return (datetime.fromisoformat(value) - by).isoformat()
    except (TypeError, ValueError):
        return value


def fill(site, monkeypatch):
    monkeypatch.setattr(type(site.context.archive), "usage", lambda _: DiskUsage(free=1, total=1 << 40, read_only=False))


def kinds(site):
    return [problem.kind for problem in gather_status(site.context).problems]


# ---- what is told ------------------------------------------------------------------------------------------------------------


def test_all_is_well_is_told_to_the_switch_alone(site, receiver, switch):
    assert site.send_alerts() == "quiet"
    assert (told(receiver), switch.calls) == ([], [("", "")])


def test_upload_that_waits_for_its_turn_is_no_news_and_stops_no_heartbeat(site, receiver, switch):
    site.upload("cars/b.png", b"the second")
    site.poll()
    assert kinds(site) == ["pending"]
    assert site.send_alerts() == "quiet"
    assert (told(receiver), switch.paths) == ([], [""])


def test_workers_that_stand_still_are_told_once_files_have_waited_for_long(site, receiver, switch):
    site.upload("cars/b.png", b"the second")
    site.poll()
    site.send_alerts()
    pass_time(site, 7 * HOUR)
    assert site.send_alerts() == "quiet"
    pass_time(site, HOUR / 4)
    assert site.send_alerts() == "told"
    assert told(receiver) == ["1 file is pending"]
    assert "1 of 2 files" in receiver.messages[0]["message"]
    assert switch.calls[-1] == ("/fail", "pending")


def test_full_disk_is_told_and_that_it_is_over(site, receiver, switch, monkeypatch):
    with monkeypatch.context() as full:
        fill(site, full)
        assert [site.send_alerts(), site.send_alerts()] == ["told", "quiet"]
        assert switch.calls == [("/fail", "disk_full")]
    site.send_alerts()
    pass_time(site, HOUR)
    assert site.send_alerts() == "told"
    assert site.send_alerts() == "quiet"
    assert told(receiver)[0].startswith("the backup disk is almost full")
    assert told(receiver)[1:] == ["all clear: what was told is over"]
    assert switch.paths == ["/fail", "", ""]


def test_disk_that_is_not_mounted_is_told(site, receiver, switch, tmp_path):
    site.root.rename(tmp_path / "elsewhere")
    site.root.mkdir()
    assert site.send_alerts() == "told"
    assert told(receiver)[0].startswith("nothing is backed up: ")
    assert switch.calls == [("/fail", "disk_missing")]


def test_links_that_expire_are_told(site, receiver, switch):
    site.upload("cars/b.png", b"the second", s3_error(403, "AccessDenied", "Request has expired"))
    site.work()
    site.send_alerts()
    pass_time(site, HOUR / 4)
    assert site.send_alerts() == "told"
    assert told(receiver) == ["1 file is expired"]
    assert switch.calls[-1] == ("/fail", "expired")


def test_flipped_bit_is_told_by_the_name_of_its_file_and_once_that_all_is_well_again(site, receiver, switch):
    (copy,) = site.copies()
    path = site.root / copy
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with site.context.catalog.database.writing() as connection:
        connection.execute(sa.update(versions).values(verified_at=None))
    scrub(site.context, pause=lambda _: False)
    assert [site.send_alerts(), site.send_alerts()] == ["told", "quiet"]
    assert told(receiver) == ["1 bad copy was found on the backup disk"]
    assert "s3/cars/a.png v1: corrupt" in receiver.messages[0]["message"]
    assert switch.calls[0] == ("/fail", "corrupt")
    site.work()
    site.send_alerts()
    pass_time(site, HOUR)
    site.send_alerts()
    assert told(receiver)[1:] == ["all clear: what was told is over"]


def test_message_names_some_of_many_bad_copies(site, receiver, monkeypatch):
    monkeypatch.setattr("cbk.jobs.status.alerts.TOLD_BY_NAME", 2)
    at = site.context.catalog.database.now().isoformat()
    for name in ("x", "y", "z"):
        site.context.catalog.verification.note_found({"storage": "s3", "key": name, "version": 1, "finding": "missing", "at": at})
    site.send_alerts()
    assert told(receiver) == ["3 bad copies were found on the backup disk"]
    assert receiver.messages[0]["message"].split("s3/")[1:] == [
        "y v1: missing\n    ",
        receiver.messages[0]["message"].split("s3/")[2],
    ]


def test_brake_is_told_once_with_the_commands_to_type_and_no_more_once_decided(site, receiver):
    rows = [site.upload(f"cars/{number}.png", b"%d" % number) for number in range(5)]
    site.work()
    for row in rows:
        site.delete(row)
    site.poll()
    assert [site.send_alerts(), site.send_alerts()] == ["told", "quiet"]
    [line] = told(receiver)
    assert line.startswith("5 removals are held back by brake 1: 5 copies are to go")
    for command in ("cbk prune --plan", "cbk prune --approve 1", "--reject 1"):
        assert command in receiver.messages[0]["message"]
    decide_brake(site.context, 1, approve=True)
    assert site.send_alerts() == "quiet"


def test_clock_that_is_wrong_is_told_once(site, receiver, monkeypatch):
    monkeypatch.setattr("cbk.jobs.status.status.check_clock", lambda _: "the clock went back by 14 days")
    assert [site.send_alerts(), site.send_alerts()] == ["told", "quiet"]
    assert told(receiver) == ["nothing is pruned: the clock went back by 14 days"]


def test_source_that_is_away_is_told_once_that_has_lasted(site, receiver, switch):
    with site.source_away():
        with pytest.raises(Exception, match="database"):
            site.poll()
        assert site.send_alerts() == "quiet"
        assert switch.calls == []  # neither good news nor bad
        pass_time(site, HOUR / 4)
        assert site.send_alerts() == "told"
    assert told(receiver)[0].startswith("the last poll failed: ")


def test_drill_that_failed_is_told_once(site, receiver, monkeypatch, tmp_path):
    (copy,) = site.copies()
    (site.root / copy).write_bytes(b"rotten")
    drill(site.context, plan_drill(site.context), scratch=tmp_path)
    assert [site.send_alerts(), site.send_alerts()] == ["told", "quiet"]
    assert any("the last drill failed: " in line for line in receiver.messages[0]["message"].splitlines())


# ---- whoever does not listen -------------------------------------------------------------------------------------------------


def test_message_that_no_service_took_is_sent_again_later(site, receiver, monkeypatch):
    fill(site, monkeypatch)
    telling, deaf = site.context, site.open(notify=NOBODY)
    site.context = deaf
    assert site.send_alerts() == "nobody took it"
    site.context = telling
    assert site.send_alerts() == "quiet"
    pass_time(site, HOUR / 4)
    assert site.send_alerts() == "told"
    assert len(receiver.messages) == 1


def test_who_is_named_later_is_told_of_what_goes_on(make_site, receiver, monkeypatch):
    site = make_site()
    fill(site, monkeypatch)
    assert [site.send_alerts(), site.send_alerts()] == ["nobody to tell", "nobody to tell"]
    site.reopen(notify=receiver.url)
    assert site.send_alerts() == "told"
    assert len(receiver.messages) == 1


def test_of_two_that_look_at_once_one_looks(site, receiver, monkeypatch):
    fill(site, monkeypatch)
    with site.rival() as rival:
        assert rival.leases.acquire("watch", site.context.settings.lease)
        assert site.send_alerts() == "skipped"
    assert told(receiver) == []


@pytest.mark.parametrize(("answer", "reason"), [(500, "the answer is 500"), (404, "the answer is 404"), (302, "the answer is 302")])
def test_switch_that_refuses_or_leads_elsewhere_is_one_line_and_is_called_again(site, switch, log, answer, reason):
    switch.answer = answer
    assert site.send_alerts() == "quiet"
    assert [record.facts for record in log.records if record.msg == "heartbeat not sent"] == [{"reason": reason}]
    assert "sesame" not in log.text
    switch.answer = 200
    site.send_alerts()
    assert switch.paths == ["", ""]


def test_switch_that_is_away_is_one_line_without_its_url(make_site, log):
    site = make_site(heartbeat_url="http://127.0.0.1:9/ping/sesame")
    site.upload("cars/a.png", b"the first")
    site.work()
    assert site.send_alerts() == "quiet"
    assert [record.facts for record in log.records if record.msg == "heartbeat not sent"] == [{"reason": "ConnectionError"}]
    assert "sesame" not in log.text


def test_switch_that_falls_silent_is_given_up(make_site, log, monkeypatch):
    monkeypatch.setattr(heartbeat, "HEARTBEAT_TIMEOUT_SECONDS", (0.2, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        site = make_site(heartbeat_url=f"http://127.0.0.1:{silent.getsockname()[1]}/ping/sesame")
        site.upload("cars/a.png", b"the first")
        site.work()
        assert site.send_alerts() == "quiet"
    assert [record.facts for record in log.records if record.msg == "heartbeat not sent"] == [{"reason": "ReadTimeout"}]


def test_same_news_are_not_sent_to_the_switch_all_the_time(switch):
    now = 0.0
    beating = Heartbeat(switch.url, uptime=lambda: now)
    assert [beating.beat(), beating.beat(), beating.fail(["poll"]), beating.beat()] == [True, None, True, True]
    now = 60.0
    assert beating.beat() is True
    assert switch.paths == ["", "/fail", "", ""]


def test_site_whose_tables_were_never_read_calls_no_switch(make_site, switch):
    site = make_site(heartbeat_url=switch.url)
    assert site.send_alerts() == "quiet"
    assert switch.calls == []


# ---- a catalog that does not answer ------------------------------------------------------------------------------------------


@pytest.fixture
def words(site):
    """The last words of one process, with a clock that `pass_uptime` moves; the catalog does not answer."""
    uptime = [0.0]
    catalog_outage_alert = CatalogOutageAlert(lambda: uptime[0])

    def look(after):
        uptime[0] += after.total_seconds()
        return send_alerts(site.context, catalog_outage_alert).outcome

    return look


def break_catalog(site):
    site.context.catalog = site.open(catalog_url="sqlite:////nowhere/catalog.db").catalog


def test_catalog_that_does_not_answer_is_told_once_an_hour_by_each_process(site, words, receiver, switch):
    break_catalog(site)
    assert [words(HOUR * 0), words(HOUR / 5)] == ["not told yet", "not told yet"]
    assert [words(HOUR / 10), words(HOUR / 2), words(HOUR / 2)] == ["told", "quiet", "told"]
    assert set(told(receiver)) == {"the catalog cannot be read, nothing is backed up"}
    assert switch.calls == [("/fail", "catalog")]


def test_catalog_that_answers_again_is_given_its_time_anew(site, words, receiver):
    working = site.context.catalog
    break_catalog(site)
    words(HOUR * 0)
    broken, site.context.catalog = site.context.catalog, working
    assert words(HOUR / 5) == "quiet"
    site.context.catalog = broken
    assert words(HOUR / 5) == "not told yet"
    assert told(receiver) == []


def test_catalog_on_a_disk_that_is_not_mounted_is_told_as_well(make_site, receiver, tmp_path):
    site = make_site(notify=receiver.url, catalog_url=f"sqlite:///{tmp_path}/backups/.cbk/catalog.db", alert_after="1ms")
    list(initialise(site.context))
    site.poll()
    site.context.close()
    site.root.rename(tmp_path / "elsewhere")
    site.root.mkdir()
    assert wait_until(lambda: site.send_alerts() == "told", 10, "it to be told")
    assert told(receiver) == ["the backup disk is away, nothing is backed up"]
    assert list(site.root.iterdir()) == []
