"""Whoever can write into Redis wastes time, and no more: the worker goes on, nothing is lost, nothing is pruned."""

import base64
import json
import pickle
import zlib
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from local_servers import wait_until

QUEUES = ("poll", "backup", "prune", "verify", "dump", "mirror")
MEGABYTES = 1024 * 1024
LARGE = "x" * (10 * MEGABYTES)
DEEP = "[" * 100_000 + "]" * 100_000
BOMB = base64.b64encode(zlib.compress(b"[" + b" " * (500 * MEGABYTES) + b"]", 9)).decode()


def message(task="cbk.backup", args=(), kwargs=None, *, body=None, headers=None, properties=None, **envelope):
    """A task message as Celery sends it (protocol 2), but for what is given."""
    task_id = str(uuid4())
    if body is None:
        body = base64.b64encode(json.dumps([list(args), kwargs or {}, {}]).encode()).decode()
    head = {"lang": "py", "task": task, "id": task_id, "root_id": task_id, "argsrepr": "()", "kwargsrepr": "{}"}
    props = {
        "correlation_id": task_id,
        "delivery_info": {"exchange": "", "routing_key": "backup"},
        "body_encoding": "base64",
        "delivery_tag": str(uuid4()),
    }
    plain = {"content-encoding": "utf-8", "content-type": "application/json"}
    return json.dumps(
        {"body": body, "headers": head | (headers or {}), "properties": props | (properties or {})} | plain | envelope
    )


def without(part, *names):
    """A message of which these names are missing in a part, or the part itself."""
    whole = json.loads(message(args=["1"]))
    if not names:
        del whole[part]
    for name in names:
        del whole[part][name]
    return json.dumps(whole)


def pickled(value):
    return base64.b64encode(pickle.dumps(value)).decode()


class Touch:
    """What makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


NO_MESSAGES = [
    "",
    "null",
    "[]",
    "17",
    '"text"',
    "{",
    "\\",
    b"\xff\xfe\x00",
    "{}",
    DEEP,
    '{"properties": []}',
    json.dumps({"body": LARGE}),
]
TASKS = ["cbk.unknown", "os.system", "celery.backend_cleanup", "", None, 17, ["cbk.backup"], {"cbk": "backup"}, LARGE]
ARGUMENTS = [
    ["999999999"],
    [LARGE],
    [None],
    [[]],
    [{"a": {"b": 1}}],
    [-1],
    [2**70],
    [1.5],
    [True],
    ["\ud800\0"],
    [],
    ["1", "2", "3"],
    ["'; DROP TABLE versions; --"],
]
HEADERS = [
    {"eta": "9999-12-31T23:59:59+00:00"},
    {"eta": "0001-01-01T00:00:00"},
    {"eta": "soon"},
    {"eta": 17},
    {"expires": "yesterday"},
    {"expires": [1]},
    {"expires": "1999-01-01T00:00:00"},
    {"retries": "many"},
    {"retries": 10**9},
    {"timelimit": "none"},
    {"timelimit": [-1, -1]},
    {"id": None},
    {"id": ["x"]},
    {"argsrepr": LARGE},
    {"argsrepr": ["x"]},
    {"group": {"x": 1}},
    {"stamped_headers": 17},
    {"compression": "zlib"},
    {"compression": "nonsense"},
]
PROPERTIES = [
    {"delivery_tag": None},
    {"delivery_tag": ["x"]},
    {"delivery_tag": LARGE},
    {"delivery_info": None},
    {"delivery_info": "x"},
    {"body_encoding": "rot13"},
    {"body_encoding": ["x"]},
    {"reply_to": LARGE, "correlation_id": ["x"]},
    {"priority": "high"},
]


def forgeries(path):
    """Messages that nobody of the kit sent; one of them would make a file at `path`."""
    yield from NO_MESSAGES
    yield from (message(task, ["1"]) for task in TASKS)
    for task in ("cbk.backup", "cbk.backup_batch", "cbk.prune", "cbk.resync", "cbk.verify", "cbk.poll", "cbk.drill", "cbk.dump"):
        yield message(task, kwargs={"nonsense": 1})
        yield from (message(task, args) for args in ARGUMENTS)
    yield from (message("cbk.prune", kwargs={"version_id": number}) for number in (0, -1, 2**63, 2**70, "1", None, [1]))
    yield message("cbk.backup_batch", [[str(number) for number in range(100_000)]])
    yield message("cbk.backup_batch", [[LARGE, "1"]])
    yield message("cbk.verify", kwargs={"prefix": LARGE})
    yield from (message(args=["1"], headers=headers) for headers in HEADERS)
    yield message(body=BOMB, headers={"compression": "zlib"})
    yield from (message(args=["1"], properties=properties) for properties in PROPERTIES)
    yield from (without(part) for part in ("body", "headers", "properties", "content-type", "content-encoding"))
    yield from (without("headers", name) for name in ("task", "id", "lang"))
    yield without("headers", "task", "id")
    yield from (without("properties", name) for name in ("delivery_tag", "delivery_info", "body_encoding", "correlation_id"))
    for body in ("no base64!", "", None, 17, [], base64.b64encode(DEEP.encode()).decode(), base64.b64encode(b"[1, 2]").decode()):
        yield message(body=body) if body is not None else json.dumps(json.loads(message()) | {"body": None})
    for kind in ("application/x-python-serialize", "pickle", "application/data"):
        yield message(body=pickled(Touch(str(path))), **{"content-type": kind, "content-encoding": "binary"})
    yaml = f"!!python/object/apply:builtins.open ['{path}', 'w']"
    yield message(body=base64.b64encode(yaml.encode()).decode(), **{"content-type": "application/x-yaml"})
    yield message(args=["1"], **{"content-encoding": "nonsense"})


def broadcasts():
    """What may come on the line of remote control."""
    yield from NO_MESSAGES
    for body in (
        {},
        {"method": "nonsense"},
        {"method": ["x"]},
        {"method": "rate_limit", "arguments": 17},
        {"method": "pool_grow"},
        [],
    ):
        whole = json.loads(message(body=base64.b64encode(json.dumps(body).encode()).decode()))
        yield json.dumps(whole | {"headers": {"clock": 1, "expires": 1e300}})


def resident_megabytes(pid):
    with Path(f"/proc/{pid}/status").open() as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) // 1024


def wait_until_taken(client, worker):
    wait_until(lambda: not any(client.llen(f"cbk:{queue}") for queue in QUEUES), 90, lambda: f"empty queues\n{worker.log[-3000:]}")


@pytest.fixture
def client(valkey):
    with redis.Redis.from_url(valkey.url) as client:
        yield client


def test_forged_messages_and_broadcasts_do_no_harm(site, client):
    kept = site.upload("kept.txt", b"kept")
    worker = site.worker(concurrency=4)
    beat = site.beat()
    site.wait_protected(1)
    site.sql('INSERT INTO "ObjectStorageDeleteLog" ("FileId") VALUES (:row)', row=kept)
    wait_until(lambda: site.catalog_removals() == 1, 90, "the delete to be seen")
    beat.kill()

    for channel in client.pubsub_channels():
        for forged in broadcasts():
            client.publish(channel, forged)
    file = site.folder / "made-by-a-message"
    for number, forged in enumerate(forgeries(file)):
        # Any queue may bring anything.
        client.lpush(f"cbk:{QUEUES[number % len(QUEUES)]}", forged)
    for delete_id in ("1", 1):
        client.lpush("cbk:prune", message("cbk.prune", [delete_id]))  # its grace has just begun
    wait_until_taken(client, worker)
    memory = resident_megabytes(worker.pid)
    for _ in range(30):
        client.lpush("cbk:backup", message(args=[LARGE]))
    wait_until_taken(client, worker)

    assert worker.is_running()
    assert not file.exists()
    assert site.copies() == {"car-erp/kept/v1.gzip"}
    site.upload("after.txt", b"after")
    site.beat()
    wait_until(lambda: len(site.copies()) == 2, 90, lambda: f"a file that is stored afterwards\n{worker.log[-3000:]}")
    assert resident_megabytes(worker.pid) < memory + 100
    assert len(worker.log) < 2 * MEGABYTES


def test_forged_messages_that_others_left_do_not_keep_a_worker_from_starting(site, client):
    client.hset("cbk:unacked", mapping={"1": "no JSON", "2": "[1, 2, 3]", "3": DEEP})
    client.zadd("cbk:unacked_index", {"1": 1, "2": 2, "3": 3, "4": 4})
    site.upload("a.txt", b"a")
    site.worker()
    site.beat()
    site.wait_protected(1)
