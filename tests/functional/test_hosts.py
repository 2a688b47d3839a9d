"""Several hosts, one backup folder: whatever becomes of a host, its cables or its clock, every version is stored once and right."""

import gzip
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from cbk.edges.catalog.database.schema import files, removals, versions
from local_servers import wait_until
from tests.functional.network import Network, NetworkPostgres, NetworkValkey, why_not
from tests.functional.site import REPOSITORY, Site
from tests.origin import Origin, serve, stall

BUCKET = "car-erp"
LEASE = 3
GRACE = 6
REDIS, APPLICATION, CATALOG, OBJECTS = 1, 2, 3, 4


@pytest.fixture(scope="module")
def network():
    if reason := why_not():
        pytest.skip(f"SEVERAL HOSTS ARE NOT TESTED: {reason}")
    with Network() as network:
        yield network


@pytest.fixture(scope="module")
def databases(network, servers_folder):
    with NetworkPostgres(servers_folder, network.address(APPLICATION), network.address(CATALOG)) as server:
        yield server


@pytest.fixture(scope="module")
def publisher(network, servers_folder):
    with NetworkValkey(servers_folder, network.address(REDIS)) as server:
        yield server


@pytest.fixture
def origin(network):
    with Origin(host=network.address(OBJECTS)) as origin:
        yield origin


def turned(library, off):
    """The environment of a host whose clock is so much off."""
    return {
        "LD_PRELOAD": library,
        "FAKETIME": off,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_FORCE_MONOTONIC_FIX": "0",
    }


class Hosts:
    """A site with several hosts: a worker on each, and the beats of two."""

    def __init__(self, site, network):
        self.site = site
        self.contents = {}
        self.hosts = [network.host() for _ in range(3)]
        self.network = network
        self._with_beat = []

    def start(self):
        for host in self.hosts:
            host.worker = self.site.worker(host=host, concurrency=4)
        for host in self.hosts[:2]:  # the second by mistake
            self.start_beat(host)

    def start_beat(self, host):
        """Unless it has one already."""
        if host not in self._with_beat:
            self.site.beat(host=host)
            self._with_beat.append(host)

    def upload(self, count, name):
        contents = {f"{name}/{i}.bin": f"{name} {i} ".encode() * (i % 50) for i in range(count)}
        self.contents |= contents
        self.site.upload_many((key, content, None) for key, content in contents.items())

    def upload_slow(self, key):
        """Gives the host that is in the middle of fetching it; whoever asks for it once more gets it."""
        self.contents[key] = content = key.encode() * 20_000
        self.site.upload(key, content)
        path = f"/{BUCKET}/{key}"
        self.site.origin.put(path, content, stall(50_000), serve())
        wait_until(lambda: self.site.origin.count(path) == 1, 60, lambda: f"a download under way\n{self.site.logs()[-3000:]}")
        return self.holding(key)

    def holding(self, key):
        """The host whose worker has claimed the file."""
        query = sa.select(versions.c.holder).join_from(versions, files).where(files.c.key == key)
        with self.site.catalog() as catalog, catalog.database.reading() as connection:
            holder = connection.scalar(query)
        return next(host for host in self.hosts if f"-{host.worker.pid}-" in holder)

    def wait_stored(self, key):
        wait_until(
            lambda: self.site.states().get((key, 1)) == "stored", 60, lambda: f"{key} to be stored\n{self.site.logs()[-5000:]}"
        )

    def wait_outrun(self, host, key):
        """Wait until it notices that another one has taken its work over."""
        said = f"args=\"('s3/{key} v1',)\" error=LeaseLost"
        wait_until(lambda: said in host.worker.log, 60, lambda: f"{said}\n{host.worker.log[-3000:]}")

    def lies_there(self, key):
        """Which file the copy is, and how old."""
        status = (self.site.root / BUCKET / key.removesuffix(".bin") / "v1.gzip").stat()
        return status.st_ino, status.st_mtime_ns

    def others(self, *hosts):
        return [host for host in self.hosts if host not in hosts]

    def all_is_well(self):
        site = self.site
        site.wait_protected(len(self.contents))
        states = site.states()
        assert {key for (key, _), state in states.items() if state == "stored"} == set(self.contents)
        assert set(states.values()) <= {"stored", "pruned"}
        expected = {f"{BUCKET}/{key.removesuffix('.bin')}/v1.gzip": content for key, content in self.contents.items()}
        assert site.copies() == set(expected)
        assert {path: gzip.decompress((site.root / path).read_bytes()) for path in expected} == expected
        wait_until(lambda: site.parts() == [], 60, lambda: f"no file in arrival, there are {site.parts()}")
        assert list((site.root / ".cbk" / "quarantine").iterdir()) == []

    def close(self):
        for host in self.hosts:
            host.close()


@pytest.fixture
def hosts(network, databases, publisher, origin):
    folder = Path(tempfile.mkdtemp(prefix="cbk-hosts-"))
    application, catalog = (f"{name}_{uuid.uuid4().hex}" for name in ("application", "catalog"))
    for name in (application, catalog):
        databases.create_database(name)
    site = Site(
        folder,
        broker_url=publisher.url,
        postgres=databases,
        database=application,
        origin=origin,
        CBK_CATALOG_URL=f"{databases.url(catalog, address=network.address(CATALOG))}?sslmode=disable",
        CBK_DATABASE_TLS="off",
        CBK_LEASE=f"{LEASE}s",
        CBK_GRACE_PERIOD=f"{GRACE}s",
        CBK_BRAKE_FILES="1000",
        CBK_CONNECT_TIMEOUT="2s",
        CBK_READ_TIMEOUT="3s",
        CBK_CONCURRENCY="4",
    )
    site.init()
    hosts = Hosts(site, network)
    yield hosts
    site.close()
    hosts.close()
    for name in (application, catalog):
        databases.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    shutil.rmtree(folder)


def test_every_version_is_stored_once_while_a_host_dies_one_sleeps_and_one_is_cut_off(hosts):
    hosts.upload(60, "before")
    hosts.start()
    dead = hosts.upload_slow("dead.bin")
    dead.die()
    hosts.hosts.remove(dead)
    hosts.upload(40, "dead")
    hosts.wait_stored("dead.bin")

    asleep = hosts.upload_slow("asleep.bin")
    os.killpg(asleep.worker.pid, signal.SIGSTOP)
    hosts.upload(40, "asleep")
    hosts.wait_stored("asleep.bin")
    stored = hosts.lies_there("asleep.bin")
    os.killpg(asleep.worker.pid, signal.SIGCONT)
    hosts.wait_outrun(asleep, "asleep.bin")

    cut = hosts.upload_slow("cut.bin")
    hosts.start_beat(*hosts.others(cut))  # the one that is cut off may have the only beat that is left
    cut.cut_off(*map(hosts.network.address, (REDIS, CATALOG)))
    hosts.upload(40, "cut")
    hosts.wait_stored("cut.bin")
    cut.reconnect(*map(hosts.network.address, (REDIS, CATALOG)))

    hosts.all_is_well()
    assert hosts.lies_there("asleep.bin") == stored


@pytest.mark.nightly
@pytest.mark.parametrize("services", [[REDIS], [CATALOG], [APPLICATION], [OBJECTS], [REDIS, APPLICATION, CATALOG, OBJECTS]])
def test_host_that_is_cut_off_is_done_without_and_works_again_when_it_is_back(hosts, services):
    addresses = [hosts.network.address(service) for service in services]
    hosts.start()
    alone = hosts.upload_slow("slow.bin")
    alone.cut_off(*addresses)
    hosts.upload(300, "without")
    hosts.all_is_well()
    alone.reconnect(*addresses)
    # From now on there is no other.
    for host in hosts.others(alone):
        host.die()
    hosts.start_beat(alone)
    hosts.upload(50, "alone")
    hosts.all_is_well()
    print(alone.worker.log)


@pytest.mark.nightly
@pytest.mark.parametrize("off", ["-7m", "+7m"])
def test_beat_with_a_clock_that_is_minutes_off_keeps_the_others_busy(hosts, libfaketime, off):
    site, (wrong, right, _) = hosts.site, hosts.hosts
    wrong.env = turned(libfaketime, off)
    site.beat(host=wrong)
    right.worker = site.worker(host=right)
    hosts.upload(3, "first")
    hosts.all_is_well()


@pytest.mark.nightly
def test_deletes_go_once_and_never_early_where_hosts_are_cut_off_and_one_has_a_wrong_clock(hosts, libfaketime):
    site, (wrong, cut, _) = hosts.site, hosts.hosts
    wrong.env = turned(libfaketime, "+7m")
    hosts.upload(60, "kept")
    hosts.upload(60, "deleted")
    hosts.start()
    hosts.all_is_well()
    site.sql("""INSERT INTO "ObjectStorageDeleteLog" ("FileId")
                SELECT "Id" FROM "ObjectStorageFiles" WHERE "Path" LIKE 'deleted/%'""")
    hosts.contents = {key: content for key, content in hosts.contents.items() if not key.startswith("deleted/")}
    for addresses in ([hosts.network.address(REDIS)], [hosts.network.address(CATALOG)]):
        cut.cut_off(*addresses)
        polls = site.logs().count("cbk.poll polled")
        wait_until(lambda: site.logs().count("cbk.poll polled") > polls + 3, 60, lambda: f"polls\n{site.logs()[-3000:]}")  # noqa: B023
        cut.reconnect(*addresses)
    wait_until(lambda: not any("/deleted/" in copy for copy in site.copies()), 120, lambda: f"deletes\n{site.logs()[-3000:]}")
    hosts.all_is_well()
    with site.catalog() as catalog, catalog.database.reading() as connection:
        ended = connection.execute(sa.select(removals)).all()
    assert len(ended) == 60
    assert all(removal.closed_at - removal.first_seen_at >= timedelta(seconds=GRACE) for removal in ended)


# Takes the lease of the poll and falls silent before the transaction ends: as close to its end as a host can die.
HALF_A_TRANSACTION = """
import signal, sys, sqlalchemy as sa
from datetime import timedelta
from cbk.edges.catalog.database.schema import leases
from cbk.jobs.context import open_context
from cbk.settings import load_settings
database = open_context(load_settings()).catalog.database
with database.writing() as connection:
    connection.execute(sa.insert(leases).values(name="poll", holder="dead", until=database.later_sql(timedelta(seconds=1))))
    print("in it", flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("how", ["dies", pytest.param("sleeps", marks=pytest.mark.nightly)])
def test_host_that_falls_silent_in_the_middle_of_a_transaction_stops_nobody(hosts, how):
    site, (silent, other, _) = hosts.site, hosts.hosts
    process = subprocess.Popen(
        [*silent.enter, sys.executable, "-c", HALF_A_TRANSACTION], env=site.env, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "in it\n"
        if how == "dies":
            silent.unplug()
            process.kill()
        else:
            process.send_signal(signal.SIGSTOP)
        hosts.upload(1, "after")
        site.worker(host=other)
        site.beat(host=other)
        hosts.all_is_well()
    finally:
        process.kill()
        process.communicate()
