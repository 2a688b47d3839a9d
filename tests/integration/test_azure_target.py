"""Restoring to Azure Blob Storage, tried with Azure's own SDK on a small server that stands for Azure.

`Azure` below is no Azure: it does what the REST reference (version 2021 and later) says of Put Blob, Put Block, Put Block List,
Get Blob and Get Blob Properties, as far as a restore asks for it: shared keys are checked, a token must be there, Content-MD5 is
compared with the bytes, `If-None-Match: *` is obeyed, blocks have no name until they are committed. The rest is not tried here.
"""

import base64
import email.utils
import hashlib
import hmac
import os
import re
import threading
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree as ET

import pytest

from cbk.edges.destinations.azure import AzureDestination
from cbk.edges.destinations.objects import MIB
from cbk.errors import CopyCorrupt, DestinationError, DestinationUnavailable, UsageError
from cbk.model import RestoreItem
from local_servers import free_port

ACCOUNT = "carerp"
KEY = base64.b64encode(b"the account's key, which is secret").decode()
SAS = "sv=2024-11-04&ss=b&srt=co&sp=rcw&sig=thesecretsignature"
CONTAINER = "new-container"
BLOCK = 64 * 1024
LARGE = os.urandom(2 * BLOCK + 1000)


def md5_of(content):
    return base64.b64encode(hashlib.md5(content).digest()).decode()


class Azure:
    """One account with one container. `blobs` are its blobs by name: (content, headers).

    `named` gives the name that it takes a name for.
    `before` may refuse a request: (status, code); `after` says whether to hang up instead of answering; `keep` gives what is kept
    of a block.
    """

    def __init__(self):
        self.blobs, self.blocks, self.committed, self.asked = {}, {}, {}, []
        self.before = lambda handler: None
        self.after = lambda handler: False
        self.keep = lambda content: content
        self.named = lambda name: name
        azure = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                azure.handle(self)

            do_GET = do_HEAD = do_PUT = answer  # noqa: N815 - the names that the base class wants

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}/{ACCOUNT}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def handle(self, handler):
        handler.body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        parts = urlsplit(handler.path)
        handler.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        _, account, container, name = unquote(parts.path).split("/", 3)
        name = self.named(name)
        self.asked.append((handler.command, handler.query.get("comp"), name))
        if refused := self.before(handler):
            return self.reply(handler, refused[0], {"x-ms-error-code": refused[1]}, self.explain(refused[1]))
        if account != ACCOUNT or not (self.signed(handler) or "thesecretsignature" in parts.query):
            return self.refuse(handler, 403, "AuthenticationFailed")
        if container != CONTAINER:
            return self.refuse(handler, 404, "ContainerNotFound")
        if "Content-MD5" in handler.headers and handler.headers["Content-MD5"] != md5_of(handler.body):
            return self.refuse(handler, 400, "Md5Mismatch")
        actions = {
            "PUT": self.put_blob,
            "PUT block": self.put_block,
            "PUT blocklist": self.put_block_list,
            "HEAD": self.get_blob_properties,
            "GET": self.get_blob,
        }
        return actions[f"{handler.command} {handler.query.get('comp', '')}".strip()](handler, name)

    def signed(self, handler):
        """Whether the request bears the signature that "Authorize with Shared Key" describes."""
        sent = {name.lower(): value for name, value in handler.headers.items()}
        standard = "content-encoding content-language content-length content-md5 content-type date if-modified-since if-match"
        names = f"{standard} if-none-match if-unmodified-since range".split()
        values = ["" if (name, sent.get(name)) == ("content-length", "0") else sent.get(name, "") for name in names]
        ours = [f"{name}:{sent[name]}" for name in sorted(sent) if name.startswith("x-ms-")]
        query = [f"{name}:{value}" for name, value in sorted(handler.query.items())]
        resource = f"/{ACCOUNT}{urlsplit(handler.path).path}"
        text = "\n".join([handler.command, *values, *ours, resource, *query])
        signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), "sha256")).decode()
        return sent.get("authorization") == f"SharedKey {ACCOUNT}:{signature}"

    def put_blob(self, handler, name):
        assert handler.headers["x-ms-blob-type"] == "BlockBlob"
        if self.is_taken(handler, name):
            return self.refuse(handler, 409, "BlobAlreadyExists")
        self.store(handler, name, handler.body, {"Content-MD5": md5_of(handler.body)})
        return self.reply(handler, 201, {"Content-MD5": md5_of(handler.body)})

    def put_block(self, handler, name):
        self.blocks.setdefault(name, {})[handler.query["blockid"]] = self.keep(handler.body)
        return self.reply(handler, 201, {"Content-MD5": md5_of(handler.body)})

    def put_block_list(self, handler, name):
        # "Latest": the block that is not committed yet, else the one that is a part of the blob already.
        known = self.committed.get(name, {}) | self.blocks.get(name, {})
        wanted = [block.text for block in ET.fromstring(handler.body)]
        if any(block not in known for block in wanted):
            return self.refuse(handler, 400, "InvalidBlockList")
        md5 = handler.headers.get("x-ms-blob-content-md5")
        if self.is_taken(handler, name):
            return self.refuse(handler, 409, "BlobAlreadyExists")
        self.committed[name] = {block: known[block] for block in wanted}
        self.blocks.pop(name, None)
        self.store(handler, name, b"".join(known[block] for block in wanted), {"Content-MD5": md5} if md5 else {})
        return self.reply(handler, 201, {})

    def is_taken(self, handler, name):
        return handler.headers.get("If-None-Match") == "*" and name in self.blobs

    def store(self, handler, name, content, headers):
        kept = {key.lower(): value for key, value in handler.headers.items() if key.lower().startswith("x-ms-meta-")}
        kept["Content-Type"] = handler.headers.get("x-ms-blob-content-type", "application/octet-stream")
        self.blobs[name] = (content, {**kept, **headers})

    def get_blob_properties(self, handler, name):
        if name not in self.blobs:
            return self.refuse(handler, 404, "BlobNotFound")
        content, headers = self.blobs[name]
        return self.reply(handler, 200, {**headers, "x-ms-blob-type": "BlockBlob"}, content)

    def get_blob(self, handler, name):
        content, headers = self.blobs[name]
        first, _, last = handler.headers["x-ms-range"].removeprefix("bytes=").partition("-")
        if int(first) >= len(content):
            return self.refuse(handler, 416, "InvalidRange")
        piece = content[int(first) : int(last) + 1]
        span = f"bytes {first}-{int(first) + len(piece) - 1}/{len(content)}"
        return self.reply(handler, 206, {**headers, "Content-Range": span, "x-ms-blob-type": "BlockBlob"}, piece)

    def refuse(self, handler, status, code):
        return self.reply(handler, status, {"x-ms-error-code": code}, self.explain(code))

    @staticmethod
    def explain(code):
        return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>said by the test</Message></Error>".encode()

    def reply(self, handler, status, headers, body=b""):
        if self.after(handler):
            handler.close_connection = True
            return
        handler.send_response_only(status)
        now = email.utils.formatdate(usegmt=True)
        standard = {"Date": now, "ETag": '"0x8D"', "Last-Modified": now, "Content-Length": str(len(body))}
        for name, value in {**standard, "Content-Type": "application/xml", **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)


@pytest.fixture
def azure():
    azure = Azure()
    yield azure
    azure.close()


@pytest.fixture
def environ(azure):
    """The environment of somebody who restores."""
    return {"AZURE_STORAGE_CONNECTION_STRING": f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={azure.endpoint};"}


@pytest.fixture
def open_destination(environ):
    targets = []

    def make(url=f"azure://{ACCOUNT}/{CONTAINER}", **options):
        targets.append(
            AzureDestination(url, **{"part_size": BLOCK, "retries": 0, "backoff_seconds": 0, "environ": environ, **options})
        )
        return targets[-1]

    yield make
    for target in targets:
        target.close()


@pytest.fixture
def target(open_destination):
    return open_destination()


def item(content, key="a", **changes):
    values = {
        "storage": "s3",
        "bucket": "car-erp",
        "key": key,
        "number": 1,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "location": "car-erp/a/v1.gzip",
        "path": f"car-erp/{key}",
    }
    return RestoreItem(**values | changes)


def in_chunks(content, size=10_000):
    for at in range(0, len(content), size):
        yield content[at : at + size]


both_ways = pytest.mark.parametrize("content", [b"small", LARGE], ids=["one request", "blocks"])


class Broken(Exception):
    """A copy that cannot be read to its end."""


# What is sent


@pytest.mark.parametrize("key", ["a", "cars/id-1/thumbnail.png", "ä/Straße/名前.jpg", "😀/x y+z%20&?#=.txt", "a=b/c~d'(f)!*;:@,$"])
def test_blob_has_its_bytes_under_its_key(target, azure, key):
    target.write(item(b"content", key), [b"con", b"tent"])
    assert {name: content for name, (content, _) in azure.blobs.items()} == {key: b"content"}
    assert target.holds(item(b"content", key))


def test_prefix_stands_before_the_key(open_destination, azure):
    open_destination(f"azure://{ACCOUNT}/{CONTAINER}/back/again/").write(item(b"x", "a/b"), [b"x"])
    assert list(azure.blobs) == ["back/again/a/b"]


def test_empty_blob_is_one(target, azure):
    target.write(item(b""), [])
    assert azure.blobs["a"][0] == b""
    assert target.holds(item(b""))


@both_ways
def test_content_type_of_the_row_is_kept(target, azure, content):
    target.write(item(content, "a.png", content_type="image/webp; x=y"), in_chunks(content))
    assert azure.blobs["a.png"][1]["Content-Type"] == "image/webp; x=y"


@both_ways
def test_content_type_is_guessed_where_the_row_has_none(target, azure, content):
    target.write(item(content, "a.png"), in_chunks(content))
    assert azure.blobs["a.png"][1]["Content-Type"] == "image/png"


@pytest.mark.parametrize(("size", "blocks"), [(BLOCK, 0), (BLOCK + 1, 2), (2 * BLOCK, 2), (len(LARGE), 3)])
def test_large_blob_goes_up_in_blocks(target, azure, size, blocks):
    content = LARGE[:size]
    target.write(item(content), in_chunks(content))
    assert azure.blobs["a"][0] == content
    assert sum(comp == "block" for _, comp, _ in azure.asked) == blocks
    assert target.holds(item(content))


def test_memory_is_flat_in_the_size_of_the_blob(open_destination, azure):
    azure.keep = len  # this server is in the same process
    target = open_destination(part_size=MIB)
    target.write(item(b"first", "b"), [b"first"])

    def chunks():
        yield from in_chunks(content)
        raise Broken

    content = bytes(16 * MIB)
    tracemalloc.start()
    try:
        with pytest.raises(Broken):
            target.write(item(content), chunks())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(azure.blocks["a"].values()) == len(content)
    assert peak < 8 * MIB


# What is not sent


@both_ways
@pytest.mark.parametrize("error", [CopyCorrupt("is damaged"), Broken()], ids=lambda error: type(error).__name__)
def test_copy_that_turns_out_bad_has_no_name(target, azure, content, error):
    def chunks():
        yield from in_chunks(content)
        raise error

    with pytest.raises(type(error)):
        target.write(item(content), chunks())
    assert azure.blobs == {}
    assert not target.holds(item(content))


@both_ways
def test_good_copy_of_other_bytes_has_no_name(target, azure, content):
    with pytest.raises(CopyCorrupt):
        target.write(item(content), in_chunks(b"X" + content[1:]))
    assert azure.blobs == {}


def test_blocks_of_two_restores_at_once_are_not_mixed(open_destination, azure):
    target, other = open_destination(overwrite=True), LARGE[::-1]

    def chunks():
        *first, last = in_chunks(LARGE)
        yield from first
        target.write(item(other), in_chunks(other))
        yield last

    with pytest.raises(DestinationError, match="InvalidBlockList"):
        target.write(item(LARGE), chunks())
    assert azure.blobs["a"][0] == other


@pytest.mark.parametrize("key", ["a/../b", "\ud800", "x" * 1025])
def test_key_that_azure_does_not_have_is_refused(target, azure, key):
    with pytest.raises(DestinationError) as refused:
        target.write(item(b"x", key), [b"x"])
    assert "folder" in refused.value.hint
    assert azure.blobs == {}


# What is there already


def drops_dots(name):
    """As Azure does at the end of each segment."""
    return "/".join(segment.rstrip(".") for segment in name.split("/"))


@both_ways
@pytest.mark.parametrize("there", ["other", "same", "none"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_name_that_azure_takes_for_another_is_refused_with_both(open_destination, azure, content, there, overwrite):
    azure.named = drops_dots
    target = open_destination(overwrite=overwrite)
    if there != "none":
        before = content if there == "same" else b"other"
        target.write(item(before, "cars/a"), in_chunks(before))
    wanted = item(content, "cars/a.")
    with pytest.raises(DestinationError, match=re.escape("'cars/a.' and 'cars/a' are one object")):
        target.holds(wanted) or target.write(wanted, in_chunks(content))
    if there != "none":
        assert azure.blobs["cars/a"][0] == before


def reads(azure):
    return sum(method == "GET" for method, _, _ in azure.asked)


@both_ways
def test_blob_that_was_restored_is_held_without_reading_it(target, azure, content):
    assert not target.holds(item(content))
    target.write(item(content), in_chunks(content))
    assert target.holds(item(content))
    assert reads(azure) == 0


def test_blob_is_looked_for_once(target, azure):
    assert not target.holds(item(b"x"))
    target.write(item(b"x"), [b"x"])
    assert [method for method, _, _ in azure.asked] == ["HEAD", "PUT"]
    with pytest.raises(DestinationError, match="already"):
        target.write(item(b"x"), [b"x"])
    assert [method for method, _, _ in azure.asked] == ["HEAD", "PUT", "HEAD"]


def put(azure, content, **headers):
    azure.blobs["a"] = (content, {"Content-Type": "text/plain", **headers})


def test_blob_that_somebody_else_put_is_read(target, azure):
    put(azure, b"same bytes")
    assert target.holds(item(b"same bytes"))
    assert reads(azure) == 1


@pytest.mark.parametrize("there", [b"other bytes", b"same byteX", b""])
def test_other_blob_is_never_replaced(target, azure, there):
    put(azure, there)
    with pytest.raises(DestinationError, match="already"):
        target.holds(item(b"same bytes"))
    with pytest.raises(DestinationError, match="already"):
        target.write(item(b"same bytes"), [b"same bytes"])
    assert azure.blobs["a"][0] == there


@both_ways
def test_other_blob_is_replaced_where_that_is_allowed(open_destination, azure, content):
    target = open_destination(overwrite=True)
    put(azure, b"other")
    assert not target.holds(item(content))
    target.write(item(content), in_chunks(content))
    assert azure.blobs["a"][0] == content


@both_ways
@pytest.mark.parametrize("with_md5", [True, False])
def test_notes_are_not_believed_of_bytes_that_were_replaced_under_them(target, azure, content, with_md5):
    target.write(item(content), in_chunks(content))
    wrong = b"X" + content[1:]
    kept = {name: value for name, value in azure.blobs["a"][1].items() if name != "Content-MD5"}
    put(azure, wrong, **kept | ({"Content-MD5": md5_of(wrong)} if with_md5 else {}))
    with pytest.raises(DestinationError, match="already"):
        target.holds(item(content))


def appearing(azure, content, there):
    """Chunks, before the last of which somebody else puts a blob."""
    *first, last = in_chunks(content)
    yield from first
    put(azure, there)
    yield last


@both_ways
def test_blob_that_appears_meanwhile_is_not_replaced(target, azure, content):
    with pytest.raises(DestinationError, match="already"):
        target.write(item(content), appearing(azure, content, b"the application's own"))
    assert azure.blobs["a"][0] == b"the application's own"


@both_ways
def test_same_blob_that_appears_meanwhile_is_as_good(target, azure, content):
    target.write(item(content), appearing(azure, content, content))
    assert azure.blobs["a"][0] == content


@both_ways
def test_answer_that_gets_lost_does_no_harm(open_destination, azure, content):
    lost = []

    def after(handler):
        if handler.command == "PUT" and handler.query.get("comp") != "block" and not lost:
            lost.append(handler.path)
            return True
        return False

    azure.after = after
    open_destination(retries=1).write(item(content), in_chunks(content))
    assert lost
    assert azure.blobs["a"][0] == content


@both_ways
def test_bytes_that_change_on_the_way_are_noticed(target, azure, content):
    def before(handler):
        if handler.query.get("comp") != "blocklist":
            handler.body = handler.body[::-1]

    azure.before = before
    with pytest.raises(DestinationError, match="Md5Mismatch"):
        target.write(item(content), in_chunks(content))
    assert azure.blobs == {}


def test_blob_that_is_kept_with_other_bytes_is_said(target, azure):
    azure.store = lambda handler, name, content, headers: put(azure, content[:-1] + b"X")
    with pytest.raises(DestinationError, match="other bytes"):
        target.write(item(LARGE), in_chunks(LARGE))


# What goes wrong


def refusal(open_destination, *args, **options):
    """The error of a target that cannot be used, after a look at what it says."""
    target = open_destination(*args, **options)
    with pytest.raises(DestinationUnavailable) as refused:
        target.write(item(b"x"), [b"x"])
    with pytest.raises(DestinationUnavailable) as again:
        target.holds(item(b"x"))
    said = f"{refused.value}{refused.value.hint}"
    assert said == f"{again.value}{again.value.hint}"
    assert refused.value.hint
    assert not any(secret in said for secret in ("://", "secret", KEY))
    return said


def test_missing_container_is_named(open_destination):
    assert "no such container" in refusal(open_destination, f"azure://{ACCOUNT}/other")


def test_wrong_key_is_said(open_destination, environ):
    wrong = base64.b64encode(b"wrong").decode()
    text = environ["AZURE_STORAGE_CONNECTION_STRING"].replace(KEY, wrong)
    said = refusal(open_destination, environ={"AZURE_STORAGE_CONNECTION_STRING": text})
    assert "credentials are refused" in said


def test_clock_that_is_wrong_is_said(open_destination, azure):
    standing = email.utils.formatdate(1_700_000_000, usegmt=True)

    def before(handler):
        handler.send_header = lambda name, value: type(handler).send_header(handler, name, standing if name == "Date" else value)
        return (403, "AuthenticationFailed")

    azure.before = before
    assert "timedatectl" in refusal(open_destination)


def test_endpoint_that_is_down_is_said(open_destination):
    text = f"AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint=http://127.0.0.1:{free_port()}/{ACCOUNT};"
    assert "cannot be reached" in refusal(open_destination, environ={"AZURE_STORAGE_CONNECTION_STRING": text})


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "AuthorizationPermissionMismatch", "read, create and write"),
        (403, "AuthorizationFailure", "this network"),
        (403, "AuthenticationFailed", "expired"),
        (503, "ServerBusy", "for now"),
    ],
)
def test_refusals_are_told_apart(open_destination, azure, status, code, expected):
    azure.before = lambda handler: (status, code)
    assert expected in refusal(open_destination)


def test_refusal_of_one_blob_is_about_that_blob(target, azure):
    azure.before = lambda handler: (
        (413, "RequestBodyTooLarge") if handler.path.endswith("/a") and handler.command == "PUT" else None
    )
    with pytest.raises(DestinationError, match="RequestBodyTooLarge") as refused:
        target.write(item(b"x", "a"), [b"x"])
    assert not isinstance(refused.value, DestinationUnavailable)
    target.write(item(b"x", "b"), [b"x"])


def test_refusals_that_pass_are_tried_again(open_destination, azure):
    refusals = [(503, "ServerBusy")]
    azure.before = lambda handler: refusals.pop() if refusals and handler.command == "PUT" else None
    open_destination(retries=1).write(item(b"x"), [b"x"])
    assert azure.blobs["a"][0] == b"x"


# Credentials


def test_token_is_enough(open_destination, azure):
    text = f"SharedAccessSignature={SAS};BlobEndpoint={azure.endpoint};"
    target = open_destination(f"azure://127.0.0.1/{CONTAINER}", environ={"AZURE_STORAGE_CONNECTION_STRING": text})
    target.write(item(b"x"), [b"x"])
    assert azure.blobs["a"][0] == b"x"


def test_connection_string_of_another_account_is_refused(open_destination):
    with pytest.raises(UsageError, match="another account"):
        open_destination(f"azure://other/{CONTAINER}")


@pytest.mark.parametrize(
    "environ", [{}, {"AZURE_STORAGE_CONNECTION_STRING": "secret"}, {"AZURE_STORAGE_KEY": "sécret"}], ids=["none", "text", "key"]
)
def test_credentials_that_make_no_sense_are_refused(environ):
    with pytest.raises((UsageError, DestinationUnavailable)) as refused:
        AzureDestination("azure://carerp/new", environ=environ, retries=0).holds(item(b"x"))
    assert "AZURE_STORAGE_CONNECTION_STRING" in refused.value.hint
    assert "cret" not in str(refused.value)


@pytest.mark.parametrize("environ", [{"AZURE_STORAGE_KEY": KEY}, {"AZURE_STORAGE_SAS_TOKEN": SAS}], ids=["key", "token"])
@pytest.mark.parametrize(
    ("account", "host"),
    [("carerp", "carerp.blob.core.windows.net"), ("carerp.blob.core.chinacloudapi.cn", "carerp.blob.core.chinacloudapi.cn")],
)
def test_account_is_a_name_or_a_host(account, host, environ):
    target = AzureDestination(f"azure://{account}/new", environ=environ)
    assert urlsplit(target._service.url)[:2] == ("https", host)
    target.close()
