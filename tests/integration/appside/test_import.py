"""`cbk-app import` and `inventory` on a real S3 server and real databases."""

import gzip
import hashlib
import io
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from cbk_app.contract import INVENTORY_KEY
from cbk_app.errors import StoreError
from cbk_app.importing import Importer, Need
from cbk_app.links import Links
from cbk_app.main import main
from cbk_app.recorder import Recorder
from cbk_app.stores.s3 import S3Store
from cbk_app.stores.store import StoredObject
from local_servers import wait_until
from tests.integration.appside.conftest import spelled

SECRET = "s" * 40
URL = "https://app.example.com/cbk-links"
LINKS = Links(URL, secrets=[SECRET])

everywhere = pytest.mark.parametrize("engine", ["sqlite", "postgresql", "mariadb"], indirect=True)


@pytest.fixture
def put(s3, bucket):
    """A function that puts objects: key and content."""
    client = s3.client()

    def put_all(objects):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda item: client.put_object(Bucket=bucket, Key=item[0], Body=item[1]), objects.items()))

    return put_all


@pytest.fixture
def recorder():
    return Recorder(storage="s3", link=LINKS.for_storage("s3"))


@pytest.fixture
def importer(store, engine):
    """A function that makes an import of the bucket."""
    return lambda **options: Importer(store, engine, storage="s3", link=LINKS.for_storage("s3"), workers=4, **options)


@pytest.fixture
def command(environment, monkeypatch, engine, bucket, capsys):
    """A function that runs cbk-app on the bucket and gives its exit code and what it printed."""
    monkeypatch.setenv("CBKAPP_DATABASE_URL", engine.url.render_as_string(hide_password=False))
    monkeypatch.setenv("CBKAPP_LINKS_URL", URL)
    monkeypatch.setenv("CBKAPP_LINKS_SECRETS", SECRET)

    def run(name, *arguments):
        code = main([name, f"s3://{bucket}", "--storage", "s3", *arguments])
        return code, capsys.readouterr()

    return run


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def keys(rows):
    return {row["Path"] + row["Name"]: (row["Version"], row["Hash"]) for row in rows}


OBJECTS = {"cars/id-1/a.png": b"one", "cars/ä b/Straße#?.txt": b"two", "top": b"", "deep/er/and/deeper/x": b"x" * 2_000_000}


@everywhere
def test_every_object_gets_a_row_with_its_hash_and_a_permanent_link(importer, put, rows_of):
    put(OBJECTS)
    outcome = importer().run()

    rows = rows_of()
    assert outcome.recorded == len(OBJECTS)
    assert keys(rows) == {key: (1, sha256(content)) for key, content in OBJECTS.items()}
    assert {row["Storage"] for row in rows} == {"s3"}
    for row in rows:
        assert LINKS.read(row["SignedDownloadUrl"].removeprefix(URL)) == ("s3", row["Path"] + row["Name"])


@everywhere
def test_what_has_a_row_is_left_alone_wherever_its_path_ends(importer, engine, put, rows_of):
    put(OBJECTS)
    insert = """INSERT INTO "ObjectStorageFiles" ("Storage", "Path", "Name", "Version", "Hash", "SignedDownloadUrl")
        VALUES ('s3', '/cars', 'id-1/a.png', 7, NULL, ''), ('other', 'cars/ä b/', 'Straße#?.txt', 1, NULL, '')"""
    with engine.begin() as connection:
        connection.execute(spelled(engine, insert))

    assert importer().run().recorded == len(OBJECTS) - 1
    assert importer().survey().needs[Need.NOTHING] == len(OBJECTS)
    assert importer().run().recorded == 0
    assert len(rows_of()) == len(OBJECTS) + 1


def test_a_prefix_bounds_it(importer, put, rows_of):
    put(OBJECTS)
    importer(prefix="cars/").run()
    assert set(keys(rows_of())) == {"cars/id-1/a.png", "cars/ä b/Straße#?.txt"}


@everywhere
def test_what_was_deleted_stays_so_and_what_was_written_again_does_not(importer, engine, put, recorder, rows_of):
    put({"gone": b"1", "back": b"2"})
    with engine.begin() as connection:
        for key in ("gone", "back"):
            recorder.record_upload(connection, key, b"1")
            recorder.record_delete(connection, key)
        connection.execute(
            spelled(engine, """UPDATE "ObjectStorageDeleteLog" SET "DeletedAt" = '2020-01-01 00:00:00' WHERE "FileId" = 2""")
        )

    outcome = importer().run()

    assert outcome.recorded == 1
    assert keys(rows_of()) == {"gone": (1, sha256(b"1")), "back": (2, sha256(b"2"))}


@everywhere
def test_content_that_was_changed_without_a_row_is_another_version(importer, engine, put, recorder, rows_of):
    put({"same": b"1", "other": b"22"})
    with engine.begin() as connection:
        for key in ("same", "other"):
            recorder.record_upload(connection, key, b"1")
        connection.execute(spelled(engine, """UPDATE "ObjectStorageFiles" SET "CreatedAt" = '2020-01-01 00:00:00'"""))

    outcome = importer().run()

    assert (outcome.recorded, outcome.unchanged) == (1, 1)
    assert [(row["Name"], row["Version"], row["Hash"]) for row in rows_of()][-1] == ("other", 2, sha256(b"22"))


def test_what_somebody_records_meanwhile_is_not_recorded_twice(importer, engine, put, recorder, rows_of, store, monkeypatch):
    put({"a": b"1"})

    def read(found):
        with engine.begin() as connection:
            recorder.record_upload(connection, found.key, b"1")
        yield b"1"

    monkeypatch.setattr(store, "read", read)
    assert importer().run().recorded == 0
    assert len(rows_of()) == 1


def test_an_object_that_goes_while_it_is_read_is_no_failure(importer, put, s3, bucket, store, monkeypatch):
    put({"a": b"1", "b": b"2"})
    listed = list(store.objects())
    s3.client().delete_object(Bucket=bucket, Key="a")
    s3.client().put_object(Bucket=bucket, Key="b", Body=b"other")
    monkeypatch.setattr(store, "objects", lambda _prefix: iter(listed))
    outcome = importer().run()
    assert (outcome.gone, outcome.recorded, outcome.failed) == (2, 0, [])


def test_a_hash_that_the_storage_knows_is_taken(importer, put, store, monkeypatch, rows_of):
    put({"a": b"1", "b": b"2"})
    known = "ab" * 32
    monkeypatch.setattr(store, "sha256", lambda found: known if found.key == "a" else None)
    outcome = importer().run()
    assert (outcome.by_store, outcome.bytes_read) == (1, 1)
    assert keys(rows_of()) == {"a": (1, known), "b": (1, sha256(b"2"))}


@pytest.mark.parametrize("kind", [None, "FULL_OBJECT"])
def test_the_checksum_of_a_whole_object_is_taken_and_no_other(store, monkeypatch, kind):
    found = StoredObject(key="a", size=1, etag="e", modified=datetime.now(UTC), checksums=True)
    digest = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="
    head = {"ETag": '"e"', "ChecksumSHA256": digest} | ({"ChecksumType": kind} if kind else {})
    others = ({"ChecksumSHA256": f"{digest}-2"}, {"ChecksumType": "COMPOSITE"}, {"ETag": '"f"'})
    answers = iter([head, *({**head, **other} for other in others)])
    monkeypatch.setattr(store, "_client", type("Client", (), {"head_object": lambda _, **__: next(answers)})())
    assert [store.sha256(found) for _ in range(4)] == [sha256(b"abc"), None, None, None]


def test_of_a_bucket_with_versions_the_newest_are_imported_and_nothing_that_a_marker_hides(importer, s3, bucket, rows_of):
    client = s3.client()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for key, content in (("a", b"1"), ("a", b"22"), ("gone", b"1")):
        client.put_object(Bucket=bucket, Key=key, Body=content)
    client.delete_object(Bucket=bucket, Key="gone")
    assert importer().run().failed == []
    assert keys(rows_of()) == {"a": (1, sha256(b"22"))}


def test_a_dry_run_counts_and_changes_nothing(command, put, rows_of):
    put({**OBJECTS, "folder/": b""})
    code, said = command("import", "--dry-run", "--json")
    assert code == 0
    facts = json.loads(said.out)
    assert (facts["objects"], facts["row"], facts["skip"]) == (5, 4, 1)
    assert facts["bytes_to_read"] == sum(map(len, OBJECTS.values()))
    assert rows_of() == []


def test_the_command_says_what_it_did(command, put, rows_of):
    put(OBJECTS)
    code, said = command("import")
    assert (code, said.out) == (0, "4 rows written, 2,000,006 bytes read, 0 failed\n")
    assert len(rows_of()) == 4


def test_an_object_that_a_row_cannot_name_is_a_failure(importer, put, store, monkeypatch):
    put({"a": b"1"})
    strange = StoredObject(key="folder/", size=7, etag="e", modified=datetime.now(UTC))
    monkeypatch.setattr(store, "objects", lambda _prefix: iter([strange]))
    assert importer().run().failed == [("folder/", "a row cannot name it: its key ends with a slash")]


def test_an_object_that_cannot_be_read_is_listed_and_the_others_are_recorded(command, put, monkeypatch, rows_of):
    put({"a": b"1", "b": b"2"})
    monkeypatch.setattr(S3Store, "read", failing_on("a", S3Store.read))
    code, said = command("import")
    assert (code, said.err) == (3, "'a': the storage refused: SlowDown\n")
    assert set(keys(rows_of())) == {"b"}


def failing_on(key, read):
    def failing(store, found):
        if found.key == key:
            raise StoreError("the storage refused: SlowDown")
        return read(store, found)

    return failing


def test_links_may_be_signed_by_the_storage_instead(command, put, rows_of):
    put({"a": b"1"})
    assert command("import", "--signed-for", "7d")[0] == 0
    assert "X-Amz-Expires=604800" in rows_of()[0]["SignedDownloadUrl"]


@pytest.mark.parametrize(
    ("arguments", "name", "said"),
    [
        (("import", "ftp://x"), None, "no such store"),
        (("import", "s3://b", "--signed-for", "7d"), "CBKAPP_DATABASE_URL", "CBKAPP_DATABASE_URL is not set"),
        (("import", "s3://b"), "CBKAPP_LINKS_URL", "CBKAPP_LINKS_URL is not set"),
        (("import", "s3://b"), "CBKAPP_LINKS_SECRETS", "CBKAPP_LINKS_SECRETS is not set"),
        (("relink",), None, "which storage"),
    ],
)
def test_what_is_missing_is_named(command, monkeypatch, capsys, arguments, name, said):
    if name:
        monkeypatch.delenv(name)
    assert main(list(arguments)) == 2
    told = capsys.readouterr().err
    assert said in told
    assert "HINT: " in told


def test_a_bucket_that_is_not_there_is_a_failure_with_a_hint(command, capsys):
    assert main(["import", "s3://nobodys-bucket", "--signed-for", "7d"]) == 1
    assert "NoSuchBucket" in capsys.readouterr().err


def killed_imports(times, store_url, count):
    """Start imports that are killed as soon as they have written something."""
    arguments = [sys.executable, "-m", "cbk_app", "import", store_url, "--storage", "s3", "--bandwidth", "400"]
    for _ in range(times):
        before = count()
        running = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda before=before, running=running: count() > before or running.poll() is not None, 60, "rows")
        finally:
            running.send_signal(signal.SIGKILL)
            running.wait()


def test_an_import_that_was_killed_goes_on_without_doubles(command, put, bucket, rows_of):
    objects = {f"many/{number:04}": str(number).encode() for number in range(250)}
    put(objects)
    killed_imports(1, f"s3://{bucket}", lambda: len(rows_of()))
    assert 0 < len(rows_of()) < 250
    assert command("import")[0] == 0

    assert keys(rows_of()) == {key: (1, sha256(content)) for key, content in objects.items()}
    assert len(rows_of()) == 250


# Inventory


def inventory_of(s3, bucket):
    packed = s3.client().get_object(Bucket=bucket, Key=INVENTORY_KEY)["Body"].read()
    return packed, [json.loads(line) for line in gzip.decompress(packed).decode().splitlines()]


def test_an_inventory_is_an_ordinary_object_with_an_ordinary_row(command, put, s3, bucket, rows_of):
    put(OBJECTS)
    code, said = command("inventory", "--json")
    packed, (header, *entries, footer) = inventory_of(s3, bucket)

    assert (code, json.loads(said.out)["objects"]) == (0, 4)
    assert (header["format"], header["storage"], header["prefix"], footer) == ("cbk-inventory-1", "s3", "", {"objects": 4})
    assert {key: size for key, size, _, _ in entries} == {key: len(content) for key, content in OBJECTS.items()}
    assert keys(rows_of()) == {INVENTORY_KEY: (1, sha256(packed))}


def test_the_next_inventory_is_the_next_version_and_does_not_name_itself(command, put, s3, bucket, rows_of):
    put({"a": b"1"})
    assert command("inventory")[0] == command("inventory")[0] == 0
    _, (_, *entries, _) = inventory_of(s3, bucket)
    assert [entry[0] for entry in entries] == ["a"]
    assert [row["Version"] for row in rows_of()] == [1, 2]


def test_an_import_after_an_inventory_leaves_that_alone(command, put, rows_of):
    put({"a": b"1"})
    command("inventory")
    assert command("import")[0] == 0
    assert sorted(keys(rows_of())) == ["a", INVENTORY_KEY]


def test_amazons_own_list_will_do(command, put, s3, bucket):
    lines = '"b","cars/a%20%C3%A4%2B.png","10","2026-11-01T12:00:00.000Z","e1"\n"b","top","0","2026-11-01T12:00:00.000Z","e2"\n'
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as file:
        file.write(lines.encode())
    manifest = {
        "sourceBucket": "b",
        "creationTimestamp": "1793534400000",
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, Size, LastModifiedDate, ETag",
        "files": [{"key": "inv/data/1.csv.gz", "MD5checksum": hashlib.md5(packed.getvalue()).hexdigest()}],
    }
    put({"inv/data/1.csv.gz": packed.getvalue(), "inv/manifest.json": json.dumps(manifest).encode()})

    code, _ = command("inventory", "--s3-inventory", f"s3://{bucket}/inv/manifest.json")
    _, (header, *entries, footer) = inventory_of(s3, bucket)

    assert (code, footer) == (0, {"objects": 2})
    assert header["taken_at"] == "2026-11-01T12:00:00+00:00"
    assert [entry[:3] for entry in entries] == [["cars/a ä+.png", 10, "e1"], ["top", 0, "e2"]]


@pytest.mark.parametrize(
    "changes", [{"files": [{"key": "inv/1.csv.gz", "MD5checksum": "0" * 32}]}, {"fileFormat": "ORC"}, {"fileSchema": "Bucket, Key"}]
)
def test_a_list_of_amazons_that_cannot_be_trusted_is_refused(command, put, bucket, changes):
    manifest = {"creationTimestamp": "1", "fileFormat": "CSV", "fileSchema": "Bucket, Key, Size, LastModifiedDate", "files": []}
    put({"inv/1.csv.gz": gzip.compress(b""), "inv/manifest.json": json.dumps(manifest | changes).encode()})
    code, said = command("inventory", "--s3-inventory", f"s3://{bucket}/inv/manifest.json")
    assert code == 1
    assert "S3 Inventory" in said.err


# relink, schema


@everywhere
def test_relink_gives_rows_permanent_links(command, put, rows_of):
    put({"a": b"1", "cars/b": b"2"})
    command("import", "--signed-for", "7d")
    assert main(["relink", "--storage", "s3", "--dry-run"]) == 0
    assert "X-Amz" in rows_of()[0]["SignedDownloadUrl"]
    assert main(["relink", "--storage", "s3"]) == 0
    assert {LINKS.read(row["SignedDownloadUrl"].removeprefix(URL)) for row in rows_of()} == {("s3", "a"), ("s3", "cars/b")}


def test_schema_prints_what_the_kit_prints(capsys):
    assert main(["schema", "postgresql"]) == 0
    assert 'CREATE UNIQUE INDEX "ObjectStorageFiles_Version"' in capsys.readouterr().out
