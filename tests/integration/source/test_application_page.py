"""What docs/application.md tells an application to run writes rows that the kit takes."""

import asyncio
import hashlib
import io
import json
import re
import shutil
import subprocess
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError
from sqlalchemy import text

from cbk.model import AcceptedRow
from cbk.rules.intake.rows import read_row
from cbk_app.links import Links
from cbk_app.recorder import Recorder

PAGE = (Path(__file__).parents[3] / "docs/application.md").read_text()
CODE = dict(re.findall(r"^```(\w+ [a-z-]+)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL))
SECRET = "s" * 40
CONTENT = b"what a user uploaded"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
LINK = "https://car-erp.s3.eu-central-1.amazonaws.com/cars/id-1/thumbnail.png"
KEY = {"storage": "s3", "path": "cars/id-1/", "name": "thumbnail.png"}
FRAMEWORKS = ("ruby rails", "csharp dotnet", "js node")


def accepted(source):
    return [read_row(row) for row in source.rows_after(None, 10)]


def the_row(number=1, row_id="1", link=LINK, digest=DIGEST):
    return AcceptedRow(
        source_id=row_id,
        storage="s3",
        key="cars/id-1/thumbnail.png",
        number=number,
        sha256=digest,
        link=link,
        content_type="image/png",
    )


def upload(application, version=1):
    application.run(CODE["sql upload"], **KEY, version=version, hash=DIGEST, link=LINK, content_type="image/png")


def python_of(name):
    names = {"__name__": "__main__"}
    exec(compile(CODE[f"python {name}"], f"docs/application.md, {name}", "exec"), names)
    return names


# SQL


def test_sql_of_an_upload_writes_a_row_that_is_accepted(application, source):
    upload(application)
    assert accepted(source) == [the_row()]


def test_sql_of_the_next_version_is_one_more_than_the_last(application):
    first = application.run(CODE["sql next-version"], **KEY)
    upload(application, version=1)
    assert (first, application.run(CODE["sql next-version"], **KEY)) == ([(1,)], [(2,)])


def test_sql_of_a_delete_names_the_newest_row(application, source):
    upload(application, version=1)
    upload(application, version=2)
    application.run(CODE["sql delete"], **KEY)
    assert [row.file_id for row in source.deletes_after(None, 10)] == ["2"]


def test_sql_that_takes_a_delete_back_leaves_the_log_empty(application, source):
    upload(application)
    application.run(CODE["sql delete"], **KEY)
    application.run(CODE["sql take-back"], **KEY)
    assert source.deletes_after(None, 10) == []


def test_sql_of_a_fresh_link_changes_the_row_that_is_named(application, source):
    upload(application, version=1)
    upload(application, version=2)
    application.run(CODE["sql link"], id=2, link=f"{LINK}?fresh")
    assert accepted(source) == [the_row(), the_row(2, "2", f"{LINK}?fresh")]


def test_sql_for_mysql_is_the_same_in_other_quotes():
    same = "\n".join(CODE[f"sql {name}"] + "\n" for name in ("upload", "delete", "link")).rstrip("\n")
    assert CODE["sql mysql"].rstrip("\n").replace("`", '"') == re.sub(r"\n\n+", "\n\n", same)


def test_sql_of_the_dates_dates_new_rows_alone(pg_application, pg_source):
    for table, column in (("ObjectStorageFiles", "CreatedAt"), ("ObjectStorageDeleteLog", "DeletedAt")):
        pg_application.run(f'ALTER TABLE "{table}" DROP COLUMN "{column}"')
    upload(pg_application, version=1)
    pg_application.run(CODE["sql delete"], **KEY)
    pg_application.script(CODE["sql dates"])
    upload(pg_application, version=2)
    pg_application.run(CODE["sql delete"], **KEY)
    assert [row.created_at is None for row in pg_source.rows_after(None, 10)] == [True, False]
    assert [row.deleted_at is None for row in pg_source.deletes_after(None, 10)] == [True, False]


def test_sql_of_the_dates_for_mysql_dates_new_rows_alone_and_in_utc(mysql_application, mysql_source):
    for table, column in (("ObjectStorageFiles", "CreatedAt"), ("ObjectStorageDeleteLog", "DeletedAt")):
        mysql_application.run(f'ALTER TABLE "{table}" DROP COLUMN "{column}"')
    upload(mysql_application, version=1)
    mysql_application.script(CODE["sql mysql-dates"])
    with mysql_application.engine.connect() as connection:
        connection.exec_driver_sql("SET time_zone = '+05:00'")
        values = {**KEY, "version": 2, "hash": DIGEST, "link": LINK, "content_type": "image/png"}
        connection.execute(text(CODE["sql upload"]), values)
        connection.execute(text(CODE["sql delete"]), KEY)
        connection.invalidate()  # with its zone
    undated, created_at = (row.created_at for row in mysql_source.rows_after(None, 10))
    [deleted_at] = (row.deleted_at for row in mysql_source.deletes_after(None, 10))
    assert undated is None
    for dated in (created_at, deleted_at):
        assert abs(datetime.now(UTC) - datetime.fromisoformat(str(dated)).replace(tzinfo=UTC)) < timedelta(hours=1)


# Python


def test_python_records_an_upload_and_its_delete(application, source):
    recorder = python_of("upload")
    with application.engine.connect() as connection:
        recorder["uploaded"](connection, CONTENT, LINK)
        recorder["deleted"](connection)
    assert accepted(source) == [the_row()]
    assert [row.file_id for row in source.deletes_after(None, 10)] == ["1"]


def test_python_hashes_what_passes_by(application, source):
    s3 = SimpleNamespace(upload_fileobj=lambda body, bucket, key: shutil.copyfileobj(body, io.BytesIO()))
    recorder = Recorder(storage="s3", link=lambda key: LINK)
    with application.engine.connect() as connection:
        python_of("streaming")["save"](s3, recorder, connection, io.BytesIO(CONTENT), "cars/id-1/thumbnail.png")
    assert [row.sha256 for row in accepted(source)] == [DIGEST]


@pytest.fixture
def stack(monkeypatch, s3):
    """The environment of an application on the S3 server."""
    monkeypatch.setenv("CBKAPP_LINKS_SECRETS", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", s3.region)


def test_flask_answers_permanent_links(stack):
    names = python_of("flask")
    names["app"].route("/")(lambda: "the application itself")
    client = names["app"].test_client()
    answer = client.get(urlsplit(names["links"].link("s3", "cars/a.png")).path)
    assert (client.get("/").status_code, answer.status_code) == (200, 302)
    assert urlsplit(answer.location).path == "/car-erp/cars/a.png"


def test_fastapi_answers_permanent_links(stack):
    names = python_of("fastapi")
    sent = []

    async def send(message):
        sent.append(message)

    path = urlsplit(names["links"].link("s3", "cars/a.png")).path
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": []}
    asyncio.run(names["app"](scope | {"root_path": "", "http_version": "1.1", "scheme": "https"}, None, send))
    headers = dict(sent[0]["headers"])
    assert (sent[0]["status"], urlsplit(headers[b"location"].decode()).path) == (302, "/car-erp/cars/a.png")


def test_events_become_rows(stack, s3, monkeypatch, sqlite_application):
    monkeypatch.setenv("CBKAPP_DATABASE_URL", sqlite_application.url)
    with suppress(ClientError):  # another run of this test made it
        s3.create_bucket("car-erp")
    s3.client().put_object(Bucket="car-erp", Key="cars/id-1/thumbnail.png", Body=CONTENT)
    found = {"key": "cars/id-1/thumbnail.png", "size": len(CONTENT), "sequencer": "01"}
    event = {"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "car-erp"}, "object": found}}]}
    names = python_of("events")
    assert names["handler"](event, None) == {"batchItemFailures": []}
    assert sqlite_application.run('SELECT "Hash" FROM "ObjectStorageFiles"') == [(DIGEST,)]


# What cannot be run here without its framework


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_framework_names_the_tables_and_columns_of_the_contract(framework):
    names = {"ObjectStorageFiles", "ObjectStorageDeleteLog", "Id", "FileId"}
    names |= {"Storage", "Path", "Name", "Version", "Hash", "SignedDownloadUrl"}
    assert names <= set(re.findall(r"\w+", CODE[framework]))


@pytest.mark.skipif(shutil.which("node") is None, reason="this machine has no node to check the syntax with")
def test_node_is_javascript(tmp_path):
    (tmp_path / "page.js").write_text(CODE["js node"])
    subprocess.run(["node", "--check", str(tmp_path / "page.js")], check=True)


@pytest.mark.skipif(shutil.which("node") is None, reason="this machine has no node to run it with")
def test_node_makes_and_answers_the_same_links(tmp_path):
    links = Links("https://app.example.com/cbk-links", secrets=[SECRET])
    keys = ["a", "cars/id-1/ä b.png", "line\nbreak", "a//b?#%"]
    (tmp_path / "page.js").write_text(CODE["js node-links"])
    (tmp_path / "run.js").write_text(
        """
        const { permanentLink, answerLink } = require("./page.js");
        const [url, secret, keys, links] = JSON.parse(process.argv[2]);
        (async () => {
          const answers = await Promise.all(links.map((link) => answerLink(["old", secret], ...link.split("/").slice(-2),
            async (storage, key) => `${storage}:${key}`)));
          const refused = await answerLink([secret], "00".repeat(32), links[0].split("/").pop(), null);
          console.log(JSON.stringify([keys.map((key) => permanentLink(url, secret, "s3", key)), answers, refused.status]));
        })();
        """
    )
    mine = [links.link("s3", key) for key in keys]
    told = json.dumps(["https://app.example.com/cbk-links", SECRET, keys, mine])
    done = subprocess.run(["node", str(tmp_path / "run.js"), told], check=True, capture_output=True, text=True)
    made, answers, refused = json.loads(done.stdout)
    assert (made, refused) == (mine, 403)
    assert [(answer["status"], answer["headers"]["Location"]) for answer in answers] == [(302, f"s3:{key}") for key in keys]


@pytest.mark.skipif(shutil.which("php") is None, reason="this machine has no php: scripts/test-tools installs it")
def test_laravel_makes_and_answers_the_same_links(tmp_path):
    links = Links("https://app.example.com/cbk-links", secrets=[SECRET])
    keys = ["a", "cars/id-1/ä b.png", "line\nbreak", "a//b?#%"]
    (tmp_path / "links.php").write_text(CODE["php laravel-links"])
    (tmp_path / "run.php").write_text(
        """<?php
        require 'links.php';
        [$url, $secret, $keys, $links] = json_decode($argv[1]);
        $read = fn ($link) => App\\CbkLinks::read(['old', $secret], ...array_slice(explode('/', $link), -2));
        echo json_encode([
            array_map(fn ($key) => App\\CbkLinks::link($url, $secret, 's3', $key), $keys),
            array_map($read, $links),
            $read(str_repeat('0', 64) . '/' . basename($links[0])),
            $read('0/***'),
        ]);
        """
    )
    mine = [links.link("s3", key) for key in keys]
    told = json.dumps(["https://app.example.com/cbk-links", SECRET, keys, mine])
    done = subprocess.run(["php", "run.php", told], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == [mine, [["s3", key] for key in keys], None, None]


@pytest.mark.skipif(shutil.which("php") is None, reason="this machine has no php: scripts/test-tools installs it")
def test_laravels_route_is_php(tmp_path):
    (tmp_path / "web.php").write_text(CODE["php laravel-route"])
    subprocess.run(["php", "-l", "web.php"], cwd=tmp_path, check=True, capture_output=True)
