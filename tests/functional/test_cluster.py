"""The main job on real parts: rows in PostgreSQL behind a SELECT-only user, real worker and beat processes."""

import gzip
import json
import subprocess
import threading
from hashlib import sha256

import pytest
import redis

from local_servers import wait_until

SECRET = "DEADBEEFSECRET"
BUCKET = "car-erp"


def inflated(path):
    """What `zcat`, not we, reads from a copy."""
    with path.open("rb") as stream:
        return subprocess.run(["zcat"], stdin=stream, capture_output=True, check=True).stdout


def test_upload_becomes_a_verified_copy_at_the_documented_path(site):
    site.upload("cars/id-1/thumbnail.png", b"png bytes")
    site.worker()
    site.beat()
    site.wait_protected(1)
    assert site.copies() == {"car-erp/cars/id-1/thumbnail/v1.gzip"}
    assert inflated(site.root / "car-erp/cars/id-1/thumbnail/v1.gzip") == b"png bytes"
    assert site.cbk("status").stdout.startswith("everything is protected")


@pytest.fixture
def bucket(s3):
    """A bucket on a real S3 server: `put(key, content)` gives a presigned link."""
    name = BUCKET
    client = s3.client()
    client.create_bucket(Bucket=name)

    def put(key, content):
        client.put_object(Bucket=name, Key=key, Body=content)
        return client.generate_presigned_url("get_object", Params={"Bucket": name, "Key": key}, ExpiresIn=3600)

    yield put
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
        if page.get("Contents"):
            client.delete_objects(Bucket=name, Delete={"Objects": [{"Key": item["Key"]} for item in page["Contents"]]})
    client.delete_bucket(Bucket=name)


SPECIAL = {
    "cars/id-1/thumbnail.png": ("car-erp/cars/id-1/thumbnail/v1.gzip", b"seed"),
    "cars/1ff7f0ca-4c2f-4a35-9b6e-3c7a6f5d2b11.png": ("car-erp/cars/1ff7f0ca-4c2f-4a35-9b6e-3c7a6f5d2b11/v1.gzip", b"uuid"),
    "cars/id-1/thumbnail.jpg": ("car-erp/cars/id-1/thumbnail.jpg/v1.gzip", b"collides by its name"),
    "Cars/ID-1/Thumbnail.gif": ("car-erp/Cars/ID-1/Thumbnail.gif/v1.gzip", b"collides where case does not count"),
    "häuser/Łódź/日本語 ✈.txt": ("car-erp/häuser/Łódź/日本語 ✈/v1.gzip", "ünï".encode()),
    "empty.txt": ("car-erp/empty/v1.gzip", b""),
    "no-extension": ("car-erp/no-extension/v1.gzip", b"none"),
    ".gitignore": ("car-erp/.gitignore/v1.gzip", b"dot"),
    "archive.tar.gz": ("car-erp/archive.tar/v1.gzip", gzip.compress(b"packed already")),
    "v1.gzip/inner.txt": ("car-erp/v1%2Egzip/inner/v1.gzip", b"a folder that looks like a copy"),
}


# More rows than a poll reads in one page (1,000), and more versions than there may be messages in flight.
@pytest.mark.parametrize(("rows", "window"), [(1_500, 300), pytest.param(5_000, 1_000, marks=pytest.mark.nightly)])
def test_rows_by_the_thousand_become_copies_under_exactly_the_documented_paths(make_site, bucket, s3, origin, rows, window):
    site = make_site(CBK_ALLOWED_HOSTS=f"{s3.endpoint.removeprefix('http://')},{origin.address}", CBK_DISPATCH_WINDOW=str(window))
    site.init()
    expected = dict(SPECIAL.values())
    for key, (_, content) in SPECIAL.items():
        site.upload(key, content, link=bucket(key, content))
    for number in (1, 2, 3):
        # An unversioned bucket: each upload replaces the object, and every link gives the newest bytes.
        site.upload("contract.pdf", b"v%d" % number, version=number, link=bucket("contract.pdf", b"v%d" % number))
    expected["car-erp/contract/v3.gzip"] = b"v3"
    bulk = {f"bulk/{i // 100}/{i}.bin": (b"%d " % i) * (i % 97) for i in range(rows - len(SPECIAL) - 3)}
    # The bulk comes from the quick origin: filling a real S3 server would take longer than the test.
    site.upload_many((key, content, None) for key, content in bulk.items())
    expected |= {f"car-erp/{key.removesuffix('.bin')}/v1.gzip": content for key, content in bulk.items()}

    site.worker()
    site.beat()
    site.wait_protected(len(expected), timeout_seconds=180)

    assert site.copies() == set(expected)
    assert {path: gzip.decompress((site.root / path).read_bytes()) for path in expected} == expected
    assert {path: inflated(site.root / path) for path, _ in SPECIAL.values()} == dict(SPECIAL.values())
    states = site.states()
    assert [states["contract.pdf", number] for number in (1, 2, 3)] == ["superseded", "superseded", "stored"]
    assert site.parts() == []
    site.cbk("status", expect=0)


def test_everything_is_stored_in_the_end_through_kills_a_flush_and_a_database_restart(make_site, postgres, valkey, origin):
    site = make_site(CBK_LEASE="3s", CBK_DISPATCH_WINDOW="200", CBK_CONCURRENCY="4")
    site.init()
    contents = {f"f/{i}.bin": bytes([i % 251]) * (1000 + i) for i in range(900)}
    site.upload_many((key, content, None) for key, content in contents.items())
    workers, beat = [site.worker(), site.worker()], site.beat()

    def stored(count):
        def explain():
            return f"{count} copies, there are {len(site.copies())}\n{site.logs()[-2000:]}"

        wait_until(lambda: len(site.copies()) >= count, 90, explain, every_seconds=0.3)

    stored(100)
    workers[0].kill()
    workers[0] = site.worker()
    stored(250)
    redis.Redis.from_url(valkey.url).flushall()
    stored(400)
    postgres.restart(immediate=True)
    stored(550)
    beat.kill()
    workers[1].kill()
    site.beat()
    site.wait_protected(len(contents), timeout_seconds=120)

    assert site.copies() == {f"car-erp/{key.removesuffix('.bin')}/v1.gzip" for key in contents}
    for key, content in contents.items():
        assert gzip.decompress((site.root / f"car-erp/{key.removesuffix('.bin')}/v1.gzip").read_bytes()) == content
    wait_until(lambda: site.parts() == [], 90, lambda: f"no part of a dead worker, there are {site.parts()}")


@pytest.mark.nightly  # messages wait for 15 seconds, several times
def test_worker_that_is_busy_leaves_what_waits_to_one_that_is_free_and_does_something_else(make_site, origin):
    site = make_site(CBK_CONCURRENCY="1", CBK_LEASE="10m", CBK_READ_TIMEOUT="10m")
    site.init()
    released = threading.Event()

    def hold(exchange):
        exchange.head(200, {"Content-Length": len(exchange.data), "ETag": exchange.etag})
        released.wait(600)
        exchange.sock.sendall(exchange.data)
        return True

    site.upload("slow.bin", b"slow")
    origin.put("/car-erp/slow.bin", b"slow", hold)
    busy = site.worker()
    site.beat()
    wait_until(lambda: origin.count("/car-erp/slow.bin") == 1, 180, site.logs)
    # As many as it has threads beside: one that would store, and one for everything else.
    waiting = [f"{number}.txt" for number in range(2)]
    for key in waiting:
        site.upload(key, key.encode())
    wait_until(lambda: len(site.states()) == 1 + len(waiting), 180, site.logs)
    site.worker()
    wait_until(lambda: [site.states()[key, 1] for key in waiting] == ["stored"] * len(waiting), 180, site.logs)
    # Beat sends polls and watches, and two workers may share them out so that each gets all of one kind.
    lines = busy.log.count(" info cbk.")
    wait_until(lambda: busy.log.count(" info cbk.") > lines, 180, site.logs)
    assert site.states()["slow.bin", 1] == "pending"
    released.set()
    site.wait_protected(1 + len(waiting))
    assert " warning " not in busy.log


def test_two_beats_and_a_pile_of_polls_do_each_piece_of_work_once(site, origin, valkey):
    for i in range(30):
        site.upload(f"{i}.txt", b"%d" % i)
    site.beat()
    site.beat()
    client = redis.Redis.from_url(valkey.url)
    wait_until(lambda: client.llen("cbk:poll") >= 4, 90, "a pile of polls that no worker takes")
    site.worker(concurrency=8)
    site.worker(concurrency=8)
    site.wait_protected(30)
    assert [origin.count(f"/car-erp/{i}.txt") for i in range(30)] == [1] * 30


def test_object_that_an_origin_breaks_off_is_stored_from_where_it_broke(site, origin):
    from tests.origin import cut, serve  # noqa: PLC0415 - only here

    content = bytes(range(256)) * 4000
    site.upload("big.bin", content)
    origin.put("/car-erp/big.bin", content, cut(500_000), serve())
    site.worker()
    site.beat()
    site.wait_protected(1)
    assert [request.range_start for request in origin.requests("/car-erp/big.bin")] == [None, 500_000]


def test_each_bad_row_has_a_state_and_a_reason_and_blocks_no_other(site, origin):
    from tests.origin import s3_error, status  # noqa: PLC0415 - only here

    site.upload("good.txt", b"good")
    site.upload("bad-hash.txt", b"x", hash_="not a hash")
    site.upload("mismatch.txt", b"x", hash_="00" * 32)
    site.upload("forged.txt", b"x", link="http://127.0.0.1:1/latest/meta-data")
    site.upload("gone.txt", b"x")
    origin.remove("/car-erp/gone.txt")
    site.upload("expired.txt", b"x")
    origin.put("/car-erp/expired.txt", b"x", s3_error(403, "AccessDenied", "Request has expired"))
    site.upload("busy.txt", b"x")
    origin.put("/car-erp/busy.txt", b"x", status(503, retry_after="3600"))
    site.worker()
    site.beat()
    expected = {
        "good.txt": "stored",
        "bad-hash.txt": "declined",
        "mismatch.txt": "mismatch",
        "forged.txt": "declined",
        "gone.txt": "missing",
        "expired.txt": "expired",
        "busy.txt": "failed",
    }
    wait_until(
        lambda: {key: state for (key, _), state in site.states().items()} == expected,
        90,
        lambda: f"{expected}, not {site.states()}",
    )
    assert all(item["reason"] for (key, _), item in site.listed().items() if key != "good.txt")
    assert site.copies() == {"car-erp/good/v1.gzip"}
    wait_until(lambda: site.parts() == [], 90, lambda: f"none is on its way, not {site.parts()}")  # bad ones are tried again
    site.cbk("status", expect=4)


def test_refreshed_link_is_picked_up_by_the_next_poll(site, origin):
    from tests.origin import s3_error  # noqa: PLC0415 - only here

    row = site.upload("a.txt", b"x", object_path="/car-erp/old")
    origin.put("/car-erp/old", b"x", s3_error(403, "AccessDenied", "Request has expired"))
    site.worker()
    site.beat()
    wait_until(lambda: site.states() == {("a.txt", 1): "expired"}, 90, lambda: f"expired, not {site.states()}")
    origin.put("/car-erp/new", b"x")
    site.sql('UPDATE "ObjectStorageFiles" SET "SignedDownloadUrl" = :link WHERE "Id" = :id', link=site.link("/car-erp/new"), id=row)
    site.wait_protected(1)


def test_database_user_may_only_select(site):
    with pytest.raises(Exception, match="permission denied"):
        # Neither the session's nor the role's own wish to be read-only counts here: only the grants do.
        site.as_reader("""SET TRANSACTION READ WRITE; INSERT INTO "ObjectStorageDeleteLog" ("FileId") VALUES (1)""")


def test_celery_call_resyncs_a_copy_that_was_lost(site):
    site.upload("cars/id-1/thumbnail.png", b"png bytes")
    site.worker()
    site.beat()
    site.wait_protected(1)
    copy = site.root / "car-erp/cars/id-1/thumbnail/v1.gzip"
    copy.unlink()
    site.celery("call", "cbk.resync", "--kwargs", json.dumps({"storage": "s3", "key": "cars/id-1/thumbnail.png"}))
    wait_until(copy.exists, 90, lambda: f"the copy is back\n{site.logs()[-2000:]}")
    assert inflated(copy) == b"png bytes"


def test_worker_stores_nothing_where_the_disk_is_not_mounted_and_goes_on_when_it_is(make_site, postgres, pg_database):
    site = make_site(CBK_CATALOG_URL=postgres.url(pg_database))
    site.init()
    site.root.rename(site.folder / "unmounted")
    site.root.mkdir()
    site.upload("a.txt", b"x")
    worker = site.worker()
    site.beat()
    wait_until(lambda: "RootMissing" in worker.log, 90, lambda: f"a complaint about the disk\n{worker.log}")
    assert list(site.root.rglob("*")) == []
    site.root.rmdir()
    (site.folder / "unmounted").rename(site.root)
    site.wait_protected(1)


def test_no_secret_reaches_redis_or_a_log(site, valkey, origin):
    for i in range(20):
        site.upload(f"{i}.txt", b"%d" % i)
    site.upload("refused.txt", b"x", link=f"http://127.0.0.1:1/x?X-Amz-Signature={SECRET}")
    origin.put("/car-erp/5.txt", b"other bytes")
    client = redis.Redis.from_url(valkey.url, socket_timeout=None)  # idle workers are silent for a while
    with client.monitor() as monitor:
        commands = monitor.listen()
        site.worker(loglevel="debug")
        site.beat()
        seen = []
        wait_until(
            lambda: (seen.append(next(commands)["command"]) or "5.txt" in "".join(seen)) and len(seen) > 400, 90, "traffic to Redis"
        )
    assert "cbk.backup" in "".join(seen)
    assert "s3/5.txt v1" in "".join(seen)
    assert SECRET not in "".join(seen)
    wait_until(lambda: "LinkForbidden" in site.logs() and "HashMismatch" in site.logs(), 90, "both failures in the log")
    assert SECRET not in site.logs()
    assert "Traceback" not in site.logs()


def test_sha256_of_every_copy_is_that_of_its_row(site):
    contents = {f"{i}.bin": bytes([i]) * 100_000 for i in range(20)}
    for key, content in contents.items():
        site.upload(key, content)
    site.worker()
    site.beat()
    site.wait_protected(len(contents))
    listed = {key: item for (key, _), item in site.listed().items()}
    assert {key: item["sha256"] for key, item in listed.items()} == {
        key: sha256(content).hexdigest() for key, content in contents.items()
    }
    assert all(item["stored_size"] == (site.root / item["location"]).stat().st_size for item in listed.values())
