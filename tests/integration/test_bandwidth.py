"""Downloads under a limit, in turns at a host, and pauses: what workers do and leave while they run."""

import os
import threading
from datetime import timedelta

import pytest

from cbk.edges import host
from cbk.edges.download.host_limit import HostLimit
from cbk.edges.redis.rate_limiter import RateLimiter
from cbk.errors import CatalogUnavailable, LeaseLost, UsageError
from cbk.jobs.backup import overrides
from cbk.jobs.backup.throttle import Throttle
from cbk.jobs.context import Context
from cbk.jobs.status.status import gather_status
from cbk.rules.backup.links import AllowedHosts
from cbk.rules.status.health import Kind

MB = 1_000_000
HOUR = timedelta(hours=1)
AWAY = "redis://127.0.0.1:9/0"


class Clock:
    """Seconds that pass while somebody sleeps."""

    def __init__(self):
        self.now = 1000.0
        self.naps = 0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.naps += 1
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


class Sink:
    def __init__(self):
        self.size = 0
        self.largest = 0

    def expect(self, size):
        pass

    def write(self, data):
        self.size += len(data)
        self.largest = max(self.largest, len(data))


class Transfer:
    """One download of a site's origin, with a clock that only sleeping moves; its claim is told of each tick."""

    def __init__(self, site, clock, size):
        self.context, self.clock, self.sink, self.ticks = site.context, clock, Sink(), []
        self.context.rate_limiter = RateLimiter(AWAY, holder="one", uptime=clock)
        site.origin.put("/large.bin", os.urandom(size))
        self.link = site.origin.url("/large.bin", "sig=1")

    def tick(self, position):
        self.ticks.append(position)

    def fetch(self, **settings):
        from cbk.edges.download import Downloader  # noqa: PLC0415 - as the kit makes it

        downloader = Downloader(AllowedHosts.parse(self.context.settings.allowed_hosts), monotonic=self.clock, **settings)
        throttle = Throttle(self.context, self.tick, sleep=self.clock.sleep)
        began = self.clock.now
        downloader.fetch(self.link, self.sink, tick=throttle.tick, piece=throttle.piece, now=host.now)
        downloader.close()
        return self.clock.now - began


# ---- the limit ---------------------------------------------------------------------------------------------------------------


def test_download_takes_as_long_as_the_limit_says(make_site, clock):
    transfer = Transfer(make_site(bandwidth="1M"), clock, 3 * MB)
    assert transfer.fetch() == pytest.approx(3, abs=0.3)
    assert (transfer.sink.size, transfer.sink.largest) == (3 * MB, 100_000)


def test_without_a_limit_nobody_waits_and_redis_is_not_asked(make_site, clock):
    transfer = Transfer(make_site(), clock, 3 * MB)
    assert transfer.fetch() == 0
    assert transfer.context.rate_limiter._script is None


def test_waiting_for_a_share_keeps_the_claim_and_counts_towards_no_deadline(make_site, clock):
    transfer = Transfer(make_site(bandwidth="10k"), clock, 200_000)
    assert transfer.fetch(max_seconds=5, min_bytes_per_second=1_000_000, speed_window_seconds=5) == pytest.approx(20, abs=1)
    assert len(transfer.ticks) > transfer.clock.naps >= 20 / 0.5


def test_claim_that_was_lost_ends_the_wait(make_site, clock):
    transfer = Transfer(make_site(bandwidth="10k"), clock, 200_000)

    def lost(_position):
        if clock.naps > 3:
            raise LeaseLost("another worker has taken over")

    transfer.tick = lost
    with pytest.raises(LeaseLost):
        transfer.fetch()
    assert clock.naps == 4


def test_limit_that_is_lifted_ends_the_wait(make_site, clock):
    transfer = Transfer(make_site(bandwidth="10k"), clock, 200_000)

    def lift(_position):
        if clock.naps == 3:
            overrides.override_bandwidth(transfer.context, "off")

    transfer.tick = lift
    assert transfer.fetch() < 3
    overrides.override_bandwidth(transfer.context, None)
    assert overrides.bandwidth_now(transfer.context) == 10_000


def test_stored_file_went_through_the_limit(make_site, clock):
    site = make_site(bandwidth="1M")
    site.context.rate_limiter = RateLimiter(AWAY, holder="one", uptime=clock)
    site.upload("a.bin", b"abc")
    site.work()
    assert site.states() == {("a.bin", 1): "stored"}
    assert site.context.rate_limiter._limit == MB


def test_worker_sees_within_seconds_what_another_process_ordered(make_site, monkeypatch):
    site = make_site(bandwidth="1M")
    assert overrides.bandwidth_now(site.context) == MB
    overrides.override_bandwidth(site.open(), "2M")
    assert overrides.bandwidth_now(site.context) == MB
    monkeypatch.setattr(overrides, "LOOK_EVERY_SECONDS", 0)
    assert overrides.bandwidth_now(site.context) == 2 * MB


def test_limit_holds_while_the_catalog_is_away(make_site, monkeypatch):
    site = make_site(bandwidth="1M")
    overrides.bandwidth_now(site.context)
    monkeypatch.setattr(overrides, "LOOK_EVERY_SECONDS", 0)
    site.context.catalog = site.open(catalog_url="sqlite:////nowhere/catalog.db").catalog
    assert overrides.bandwidth_now(site.context) == MB
    site.context.overrides = None
    with pytest.raises(CatalogUnavailable):
        overrides.bandwidth_now(site.context)


def test_order_that_is_no_bandwidth_is_refused_and_changes_nothing(site):
    with pytest.raises(UsageError, match="'fast' is no bandwidth: expected bytes per second"):
        overrides.override_bandwidth(site.context, "fast")
    assert overrides.bandwidth_now(site.context) is None


# ---- turns at a host ---------------------------------------------------------------------------------------------------------


def test_host_gets_so_many_downloads_at_a_time_and_others_do_not_wait(monkeypatch):
    monkeypatch.setattr("cbk.edges.download.host_limit.WAIT_STEP_SECONDS", 0.01)
    turns, waited, entered = HostLimit(1), threading.Event(), threading.Event()

    def second():
        with turns.slot("https://user@A.example.com/2?sig=x", waited.set):
            entered.set()

    with turns.slot("https://a.example.com/1?sig=x", pytest.fail):
        thread = threading.Thread(target=second)
        thread.start()
        assert waited.wait(10)
        with turns.slot("https://b.example.com/1", pytest.fail):
            assert not entered.is_set()
    thread.join()
    assert entered.is_set()
    assert turns._taken == {}


def test_wait_for_a_turn_ends_with_the_claim(monkeypatch):
    monkeypatch.setattr("cbk.edges.download.host_limit.WAIT_STEP_SECONDS", 0.01)
    turns = HostLimit(1)

    def lost():
        raise LeaseLost("another worker has taken over")

    with turns.slot("https://a/1", pytest.fail), pytest.raises(LeaseLost), turns.slot("https://a/2", lost):
        pytest.fail("there was no turn")
    with turns.slot("https://a/3", pytest.fail):
        pass


@pytest.mark.parametrize("link", ["", "nonsense", "https://[::1"])
def test_link_that_names_no_host_has_turns_as_well(link):
    with HostLimit(1).slot(link, pytest.fail):
        pass


def test_setting_bounds_what_a_worker_fetches_from_one_host(make_site):
    assert make_site(host_concurrency=2).context.downloader._host_limit._limit == 2
    assert make_site(host_concurrency=0).context.downloader._host_limit._limit is None


# ---- pause -------------------------------------------------------------------------------------------------------------------


def end(context: Context, after):
    return context.catalog.database.now() + after


def test_pause_lets_nothing_new_be_sent_or_fetched_until_it_ends(site):
    site.upload("a.txt", b"a")
    site.poll()
    (row,) = site.publisher.take()
    overrides.pause(site.context, end(site.context, HOUR))
    assert site.back_up(row).outcome == "put off"
    site.expire_leases()
    site.upload("b.txt", b"b")
    site.poll()
    assert (site.publisher.take(), site.copies()) == ([], set())
    assert overrides.resume(site.context)
    site.work()
    assert set(site.states().values()) == {"stored"}


def test_pause_ends_by_itself(site, monkeypatch):
    site.upload("a.txt", b"a")
    ends = end(site.context, HOUR)
    overrides.pause(site.context, ends)
    monkeypatch.setattr(host, "now", lambda: ends)
    site.work()
    assert site.states() == {("a.txt", 1): "stored"}
    assert not overrides.resume(site.context)


@pytest.mark.parametrize("after", [timedelta(0), -HOUR, timedelta(days=8)])
def test_pause_that_is_over_or_too_long_is_refused(site, after):
    with pytest.raises(UsageError, match="a pause ends within 7 days from now"):
        overrides.pause(site.context, end(site.context, after))
    assert overrides.paused_until(site.context) is None


def test_status_shows_a_pause_and_calls_it_a_problem_once_files_wait_for_long(make_site):
    site = make_site(alert_after="1h")
    ends = end(site.context, HOUR)
    site.upload("first.txt", b"first")
    site.poll()
    site.work()
    overrides.pause(site.context, ends)
    assert gather_status(site.context).is_protected
    assert gather_status(site.context).ordered.paused_until == ends
    site.upload("a.txt", b"a")
    site.poll()
    assert [problem.kind for problem in gather_status(site.context).problems] == [Kind.PENDING]
    site.pass_time(first_seen_at=HOUR, due_at=HOUR)
    assert [problem.kind for problem in gather_status(site.context).problems] == [Kind.PENDING, Kind.PAUSED]


def test_status_shows_the_limit_in_force_and_whose_it_is(make_site):
    site = make_site(bandwidth="1M")
    ordered = gather_status(site.context).ordered
    assert (ordered.bandwidth, ordered.is_ordered) == (MB, False)
    overrides.override_bandwidth(site.context, "off")
    ordered = gather_status(site.context).ordered
    assert (ordered.bandwidth, ordered.is_ordered) == (None, True)
