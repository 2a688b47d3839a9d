"""A worker outlives an outage of Redis, also while it holds unacknowledged messages."""

import pytest

from local_servers import wait_until
from tests.origin import serve, stall


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_worker_outlives_redis_dying_while_a_message_is_unacknowledged(site, valkey, origin, pool):
    site.upload("slow.bin", b"x" * 100_000)
    origin.put("/car-erp/slow.bin", b"x" * 100_000, stall(50_000), serve())
    worker = site.worker(pool=pool, concurrency=2)
    site.beat()
    wait_until(lambda: origin.count("/car-erp/slow.bin") == 1, 90, lambda: f"a download under way\n{site.logs()}")
    valkey.kill()
    wait_until(lambda: "Redis is away" in worker.log or not worker.is_running(), 90, lambda: worker.log)
    valkey.start()
    origin.release()
    site.upload("after.txt", b"after")
    site.wait_protected(2)
    assert worker.is_running()
