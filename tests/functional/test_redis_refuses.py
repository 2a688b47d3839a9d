"""Redis answers, and refuses: its disk is full, it became a replica, a right was taken away. Nothing has to be started anew."""

import pytest

from local_servers import wait_until
from tests.refusing_valkey import RefusingValkey

REFUSALS = {
    "its disk is full": (RefusingValkey.refuse_writes, RefusingValkey.take_writes, "cannot save to its disk"),
    "it is a replica": (RefusingValkey.become_replica, RefusingValkey.become_primary, "is a replica"),
    "a right is missing": (RefusingValkey.deny_a_command, RefusingValkey.allow_all, "denies the kit's user something"),
}


@pytest.fixture
def broker(servers_folder):
    with RefusingValkey(servers_folder) as server:
        yield server


@pytest.mark.parametrize("refusal", REFUSALS)
def test_worker_and_beat_outlive_an_answer_that_refuses_and_name_it_in_a_line(make_site, broker, refusal):
    refuse, relent, words = REFUSALS[refusal]
    site = make_site(CBK_BROKER_URL=broker.url)
    site.init()
    worker, beat = site.worker(), site.beat()
    site.upload("before.txt", b"before")
    site.wait_protected(1)
    refuse(broker)
    for process in (worker, beat):
        wait_until(lambda process=process: words in process.log, 90, lambda: f"{words!r}\n{site.logs()[-3000:]}")
    relent(broker)
    site.upload("after.txt", b"after")
    site.wait_protected(2)
    assert worker.is_running()
    assert beat.is_running()
    assert "Traceback" not in site.logs()
    assert max(len(process.log) for process in (worker, beat)) < 30_000


def test_worker_that_starts_while_redis_refuses_waits_for_it(make_site, broker):
    site = make_site(CBK_BROKER_URL=broker.url)
    site.init()
    broker.become_replica()
    worker, beat = site.worker(), site.beat()
    wait_until(lambda: "is a replica" in worker.log and "is a replica" in beat.log, 90, lambda: site.logs()[-3000:])
    broker.become_primary()
    site.upload("after.txt", b"after")
    site.wait_protected(1)
    assert worker.is_running()
    assert beat.is_running()
