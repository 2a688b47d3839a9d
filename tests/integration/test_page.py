"""The page and the metrics as a browser and as Prometheus get them, without a server: the WSGI application itself."""

import base64
import gzip
import re
from datetime import timedelta
from hashlib import md5, sha256
from html import unescape
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from cbk.edges.catalog.database.schema import samples
from cbk.errors import BrokerUnavailable
from cbk.jobs.backup.overrides import pause
from cbk.jobs.intake.rows import record_rows
from cbk.page.app import DOWNLOADS, ENTRIES_PER_PAGE, make_page
from cbk.page.auth import Credentials
from cbk.page.workers import WorkerCounts
from cbk.rules.status.health import HINTS, Kind
from cbk.rules.status.samples import Sample
from tests.origin import status

PAIR = "admin:dösé:x"
TOKEN = "token-of-the-metrics"
HOSTILE = "cars/<script>alert(1)</script>&'\"ünï 日本\x1b[31m\u202egnp.exe"


class Visitor:
    """Somebody with the password; `workers` is what the workers would say."""

    def __init__(self, site):
        self.workers = {}
        self.worker_counts = WorkerCounts(self._ask)
        self.page = make_page(site.context, Credentials(PAIR, TOKEN), self.worker_counts)
        self.client = self.page.test_client()

    def _ask(self):
        if self.workers is None:
            raise BrokerUnavailable("away")
        return self.workers

    def get(self, path, method="GET", **headers):
        known = {"Authorization": "Basic " + base64.b64encode(PAIR.encode()).decode()}
        return self.client.open(path, method=method, headers=known | headers)

    def see(self, path="/"):
        """The text of a page, and its links."""
        answer = self.get(path)
        page = answer.get_data(as_text=True)
        links = [unescape(link) for link in re.findall(r'<a [^>]*href="([^"]*)"', page)]
        text = unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page)))
        return answer.status_code, re.sub(r" ([.,:])", r"\1", text), links

    def metrics(self, path="/metrics"):
        families = text_string_to_metric_families(self.get(path).get_data(as_text=True))
        return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


@pytest.fixture
def make_visitor(make_site):
    def make(**settings):
        site = make_site(**settings)
        return site, Visitor(site)

    return make


@pytest.fixture
def site(make_site):
    return make_site()


@pytest.fixture
def visitor(site):
    return Visitor(site)


def only(links, start):
    [link] = {link for link in links if link.startswith(start)}
    return link


# ---- who gets in -----------------------------------------------------------------------------------------------------------

PAGES = ["/", "/browse", "/file/1", "/download/1", "/status.json", "/style.css", "/metrics", "/nothing"]


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("pair", [None, "admin:wrong", "admin", "", "wrong:dösé:x"])
def test_nobody_gets_in_without_the_pair(visitor, path, pair):
    headers = {} if pair is None else {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    answer = visitor.client.get(path, headers=headers)
    assert (answer.status_code, answer.headers["WWW-Authenticate"][:6]) == (401, "Basic ")
    assert answer.data == b"who are you?\n"


@pytest.mark.parametrize("header", ["Basic", "Basic !!!", "Basic w6Q", "Digest x", "Bearer " + TOKEN, "\xff"])
def test_header_that_is_no_pair_opens_nothing(visitor, header):
    assert visitor.get("/", Authorization=header).status_code == 401


def test_token_opens_the_metrics_alone(visitor):
    assert visitor.get("/metrics", Authorization=f"Bearer {TOKEN}").status_code == 200
    assert visitor.get("/metrics", Authorization=f"Bearer {TOKEN}x").status_code == 401
    assert visitor.get("/status.json", Authorization=f"Bearer {TOKEN}").status_code == 401


def test_without_a_token_no_token_opens_the_metrics(site):
    page = make_page(site.context, Credentials(PAIR), WorkerCounts(dict)).test_client()
    for given in ("", "None"):
        assert page.get("/metrics", headers={"Authorization": f"Bearer {given}"}).status_code == 401


def test_anybody_may_ask_whether_the_page_serves_and_learns_no_more(visitor):
    answer = visitor.client.get("/healthz")
    assert (answer.status_code, answer.data) == (200, b"ok\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_page_takes_nothing(visitor, method):
    answer = visitor.get("/", method=method)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("host", ["localhost:5556", "127.0.0.1", "[::1]:5556", "192.168.1.7:80", "PI.local:1", "pi.local."])
def test_page_is_reached_by_address_and_by_the_names_that_are_set(make_visitor, host):
    _, visitor = make_visitor(page_hosts="pi.local")
    assert visitor.get("/healthz", Host=host).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:5556", "[::1", "", "@localhost"]
)
def test_page_is_not_reached_by_a_name_that_somebody_else_made_for_it(visitor, host):
    assert visitor.get("/", Host=host).status_code in {400, 421}


def test_another_site_cannot_have_its_visitors_load_anything(visitor):
    for mode, code in (("no-cors", 403), ("cors", 403), ("navigate", 200)):
        headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode}
        assert visitor.get("/status.json", **headers).status_code == code


@pytest.mark.parametrize("path", [*PAGES, "/healthz"])
def test_every_answer_has_the_headers_that_bind_a_browser(visitor, path):
    headers = visitor.get(path).headers
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self'; ")
    assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == ("nosniff", "DENY")
    assert (headers["Cache-Control"], headers["Referrer-Policy"]) == ("no-store", "no-referrer")


def test_page_needs_nothing_from_elsewhere_and_runs_nothing(site, visitor):
    site.upload("a.txt", b"x")
    site.work()
    pages = "".join(visitor.get(path).get_data(as_text=True) for path in ("/", "/browse", "/browse?bucket=car-erp", "/file/1"))
    assert not re.search(r"<script|javascript:|https?://|\son\w+=|\sstyle=|@import|url\(", pages + visitor.get("/style.css").text)


# ---- how things stand ------------------------------------------------------------------------------------------------------


def test_page_is_red_before_anything_is_known(visitor):
    code, text, _ = visitor.see()
    assert (code, "Not everything is protected" in text, "never read" in text) == (200, True, True)


def test_page_is_green_where_everything_is_protected(site, visitor):
    site.upload("a.txt", b"x" * 1234)
    site.work()
    _, text, _ = visitor.see()
    assert "Everything is protected" in text
    assert "If the cloud account were gone now: 1 of 1 file. Every row that was seen before 20" in text


def test_page_names_what_is_not_protected_why_and_what_to_do(site, visitor):
    site.upload("a.txt", b"x")
    site.upload("b.txt", b"x", status(403))
    site.work()
    _, text, links = visitor.see()
    [bad] = [version for version in site.versions().values() if version.key == "b.txt"]
    assert "1 of 2 files" in text
    assert "s3/b.txt v1" in text
    assert bad.reason in text
    assert HINTS[bad.state].partition("`")[0].strip() in text
    assert only(links, "/file/") == f"/file/{bad.file_id}"


def test_page_without_the_disk_is_red_and_says_why(site, visitor):
    (site.root / ".cbk").rename(site.folder / "away")
    code, text, _ = visitor.see()
    assert (code, "Nothing is known" in text, "identity is missing" in text) == (503, True, True)
    answer = visitor.get("/status.json")
    assert (answer.status_code, "identity is missing" in answer.get_json()["error"]) == (503, True)


def test_page_without_a_catalog_is_red(site, visitor):
    with site.context.catalog.database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    code, text, _ = visitor.see()
    assert (code, "the catalog is at revision 0000" in text) == (503, True)


def test_page_tells_of_a_brake_and_what_decides(make_visitor):
    site, visitor = make_visitor(brake_files=1, brake_share=0, grace_period="1h")
    rows = [site.upload(f"{number}.txt", b"x") for number in range(3)]
    site.work()
    for row in rows:
        site.delete(row)
    site.poll()
    _, text, _ = visitor.see()
    assert "Brake 1 holds 3 removals" in text
    assert "cbk prune --approve 1" in text
    assert visitor.metrics()["cbk_removals_braked",] == 3


def test_page_draws_what_was_noted_over_time(site, visitor):
    now = site.context.catalog.database.now()
    for days in range(20, -1, -1):
        used = 1000 * (20 - days)
        numbers = {"files": 20 - days, "protected": 0, "lag": timedelta(hours=days), "copies": 0, "size": 0, "stored_size": used}
        one = Sample(
            at=now - timedelta(days=days),
            **numbers,
            free=site.context.archive.usage().total - used,
            total=site.context.archive.usage().total,
        )
        site.context.catalog.samples.note(one)
    page = visitor.get("/").get_data(as_text=True)
    assert page.count("<polyline points=") == 4


def test_page_says_which_workers_are_there_and_when_that_is_not_known(visitor):
    assert "which workers are there is not known" in visitor.see()[1]
    visitor.workers = {"celery@pi": 2, "celery@other": 0}
    visitor.worker_counts.look()
    assert "2 answer: celery@other: at rest celery@pi: 2 tasks" in visitor.see()[1]
    visitor.workers = {}
    visitor.worker_counts.look()
    assert "No worker answers" in visitor.see()[1]
    visitor.workers = None
    visitor.worker_counts.look()
    assert "which workers are there is not known" in visitor.see()[1]


def test_page_says_who_fetches_what(site, visitor):
    row = site.upload("a.txt", b"x")
    site.poll()
    site.context.catalog.work.claim(row, timedelta(minutes=2))
    assert "fetches s3/a.txt v1" in visitor.see()[1]


def test_page_tells_of_a_pause_and_of_a_limit(make_visitor):
    site, visitor = make_visitor(bandwidth="2M")
    pause(site.context, site.context.catalog.database.now() + timedelta(hours=1))
    _, text, _ = visitor.see()
    assert "Paused until 20" in text
    assert "All workers together fetch 2" in text
    found = visitor.metrics()
    assert (found["cbk_paused",], found["cbk_bandwidth_limit_bytes",]) == (1, 2_000_000)


def test_json_is_that_of_the_command(site, visitor):
    site.upload("a.txt", b"x")
    site.work()
    answer = visitor.get("/status.json").get_json()
    assert (answer["protected"], answer["files"], answer["buckets"][0]["bucket"]) == (True, 1, "car-erp")


def test_many_who_look_at_once_cost_one_count(site, visitor):
    counted = []

    def count(_connection, _cursor, statement, *_):
        if "FROM version_counts" in statement:
            counted.append(statement)

    sa.event.listen(site.context.catalog.engine, "after_cursor_execute", count)
    visitor.get("/")
    for_one = len(counted)
    for path in ("/metrics", "/status.json", "/"):
        visitor.get(path)
    assert len(counted) == for_one > 0


# ---- looking around --------------------------------------------------------------------------------------------------------


def test_files_are_found_by_bucket_and_folder_down_to_the_download(site, visitor):
    site.upload("cars/id-1/thumbnail.png", b"png bytes")
    site.work()
    path = "/browse"
    for start in ("/browse?bucket=car-erp", "/browse?bucket=car-erp&folder=cars/", "/browse?bucket=car-erp&folder=cars/id-1/"):
        path = only([link for link in visitor.see(path)[2] if link.startswith(start)], start)
    _, text, links = visitor.see(path)
    assert "thumbnail.png v1 stored 9 B" in text
    _, text, links = visitor.see(only(links, "/file/"))
    assert sha256(b"png bytes").hexdigest() in text
    assert re.search(r"seen 20.* row 1 stored 20.* verified 20", text)
    assert visitor.get(only(links, "/download/")).data == b"png bytes"


def test_page_tells_what_proves_a_copy_where_that_is_no_sha256(site, visitor):
    site.upload("proved.txt", b"1")
    for key, said in (("md5.txt", f"md5:{md5(b'2').hexdigest()}"), ("none.txt", None)):
        site.change(site.upload(key, b"2"), Hash=said)
    site.work()
    assert "Proved 1 by SHA-256, 1 by MD5, and 1 not at all: as first seen" in visitor.see()[1]
    links = visitor.see("/browse?bucket=car-erp")[2]
    texts = [visitor.see(link)[1] for link in links if link.startswith("/file/")]
    shown = ["by MD5: the row has no SHA-256", "none: these bytes came first, and the row has no Hash"]
    assert [[words in text for words in shown] for text in texts] == [[True, False], [False, True], [False, False]]


def test_folder_of_many_files_is_shown_a_page_at_a_time(site, visitor):
    for number in range(ENTRIES_PER_PAGE + 5):
        site.upload(f"{number:04}.txt", b"x")
    site.poll()
    _, text, links = visitor.see("/browse?bucket=car-erp")
    assert ("0199.txt" in text, "0200.txt" in text) == (True, False)
    following = [link for link in links if "after=" in link]
    _, text, links = visitor.see(following[0])
    assert ("0199.txt" in text, "0200.txt" in text, "0204.txt" in text) == (False, True, True)
    assert not [link for link in links if "after=" in link]


def test_folder_is_shown_from_a_name_on(site, visitor):
    for name in ("x/a", "x/b", "x/c"):
        site.upload(name, b"x")
    site.poll()
    text = visitor.see("/browse?bucket=car-erp&folder=x/&jump=b")[1]
    assert "buckets / car-erp / x/ " in text
    assert re.findall(r"(\w) v1 pending", text) == ["b", "c"]


@pytest.mark.parametrize("key", [HOSTILE, "a\0b/c\uf8ffd", "é" * 2000, "/".join(["d"] * 1500), "a//b", "x/ y / z "])
def test_any_key_can_be_found_and_downloaded(site, visitor, key):
    site.upload(key, b"content", served_at="/object")
    site.work()
    path, seen = "/browse?bucket=car-erp", set()
    while path not in seen:
        seen.add(path)
        answer = visitor.get(path)
        page = answer.get_data(as_text=True)
        assert answer.status_code == 200
        assert not re.search("<script|\x1b|\u202e", page)
        links = [unescape(link) for link in re.findall(r'<td[^>]*><a href="([^"]*)"', page)]
        path = next((link for link in links if link.startswith(("/browse?", "/file/"))), path)
        if len(seen) == 5:  # a key of a thousand folders: deep enough to believe it
            path = "/file/1"
    download = visitor.get(only(visitor.see("/file/1")[2], "/download/"))
    assert download.data == b"content"


def test_key_that_is_no_unicode_can_be_found(site, visitor, make_row):
    record_rows(site.context, [make_row(path="a\ud800/", name="\udfff\0.txt")])
    [folder] = [link for link in visitor.see("/browse?bucket=car-erp")[2] if "folder=" in link]
    _, text, links = visitor.see(folder)
    assert "\\udfff\\x00.txt v1 pending" in text
    assert visitor.see(only(links, "/file/"))[0] == 200


@pytest.mark.parametrize("path", ["/file/2", "/file/99999999999999999999", "/download/7", "/nothing", "/file/x"])
def test_what_there_is_not_is_not_found(site, visitor, path):
    assert visitor.get(path).status_code == 404


@pytest.mark.parametrize("query", ["bucket=car-erp&folder=x", "bucket=%ff", "&".join(["a=b"] * 20)])
def test_address_that_makes_no_sense_is_not_found(visitor, query):
    assert visitor.get(f"/browse?{query}").status_code == 404


@pytest.mark.parametrize("query", ["bucket=none", "bucket=car-erp&folder=%00/", "bucket=car-erp&key=x&after=-1", "bucket=' OR 1=1"])
def test_folder_of_nothing_is_empty(visitor, query):
    code, text, _ = visitor.see(f"/browse?{query}")
    assert (code, "There is nothing" in text) == (200, True)


# ---- downloads -------------------------------------------------------------------------------------------------------------


def stored(site, content, key="a.bin"):
    site.upload(key, content)
    site.work()
    [version] = site.versions().values()
    return f"/download/{version.id}", site.root / version.place / "v1.gzip"


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 300_000])
def test_download_is_the_file_whole(site, visitor, size):
    content = bytes(number % 251 for number in range(size))
    path, _ = stored(site, content)
    answer = visitor.get(path)
    assert answer.data == content
    assert answer.headers["Content-Length"] == str(size)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == "attachment; filename=\"a.bin\"; filename*=UTF-8''a.bin"
    assert answer.headers["X-Content-SHA256"] == sha256(content).hexdigest()


def test_download_of_a_bad_copy_gives_none_of_its_bytes(site, visitor):
    path, copy = stored(site, b"good bytes" * 20_000)
    damaged = bytearray(copy.read_bytes())
    damaged[-20] ^= 1
    copy.write_bytes(damaged)
    code, text, _ = visitor.see(path)
    assert (code, "good bytes" in text) == (503, False)


def test_download_of_another_files_copy_gives_none_of_its_bytes(site, visitor):
    path, copy = stored(site, b"mine")
    copy.write_bytes(gzip.compress(b"secret"))
    assert visitor.get(path).status_code == 503


def test_download_that_goes_bad_on_the_way_is_never_whole(site, visitor, monkeypatch):
    path, _ = stored(site, b"good" * 100_000)
    monkeypatch.setattr(site.context.archive, "open_copy", lambda _: iter([b"good" * 50_000, b"evil" * 50_000]))
    got = bytearray()
    with pytest.raises(Exception, match="changed while it was read"):
        got.extend(b"".join(visitor.client.get(path, headers=HEADERS_OF_PAIR, buffered=False).iter_encoded()))
    assert b"evil" not in got


HEADERS_OF_PAIR = {"Authorization": "Basic " + base64.b64encode(PAIR.encode()).decode()}


def test_download_of_a_copy_that_is_gone_is_not_found(site, visitor):
    path, copy = stored(site, b"x")
    copy.unlink()
    assert visitor.get(path).status_code == 404


def test_what_is_not_stored_cannot_be_downloaded(site, visitor):
    site.upload("a.txt", b"x", status(403))
    site.work()
    assert visitor.get("/download/1").status_code == 404
    assert "/download/1" not in visitor.see("/file/1")[2]


def test_no_more_downloads_than_leave_room_for_others(site, visitor):
    path, _ = stored(site, b"x" * 200_000)
    running = [visitor.client.get(path, headers=HEADERS_OF_PAIR, buffered=False) for _ in range(DOWNLOADS)]
    assert visitor.get(path).status_code == 503
    assert visitor.get("/").status_code == 200
    running.pop().close()
    assert visitor.get(path).status_code == 200
    for answer in running:
        answer.close()


def test_head_of_a_download_has_its_length_and_ends_it(site, visitor):
    path, _ = stored(site, b"12345")
    for _ in range(DOWNLOADS + 1):
        answer = visitor.get(path, method="HEAD")
        answer.close()
        assert (answer.status_code, answer.headers["Content-Length"], answer.data) == (200, "5", b"")


def test_page_holds_no_file_open_so_that_the_disk_can_be_unmounted(site, visitor):
    path, _ = stored(site, b"x" * 100_000)
    for page in ("/", "/browse?bucket=car-erp", "/file/1", path, "/metrics"):
        visitor.get(page)
    opened = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert [name for name in opened if name.startswith((str(site.root), str(site.folder / "catalog.db")))] == []


# ---- metrics ---------------------------------------------------------------------------------------------------------------


def test_metrics_tell_how_things_stand(site, visitor):
    site.upload("a.txt", b"x" * 100)
    site.upload("b.txt", b"x", status(403))
    site.work()
    visitor.workers = {"celery@pi": 2}
    visitor.worker_counts.look()
    found = visitor.metrics()
    assert (found["cbk_known",], found["cbk_protected",], found["cbk_unprotected_files",]) == (1, 0, 1)
    assert (found["cbk_files", "stored"], found["cbk_files", "failed"], found["cbk_files", "expired"]) == (1, 1, 0)
    assert (found["cbk_bucket_files", "car-erp"], found["cbk_bucket_protected_files", "car-erp"]) == (2, 1)
    assert (found["cbk_object_bytes",], found["cbk_workers",], found["cbk_tasks_at_work",]) == (100, 1, 2)
    assert 0 <= found["cbk_poll_age_seconds",] < 60
    assert 0 < found["cbk_disk_free_bytes",] < found["cbk_disk_size_bytes",]


def test_metrics_have_every_kind_of_problem_and_which_of_them_there_are(site, visitor):
    site.upload("b.txt", b"x", status(503))
    site.work()
    found = visitor.metrics()
    kinds = {name[1]: value for name, value in found.items() if name[0] == "cbk_problem"}
    assert sorted(kinds) == sorted(set(Kind) - {Kind.CORRUPT})
    assert {kind for kind, value in kinds.items() if value} == {Kind.FAILED}


def test_metrics_of_what_is_not_known_say_why_and_no_more(site, visitor):
    (site.root / ".cbk").rename(site.folder / "away")
    assert known_of(visitor) == {("cbk_known",): 0, ("cbk_problem", "disk_missing"): 1}


def test_metrics_without_a_catalog_say_so(site, visitor):
    with site.context.catalog.database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    assert known_of(visitor) == {("cbk_known",): 0, ("cbk_problem", "catalog"): 1}


def known_of(visitor):
    return {name: value for name, value in visitor.metrics().items() if name[0] != "cbk_info"}


def test_samples_table_is_read_only_by_who_looks(site, visitor):
    """Looking writes nothing: not even a sample."""
    for path in ("/", "/metrics", "/status.json"):
        visitor.get(path)
    with site.context.catalog.database.reading() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(samples)) == 0
