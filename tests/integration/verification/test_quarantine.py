"""What is whole in quarantine goes back by one command; nothing else moves."""

import gzip
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from cbk.cli.main import cli
from cbk.edges.archive.archive import Archive

DOCUMENTED = Path(__file__).parents[3] / "docs/commands.md"


@pytest.fixture
def site(make_site):
    """A site with two stored files, whose copies were put aside, and whose links are dead."""
    site = make_site()
    for name in ("one", "two"):
        site.upload(f"{name}.txt", name.encode())
    site.work()
    for copy in sorted(site.copies()):
        site.context.archive.quarantine(copy)
    with site.context.catalog.database.writing() as connection:
        connection.exec_driver_sql("UPDATE versions SET state = 'expired'")
    return site


def run(site, *options):
    result = CliRunner().invoke(cli, ["quarantine", *options], env=site.environment)
    assert result.exit_code == 0, result.output
    return result.stdout


def verdicts(site, *options):
    return {said["key"]: said["verdict"] for said in map(json.loads, run(site, "--json", *options).splitlines())}


def content(site, name):
    return gzip.decompress((site.root / f"car-erp/{name}/v1.gzip").read_bytes())


def test_whole_copies_are_put_back_and_count(site):
    assert verdicts(site, "--put-back") == {"one.txt": "put back", "two.txt": "put back"}
    assert (content(site, "one"), content(site, "two")) == (b"one", b"two")
    assert set(site.states().values()) == {"stored"}
    assert verdicts(site, "--put-back") == {}


def test_json_has_the_documented_shape(site):
    [documented] = re.findall(r"```json quarantine\n(.*)\n```", DOCUMENTED.read_text(encoding="utf-8"))
    assert {tuple(json.loads(line)) for line in run(site, "--json").splitlines()} == {tuple(json.loads(documented))}


def test_without_the_option_nothing_moves(site):
    assert verdicts(site) == {"one.txt": "whole", "two.txt": "whole"}
    assert site.copies() == set()
    assert "2 copies are whole: `cbk quarantine --put-back` puts them back" in run(site)


def test_copy_that_is_damaged_stays_and_the_other_goes_back(site):
    damaged = next(path for path in (site.root / ".cbk/quarantine").glob("*.gzip") if b"one" in gzip.decompress(path.read_bytes()))
    bytes_ = bytearray(damaged.read_bytes())
    bytes_[-9] ^= 1
    damaged.write_bytes(bytes_)
    assert verdicts(site, "--put-back") == {"one.txt": "bad", "two.txt": "put back"}
    assert damaged.read_bytes() == bytes_
    assert site.copies() == {"car-erp/two/v1.gzip"}


def test_copy_whose_version_has_another_one_meanwhile_stays_where_it_is(site):
    site.pass_backoff()
    with site.context.catalog.database.writing() as connection:
        connection.exec_driver_sql("UPDATE versions SET state = 'pending', due_at = 0 WHERE number = 1")
    site.work()
    assert verdicts(site, "--put-back") == {"one.txt": "spare", "two.txt": "spare"}
    assert len(list((site.root / ".cbk/quarantine").glob("*.gzip"))) == 2


def test_file_that_is_in_its_place_is_not_overwritten(site):
    place = site.root / "car-erp/one/v1.gzip"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"somebody's")
    assert verdicts(site, "--put-back") == {"one.txt": "in the way", "two.txt": "put back"}
    assert place.read_bytes() == b"somebody's"


def test_copy_that_no_row_speaks_of_stays(site):
    with site.context.catalog.database.writing() as connection:
        connection.exec_driver_sql("UPDATE versions SET number = 2")
    assert set(verdicts(site, "--put-back").values()) == {"unknown"}
    assert site.copies() == set()


def test_copy_that_was_put_back_by_a_command_that_died_then_counts_by_the_next_poll(site, monkeypatch):
    class Died(BaseException):
        pass

    release = Archive.release

    def die(archive, name, location):
        release(archive, name, location)
        raise Died

    monkeypatch.setattr(Archive, "release", die)
    with pytest.raises(Died):
        CliRunner().invoke(cli, ["quarantine", "--put-back"], env=site.environment, catch_exceptions=False)
    monkeypatch.undo()
    site.poll()
    assert len(site.copies()) == 1
    assert sorted(site.states().values()) == ["expired", "stored"]
    assert list(verdicts(site, "--put-back").values()) == ["put back"]
    assert (content(site, "one"), content(site, "two")) == (b"one", b"two")
