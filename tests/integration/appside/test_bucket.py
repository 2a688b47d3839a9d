"""A bucket that the rows do not tell all about, from the inventory that says so to the import after which all is well."""

import hashlib
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
import sqlalchemy as sa
import urllib3

from cbk.jobs.admin.init import initialise
from cbk.jobs.backup.backup import back_up_together
from cbk.jobs.status.status import gather_status
from cbk.rules.status.health import Kind
from cbk_app.links import LinkApp, Links, new_secret
from cbk_app.main import main
from cbk_app.recorder import Recorder
from cbk_app.schema import FILES
from local_servers import wait_until
from tests.in_process_site import InProcessSite

WITHOUT_ROW, WITHOUT_OBJECT, OF_OTHER_SIZE = 300, 50, 20
MEMORY_LIMIT_KIB = 150 * 1024
BATCH = 32
IMPORT_SECONDS = 600  # a busy machine lists 10,000 objects slowly

# Amazon's links are dated to the second: one of a single second may be dead at once.
SHORT = (5, 5)
MINUTE_AND_THREE_OFF = (60, 180)


class BucketSite(InProcessSite):
    """A site whose application's tables are somebody else's to make."""

    def prepare(self):
        list(initialise(self.context))

    def work(self):
        """Poll, and do what was sent, in batches as workers do, until nothing is sent any more."""
        while self.poll() and (sent := self.publisher.take()):
            for start in range(0, len(sent), BATCH):
                back_up_together(self.context, sent[start : start + BATCH])


@pytest.fixture
def bucket_site(tmp_path, origin, engine, s3):
    source = engine.url.render_as_string(hide_password=False)
    address = s3.endpoint.partition("://")[2]
    site = BucketSite(tmp_path, origin, source_url=source, allowed_hosts=address)
    yield site
    site.close()


@pytest.fixture
def application(environment, monkeypatch, engine, bucket):
    """A function that runs a command of cbk-app on the bucket; gives its exit code."""
    monkeypatch.setenv("CBKAPP_DATABASE_URL", engine.url.render_as_string(hide_password=False))
    return lambda name, *more: main([name, f"s3://{bucket}", "--storage", "s3", "--signed-for", "7d", *more])


def put_all(s3, bucket, objects):
    client = s3.client()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: client.put_object(Bucket=bucket, Key=item[0], Body=item[1]), objects.items()))


def record_all(engine, store, objects):
    """Rows of these objects, as the application wrote them when it uploaded each."""
    values = [
        {
            "Storage": "s3",
            "Path": "",
            "Name": key,
            "Version": 1,
            "Hash": hashlib.sha256(content).hexdigest(),
            "SignedDownloadUrl": store.sign(key, 7 * 86400),
        }
        for key, content in objects.items()
    ]
    with engine.begin() as connection:
        connection.execute(sa.insert(FILES), values)


def inventory_problems(site):
    kinds = (Kind.UNRECORDED, Kind.ABSENT, Kind.OTHER_SIZE)
    return {each.kind: each.message.split()[0] for each in gather_status(site.context).problems if each.kind in kinds}


def peak_memory_kib(process_id):
    """The most memory that a process had resident at a time."""
    status = Path(f"/proc/{process_id}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))


def import_killed(bucket, rows):
    """An import that is killed once it has written something; gives its peak memory."""
    arguments = [sys.executable, "-m", "cbk_app", "import", f"s3://{bucket}", "--storage", "s3", "--signed-for", "7d"]
    before = rows()
    running = subprocess.Popen([*arguments, "--bandwidth", "300"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: rows() > before or running.poll() is not None, IMPORT_SECONDS, "rows")
        assert running.poll() is None, "it ended before it could be killed"
        return peak_memory_kib(running.pid)
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
@pytest.mark.parametrize("total", [400, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_bucket_is_red_with_what_differs_and_green_after_an_import_that_was_killed_three_times(
    bucket_site, application, engine, bucket, store, s3, total
):
    site = bucket_site
    objects = {f"objects/{number:05}": b"object %d" % number for number in range(total)}
    keys = list(objects)
    known = {key: objects[key] for key in keys[WITHOUT_ROW:]}
    lost = {f"lost/{number:02}": b"lost %d" % number for number in range(WITHOUT_OBJECT)}
    other = dict.fromkeys(keys[WITHOUT_ROW : WITHOUT_ROW + OF_OTHER_SIZE], b"it is longer now")
    put_all(s3, bucket, objects | lost)
    record_all(engine, store, known | lost)
    site.work()
    assert set(site.states().values()) == {"stored"}
    put_all(s3, bucket, other)
    for key in lost:
        s3.client().delete_object(Bucket=bucket, Key=key)

    assert application("inventory") == 0
    site.work()
    site.poll()
    assert inventory_problems(site) == {
        Kind.UNRECORDED: str(WITHOUT_ROW),
        Kind.ABSENT: str(WITHOUT_OBJECT),
        Kind.OTHER_SIZE: str(OF_OTHER_SIZE),
    }

    def rows():
        with engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(FILES))

    peaks = [import_killed(bucket, rows) for _ in range(3)]
    assert application("import") == 0
    with engine.begin() as connection:
        for key in lost:
            Recorder(storage="s3").record_delete(connection, key)
        named = connection.execute(sa.select(FILES.c.Path + FILES.c.Name, FILES.c.Version)).all()
    imported = sorted((key, version) for key, version in named if key.startswith("objects/"))
    assert imported == sorted([(key, 1) for key in keys] + [(key, 2) for key in other])
    assert max(peaks) < MEMORY_LIMIT_KIB
    assert application("inventory") == 0
    site.work()
    site.poll()
    assert inventory_problems(site) == {}
    assert gather_status(site.context).counts.protected == gather_status(site.context).counts.files


@pytest.fixture
def signing_app(s3, bucket, store, link_seconds):
    """The application's permanent links on a port of their own, which sign S3's links for so long; with these links."""
    with make_server("127.0.0.1", 0, None, handler_class=_Quiet) as server:
        address = f"127.0.0.1:{server.server_port}"
        links = Links(f"http://{address}/cbk-links", secrets=[new_secret()])
        server.set_app(LinkApp(_BelowRoot(links), {"s3": store}, link_seconds=link_seconds))
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield address, links
        server.shutdown()
        thread.join()


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


class _BelowRoot:
    """Links whose application is not mounted, but has the whole address."""

    def __init__(self, links):
        self._links = links

    def read(self, path):
        return self._links.read(path.removeprefix("/cbk-links"))


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
@pytest.mark.parametrize(("link_seconds", "off_seconds"), [SHORT, pytest.param(*MINUTE_AND_THREE_OFF, marks=pytest.mark.nightly)])
def test_links_that_die_while_the_kit_is_off_are_no_loss(
    tmp_path, origin, engine, s3, bucket, store, signing_app, link_seconds, off_seconds
):
    address, links = signing_app
    began = time.monotonic()
    objects = {f"many/{number:02}": b"object %d" % number for number in range(20)}
    put_all(s3, bucket, objects)
    recorder = Recorder(storage="s3", link=links.for_storage("s3"))
    with engine.begin() as connection:
        for key, content in objects.items():
            recorder.record_upload(connection, key, content)
    given_out = store.sign("many/00", link_seconds)
    http = urllib3.PoolManager()
    patience = 60 + link_seconds + off_seconds
    wait_until(lambda: http.request("GET", given_out).status == 403, patience, "the end of a link that was signed with the rows")
    wait_until(lambda: time.monotonic() > began + off_seconds, patience, "the kit to be switched on again")
    source = engine.url.render_as_string(hide_password=False)
    allowed = f"{address},{s3.endpoint.partition('://')[2]}"
    site = BucketSite(tmp_path, origin, source_url=source, allowed_hosts=allowed)
    try:
        site.work()
        status = gather_status(site.context)
        assert (status.counts.protected, status.counts.files, status.refresh.count) == (20, 20, 0)
    finally:
        site.close()
