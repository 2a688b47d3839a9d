"""What the stores sign, list and read: S3 on a real server, Azure on the small one of the tests, Google by its SDK alone."""

import http.client
import io
from urllib.parse import parse_qs, quote, urlsplit
from xml.sax.saxutils import escape

import boto3
import pytest
from botocore.config import Config
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.oauth2 import service_account

from cbk_app.errors import AppUsageError, ObjectGone, StoreError
from cbk_app.stores import open_store
from cbk_app.stores.azure import AzureStore
from cbk_app.stores.gcs import GcsStore
from cbk_app.stores.s3 import S3Store
from tests.integration.test_azure_target import ACCOUNT, CONTAINER, KEY, Azure

KEYS = ["a", "cars/id-1/thumbnail.png", "ä/Straße/名前.jpg", "x y+z%20&?#=.txt", "a=b/c~d'e(f)!*;:@,$"]


def fetch(link):
    parts = urlsplit(link)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("key", KEYS)
def test_s3_lists_reads_and_signs_every_key(store, key):
    store.put(key, io.BytesIO(b"abc"), "text/plain")
    (found,) = store.objects()
    assert (found.key, found.size) == (key, 3)
    assert b"".join(store.read(found)) == b"abc"
    assert fetch(store.sign(key, 60)) == (200, b"abc")


def test_s3_lists_below_a_prefix_page_by_page(store, s3, bucket):
    for number in range(5):
        s3.client().put_object(Bucket=bucket, Key=f"a/{number}", Body=b"")
    s3.client().put_object(Bucket=bucket, Key="b", Body=b"")
    assert [found.key for found in store.objects("a/")] == [f"a/{number}" for number in range(5)]


def test_s3_that_does_not_answer_is_a_failure_with_a_hint(environment):
    client = boto3.client("s3", endpoint_url="http://127.0.0.1:9", config=Config(retries={"total_max_attempts": 1}))
    with pytest.raises(StoreError) as failed:
        list(S3Store("b", client=client).objects())
    assert failed.value.hint


class ListingAzure(Azure):
    """The small server, which also lists its container (List Blobs), two blobs a page."""

    def described(self, name):
        about = f"<Content-Length>{len(self.blobs[name][0])}</Content-Length><Etag>0x8D</Etag>"
        about += "<BlobType>BlockBlob</BlobType><Last-Modified>Sun, 01 Nov 2026 12:00:00 GMT</Last-Modified>"
        return f"<Blob><Name>{escape(name)}</Name><Properties>{about}</Properties></Blob>"

    def handle(self, handler):
        parts = urlsplit(handler.path)
        query = parse_qs(parts.query)
        if query.get("comp") != ["list"]:
            return super().handle(handler)
        prefix, marker = query.get("prefix", [""])[0], query.get("marker", [""])[0]
        names = sorted(name for name in self.blobs if name.startswith(prefix) and name > marker)
        page = names[:2]
        blobs = "".join(self.described(name) for name in page)
        marker = page[-1] if len(names) > len(page) else ""
        about = f"<Prefix>{prefix}</Prefix><Blobs>{blobs}</Blobs><NextMarker>{marker}</NextMarker>"
        body = f"<EnumerationResults>{about}</EnumerationResults>".encode()
        return self.reply(handler, 200, {"Content-Type": "application/xml"}, body)


@pytest.fixture
def azure():
    server = ListingAzure()
    yield server
    server.close()


@pytest.fixture
def container(azure):
    return AzureStore(ACCOUNT, CONTAINER, key=KEY, endpoint=azure.endpoint)


def test_azure_lists_page_by_page_and_below_a_prefix(azure, container):
    azure.blobs = {name: (b"abc", {}) for name in ("a/1", "a/2", "a/3 ä&", "b")}
    assert [(found.key, found.size) for found in container.objects()] == [("a/1", 3), ("a/2", 3), ("a/3 ä&", 3), ("b", 3)]
    assert [found.key for found in container.objects("a/")] == ["a/1", "a/2", "a/3 ä&"]


def test_azure_stores_and_reads(container):
    container.put("cars/a", io.BytesIO(b"abc"), "text/plain")
    (found,) = container.objects()
    assert b"".join(container.read(found)) == b"abc"


@pytest.mark.parametrize("key", KEYS)
def test_azure_signs_for_reading_alone_and_for_a_minute(container, key):
    link = urlsplit(container.sign(key, 60))
    query = parse_qs(link.query)
    assert link.path == f"/{ACCOUNT}/{CONTAINER}/{quote(key, safe='/~')}"
    assert (query["sp"], query["sr"]) == (["r"], ["b"])


def test_azure_without_a_key_says_what_to_set(monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_KEY", raising=False)
    monkeypatch.delenv("AZURE_STORAGE_CONNECTION_STRING", raising=False)
    with pytest.raises(AppUsageError) as refused:
        open_store("azure://account/container")
    assert "AZURE_STORAGE_KEY" in refused.value.hint


def test_azure_takes_its_key_from_a_connection_string(azure, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"DefaultEndpointsProtocol=https;AccountName={ACCOUNT};AccountKey={KEY}")
    azure.blobs = {"a": (b"abc", {})}
    assert [found.key for found in open_store(f"azure://{ACCOUNT}/{CONTAINER}", endpoint=azure.endpoint).objects()] == ["a"]


def test_azure_that_refuses_is_a_failure_with_a_hint(azure):
    store = AzureStore(ACCOUNT, "nobodys", key=KEY, endpoint=azure.endpoint)
    with pytest.raises((StoreError, ObjectGone)):
        store.put("a", io.BytesIO(b"abc"), "text/plain")


@pytest.fixture(scope="module")
def google():
    """A client of Google's with a service account's key, made just now."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    about = {"client_email": "app@p.iam.example.com", "token_uri": "https://oauth2.example.com", "private_key": pem.decode()}
    credentials = service_account.Credentials.from_service_account_info(about)
    return storage.Client(project="p", credentials=credentials)


@pytest.mark.parametrize("key", KEYS)
def test_gcs_signs_for_a_minute(google, key):
    link = urlsplit(GcsStore("car-erp", client=google).sign(key, 60))
    query = parse_qs(link.query)
    assert (query["X-Goog-Expires"], query["X-Goog-Algorithm"]) == (["60"], ["GOOG4-RSA-SHA256"])
    assert link.path == f"/car-erp/{quote(key, safe='/~')}"


def test_gcs_without_a_key_to_sign_with_says_so():
    client = storage.Client(project="p", credentials=AnonymousCredentials())
    with pytest.raises(StoreError) as refused:
        GcsStore("car-erp", client=client).sign("a", 60)
    assert "service account" in refused.value.hint


@pytest.mark.parametrize("url", ["", "s3://", "s3://bucket/key", "azure://account", "azure://account/a/b", "file:///x"])
def test_an_address_that_is_no_store_is_refused(url):
    with pytest.raises(AppUsageError, match="no such store"):
        open_store(url)
