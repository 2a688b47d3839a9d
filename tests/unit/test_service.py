"""What the service manager is told, over a real socket."""

import os
import socket
from datetime import timedelta

import pytest

from cbk.cluster.compat.beat_scheduler import Scheduler
from cbk.cluster.worker import systemd_notify, watchdog
from tests.unit.test_schedule import Beat

MINUTE = timedelta(minutes=1)


class Timer:
    """Notes what it is asked to repeat."""

    def __init__(self):
        self.repeated = []

    def call_repeatedly(self, seconds, what, args):
        self.repeated.append(seconds)
        what(*args)


class Consumer:
    def __init__(self):
        self.timer = Timer()


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """A service manager's socket; `manager()` gives the lines of what was sent to it since."""
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listening:
        listening.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        def heard():
            lines = []
            while True:
                try:
                    lines += listening.recv(4096).decode().splitlines()
                except BlockingIOError:
                    return lines

        yield heard


def test_tell_sends_one_line_each(manager):
    systemd_notify.tell("READY=1", "STATUS=consumes")
    assert manager() == ["READY=1", "STATUS=consumes"]


def test_tell_knows_abstract_names(monkeypatch):
    name = f"cbk-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        systemd_notify.tell("READY=1")
        assert listening.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "/nowhere/notify"])
def test_tell_does_nothing_where_nobody_listens(monkeypatch, address):
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    systemd_notify.tell("READY=1")


def test_worker_is_ready_once_it_consumes_and_without_a_watchdog_tells_no_more(manager):
    consumer = Consumer()
    systemd_notify._consumes(sender=consumer)
    assert manager() == ["READY=1", "STATUS=consumes"]
    assert consumer.timer.repeated == []


def test_worker_looks_three_times_per_watchdog_from_its_own_loop(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "180000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    consumer = Consumer()
    systemd_notify._consumes(sender=consumer)
    assert consumer.timer.repeated == [60.0]
    assert manager()[-2:] == ["WATCHDOG=1", "STATUS=consumes"]


def test_worker_that_takes_nothing_of_what_waits_is_not_told_to_be_alive(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "180000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    monkeypatch.setattr(watchdog, "is_consuming", lambda: False)
    systemd_notify._consumes(sender=Consumer())
    assert manager() == ["READY=1", "STATUS=consumes"]


@pytest.mark.parametrize(("microseconds", "pid"), [("180000000", "1"), ("0", ""), ("", ""), ("soon", "")])
def test_watchdog_that_is_not_ours_or_is_none_asks_for_nothing(monkeypatch, microseconds, pid):
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.setenv("WATCHDOG_PID", pid or str(os.getpid()))
    assert systemd_notify.watchdog_interval() is None


def test_waiting_for_redis_keeps_the_manager_from_killing(manager):
    systemd_notify.tell_waiting("ConnectionError")
    assert manager() == ["STATUS=waits for Redis: ConnectionError", "WATCHDOG=1", "EXTEND_TIMEOUT_USEC=120000000"]


def test_beat_tells_with_every_look_at_its_schedule(manager, monkeypatch):
    beat = Beat(monkeypatch)
    assert isinstance(beat, Scheduler)
    beat.run(3)
    assert manager().count("WATCHDOG=1") >= 3


# ---- for who looks at a file ---------------------------------------------------------------------------------------------------


@pytest.fixture
def alive(tmp_path, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("CBK_ALIVE_FILE", str(tmp_path / "alive"))
    return tmp_path / "alive"


def test_worker_touches_its_file_once_it_consumes_and_goes_on_from_its_own_loop(alive):
    consumer = Consumer()
    systemd_notify._consumes(sender=consumer)
    assert alive.exists()
    assert consumer.timer.repeated == [10.0]


def test_worker_that_takes_nothing_of_what_waits_does_not_touch_its_file(alive, monkeypatch):
    monkeypatch.setattr(watchdog, "is_consuming", lambda: False)
    systemd_notify._show_alive()
    assert not alive.exists()


def test_worker_that_waits_for_redis_touches_its_file(alive):
    systemd_notify.tell_waiting("ConnectionError")
    assert alive.exists()


def test_beat_touches_its_file_with_every_look_at_its_schedule_and_looks_often(alive, monkeypatch):
    beat = Beat(monkeypatch)
    alive.unlink(missing_ok=True)
    assert beat.tick() <= 10
    assert alive.exists()


def test_file_that_cannot_be_touched_is_no_reason_to_stop_working(monkeypatch):
    monkeypatch.setenv("CBK_ALIVE_FILE", "/nowhere/alive")
    systemd_notify.touch_alive_file()


def test_worker_touches_nothing_where_nobody_looks(monkeypatch):
    monkeypatch.delenv("CBK_ALIVE_FILE", raising=False)
    consumer = Consumer()
    systemd_notify._consumes(sender=consumer)
    assert consumer.timer.repeated == []
