"""Downloads under a limit, in turns at a host, and pauses: what workers do and leave while they run."""

import os
import threading
from datetime import timedelta

import pytest

from cbk.edges import machine
from cbk.edges.download.turns import Turns
from cbk.edges.line import SharedLine
from cbk.errors import CatalogUnavailable, LeaseLost, UsageError
from cbk.jobs import orders
from cbk.jobs.kit import Kit
from cbk.jobs.status import take_status
from cbk.jobs.throttle import Throttle
from cbk.rules.health import Kind
from cbk.rules.links import AllowedHosts

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
    """One download of a desk's origin, with a clock that only sleeping moves; its claim is told of each tick."""

    def __init__(self, desk, clock, size):
        self.kit, self.clock, self.sink, self.ticks = desk.kit, clock, Sink(), []
        self.kit.line = SharedLine(AWAY, holder="one", uptime=clock)
        desk.origin.put("/large.bin", os.urandom(size))
        self.link = desk.origin.url("/large.bin", "sig=1")

    def tick(self, position):
        self.ticks.append(position)

    def fetch(self, **settings):
        from cbk.edges.download import Downloader  # noqa: PLC0415 - as the kit makes it

        downloader = Downloader(AllowedHosts.parse(self.kit.settings.allowed_hosts), monotonic=self.clock, **settings)
        throttle = Throttle(self.kit, self.tick, sleep=self.clock.sleep)
        began = self.clock.now
        downloader.fetch(self.link, self.sink, tick=throttle.tick, piece=throttle.piece, now=machine.now)
        downloader.close()
        return self.clock.now - began


# ---- the limit ---------------------------------------------------------------------------------------------------------------


def test_download_takes_as_long_as_the_limit_says(make_desk, clock):
    transfer = Transfer(make_desk(bandwidth="1M"), clock, 3 * MB)
    assert transfer.fetch() == pytest.approx(3, abs=0.3)
    assert (transfer.sink.size, transfer.sink.largest) == (3 * MB, 100_000)


def test_without_a_limit_nobody_waits_and_redis_is_not_asked(make_desk, clock):
    transfer = Transfer(make_desk(), clock, 3 * MB)
    assert transfer.fetch() == 0
    assert transfer.kit.line._script is None


def test_waiting_for_a_share_keeps_the_claim_and_counts_towards_no_deadline(make_desk, clock):
    transfer = Transfer(make_desk(bandwidth="10k"), clock, 200_000)
    assert transfer.fetch(max_seconds=5, min_bytes_per_second=1_000_000, speed_window_seconds=5) == pytest.approx(20, abs=1)
    assert len(transfer.ticks) > transfer.clock.naps >= 20 / 0.5


def test_claim_that_was_lost_ends_the_wait(make_desk, clock):
    transfer = Transfer(make_desk(bandwidth="10k"), clock, 200_000)

    def lost(_position):
        if clock.naps > 3:
            raise LeaseLost("another worker has taken over")

    transfer.tick = lost
    with pytest.raises(LeaseLost):
        transfer.fetch()
    assert clock.naps == 4


def test_limit_that_is_lifted_ends_the_wait(make_desk, clock):
    transfer = Transfer(make_desk(bandwidth="10k"), clock, 200_000)

    def lift(_position):
        if clock.naps == 3:
            orders.order_bandwidth(transfer.kit, "off")

    transfer.tick = lift
    assert transfer.fetch() < 3
    orders.order_bandwidth(transfer.kit, None)
    assert orders.bandwidth_now(transfer.kit) == 10_000


def test_stored_file_went_through_the_limit(make_desk, clock):
    desk = make_desk(bandwidth="1M")
    desk.kit.line = SharedLine(AWAY, holder="one", uptime=clock)
    desk.upload("a.bin", b"abc")
    desk.work()
    assert desk.states() == {("a.bin", 1): "stored"}
    assert desk.kit.line._limit == MB


def test_worker_sees_within_seconds_what_another_process_ordered(make_desk, monkeypatch):
    desk = make_desk(bandwidth="1M")
    assert orders.bandwidth_now(desk.kit) == MB
    orders.order_bandwidth(desk.open(), "2M")
    assert orders.bandwidth_now(desk.kit) == MB
    monkeypatch.setattr(orders, "LOOK_EVERY_SECONDS", 0)
    assert orders.bandwidth_now(desk.kit) == 2 * MB


def test_limit_holds_while_the_catalog_is_away(make_desk, monkeypatch):
    desk = make_desk(bandwidth="1M")
    orders.bandwidth_now(desk.kit)
    monkeypatch.setattr(orders, "LOOK_EVERY_SECONDS", 0)
    desk.kit.catalog = desk.open(catalog_url="sqlite:////nowhere/catalog.db").catalog
    assert orders.bandwidth_now(desk.kit) == MB
    desk.kit.orders = None
    with pytest.raises(CatalogUnavailable):
        orders.bandwidth_now(desk.kit)


def test_order_that_is_no_bandwidth_is_refused_and_changes_nothing(desk):
    with pytest.raises(UsageError, match="'fast' is no bandwidth: expected bytes per second"):
        orders.order_bandwidth(desk.kit, "fast")
    assert orders.bandwidth_now(desk.kit) is None


# ---- turns at a host ---------------------------------------------------------------------------------------------------------


def test_host_gets_so_many_downloads_at_a_time_and_others_do_not_wait(monkeypatch):
    monkeypatch.setattr("cbk.edges.download.turns.STEP_SECONDS", 0.01)
    turns, waited, entered = Turns(1), threading.Event(), threading.Event()

    def second():
        with turns.turn("https://user@A.example.com/2?sig=x", waited.set):
            entered.set()

    with turns.turn("https://a.example.com/1?sig=x", pytest.fail):
        thread = threading.Thread(target=second)
        thread.start()
        assert waited.wait(10)
        with turns.turn("https://b.example.com/1", pytest.fail):
            assert not entered.is_set()
    thread.join()
    assert entered.is_set()
    assert turns._taken == {}


def test_wait_for_a_turn_ends_with_the_claim(monkeypatch):
    monkeypatch.setattr("cbk.edges.download.turns.STEP_SECONDS", 0.01)
    turns = Turns(1)

    def lost():
        raise LeaseLost("another worker has taken over")

    with turns.turn("https://a/1", pytest.fail), pytest.raises(LeaseLost), turns.turn("https://a/2", lost):
        pytest.fail("there was no turn")
    with turns.turn("https://a/3", pytest.fail):
        pass


@pytest.mark.parametrize("link", ["", "nonsense", "https://[::1"])
def test_link_that_names_no_host_has_turns_as_well(link):
    with Turns(1).turn(link, pytest.fail):
        pass


def test_setting_bounds_what_a_worker_fetches_from_one_host(make_desk):
    assert make_desk(host_concurrency=2).kit.downloader._turns._limit == 2
    assert make_desk(host_concurrency=0).kit.downloader._turns._limit is None


# ---- pause -------------------------------------------------------------------------------------------------------------------


def end(kit: Kit, after):
    return kit.catalog.database.now() + after


def test_pause_lets_nothing_new_be_sent_or_fetched_until_it_ends(desk):
    desk.upload("a.txt", b"a")
    desk.poll()
    (row,) = desk.courier.take()
    orders.pause(desk.kit, end(desk.kit, HOUR))
    assert desk.back_up(row).outcome == "put off"
    desk.expire_leases()
    desk.upload("b.txt", b"b")
    desk.poll()
    assert (desk.courier.take(), desk.copies()) == ([], set())
    assert orders.resume(desk.kit)
    desk.work()
    assert set(desk.states().values()) == {"stored"}


def test_pause_ends_by_itself(desk, monkeypatch):
    desk.upload("a.txt", b"a")
    ends = end(desk.kit, HOUR)
    orders.pause(desk.kit, ends)
    monkeypatch.setattr(machine, "now", lambda: ends)
    desk.work()
    assert desk.states() == {("a.txt", 1): "stored"}
    assert not orders.resume(desk.kit)


@pytest.mark.parametrize("after", [timedelta(0), -HOUR, timedelta(days=8)])
def test_pause_that_is_over_or_too_long_is_refused(desk, after):
    with pytest.raises(UsageError, match="a pause ends within 7 days from now"):
        orders.pause(desk.kit, end(desk.kit, after))
    assert orders.paused_until(desk.kit) is None


def test_status_shows_a_pause_and_calls_it_a_problem_once_files_wait_for_long(make_desk):
    desk = make_desk(alert_after="1h")
    ends = end(desk.kit, HOUR)
    orders.pause(desk.kit, ends)
    desk.poll()
    assert take_status(desk.kit).is_protected
    assert take_status(desk.kit).ordered.paused_until == ends
    desk.upload("a.txt", b"a")
    desk.poll()
    assert [problem.kind for problem in take_status(desk.kit).problems] == [Kind.PENDING]
    desk.pass_time(first_seen_at=HOUR, due_at=HOUR)
    assert [problem.kind for problem in take_status(desk.kit).problems] == [Kind.PENDING, Kind.PAUSED]


def test_status_shows_the_limit_in_force_and_whose_it_is(make_desk):
    desk = make_desk(bandwidth="1M")
    ordered = take_status(desk.kit).ordered
    assert (ordered.bandwidth, ordered.is_ordered) == (MB, False)
    orders.order_bandwidth(desk.kit, "off")
    ordered = take_status(desk.kit).ordered
    assert (ordered.bandwidth, ordered.is_ordered) == (None, True)
