"""`cbk verify` and `cbk drill`: what they print, how they end, and what they refuse."""

import json
import os
import sys

import pytest

from cbk.cli.main import main
from tests.in_process_site import InProcessSite
from tests.origin import Origin
from tests.unit.test_docs import documented, shape

HOSTILE = "cars/ünï 日本\x1b[31mred\nforged\u202e.bin"


@pytest.fixture(scope="module")
def origin():
    with Origin() as origin:
        yield origin


@pytest.fixture
def site(tmp_path, origin, monkeypatch):
    """A kit with two stored files; its settings are in the environment."""
    for name in [*os.environ]:
        if name.startswith("CBK_") or name in {"FORCE_COLOR", "COLUMNS"}:
            monkeypatch.delenv(name)
    monkeypatch.setattr("cbk.settings.DEFAULT_CONFIG", tmp_path / "no.toml")
    site = InProcessSite(tmp_path, origin)
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    site.upload("cars/a.bin", b"a" * 1000)
    site.upload("b.bin", b"b")
    site.work()
    yield site
    site.close()


@pytest.fixture
def cbk(monkeypatch, capsys):
    """A function that runs `cbk` and gives its exit code, its standard output and its standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["cbk", *map(str, arguments)])
        with pytest.raises(SystemExit) as ending:
            main()
        captured = capsys.readouterr()
        return ending.value.code, captured.out, captured.err

    return run


def rot(site, name="b"):
    path = site.root / f"car-erp/{name}/v1.gzip"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def objects(out):
    return [json.loads(line) for line in out.splitlines()]


# ---- verify ------------------------------------------------------------------------------------------------------------------


def test_verify_of_what_is_well_says_so(site, cbk):
    code, out, err = cbk("verify")
    assert (code, err) == (0, "")
    assert out.startswith("read 2 copies, ")
    assert out.endswith(": all good\n")


@pytest.mark.parametrize("mode", [[], ["--quick"]])
def test_verify_names_what_is_bad_and_ends_with_3(site, cbk, mode):
    rot(site)
    code, out, _ = cbk("verify", *mode)
    first, last = out.splitlines()
    assert code == 3
    assert first.startswith("corrupt    s3/b.bin v1: car-erp/b/v1.gzip: its trailer is ")
    assert "put aside as .cbk/quarantine/" in first
    assert first.endswith("fetched again by the next poll")
    assert last.endswith(": 1 bad")
    assert site.states()["b.bin", 1] == "pending"


def test_verify_as_json_has_the_documented_shape(site, cbk):
    rot(site)
    code, out, _ = cbk("verify", "--json")
    found, summary = objects(out)
    assert code == 3
    assert (shape(found), shape(summary)) == (documented("verify"), documented("verified"))
    assert (found["finding"], found["key"], found["again"]) == ("corrupt", "b.bin", True)
    assert (summary["outcome"], summary["mode"], summary["copies"], summary["found"]) == ("verified", "full", 2, 1)


def test_verify_that_only_reports_ends_with_3_as_well_and_changes_nothing(site, cbk):
    rot(site)
    before = site.versions()
    code, out, _ = cbk("verify", "--no-repair")
    assert code == 3
    assert "put aside" not in out
    assert "fetched again" not in out
    assert site.versions() == before


def test_verify_says_that_an_altered_copy_counts_still(site, cbk):
    path = site.root / "car-erp/b/v1.gzip"
    path.write_bytes(path.read_bytes().replace(b"b.bin\0", b"c.bin\0"))
    code, out, _ = cbk("verify", "--quick")
    assert code == 3
    assert out.splitlines()[0].endswith("counts still")


def test_dry_verify_says_how_much_it_would_read(site, cbk):
    rot(site)
    code, out, _ = cbk("verify", "--dry-run", "--key", "cars/a.bin")
    assert (code, out.split(",")[0]) == (0, "would read 1 copy")
    code, out, _ = cbk("verify", "--dry-run", "--json")
    [summary] = objects(out)
    assert shape(summary) == documented("verified")
    assert (code, summary["outcome"], summary["copies"]) == (0, "would verify", 2)
    assert set(site.states().values()) == {"stored"}


def test_verify_reads_what_is_asked_for(site, cbk):
    for arguments, copies in [
        (["--prefix", "cars/"], 1),
        (["--storage", "s3", "--key", "b.bin"], 1),
        (["--sample", "50%"], 1),
        (["--older-than", "1d"], 0),
    ]:
        code, out, _ = cbk("verify", "--json", *arguments)
        assert (code, objects(out)[-1]["copies"]) == (0, copies), arguments
    assert cbk("verify", "--older-than", "1d")[1].endswith(": there was nothing to read\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sample", "half"], "--sample 'half': expected a percentage"),
        (["--sample", "0%"], "--sample '0%': expected a percentage"),
        (["--older-than", "long"], "--older-than 'long': expected a duration"),
        (["--key", "a", "--prefix", "b"], "--key and --prefix name different files"),
        (["--key", "nothing"], "no stored copy is named like this"),
    ],
)
def test_verify_that_makes_no_sense_is_wrong_usage_with_a_hint(site, cbk, arguments, said):
    code, out, err = cbk("verify", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"cbk: {said}")
    assert "HINT: " in err


@pytest.mark.parametrize("arguments", [["verify"], ["verify", "--dry-run"], ["drill"]])
def test_disk_that_is_away_ends_it_with_1(site, cbk, arguments, tmp_path):
    site.root.rename(tmp_path / "unmounted")
    code, out, err = cbk(*arguments)
    assert (code, out) == (1, "")
    assert "is missing" in err


def test_hostile_name_reaches_no_terminal(site, cbk):
    site.upload(HOSTILE, b"x")
    site.work()
    location = next(path for path in site.copies() if "forged" in path)
    (site.root / location).write_bytes(b"rotten")
    for arguments in (["verify", "--no-repair"], ["verify", "--no-repair", "--json"], ["drill", "--json"]):
        _, out, _ = cbk(*arguments)
        assert all(character.isprintable() or character == "\n" for character in out)
        assert "forged" in out


# ---- drill and status ---------------------------------------------------------------------------------------------------------


def test_drill_gives_a_verdict_that_status_shows(site, cbk, tmp_path):
    code, out, _ = cbk("drill", "--scratch", tmp_path)
    assert code == 0
    assert out.startswith("passed: 2 files at ")
    code, out, _ = cbk("status")
    assert code == 0
    lines = dict(line.split("  ", 1) for line in out.splitlines() if "  " in line)
    assert lines["last drill"].endswith(f"passed: 2 files at {lines['last drill'].split(' files at ')[1]}")
    assert lines["verified"].strip().startswith("every copy in the last ")


def test_drill_that_fails_ends_with_3_and_turns_status_red(site, cbk, tmp_path):
    rot(site)
    code, out, _ = cbk("drill", "--scratch", tmp_path)
    assert code == 3
    assert "failed     s3/b.bin v1: car-erp/b/v1.gzip: " in out
    code, out, _ = cbk("status")
    assert code == 4
    assert "last drill  " in out
    assert "- the last drill failed: 1 of 2 files, such as s3/b.bin v1" in out
    assert "found bad   1 so far, the last one " in out
    assert "s3/b.bin v1 corrupt" in out


def test_drill_as_json_has_the_documented_shape(site, cbk, tmp_path):
    code, out, _ = cbk("drill", "--json", "--scratch", tmp_path, "--files", "1")
    [verdict] = objects(out)
    assert code == 0
    assert shape(verdict) == documented("drill")
    assert verdict["passed"] is True


def test_status_as_json_says_how_copies_and_drills_stand(site, cbk, tmp_path):
    taken = json.loads(cbk("status", "--json")[1])
    names = ("overdue_copies", "found_bad", "last_found_bad_at", "last_drill_at", "last_drill_passed")
    assert [taken[name] for name in names] == [0, 0, None, None, None]
    assert taken["oldest_verified_at"] is not None
    rot(site)
    cbk("drill", "--scratch", tmp_path)
    taken = json.loads(cbk("status", "--json")[1])
    assert (taken["found_bad"], taken["last_drill_passed"]) == (1, False)
    assert taken["last_found_bad_at"] <= taken["last_drill_at"]


def test_dry_drill_says_how_much_it_would_restore_and_leaves_no_verdict(site, cbk, tmp_path):
    code, out, _ = cbk("drill", "--dry-run", "--scratch", tmp_path)
    assert (code, out.split(",")[0]) == (0, "would restore 2 files")
    assert str(tmp_path) in out
    code, out, _ = cbk("drill", "--dry-run", "--json", "--scratch", tmp_path, "--files", "1")
    [plan] = objects(out)
    assert shape(plan) == documented("drill-plan")
    assert (code, plan["files"]) == (0, 2)
    assert cbk("status", "--json")[1].count('"last_drill_at": null') == 1


def test_dry_drill_without_room_for_the_largest_file_fails(site, cbk, tmp_path, monkeypatch):
    monkeypatch.setattr("cbk.jobs.verification.drill.free_bytes", lambda _: 0)
    code, _, err = cbk("drill", "--dry-run", "--scratch", tmp_path)
    assert (code, "the largest file of the drill has" in err) == (1, True)


def test_drill_with_nothing_stored_says_so(site, cbk):
    (site.root / "car-erp/b/v1.gzip").unlink()
    (site.root / "car-erp/cars/a/v1.gzip").unlink()
    cbk("verify")
    code, _, err = cbk("drill")
    assert code == 2
    assert err.startswith("cbk: there is nothing to restore yet\nHINT: ")
