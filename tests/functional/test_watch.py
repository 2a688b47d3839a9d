"""What real workers and beat tell a real receiver and a dead man's switch, and what status, page and metrics say meanwhile."""

from contextlib import closing

import pytest

from cbk.jobs.context import open_context
from cbk.page.app import make_page
from cbk.page.auth import Credentials
from cbk.page.workers import WorkerCounts
from cbk.settings import Settings
from local_servers import wait_until
from tests.integration.test_notify import receiving
from tests.integration.test_watch import switching
from tests.origin import s3_error
from tests.page_server import PAIR

EXPIRED = s3_error(403, "AccessDenied", "Request has expired")


@pytest.fixture
def receiver():
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def switch():
    with switching() as switch:
        yield switch


def page_and_metrics(site):
    """What the web page and its metrics say of a site now."""
    named = {name.removeprefix("CBK_").lower(): value for name, value in site.env.items() if name.startswith("CBK_")}
    context = open_context(Settings(**{name: value for name, value in named.items() if name in Settings.model_fields}))
    with closing(context):
        visitor = make_page(context, Credentials(":".join(PAIR)), WorkerCounts(dict)).test_client()
        return [visitor.get(path, auth=PAIR, base_url="http://127.0.0.1").text for path in ("/", "/metrics")]


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

    def assert_shown(text, kind):
        page, metrics = page_and_metrics(site)
        assert text in problems()
        assert text in page
        assert f'cbk_problem{{kind="{kind}"}} 1.0' in metrics

    looks, fetches = site.worker(queues="poll"), site.worker(queues="backup")
    site.beat()
    site.upload("cars/a.png", b"the first" * 1000)
    wait_until(lambda: "" in switch.paths, 60, site.logs)
    assert site.status()["protected"]

    fetches.kill()
    site.upload("cars/b.png", b"the second")
    wait_told("1 file is pending", "pending")
    assert_shown("1 file is pending", "pending")

    looks.kill()
    site.env["CBK_MIN_FREE_SPACE"] = "1000TB"
    looks = site.worker(queues="poll")
    wait_told("the backup disk is almost full", "disk_full")
    assert_shown("the backup disk is almost full", "disk_full")
    looks.kill()
    del site.env["CBK_MIN_FREE_SPACE"]

    site.worker()
    site.upload("cars/c.png", b"the third")
    site.origin.put("/car-erp/cars/c.png", b"the third", EXPIRED)
    wait_told("1 file is expired", "expired")
    assert_shown("1 file is expired", "expired")

    copy = site.root / "car-erp/cars/a/v1.gzip"
    data = bytearray(copy.read_bytes())
    data[len(data) // 2] ^= 4
    copy.write_bytes(data)
    site.cbk("verify", expect=3)
    wait_told("s3/cars/a.png v1: corrupt", "corrupt")
    assert site.status()["found_bad"] == 1
    page, metrics = page_and_metrics(site)
    assert "1 was ever found bad" in page
    assert "cbk_bad_copies_total 1.0" in metrics
    assert switch.paths[-1] == "/fail"
    assert "sesame" not in site.logs()
