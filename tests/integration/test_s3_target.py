"""Restoring to S3, tried on a real S3 server; what other endpoints do differently, on a gateway in front of it."""

import hashlib
import os
import threading
import tracemalloc
import uuid
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError

from cbk.edges.destinations.objects import MIB
from cbk.edges.destinations.s3 import S3Destination
from cbk.errors import CopyCorrupt, DestinationError, DestinationUnavailable, UsageError
from cbk.model import RestoreItem
from local_servers import free_port
from tests.origin import Origin

PART = 5 * MIB  # S3 allows no smaller ones but the last
LARGE = os.urandom(PART + 1000)
KEYS = [
    "a",
    "cars/id-1/thumbnail.png",
    "ä/Straße/名前.jpg",
    "😀/x y+z%20&?#=.txt",
    "a=b/c~d'e(f)!*;:@,$",
    ".hidden",
    f"{'x' * 250}/{'y' * 250}",
]


def item(content, key="cars/id-1/thumbnail.png", **changes):
    values = {
        "storage": "s3",
        "bucket": "car-erp",
        "key": key,
        "number": 1,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "location": "car-erp/cars/id-1/thumbnail/v1.gzip",
        "path": f"car-erp/{key}",
    }
    return RestoreItem(**values | changes)


def in_chunks(content, size=256 * 1024):
    for at in range(0, len(content), size):
        yield content[at : at + size]


class Place:
    """A prefix in a bucket, as others see it; keys are those below the prefix."""

    def __init__(self, client, bucket):
        self.client = client
        self.bucket = bucket
        self.prefix = uuid.uuid4().hex

    def item(self, content, key="cars/id-1/thumbnail.png", **changes):
        """A file that is to be restored to here, its key beginning with the prefix."""
        return item(content, f"{self.prefix}/{key}", **changes)

    def named(self, key):
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{key}"}

    def get(self, key):
        return self.client.get_object(**self.named(key))

    def body(self, key):
        return self.get(key)["Body"].read()

    def put(self, key, content, **about):
        self.client.put_object(**self.named(key), Body=content, **about)

    def keys(self):
        found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix).get("Contents", [])
        return [each["Key"].removeprefix(f"{self.prefix}/") for each in found]

    def uploads(self):
        return self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=self.prefix).get("Uploads", [])


@pytest.fixture(scope="module", autouse=True)
def person(s3, tmp_path_factory):
    """The environment of somebody who restores, and none of this machine's own."""
    none = str(tmp_path_factory.mktemp("aws") / "none")
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            environment.delenv(name)
        environment.setenv("AWS_CONFIG_FILE", none)
        environment.setenv("AWS_SHARED_CREDENTIALS_FILE", none)
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        environment.setenv("NO_PROXY", "127.0.0.1")
        environment.setenv("AWS_ENDPOINT_URL", s3.endpoint)
        environment.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
        environment.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
        yield


@pytest.fixture(scope="module")
def bucket(s3):
    """One for all tests: the server takes a second to make one."""
    name = f"test-{uuid.uuid4().hex}"
    s3.create_bucket(name)
    return name


@pytest.fixture(scope="module")
def client(s3):
    return s3.client()


@pytest.fixture
def place(client, bucket):
    return Place(client, bucket)


@pytest.fixture
def open_destination(bucket):
    """A function that opens a target with the environment as it is."""
    targets = []

    def make(url=f"s3://{bucket}", **options):
        targets.append(S3Destination(url, **{"part_size": PART, "attempts": 1, **options}))
        return targets[-1]

    yield make
    for target in targets:
        target.close()


@pytest.fixture(scope="module")
def target(person, bucket):
    """The one that most tests share: opening one takes a while."""
    target = S3Destination(f"s3://{bucket}", part_size=PART, attempts=1)
    yield target
    target.close()


# What is sent


@pytest.mark.parametrize("key", KEYS, ids=range(len(KEYS)))
def test_object_has_its_bytes_under_its_key(target, place, key):
    target.write(place.item(b"content", key), [b"con", b"tent"])
    assert place.keys() == [key]
    assert place.body(key) == b"content"


def test_prefix_of_the_address_stands_before_the_key(open_destination, place, bucket):
    open_destination(f"s3://{bucket}/{place.prefix}/back/").write(item(b"x", "a/b"), [b"x"])
    assert place.keys() == ["back/a/b"]


def test_bucket_may_be_that_of_each_file(open_destination, place, bucket):
    target = open_destination(f"s3://{{bucket}}/{place.prefix}/{{bucket}}")
    target.write(item(b"1", "a", bucket=bucket), [b"1"])
    with pytest.raises(DestinationError, match="no such bucket"):
        target.write(item(b"2", "a", bucket=f"no-{uuid.uuid4().hex}"), [b"2"])
    assert place.keys() == [f"{bucket}/a"]


def test_empty_object_is_one(target, place):
    empty = place.item(b"", "nothing")
    target.write(empty, [])
    assert place.body("nothing") == b""
    assert target.holds(empty)


@pytest.mark.parametrize("content", [b"small", LARGE], ids=["one request", "parts"])
def test_content_type_of_the_row_is_kept(target, place, content):
    target.write(place.item(content, content_type="image/webp; x=y"), in_chunks(content))
    assert place.get("cars/id-1/thumbnail.png")["ContentType"] == "image/webp; x=y"


@pytest.mark.parametrize(("key", "expected"), [("a.png", "image/png"), ("a", "application/octet-stream")])
def test_content_type_is_guessed_where_the_row_has_none(target, place, key, expected):
    target.write(place.item(b"x", key), [b"x"])
    assert place.get(key)["ContentType"] == expected


def test_notes_say_whose_bytes_they_are(target, place):
    target.write(place.item(b"abc", "a"), [b"abc"])
    expected = {"cbk-sha256": hashlib.sha256(b"abc").hexdigest(), "cbk-etag": "900150983cd24fb0d6963f7d28e17f72"}
    assert place.get("a")["Metadata"] == expected


@pytest.mark.parametrize(("size", "parts"), [(PART, None), (PART + 1, 2), (2 * PART, 2)])
def test_large_object_goes_up_in_parts(target, place, size, parts):
    content = (LARGE + LARGE)[:size]
    target.write(place.item(content, "large"), in_chunks(content))
    found = place.get("large")
    assert found["Body"].read() == content
    assert found["ETag"].strip('"').partition("-")[2] == (str(parts) if parts else "")
    assert target.holds(place.item(content, "large"))
    assert place.uploads() == []


def test_memory_is_flat_in_the_size_of_the_object(target, place):
    content = b"".join(hashlib.sha256(bytes([number])).digest() * 32_768 for number in range(40))
    large = place.item(content, "large")
    target.write(place.item(b"first"), [b"first"])
    tracemalloc.start()
    try:
        target.write(large, in_chunks(content))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert large.size == 40 * MIB
    assert peak < 4 * PART


def test_many_threads_share_a_target(target, place):
    items = [place.item(f"content {number}".encode(), f"many/{number:02}") for number in range(40)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda one: target.write(one, [f"content {int(one.key[-2:])}".encode()]), items))
        assert all(threads.map(target.holds, items))
    assert place.keys() == [f"many/{number:02}" for number in range(40)]


# What is not sent


class Broken(Exception):
    pass


@pytest.mark.parametrize("content", [b"small", LARGE], ids=["one request", "parts"])
@pytest.mark.parametrize(
    "error", [CopyCorrupt("is damaged"), Broken(), KeyboardInterrupt()], ids=lambda error: type(error).__name__
)
def test_copy_that_turns_out_bad_leaves_nothing(target, place, content, error):
    def chunks():
        yield from in_chunks(content)
        raise error

    with pytest.raises(type(error)):
        target.write(place.item(content), chunks())
    assert (place.keys(), place.uploads()) == ([], [])


@pytest.mark.parametrize("content", [b"small", LARGE], ids=["one request", "parts"])
def test_good_copy_of_other_bytes_leaves_nothing(target, place, content):
    with pytest.raises(CopyCorrupt):
        target.write(place.item(content), in_chunks(b"X" + content[1:]))
    assert (place.keys(), place.uploads()) == ([], [])


@pytest.mark.parametrize("key", ["a/../b", "\ud800", "x" * 1025])
def test_key_that_s3_does_not_have_is_refused(target, place, key):
    with pytest.raises(DestinationError) as refused:
        target.write(place.item(b"x", key), [b"x"])
    assert "folder" in refused.value.hint
    assert place.keys() == []


# What is there already


def test_absent_object_is_not_held(target, place):
    assert not target.holds(place.item(b"x"))


def test_object_that_somebody_else_put_is_read(target, place):
    place.put("a", b"same bytes")
    assert target.holds(place.item(b"same bytes", "a"))


@pytest.mark.parametrize("there", [b"other bytes", b"same byteX", b""])
def test_other_object_is_never_replaced(target, place, there):
    place.put("a", there)
    wanted = place.item(b"same bytes", "a")
    with pytest.raises(DestinationError, match="already"):
        target.holds(wanted)
    with pytest.raises(DestinationError, match="already"):
        target.write(wanted, [b"same bytes"])
    assert place.body("a") == there


@pytest.mark.parametrize("content", [b"small", LARGE], ids=["one request", "parts"])
def test_other_object_is_replaced_where_that_is_allowed(open_destination, place, content):
    target = open_destination(overwrite=True)
    place.put("a", b"other")
    wanted = place.item(content, "a")
    assert not target.holds(wanted)
    target.write(wanted, in_chunks(content))
    assert place.body("a") == content
    assert target.holds(wanted)


def test_note_is_not_believed_of_bytes_that_were_replaced_under_it(target, place):
    wanted = place.item(b"right bytes", "a")
    target.write(wanted, [b"right bytes"])
    place.put("a", b"wrong bytes", Metadata=place.get("a")["Metadata"])
    with pytest.raises(DestinationError, match="already"):
        target.holds(wanted)


def test_note_on_parts_is_not_believed_of_an_object_in_one(target, place):
    wanted = place.item(LARGE, "a")
    target.write(wanted, in_chunks(LARGE))
    place.put("a", b"X" + LARGE[1:], Metadata=place.get("a")["Metadata"])
    with pytest.raises(DestinationError, match="already"):
        target.holds(wanted)


def appearing(place, content, there):
    """Chunks, before the last of which somebody else puts an object."""
    *first, last = in_chunks(content)
    yield from first
    place.put("a", there)
    yield last


@pytest.mark.parametrize("content", [b"small", LARGE], ids=["one request", "parts"])
def test_object_that_appears_meanwhile_is_not_replaced(target, place, content):
    with pytest.raises(DestinationError, match="already"):
        target.write(place.item(content, "a"), appearing(place, content, b"the application's own"))
    assert place.body("a") == b"the application's own"
    assert place.uploads() == []


@pytest.mark.parametrize("content", [b"small", LARGE], ids=["one request", "parts"])
def test_same_object_that_appears_meanwhile_is_as_good(target, place, content):
    target.write(place.item(content, "a"), appearing(place, content, content))
    assert place.body("a") == content
    assert place.uploads() == []


# What goes wrong


def refusal(open_destination, url="s3://some-bucket", **options):
    """The error of a target that cannot be used, after a look at what it says."""
    target = open_destination(url, **options)
    with pytest.raises(DestinationUnavailable) as refused:
        target.write(item(b"x"), [b"x"])
    with pytest.raises(DestinationUnavailable) as again:
        target.holds(item(b"x"))
    said = f"{refused.value}{refused.value.hint}"
    assert said == f"{again.value}{again.value.hint}"
    assert refused.value.hint
    assert "://" not in said
    assert os.environ.get("AWS_SECRET_ACCESS_KEY", "-none-") not in said
    return said


def test_missing_bucket_is_named_and_not_made(open_destination, s3):
    name = f"no-{uuid.uuid4().hex}"
    assert "no such bucket" in refusal(open_destination, f"s3://{name}")
    with pytest.raises(ClientError):
        s3.client().head_bucket(Bucket=name)


def test_bucket_name_that_cannot_be_is_said(open_destination):
    assert "bucket name" in refusal(open_destination, "s3://no bucket")


def test_wrong_secret_key_is_said(open_destination, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong" * 8)
    assert "secret key" in refusal(open_destination)


def test_unknown_access_key_is_said(open_destination, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODY")
    assert "access key" in refusal(open_destination)


def test_missing_credentials_are_said(open_destination, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "AWS_ACCESS_KEY_ID" in refusal(open_destination)


def test_endpoint_that_is_down_is_said(open_destination, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    assert "AWS_ENDPOINT_URL" in refusal(open_destination)


def test_certificate_that_is_not_trusted_is_said(open_destination, monkeypatch):
    with Origin(tls=True) as stranger:
        monkeypatch.setenv("AWS_ENDPOINT_URL", stranger.url(""))
        assert "AWS_CA_BUNDLE" in refusal(open_destination)


@pytest.mark.parametrize(("name", "value"), [("AWS_ENDPOINT_URL", "no address"), ("AWS_PROFILE", "nobody")])
def test_settings_that_make_no_sense_are_wrong_usage(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as refused:
        S3Destination("s3://some-bucket")
    assert name in refused.value.hint


# Other endpoints


class Gateway:
    """Passes requests on to the S3 server, signatures and all, but for what `before` and `after` do to requests and answers.

    `before(method, target, headers)` may give an answer of its own: (status, body). `after(method, headers, body)` gives the body
    to answer with, None for hanging up, and may change the answer's headers.
    """

    def __init__(self, server):
        self.before = lambda method, target, headers: None
        self.after = lambda method, headers, body: body
        self.seen = []
        upstream, gateway = urlsplit(server.endpoint).netloc, self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                gateway.seen.append((self.command, self.path))
                if refused := gateway.before(self.command, self.path, self.headers):
                    return self.reply(refused[0], {"Content-Type": "application/xml"}, refused[1].encode())
                connection = HTTPConnection(upstream)
                connection.request(self.command, self.path, sent, dict(self.headers))
                response = connection.getresponse()
                headers, body = dict(response.getheaders()), response.read()
                connection.close()
                body = gateway.after(self.command, headers, body)
                if body is None:
                    self.close_connection = True
                    return None
                return self.reply(response.status, headers, body)

            def reply(self, status, headers, body):
                self.send_response_only(status)
                kept = {name: value for name, value in headers.items() if name not in {"Content-Length", "Transfer-Encoding"}}
                length = headers.get("Content-Length", 0) if self.command == "HEAD" else len(body)
                for name, value in {**kept, "Content-Length": length}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - the names that the base class wants

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def gateway(s3, monkeypatch):
    gateway = Gateway(s3)
    monkeypatch.setenv("AWS_ENDPOINT_URL", gateway.url)
    yield gateway
    gateway.close()


@pytest.fixture
def through(gateway, open_destination):
    """A target behind the gateway."""
    return open_destination()


def error(code):
    return f"<Error><Code>{code}</Code><Message>said by the test</Message></Error>"


NEWER = ("x-amz-checksum-", "x-amz-sdk-checksum", "if-none-match")


@pytest.mark.parametrize(("status", "code"), [(400, "InvalidArgument"), (501, "NotImplemented")])
@pytest.mark.parametrize("content", [b"small", LARGE], ids=["one request", "parts"])
def test_endpoint_that_knows_no_newer_headers_is_asked_without_them(gateway, through, place, content, status, code):
    refused = []

    def before(method, path, headers):
        if any(name.lower().startswith(NEWER) for name in headers):
            refused.append(method)
            return status, error(code)
        return None

    gateway.before = before
    wanted = place.item(content, "a")
    through.write(wanted, in_chunks(content))
    assert through.holds(wanted)
    assert place.body("a") == content
    known = len(refused)
    assert known <= 2
    with pytest.raises(DestinationError, match="already"):
        through.write(wanted, in_chunks(content))
    assert len(refused) == known


def test_object_is_looked_for_once(gateway, through, place):
    wanted = place.item(b"x", "a")
    assert not through.holds(wanted)
    through.write(wanted, [b"x"])
    assert sum(method == "HEAD" for method, _ in gateway.seen) == 1


def test_look_at_one_object_says_nothing_about_another(gateway, through, place):
    gateway.before = lambda method, path, headers: (501, error("NotImplemented")) if "if-none-match" in headers else None
    place.put("b", b"other")
    assert not through.holds(place.item(b"x", "a"))
    with pytest.raises(DestinationError, match="already"):
        through.write(place.item(b"x", "b"), [b"x"])
    assert place.body("b") == b"other"


def test_look_at_an_object_counts_for_one_write(gateway, through, place):
    gateway.before = lambda method, path, headers: (501, error("NotImplemented")) if "if-none-match" in headers else None
    wanted = place.item(b"x", "a")
    assert not through.holds(wanted)
    through.write(wanted, [b"x"])
    with pytest.raises(DestinationError, match="already"):
        through.write(wanted, [b"x"])


def hide_checksums(headers):
    """As for encrypted objects: an ETag that is no MD5, and no checksum."""
    for name in [name for name in headers if name.lower().startswith("x-amz-checksum-")]:
        del headers[name]
    for name in [name for name in headers if name.lower() == "etag"]:
        headers[name] = '"0123456789abcdef0123456789abcdef"'


def reads(gateway):
    return sum(method == "GET" and "list-type" not in path for method, path in gateway.seen)


def test_object_whose_checksums_say_nothing_is_read_back(gateway, through, place):
    def after(method, headers, body):
        hide_checksums(headers)
        return body

    gateway.after = after
    wanted = place.item(b"content", "a")
    through.write(wanted, [b"content"])
    assert reads(gateway) == 1
    assert through.holds(wanted)
    assert reads(gateway) == 2


@pytest.mark.parametrize("content", [b"small", LARGE], ids=["one request", "parts"])
def test_object_whose_checksums_are_right_is_not_read_back(gateway, through, content, place):
    through.write(place.item(content, "a"), in_chunks(content))
    assert through.holds(place.item(content, "a"))
    assert reads(gateway) == 0


def test_object_that_comes_back_with_other_bytes_is_said(gateway, through, place):
    def after(method, headers, body):
        hide_checksums(headers)
        return b"CONTENT" if body == b"content" else body

    gateway.after = after
    with pytest.raises(DestinationError, match="other bytes"):
        through.write(place.item(b"content", "a"), [b"content"])


def test_part_that_arrives_with_another_checksum_is_never_part_of_an_object(gateway, through, place):
    def after(method, headers, body):
        if method == "PUT":
            headers["X-Amz-Checksum-Sha256"] = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
        return body

    gateway.after = after
    with pytest.raises(DestinationError, match="other bytes"):
        through.write(place.item(LARGE, "a"), in_chunks(LARGE))
    assert (place.keys(), place.uploads()) == ([], [])


@pytest.mark.parametrize("content", [b"small", LARGE], ids=["one request", "parts"])
def test_answer_that_gets_lost_does_no_harm(gateway, open_destination, place, content):
    lost = []

    def after(method, headers, body):
        finished = method == "PUT" if content == b"small" else b"CompleteMultipartUploadResult" in body
        if finished and not lost:
            lost.append(method)
            return None
        return body

    gateway.after = after
    open_destination(attempts=3).write(place.item(content, "a"), in_chunks(content))
    assert lost
    assert place.body("a") == content
    assert place.uploads() == []


def test_upload_that_is_over_when_it_is_asked_again_does_no_harm(gateway, open_destination, place):
    asked = []

    def before(method, path, headers):
        if method != "POST" or "uploadId" not in path:
            return None
        asked.append(path)
        return (404, error("NoSuchUpload")) if len(asked) > 1 else None

    gateway.before = before
    gateway.after = lambda method, headers, body: None if b"CompleteMultipartUploadResult" in body else body
    open_destination(attempts=2).write(place.item(LARGE, "a"), in_chunks(LARGE))
    assert place.body("a") == LARGE


def test_copy_that_is_bad_is_said_where_its_parts_cannot_be_removed_either(gateway, through, place):
    def chunks():
        yield from in_chunks(LARGE)
        raise CopyCorrupt("is damaged")

    gateway.before = lambda method, path, headers: (403, error("AccessDenied")) if method == "DELETE" else None
    with pytest.raises(CopyCorrupt, match="is damaged"):
        through.write(place.item(LARGE, "a"), chunks())
    assert place.keys() == []


def test_refusals_that_pass_are_tried_again(gateway, open_destination, place):
    refusals = [(503, error("SlowDown")), (500, error("InternalError"))]
    gateway.before = lambda method, path, headers: refusals.pop() if refusals and method == "PUT" else None
    open_destination(attempts=3).write(place.item(b"x", "a"), [b"x"])
    assert place.body("a") == b"x"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "RequestTimeTooSkewed", "timedatectl"),
        (403, "AccessDenied", "s3:PutObject"),
        (400, "ExpiredToken", "sign in again"),
        (400, "AuthorizationHeaderMalformed", "AWS_DEFAULT_REGION"),
        (503, "SlowDown", "for now"),
        (502, "", "for now"),
    ],
)
def test_refusals_are_told_apart(gateway, open_destination, status, code, expected):
    gateway.before = lambda method, path, headers: (status, error(code)) if method == "GET" else None
    assert expected in refusal(open_destination)


@pytest.mark.parametrize("method", ["HEAD", "PUT"])
def test_session_that_expires_in_the_middle_is_said(gateway, through, method, place):
    through.write(place.item(b"x", "a"), [b"x"])
    gateway.before = lambda asked, path, headers: (400, error("ExpiredToken")) if asked in {method, "GET"} else None
    with pytest.raises(DestinationUnavailable, match="expired"):
        through.write(place.item(b"x", "b"), [b"x"])


def test_refusal_of_one_object_is_about_that_object(gateway, through, place):
    gateway.before = lambda method, path, headers: (
        (400, error("EntityTooLarge")) if path.endswith("/a") and method == "PUT" else None
    )
    with pytest.raises(DestinationError, match="EntityTooLarge") as refused:
        through.write(place.item(b"x", "a"), [b"x"])
    assert not isinstance(refused.value, DestinationUnavailable)
    through.write(place.item(b"x", "b"), [b"x"])


def test_connection_that_breaks_while_an_object_is_read_back_is_said(gateway, through, place):
    place.put("a", b"content")
    gateway.after = lambda method, headers, body: None if body == b"content" else body
    with pytest.raises(DestinationUnavailable):
        through.holds(place.item(b"content", "a"))
