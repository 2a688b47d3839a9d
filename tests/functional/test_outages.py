"""Real processes behind lines that fail: when these are back, the work goes on, and nobody has started anything by hand."""

import pytest
import redis

from local_servers import wait_until
from tests.faults.proxy import Proxy

# Kombu gives a silent connection up after two of these, the watchdog after three.
CONFIG = """
from cbk.cluster.config import kit_config

globals().update(kit_config())
broker_transport_options.update(health_check_interval=1, socket_timeout=2, socket_connect_timeout=2)
"""


pytestmark = pytest.mark.nightly


@pytest.fixture
def redis_line(valkey):
    with Proxy(valkey.port) as proxy:
        yield proxy


@pytest.fixture
def database_line(postgres):
    with Proxy(postgres.port) as proxy:
        yield proxy


@pytest.fixture
def site(make_site, broker_url, redis_line, postgres, database_line):
    """A worker and a beat that reach Redis and the application's database by lines of the test's."""
    site = make_site(CBK_LEASE="2s", CBK_STATEMENT_TIMEOUT="1s", CBK_CONNECT_TIMEOUT="2s")
    config = site.folder / "impatient.py"
    config.write_text(CONFIG)
    site.env |= {
        "CBK_CELERY_CONFIG": str(config),
        "CBK_BROKER_URL": broker_url.replace(str(redis_line.target), str(redis_line.port)),
        "CBK_SOURCE_URL": site.env["CBK_SOURCE_URL"].replace(str(postgres.port), str(database_line.port)),
    }
    site.init()
    site.worker()
    site.beat()
    site.upload("before.txt", b"before")
    site.wait_protected(1)
    return site


def still_works(site, files):
    """Files that come now are stored, by the processes that there were."""
    site.upload(f"{files}.txt", b"%d" % files)
    site.wait_protected(files)
    assert all(process.is_running() for process in site.processes)


def test_work_goes_on_after_each_trouble_with_redis(site, redis_line, valkey):
    troubles = [
        redis_line.lose,  # half-open: whoever waits for a message waits for ever
        redis_line.reset,
        lambda: (redis_line.stall(), is_noticed(site, "dropping stale connection"), redis_line.go_on()),
        lambda: (redis_line.cut(), is_noticed(site, "Cannot connect to"), redis_line.mend()),
        lambda: redis_line.slow(0.02, bytes_per_second=200_000),
        lambda: valkey.restart(immediate=True),  # it keeps nothing
        lambda: redis.Redis.from_url(valkey.url).flushall(),
    ]
    for number, trouble in enumerate(troubles):
        site.upload(f"during-{number}.txt", b"during")
        trouble()
        still_works(site, 3 + number * 2)


def is_noticed(site, words):
    seen = site.logs().count(words)
    wait_until(lambda: site.logs().count(words) > seen, 90, lambda: f"{words}\n{site.logs()[-2000:]}")


def test_work_goes_on_after_each_trouble_with_the_applications_database(site, database_line, postgres):
    troubles = [
        database_line.lose,
        database_line.reset,
        lambda: (database_line.stall(), is_noticed(site, "SourceUnavailable"), database_line.go_on()),
        lambda: (database_line.cut(), is_noticed(site, "SourceUnavailable"), database_line.mend()),
        lambda: database_line.slow(0.01),
    ]
    for number, trouble in enumerate(troubles):
        trouble()
        still_works(site, 2 + number)
