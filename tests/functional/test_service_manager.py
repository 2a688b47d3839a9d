"""A real worker tells the service manager when it consumes, that it waits for Redis, and when it ends."""

import os
import signal
import socket
import threading
from contextlib import suppress

import pytest

from local_servers import wait_until


class Manager:
    """A service manager's socket; `heard` is every line that came."""

    def __init__(self, path):
        self.heard = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        with suppress(OSError):
            while lines := self._socket.recv(4096):
                self.heard += lines.decode().splitlines()

    def wait_for(self, line, since=0):
        wait_until(lambda: any(line in each for each in self.heard[since:]), 60, lambda: f"{line} in {self.heard}")
        return len(self.heard)

    def close(self):
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def manager(tmp_path):
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


def test_worker_tells_that_it_consumes_and_waits_and_consumes_again_and_ends(make_site, manager, tmp_path, valkey):
    site = make_site(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="600000")
    site.init()
    valkey.kill()
    worker = site.worker(concurrency=1)
    waiting = manager.wait_for("STATUS=waits for Redis")
    assert "READY=1" not in manager.heard
    valkey.start()
    ready = manager.wait_for("READY=1", waiting)
    alive = manager.wait_for("WATCHDOG=1", ready)
    valkey.kill()
    waiting = manager.wait_for("STATUS=waits for Redis", alive)
    valkey.start()
    manager.wait_for("STATUS=consumes", waiting)
    os.kill(worker.pid, signal.SIGTERM)
    manager.wait_for("STOPPING=1")
    assert worker.stop() == 0
