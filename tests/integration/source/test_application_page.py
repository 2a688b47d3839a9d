"""What docs/application.md tells an application to run writes rows that the kit takes."""

import ast
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cbk.model import AcceptedRow
from cbk.rules.intake.rows import read_row

PAGE = (Path(__file__).parents[3] / "docs/application.md").read_text()
CODE = dict(re.findall(r"^```(\w+ [a-z-]+)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL))
CONTENT = b"what a user uploaded"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
LINK = "https://car-erp.s3.eu-central-1.amazonaws.com/cars/id-1/thumbnail.png"
KEY = {"storage": "s3", "path": "cars/id-1/", "name": "thumbnail.png"}
FRAMEWORKS = ("python django", "ruby rails", "csharp dotnet", "js node")


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
    names = {}
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


# Python


def test_python_records_an_upload_and_its_delete(application, source):
    recorder = python_of("upload")
    with application.engine.connect() as connection:
        file_id = recorder["uploaded"](connection, CONTENT, LINK)
        recorder["deleted"](connection, file_id)
    assert accepted(source) == [the_row()]
    assert [row.file_id for row in source.deletes_after(None, 10)] == ["1"]


def test_python_signs_what_is_listed_again(application, source):
    upload(application, version=1)
    upload(application, version=2)
    listed = [json.dumps({"row": "2", "key": "cars/id-1/thumbnail.png"}) + "\n"]
    with application.engine.connect() as connection:
        python_of("links")["refresh"](connection, listed, lambda key: f"https://signed.example/{key}")
    assert [row.link for row in accepted(source)] == [LINK, "https://signed.example/cars/id-1/thumbnail.png"]


# What cannot be run here without its framework


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_framework_names_the_tables_and_columns_of_the_contract(framework):
    names = {"ObjectStorageFiles", "ObjectStorageDeleteLog", "Id", "FileId"}
    names |= {"Storage", "Path", "Name", "Version", "Hash", "SignedDownloadUrl"}
    assert names <= set(re.findall(r"\w+", CODE[framework]))


def test_django_is_python():
    assert {node.name for node in ast.walk(ast.parse(CODE["python django"])) if isinstance(node, ast.FunctionDef)} == {
        "record_upload",
        "record_delete",
        "refresh_links",
    }
    compile(CODE["python django"], "docs/application.md", "exec")


@pytest.mark.skipif(shutil.which("node") is None, reason="this machine has no node to check the syntax with")
def test_node_is_javascript(tmp_path):
    (tmp_path / "page.js").write_text(CODE["js node"])
    subprocess.run(["node", "--check", str(tmp_path / "page.js")], check=True)
