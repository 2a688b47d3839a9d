"""The catalog, made again from the disk alone: copies, holds and graces as before, and a word about what cannot be known."""

import dataclasses
import json
import os
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from cbk.cli.main import cli
from cbk.edges.catalog.database.schema import files, leases, removals, rows, versions
from cbk.errors import LeaseLost, RootMissing
from cbk.jobs.admin import rebuild as module
from cbk.jobs.admin.init import initialise
from cbk.jobs.admin.rebuild import rebuild
from cbk.jobs.context import open_context
from cbk.jobs.poll.poll import POLL_LEASE
from cbk.model import VersionState
from cbk.rules.intake.layout import copy_location
from cbk.rules.retention.journal import decode_journal
from cbk.settings import Settings
from tests.disk import BUCKETS, NOW, File, corpus, drop, header_of, make_disk

JOURNAL = ".cbk/retention.jsonl"


class Rebuilding:
    """One site, its rebuilds, and what they told."""

    def __init__(self, site):
        self.site = site
        self.problems = {}

    def lose_catalog(self):
        self.site.context.catalog.close()
        for path in self.site.folder.glob("catalog.db*"):
            path.unlink()
        self.site.reopen()

    def run(self, context=None, *, advance=lambda _: None, **options):
        self.problems = {}

        def tell(problem):
            self.problems[problem.location] = problem.reason

        return rebuild(context or self.site.context, tell=tell, advance=advance, **options)

    def stored(self):
        """What is stored, by (key, number), without what only a lost catalog knew."""
        forgotten = {"id": 0, "file_id": 0, "verified_at": None, "first_seen_at": None, "attempts": 0, "fence": 0}
        forgotten |= {"stored_sha256": None, "link_expires_at": None}
        stored = {name: found for name, found in self.site.versions().items() if found.state is VersionState.STORED}
        return {name: dataclasses.replace(found, **forgotten) for name, found in stored.items()}


@pytest.fixture
def lost(site):
    return Rebuilding(site)


@pytest.fixture
def make_fresh(tmp_path):
    """A function that makes the kit of a disk with copies on it, and a catalog that is not there yet."""
    kits = []

    def make(root, **settings):
        values = {
            "source_url": f"sqlite:///{tmp_path}/none.db",
            "catalog_url": f"sqlite:///{tmp_path}/fresh.db",
            "backup_root": str(root),
            "buckets": BUCKETS,
        }
        kits.append(open_context(Settings(**values | settings)))
        return kits[-1]

    yield make
    for context in kits:
        context.close()


def told(context, **options):
    """A rebuild, and its problems by location."""
    problems = {}
    done = rebuild(
        context, tell=lambda problem: problems.update({problem.location: problem.reason}), advance=lambda _: None, **options
    )
    return done, problems


def listed(context):
    return {(version.storage, version.key, version.number): version for version in context.catalog.report.versions()}


# ---- copies ------------------------------------------------------------------------------------------------------------------


def test_rebuilt_catalog_says_the_same_of_every_stored_version(lost):
    site = lost.site
    for key in ("cars/thumb.jpg", "cars/thumb.png", "cars/Thumb.png", "写真/ü.png", "cars", "empty", "a//b"):
        site.upload(key, key.encode() if key != "empty" else b"")
    site.upload("cars/thumb.jpg", b"second", version=2)
    site.work()
    site.upload("cars/thumb.jpg", b"tenth", version=10)
    site.work()
    before = lost.stored()
    assert len(before) >= 8
    lost.lose_catalog()
    done = lost.run()
    assert lost.stored() == before
    assert (done.copies, done.added, done.known, done.problems) == (len(before), len(before), 0, 0)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_copy_of_every_name_is_taken_in(make_fresh, tmp_path, database, request):
    every = corpus()
    archive, locations = make_disk(tmp_path / "backups", every)
    settings = {}
    if database == "postgresql":
        settings["catalog_url"] = request.getfixturevalue("postgres").url(request.getfixturevalue("pg_database"))
    context = make_fresh(archive.root, **settings)
    done, problems = told(context)
    found = listed(context)
    assert (done.added, problems) == (len(every), {})
    assert {name: copy_location(version.place, version.number) for name, version in found.items()} == locations
    for file in every:
        version = found[file.name]
        assert (version.sha256, version.size) == (header_of(file).sha256, len(file.content))
        assert (version.source_id, version.content_type) == (file.row or "", file.content_type)
        assert (version.bucket, version.state, version.reason) == (BUCKETS[file.storage], VersionState.STORED, "")
        assert version.stored_size == (archive.root / locations[file.name]).stat().st_size
    assert {name[2] for name, version in found.items() if name[1] == "cars/id-1/thumbnail.png" and version.newest} == {10}


def test_row_of_a_copy_is_recognised_and_a_row_without_a_copy_is_pending(lost):
    site = lost.site
    first = site.upload("a.txt", b"a")
    site.work()
    lost.lose_catalog()
    site.upload("b.txt", b"b")
    site.upload("a.txt", b"newer", version=2)
    done = lost.run()
    assert (done.rows, done.pending) == (3, 2)
    assert site.states() == {("a.txt", 1): "stored", ("a.txt", 2): "pending", ("b.txt", 1): "pending"}
    assert site.versions()["a.txt", 1].source_id == first
    assert site.declined() == {}
    site.work()
    assert set(site.states().values()) == {"stored"}


def test_after_a_rebuild_nothing_is_downloaded_again(lost):
    site = lost.site
    site.upload("a.txt", b"a")
    site.work()
    lost.lose_catalog()
    lost.run()
    site.poll()
    assert site.publisher.take() == []


def test_source_that_is_away_is_said_and_is_no_obstacle(lost):
    site = lost.site
    site.upload("a.txt", b"a")
    site.work()
    lost.lose_catalog()
    with site.source_away():
        done = lost.run()
    assert site.states() == {("a.txt", 1): "stored"}
    assert any("what has no copy is not known yet" in note for note in done.notes)


def test_second_rebuild_changes_nothing(lost):
    site = lost.site
    for key in ("a.txt", "b.txt"):
        site.upload(key, key.encode())
    site.work()
    before = site.versions()
    done = lost.run()
    assert (done.added, done.known) == (0, 2)
    assert site.versions() == before


def test_copy_that_lies_whole_in_its_place_counts_whatever_the_catalog_believed(lost):
    site = lost.site
    row = site.upload("a.txt", b"a")
    site.work()
    before = site.versions()["a.txt", 1]
    with site.context.catalog.database.writing() as connection:
        connection.execute(sa.update(versions).values(state="failed", reason="for a test", attempts=3))
    lost.run()
    after = site.versions()["a.txt", 1]
    assert (after.state, after.id, after.source_id) == (VersionState.STORED, before.id, row)


def test_gap_of_a_catalog_that_lives_is_filled(lost):
    site = lost.site
    for version in (1, 2):
        site.upload("a.txt", b"a%d" % version, version=version)
        site.work()
    site.upload("a.txt", b"a3", version=3)
    site.poll()
    with site.context.catalog.database.writing() as connection:
        connection.execute(sa.delete(removals))
        connection.execute(sa.delete(rows).where(rows.c.number == 1))
        connection.execute(sa.delete(versions).where(versions.c.number == 1))
    with site.source_away():
        done = lost.run()
    assert (done.added, done.known) == (1, 1)
    assert {number: version.newest for (_, number), version in site.versions().items()} == {1: False, 2: False, 3: True}


def test_broken_off_half_way_it_goes_on_where_it_was(lost, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)
    site = lost.site
    for number in range(7):
        site.upload(f"{number}.txt", b"%d" % number)
    site.work()
    before = lost.stored()
    lost.lose_catalog()

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lost.run(advance=stop)
    assert len(site.versions()) == 2
    done = lost.run()
    assert (done.added, done.known) == (5, 2)
    assert lost.stored() == before


def test_progress_counts_every_copy_once(lost, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)
    for number in range(5):
        lost.site.upload(f"{number}.txt", b"x")
    lost.site.work()
    advanced = []
    lost.run(advance=advanced.append)
    assert advanced == [2, 2, 1]


def test_copies_were_not_verified_and_are_read_first(lost):
    lost.site.upload("a.txt", b"a")
    lost.site.work()
    lost.lose_catalog()
    lost.run()
    version = lost.site.versions()["a.txt", 1]
    assert (version.verified_at, version.stored_sha256) == (None, None)


def test_verified_copies_are_whole_as_if_just_stored(lost):
    site = lost.site
    site.upload("a.txt", b"a")
    site.work()
    before = site.versions()["a.txt", 1]
    lost.lose_catalog()
    lost.run(verify=True)
    version = site.versions()["a.txt", 1]
    assert version.stored_sha256 == before.stored_sha256
    assert version.verified_at is not None


def test_bucket_of_that_time_stays_where_the_setting_has_changed(make_fresh, tmp_path):
    archive, locations = make_disk(tmp_path / "backups", [File("a.txt", b"a")])
    context = make_fresh(archive.root, buckets={"s3": "renamed"})
    told(context)
    (version,) = listed(context).values()
    assert (version.bucket, copy_location(version.place, 1)) == ("car-erp", locations["s3", "a.txt", 1])


def test_copy_of_the_future_was_not_seen_in_the_future(make_fresh, tmp_path):
    archive, locations = make_disk(tmp_path / "backups", [File("a.txt", b"a")])
    ahead = datetime(2200, 1, 1, tzinfo=UTC)
    os.utime(archive.root / locations["s3", "a.txt", 1], (ahead.timestamp(), ahead.timestamp()))
    context = make_fresh(archive.root)
    told(context)
    (version,) = listed(context).values()
    assert version.stored_at == ahead
    assert version.first_seen_at <= context.catalog.database.now()


def test_rebuild_writes_nothing_to_the_disk(lost):
    site = lost.site
    site.upload("a.txt", b"a")
    site.work()
    lost.lose_catalog()

    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in site.root.rglob("*")}

    before = state()
    lost.run(verify=True)
    assert state() == before


# ---- what is wrong -----------------------------------------------------------------------------------------------------------


def damaged(path, at, to=None):
    data = bytearray(path.read_bytes())
    data[at] = data[at] ^ 1 if to is None else to
    path.write_bytes(bytes(data))


NOT_OURS = "its header is damaged, or was not written by this kit"
ELSEWHERE = "its header says that it is s3/{key} v1, which does not belong there"
HARMS = {
    "cut short": (
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        "does not end as a copy of 2304 bytes does: it is cut short, or was overwritten",
    ),
    "emptied": (lambda path: path.write_bytes(b""), "is not a gzip file"),
    "of somebody else": (lambda path: path.write_bytes(b"\x1f\x8b\x08\0" + bytes(60)), NOT_OURS),
    "header damaged": (lambda path: damaged(path, 40), NOT_OURS),
    "renumbered": (lambda path: path.rename(path.with_name("v7.gzip")), ELSEWHERE),
    "numbered 01": (lambda path: path.rename(path.with_name("v01.gzip")), ELSEWHERE),
}


def test_bad_copies_are_named_and_left_out_and_the_others_are_taken_in(make_fresh, tmp_path):
    bad = {f"{harm}.txt": reason for harm, (_, reason) in HARMS.items()}
    copies = [File("good.txt", b"good"), *(File(key, bytes(range(256)) * 9) for key in bad)]
    archive, locations = make_disk(tmp_path / "backups", copies)
    for key, (harm, _) in zip(bad, HARMS.values(), strict=True):
        harm(archive.root / locations["s3", key, 1])
    context = make_fresh(archive.root)
    for dry_run in (True, False):
        done, problems = told(context, dry_run=dry_run)
        assert (done.copies, done.added, done.problems) == (1 + len(bad), 1, len(bad))
        assert {location.split("/")[1]: reason for location, reason in problems.items()} == {
            key.removesuffix(".txt"): reason.format(key=key) for key, reason in bad.items()
        }
    assert set(listed(context)) == {("s3", "good.txt", 1)}


@pytest.mark.parametrize("verify", [False, True])
def test_flipped_bit_in_the_content_is_found_where_copies_are_verified(make_fresh, tmp_path, verify):
    archive, locations = make_disk(tmp_path / "backups", [File("a", bytes(range(256)) * 40)])
    damaged(archive.root / locations["s3", "a", 1], -20)
    _, problems = told(make_fresh(archive.root), verify=verify)
    assert set(problems) == ({locations["s3", "a", 1]} if verify else set())


FORGED = [
    {"sha256": "zz"},
    {"sha256": ""},
    {"storage": ""},
    {"storage": "x" * 300},
    {"name": ""},
    {"version": 2**63},
    {"path": "a/" * 3000},
    {"source_id": "9" * 300},
]


def test_headers_that_make_no_sense_are_named(make_fresh, tmp_path):
    archive, _ = make_disk(tmp_path / "backups", [])
    for number, forged in enumerate(FORGED):
        file = File(f"{number}.txt", b"a")
        drop(archive.root, file, f"car-erp/{number}/v1.gzip", dataclasses.replace(header_of(file), **forged))
    context = make_fresh(archive.root)
    _, problems = told(context)
    assert sorted(problems) == [f"car-erp/{number}/v1.gzip" for number in range(len(FORGED))]
    assert all(reason.startswith("its header makes no sense: ") for reason in problems.values())
    assert listed(context) == {}


def test_swapped_pair_is_named(make_fresh, tmp_path):
    archive, locations = make_disk(tmp_path / "backups", [File("a", b"a"), File("b", b"b")])
    one, other = (archive.root / location for location in locations.values())
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    _, problems = told(make_fresh(archive.root))
    assert problems == {
        "car-erp/a/v1.gzip": "its header says that it is s3/b v1, which does not belong there",
        "car-erp/b/v1.gzip": "its header says that it is s3/a v1, which does not belong there",
    }


def test_second_copy_of_a_version_is_named(make_fresh, tmp_path):
    archive, _ = make_disk(tmp_path / "backups", [])
    file = File("a/b.png", b"b")
    drop(archive.root, file, "car-erp/a/b/v1.gzip")
    drop(archive.root, file, "car-erp/a/b.png/v1.gzip")
    context = make_fresh(archive.root)
    _, problems = told(context)
    ((location, reason),) = problems.items()
    (version,) = listed(context).values()
    assert {location, copy_location(version.place, 1)} == {"car-erp/a/b/v1.gzip", "car-erp/a/b.png/v1.gzip"}
    assert reason == f"it is another copy of s3/a/b.png v1, which belongs to {copy_location(version.place, 1)}"


def test_folder_of_two_files_belongs_to_one_of_them(make_fresh, tmp_path):
    archive, _ = make_disk(tmp_path / "backups", [])
    drop(archive.root, File("a.png", b"png"), "car-erp/a/v1.gzip")
    drop(archive.root, File("a.jpg", b"jpg", number=2), "car-erp/a/v2.gzip")
    context = make_fresh(archive.root)
    _, problems = told(context)
    ((_, key, number),) = listed(context)
    other = {"a.png": "a.jpg v2", "a.jpg": "a.png v1"}[key]
    assert problems == {f"car-erp/a/v{3 - number}.gzip": f"it is s3/{other}, but its folder is that of s3/{key}"}


def test_folder_that_cannot_be_listed_is_named(make_fresh, tmp_path, monkeypatch):
    archive, _ = make_disk(tmp_path / "backups", [File("a.txt", b"a"), File("b.txt", b"b")])
    scandir = os.scandir

    def fail(path="."):
        if str(path).endswith("car-erp/b"):
            raise OSError(5, "input/output error")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    context = make_fresh(archive.root)
    _, problems = told(context)
    assert list(problems) == ["car-erp/b"]
    assert set(listed(context)) == {("s3", "a.txt", 1)}


def test_foreign_files_are_passed_by(make_fresh, tmp_path):
    archive, _ = make_disk(tmp_path / "backups", [File("a.txt", b"a")])
    for name in (
        "notes.txt",
        "car-erp/a/v1.gzip~",
        "car-erp/a/v.gzip",
        "v1.gzip",
        ".cbk/quarantine/x-1.gzip",
        "lost+found/v1.gzip",
    ):
        (archive.root / name).parent.mkdir(exist_ok=True)
        (archive.root / name).write_bytes(b"not a copy")
    (archive.root / "car-erp/link").symlink_to(archive.root / "car-erp/a")
    done, problems = told(make_fresh(archive.root))
    assert (done.copies, problems) == (1, {})


def test_copy_that_is_pruned_meanwhile_is_no_problem(lost, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 1)
    site = lost.site
    for key in ("a", "b"):
        site.upload(key, key.encode())
    site.work()
    lost.lose_catalog()
    _, second = site.context.archive.walk()
    done = lost.run(advance=lambda _: site.context.archive.remove(second))
    assert (done.copies, done.added, done.problems) == (1, 1, 0)


def test_disk_that_is_not_mounted_makes_no_catalog(make_fresh, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RootMissing):
        told(make_fresh(tmp_path / "empty"))
    assert not (tmp_path / "fresh.db").exists()


def test_catalog_of_another_disk_is_refused(lost, make_fresh, tmp_path):
    archive, _ = make_disk(tmp_path / "other", [File("a.txt", b"a")])
    context = make_fresh(archive.root, catalog_url=lost.site.settings["catalog_url"])
    with pytest.raises(RootMissing, match="the catalog belongs to the disk"):
        told(context)


def test_disk_that_goes_away_half_way_ends_it(lost, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 1)
    site = lost.site
    for key in ("a", "b"):
        site.upload(key, key.encode())
    site.work()
    lost.lose_catalog()
    with pytest.raises(RootMissing):
        lost.run(advance=lambda _: (site.root / ".cbk/identity").rename(site.root / ".cbk/gone"))


# ---- beside others -----------------------------------------------------------------------------------------------------------


def test_rebuild_waits_for_no_poll_but_says_that_one_is_at_work(lost):
    with lost.site.rival() as rival:
        assert rival.leases.acquire(POLL_LEASE, timedelta(minutes=2))
        with pytest.raises(LeaseLost, match="a poll or another rebuild is at work") as caught:
            lost.run()
    assert "stop beat" in caught.value.hint


def test_no_poll_works_while_a_rebuild_does(lost):
    outcomes = []
    lost.site.upload("a", b"a")
    lost.site.work()
    lost.run(advance=lambda _: outcomes.append(lost.site.poll().outcome))
    assert outcomes == ["skipped"]
    assert lost.site.poll().outcome == "polled"


def test_rebuild_that_was_silent_too_long_stops(make_site, monkeypatch):
    lost = Rebuilding(make_site(lease="2s"))
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(module, "monotonic", lambda: next(clock))
    lost.site.upload("a", b"a")
    lost.site.work()
    lost.lose_catalog()
    rebuilding = lost.site.context.catalog.rebuilding
    known_locations = rebuilding.known_locations

    def ask_when_a_poll_has_taken_over(locations):
        with lost.site.rival() as rival, rival.database.writing() as connection:
            connection.execute(sa.update(leases).values(holder="rival"))
        return known_locations(locations)

    monkeypatch.setattr(rebuilding, "known_locations", ask_when_a_poll_has_taken_over)
    with pytest.raises(LeaseLost, match="a poll has taken over"):
        lost.run()
    assert lost.site.versions() == {}


def test_file_that_a_worker_takes_in_at_the_same_moment_is_known_then(lost, monkeypatch):
    site = lost.site
    site.upload("a", b"a")
    site.work()
    lost.lose_catalog()
    rivals = []
    original = site.context.catalog.rebuilding.add

    def add(plan):
        if not rivals:
            rivals.append(site.open())
            module.record_rows(rivals[0], rivals[0].source.rows_after(None, 10))
        return original(plan)

    monkeypatch.setattr(site.context.catalog.rebuilding, "add", add)
    done = lost.run()
    assert (done.added, done.known, done.problems) == (0, 1, 0)
    assert site.states() == {("a", 1): "pending"}


def test_known_copy_is_not_read_again(lost):
    site = lost.site
    site.upload("a", b"a")
    site.work()
    damaged(site.root / "car-erp/a/v1.gzip", 40)
    assert lost.run().problems == 0


# ---- a dry run ---------------------------------------------------------------------------------------------------------------


def test_dry_run_without_a_catalog_counts_and_makes_none(make_fresh, tmp_path):
    archive, _ = make_disk(tmp_path / "backups", [File("a.txt", b"a"), File("b.txt", b"b")])
    done, _ = told(make_fresh(archive.root), dry_run=True)
    assert (done.copies, done.added, done.known, done.rows) == (2, 2, 0, 0)
    assert not (tmp_path / "fresh.db").exists()


def test_dry_run_with_a_catalog_changes_nothing_in_it(lost):
    site = lost.site
    for key in ("a", "b"):
        site.upload(key, key.encode())
    site.work()
    with site.context.catalog.database.writing() as connection:
        connection.execute(sa.delete(rows).where(rows.c.version_id == 1))
        connection.execute(sa.delete(versions).where(versions.c.id == 1))
        connection.execute(sa.delete(files).where(files.c.id == 1))
    before = site.versions()
    done = lost.run(dry_run=True)
    assert (done.added, done.known) == (1, 1)
    assert site.versions() == before


# ---- holds and graces --------------------------------------------------------------------------------------------------------


def hold(site, key, **options):
    values = {"is_prefix": False, "storage": None, "until": None, "reason": ""}
    return site.context.catalog.holds.add(key, **values | options)


def plain(row):
    """A removal without the catalog's own ids and without what a poll notes for itself."""
    forgotten = {"id", "file_id", "version_id", "checked_at", "armed_until", "brake_id", "poll"}
    return {name: value for name, value in row._mapping.items() if name not in forgotten}


def test_holds_come_back(lost):
    site = lost.site
    hold(site, "cars/", is_prefix=True, until=NOW + timedelta(days=900), reason="court")
    hold(site, "a.txt", storage="s3")
    site.poll()
    before = [dataclasses.replace(held, id=0) for held in site.context.catalog.holds.all()]
    lost.lose_catalog()
    done = lost.run()
    assert done.holds == 2
    assert [dataclasses.replace(held, id=0) for held in site.context.catalog.holds.all()] == before
    assert lost.run().holds == 0


def test_holds_survive_a_new_catalog_even_without_a_rebuild(lost):
    site = lost.site
    hold(site, "cars/", is_prefix=True)
    site.poll()
    lost.lose_catalog()
    assert "holds that the disk remembers: 1" in list(initialise(site.context))
    site.poll()
    assert [held.key for held in decode_journal((site.root / JOURNAL).read_bytes()).holds] == ["cars/"]


def test_holds_that_an_older_catalog_lacks_come_back_with_a_rebuild(lost):
    site = lost.site
    held = hold(site, "cars/", is_prefix=True)
    site.poll()
    site.context.catalog.holds.release([held.id])
    assert lost.run().holds == 1
    assert [held.key for held in site.context.catalog.holds.all()] == ["cars/"]


def test_released_hold_does_not_come_back_with_the_next_init(lost):
    site = lost.site
    held = hold(site, "cars/", is_prefix=True)
    site.poll()
    site.context.catalog.holds.release([held.id])
    list(initialise(site.context))
    assert site.context.catalog.holds.all() == []


def test_grace_of_a_deleted_file_goes_on(lost):
    site = lost.site
    row = site.upload("a.txt", b"a")
    site.upload("b.txt", b"b")
    site.work()
    log_row = site.delete(row)
    site.poll()
    before = plain(site.removals()[log_row])
    lost.lose_catalog()
    assert lost.run().removals == 1
    assert plain(site.removals()[log_row]) == before
    assert {key: version.deleted for (key, _), version in site.versions().items()} == {"a.txt": True, "b.txt": False}
    site.poll()
    assert plain(site.removals()[log_row])["due_at"] == before["due_at"]
    assert lost.run().removals == 0


def test_deleted_file_is_pruned_when_its_first_grace_has_passed(lost):
    site = lost.site
    row = site.upload("a.txt", b"a")
    site.upload("b.txt", b"b")
    site.work()
    site.delete(row)
    site.poll()
    lost.lose_catalog()
    lost.run()
    assert site.let_go() == []
    site.pass_grace()
    site.let_go()
    assert site.copies() == {"car-erp/b/v1.gzip"}


def test_delete_covers_no_version_that_came_after_it(lost):
    site = lost.site
    row = site.upload("a.txt", b"a")
    site.work()
    site.delete(row)
    site.poll()
    site.upload("a.txt", b"again", version=2)
    site.work()
    lost.lose_catalog()
    lost.run()
    assert {number: version.deleted for (_, number), version in site.versions().items()} == {1: True, 2: False}


def test_grace_of_a_replaced_copy_goes_on(lost):
    site = lost.site
    site.upload("a.txt", b"a")
    site.work()
    site.upload("a.txt", b"newer", version=2)
    site.work()
    site.poll()
    (before,) = map(plain, site.removals().values())
    lost.lose_catalog()
    assert lost.run().removals == 1
    (after,) = site.removals().values()
    assert plain(after) == before
    assert after.version_id == site.versions()["a.txt", 1].id
    with site.context.catalog.database.reading() as connection:
        assert connection.scalar(sa.select(versions.c.scheduled).where(versions.c.id == after.version_id))
    site.poll()
    assert len(site.removals()) == 1
    assert lost.run().removals == 0


def test_delete_of_a_file_that_is_not_known_again_waits_for_its_row(lost):
    site = lost.site
    row = site.upload("a.txt", b"a")
    site.work()
    log_row = site.delete(row)
    site.poll()
    lost.lose_catalog()
    for location in site.copies():
        (site.root / location).unlink()
    with site.source_away():
        lost.run()
    before = site.removals()[log_row]
    assert before.file_id is None
    site.poll()
    assert site.removals()[log_row].file_id == site.versions()["a.txt", 1].file_id
    assert site.removals()[log_row].due_at == before.due_at


def test_without_a_journal_it_says_what_is_not_known(lost):
    (lost.site.root / JOURNAL).unlink(missing_ok=True)
    done = lost.run()
    assert done.problems == 0
    assert any("holds have to be set again" in note for note in done.notes)


def test_damaged_line_of_the_journal_is_named_and_the_others_count(lost):
    site = lost.site
    hold(site, "one")
    hold(site, "two")
    site.poll()
    journal = site.root / JOURNAL
    journal.write_bytes(journal.read_bytes().replace(b'"key":"one"', b'"key":"0ne"'))
    lost.lose_catalog()
    done = lost.run()
    assert [held.key for held in site.context.catalog.holds.all()] == ["two"]
    assert done.problems == 2
    assert lost.problems.keys() == {JOURNAL}
    assert any("holds have to be set again" in note for note in done.notes)


def test_journal_that_cannot_be_read_is_named(lost):
    (lost.site.root / JOURNAL).unlink(missing_ok=True)
    (lost.site.root / JOURNAL).symlink_to("elsewhere")
    done = lost.run()
    assert done.problems == 1
    assert "symbolic" in lost.problems[JOURNAL]


def test_hold_is_back_before_anything_else_is(lost):
    site = lost.site
    site.upload("a.txt", b"a")
    site.work()
    hold(site, "a.txt")
    site.poll()
    lost.lose_catalog()

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lost.run(advance=stop)
    assert [held.key for held in site.context.catalog.holds.all()] == ["a.txt"]


# ---- the command -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cbk(site, monkeypatch, tmp_path):
    """A function that runs `cbk rebuild` on the site and gives its exit code and its lines."""
    monkeypatch.setattr("cbk.settings.DEFAULT_CONFIG", tmp_path / "no.toml")
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)

    def run(*arguments):
        result = CliRunner().invoke(cli, ["rebuild", *arguments])
        return result.exit_code, result.output.splitlines()

    return run


def test_command_says_what_came_back(lost, cbk):
    site = lost.site
    hold(site, "a")
    site.upload("a", b"a")
    site.work()
    lost.lose_catalog()
    site.upload("b", b"b")
    code, lines = cbk()
    assert code == 0
    assert lines[:3] == [
        "rebuilt: copies 1, added 1, known already 0, left out 0",
        "from the journal: holds 1, removals whose grace goes on 0",
        "from the application: rows 2, versions without a copy 1",
    ]
    assert all(line.startswith("- ") for line in lines[3:])


def test_command_ends_with_3_and_names_what_it_left_out_in_signs_that_no_terminal_obeys(lost, cbk):
    (lost.site.root / "b\x1b[31m/x").mkdir(parents=True)
    (lost.site.root / "b\x1b[31m/x/v1.gzip").touch()
    code, lines = cbk()
    assert (code, lines[0]) == (3, "b\\x1b[31m/x/v1.gzip: is not a gzip file")
    assert lines[1] == "rebuilt: copies 1, added 0, known already 0, left out 1"
    code, lines = cbk("--json")
    assert (code, len(lines)) == (3, 2)
    assert json.loads(lines[0]) == {"outcome": "problem", "location": "b\x1b[31m/x/v1.gzip", "reason": "is not a gzip file"}
    assert "\x1b" not in lines[0]


def test_command_says_what_it_would_do(lost, cbk):
    lost.site.upload("a", b"a")
    lost.site.work()
    lost.lose_catalog()
    code, lines = cbk("--dry-run")
    assert (code, lines[0]) == (0, "would rebuild: copies 1, added 1, known already 0, left out 0")
    assert not (lost.site.folder / "catalog.db").exists()


def test_command_that_meets_a_poll_ends_with_1_and_a_hint(lost, cbk):
    with lost.site.rival() as rival:
        rival.leases.acquire(POLL_LEASE, timedelta(minutes=2))
        result = CliRunner().invoke(cli, ["rebuild"])
    assert isinstance(result.exception, LeaseLost)
    assert result.exception.exit_code == 1
    assert result.exception.hint == "stop beat and the workers, and try again in 2 min"
