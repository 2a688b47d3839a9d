"""Holds, the plan, undelete and the trash, on a desk and through the command."""

import json
import subprocess
import sys
from datetime import timedelta

import pytest

from cbk.errors import UsageError
from cbk.jobs.holds import list_holds, place_hold, release_holds
from cbk.jobs.plan import plan, prune_due
from cbk.jobs.undelete import undelete
from cbk.rules.journal import JOURNAL_NAME, decode_journal


@pytest.fixture
def stored(desk):
    """A desk with two stored files, and their rows."""
    rows = [desk.upload(key, key.encode()) for key in ("cars/a.txt", "vans/b.txt")]
    desk.work()
    return desk, rows


def hold(desk, key, **options):
    return place_hold(desk.kit, key, **{"is_prefix": False, "storage": None, "until": None, "reason": ""} | options)


def journal(desk):
    return decode_journal(desk.kit.archive.read_note(JOURNAL_NAME))


def test_held_file_stays_and_the_other_goes(stored):
    desk, rows = stored
    hold(desk, "cars/a.txt", reason="court")
    for row in rows:
        desk.delete(row)
    desk.poll()
    desk.pass_grace()
    assert sorted(summary.outcome for summary in desk.let_go()) == ["kept", "pruned"]
    assert desk.copies() == {"car-erp/cars/a/v1.gzip"}


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("/cars/a.txt", {}),
        ("cars/", {"is_prefix": True}),
        ("", {"is_prefix": True}),
        ("cars/a.txt", {"storage": "s3"}),
    ],
)
def test_hold_names_a_key_or_the_beginning_of_keys(stored, key, options):
    desk, rows = stored
    hold(desk, key, **options)
    desk.delete(rows[0])
    desk.poll()
    desk.pass_grace()
    assert [summary.outcome for summary in desk.let_go()] == ["kept"]


@pytest.mark.parametrize(("key", "options"), [("cars/a", {}), ("ars/", {"is_prefix": True}), ("cars/a.txt", {"storage": "azure"})])
def test_hold_of_something_else_keeps_nothing(stored, key, options):
    desk, rows = stored
    hold(desk, key, **options)
    desk.delete(rows[0])
    desk.poll()
    desk.pass_grace()
    assert [summary.outcome for summary in desk.let_go()] == ["pruned"]


def test_held_file_goes_when_it_is_released(stored):
    desk, rows = stored
    hold(desk, "cars/a.txt")
    desk.delete(rows[0])
    desk.poll()
    desk.pass_grace()
    desk.let_go()
    assert desk.let_go() == []
    release_holds(desk.kit, key="cars/a.txt")
    assert [summary.outcome for summary in desk.let_go()] == ["pruned"]


def test_hold_ends_at_its_time(stored):
    desk, rows = stored
    now = desk.kit.catalog.database.now()
    hold(desk, "cars/a.txt", until=now + timedelta(days=1))
    [placed] = list_holds(desk.kit)
    assert placed.hold.covers("s3", "cars/a.txt", now)
    assert not placed.hold.covers("s3", "cars/a.txt", now + timedelta(days=1))
    with pytest.raises(UsageError, match="over already"):
        hold(desk, "cars/a.txt", until=now)
    assert rows


def test_second_hold_of_the_same_never_shortens_the_first(stored):
    desk, _ = stored
    now = desk.kit.catalog.database.now()
    hold(desk, "cars/a.txt", until=now + timedelta(days=9), reason="first")
    placed = hold(desk, "cars/a.txt", until=now + timedelta(days=2))
    assert (placed.hold.until, placed.hold.reason) == (list_holds(desk.kit)[0].hold.until, "first")
    assert placed.hold.until - now > timedelta(days=8)
    assert hold(desk, "cars/a.txt").hold.until is None


def test_hold_says_how_many_files_it_keeps(stored):
    desk, _ = stored
    assert hold(desk, "", is_prefix=True).files == 2
    assert hold(desk, "nothing.txt").files == 0


def test_release_of_what_is_not_held_is_a_mistake(stored):
    desk, _ = stored
    with pytest.raises(UsageError, match="no such hold"):
        release_holds(desk.kit, key="cars/a.txt")


def test_dry_run_of_a_hold_places_none(stored):
    desk, _ = stored
    assert hold(desk, "cars/", is_prefix=True, dry_run=True).files == 1
    assert list_holds(desk.kit) == []


# The journal


def test_hold_is_on_the_disk_as_soon_as_it_is_placed(stored):
    desk, _ = stored
    hold(desk, "cars/a.txt", reason="court")
    assert [(held.key, held.reason) for held in journal(desk).holds] == [("cars/a.txt", "court")]
    release_holds(desk.kit, key="cars/a.txt")
    assert journal(desk).holds == []


def test_open_removals_are_on_the_disk_with_their_grace(stored):
    desk, rows = stored
    delete = desk.delete(rows[0])
    desk.poll()
    [removal] = journal(desk).removals
    assert (removal.delete_id, removal.storage, removal.key, removal.through) == (delete, "s3", "cars/a.txt", 1)
    assert removal.due_at == desk.removals()[delete].due_at
    desk.take_back(delete)
    desk.poll()
    assert journal(desk).removals == []


def test_delete_that_a_person_took_back_is_on_the_disk(stored):
    desk, rows = stored
    delete = desk.delete(rows[0])
    desk.poll()
    undelete(desk.kit, "cars/a.txt")
    [removal] = journal(desk).removals
    assert (removal.delete_id, removal.outcome, removal.open) == (delete, "rejected", False)


def test_journal_is_written_only_when_something_changed(stored):
    desk, rows = stored
    desk.delete(rows[0])
    desk.poll()
    written = journal(desk).written_at
    desk.poll()
    assert journal(desk).written_at == written


# The plan


def planned(desk):
    return {item.version.key: (item.removes, item.reason) for item in plan(desk.kit) if item.version}


def test_plan_says_what_goes_when_and_why(stored):
    desk, rows = stored
    delete = desk.delete(rows[0])
    desk.poll()
    [item] = plan(desk.kit)
    assert (item.removes, item.when) == (True, desk.removals()[delete].due_at)
    assert item.reason == f"its file was deleted (delete-log row {delete})"
    assert list(plan(desk.kit, due_only=True)) == []
    desk.pass_grace()
    [item] = plan(desk.kit, due_only=True)
    assert item.reason.endswith("and the grace has passed")


def test_plan_says_what_a_hold_keeps_before_the_grace_is_over(stored):
    desk, rows = stored
    hold(desk, "cars/a.txt", reason="court")
    desk.delete(rows[0])
    desk.poll()
    assert planned(desk) == {"cars/a.txt": (False, "on hold: court")}


def test_plan_can_be_narrowed(stored):
    desk, rows = stored
    for row in rows:
        desk.delete(row)
    desk.poll()
    assert [item.version.key for item in plan(desk.kit, prefix="vans/")] == ["vans/b.txt"]
    assert list(plan(desk.kit, storage="azure")) == []


def test_plan_of_more_removals_than_one_page_holds_names_each_once(make_desk, monkeypatch):
    monkeypatch.setattr("cbk.edges.catalog.removals.PAGE", 2)
    monkeypatch.setattr("cbk.jobs.plan.FILES_AT_ONCE", 2)
    desk = make_desk()
    rows = [desk.upload(f"{i}.txt", b"x") for i in range(5)]
    desk.work()
    for row in rows:
        desk.delete(row)
    desk.poll()
    assert sorted(item.version.key for item in plan(desk.kit)) == [f"{i}.txt" for i in range(5)]


def test_what_is_due_can_be_pruned_by_hand(stored):
    desk, rows = stored
    desk.delete(rows[0])
    desk.poll()
    assert list(prune_due(desk.kit, desk.courier)) == []
    desk.pass_grace()
    assert [summary.outcome for summary in prune_due(desk.kit, desk.courier)] == ["pruned"]
    assert desk.copies() == {"car-erp/vans/b/v1.gzip"}


def test_pruning_by_hand_heeds_the_brake(make_desk):
    desk = make_desk(brake_files=1, brake_share=0)
    rows = [desk.upload(f"{i}.txt", b"x") for i in range(3)]
    desk.work()
    for row in rows:
        desk.delete(row)
    desk.poll()
    desk.pass_grace()
    assert {summary.outcome for summary in prune_due(desk.kit, desk.courier)} == {"kept"}
    assert len(desk.copies()) == 3


# Undelete and the trash


def test_undelete_in_the_grace_keeps_the_file_for_good(stored):
    desk, rows = stored
    delete = desk.delete(rows[0])
    desk.poll()
    assert undelete(desk.kit, "cars/a.txt").outcome == "undeleted"
    desk.pass_grace()
    assert desk.let_go() == []
    assert desk.removals()[delete].outcome == "rejected"
    assert not desk.versions()["cars/a.txt", 1].deleted


def test_undelete_without_a_trash_fetches_again_what_was_pruned(stored):
    desk, rows = stored
    desk.delete(rows[0])
    desk.poll()
    desk.pass_grace()
    desk.let_go()
    assert undelete(desk.kit, "cars/a.txt").facts["fetched_again"] is True
    desk.work()
    assert desk.states()["cars/a.txt", 1] == "stored"


@pytest.fixture
def trashed(make_desk):
    """A desk whose one file was pruned into the trash."""
    desk = make_desk(trash="30d")
    row = desk.upload("cars/a.txt", b"bytes")
    desk.work()
    desk.delete(row)
    desk.poll()
    desk.pass_grace()
    desk.let_go()
    return desk


def in_trash(desk):
    return list((desk.root / ".cbk" / "trash").iterdir())


def test_pruned_copy_lies_in_the_trash(trashed):
    assert trashed.copies() == set()
    assert len(in_trash(trashed)) == 1


def test_undelete_brings_a_copy_back_from_the_trash(trashed):
    desk = trashed
    desk.origin.remove("/car-erp/cars/a.txt")
    summary = undelete(desk.kit, "cars/a.txt")
    assert (summary.outcome, summary.facts["from_trash"]) == ("undeleted", "s3/cars/a.txt v1")
    assert desk.states() == {("cars/a.txt", 1): "stored"}
    assert desk.copies() == {"car-erp/cars/a/v1.gzip"}
    assert in_trash(desk) == []


def test_undelete_that_died_half_way_is_finished_by_the_next_one(trashed):
    desk = trashed
    [version] = desk.kit.catalog.removals.in_trash()
    desk.kit.archive.take_from_trash(version.trash_name, "car-erp/cars/a/v1.gzip")
    undelete(desk.kit, "cars/a.txt")
    assert desk.states() == {("cars/a.txt", 1): "stored"}


def test_copy_that_rotted_in_the_trash_is_fetched_again(trashed):
    desk = trashed
    [path] = in_trash(desk)
    path.chmod(0o640)
    path.write_bytes(b"rot")
    undelete(desk.kit, "cars/a.txt")
    desk.work()
    assert desk.states() == {("cars/a.txt", 1): "stored"}


def test_trash_is_emptied_when_its_time_is_over(trashed):
    desk = trashed
    desk.pass_time(trash_until=timedelta(days=31))
    desk.poll()
    assert in_trash(desk) == []
    assert desk.kit.catalog.removals.in_trash() == []


def test_dry_run_of_an_undelete_changes_nothing(trashed):
    desk = trashed
    assert undelete(desk.kit, "cars/a.txt", dry_run=True).outcome == "would undelete"
    assert len(in_trash(desk)) == 1


def test_undelete_of_what_is_not_deleted_says_so(stored):
    desk, _ = stored
    assert undelete(desk.kit, "cars/a.txt").outcome == "nothing to do"


def test_undelete_of_an_unknown_file_is_a_mistake(desk):
    with pytest.raises(UsageError, match="knows no file"):
        undelete(desk.kit, "nothing.txt")


def test_undelete_asks_which_storage_is_meant(make_desk):
    desk = make_desk(buckets={})
    for storage in ("s3", "azure"):
        desk.upload("a.txt", b"x", storage=storage)
    desk.work()
    with pytest.raises(UsageError, match="several storages: azure, s3"):
        undelete(desk.kit, "a.txt")


# Through the command


def cbk(desk, *arguments, expect=0):
    command = [sys.executable, "-m", "cbk.cli", *arguments]
    done = subprocess.run(
        command, env=desk.environment | {"PATH": ""}, capture_output=True, text=True, check=False, cwd=desk.folder
    )
    assert done.returncode == expect, done.stderr
    return done


def test_commands_show_one_object_per_line(stored):
    desk, rows = stored
    placed = json.loads(cbk(desk, "hold", "--json", "--prefix", "cars/", "--until", "90d", "--reason", "court").stdout)
    assert (placed["key"], placed["prefix"], placed["files"], placed["reason"]) == ("cars/", True, 1, "court")
    assert [json.loads(line)["id"] for line in cbk(desk, "hold", "--list", "--json").stdout.splitlines()] == [placed["id"]]
    desk.delete(rows[0])
    desk.poll()
    [item] = [json.loads(line) for line in cbk(desk, "prune", "--plan", "--json").stdout.splitlines()]
    assert (item["action"], item["key"], item["version"], item["why"]) == ("keep", "cars/a.txt", 1, "on hold: court")
    assert json.loads(cbk(desk, "release", "--id", str(placed["id"]), "--json").stdout)["released"] == placed["id"]
    undeleted = json.loads(cbk(desk, "undelete", "cars/a.txt", "--json").stdout)
    assert (undeleted["outcome"], undeleted["deletes"]) == ("undeleted", 1)
    assert cbk(desk, "prune", "--plan").stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("hold",),
        ("hold", "a", "--list"),
        ("hold", "a", "--until", "some day"),
        ("hold", "a", "--until", "2027"),
        ("release",),
        ("release", "a", "--id", "1"),
        ("prune", "--plan", "--approve", "1"),
        ("prune", "--approve", "7"),
        ("undelete", "nothing"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_hint(desk, arguments):
    assert "HINT: " in cbk(desk, *arguments, expect=2).stderr
