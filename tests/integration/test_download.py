"""The download edge against an origin that misbehaves. After each test: no secret of any link in the log."""

import gzip
import io
import logging
import os
import pickle
import socket
import threading
import time
import traceback
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from cbk.edges.download import Downloader, connector, deadline, http_connections
from cbk.errors import (
    DiskFull,
    LeaseLost,
    LinkDenied,
    LinkExpired,
    LinkForbidden,
    NotTheObject,
    ObjectMissing,
    OriginUnavailable,
    SettingsError,
    TooLarge,
    TransferBroken,
)
from cbk.rules.backup.links import AllowedHosts
from tests.origin import (
    Origin,
    announce,
    chunked,
    cut,
    drip,
    endless,
    html_page,
    raw,
    redirect,
    s3_error,
    serve,
    silence,
    stall,
    status,
    until_close,
)

PATH = "/bucket/secret-path.bin"
QUERY = "?X-Amz-Signature=secret-query"
DATA = os.urandom(100_000)
MIB = 1024 * 1024


class Sink(io.BytesIO):
    """Keeps the bytes, and which sizes were announced once how many of them had come."""

    def __init__(self):
        super().__init__()
        self.announced = []

    def expect(self, size):
        self.announced.append((self.tell(), size))


def now():
    return datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def no_secret_in_the_log(caplog):
    """Whatever level an operator sets, on whatever logger."""
    for name in (
        "",
        "urllib3",
        "urllib3.connectionpool",
        "urllib3.connection",
        "urllib3.response",
        "urllib3.util.retry",
        "requests",
    ):
        caplog.set_level(logging.DEBUG, logger=name)
    yield
    formatter = logging.Formatter()
    assert "secret" not in "\n".join(map(formatter.format, caplog.get_records("call")))


@pytest.fixture
def origin():
    with Origin() as origin:
        yield origin


@pytest.fixture
def make_downloader(origin):
    """Makes downloaders that fetch from the origin and do not sleep."""
    made = []

    def make(allowed=None, **options):
        options = {"sleep": lambda _: None, "jitter": lambda: 0.5, "read_timeout_seconds": 10} | options
        made.append(Downloader(AllowedHosts.parse(origin.address if allowed is None else allowed), **options))
        return made[-1]

    yield make
    for downloader in made:
        downloader.close()


@pytest.fixture
def downloader(make_downloader):
    return make_downloader()


def wait_until(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError(condition)


def fetch(downloader, link, sink=None, tick=lambda _: None):
    """Fetch a link with a signature; return what was said of the object, and its bytes."""
    sink = Sink() if sink is None else sink
    fetched = downloader.fetch(link + QUERY, sink, tick=tick, now=now)
    return fetched, sink.getvalue()


def failure(downloader, link, error_class, **options):
    """Fetch a link that fails; return the error, after making sure that nothing about it gives the link away."""
    with pytest.raises(error_class) as caught:
        fetch(downloader, link, **options)
    error = caught.value
    assert type(error) is error_class
    assert error.__cause__ is None
    assert error.__context__ is None
    told = [str(error), repr(error), str(error.hint), *traceback.format_exception(error)]
    assert "secret" not in "\n".join(told)
    assert b"secret" not in pickle.dumps(error)
    logging.getLogger("cbk").error("failed", exc_info=error)
    return error


# The normal case


def test_fetch_gives_every_byte_once_and_says_what_the_origin_said(origin, downloader):
    fetched, data = fetch(downloader, origin.put(PATH, DATA, content_type="image/png"))
    assert data == DATA
    assert (fetched.size, fetched.content_type) == (len(DATA), "image/png")
    assert fetched.etag.startswith('"')


def test_fetch_of_an_empty_object_gives_nothing_and_is_complete(origin, downloader):
    fetched, data = fetch(downloader, origin.put(PATH, b""))
    assert (fetched.size, data) == (0, b"")


def test_fetch_sends_nothing_but_what_is_needed(origin, downloader, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    link = origin.put(PATH, DATA, serve(Set_Cookie="a=b"))
    fetch(downloader, link)
    fetch(downloader, link)
    assert origin.requests(PATH)[1].headers == {
        "host": origin.address,
        "user-agent": "cloud-backup-kit",
        "accept": "*/*",
        "accept-encoding": "gzip, br, zstd",
    }


def test_fetch_uses_no_proxy_of_the_environment(origin, downloader, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert fetch(downloader, origin.put(PATH, DATA))[1] == DATA


@pytest.mark.parametrize("key", ["/b/a/../b.bin", "/b/./a//c.bin", "/b/%2E%2E/%41.bin", "/b/a+b&c=d~(e).bin", "//b"])
def test_fetch_asks_for_the_key_as_it_is_in_the_link(origin, downloader, key):
    seen = []
    origin.put("/b", b"")
    origin._answer = lambda request, sock: bool(seen.append(request.path)) or raw(b"HTTP/1.1 404 -\r\n\r\n")(exchange(sock))
    with pytest.raises(ObjectMissing):
        fetch(downloader, f"http://{origin.address}{key}")
    assert seen == [key]


def exchange(sock):
    from tests.origin import Exchange  # noqa: PLC0415 - only here

    return Exchange(None, None, b"", None, None, sock)


def test_fetch_writes_letters_beyond_ascii_as_utf_8(origin, downloader):
    origin.put("/b/grün.bin", DATA)
    assert fetch(downloader, f"http://{origin.address}/b/grün.bin")[1] == DATA


def test_fetch_keeps_the_connection_for_the_next_object(origin, downloader):
    links = [origin.put(f"/b/{number}", DATA) for number in range(5)]
    links.append(origin.url("/b/missing"))
    for link in links[:5]:
        fetch(downloader, link)
    failure(downloader, links[5], ObjectMissing)
    fetch(downloader, links[0])
    assert origin.connections == 1


def test_fetch_from_many_threads_at_once_mixes_nothing_up(origin, downloader):
    objects = {origin.put(f"/b/{number}", os.urandom(50_000)): number for number in range(60)}
    contents = {link: origin._stored[f"/b/{number}"].data for link, number in objects.items()}
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda link: fetch(downloader, link)[1], contents))
    assert results == list(contents.values())
    assert origin.connections <= 8


def test_fetch_ticks_with_the_bytes_so_far(origin, downloader):
    ticks = []
    fetch(downloader, origin.put(PATH, os.urandom(3 * MIB)), tick=ticks.append)
    assert ticks == sorted(ticks)
    assert ticks[-1] == 3 * MIB
    assert len(ticks) >= 3 * MIB // http_connections.READ_SIZE


def test_fetch_holds_a_few_pieces_of_a_large_object_at_most(origin, downloader):
    class Nowhere:
        def expect(self, size):
            pass

        def write(self, data):
            assert len(data) <= http_connections.READ_SIZE

    link = origin.put(PATH, bytes(64 * MIB))
    tracemalloc.start()
    try:
        downloader.fetch(link, Nowhere(), tick=lambda _: None, now=now)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * MIB


def test_fetch_takes_an_encoded_object_as_it_is_stored(origin, downloader):
    stored = gzip.compress(b"text " * 1000)
    assert fetch(downloader, origin.put(PATH, stored, serve(Content_Encoding="gzip")))[1] == stored


def test_fetch_takes_an_object_in_chunks(origin, downloader):
    fetched, data = fetch(downloader, origin.put(PATH, DATA, chunked(777)))
    assert data == DATA
    assert fetched.size == len(DATA)


def test_fetch_in_chunks_keeps_the_connection(origin, downloader):
    link = origin.put(PATH, DATA, chunked(50_000, trailers=[b"X-Trailer: a\r\n"]))
    fetch(downloader, link)
    fetch(downloader, link)
    assert origin.connections == 1


def test_fetch_takes_an_object_that_ends_with_the_connection(origin, downloader):
    assert fetch(downloader, origin.put(PATH, DATA, until_close()))[1] == DATA


def test_fetch_of_a_page_for_people_says_that_it_is_one(origin, downloader):
    assert fetch(downloader, origin.put(PATH, DATA, html_page()))[0].content_type == "text/html"


# Broken transfers


@pytest.mark.parametrize("after", [1, 5000, 99_999])
@pytest.mark.parametrize("reset", [False, True])
def test_fetch_goes_on_where_the_connection_was_cut(origin, downloader, after, reset):
    assert fetch(downloader, origin.put(PATH, DATA, cut(after, reset=reset), serve()))[1] == DATA


def test_fetch_asks_for_the_rest_of_the_same_object(origin, downloader):
    fetched, _ = fetch(downloader, origin.put(PATH, DATA, cut(5000), serve()))
    second = origin.requests(PATH)[1].headers
    assert (second["range"], second["if-range"]) == ("bytes=5000-", fetched.etag)
    assert second["accept-encoding"] == "gzip, br, zstd"


def test_fetch_tells_the_announced_size_once_before_the_first_byte(origin, downloader):
    sink = Sink()
    fetch(downloader, origin.put(PATH, DATA, cut(5000), serve()), sink)
    assert sink.announced == [(0, len(DATA))]


def test_fetch_tells_a_size_that_only_the_rest_announces(origin, downloader):
    sink = Sink()
    fetch(downloader, origin.put(PATH, DATA, chunked(1000, cut_after=5000), serve()), sink)
    assert sink.announced == [(5000, len(DATA))]


def test_fetch_tells_no_size_where_none_is_announced(origin, downloader):
    sink = Sink()
    fetch(downloader, origin.put(PATH, DATA, chunked(1000)), sink)
    assert sink.announced == []


def test_fetch_goes_on_after_a_cut_before_the_first_byte(origin, downloader):
    assert fetch(downloader, origin.put(PATH, DATA, cut(0), serve()))[1] == DATA
    assert "range" not in origin.requests(PATH)[1].headers


def test_fetch_from_a_connection_that_the_origin_gave_up_asks_anew(origin, downloader):
    link = origin.put(PATH, DATA, serve(), raw(b""), serve())
    fetch(downloader, link)
    assert fetch(downloader, link)[1] == DATA


def test_fetch_that_gets_nothing_at_all_gives_up_after_a_second_try(origin, downloader):
    error = failure(downloader, origin.put(PATH, DATA, raw(b"")), TransferBroken)
    assert error.message == f"{origin.address} closed the connection before the object was complete"
    assert origin.count(PATH) == 2


def test_fetch_gives_up_after_some_cuts_in_a_row_with_growing_pauses(origin, make_downloader):
    pauses = []
    downloader = make_downloader(max_resumes=5, sleep=pauses.append)
    failure(downloader, origin.put(PATH, DATA, cut(1000)), TransferBroken)
    assert origin.count(PATH) == 6
    assert pauses == [0.5, 1, 2, 4]


def test_fetch_has_patience_as_long_as_it_gets_further(origin, make_downloader):
    data = os.urandom(6 * MIB)
    downloader = make_downloader(max_resumes=1)
    assert fetch(downloader, origin.put(PATH, data, cut(MIB + 1)))[1] == data


def test_fetch_ticks_around_each_pause(origin, make_downloader):
    events = []
    downloader = make_downloader(max_resumes=2, sleep=lambda _: events.append("sleep"))
    failure(downloader, origin.put(PATH, DATA, cut(1000), raw(b"")), TransferBroken, tick=events.append)
    assert events == [1000, 1000, 1000, "sleep", 1000]


def test_fetch_goes_on_after_a_stall(origin, make_downloader):
    downloader = make_downloader(read_timeout_seconds=0.2)
    assert fetch(downloader, origin.put(PATH, DATA, stall(5000), serve()))[1] == DATA
    assert origin.requests(PATH)[1].range_start == 5000


def test_fetch_does_not_wait_twice_for_an_origin_that_says_nothing(origin, make_downloader):
    error = failure(make_downloader(read_timeout_seconds=0.2), origin.put(PATH, DATA, silence()), TransferBroken)
    assert error.message == f"{origin.address} fell silent"
    assert origin.count(PATH) == 1


def test_fetch_skips_what_it_has_where_the_origin_starts_over(origin, downloader):
    assert fetch(downloader, origin.put(PATH, DATA, cut(70_000), serve(ranges=False)))[1] == DATA


def test_fetch_skips_again_where_the_origin_starts_over_and_is_cut_while_skipping(origin, downloader):
    def start_over(exchange):
        exchange.head(200, {"Content-Length": len(exchange.data), "ETag": exchange.etag})
        exchange.sock.sendall(exchange.data[:3000])
        return False

    assert fetch(downloader, origin.put(PATH, DATA, cut(70_000), start_over, serve(ranges=False)))[1] == DATA


def test_fetch_goes_on_where_the_rest_comes_in_chunks(origin, downloader):
    def rest(exchange):
        start = exchange.request.range_start
        part = exchange.data[start:]
        content_range = f"bytes {start}-{len(exchange.data) - 1}/{len(exchange.data)}"
        exchange.head(206, {"Transfer-Encoding": "chunked", "Content-Range": content_range})
        exchange.sock.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(part), part))
        return True

    assert fetch(downloader, origin.put(PATH, DATA, cut(5000), rest))[1] == DATA


@pytest.mark.parametrize("in_chunks", [False, True])
def test_fetch_goes_on_where_the_origin_sends_less_of_the_rest_than_there_is(origin, downloader, in_chunks):
    def some(exchange):
        start = exchange.request.range_start
        part = exchange.data[start : start + 1000]
        content_range = {"Content-Range": f"bytes {start}-{start + 999}/{len(exchange.data)}"}
        if in_chunks:
            exchange.head(206, content_range | {"Transfer-Encoding": "chunked"})
            exchange.sock.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(part), part))
        else:
            exchange.send(206, content_range, part)
        return True

    assert fetch(downloader, origin.put(PATH, DATA, cut(5000), some, some, serve()))[1] == DATA
    assert [request.range_start for request in origin.requests(PATH)] == [None, 5000, 6000, 7000]


def test_fetch_refuses_a_rest_that_is_longer_than_announced(origin, downloader):
    def rest(exchange):
        exchange.head(206, {"Transfer-Encoding": "chunked", "Content-Range": "bytes 5000-99999/100000"})
        exchange.sock.sendall(b"20000\r\n" + bytes(0x20000) + b"\r\n0\r\n\r\n")
        return True

    sink = Sink()
    error = failure(downloader, origin.put(PATH, DATA, cut(5000), rest), TransferBroken, sink=sink)
    assert "more than it announced" in error.message
    assert len(sink.getvalue()) <= len(DATA)


@pytest.mark.parametrize("again", [serve(ranges=False, etag=None), serve(etag='"other"'), serve(ranges=False, etag='"other"')])
def test_fetch_does_not_join_parts_that_may_be_of_two_objects(origin, downloader, again):
    sink = Sink()
    failure(downloader, origin.put(PATH, DATA, cut(5000), again), TransferBroken, sink=sink)
    assert sink.getvalue() == DATA[:5000]


def test_fetch_does_not_join_parts_after_the_object_was_replaced(origin, downloader):
    link = origin.put(PATH, DATA, cut(5000))
    error = failure(downloader, link, TransferBroken, tick=lambda _: origin.put(PATH, DATA[::-1]))
    assert "changed" in error.message


def part_from(start):
    """Answer with the bytes from `start` on, whatever was asked for."""

    def answer(exchange):
        content_range = f"bytes {start}-{len(exchange.data) - 1}/{len(exchange.data)}"
        exchange.send(206, {"Content-Range": content_range}, exchange.data[start:])
        return True

    return answer


def test_fetch_refuses_a_range_that_begins_behind_what_it_has(origin, downloader):
    error = failure(downloader, origin.put(PATH, DATA, cut(5000), part_from(5001)), TransferBroken)
    assert "another part" in error.message


@pytest.mark.parametrize("start", [0, 1, 4999])
def test_fetch_skips_what_it_has_of_a_range_that_begins_earlier(origin, downloader, start):
    assert fetch(downloader, origin.put(PATH, DATA, cut(5000), part_from(start)))[1] == DATA


def test_fetch_without_any_validator_goes_on_where_the_size_is_the_same(origin, downloader):
    bare = {"etag": None, "last_modified": None}
    assert fetch(downloader, origin.put(PATH, DATA, cut(5000, **bare), serve(**bare)))[1] == DATA
    assert "if-range" not in origin.requests(PATH)[1].headers


def test_fetch_with_a_date_only_asks_by_the_date(origin, downloader):
    assert fetch(downloader, origin.put(PATH, DATA, cut(5000, etag=None), serve(etag=None)))[1] == DATA
    assert origin.requests(PATH)[1].headers["if-range"].endswith("GMT")


def test_fetch_with_a_weak_etag_does_not_ask_by_it(origin, downloader):
    assert fetch(downloader, origin.put(PATH, DATA, cut(5000, etag='W/"a"'), serve(etag='W/"a"')))[1] == DATA
    assert "if-range" not in origin.requests(PATH)[1].headers


def test_fetch_of_cut_chunks_goes_on_by_the_etag(origin, downloader):
    fetched, data = fetch(downloader, origin.put(PATH, DATA, chunked(1000, cut_after=5500), serve()))
    assert (data, fetched.size) == (DATA, len(DATA))


def test_fetch_of_cut_chunks_that_nothing_identifies_gives_up(origin, downloader):
    failure(downloader, origin.put(PATH, DATA, chunked(1000, cut_after=5500, etag=None)), TransferBroken)
    assert origin.count(PATH) == 1


@pytest.mark.parametrize("end", [b"", b"5\r\nab", b"zz\r\n", b"-5\r\nabcde\r\n", b"\r\n"])
def test_fetch_of_broken_chunks_is_not_complete(origin, downloader, end):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n"
    failure(downloader, origin.put(PATH, b"", raw(head + end)), TransferBroken)


def test_fetch_of_less_than_announced_is_not_complete(origin, downloader):
    failure(downloader, origin.put(PATH, DATA, announce(len(DATA) + 10), serve()), TransferBroken)


def test_fetch_of_more_than_announced_takes_no_more_than_that(origin, downloader):
    fetched, data = fetch(downloader, origin.put(PATH, DATA, announce(5000)))
    assert (fetched.size, data) == (5000, DATA[:5000])
    assert fetch(downloader, origin.put("/b/next", DATA))[1] == DATA


def test_fetch_on_a_connection_that_still_had_something_to_say_goes_on_with_another(origin, downloader):
    fetch(downloader, origin.put(PATH, DATA))
    surplus = raw(b"what the last answer had too much of\r\n")
    assert fetch(downloader, origin.put("/b/next", DATA, surplus, serve()))[1] == DATA


@pytest.mark.parametrize("length", ["abc", "-5", "5, 7", ""])
def test_fetch_with_a_length_that_is_no_number_is_refused(origin, downloader, length):
    with pytest.raises((NotTheObject, TransferBroken)):
        fetch(downloader, origin.put(PATH, DATA, announce(length)))


def test_fetch_in_a_transfer_coding_that_was_not_asked_for_is_refused(origin, downloader):
    failure(downloader, origin.put(PATH, DATA, serve(Transfer_Encoding="gzip, chunked")), NotTheObject)


def test_fetch_goes_on_when_the_origin_is_away_for_a_moment(origin, downloader):
    assert fetch(downloader, origin.put(PATH, DATA, cut(5000), status(503), status(502), serve()))[1] == DATA


def test_fetch_does_as_it_is_told_when_asked_to_come_back_in_mid_transfer(origin, downloader):
    error = failure(downloader, origin.put(PATH, DATA, cut(5000), status(503, retry_after="60")), OriginUnavailable)
    assert error.retry_after_seconds == 60
    assert origin.count(PATH) == 2


def test_fetch_whose_link_dies_in_mid_transfer_says_so(origin, downloader):
    expired = s3_error(403, "AccessDenied", "Request has expired")
    failure(downloader, origin.put(PATH, DATA, cut(5000), expired), LinkExpired)


# Answers that are not the object


@pytest.mark.parametrize(
    ("answer", "error_class"),
    [
        (s3_error(403, "AccessDenied", "Request has expired"), LinkExpired),
        (s3_error(400, "ExpiredToken", "The provided token has expired."), LinkExpired),
        (s3_error(403, "AccessDenied", "Access Denied"), LinkDenied),
        (s3_error(403, "SignatureDoesNotMatch", "The request signature does not match."), LinkDenied),
        (status(403), LinkDenied),
        (status(404, b"<html>"), ObjectMissing),
        (status(410), ObjectMissing),
        (status(201, DATA), NotTheObject),
        (status(203, DATA), NotTheObject),
        (status(206, DATA, Content_Range="bytes 0-99999/100000"), NotTheObject),
        (raw(b"HTTP/1.1 204 -\r\n\r\n"), NotTheObject),
        (raw(b"HTTP/1.1 304 -\r\n\r\n"), NotTheObject),
        (status(300), NotTheObject),
        (status(429), OriginUnavailable),
        (status(500), OriginUnavailable),
        (status(503), OriginUnavailable),
    ],
)
def test_fetch_of_another_status_fails_by_its_meaning(origin, downloader, answer, error_class):
    sink = Sink()
    failure(downloader, origin.put(PATH, DATA, answer), error_class, sink=sink)
    assert sink.getvalue() == b""
    assert origin.count(PATH) == 1


def test_fetch_of_a_link_past_its_time_is_expired_by_the_date_in_it(origin, downloader):
    link = origin.put(PATH, DATA, status(403)) + "?X-Amz-Date=20260101T100000Z&X-Amz-Expires=3600&a="
    assert failure(downloader, link, LinkExpired).message == "the link expired at 2026-01-01 11:00 UTC"


@pytest.mark.parametrize(("value", "seconds"), [("7", 7), ("Thu, 01 Jan 2026 12:02:00 GMT", 120), ("soon", None)])
def test_fetch_reports_when_the_origin_wants_to_be_asked_again(origin, downloader, value, seconds):
    error = failure(downloader, origin.put(PATH, DATA, status(503, retry_after=value)), OriginUnavailable)
    assert error.retry_after_seconds == seconds


def test_fetch_reads_the_start_of_an_endless_error_page_only(origin, downloader):
    page = endless(b"x" * 1000, before=b"HTTP/1.1 403 -\r\n\r\n<Code>SlowDeath</Code>")
    assert "SlowDeath" in failure(downloader, origin.put(PATH, DATA, page), LinkDenied).message


def test_fetch_tells_a_status_even_where_its_page_is_cut(origin, downloader):
    failure(downloader, origin.put(PATH, DATA, raw(b"HTTP/1.1 404 -\r\nContent-Length: 100\r\n\r\n<Er")), ObjectMissing)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-secret\r\n",
        b"\x15\x03\x01\x00\x02\x02\x50",
        b"HTTP/1.1 secret -\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Secret: " + b"a" * 400_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nno colon here: but here\r\nsecret\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nX-Secret: sec\0ret\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
def test_fetch_of_an_answer_that_is_not_http_fails_cleanly(origin, downloader, answer):
    failure(downloader, origin.put(PATH, DATA, raw(answer)), TransferBroken)


def test_fetch_of_an_answer_with_two_lengths_takes_neither(origin, downloader):
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nabcdefg"
    sink = Sink()
    with pytest.raises((NotTheObject, TransferBroken)):
        fetch(downloader, origin.put(PATH, DATA, raw(answer)), sink)
    assert sink.getvalue() == b""


# Redirects


def test_fetch_follows_a_redirect_to_a_relative_place(origin, downloader):
    origin.put("/elsewhere/b.bin", DATA)
    assert fetch(downloader, origin.put(PATH, b"", redirect("../elsewhere/b.bin?signature=secret")))[1] == DATA


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_fetch_follows_a_redirect_to_another_allowed_host(origin, make_downloader, code):
    with Origin() as other:
        downloader = make_downloader(f"{origin.address}, {other.address}")
        target = other.put("/other", DATA)
        assert fetch(downloader, origin.put(PATH, b"", redirect(target, code)))[1] == DATA
        assert other.requests("/other")[0].headers["host"] == other.address


def test_fetch_follows_the_redirect_anew_for_the_rest(origin, downloader):
    origin.put("/target", DATA, cut(5000), serve())
    assert fetch(downloader, origin.put(PATH, b"", redirect("/target")))[1] == DATA
    assert origin.count(PATH) == 2
    assert origin.requests("/target")[1].range_start == 5000


def test_fetch_does_not_follow_a_redirect_to_another_host(origin, downloader):
    with Origin() as other:
        target = other.put("/secret", DATA)
        error = failure(downloader, origin.put(PATH, b"", redirect(target)), LinkForbidden)
        assert error.message == f"{other.address} is not an allowed host"
        assert other.connections == 0


@pytest.mark.parametrize(
    ("to", "error_class"),
    [
        ("ftp://files.example.com/secret", LinkForbidden),
        ("http://user:secret@127.0.0.1/", LinkForbidden),
        ("file:///etc/secret", LinkForbidden),
        ("http://[::1/secret", LinkForbidden),
        ("", NotTheObject),
    ],
)
def test_fetch_does_not_follow_a_redirect_to_a_bad_place(origin, downloader, to, error_class):
    failure(downloader, origin.put(PATH, b"", redirect(to)), error_class)


def test_fetch_ends_a_loop_of_redirects(origin, make_downloader):
    error = failure(make_downloader(max_redirects=3), origin.put(PATH, b"", redirect(PATH)), NotTheObject)
    assert error.message == "the link is redirected more than 3 times"
    assert origin.count(PATH) == 4


# Time and size


class Clock:
    """A clock that goes on by `step` seconds each time that somebody looks."""

    def __init__(self, step):
        self.seconds = 0.0
        self.step = step

    def __call__(self):
        self.seconds += self.step
        return self.seconds


def test_fetch_of_a_slow_object_that_drips_is_complete(origin, downloader):
    origin.drop()
    fetched, data = fetch(downloader, origin.put(PATH, DATA[:300], drip(1)), tick=lambda _: origin.drop())
    assert (fetched.size, data) == (300, DATA[:300])


def test_fetch_gives_up_on_an_origin_that_drips_too_slowly(origin, make_downloader):
    downloader = make_downloader(monotonic=Clock(1), max_seconds=1_000_000, speed_window_seconds=60)
    origin.drop()
    link = origin.put(PATH, DATA, drip(1))
    error = failure(downloader, link, TransferBroken, tick=lambda _: origin.drop())
    assert error.message == "the origin sends less than 1024 bytes per second"


def test_watch_demands_the_speed_of_each_window_and_forgets_a_fast_past():
    watch = deadline.Deadline(lambda: 0, bytes_per_second=1000, window_seconds=60)
    watch.received(100 * MIB, 60)
    watch.received(60_000, 60)
    with pytest.raises(TransferBroken):
        watch.received(59_999, 60)


def test_fetch_does_not_blame_the_origin_for_a_slow_disk(origin, make_downloader):
    clock = Clock(0)

    class SlowDisk(Sink):
        def write(self, data):
            clock.seconds += 3600
            return super().write(data)

    downloader = make_downloader(monotonic=clock, max_seconds=1_000_000)
    assert fetch(downloader, origin.put(PATH, DATA), sink=SlowDisk())[1] == DATA


def test_fetch_ends_when_its_time_is_over(origin, make_downloader):
    downloader = make_downloader(monotonic=Clock(1), max_seconds=100, min_bytes_per_second=0)
    origin.drop()
    link = origin.put(PATH, DATA, drip(1))
    error = failure(downloader, link, TransferBroken, tick=lambda _: origin.drop())
    assert error.message == "the transfer takes longer than is allowed for one object"


@pytest.mark.parametrize(
    ("before", "line"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Trailer: more\r\n"),
    ],
)
def test_fetch_is_not_held_by_headers_without_end(origin, make_downloader, before, line):
    downloader = make_downloader(monotonic=Clock(1), max_seconds=50, min_bytes_per_second=0)
    failure(downloader, origin.put(PATH, DATA, endless(line, before=before)), TransferBroken)


def test_fetch_counts_pauses_and_parts_to_the_time_of_one_object(origin, make_downloader):
    clock = Clock(0)

    def sleep(seconds):
        clock.seconds += 50

    downloader = make_downloader(monotonic=clock, max_seconds=100, max_resumes=1000, sleep=sleep)
    failure(downloader, origin.put(PATH, DATA, cut(1000), raw(b"")), TransferBroken)
    assert origin.count(PATH) == 3


def test_fetch_refuses_a_size_that_is_too_large_before_it_reads(origin, make_downloader):
    sink = Sink()
    error = failure(make_downloader(max_file_bytes=MIB), origin.put(PATH, bytes(MIB + 1)), TooLarge, sink=sink)
    assert error.message == "the object is larger than the 1048576 bytes that are accepted"
    assert sink.getvalue() == b""


@pytest.mark.parametrize("answer", [chunked(1000), until_close()])
def test_fetch_refuses_what_turns_out_too_large(origin, make_downloader, answer):
    sink = Sink()
    failure(make_downloader(max_file_bytes=50_000), origin.put(PATH, DATA, answer), TooLarge, sink=sink)
    assert len(sink.getvalue()) <= 50_000


def test_fetch_takes_an_object_of_exactly_the_largest_size(origin, make_downloader):
    assert fetch(make_downloader(max_file_bytes=len(DATA)), origin.put(PATH, DATA))[1] == DATA


# What the caller raises


def test_fetch_ends_with_what_tick_raises(origin, downloader):
    def lost(_):
        raise LeaseLost("another worker has it")

    failure(downloader, origin.put(PATH, DATA), LeaseLost, tick=lost)
    assert fetch(downloader, origin.put(PATH, DATA))[1] == DATA


@pytest.mark.parametrize("error", [DiskFull("no room"), OSError("the sink's own"), ValueError("the sink's own"), TimeoutError()])
def test_fetch_ends_with_what_the_sink_raises_and_tries_nothing_again(origin, downloader, error):
    class Full:
        def expect(self, size):
            pass

        def write(self, data):
            raise error

    with pytest.raises(type(error)) as caught:
        fetch(downloader, origin.put(PATH, DATA), sink=Full())
    assert caught.value is error
    assert origin.count(PATH) == 1
    assert fetch(downloader, origin.put(PATH, DATA))[1] == DATA


def test_fetch_that_ends_early_leaves_no_half_read_connection_behind(origin, downloader):
    def lost(_):
        raise LeaseLost("another worker has it")

    failure(downloader, origin.put(PATH, bytes(MIB)), LeaseLost, tick=lost)
    for number in range(3):
        assert fetch(downloader, origin.put(f"/b/{number}", DATA))[1] == DATA


# Where connections go

PUBLIC = "93.184.216.34"


class Network:
    """Stands for DNS and routing: names have the addresses given here, and every connection ends at the origin."""

    def __init__(self, origin, *answers):
        self.origin = origin
        self.answers = list(answers)
        self.lookups = []
        self.connected = []
        self.dead = set()

    def resolve(self, host, port):
        self.lookups.append((host, port))
        addresses = self.answers.pop(0)
        return [(socket.AF_INET6 if ":" in address else socket.AF_INET, (address, port)) for address in addresses]

    def connect(self, family, address, timeout_seconds):
        self.connected.append(address)
        if address[0] in self.dead:
            raise TimeoutError
        return connector.connect(socket.AF_INET, ("127.0.0.1", self.origin.port), timeout_seconds)


@pytest.fixture(scope="module")
def tls_origin():
    with Origin(tls=True, names=["localhost", "127.0.0.1", "files.example.com"]) as origin:
        yield origin


@pytest.fixture
def make_public(tls_origin, make_downloader):
    """Makes a network with these answers of DNS, and a downloader without allowed hosts on it."""

    def make(*answers, **options):
        network = Network(tls_origin, *answers)
        options = {"ca_bundle": tls_origin.ca_file, "resolve": network.resolve, "connect": network.connect} | options
        return network, make_downloader("", **options)

    return make


def public_link(tls_origin, *answers):
    tls_origin.put(PATH, DATA, *answers)
    return f"https://files.example.com{PATH}"


def test_fetch_connects_to_the_address_that_was_checked(tls_origin, make_public):
    network, downloader = make_public([PUBLIC], ["127.0.0.1"])
    assert fetch(downloader, public_link(tls_origin))[1] == DATA
    assert network.lookups == [("files.example.com", 443)]
    assert network.connected == [(PUBLIC, 443)]
    assert tls_origin.requests(PATH)[0].headers["host"] == "files.example.com"


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.0.0.7", "169.254.169.254", "::1", "fe80::1", "::ffff:192.168.0.1", "64:ff9b::a00:1"]
)
def test_fetch_refuses_a_public_name_with_a_private_address_beside_a_public_one(tls_origin, make_public, address):
    network, downloader = make_public([PUBLIC, address])
    error = failure(downloader, public_link(tls_origin), LinkForbidden)
    assert error.message == "files.example.com has an address that is not public"
    assert network.connected == []


def test_fetch_refuses_a_name_that_turns_private_for_the_rest(tls_origin, make_public):
    network, downloader = make_public([PUBLIC], ["127.0.0.1"])
    failure(downloader, public_link(tls_origin, cut(5000), serve()), LinkForbidden)
    assert network.connected == [(PUBLIC, 443)]


def test_fetch_refuses_a_redirect_to_a_name_with_a_private_address(tls_origin, make_public):
    network, downloader = make_public([PUBLIC], ["192.168.0.1"])
    error = failure(downloader, public_link(tls_origin, redirect("https://printer.example.org/secret")), LinkForbidden)
    assert error.message == "printer.example.org has an address that is not public"
    assert network.connected == [(PUBLIC, 443)]


def test_fetch_refuses_a_redirect_to_a_private_address(tls_origin, make_public):
    _, downloader = make_public([PUBLIC])
    failure(downloader, public_link(tls_origin, redirect("https://192.168.0.1/secret")), LinkForbidden)


def test_fetch_refuses_a_redirect_from_https_to_http(origin, tls_origin, make_downloader):
    downloader = make_downloader(f"{origin.address}, {tls_origin.address}", ca_bundle=tls_origin.ca_file)
    link = tls_origin.put(PATH, b"", redirect(origin.put("/secret", DATA)))
    assert "from https to plain http" in failure(downloader, link, LinkForbidden).message
    assert origin.count("/secret") == 0


def test_fetch_tries_the_next_address_where_one_does_not_answer(tls_origin, make_public):
    network, downloader = make_public(["2606:4700::1", "2606:4700::2", "2606:4700::3", PUBLIC])
    network.dead = {"2606:4700::1", "2606:4700::2", "2606:4700::3"}
    assert fetch(downloader, public_link(tls_origin))[1] == DATA
    assert [address for address, _ in network.connected] == ["2606:4700::1", "2606:4700::2", PUBLIC]


def test_fetch_from_addresses_that_do_not_answer_says_so(tls_origin, make_public):
    network, downloader = make_public([PUBLIC])
    network.dead = {PUBLIC}
    error = failure(downloader, public_link(tls_origin), OriginUnavailable)
    assert error.message == "files.example.com cannot be reached: no answer"


@pytest.mark.parametrize(
    "error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long"), OSError("away")]
)
def test_fetch_from_a_name_that_cannot_be_looked_up_says_so(tls_origin, make_public, error):
    def resolve(host, port):
        raise error

    _, downloader = make_public(resolve=resolve)
    message = failure(downloader, public_link(tls_origin), OriginUnavailable).message
    assert message == "the name files.example.com cannot be looked up"


def test_fetch_from_a_name_whose_look_up_hangs_gives_up_after_the_connect_timeout(tls_origin, make_public, monkeypatch):
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answered.wait(30) and [])
    try:
        _, downloader = make_public(resolve=None, connect_timeout_seconds=0.2)
        error = failure(downloader, public_link(tls_origin), OriginUnavailable)
    finally:
        answered.set()
    assert error.message == "the name files.example.com cannot be looked up in time"


def test_fetch_from_a_name_without_addresses_says_so(tls_origin, make_public):
    _, downloader = make_public([])
    assert "has no address" in failure(downloader, public_link(tls_origin), OriginUnavailable).message


def test_fetch_from_a_port_where_nothing_listens_says_so(origin, make_downloader):
    link = origin.put(PATH, DATA)
    origin.close()
    assert "refused" in failure(make_downloader(), link, OriginUnavailable).message


def test_fetch_refuses_a_link_before_it_connects(origin, downloader):
    failure(downloader, "https://files.example.com/secret-path", LinkForbidden)
    assert origin.connections == 0


def test_fetch_keeps_connections_to_a_few_hosts_only(origin, make_downloader):
    network = Network(origin, *(["127.0.0.1"] for _ in range(100)))
    hosts = [f"h{number}.lan" for number in range(20)]
    downloader = make_downloader(", ".join(hosts), resolve=network.resolve, connect=network.connect)
    origin.put(PATH, DATA)
    for host in hosts:
        fetch(downloader, f"http://{host}{PATH}")
    wait_until(lambda: len(origin._open) == http_connections.KEPT_CONNECTIONS)
    fetch(downloader, f"http://{hosts[-1]}{PATH}")
    assert len(network.lookups) == 20


def test_close_ends_the_connections_of_every_thread(origin, downloader):
    link = origin.put(PATH, DATA)
    done, leave = threading.Barrier(4), threading.Event()

    def work():
        fetch(downloader, link)
        done.wait()
        leave.wait()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    done.wait()
    assert len(origin._open) == 3
    downloader.close()
    wait_until(lambda: not origin._open)
    leave.set()
    for thread in threads:
        thread.join()


# TLS


def test_fetch_over_tls_by_an_authority_of_ones_own(tls_origin, make_downloader):
    downloader = make_downloader(tls_origin.address, ca_bundle=tls_origin.ca_file)
    assert fetch(downloader, tls_origin.put(PATH, DATA))[1] == DATA


def test_fetch_over_tls_goes_on_where_it_was_cut(tls_origin, make_downloader):
    downloader = make_downloader(tls_origin.address, ca_bundle=tls_origin.ca_file)
    assert fetch(downloader, tls_origin.put(PATH, DATA, cut(50_000), serve()))[1] == DATA


def test_fetch_over_tls_does_not_take_a_cut_for_the_end(tls_origin, make_downloader):
    downloader = make_downloader(tls_origin.address, ca_bundle=tls_origin.ca_file)
    failure(downloader, tls_origin.put(PATH, DATA, cut(50_000), raw(b"")), TransferBroken)


def test_fetch_from_an_origin_that_nobody_vouches_for_is_refused_with_a_hint(tls_origin, make_downloader, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls_origin.ca_file)
    error = failure(make_downloader(tls_origin.address), tls_origin.put(PATH, DATA), OriginUnavailable)
    assert "certificate" in error.message
    assert "CBK_CA_BUNDLE" in error.hint


def test_fetch_from_a_host_that_the_certificate_does_not_name_is_refused(tls_origin, make_public):
    _, downloader = make_public([PUBLIC])
    tls_origin.put(PATH, DATA)
    error = failure(downloader, f"https://evil.example.org{PATH}", OriginUnavailable)
    assert "it is for another name" in error.message
    assert tls_origin.count(PATH) == 0


def test_fetch_over_tls_from_an_origin_without_it_says_so(make_downloader):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse():
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        error = failure(make_downloader(address), f"https://{address}{PATH}", OriginUnavailable)
        thread.join()
    assert error.message == f"{address} and this machine agree on no TLS connection (wrong version number)"


def test_fetch_over_tls_from_an_origin_that_never_shakes_hands_ends(make_downloader):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        downloader = make_downloader(address, connect_timeout_seconds=0.2)
        failure(downloader, f"https://{address}{PATH}", TransferBroken)


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_downloader_with_a_bad_ca_bundle_is_a_wrong_setting(tmp_path, content):
    bundle = tmp_path / "ca.pem"
    if content:
        bundle.write_text(content)
    with pytest.raises(SettingsError) as caught:
        Downloader(AllowedHosts(), ca_bundle=str(bundle))
    assert "expected a file of PEM certificates" in caught.value.problems[0]
