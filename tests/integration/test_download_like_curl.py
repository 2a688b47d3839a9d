"""What curl can fetch, the kit fetches: one table of answers and links, each asked for by both.

The first column of a verdict is what curl has, the second what the kit has. Where curl has the bytes and the kit has not,
the table names the rule of safety that is the reason.
"""

import base64
import hashlib
import hmac
import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from ipaddress import ip_address
from urllib.parse import quote

import pycurl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cbk.edges.download import Downloader
from cbk.errors import DownloadError
from cbk.rules.backup.links import AllowedHosts
from local_servers import S3, Server
from tests.origin import Origin, chunked, cut, raw, redirect, serve, status, until_close

DATA = os.urandom(3000)
LENGTH = b"Content-Length: %d\r\n" % len(DATA)
BOTH, KIT_ALONE, NEITHER = "both", "the kit alone", "neither"
KIT = "the kit, and curl in some of its versions"

# The rules by which the kit leaves what curl takes.
OTHER_STATUS = "only 200 is the object"
NO_BACKSLASH = "a backslash in a link is refused"
NO_PASSWORD = "a user name in a link is refused"
ODD_ADDRESS = "an address in another spelling than its own is refused"
LONG_LINK = "a link of more than 8192 characters is refused"
FEW_REDIRECTS = "a link is redirected five times at most"
OTHER_HOST = "a redirect leads to allowed hosts alone"
TWO_LENGTHS = "an answer of two lengths is refused"
RULES = {TWO_LENGTHS, OTHER_STATUS, NO_BACKSLASH, NO_PASSWORD, ODD_ADDRESS, LONG_LINK, FEW_REDIRECTS, OTHER_HOST}


def curl(link, *, ca_file=None):
    """What curl makes of a link, by the program where there is one and by the library otherwise; None where it fails."""
    program = shutil.which("curl")
    if program is None:
        return _libcurl(link, ca_file)
    trusted = ["--cacert", ca_file] if ca_file else []
    command = [program, "-q", "-gsSfL", "--noproxy", "*", "--max-time", "20", *trusted, "--", link]
    done = subprocess.run(command, capture_output=True, check=False, env={"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]})
    return done.stdout if done.returncode == 0 else None


def _libcurl(link, ca_file):
    easy, body = pycurl.Curl(), BytesIO()
    options = {"URL": link.encode(), "FOLLOWLOCATION": 1, "FAILONERROR": 1, "PROXY": "", "TIMEOUT": 20, "WRITEDATA": body}
    for name, value in options.items():
        easy.setopt(getattr(pycurl, name), value)
    if ca_file:
        easy.setopt(pycurl.CAINFO, ca_file)
    try:
        easy.perform()
    except pycurl.error:
        return None
    finally:
        easy.close()
    return body.getvalue()


class Sink(BytesIO):
    def expect(self, size):
        pass


def kit(link, allowed, *, ca_file=None):
    """What the kit makes of it; None where it fails."""
    sink = Sink()
    downloader = Downloader(
        AllowedHosts.parse(allowed), ca_bundle=ca_file, read_timeout_seconds=10, sleep=lambda _: None, jitter=lambda: 0.5
    )
    try:
        fetched = downloader.fetch(link, sink, tick=lambda _: None, now=lambda: datetime.now(UTC))
        if fetched.sha256 not in {None, hashlib.sha256(DATA).hexdigest()}:  # packed on the way: as a backup does then
            sink = Sink()
            downloader.fetch(link, sink, tick=lambda _: None, now=lambda: datetime.now(UTC), unpack=True)
    except DownloadError:
        return None
    finally:
        downloader.close()
    return sink.getvalue()


def verdict(theirs, ours, expected=DATA):
    """The table's word for what both have."""
    if ours not in {None, expected}:
        return "the kit has other bytes"
    if theirs is None:
        return NEITHER if ours is None else KIT_ALONE
    return BOTH if theirs == ours else "curl alone"


@dataclass
class Case:
    """An object at `path`, in the link's own spelling, with the answers to come, and a link to it."""

    name: str
    verdict: str
    answers: tuple = ()
    path: str = "/b/a.bin"
    link: str = "http://{host}{path}"
    more: dict = field(default_factory=dict)  # path -> answers, of what it is redirected to
    data: bytes = DATA
    allowed: str = "{host}, localhost:{port}"

    def __str__(self):
        return self.name.replace(" ", "-")


def head(*lines, status_line=b"HTTP/1.1 200 OK\r\n", body=DATA, length=LENGTH):
    return raw(status_line + b"".join(lines) + length + b"\r\n" + body)


def to(place, code=302):
    """A redirect whose Location is these very bytes."""
    return raw(b"HTTP/1.1 %d Found\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % (code, place))


def either(path):
    """A path in either spelling: which one an encoder chooses is its own."""
    return {path: (), re.sub("%..", lambda code: code[0].lower(), path): ()}


def in_chunks(*parts, end=b"0\r\n\r\n", coding=b"chunked"):
    return raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + coding + b"\r\n\r\n" + b"".join(parts) + end)


CHUNK = b"%x\r\n%b\r\n" % (len(DATA), DATA)


def rest(content_range, code=206, *, etag=True, body=None):
    """Answer a request for the rest with this range."""

    def answer(exchange):
        start = exchange.request.range_start
        fields = {"Content-Range": content_range.format(start=start, end=len(DATA) - 1, size=len(DATA))}
        if etag:
            fields["ETag"] = exchange.etag if etag is True else etag.format(exchange.etag)
        exchange.send(code, fields, exchange.data[start:] if body is None else body)
        return True

    return answer


CUT_AT_ITS_END = in_chunks(CHUNK, end=b"", coding=b'chunked\r\nETag: "a"')
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
TARGET = {"/t.bin": ()}

CASES = [
    # Links
    Case("plain", BOTH),
    Case("upper-case hex in the path", BOTH, path="/b/a%2Fb%C3%BC.bin"),
    Case("lower-case hex in the path", BOTH, path="/b/a%2fb%c3%bc.bin"),
    Case("mixed hex and needless encoding", BOTH, path="/b/%61%2f%7E%2D.bin"),
    Case("raw UTF-8 in the path", BOTH, link="http://{host}/b/grün-名.bin", more=either("/b/gr%C3%BCn-%E5%90%8D.bin")),
    Case("raw UTF-8 in the query", BOTH, link="http://{host}{path}?name=grün.bin"),
    Case("reserved signs", BOTH, path="/b/a+b&c=d;e,f@g:h$i!(j)*k'l~.bin"),
    Case("signs that should be encoded", BOTH, path='/b/a|b^c`d"e<f>g{h}[i].bin'),
    Case("doubled slashes", BOTH, path="/b//a///b.bin"),
    Case("path of slashes", BOTH, path="//"),
    Case("dots in a key", KIT_ALONE, path="/b/x/../a/./b.bin"),
    Case("encoded dots in a key", KIT, path="/b/x/%2E%2E/a.bin"),
    Case("question marks in the query", BOTH, link="http://{host}{path}?a=b?c=d?"),
    Case("empty query", BOTH, link="http://{host}{path}?"),
    Case("no path", BOTH, path="/", link="http://{host}"),
    Case("no path, a query", BOTH, path="/", link="http://{host}?a=/b/../c"),
    Case("fragment", BOTH, link="http://{host}{path}#part?a=b"),
    Case("scheme in capitals", BOTH, link="HTTP://{host}{path}"),
    Case("host in capitals", BOTH, link="http://LocalHost:{port}{path}"),
    Case("host with a closing dot", KIT, link="http://localhost.:{port}{path}"),
    Case("link of 8000 characters", BOTH, link="http://{host}{path}?sig=" + "a" * 7950),
    Case("link of 9000 characters", LONG_LINK, link="http://{host}{path}?sig=" + "a" * 9000),
    Case("space in the link", NEITHER, path="/b/a%20b", link="http://{host}/b/a b"),
    Case("backslash in the link", NO_BACKSLASH, path="/b/a\\b"),
    Case("user name and password", NO_PASSWORD, link="http://user:secret@{host}{path}"),
    Case("address in short", ODD_ADDRESS, link="http://127.1:{port}{path}"),
    Case("address as a number", ODD_ADDRESS, link="http://2130706433:{port}{path}"),
    # Heads
    Case("100 before it", BOTH, (raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n" + LENGTH + b"\r\n" + DATA),)),
    Case("102 before it", BOTH, (raw(b"HTTP/1.1 102 -\r\n\r\nHTTP/1.1 200 OK\r\n" + LENGTH + b"\r\n" + DATA),)),
    Case("103 before it", BOTH, (raw(EARLY + b"HTTP/1.1 200 OK\r\n" + LENGTH + b"\r\n" + DATA),)),
    Case("103 five times", BOTH, (raw(EARLY * 5 + b"HTTP/1.1 200 OK\r\n" + LENGTH + b"\r\n" + DATA),)),
    Case("110 headers", BOTH, (head(*(b"x-amz-meta-%d: v\r\n" % number for number in range(110))),)),
    Case("2000 headers", BOTH, (head(*(b"x-amz-meta-%d: v\r\n" % number for number in range(2000))),)),
    Case("header of 90 kB", BOTH, (head(b"X-Long: " + b"a" * 90_000 + b"\r\n"),)),
    Case("headers of 400 kB", NEITHER, (head(*(b"X-%d: " % number + b"a" * 4000 + b"\r\n" for number in range(100))),)),
    Case("header name beyond ASCII", BOTH, (head("x-amz-meta-größe: 1\r\n".encode()),)),
    Case("header name in Latin-1", BOTH, (head("x-amz-meta-größe: 1\r\n".encode("latin-1")),)),
    Case("header value in UTF-8", BOTH, (head("x-amz-meta-a: größe 名\r\n".encode()),)),
    Case("header value in Latin-1", BOTH, (head("x-amz-meta-a: größe\r\n".encode("latin-1")),)),
    Case("header without a value", BOTH, (head(b"X-Empty:\r\n"),)),
    Case("header with an empty name", BOTH, (head(b": value\r\n"),)),
    Case("header without a colon", NEITHER, (head(b"no colon here\r\n"),)),
    Case("header with a NUL", NEITHER, (head(b"X-A: a\0b\r\n"),)),
    Case("header on two lines", BOTH, (head(b"X-Folded: a\r\n  b\r\n"),)),
    Case("length on two lines", KIT, (head(length=b"Content-Length:\r\n %d\r\n" % len(DATA)),)),
    Case("blanks around the length", BOTH, (head(length=b"Content-Length:  \t %d \t \r\n" % len(DATA)),)),
    Case("no blank before a value", BOTH, (head(length=b"Content-Length:%d\r\n" % len(DATA)),)),
    Case("names in lower case", BOTH, (head(length=b"content-length: %d\r\n" % len(DATA)),)),
    Case("same length twice", BOTH, (head(LENGTH),)),
    Case("two lengths", TWO_LENGTHS, (head(b"Content-Length: 5\r\n"),)),
    Case("length with leading zeros", BOTH, (head(length=b"Content-Length: 000%d\r\n" % len(DATA)),)),
    Case("length that is no number", NEITHER, (head(length=b"Content-Length: many\r\n"),)),
    Case("negative length", NEITHER, (head(length=b"Content-Length: -3\r\n"),)),
    Case("lines that end without CR", BOTH, (raw(b"HTTP/1.1 200 OK\nContent-Length: %d\n\n" % len(DATA) + DATA),)),
    Case("status without a reason", BOTH, (head(status_line=b"HTTP/1.1 200\r\n"),)),
    Case("reason beyond ASCII", BOTH, (head(status_line="HTTP/1.1 200 Schön\r\n".encode()),)),
    Case("HTTP/1.0 with a length", BOTH, (head(status_line=b"HTTP/1.0 200 OK\r\n"),)),
    Case("no HTTP", NEITHER, (raw(DATA),)),
    Case("Connection: close", BOTH, (head(b"Connection: close\r\n"),)),
    Case("cookies and other services", BOTH, (head(b'Set-Cookie: a=b\r\nAlt-Svc: h3=":1"\r\nRefresh: 0\r\n'),)),
    # Bodies
    Case("empty", BOTH, data=b""),
    Case("empty to the end of the connection", BOTH, (raw(b"HTTP/1.0 200 OK\r\n\r\n"),), data=b""),
    Case("to the end of the connection", BOTH, (until_close(),)),
    Case("chunks", BOTH, (chunked(777),)),
    Case("chunks with trailers", BOTH, (chunked(777, trailers=[b"X-Checksum: abc\r\n", b"X-Other: d\r\n"]),)),
    Case("chunks with extensions", BOTH, (in_chunks(b"%x;name=value\r\n%b\r\n" % (len(DATA), DATA)),)),
    Case("chunk sizes with zeros and capitals", BOTH, (in_chunks(b"0000%X\r\n%b\r\n" % (len(DATA), DATA)),)),
    Case("chunked in capitals", BOTH, (in_chunks(CHUNK, coding=b"Chunked"),)),
    Case("chunked with blanks", BOTH, (in_chunks(CHUNK, coding=b"  chunked  "),)),
    Case("chunks and a length", BOTH, (in_chunks(CHUNK, coding=b"chunked\r\nContent-Length: 7"),)),
    Case("chunks that end in the middle", NEITHER, (in_chunks(CHUNK[:-100], end=b""),)),
    Case("transfer coding gzip", NEITHER, (in_chunks(CHUNK, coding=b"gzip, chunked"),)),
    Case("stored as gzip", BOTH, (serve(Content_Encoding="gzip"),)),
    Case("stored as br", BOTH, (serve(Content_Encoding="br"),)),
    Case("stored as something unknown", BOTH, (serve(Content_Encoding="aws-chunked, x-other"),)),
    Case("more than announced", BOTH, (head(body=DATA + b"more"),)),
    Case("less than announced", NEITHER, (head(body=DATA[:-1]),)),
    Case("cut once", KIT_ALONE, (cut(1000), serve())),
    Case("reset once", KIT_ALONE, (cut(1000, reset=True), serve())),
    Case("hung up at once", KIT_ALONE, (raw(b""), serve())),
    Case("cut, the rest of unknown size", KIT_ALONE, (cut(1000), rest("bytes {start}-{end}/*"))),
    Case("cut, the rest with blanks", KIT_ALONE, (cut(1000), rest("bytes  {start} - {end} / {size}"))),
    Case("cut, the rest with a weakened ETag", KIT_ALONE, (cut(1000), rest("bytes {start}-{end}/{size}", etag="W/{}"))),
    Case("cut, the rest begins earlier", KIT_ALONE, (cut(1000), rest("bytes 0-{end}/{size}", body=DATA))),
    Case("cut at its end", KIT_ALONE, (CUT_AT_ITS_END, rest("bytes */{size}", 416, etag=False, body=b"<Error/>"))),
    # Statuses
    Case("404", NEITHER, (status(404),)),
    Case("403", NEITHER, (status(403),)),
    Case("500", NEITHER, (status(500),)),
    Case("203", OTHER_STATUS, (status(203, DATA),)),
    Case("204", OTHER_STATUS, (raw(b"HTTP/1.1 204 -\r\n\r\n"),), data=b""),
    Case("part of it unasked", OTHER_STATUS, (status(206, DATA, Content_Range="bytes 0-2999/9000"),)),
    Case("300", OTHER_STATUS, (status(300, DATA),)),
    # Redirects
    *(Case(f"redirect {code}", BOTH, (redirect("/t.bin", code),), more=TARGET) for code in (301, 302, 303, 307, 308)),
    Case("redirect to a whole link", BOTH, (redirect("http://{host}/t.bin"),), more=TARGET),
    Case("redirect without the scheme", BOTH, (redirect("//{host}/t.bin"),), more=TARGET),
    Case("redirect beside it", BOTH, (redirect("t.bin"),), more={"/b/t.bin": ()}),
    Case("redirect by dots", BOTH, (redirect("../../t.bin"),), more=TARGET),
    Case("redirect by dots within", BOTH, (redirect("/x/./y/../../t.bin"),), more=TARGET),
    Case("redirect to another query", BOTH, (redirect("?a=b"), serve())),
    Case("redirect to doubled slashes", BOTH, (redirect("/x//t.bin"),), more={"/x//t.bin": ()}),
    Case("redirect to lower-case hex", BOTH, (redirect("/x%2ft.bin?s=%2f"),), more={"/x%2ft.bin": ()}),
    Case("redirect with a fragment", BOTH, (redirect("/t.bin#part"),), more=TARGET),
    Case("redirect in raw UTF-8", BOTH, (to("/grün 名.bin".encode()),), more=either("/gr%C3%BCn%20%E5%90%8D.bin")),
    Case("redirect in raw Latin-1", BOTH, (to("/grün.bin".encode("latin-1")),), more=either("/gr%FCn.bin")),
    Case("redirect with raw UTF-8 in the query", BOTH, (to("/t.bin?n=grün".encode()),), more=TARGET),
    Case("redirect after a 103", BOTH, (raw(EARLY + b"HTTP/1.1 302 -\r\nLocation: /t.bin\r\n\r\n"),), more=TARGET),
    Case("redirect to nowhere", OTHER_STATUS, (status(302, DATA),)),
    Case("redirect in a circle", NEITHER, (redirect("/b/a.bin"),)),
    Case("redirected six times", FEW_REDIRECTS, (*(redirect("/b/a.bin") for _ in range(6)), serve())),
    Case("redirect to another host", OTHER_HOST, (redirect("http://localhost:{port}/t.bin"),), more=TARGET, allowed="{host}"),
]


@pytest.fixture(scope="module")
def ask():
    """Both ask for a case's link, each from an origin of its own that answers from the start."""

    def ask(case):
        found = []
        for client in (curl, kit):
            with Origin() as origin:
                for path, answers in ({case.path: case.answers} | case.more).items():
                    origin.put_as_is(path, case.data, *(_at(answer, origin) for answer in answers))
                link = _fill(case.link, origin).replace("{path}", case.path)
                found.append(client(link) if client is curl else client(link, _fill(case.allowed, origin)))
        return verdict(*found, expected=case.data)

    return ask


def _at(answer, origin):
    """An answer whose Location names the origin."""

    def answer_at(exchange):
        send = exchange.send

        def send_there(code, headers, body=b""):
            there = {name: _fill(value, origin) for name, value in headers.items()}
            send(code, there, body)

        exchange.send = send_there
        return answer(exchange)

    return answer_at


def _fill(value, origin):
    return value.replace("{host}", origin.address).replace("{port}", str(origin.port)) if isinstance(value, str) else value


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_curl_has_the_kit_has(ask, case):
    expected = {KIT: {BOTH, KIT_ALONE}, **{rule: {"curl alone"} for rule in RULES}}
    assert ask(case) in expected.get(case.verdict, {case.verdict})


def test_table_is_long_enough_and_names_each_case_once():
    assert len({case.name for case in CASES}) == len(CASES) >= 60


# A real S3 server

BUCKET = "car-erp"
METADATA = {f"m{number:03}": "v" for number in range(110)}
KEYS = {
    "plain": "cars/a.bin",
    "folders encoded": "cars/id-1/x y/a.bin",
    "UTF-8": "ä/Straße/名前.bin",
    "signs": "a=b/c~d'e(f)!*;:@,$&+.bin",
    "percent": "100%/%2F/a%20b.bin",
    "question and hash": "a?b#c.bin",
    "doubled slashes": "cars//id//a.bin",
    "no extension": "cars/README",
}


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory):
    """A SeaweedFS with an object under each key, and one that is stored as gzip."""
    with S3(tmp_path_factory.mktemp("s3")) as server:
        server.create_bucket(BUCKET)
        client = server.client()
        for key in KEYS.values():
            client.put_object(Bucket=BUCKET, Key=key, Body=DATA, Metadata=METADATA)
        client.put_object(Bucket=BUCKET, Key="text.html", Body=DATA, ContentEncoding="gzip", ContentType="text/html")
        yield server


def lower_hex(text):
    return re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), text)


def sigv4(server, key, seconds=600):
    return server.client().generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": key}, ExpiresIn=seconds)


def sigv2(server, key, *, spelled=quote):
    """Signed by the path in the very spelling of the link, as AWS' Signature 2 is."""
    path, expires = f"/{BUCKET}/{spelled(key)}", int(time.time()) + 600
    text = f"GET\n\n\n{expires}\n{path}".encode()
    signature = base64.b64encode(hmac.new(server.secret_key.encode(), text, hashlib.sha1).digest()).decode()
    query = f"AWSAccessKeyId={server.access_key}&Expires={expires}&Signature={quote(signature, safe='')}"
    return f"{server.endpoint}{path}?{query}"


def encoded_slashes(key):
    return lower_hex(quote(key, safe=""))


SIGNED = {
    "v4": sigv4,
    "v4 with its slashes encoded": lambda server, key: sigv4(server, key).replace(quote(key), quote(key, safe="")),
    "v4 in lower-case hex": lambda server, key: lower_hex(sigv4(server, key)),
    "v2": sigv2,
    "v2 in lower-case hex": lambda server, key: sigv2(server, key, spelled=lambda text: lower_hex(quote(text))),
    "v2 with its slashes in lower-case hex": lambda server, key: sigv2(server, key, spelled=encoded_slashes),
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("sign", SIGNED.values(), ids=SIGNED)
def test_signed_link_of_a_real_server_is_fetched_where_curl_does(seaweed, sign, key):
    link = sign(seaweed, key)
    assert verdict(curl(link), kit(link, f"127.0.0.1:{seaweed.port}")) in {BOTH, NEITHER}


@pytest.mark.parametrize("sign", [sigv4, sigv2, SIGNED["v2 in lower-case hex"]])
def test_signed_link_with_110_metadata_entries_is_fetched(seaweed, sign):
    assert kit(sign(seaweed, KEYS["UTF-8"]), f"127.0.0.1:{seaweed.port}") == DATA


def test_object_that_is_stored_as_gzip_is_fetched_as_stored(seaweed):
    link = sigv4(seaweed, "text.html")
    assert verdict(curl(link), kit(link, f"127.0.0.1:{seaweed.port}")) == BOTH


@pytest.mark.parametrize("link", [lambda link: link[:-3] + "abc", lambda link: link.replace("/cars/", "/other/")])
def test_altered_link_of_a_real_server_is_for_neither(seaweed, link):
    altered = link(sigv4(seaweed, KEYS["plain"]))
    assert verdict(curl(altered), kit(altered, f"127.0.0.1:{seaweed.port}")) == NEITHER


# nginx

NGINX = """
daemon off; master_process off; error_log stderr crit; pid {folder}/nginx.pid;
events {{ }}
http {{
    access_log off; default_type application/octet-stream; merge_slashes on;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/www;
        location /packed/ {{ alias {folder}/www/; gzip on; gzip_types *; gzip_min_length 1; gzip_proxied any; }}
        location /slow/ {{ alias {folder}/www/; limit_rate 20k; }}
        location /moved/ {{ rewrite ^/moved(/.*)$ $1 permanent; }}
        location /through/ {{ proxy_pass http://127.0.0.1:{port}/; }}
        location /old/ {{ proxy_pass http://127.0.0.1:{port}/; proxy_http_version 1.0; chunked_transfer_encoding off; }}
        location /named/ {{ alias {folder}/www/; add_header X-Größe 1; add_header Content-Disposition attachment; }}
        location /gone/ {{ return 410; }}
        location /early/ {{ return 302 /cars/a.bin; }}
    }}
}}
"""
NGINX_PATHS = {
    "/cars/a.bin": BOTH,
    "/cars//a.bin": BOTH,
    "/cars/%61%2ebin": BOTH,
    "/gr%c3%bcn%20%E5%90%8D.bin": BOTH,
    "/packed/cars/a.bin": BOTH,
    "/slow/cars/a.bin": BOTH,
    "/moved/cars/a.bin": BOTH,
    "/moved/gr%c3%bcn%20%E5%90%8D.bin": BOTH,
    "/through/cars/a.bin": BOTH,
    "/through/packed/cars/a.bin": BOTH,
    "/old/cars/a.bin": BOTH,
    "/named/cars/a.bin": BOTH,
    "/early/x": BOTH,
    "/gone/x": NEITHER,
    "/cars": NEITHER,
    "/none": NEITHER,
}


class Nginx(Server):
    name = "nginx"

    def prepare(self):
        super().prepare()
        for path in ("cars/a.bin", "grün 名.bin"):
            file = self.folder / "www" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(DATA)
        (self.folder / "nginx.conf").write_text(NGINX.format(folder=self.folder, port=self.port), encoding="utf-8")

    def command(self):
        return [shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"), "-c", str(self.folder / "nginx.conf")]

    def is_ready(self):
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False


@pytest.fixture(scope="module")
def nginx(tmp_path_factory):
    if shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("NGINX IS NOT TESTED: scripts/test-tools installs it, as root on Debian")
    with Nginx(tmp_path_factory.mktemp("nginx")) as server:
        yield server


@pytest.mark.parametrize(("path", "expected"), NGINX_PATHS.items(), ids=NGINX_PATHS)
def test_what_curl_has_from_nginx_the_kit_has(nginx, path, expected):
    link = f"http://127.0.0.1:{nginx.port}{path}"
    assert verdict(curl(link), kit(link, f"127.0.0.1:{nginx.port}")) == expected


# TLS


def certificate(folder, *, days=30, name="127.0.0.1", authority_is_bare=False, only_common_name=False):
    """A server's context and the file of its authority, which may say as little as older tools have it say."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)

    def build(subject, issuer, public_key):
        builder = x509.CertificateBuilder().subject_name(_name(subject)).issuer_name(_name(issuer)).public_key(public_key)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=60))
        return builder.not_valid_after(now + timedelta(days=days))

    authority = build("authority", "authority", key.public_key())
    authority = authority.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=not authority_is_bare)
    if not authority_is_bare:
        usage = dict.fromkeys(USAGES, False) | {"key_cert_sign": True, "crl_sign": True}
        authority = authority.add_extension(x509.KeyUsage(**usage), critical=True)
        authority = authority.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    own = ec.generate_private_key(ec.SECP256R1())
    ours = build(name, "authority", own.public_key())
    if not only_common_name:
        alternative = [x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name)]
        ours = ours.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
    (folder / "ca.pem").write_bytes(authority.sign(key, SHA256()).public_bytes(Encoding.PEM))
    private = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.pem").write_bytes(private + ours.sign(key, SHA256()).public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context, str(folder / "ca.pem")


USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
    "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


def _name(text):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, BOTH),
        ({"authority_is_bare": True}, BOTH),  # what Python 3.13 by itself would not take
        ({"days": -1}, NEITHER),
        ({"name": "127.0.0.2"}, NEITHER),
        ({"name": "files.example.com"}, NEITHER),
    ],
    ids=str,
)
def test_what_curl_has_over_tls_the_kit_has(tmp_path, options, expected):
    with Origin(tls=True) as origin:
        origin._tls, ca_file = certificate(tmp_path, **options)
        link = origin.put("/a.bin", DATA)
        assert verdict(curl(link, ca_file=ca_file), kit(link, origin.address, ca_file=ca_file)) == expected


def test_authority_that_was_not_named_is_trusted_by_neither(tmp_path):
    with Origin(tls=True) as origin:
        link = origin.put("/a.bin", DATA)
        _, other = certificate(tmp_path)
        assert verdict(curl(link), kit(link, origin.address)) == NEITHER
        assert verdict(curl(link, ca_file=other), kit(link, origin.address, ca_file=other)) == NEITHER


@pytest.mark.parametrize("answer", [until_close(), chunked(1000, cut_after=1500)])
def test_tls_that_ends_without_a_goodbye_ends_the_object_where_nothing_else_says_its_length(answer):
    with Origin(tls=True) as origin:
        link = origin.put("/a.bin", DATA, answer)
        expected = DATA if answer.__qualname__.startswith("until_close") else None
        assert kit(link, origin.address, ca_file=origin.ca_file) == expected
