"""Holds, the plan, undelete and the trash, on a site and through the command."""

import errno
import json
import os
import subprocess
import sys
from datetime import timedelta

import pytest

from cbk.errors import UsageError
from cbk.jobs.admin.init import initialise
from cbk.jobs.admin.rebuild import rebuild
from cbk.jobs.retention.holds import list_holds, place_hold, release_holds
from cbk.jobs.retention.plan import plan, prune_due
from cbk.jobs.retention.undelete import undelete
from cbk.rules.retention.journal import JOURNAL_NAME, decode_journal


@pytest.fixture
def stored(site):
    """A site with two stored files, and their rows."""
    rows = [site.upload(key, key.encode()) for key in ("cars/a.txt", "vans/b.txt")]
    site.work()
    return site, rows


def hold(site, key, **options):
    return place_hold(site.context, key, **{"is_prefix": False, "storage": None, "until": None, "reason": ""} | options)


def journal(site):
    return decode_journal(site.context.archive.read_note(JOURNAL_NAME))


def test_held_file_stays_and_the_other_goes(stored):
    site, rows = stored
    hold(site, "cars/a.txt", reason="court")
    for row in rows:
        site.delete(row)
    site.poll()
    site.pass_grace()
    assert sorted(summary.outcome for summary in site.let_go()) == ["kept", "pruned"]
    assert site.copies() == {"car-erp/cars/a/v1.gzip"}


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
    site, rows = stored
    hold(site, key, **options)
    site.delete(rows[0])
    site.poll()
    site.pass_grace()
    assert [summary.outcome for summary in site.let_go()] == ["kept"]


@pytest.mark.parametrize(("key", "options"), [("cars/a", {}), ("ars/", {"is_prefix": True}), ("cars/a.txt", {"storage": "azure"})])
def test_hold_of_something_else_keeps_nothing(stored, key, options):
    site, rows = stored
    hold(site, key, **options)
    site.delete(rows[0])
    site.poll()
    site.pass_grace()
    assert [summary.outcome for summary in site.let_go()] == ["pruned"]


def test_held_file_goes_when_it_is_released(stored):
    site, rows = stored
    hold(site, "cars/a.txt")
    site.delete(rows[0])
    site.poll()
    site.pass_grace()
    site.let_go()
    assert site.let_go() == []
    release_holds(site.context, key="cars/a.txt")
    assert [summary.outcome for summary in site.let_go()] == ["pruned"]


def test_hold_ends_at_its_time(stored):
    site, rows = stored
    now = site.context.catalog.database.now()
    hold(site, "cars/a.txt", until=now + timedelta(days=1))
    [placed] = list_holds(site.context)
    assert placed.hold.covers("s3", "cars/a.txt", now)
    assert not placed.hold.covers("s3", "cars/a.txt", now + timedelta(days=1))
    with pytest.raises(UsageError, match="over already"):
        hold(site, "cars/a.txt", until=now)
    assert rows


def test_second_hold_of_the_same_never_shortens_the_first(stored):
    site, _ = stored
    now = site.context.catalog.database.now()
    hold(site, "cars/a.txt", until=now + timedelta(days=9), reason="first")
    placed = hold(site, "cars/a.txt", until=now + timedelta(days=2))
    assert (placed.hold.until, placed.hold.reason) == (list_holds(site.context)[0].hold.until, "first")
    assert placed.hold.until - now > timedelta(days=8)
    assert hold(site, "cars/a.txt").hold.until is None


def test_hold_says_how_many_files_it_keeps(stored):
    site, _ = stored
    assert hold(site, "", is_prefix=True).files == 2
    assert hold(site, "nothing.txt").files == 0


def test_release_of_what_is_not_held_is_a_mistake(stored):
    site, _ = stored
    with pytest.raises(UsageError, match="no such hold"):
        release_holds(site.context, key="cars/a.txt")


def test_dry_run_of_a_hold_places_none(stored):
    site, _ = stored
    assert hold(site, "cars/", is_prefix=True, dry_run=True).files == 1
    assert list_holds(site.context) == []


# The journal


def test_hold_is_on_the_disk_as_soon_as_it_is_placed(stored):
    site, _ = stored
    hold(site, "cars/a.txt", reason="court")
    assert [(held.key, held.reason) for held in journal(site).holds] == [("cars/a.txt", "court")]
    release_holds(site.context, key="cars/a.txt")
    assert journal(site).holds == []


def test_open_removals_are_on_the_disk_with_their_grace(stored):
    site, rows = stored
    delete = site.delete(rows[0])
    site.poll()
    [removal] = journal(site).removals
    assert (removal.delete_id, removal.storage, removal.key, removal.through) == (delete, "s3", "cars/a.txt", 1)
    assert removal.due_at == site.removals()[delete].due_at
    site.withdraw(delete)
    site.poll()
    assert journal(site).removals == []


def test_delete_that_a_person_took_back_is_on_the_disk(stored):
    site, rows = stored
    delete = site.delete(rows[0])
    site.poll()
    undelete(site.context, "cars/a.txt")
    [removal] = journal(site).removals
    assert (removal.delete_id, removal.outcome, removal.open) == (delete, "rejected", False)


def test_journal_is_written_only_when_something_changed(stored):
    site, rows = stored
    site.delete(rows[0])
    site.poll()
    written = journal(site).written_at
    site.poll()
    assert journal(site).written_at == written


# The plan


def planned(site):
    return {item.version.key: (item.removes, item.reason) for item in plan(site.context) if item.version}


def test_plan_says_what_goes_when_and_why(stored):
    site, rows = stored
    delete = site.delete(rows[0])
    site.poll()
    [item] = plan(site.context)
    assert (item.removes, item.when) == (True, site.removals()[delete].due_at)
    assert item.reason == f"its file was deleted (delete-log row {delete})"
    assert list(plan(site.context, due_only=True)) == []
    site.pass_grace()
    [item] = plan(site.context, due_only=True)
    assert item.reason.endswith("and the grace has passed")


def test_plan_says_what_a_hold_keeps_before_the_grace_is_over(stored):
    site, rows = stored
    hold(site, "cars/a.txt", reason="court")
    site.delete(rows[0])
    site.poll()
    assert planned(site) == {"cars/a.txt": (False, "on hold: court")}


def test_plan_can_be_narrowed(stored):
    site, rows = stored
    for row in rows:
        site.delete(row)
    site.poll()
    assert [item.version.key for item in plan(site.context, prefix="vans/")] == ["vans/b.txt"]
    assert list(plan(site.context, storage="azure")) == []


def test_plan_of_more_removals_than_one_page_holds_names_each_once(make_site, monkeypatch):
    monkeypatch.setattr("cbk.edges.catalog.retention.removals.REMOVALS_PAGE", 2)
    monkeypatch.setattr("cbk.jobs.retention.plan.FILES_AT_ONCE", 2)
    site = make_site()
    rows = [site.upload(f"{i}.txt", b"x") for i in range(5)]
    site.work()
    for row in rows:
        site.delete(row)
    site.poll()
    assert sorted(item.version.key for item in plan(site.context)) == [f"{i}.txt" for i in range(5)]


def test_what_is_due_can_be_pruned_by_hand(stored):
    site, rows = stored
    site.delete(rows[0])
    site.poll()
    assert list(prune_due(site.context, site.publisher)) == []
    site.pass_grace()
    assert [summary.outcome for summary in prune_due(site.context, site.publisher)] == ["pruned"]
    assert site.copies() == {"car-erp/vans/b/v1.gzip"}


def test_pruning_by_hand_heeds_the_brake(make_site):
    site = make_site(brake_files=1, brake_share=0)
    rows = [site.upload(f"{i}.txt", b"x") for i in range(3)]
    site.work()
    for row in rows:
        site.delete(row)
    site.poll()
    site.pass_grace()
    assert {summary.outcome for summary in prune_due(site.context, site.publisher)} == {"kept"}
    assert len(site.copies()) == 3


# Undelete and the trash


def test_undelete_in_the_grace_keeps_the_file_for_good(stored):
    site, rows = stored
    delete = site.delete(rows[0])
    site.poll()
    assert undelete(site.context, "cars/a.txt").outcome == "undeleted"
    site.pass_grace()
    assert site.let_go() == []
    assert site.removals()[delete].outcome == "rejected"
    assert not site.versions()["cars/a.txt", 1].deleted


def test_undelete_without_a_trash_fetches_again_what_was_pruned(stored):
    site, rows = stored
    site.delete(rows[0])
    site.poll()
    site.pass_grace()
    site.let_go()
    assert undelete(site.context, "cars/a.txt").facts["fetched_again"] is True
    site.work()
    assert site.states()["cars/a.txt", 1] == "stored"


@pytest.fixture
def trashed(make_site):
    """A site whose one file was pruned into the trash."""
    site = make_site(trash="30d")
    row = site.upload("cars/a.txt", b"bytes")
    site.work()
    site.delete(row)
    site.poll()
    site.pass_grace()
    site.let_go()
    return site


def in_trash(site):
    return list((site.root / ".cbk" / "trash").iterdir())


def test_pruned_copy_lies_in_the_trash(trashed):
    assert trashed.copies() == set()
    assert len(in_trash(trashed)) == 1


def test_undelete_brings_a_copy_back_from_the_trash(trashed):
    site = trashed
    site.origin.remove("/car-erp/cars/a.txt")
    summary = undelete(site.context, "cars/a.txt")
    assert (summary.outcome, summary.facts["from_trash"]) == ("undeleted", "s3/cars/a.txt v1")
    assert site.states() == {("cars/a.txt", 1): "stored"}
    assert site.copies() == {"car-erp/cars/a/v1.gzip"}
    assert in_trash(site) == []


def test_undelete_that_died_half_way_is_finished_by_the_next_one(trashed):
    site = trashed
    [version] = site.context.catalog.pruned_copies.in_trash()
    site.context.archive.restore_from_trash(version.trash_name, "car-erp/cars/a/v1.gzip")
    undelete(site.context, "cars/a.txt")
    assert site.states() == {("cars/a.txt", 1): "stored"}


def test_copy_that_rotted_in_the_trash_is_fetched_again(trashed):
    site = trashed
    [path] = in_trash(site)
    path.chmod(0o640)
    path.write_bytes(b"rot")
    undelete(site.context, "cars/a.txt")
    site.work()
    assert site.states() == {("cars/a.txt", 1): "stored"}


def test_trash_is_emptied_when_its_time_is_over(trashed):
    site = trashed
    site.pass_time(trash_until=timedelta(days=31))
    site.poll()
    assert in_trash(site) == []
    assert site.context.catalog.pruned_copies.in_trash() == []


def test_dry_run_of_an_undelete_changes_nothing(trashed):
    site = trashed
    assert undelete(site.context, "cars/a.txt", dry_run=True).outcome == "would undelete"
    assert len(in_trash(site)) == 1


def test_undelete_of_what_is_not_deleted_says_so(stored):
    site, _ = stored
    assert undelete(site.context, "cars/a.txt").outcome == "nothing to do"


def test_undelete_of_an_unknown_file_is_a_mistake(site):
    with pytest.raises(UsageError, match="knows no file"):
        undelete(site.context, "nothing.txt")


def test_undelete_asks_which_storage_is_meant(make_site):
    site = make_site(buckets={})
    for storage in ("s3", "azure"):
        site.upload("a.txt", b"x", storage=storage)
    site.work()
    with pytest.raises(UsageError, match="several storages: azure, s3"):
        undelete(site.context, "a.txt")


# Through the command


def cbk(site, *arguments, expect=0):
    command = [sys.executable, "-m", "cbk.cli", *arguments]
    env = site.environment | {"PATH": "", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd=site.folder)
    assert done.returncode == expect, done.stderr
    return done


def test_commands_show_one_object_per_line(stored):
    site, rows = stored
    placed = json.loads(cbk(site, "hold", "--json", "--prefix", "cars/", "--until", "90d", "--reason", "court").stdout)
    assert (placed["key"], placed["prefix"], placed["files"], placed["reason"]) == ("cars/", True, 1, "court")
    assert [json.loads(line)["id"] for line in cbk(site, "hold", "--list", "--json").stdout.splitlines()] == [placed["id"]]
    site.delete(rows[0])
    site.poll()
    [item] = [json.loads(line) for line in cbk(site, "prune", "--plan", "--json").stdout.splitlines()]
    assert (item["action"], item["key"], item["version"], item["why"]) == ("keep", "cars/a.txt", 1, "on hold: court")
    assert json.loads(cbk(site, "release", "--id", str(placed["id"]), "--json").stdout)["released"] == placed["id"]
    undeleted = json.loads(cbk(site, "undelete", "cars/a.txt", "--json").stdout)
    assert (undeleted["outcome"], undeleted["deletes"]) == ("undeleted", 1)
    assert cbk(site, "prune", "--plan").stdout == ""


@pytest.mark.parametrize(("word", "outcome"), [("--approve", "approved"), ("--reject", "rejected")])
def test_who_decides_about_a_brake_is_told_which_files_it_is_about(make_site, word, outcome):
    site = make_site(brake_files=1, brake_share=0)
    rows = [site.upload(f"{number:02}.txt", b"x") for number in range(12)]
    site.work()
    for row in rows:
        site.delete(row)
    site.poll()
    site.pass_grace()
    list(prune_due(site.context, site.publisher))
    first, *named, last = cbk(site, "prune", word, "1").stdout.splitlines()
    assert first.startswith(f"{outcome}: 12 removals")
    assert named == [f"  s3/{number:02}.txt" for number in range(10)]
    assert last.startswith("  and 2 files more")


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
def test_wrong_usage_ends_with_2_and_a_hint(site, arguments):
    assert "HINT: " in cbk(site, *arguments, expect=2).stderr


# ---- a journal of very many removals


@pytest.fixture
def many(make_site, monkeypatch):
    """A site on which 40 files were deleted, with a journal in segments of ten."""
    for module in ("cbk.edges.catalog.retention.removals", "cbk.jobs.retention.journal"):
        monkeypatch.setattr(f"{module}.JOURNAL_SEGMENT", 10)
    monkeypatch.setattr("cbk.jobs.retention.journal.SMALL_BYTES", 1000)
    site = make_site(brake_files=1000)
    rows = [site.upload(f"{number}.txt", b"%d" % number) for number in range(42)]
    site.work()
    for row in rows[:40]:
        site.delete(row)
    site.poll()
    return site, rows


def names(site):
    read = journal(site)
    assert read.problems == []
    return sorted(int(removal.row_id) for removal in read.removals if removal.open)


def test_delete_among_many_is_added_to_the_journal_which_is_not_written_anew(many):
    site, rows = many
    before = site.context.archive.read_note(JOURNAL_NAME)
    site.delete(rows[40])
    site.poll()
    after = site.context.archive.read_note(JOURNAL_NAME)
    assert after.startswith(before)
    assert 0 < len(after) - len(before) < len(before) / 2
    assert names(site) == [int(row) for row in rows[:41]]


def test_journal_to_which_much_was_added_is_written_anew(many):
    site, rows = many
    whole = len(site.context.archive.read_note(JOURNAL_NAME))
    for row in rows[40:]:
        site.delete(row)
    for _ in range(20):
        site.poll()
        site.pass_grace(timedelta(seconds=1))
    assert len(site.context.archive.read_note(JOURNAL_NAME)) <= 2 * whole
    assert names(site) == [int(row) for row in rows]


def test_delete_that_a_person_takes_back_among_many_waits_no_more(many):
    site, rows = many
    undelete(site.context, "3.txt")
    read = journal(site)
    assert int(rows[3]) not in names(site)
    assert [removal.row_id for removal in read.removals if not removal.open] == [rows[3]]
    site.delete(rows[40])
    site.poll()
    assert [removal.row_id for removal in journal(site).removals if not removal.open] == [rows[3]]


def test_journal_that_somebody_cut_is_written_anew(many):
    site, rows = many
    path = site.root / ".cbk" / JOURNAL_NAME
    path.write_bytes(path.read_bytes()[:-50])
    site.delete(rows[40])
    site.poll()
    assert names(site) == [int(row) for row in rows[:41]]


def test_rebuild_knows_every_grace_of_a_journal_to_which_was_added(many):
    site, rows = many
    site.delete(rows[40])
    site.poll()
    due = {removal.row_id: removal.due_at for removal in site.removals().values()}
    site.close()
    for path in site.folder.glob("catalog.db*"):
        path.unlink()
    list(initialise(site.context))
    rebuild(site.context, tell=pytest.fail, advance=lambda *_: None)
    assert {removal.row_id: removal.due_at for removal in site.removals().values()} == due


def test_disk_that_fills_up_while_is_added_leaves_the_journal_as_it_was(many, monkeypatch):
    from cbk.edges.archive import archive  # noqa: PLC0415 - patched here only

    site, rows = many
    before = site.context.archive.read_note(JOURNAL_NAME)
    write = archive._write_all

    def run_full(descriptor, data):
        write(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "no space")

    site.delete(rows[40])
    monkeypatch.setattr(archive, "_write_all", run_full)
    site.poll()
    assert site.context.archive.read_note(JOURNAL_NAME) == before
    monkeypatch.undo()
    site.poll()
    assert names(site) == [int(row) for row in rows[:41]]


def test_worker_that_dies_between_adding_and_its_record_leaves_a_journal_that_the_next_one_mends(many, monkeypatch):
    site, rows = many
    note = site.context.catalog.facts.set

    def die(**values):
        if "journal.written" in values:
            raise SystemExit
        note(**values)

    site.delete(rows[40])
    monkeypatch.setattr(site.context.catalog.facts, "set", die)
    with pytest.raises(SystemExit):
        site.poll()
    assert names(site) == [int(row) for row in rows[:41]]
    monkeypatch.undo()
    site.expire_leases()
    site.delete(rows[41])
    site.poll()
    assert names(site) == [int(row) for row in rows]
