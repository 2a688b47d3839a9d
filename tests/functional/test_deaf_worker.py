"""A worker that hears nothing more from Redis helps itself; nobody starts anything by hand.

Celery's own parts are spoilt as its known failures spoil them: in the file that is the operator's, which each process loads.
"""

import os

import pytest

from local_servers import wait_until

CONFIG = """
from celery import signals
from cbk.cluster.config import kit_config

globals().update(kit_config())
broker_transport_options["health_check_interval"] = 1  # the watchdog's patience is three of them


@signals.worker_ready.connect(weak=False)
def go_deaf(sender, **_):
    {spoil}
"""
# Nothing asks Redis for messages any more, as after a reconnect that lost the callback; connections and timers are in order.
LOSES_ITS_CALLBACK = "sender.hub.call_soon(sender.hub.on_tick.clear)"
# The same again and again: a new connection does not help.
STAYS_DEAF = "sender.timer.call_repeatedly(0.1, sender.hub.on_tick.clear, ())"
# The loop that would have to notice anything stands still, and so would every orderly end.
STANDS_STILL = "sender.hub.call_soon(__import__('threading').Event().wait)"


@pytest.fixture
def deaf_site(make_site):
    def make(spoil):
        site = make_site(CBK_LEASE="1s")
        site.init()
        config = site.folder / "deaf.py"
        config.write_text(CONFIG.format(spoil=spoil))
        site.env["CBK_CELERY_CONFIG"] = str(config)
        return site

    return make


def test_worker_that_asks_redis_for_nothing_connects_again_and_goes_on(deaf_site):
    site = deaf_site(LOSES_ITS_CALLBACK)
    worker = site.worker()
    site.upload("a.txt", b"x")
    site.beat()
    site.wait_protected(1)
    assert worker.is_running()
    assert "the worker connects again" in worker.log


@pytest.mark.parametrize("spoil", [pytest.param(STAYS_DEAF, marks=pytest.mark.nightly), STANDS_STILL])
def test_worker_that_stays_deaf_or_stands_still_ends_so_that_another_one_is_started(deaf_site, spoil):
    site = deaf_site(spoil)
    worker = site.worker()
    site.beat()
    wait_until(lambda: not worker.is_running(), 90, lambda: f"the end of the worker\n{worker.log}")
    assert worker.exit_code == os.EX_TEMPFAIL
