"""A Version that comes again with another Hash: nothing is overwritten, and status says so until a person has looked."""

import gzip
import json
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from cbk.cli.main import cli


def status(site):
    """How `cbk status --json` ends, and what it says."""
    result = CliRunner().invoke(cli, ["status", "--json"], env=site.environment)
    return result.exit_code, json.loads(result.stdout)


def reasons(site):
    result = CliRunner().invoke(cli, ["ls", "--state", "declined", "--json"], env=site.environment)
    return {line["row"]: line["reason"] for line in map(json.loads, result.stdout.splitlines())}


def copy(site):
    return gzip.decompress((site.root / "car-erp/a/v1.gzip").read_bytes())


@pytest.fixture
def stored(make_site):
    """A site that reads all rows with each poll, with one copy; gives the site and the row's Id."""
    site = make_site(reconcile_interval="1ms")
    row_id = site.upload("a.txt", b"first")
    site.work()
    assert status(site)[0] == 0
    return site, row_id


def test_second_row_with_a_known_version_and_another_hash_turns_status_red_until_it_is_gone(stored):
    site, _ = stored
    forged = site.upload("a.txt", b"second")
    site.work()
    code, said = status(site)
    assert (code, said["protected"], [problem["kind"] for problem in said["problems"]]) == (4, False, ["rows"])
    assert "version 1 is known with another Hash" in reasons(site)[forged]
    assert copy(site) == b"first"
    site.drop(forged)
    site.work()
    assert status(site)[0] == 0


def test_row_of_a_stored_version_whose_hash_is_changed_turns_status_red_until_it_is_mended(stored):
    site, row_id = stored
    good = site.row(row_id)["Hash"]
    site.change(row_id, Hash="bb" * 32)
    site.work()
    code, said = status(site)
    assert (code, [problem["kind"] for problem in said["problems"]]) == (4, ["mismatch"])
    assert copy(site) == b"first"
    site.change(row_id, Hash=good)
    site.work()
    assert status(site)[0] == 0


def test_row_that_is_declined_is_told_though_an_old_delete_names_its_id(stored):
    site, row_id = stored
    site.upload("other.txt", b"other")
    delete_id = site.delete(row_id)
    site.drop(row_id)
    site.work()
    site.pass_grace()
    site.let_go()
    assert site.removals()[delete_id].outcome == "done"

    site.upload("z.txt", b"z", row_id=row_id)
    site.change(row_id, Hash="no hash at all")
    site.work()

    assert row_id in reasons(site)
    assert status(site)[0] == 4


def test_copy_whose_row_comes_back_beside_other_bytes_of_its_version_stays(stored):
    site, row_id = stored
    row = site.row(row_id)
    site.drop(row_id)
    site.upload("a.txt", b"second", served_at="/second", row_id=50)
    site.work()
    assert len(site.copies()) == 2

    site.put_back(row | {"Id": 60})
    site.work()
    site.pass_grace()
    site.let_go()

    assert len(site.copies()) == 2
    assert status(site)[0] == 4


def test_row_that_is_declined_is_told_though_the_delete_under_its_id_means_the_row_before(stored):
    site, row_id = stored
    site.upload("other.txt", b"other")
    site.change(row_id, CreatedAt=datetime(2026, 1, 1, tzinfo=UTC))
    site.work()
    site.delete(row_id, deleted_at=datetime(2026, 1, 2, tzinfo=UTC))
    site.drop(row_id)
    site.upload("z.txt", b"z", row_id=row_id)
    site.change(row_id, Hash="no hash at all", CreatedAt=datetime(2026, 1, 3, tzinfo=UTC))
    site.work()
    site.work()

    assert row_id in reasons(site)
    assert status(site)[0] == 4
