"""A Version that comes again with another Hash: nothing is overwritten, and status says so until a person has looked."""

import gzip
import json

import pytest
from click.testing import CliRunner

from cbk.cli.main import cli


def status(desk):
    """How `cbk status --json` ends, and what it says."""
    result = CliRunner().invoke(cli, ["status", "--json"], env=desk.environment)
    return result.exit_code, json.loads(result.stdout)


def reasons(desk):
    result = CliRunner().invoke(cli, ["ls", "--state", "declined", "--json"], env=desk.environment)
    return {line["row"]: line["reason"] for line in map(json.loads, result.stdout.splitlines())}


def copy(desk):
    return gzip.decompress((desk.root / "car-erp/a/v1.gzip").read_bytes())


@pytest.fixture
def stored(make_desk):
    """A desk that reads all rows with each poll, with one copy; gives the desk and the row's Id."""
    desk = make_desk(reconcile_interval="1ms")
    row_id = desk.upload("a.txt", b"first")
    desk.work()
    assert status(desk)[0] == 0
    return desk, row_id


def test_second_row_with_a_known_version_and_another_hash_turns_status_red_until_it_is_gone(stored):
    desk, _ = stored
    forged = desk.upload("a.txt", b"second")
    desk.work()
    code, said = status(desk)
    assert (code, said["protected"], [problem["kind"] for problem in said["problems"]]) == (4, False, ["rows"])
    assert "version 1 is known with another Hash" in reasons(desk)[forged]
    assert copy(desk) == b"first"
    desk.drop(forged)
    desk.work()
    assert status(desk)[0] == 0


def test_row_of_a_stored_version_whose_hash_is_changed_turns_status_red_until_it_is_mended(stored):
    desk, row_id = stored
    good = desk.row(row_id)["Hash"]
    desk.change(row_id, Hash="bb" * 32)
    desk.work()
    code, said = status(desk)
    assert (code, [problem["kind"] for problem in said["problems"]]) == (4, ["rows"])
    assert "version 1 is known with another Hash" in reasons(desk)[row_id]
    assert copy(desk) == b"first"
    desk.change(row_id, Hash=good)
    desk.work()
    assert status(desk)[0] == 0
