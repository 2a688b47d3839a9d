"""What comes back is what it was: properties through copy, lost catalog and restore, on a real S3 server and a real Azurite."""

import json
import sys
from hashlib import sha256
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from azure.storage.blob import ContentSettings

from cbk.cli.main import main
from cbk.jobs.admin.rebuild import rebuild
from cbk_app.schema import FILES
from tests.azurite import ACCOUNT, Azurite, require_azurite
from tests.origin import serve

CONTENT = b"\x1f\x8b not really gzip, and nobody may inflate it"
KEY = "site/app.css"
DATE = "Tue, 01 Dec 2026 08:00:00 GMT"
METADATA = {"owner": "id-1", "reviewed_by": "ann", "empty_or_not": "x", "quoted": 'say "hi", ok=1; a'}
HEADERS = {
    "ContentType": "text/css; charset=utf-8",
    "ContentEncoding": "gzip",
    "ContentDisposition": 'attachment; filename="app.css"',
    "ContentLanguage": "de-AT",
    "CacheControl": "public, max-age=31536000, immutable",
}


@pytest.fixture
def bucket(s3, request):
    """An S3 bucket of the test's own, and one to restore to."""
    name = f"props-{sha256(request.node.name.encode()).hexdigest()[:16]}"
    for each in (name, f"{name}-new"):
        s3.create_bucket(each)
    return name


@pytest.fixture
def person(s3, monkeypatch):
    """The environment of somebody who restores to S3."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3.endpoint,
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_DEFAULT_REGION": s3.region,
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def azurite(servers_folder):
    require_azurite()
    with Azurite(servers_folder) as server:
        yield server


def signed(s3, bucket, key=KEY, **override):
    return s3.client().generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key, **override})


def record(site, link, *, key=KEY, content=CONTENT, content_type=None, named=None, split=None):
    """A row of the object, and the copy that it brings; `named` is the key where the row has a slash more in front."""
    path, slash, name = key.rpartition("/")
    path, name = split or (path + slash, name)
    values = {"Path": path, "Name": name, "Storage": "s3", "Version": 1, "Hash": sha256(content).hexdigest()}
    with site.application.begin() as connection:
        connection.execute(sa.insert(FILES).values(values | {"SignedDownloadUrl": link, "ContentType": content_type}))
    site.work()
    assert site.states()[named or key, 1] == "stored"


def lose_catalog(site):
    """The disk alone is left, and a catalog that is made of it."""
    site.context.catalog.close()
    for path in site.folder.glob("catalog.db*"):
        path.unlink()
    site.reopen()
    rebuild(site.context, tell=lambda _: None, advance=lambda _: None)


def restore(site, monkeypatch, capfdbinary, *words):
    """The command; gives its exit code and what it says of each file, then of all."""
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["cbk", "restore", "--json", *words])
    capfdbinary.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]


def properties_of(client, bucket, key=KEY):
    """Those that a person sees, without our notes."""
    head = client.head_object(Bucket=bucket, Key=key)
    metadata = {name: value for name, value in head["Metadata"].items() if not name.startswith("cbk-")}
    return {name: head.get(name) for name in (*HEADERS, "ExpiresString")} | {"Metadata": metadata}


def allowing(server):
    return urlsplit(server.endpoint).netloc


def test_ten_properties_come_back_to_a_new_bucket_after_the_catalog_was_lost(
    make_site, s3, bucket, person, monkeypatch, capfdbinary
):
    client = s3.client()
    client.put_object(Bucket=bucket, Key=KEY, Body=CONTENT, Metadata=METADATA, Expires=DATE, **HEADERS)
    before = properties_of(client, bucket)
    assert len({name for name, value in before.items() if value} - {"Metadata"}) + len(before["Metadata"]) == 10
    site = make_site(allowed_hosts=allowing(s3))
    record(site, signed(s3, bucket))
    lose_catalog(site)
    code, said = restore(site, monkeypatch, capfdbinary, "--to", f"s3://{bucket}-new")
    assert (code, said[-1]["restored"]) == (0, 1)
    assert properties_of(client, f"{bucket}-new") == before
    assert client.get_object(Bucket=f"{bucket}-new", Key=KEY)["Body"].read() == CONTENT
    code, said = restore(site, monkeypatch, capfdbinary, "--to", f"s3://{bucket}-new")
    assert (code, said[-1]["present"]) == (0, 1)


def test_row_says_the_type_where_both_speak_and_the_link_says_nothing_of_the_object(
    make_site, s3, bucket, person, monkeypatch, capfdbinary
):
    client = s3.client()
    client.put_object(Bucket=bucket, Key=KEY, Body=CONTENT, **HEADERS)
    site = make_site(allowed_hosts=allowing(s3))
    record(site, signed(s3, bucket, ResponseContentDisposition="inline"), content_type="text/x-from-the-row")
    assert restore(site, monkeypatch, capfdbinary, "--to", f"s3://{bucket}-new")[0] == 0
    found = properties_of(client, f"{bucket}-new")
    assert (found["ContentType"], found["ContentDisposition"]) == ("text/x-from-the-row", None)
    assert found["CacheControl"] == HEADERS["CacheControl"]


def test_a_hundred_and_ten_metadata_come_back(make_site, s3, bucket, person, monkeypatch, capfdbinary):
    client = s3.client()
    metadata = {f"k{number}": f"v{number}" for number in range(110)}
    client.put_object(Bucket=bucket, Key=KEY, Body=CONTENT, Metadata=metadata)
    site = make_site(allowed_hosts=allowing(s3))
    record(site, signed(s3, bucket))
    assert restore(site, monkeypatch, capfdbinary, "--to", f"s3://{bucket}-new")[0] == 0
    code, said = restore(site, monkeypatch, capfdbinary, "--to", f"s3://{bucket}-new")
    assert (code, said[-1]["present"]) == (0, 1)
    assert properties_of(client, f"{bucket}-new")["Metadata"] == metadata


@pytest.mark.parametrize(
    ("said", "back"),
    [("Jörg", "=?UTF-8?B?SsO2cmc=?="), ("=?UTF-8?Q?J=C3=B6rg?=", "=?UTF-8?Q?J=C3=B6rg?="), ('a"\\b', 'a"\\b')],
)
def test_metadata_that_are_no_ascii_come_back_as_mail_encodes_them(
    make_site, origin, s3, bucket, person, monkeypatch, capfdbinary, said, back
):
    site = make_site()
    served = f"/{bucket}/{KEY}"
    origin.put(served, CONTENT, serve(x_amz_meta_owner=said.encode().decode("latin-1")))
    record(site, site.link(served))
    assert restore(site, monkeypatch, capfdbinary, "--to", f"s3://{bucket}-new")[0] == 0
    assert properties_of(s3.client(), f"{bucket}-new")["Metadata"] == {"owner": back}


@pytest.mark.parametrize("header", ["Content_Disposition", "Cache_Control"])
def test_header_that_is_no_ascii_is_named_and_left_out_on_request(
    make_site, origin, s3, bucket, person, monkeypatch, capfdbinary, header
):
    site = make_site()
    served = f"/{bucket}/{KEY}"
    origin.put(served, CONTENT, serve(**{header: "attachment; filename=Größe.css".encode().decode("latin-1")}))
    record(site, site.link(served))
    code, said = restore(site, monkeypatch, capfdbinary, "--to", f"s3://{bucket}-new")
    assert code == 3
    assert header.replace("_", "-") in said[0]["reason"]
    assert restore(site, monkeypatch, capfdbinary, "--no-properties", "--to", f"s3://{bucket}-new")[0] == 0


def test_metadata_of_2_kilobytes_come_back_without_room_for_our_notes(make_site, s3, bucket, person, monkeypatch, capfdbinary):
    metadata = {f"key{number}": "v" * 196 for number in range(10)}
    s3.client().put_object(Bucket=bucket, Key=KEY, Body=CONTENT, Metadata=metadata)
    site = make_site(allowed_hosts=allowing(s3))
    record(site, signed(s3, bucket))
    assert restore(site, monkeypatch, capfdbinary, "--to", f"s3://{bucket}-new")[0] == 0
    assert s3.client().head_object(Bucket=f"{bucket}-new", Key=KEY)["Metadata"] == metadata
    code, said = restore(site, monkeypatch, capfdbinary, "--to", f"s3://{bucket}-new")
    assert (code, said[-1]["present"]) == (0, 1)


def test_no_properties_restores_bytes_and_type_alone(make_site, s3, bucket, person, monkeypatch, capfdbinary):
    client = s3.client()
    client.put_object(Bucket=bucket, Key=KEY, Body=CONTENT, Metadata=METADATA, **HEADERS)
    site = make_site(allowed_hosts=allowing(s3))
    record(site, signed(s3, bucket), content_type="text/css")
    assert restore(site, monkeypatch, capfdbinary, "--no-properties", "--to", f"s3://{bucket}-new")[0] == 0
    found = properties_of(client, f"{bucket}-new")
    assert found == dict.fromkeys(found) | {"ContentType": "text/css", "Metadata": {}}


# ---- names that a target takes for others ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("contents", [(b"doubled", b"plain"), (b"same", b"same")], ids=["other bytes", "the same bytes"])
@pytest.mark.parametrize("odd", ["cars//x.png", "/cars/x.png", "cars\\x.png"])
@pytest.mark.parametrize("words", [(), ("--overwrite",)], ids=["", "overwrite"])
def test_key_that_seaweedfs_takes_for_another_is_named_with_it_and_the_other_is_restored(
    make_site, origin, s3, bucket, person, monkeypatch, capfdbinary, odd, contents, words
):
    site = make_site()
    for key, content in zip((odd, "cars/x.png"), contents, strict=True):
        served = f"/{sha256(key.encode()).hexdigest()}"
        origin.put(served, content)
        record(site, site.link(served), key=key if not key.startswith("/") else f"/{key}", content=content, named=key)
    code, said = restore(site, monkeypatch, capfdbinary, *words, "--to", f"s3://{bucket}-new")
    assert code == 3
    outcomes = {each["key"]: (each["outcome"], each["reason"]) for each in said[:-1]}
    assert outcomes["cars/x.png"] == ("restored", "")
    assert outcomes[odd][0] == "failed"
    assert repr(odd) in outcomes[odd][1]
    assert "'cars/x.png'" in outcomes[odd][1]
    assert s3.client().get_object(Bucket=f"{bucket}-new", Key="cars/x.png")["Body"].read() == contents[1]


def test_odd_key_alone_is_not_called_restored_where_it_has_another_name(
    make_site, origin, s3, bucket, person, monkeypatch, capfdbinary
):
    site = make_site()
    origin.put("/odd", CONTENT)
    record(site, site.link("/odd"), key="cars//x.png")
    for _ in range(2):
        code, said = restore(site, monkeypatch, capfdbinary, "--to", f"s3://{bucket}-new")
        assert (code, said[-1]["failed"]) == (3, 1)
        assert "'cars//x.png' and 'cars/x.png' are one object there" in said[0]["reason"]


def test_folder_marker_whose_bytes_are_lost_is_not_called_restored(make_site, origin, s3, bucket, person, monkeypatch, capfdbinary):
    site = make_site()
    origin.put("/marker", b"bytes")
    record(site, site.link("/marker"), key="cars/folder/", content=b"bytes", split=("cars/", "folder/"))
    code, said = restore(site, monkeypatch, capfdbinary, "--to", f"s3://{bucket}-new")
    assert s3.client().get_object(Bucket=f"{bucket}-new", Key="cars/folder/")["Body"].read() == b""
    assert (code, said[-1]["failed"]) == (3, 1)


# ---- Azure -----------------------------------------------------------------------------------------------------------------------

AZURE_METADATA = METADATA | {"Cased": "Yes"}


def azure_properties(azurite, container, key=KEY):
    found = azurite.client().get_blob_client(container, key).get_blob_properties()
    settings = found.content_settings
    metadata = {name: value for name, value in found.metadata.items() if not name.startswith("cbk_")}
    headers = ("content_type", "content_encoding", "content_disposition", "content_language", "cache_control")
    return {name: getattr(settings, name) for name in headers} | {"metadata": metadata}


def put_blob(azurite, container, key=KEY, **changes):
    settings = ContentSettings(
        content_type=HEADERS["ContentType"],
        content_encoding=HEADERS["ContentEncoding"],
        content_disposition=HEADERS["ContentDisposition"],
        content_language=HEADERS["ContentLanguage"],
        cache_control=HEADERS["CacheControl"],
    )
    values = {"content_settings": settings, "metadata": AZURE_METADATA} | changes
    azurite.client().create_container(container)
    azurite.client().get_blob_client(container, key).upload_blob(CONTENT, **values)


@pytest.mark.nightly
def test_ten_properties_come_back_to_a_new_container_of_azure(make_site, azurite, monkeypatch, capfdbinary):
    put_blob(azurite, "old")
    before = azure_properties(azurite, "old")
    assert len(before) - 1 + len(before["metadata"]) == 10
    azurite.client().create_container("new")
    site = make_site(allowed_hosts=allowing(azurite))
    record(site, azurite.link("old", KEY))
    lose_catalog(site)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string)
    code, said = restore(site, monkeypatch, capfdbinary, "--to", f"azure://{ACCOUNT}/new")
    assert (code, said[-1]["restored"]) == (0, 1), said
    assert azure_properties(azurite, "new") == before
    assert azurite.client().get_blob_client("new", KEY).download_blob(decompress=False).readall() == CONTENT
    code, said = restore(site, monkeypatch, capfdbinary, "--to", f"azure://{ACCOUNT}/new")
    assert (code, said[-1]["present"]) == (0, 1)


@pytest.mark.nightly
def test_blob_in_a_content_coding_that_somebody_else_put_there_is_read_as_it_is_stored(
    make_site, azurite, monkeypatch, capfdbinary
):
    put_blob(azurite, "others")
    site = make_site(allowed_hosts=allowing(azurite))
    record(site, azurite.link("others", KEY))
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string)
    code, said = restore(site, monkeypatch, capfdbinary, "--to", f"azure://{ACCOUNT}/others")
    assert (code, said[-1]["present"]) == (0, 1), said


@pytest.mark.nightly
def test_metadata_that_azure_cannot_have_are_named_and_left_out_on_request(
    make_site, azurite, s3, bucket, monkeypatch, capfdbinary
):
    s3.client().put_object(Bucket=bucket, Key=KEY, Body=CONTENT, Metadata={"with-a-dash": "1"})
    azurite.client().create_container("dashed")
    site = make_site(allowed_hosts=allowing(s3))
    record(site, signed(s3, bucket))
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string)
    code, said = restore(site, monkeypatch, capfdbinary, "--to", f"azure://{ACCOUNT}/dashed")
    assert code == 3
    assert "with-a-dash" in said[0]["reason"]
    assert restore(site, monkeypatch, capfdbinary, "--no-properties", "--to", f"azure://{ACCOUNT}/dashed")[0] == 0


@pytest.mark.nightly
def test_keys_that_differ_in_slashes_or_dots_alone_are_all_restored_where_the_target_tells_them_apart(
    make_site, origin, azurite, monkeypatch, capfdbinary
):
    site = make_site()
    keys = ["cars//x.png", "cars/x.png", "cars/x.png.", "cars./x.png"]
    for key in keys:
        origin.put(f"/{sha256(key.encode()).hexdigest()}", key.encode())
        record(site, site.link(f"/{sha256(key.encode()).hexdigest()}"), key=key, content=key.encode())
    azurite.client().create_container("odd")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string)
    for outcome in ("restored", "present"):
        code, said = restore(site, monkeypatch, capfdbinary, "--to", f"azure://{ACCOUNT}/odd")
        assert (code, said[-1][outcome]) == (0, len(keys)), said
    container = azurite.client().get_container_client("odd")
    assert {blob.name: container.download_blob(blob.name).readall().decode() for blob in container.list_blobs()} == {
        key: key for key in keys
    }
