"""The rolling verification: all copies, slice by slice, in time and gently; and restore drills."""

import json
import random
import time
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from cbk import errors
from cbk.edges.catalog.database.schema import versions
from cbk.jobs.status.status import gather_status
from cbk.jobs.verification import drill as drill_module
from cbk.jobs.verification.drill import drill, drill_by_worker, last_drill, plan_drill
from cbk.jobs.verification.scheduled import scrub, verify_unattended

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MEDIA = random.Random(7).randbytes(300_000)


def carry_on(_seconds):
    """A worker that is not to stop, and does not wait."""
    return False


def store(site, *names, content=b"the bytes of an object"):
    for name in names:
        site.upload(f"{name}.bin", content + name.encode())
    site.work()


def place(site, name):
    return site.root / f"car-erp/{name}/v1.gzip"


def rot(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def set_read(site, **ago):
    """When copies were last read: `a=HOUR` is an hour ago, None is never."""
    with site.context.catalog.database.writing() as connection:
        for name, age in ago.items():
            version = site.versions()[f"{name}.bin", 1]
            instant = None if age is None else site.context.catalog.database.now() - age
            connection.execute(sa.update(versions).where(versions.c.id == version.id).values(verified_at=instant))


def read_since(site, instant):
    return {key for (key, _), version in site.versions().items() if version.verified_at and version.verified_at >= instant}


# ---- slices ------------------------------------------------------------------------------------------------------------------


def test_copies_that_were_just_read_are_left_alone(site):
    store(site, "a", "b")
    summary = scrub(site.context, pause=carry_on)
    assert (summary.outcome, summary.facts["copies"]) == ("verified", 0)


def test_what_is_late_is_read_whatever_it_is_and_the_rest_waits_for_its_turn(site):
    store(site, "late", "never", "young", "fresh")
    set_read(site, late=29 * DAY, never=None, young=DAY, fresh=timedelta(seconds=1))
    now = site.context.catalog.database.now()
    assert scrub(site.context, pause=carry_on).facts["copies"] == 2
    assert read_since(site, now) == {"late.bin", "never.bin"}


def test_slices_save_up_for_the_next_copy(make_site):
    site = make_site(verify_every="30d")
    store(site, "a", "b")
    set_read(site, a=timedelta(days=23.99), b=timedelta(0))
    saved = []
    while scrub(site.context, pause=carry_on).facts["copies"] == 0:
        saved.append(int(site.fact("verify.credit")))
        assert len(saved) < 10
    assert len(saved) > 1
    assert saved == sorted(set(saved))
    assert site.versions()["a.bin", 1].verified_at > site.versions()["b.bin", 1].verified_at
    assert int(site.fact("verify.credit")) < saved[0]


def test_slice_takes_up_no_further_copy_after_its_time(make_site, monkeypatch):
    site = make_site()
    store(site, "a", "b", "c")
    set_read(site, a=None, b=None, c=None)
    monkeypatch.setattr("cbk.jobs.verification.scheduled.STAY", 0)
    assert scrub(site.context, pause=carry_on).facts["copies"] == 0
    monkeypatch.undo()
    assert scrub(site.context, pause=carry_on).facts["copies"] == 3


def test_all_copies_are_read_again_within_the_time_that_is_set(make_site):
    """Every slice of a `CBK_VERIFY_EVERY`, one after the other: the clock goes on by what the copies' marks go back."""
    site = make_site(verify_every="3h20m")
    store(site, *(f"n{number}" for number in range(10)))
    oldest = timedelta(0)
    for _ in range(30):
        with site.context.catalog.database.writing() as connection:
            connection.exec_driver_sql("UPDATE versions SET verified_at = verified_at - 600000")
        oldest = max(oldest, site.context.catalog.database.now() - min(version.verified_at for version in site.versions().values()))
        scrub(site.context, pause=carry_on)
    assert 1.5 * HOUR < oldest < timedelta(hours=3, minutes=20)


def test_bad_copies_are_found_named_counted_and_whole_again_by_themselves(site):
    store(site, "a", "b", "c")
    set_read(site, a=None, b=None, c=None)
    rot(place(site, "a"))
    place(site, "b").unlink()
    found = []
    summary = scrub(site.context, pause=carry_on, on_found=found.append)
    assert (summary.facts["copies"], summary.facts["found"]) == (3, 2)
    assert {one.version.key: one.finding.value for one in found} == {"a.bin": "corrupt", "b.bin": "missing"}
    assert [
        path for path in (site.root / ".cbk/quarantine").glob("*.json") if json.loads(path.read_text())["found_by"] == "cbk.verify"
    ]
    standing = gather_status(site.context).verification
    assert standing.found == 2
    assert {one["key"]: one["finding"] for one in standing.latest} == {"a.bin": "corrupt", "b.bin": "missing"}
    site.work()
    assert set(site.states().values()) == {"stored"}


def test_it_is_off_where_no_time_is_set(make_site):
    site = make_site(verify_every="0")
    store(site, "a")
    set_read(site, a=None)
    assert scrub(site.context, pause=carry_on).outcome == "nothing to do"
    assert gather_status(site.context).is_protected


def test_one_verification_works_at_a_time(site):
    store(site, "a")
    with site.rival() as rival:
        assert rival.leases.acquire("verify", site.context.settings.lease)
        assert scrub(site.context, pause=carry_on).outcome == "skipped"
        assert verify_unattended(site.context, pause=carry_on, key="a.bin").outcome == "skipped"
        rival.leases.release("verify")
    assert scrub(site.context, pause=carry_on).outcome == "verified"
    assert verify_unattended(site.context, pause=carry_on, key="a.bin").facts["copies"] == 1


def test_verification_that_another_worker_took_over_ends(site, monkeypatch):
    store(site, "a")
    set_read(site, a=None)
    monkeypatch.setattr("cbk.jobs.verification.pacer.monotonic", iter(range(0, 10**9, 1000)).__next__)
    real = site.context.archive.check

    def check(*arguments, **options):
        with site.rival() as rival, rival.database.writing() as connection:
            connection.exec_driver_sql("UPDATE leases SET holder = 'rival'")
        return real(*arguments, **options)

    monkeypatch.setattr(site.context.archive, "check", check)
    with pytest.raises(errors.LeaseLost):
        scrub(site.context, pause=carry_on)
    assert site.states() == {("a.bin", 1): "stored"}
    assert site.fact("verify.problem") is None


def test_lease_is_kept_while_a_large_copy_is_read(site, monkeypatch):
    site.upload("a.bin", MEDIA * 4)
    site.work()
    set_read(site, a=None)
    monkeypatch.setattr("cbk.jobs.verification.pacer.monotonic", iter(range(0, 10**9, 1000)).__next__)
    with site.rival() as rival:
        taken = []

        def pause(_seconds):
            with site.context.catalog.database.writing() as connection:
                connection.exec_driver_sql("UPDATE leases SET until = until - 1000 * 80")  # of 2 minutes, by each chunk
            taken.append(rival.leases.acquire("verify", site.context.settings.lease))
            return False

        assert scrub(site.context, pause=pause).facts["copies"] == 1
    assert len(taken) > 3
    assert not any(taken)


def test_worker_that_is_to_stop_ends_in_the_middle_of_a_copy_and_the_next_slice_reads_it(site):
    site.upload("a.bin", MEDIA)
    site.work()
    set_read(site, a=None)
    asked = []

    def pause(seconds):
        asked.append(seconds)
        return len(asked) > 1

    assert scrub(site.context, pause=pause).outcome == "stopped"
    assert len(asked) == 2
    assert site.versions()["a.bin", 1].verified_at is None
    assert scrub(site.context, pause=carry_on).facts["copies"] == 1


def test_rate_is_kept_by_pauses(make_site):
    site = make_site(verify_rate="1MB", lease="30s")
    site.upload("a.bin", MEDIA)
    site.work()
    set_read(site, a=None)
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        time.sleep(seconds)
        return False

    assert scrub(site.context, pause=pause).facts["bytes"] == site.versions()["a.bin", 1].stored_size
    assert sum(pauses) == pytest.approx(0.3, abs=0.1)


def test_without_a_rate_nothing_pauses(make_site):
    site = make_site(verify_rate="0")
    site.upload("a.bin", MEDIA)
    site.work()
    set_read(site, a=None)
    pauses = set()
    scrub(site.context, pause=pauses.add)
    assert pauses == {0.0}


@pytest.mark.parametrize("quick", [False, True])
def test_worker_verifies_what_is_named(site, quick):
    store(site, "cars/a", "cars/b", "c")
    rot(place(site, "cars/a"))
    found = []
    summary = verify_unattended(site.context, pause=carry_on, on_found=found.append, prefix="cars/", quick=quick)
    assert (summary.facts["copies"], summary.facts["found"]) == (2, 1)
    assert [one.version.key for one in found] == ["cars/a.bin"]


# ---- status and people ---------------------------------------------------------------------------------------------------------


def problems(site):
    return [problem.message for problem in gather_status(site.context).problems]


def test_status_says_since_when_every_copy_was_read_and_turns_red_when_that_is_too_long(site):
    store(site, "a", "b")
    set_read(site, a=36 * DAY, b=DAY)
    oldest = site.versions()["a.bin", 1].verified_at
    assert (gather_status(site.context).verification.oldest_at, problems(site)) == (oldest, [])
    set_read(site, a=38 * DAY)
    assert problems(site) == ["1 copy was not read again in the last 30 days"]
    scrub(site.context, pause=carry_on)
    assert problems(site) == []


def test_verification_that_fails_is_seen_until_one_succeeds(site, tmp_path):
    store(site, "a")
    set_read(site, a=None)
    site.root.rename(tmp_path / "unmounted")
    with pytest.raises(errors.RootMissing):
        scrub(site.context, pause=carry_on)
    (tmp_path / "unmounted").rename(site.root)
    assert "the last verification failed: " in problems(site)[0]
    scrub(site.context, pause=carry_on)
    assert problems(site) == []


class Listener:
    """Somebody who is told."""

    is_configured = True

    def __init__(self):
        self.messages = []

    def notify(self, subject, text):
        self.messages.append((subject, text))
        return True


# ---- drills --------------------------------------------------------------------------------------------------------------------


def scratch_files(folder):
    return [str(path.relative_to(folder)) for path in folder.rglob("*")]


@pytest.fixture
def scratch(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def test_drill_restores_compares_and_leaves_a_verdict_but_no_file(site, scratch):
    store(site, "a", "deep/er/b", "ünï/日本")
    site.upload("a", b"a file where others have a folder")
    site.upload("empty.bin", b"")
    site.work()
    seen = []
    verdict = drill(
        site.context, plan_drill(site.context), scratch=scratch, on_bytes=lambda _count: seen.append(scratch_files(scratch))
    )
    assert (verdict.passed, verdict.files, verdict.problem) == (True, 5, None)
    size = sum(version.size for version in site.versions().values())
    assert (verdict.size, verdict.all_size, verdict.all_files) == (size, size, 5)
    assert verdict.estimate_seconds >= verdict.seconds > 0
    assert all(seen)
    assert scratch_files(scratch) == []
    noted = last_drill(site.context)
    assert noted.facts | {"bytes_per_second": 0} == verdict.facts | {"bytes_per_second": 0}
    assert abs(noted.at - site.context.catalog.database.now()) < HOUR
    assert gather_status(site.context).is_protected


def test_drill_that_fails_is_red_and_what_is_bad_is_whole_again_by_itself(site, scratch):
    store(site, "a", "b", "lost")
    rot(place(site, "a"))
    place(site, "lost").unlink()
    verdict = drill(site.context, plan_drill(site.context), scratch=scratch)
    assert (verdict.passed, verdict.files, verdict.failed) == (False, 3, 2)
    assert {failure.label for failure in verdict.failures} == {"s3/a.bin v1", "s3/lost.bin v1"}
    assert verdict.problem in problems(site)[-1]
    assert site.states() == {("a.bin", 1): "pending", ("b.bin", 1): "stored", ("lost.bin", 1): "pending"}
    site.work()
    assert drill(site.context, plan_drill(site.context), scratch=scratch).passed
    assert problems(site) == []
    assert scratch_files(scratch) == []


def test_drill_compares_what_it_restored_with_what_the_catalog_knows(site, scratch):
    for name in ("here", "there"):
        site.upload(f"{name}.bin", f"the bytes {name:>6}".encode())
    site.work()
    here, there = place(site, "here"), place(site, "there")
    here.rename(here.with_suffix(".spare"))
    there.rename(here)
    here.with_suffix(".spare").rename(there)
    verdict = drill(site.context, plan_drill(site.context), scratch=scratch)
    assert {failure.reason for failure in verdict.failures} == {"what was restored are not the bytes that the catalog knows"}
    assert set(site.states().values()) == {"pending"}


def test_drill_has_files_at_random_the_newest_and_the_largest(site):
    store(site, *(f"n{number}" for number in range(9)))
    site.upload("large.bin", MEDIA)
    site.work()
    site.pass_time(stored_at=HOUR)
    store(site, "new")
    plan = plan_drill(site.context, files=1)
    names = [version.key for version in plan.versions]
    assert {"large.bin", "new.bin"} <= set(names)
    assert 2 <= len(names) == len(set(names)) <= 3


def test_drill_without_room_says_so_before_it_begins(site, scratch, monkeypatch):
    site.upload("large.bin", MEDIA)
    site.work()
    monkeypatch.setattr(drill_module, "free_bytes", lambda _place: 200_000)
    with pytest.raises(
        errors.DestinationUnavailable, match=r"the largest file of the drill has 300000 bytes, and .* room for 200000"
    ) as caught:
        drill(site.context, plan_drill(site.context), scratch=scratch)
    assert "--scratch" in caught.value.hint
    assert last_drill(site.context) is None


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_drill_in_a_folder_that_is_none_says_so(site, tmp_path, place):
    store(site, "a")
    (tmp_path / "file").touch()
    with pytest.raises(errors.DestinationUnavailable, match="cannot hold scratch files") as caught:
        drill(site.context, plan_drill(site.context), scratch=tmp_path / place)
    assert caught.value.hint


def test_drill_of_a_copy_that_was_pruned_meanwhile_does_not_fail(site, scratch):
    store(site, "a", "b")
    plan = plan_drill(site.context)
    place(site, "a").unlink()
    with site.context.catalog.database.writing() as connection:
        connection.execute(sa.update(versions).where(versions.c.id == site.versions()["a.bin", 1].id).values(state="pruned"))
    assert drill(site.context, plan, scratch=scratch).passed


def test_drill_on_a_disk_that_is_away_has_no_verdict(site, tmp_path, scratch):
    store(site, "a")
    plan = plan_drill(site.context)
    site.root.rename(tmp_path / "unmounted")
    with pytest.raises(errors.RootMissing):
        drill(site.context, plan, scratch=scratch)
    assert last_drill(site.context) is None


# By a worker


@pytest.fixture
def temporary(monkeypatch, scratch):
    """Where the system keeps temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    return scratch


def test_worker_holds_a_drill_when_it_is_due_and_tells_people_that_it_passed(make_site, temporary):
    site = make_site(drill_every="7d")
    listener = site.context.notifier = Listener()
    store(site, "a")
    assert drill_by_worker(site.context, pause=carry_on, if_due=True).outcome == "passed"
    assert drill_by_worker(site.context, pause=carry_on, if_due=True).outcome == "nothing to do"
    assert [subject for subject, _ in listener.messages] == ["Cloud Backup Kit: restore drill passed"]
    rot(place(site, "a"))
    assert drill_by_worker(site.context, pause=carry_on, if_due=False).outcome == "failed"
    assert len(listener.messages) == 1


def test_worker_holds_a_drill_again_when_its_time_has_passed(make_site, temporary):
    site = make_site(drill_every="7d")
    store(site, "a")
    drill_by_worker(site.context, pause=carry_on, if_due=True)
    noted = json.loads(site.fact("drill.last"))
    noted["at"] = (datetime.fromisoformat(noted["at"]) - 8 * DAY).isoformat()
    site.context.catalog.facts.set(**{"drill.last": json.dumps(noted)})
    assert drill_by_worker(site.context, pause=carry_on, if_due=True).outcome == "passed"


def test_worker_without_a_stored_file_holds_no_drill(make_site, temporary):
    site = make_site(drill_every="7d")
    assert drill_by_worker(site.context, pause=carry_on, if_due=True).outcome == "nothing to do"
    assert last_drill(site.context) is None


def test_drill_that_a_worker_could_not_hold_is_red(make_site, monkeypatch):
    site = make_site(drill_every="7d")
    store(site, "a")
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(errors.DestinationUnavailable):
        drill_by_worker(site.context, pause=carry_on, if_due=True)
    assert problems(site) == ["the last drill failed: /nowhere cannot hold scratch files: no such file or directory"]
    assert drill_by_worker(site.context, pause=carry_on, if_due=True).outcome == "nothing to do"


def test_drill_ends_without_a_verdict_when_the_worker_is_to_stop(make_site, temporary):
    site = make_site(drill_every="7d")
    store(site, "a")
    assert drill_by_worker(site.context, pause=lambda _seconds: True, if_due=True).outcome == "stopped"
    assert (last_drill(site.context), scratch_files(temporary)) == (None, [])
    assert drill_by_worker(site.context, pause=carry_on, if_due=True).outcome == "passed"


def test_one_drill_is_held_at_a_time(make_site, temporary):
    site = make_site(drill_every="7d")
    store(site, "a")
    with site.rival() as rival:
        assert rival.leases.acquire("drill", site.context.settings.lease)
        assert drill_by_worker(site.context, pause=carry_on, if_due=True).outcome == "skipped"
