"""What a person sees of dumps: commands, their JSON, the page, the metrics, and the shell script on the disk."""

import json
import re
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from cbk.cli.main import cli
from cbk.jobs.dump.take import take_dump
from tests.integration.test_page import Visitor

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def dumped(make_site, tmp_path, monkeypatch):
    """A site with one dump that was taken once; the settings are in the environment, too."""
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE orders(x)")
        connection.executemany("INSERT INTO orders VALUES (?)", [(n,) for n in range(100)])
        connection.commit()
    site = make_site(dumps={"shop": {"url": f"sqlite:///{path}", "keep": 1}}, grace_period="0s")
    site.work()
    take_dump(site.context, "shop", pause=lambda _seconds: False)
    for name, value in site.environment.items():
        monkeypatch.setenv(name, json.dumps({"shop": {"url": f"sqlite:///{path}", "keep": 1}}) if name == "CBK_DUMPS" else value)
    return site


def run(*arguments, expect=0):
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == expect, (result.output, result.exception)
    return result.stdout


def documented(name):
    (block,) = re.findall(rf"^```json {name}\n(.*?)^```", (DOCS / "commands.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    return json.loads(block).keys()


def test_json_of_each_command_has_the_documented_shape(dumped, tmp_path):
    outputs = {
        "dump-ls": run("dump", "ls", "--json"),
        "dump-version": run("dump", "ls", "shop", "--json"),
        "dump-now": run("dump", "now", "shop", "--json"),
        "dump-restore": run("dump", "restore", "shop", "--to", str(tmp_path / "back"), "--json"),
        "dump-drill": run("dump", "drill", "--json"),
        "dump-verify": run("dump", "verify", "--json"),
        "dump-prune": run("dump", "prune", "--plan", "--json"),
    }
    for name, output in outputs.items():
        assert json.loads(output.splitlines()[0]).keys() == documented(name), name


def test_each_command_speaks_to_a_person(dumped, tmp_path):
    assert re.match(r"shop +\S.* old; v1, 12\.\d kB|shop +\S.* old; v1, 8\.\d kB", run("dump", "ls"))
    assert "never drilled" in run("dump", "ls")
    assert run("dump", "drill", "shop") == "dump shop v1: restored, 1 table with all their rows\n"
    assert "drill passed" in run("dump", "ls")
    assert run("dump", "now", "shop").startswith("dump shop v2: ")
    assert "v2" in run("dump", "ls", "shop")
    assert "PRAGMA integrity_check" in run("dump", "restore", "shop", "--to", str(tmp_path / "back"))
    assert run("dump", "now", "shop", "--dry-run") == "would take dump shop (sqlite)\n"


def test_what_fails_ends_with_1_and_one_sentence(dumped, tmp_path):
    (tmp_path / "shop.db").unlink()
    result = CliRunner().invoke(cli, ["dump", "now", "shop"])
    assert str(result.exception) == f"{tmp_path}/shop.db is no file"
    assert "FAILED" in run("dump", "ls")


def test_status_the_page_and_the_metrics_know_dumps(dumped):
    found = json.loads(CliRunner().invoke(cli, ["status", "--json"]).stdout)
    assert [dump["name"] for dump in found["dumps"]] == ["shop"]
    assert found["dumps"][0].keys() == documented("dump-ls")
    assert re.search(r"^dump +shop ", CliRunner().invoke(cli, ["status"]).stdout, flags=re.MULTILINE)
    visitor = Visitor(dumped)
    code, text, _ = visitor.see()
    assert code == 200
    assert "Dumps shop:" in text
    metrics = visitor.metrics()
    assert metrics["cbk_dump_age_seconds", "shop"] >= 0
    assert metrics["cbk_dump_failures", "shop"] == 0
    run("dump", "drill")
    assert Visitor(dumped).metrics()["cbk_dump_drill_passed", "shop"] == 1
    assert "its last drill passed" in Visitor(dumped).see()[1]


def test_restore_with_dump_brings_both_and_names_rows_without_a_copy(make_site, tmp_path, monkeypatch):
    site = make_site(dumps={"app": {"url": f"sqlite:///{tmp_path}/app.db"}})
    for name, value in site.environment.items():
        monkeypatch.setenv(name, json.dumps({"app": {"url": f"sqlite:///{tmp_path}/app.db"}}) if name == "CBK_DUMPS" else value)
    site.upload("cars/1.png", b"one")
    site.work()
    take_dump(site.context, "app", pause=lambda _seconds: False)
    assert "app v1 names 1 file row: each with its copy" in run("restore", "--to", str(tmp_path / "new"), "--with-dump", "app")
    assert (tmp_path / "new/car-erp/cars/1.png").read_bytes() == b"one"
    assert (tmp_path / "new/app-v1.sqlite").exists()
    site.upload("cars/2.png", b"two")
    take_dump(site.context, "app", pause=lambda _seconds: False)
    output = run("restore", "--to", str(tmp_path / "other"), "--with-dump", "app", expect=3)
    assert "without copy: s3/cars/2.png v1 (row 2)" in output


def test_the_shell_script_on_the_disk_restores_dumps_too(dumped, tmp_path):
    script = dumped.root / ".cbk/restore.sh"
    (tmp_path / "there").mkdir()
    done = subprocess.run(
        ["sh", str(script), str(dumped.root), str(tmp_path / "there")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with closing(sqlite3.connect(tmp_path / "there/dumps/shop.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (100,)


def test_versions_that_no_rule_keeps_are_in_the_plan_of_all_that_goes(dumped):
    documented_keys = documented("prune")
    assert run("prune", "--plan", "--json") == ""
    take_dump(dumped.context, "shop", pause=lambda _seconds: False)
    [item] = map(json.loads, run("prune", "--plan", "--json").splitlines())
    assert item.keys() == documented_keys
    assert (item["action"], item["storage"], item["key"], item["version"], item["kind"]) == ("remove", "dumps", "shop", 1, "dump")
    assert run("prune", "--plan", "--json", "--storage", "s3") == ""
    assert "no rule keeps it" in run("prune", "--plan", "--prefix", "sh")
    run("hold", "shop", "--storage", "dumps")
    [held] = map(json.loads, run("prune", "--plan", "--json").splitlines())
    assert (held["action"], held["when"], held["why"]) == ("keep", None, "a hold keeps it")


def test_an_approval_names_the_dump(dumped):
    run("dump", "prune", "--approve", expect=1)
    take_dump(dumped.context, "shop", pause=lambda _seconds: False)
    assert "shop v1: pruned" in run("dump", "prune", "shop", "--approve")


def test_a_dump_that_is_bad_is_put_aside_by_who_reads_it(dumped):
    assert run("dump", "verify") == "dump shop v1: good\n"
    (dumped.root / "dumps/shop/v1.gzip").write_bytes(b"rubbish")
    assert "dump shop v1: BAD: " in run("dump", "verify", "shop", expect=3)
    assert run("dump", "verify") == ""
