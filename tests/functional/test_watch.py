"""What real workers and beat tell a real receiver and a dead man's switch, and what `cbk status` says meanwhile."""

import pytest

from local_servers import wait_until
from tests.integration.test_notify import receiving
from tests.integration.test_watch import switching
from tests.origin import s3_error

EXPIRED = s3_error(403, "AccessDenied", "Request has expired")


@pytest.fixture
def receiver():
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def switch():
    with switching() as switch:
        yield switch


def test_workers_that_stop_a_full_disk_dead_links_and_a_flipped_bit_are_told(make_site, receiver, switch):
    site = make_site(CBK_NOTIFY=receiver.url, CBK_HEARTBEAT_URL=switch.url, CBK_ALERT_AFTER="1s")
    site.init()

    def wait_told(text, kind):
        def told():
            messages = " ".join(f"{message['title']} {message['message']}" for message in receiver.messages)
            return text in messages and any(kind in kinds.split() for path, kinds in switch.calls if path == "/fail")

        wait_until(told, 60, lambda: f"{receiver.messages}\n{switch.calls}\n{site.logs()[-3000:]}")

    def problems():
        return " ".join(problem["message"] for problem in site.status()["problems"])

    looks, fetches = site.worker(queues="poll"), site.worker(queues="backup")
    site.beat()
    site.upload("cars/a.png", b"the first" * 1000)
    wait_until(lambda: "" in switch.paths, 60, site.logs)
    assert site.status()["protected"]

    fetches.kill()
    site.upload("cars/b.png", b"the second")
    wait_told("1 file is pending", "pending")
    assert "1 file is pending" in problems()

    looks.kill()
    site.env["CBK_MIN_FREE_SPACE"] = "1000TB"
    looks = site.worker(queues="poll")
    wait_told("the backup disk is almost full", "disk_full")
    assert "the backup disk is almost full" in problems()
    looks.kill()
    del site.env["CBK_MIN_FREE_SPACE"]

    site.worker()
    site.upload("cars/c.png", b"the third")
    site.origin.put("/car-erp/cars/c.png", b"the third", EXPIRED)
    wait_told("1 file is expired", "expired")
    assert "1 file is expired" in problems()

    copy = site.root / "car-erp/cars/a/v1.gzip"
    data = bytearray(copy.read_bytes())
    data[len(data) // 2] ^= 4
    copy.write_bytes(data)
    site.cbk("verify", expect=3)
    wait_told("s3/cars/a.png v1: corrupt", "corrupt")
    assert site.status()["found_bad"] == 1
    assert switch.paths[-1] == "/fail"
    assert "sesame" not in site.logs()
