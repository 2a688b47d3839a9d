"""`cbk page` as a process, with a real browser's means: sockets, headers, and a connection that breaks off."""

import signal
import subprocess
import sys

import pytest
import requests

from local_servers import free_port, wait_until
from tests.functional.site import Process
from tests.in_process_site import InProcessSite
from tests.page_server import PAIR, served


@pytest.fixture
def serve(tmp_path):
    """A function that starts `cbk page` with an environment, waits until it serves, and gives its address and its process."""
    running = []

    def start(environment):
        port = free_port()
        own = {"CBK_PAGE_AUTH": ":".join(PAIR), "CBK_PAGE_PORT": str(port)}
        process = Process([sys.executable, "-m", "cbk.cli", "page"], environment | own, tmp_path / f"page-{port}.log")
        running.append(process)
        address = f"http://127.0.0.1:{port}"

        def serves():
            assert process.is_running(), process.log
            try:
                return requests.get(f"{address}/healthz", timeout=10).ok
            except requests.ConnectionError:
                return False

        wait_until(serves, 60, lambda: f"the page to serve\n{process.log}")
        return address, process

    yield start
    for process in running:
        process.kill()


def test_page_tells_of_files_and_of_workers_and_hangs_on_no_broker_that_is_away(site, serve, valkey):
    site.upload("cars/id-1/thumbnail.png", b"png bytes")
    site.worker()
    site.beat()
    site.wait_protected(1)
    address, process = serve(site.env)

    def metrics():
        lines = requests.get(f"{address}/metrics", auth=PAIR, timeout=20).text.splitlines()
        return dict(line.split(" ") for line in lines if not line.startswith("#"))

    wait_until(lambda: metrics().get("cbk_workers") == "1.0", 60, lambda: f"the worker on the page: {metrics()}\n{process.log}")
    page = requests.get(address, auth=PAIR, timeout=20)
    assert (page.status_code, "Everything is protected" in page.text, "w0@localhost" in page.text) == (200, True, True)
    assert "waitress" not in str(page.headers)
    assert requests.get(f"{address}/download/1", auth=PAIR, timeout=20).content == b"png bytes"
    valkey.kill()
    try:
        assert requests.get(address, auth=PAIR, timeout=20).status_code == 200
    finally:
        valkey.start()
    assert process.stop() == 0
    assert process.log.splitlines() == [f"the page is at {address}"]


def test_download_that_goes_bad_on_the_way_breaks_off(tmp_path, origin, monkeypatch):
    site = InProcessSite(tmp_path, origin)
    site.upload("a.bin", b"good" * 100_000)
    site.work()
    monkeypatch.setattr(site.context.archive, "open_copy", lambda _: iter([b"good" * 50_000, b"evil" * 50_000]))
    with served(site.context) as address, pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
        requests.get(f"{address}/download/1", auth=PAIR, timeout=20)
    site.close()


def test_page_ends_on_a_port_that_is_taken(tmp_path, origin, serve):
    site = InProcessSite(tmp_path, origin, broker_url="redis://127.0.0.1:1/0")
    address, process = serve(site.environment)
    own = {"CBK_PAGE_AUTH": ":".join(PAIR), "CBK_PAGE_PORT": address.rpartition(":")[2]}
    second = subprocess.run(
        [sys.executable, "-m", "cbk.cli", "page"],
        env=site.environment | own,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (second.returncode, "CBK_PAGE_PORT: cannot listen" in second.stderr) == (2, True)
    process._process.send_signal(signal.SIGINT)
    assert process._process.wait(30) == 0
    site.close()
