"""A home line: real workers keep to what they may fetch together, follow what a person orders, and leave the rest for later."""

import shutil
import socket
import tempfile
import threading
import time
import uuid
from pathlib import Path

import pytest

from local_servers import wait_until
from tests.functional.network import Network, NetworkPostgres, NetworkValkey, why_not
from tests.functional.site import Site
from tests.origin import Origin

MB = 1_000_000
REDIS, APPLICATION, CATALOG, OBJECTS = 1, 2, 3, 4
PIECE = 16 * 1024
# What a connection may hold on its way; by itself the kernel would let it grow to megabytes, which nobody has received yet.
ON_THE_WAY = 32 * 1024


class Meter:
    """Serves objects piece by piece, and counts what left the origin."""

    def __init__(self):
        self.sent = 0
        self._lock = threading.Lock()

    def __call__(self, exchange):
        exchange.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ON_THE_WAY)
        exchange.head(200, {"Content-Length": len(exchange.data), "ETag": exchange.etag})
        for start in range(0, len(exchange.data), PIECE):
            piece = exchange.data[start : start + PIECE]
            exchange.sock.sendall(piece)
            with self._lock:
                self.sent += len(piece)
        return True


@pytest.fixture
def meter():
    return Meter()


def upload(site, meter, sizes, name="large"):
    """Files of such sizes, of which the origin counts each byte."""
    contents = {f"{name}/{number}.bin": bytes([number % 256]) * size for number, size in enumerate(sizes)}
    site.upload_many((key, content, None) for key, content in contents.items())
    for key, content in contents.items():
        site.origin.put(f"/car-erp/{key}", content, meter)


@pytest.mark.nightly
def test_workers_follow_a_limit_and_a_pause_that_are_ordered_while_they_run(make_site, meter):
    site = make_site(CBK_BANDWIDTH="100k", CBK_CONCURRENCY="2")
    site.init()
    upload(site, meter, [2 * MB] * 6)
    site.worker()
    site.beat()
    # By the settings' limit this would take two minutes, and a pause lets nothing new begin.
    wait_until(lambda: meter.sent > 0, 60, site.logs)
    site.cbk("pause", "1h")
    site.cbk("bandwidth", "off")
    begun = 2  # downloads at a time
    wait_until(lambda: list(site.states().values()).count("stored") >= 1 and not site.parts(), 30, site.logs)
    assert list(site.states().values()).count("stored") <= begun
    assert site.status()["paused_until"] is not None
    site.cbk("resume")
    site.wait_protected(6, timeout_seconds=60)


@pytest.fixture
def far_site(servers_folder):
    """A function that makes a site whose workers are on hosts of their own; gives it and two of these."""
    if reason := why_not():
        pytest.skip(f"A LINE THAT SEVERAL HOSTS SHARE IS NOT TESTED: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="cbk-line-"))
    names = [f"{name}_{uuid.uuid4().hex}" for name in ("application", "catalog")]
    with (
        Network() as network,
        NetworkPostgres(servers_folder, network.address(APPLICATION), network.address(CATALOG)) as databases,
        NetworkValkey(servers_folder, network.address(REDIS)) as publisher,
        Origin(host=network.address(OBJECTS)) as origin,
    ):
        for name in names:
            databases.create_database(name)
        site = None

        def make(**settings):
            nonlocal site
            catalog = databases.url(names[1], address=network.address(CATALOG))
            site = Site(
                folder,
                broker_url=publisher.url,
                postgres=databases,
                database=names[0],
                origin=origin,
                CBK_CATALOG_URL=catalog,
                **settings,
            )
            site.init()
            return site, [network.host(), network.host()]

        yield make
        if site is not None:
            site.close()
    shutil.rmtree(folder)


@pytest.mark.nightly
@pytest.mark.parametrize("size", [2 * MB, 50_000])
def test_workers_on_two_hosts_together_keep_within_a_tenth_of_the_limit(far_site, meter, size):
    """Measured for 30 seconds at the origin, once what the connections hold on the way is the same at both ends of that time."""
    site, hosts = far_site(CBK_BANDWIDTH="1M", CBK_CONCURRENCY="4")
    upload(site, meter, [size] * (44 * MB // size))
    workers = [site.worker(host=host, concurrency=4) for host in hosts]
    site.beat(host=hosts[0])
    wait_until(lambda: meter.sent >= 4 * MB, 60, site.logs, every_seconds=0.01)
    began, before = time.monotonic(), meter.sent
    wait_until(lambda: meter.sent >= before + 30 * MB, 90, site.logs, every_seconds=0.01)
    rate = (meter.sent - before) / (time.monotonic() - began)
    print(f"{rate / MB:.3f} MB/s of 1 MB/s")
    assert rate == pytest.approx(MB, rel=0.1)
    assert all("cbk.backup" in worker.log for worker in workers)
