"""The rolling verification: all copies, slice by slice, in time and gently; and restore drills."""

import json
import random
import time
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from cbk import errors
from cbk.edges.catalog.tables import versions
from cbk.jobs import drill as drill_module
from cbk.jobs.drill import drill, drill_by_worker, last_drill, plan_drill
from cbk.jobs.scrub import scrub, verify_unattended
from cbk.jobs.status import take_status

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MEDIA = random.Random(7).randbytes(300_000)


def carry_on(_seconds):
    """A worker that is not to stop, and does not wait."""
    return False


def store(desk, *names, content=b"the bytes of an object"):
    for name in names:
        desk.upload(f"{name}.bin", content + name.encode())
    desk.work()


def place(desk, name):
    return desk.root / f"car-erp/{name}/v1.gzip"


def rot(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def set_read(desk, **ago):
    """When copies were last read: `a=HOUR` is an hour ago, None is never."""
    with desk.kit.catalog.database.writing() as connection:
        for name, age in ago.items():
            version = desk.versions()[f"{name}.bin", 1]
            instant = None if age is None else desk.kit.catalog.database.now() - age
            connection.execute(sa.update(versions).where(versions.c.id == version.id).values(verified_at=instant))


def read_since(desk, instant):
    return {key for (key, _), version in desk.versions().items() if version.verified_at and version.verified_at >= instant}


# ---- slices ------------------------------------------------------------------------------------------------------------------


def test_copies_that_were_just_read_are_left_alone(desk):
    store(desk, "a", "b")
    summary = scrub(desk.kit, pause=carry_on)
    assert (summary.outcome, summary.facts["copies"]) == ("verified", 0)


def test_what_is_late_is_read_whatever_it_is_and_the_rest_waits_for_its_turn(desk):
    store(desk, "late", "never", "young", "fresh")
    set_read(desk, late=29 * DAY, never=None, young=DAY, fresh=timedelta(seconds=1))
    now = desk.kit.catalog.database.now()
    assert scrub(desk.kit, pause=carry_on).facts["copies"] == 2
    assert read_since(desk, now) == {"late.bin", "never.bin"}


def test_slices_save_up_for_the_next_copy(make_desk):
    desk = make_desk(verify_every="30d")
    store(desk, "a", "b")
    set_read(desk, a=timedelta(days=23.99), b=timedelta(0))
    saved = []
    while scrub(desk.kit, pause=carry_on).facts["copies"] == 0:
        saved.append(int(desk.fact("verify.credit")))
        assert len(saved) < 10
    assert len(saved) > 1
    assert saved == sorted(set(saved))
    assert desk.versions()["a.bin", 1].verified_at > desk.versions()["b.bin", 1].verified_at
    assert int(desk.fact("verify.credit")) < saved[0]


def test_slice_takes_up_no_further_copy_after_its_time(make_desk, monkeypatch):
    desk = make_desk()
    store(desk, "a", "b", "c")
    set_read(desk, a=None, b=None, c=None)
    monkeypatch.setattr("cbk.jobs.scrub.STAY", 0)
    assert scrub(desk.kit, pause=carry_on).facts["copies"] == 0
    monkeypatch.undo()
    assert scrub(desk.kit, pause=carry_on).facts["copies"] == 3


def test_all_copies_are_read_again_within_the_time_that_is_set(make_desk):
    """Every slice of a `CBK_VERIFY_EVERY`, one after the other: the clock goes on by what the copies' marks go back."""
    desk = make_desk(verify_every="3h20m")
    store(desk, *(f"n{number}" for number in range(10)))
    oldest = timedelta(0)
    for _ in range(30):
        with desk.kit.catalog.database.writing() as connection:
            connection.exec_driver_sql("UPDATE versions SET verified_at = verified_at - 600000")
        oldest = max(oldest, desk.kit.catalog.database.now() - min(version.verified_at for version in desk.versions().values()))
        scrub(desk.kit, pause=carry_on)
    assert 1.5 * HOUR < oldest < timedelta(hours=3, minutes=20)


def test_bad_copies_are_found_named_counted_and_whole_again_by_themselves(desk):
    store(desk, "a", "b", "c")
    set_read(desk, a=None, b=None, c=None)
    rot(place(desk, "a"))
    place(desk, "b").unlink()
    found = []
    summary = scrub(desk.kit, pause=carry_on, on_found=found.append)
    assert (summary.facts["copies"], summary.facts["found"]) == (3, 2)
    assert {one.version.key: one.finding.value for one in found} == {"a.bin": "corrupt", "b.bin": "missing"}
    assert [
        path for path in (desk.root / ".cbk/quarantine").glob("*.json") if json.loads(path.read_text())["found_by"] == "cbk.verify"
    ]
    standing = take_status(desk.kit).verification
    assert standing.found == 2
    assert {one["key"]: one["finding"] for one in standing.latest} == {"a.bin": "corrupt", "b.bin": "missing"}
    desk.work()
    assert set(desk.states().values()) == {"stored"}


def test_it_is_off_where_no_time_is_set(make_desk):
    desk = make_desk(verify_every="0")
    store(desk, "a")
    set_read(desk, a=None)
    assert scrub(desk.kit, pause=carry_on).outcome == "nothing to do"
    assert take_status(desk.kit).is_protected


def test_one_verification_works_at_a_time(desk):
    store(desk, "a")
    with desk.rival() as rival:
        assert rival.leases.acquire("verify", desk.kit.settings.lease)
        assert scrub(desk.kit, pause=carry_on).outcome == "skipped"
        assert verify_unattended(desk.kit, pause=carry_on, key="a.bin").outcome == "skipped"
        rival.leases.release("verify")
    assert scrub(desk.kit, pause=carry_on).outcome == "verified"
    assert verify_unattended(desk.kit, pause=carry_on, key="a.bin").facts["copies"] == 1


def test_verification_that_another_worker_took_over_ends(desk, monkeypatch):
    store(desk, "a")
    set_read(desk, a=None)
    monkeypatch.setattr("cbk.jobs.gentle.monotonic", iter(range(0, 10**9, 1000)).__next__)
    real = desk.kit.archive.check

    def check(*arguments, **options):
        with desk.rival() as rival, rival.database.writing() as connection:
            connection.exec_driver_sql("UPDATE leases SET holder = 'rival'")
        return real(*arguments, **options)

    monkeypatch.setattr(desk.kit.archive, "check", check)
    with pytest.raises(errors.LeaseLost):
        scrub(desk.kit, pause=carry_on)
    assert desk.states() == {("a.bin", 1): "stored"}
    assert desk.fact("verify.problem") is None


def test_lease_is_kept_while_a_large_copy_is_read(desk, monkeypatch):
    desk.upload("a.bin", MEDIA * 4)
    desk.work()
    set_read(desk, a=None)
    monkeypatch.setattr("cbk.jobs.gentle.monotonic", iter(range(0, 10**9, 1000)).__next__)
    with desk.rival() as rival:
        taken = []

        def pause(_seconds):
            with desk.kit.catalog.database.writing() as connection:
                connection.exec_driver_sql("UPDATE leases SET until = until - 1000 * 80")  # of 2 minutes, by each chunk
            taken.append(rival.leases.acquire("verify", desk.kit.settings.lease))
            return False

        assert scrub(desk.kit, pause=pause).facts["copies"] == 1
    assert len(taken) > 3
    assert not any(taken)


def test_worker_that_is_to_stop_ends_in_the_middle_of_a_copy_and_the_next_slice_reads_it(desk):
    desk.upload("a.bin", MEDIA)
    desk.work()
    set_read(desk, a=None)
    asked = []

    def pause(seconds):
        asked.append(seconds)
        return len(asked) > 1

    assert scrub(desk.kit, pause=pause).outcome == "stopped"
    assert len(asked) == 2
    assert desk.versions()["a.bin", 1].verified_at is None
    assert scrub(desk.kit, pause=carry_on).facts["copies"] == 1


def test_rate_is_kept_by_pauses(make_desk):
    desk = make_desk(verify_rate="1MB", lease="30s")
    desk.upload("a.bin", MEDIA)
    desk.work()
    set_read(desk, a=None)
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        time.sleep(seconds)
        return False

    assert scrub(desk.kit, pause=pause).facts["bytes"] == desk.versions()["a.bin", 1].stored_size
    assert sum(pauses) == pytest.approx(0.3, abs=0.1)


def test_without_a_rate_nothing_pauses(make_desk):
    desk = make_desk(verify_rate="0")
    desk.upload("a.bin", MEDIA)
    desk.work()
    set_read(desk, a=None)
    pauses = set()
    scrub(desk.kit, pause=pauses.add)
    assert pauses == {0.0}


@pytest.mark.parametrize("quick", [False, True])
def test_worker_verifies_what_is_named(desk, quick):
    store(desk, "cars/a", "cars/b", "c")
    rot(place(desk, "cars/a"))
    found = []
    summary = verify_unattended(desk.kit, pause=carry_on, on_found=found.append, prefix="cars/", quick=quick)
    assert (summary.facts["copies"], summary.facts["found"]) == (2, 1)
    assert [one.version.key for one in found] == ["cars/a.bin"]


# ---- status and people ---------------------------------------------------------------------------------------------------------


def problems(desk):
    return [problem.message for problem in take_status(desk.kit).problems]


def test_status_says_since_when_every_copy_was_read_and_turns_red_when_that_is_too_long(desk):
    store(desk, "a", "b")
    set_read(desk, a=36 * DAY, b=DAY)
    oldest = desk.versions()["a.bin", 1].verified_at
    assert (take_status(desk.kit).verification.oldest_at, problems(desk)) == (oldest, [])
    set_read(desk, a=38 * DAY)
    assert problems(desk) == ["1 copy was not read again in the last 30 days"]
    scrub(desk.kit, pause=carry_on)
    assert problems(desk) == []


def test_verification_that_fails_is_seen_until_one_succeeds(desk, tmp_path):
    store(desk, "a")
    set_read(desk, a=None)
    desk.root.rename(tmp_path / "unmounted")
    with pytest.raises(errors.RootMissing):
        scrub(desk.kit, pause=carry_on)
    (tmp_path / "unmounted").rename(desk.root)
    assert "the last verification failed: " in problems(desk)[0]
    scrub(desk.kit, pause=carry_on)
    assert problems(desk) == []


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


def test_drill_restores_compares_and_leaves_a_verdict_but_no_file(desk, scratch):
    store(desk, "a", "deep/er/b", "ünï/日本")
    desk.upload("a", b"a file where others have a folder")
    desk.upload("empty.bin", b"")
    desk.work()
    seen = []
    verdict = drill(desk.kit, plan_drill(desk.kit), scratch=scratch, on_bytes=lambda _count: seen.append(scratch_files(scratch)))
    assert (verdict.passed, verdict.files, verdict.problem) == (True, 5, None)
    size = sum(version.size for version in desk.versions().values())
    assert (verdict.size, verdict.all_size, verdict.all_files) == (size, size, 5)
    assert verdict.estimate_seconds >= verdict.seconds > 0
    assert all(seen)
    assert scratch_files(scratch) == []
    noted = last_drill(desk.kit)
    assert noted.facts | {"bytes_per_second": 0} == verdict.facts | {"bytes_per_second": 0}
    assert abs(noted.at - desk.kit.catalog.database.now()) < HOUR
    assert take_status(desk.kit).is_protected


def test_drill_that_fails_is_red_and_what_is_bad_is_whole_again_by_itself(desk, scratch):
    store(desk, "a", "b", "lost")
    rot(place(desk, "a"))
    place(desk, "lost").unlink()
    verdict = drill(desk.kit, plan_drill(desk.kit), scratch=scratch)
    assert (verdict.passed, verdict.files, verdict.failed) == (False, 3, 2)
    assert {failure.label for failure in verdict.failures} == {"s3/a.bin v1", "s3/lost.bin v1"}
    assert verdict.problem in problems(desk)[-1]
    assert desk.states() == {("a.bin", 1): "pending", ("b.bin", 1): "stored", ("lost.bin", 1): "pending"}
    desk.work()
    assert drill(desk.kit, plan_drill(desk.kit), scratch=scratch).passed
    assert problems(desk) == []
    assert scratch_files(scratch) == []


def test_drill_compares_what_it_restored_with_what_the_catalog_knows(desk, scratch):
    for name in ("here", "there"):
        desk.upload(f"{name}.bin", f"the bytes {name:>6}".encode())
    desk.work()
    here, there = place(desk, "here"), place(desk, "there")
    here.rename(here.with_suffix(".spare"))
    there.rename(here)
    here.with_suffix(".spare").rename(there)
    verdict = drill(desk.kit, plan_drill(desk.kit), scratch=scratch)
    assert {failure.reason for failure in verdict.failures} == {"what was restored are not the bytes that the catalog knows"}
    assert set(desk.states().values()) == {"pending"}


def test_drill_has_files_at_random_the_newest_and_the_largest(desk):
    store(desk, *(f"n{number}" for number in range(9)))
    desk.upload("large.bin", MEDIA)
    desk.work()
    desk.pass_time(stored_at=HOUR)
    store(desk, "new")
    plan = plan_drill(desk.kit, files=1)
    names = [version.key for version in plan.versions]
    assert {"large.bin", "new.bin"} <= set(names)
    assert 2 <= len(names) == len(set(names)) <= 3


def test_drill_without_room_says_so_before_it_begins(desk, scratch, monkeypatch):
    desk.upload("large.bin", MEDIA)
    desk.work()
    monkeypatch.setattr(drill_module, "free_bytes", lambda _place: 200_000)
    with pytest.raises(
        errors.TargetUnavailable, match=r"the largest file of the drill has 300000 bytes, and .* room for 200000"
    ) as caught:
        drill(desk.kit, plan_drill(desk.kit), scratch=scratch)
    assert "--scratch" in caught.value.hint
    assert last_drill(desk.kit) is None


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_drill_in_a_folder_that_is_none_says_so(desk, tmp_path, place):
    store(desk, "a")
    (tmp_path / "file").touch()
    with pytest.raises(errors.TargetUnavailable, match="cannot hold scratch files") as caught:
        drill(desk.kit, plan_drill(desk.kit), scratch=tmp_path / place)
    assert caught.value.hint


def test_drill_of_a_copy_that_was_pruned_meanwhile_does_not_fail(desk, scratch):
    store(desk, "a", "b")
    plan = plan_drill(desk.kit)
    place(desk, "a").unlink()
    with desk.kit.catalog.database.writing() as connection:
        connection.execute(sa.update(versions).where(versions.c.id == desk.versions()["a.bin", 1].id).values(state="pruned"))
    assert drill(desk.kit, plan, scratch=scratch).passed


def test_drill_on_a_disk_that_is_away_has_no_verdict(desk, tmp_path, scratch):
    store(desk, "a")
    plan = plan_drill(desk.kit)
    desk.root.rename(tmp_path / "unmounted")
    with pytest.raises(errors.RootMissing):
        drill(desk.kit, plan, scratch=scratch)
    assert last_drill(desk.kit) is None


# By a worker


@pytest.fixture
def temporary(monkeypatch, scratch):
    """Where the system keeps temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    return scratch


def test_worker_holds_a_drill_when_it_is_due_and_tells_people_that_it_passed(make_desk, temporary):
    desk = make_desk(drill_every="7d")
    listener = desk.kit.notifier = Listener()
    store(desk, "a")
    assert drill_by_worker(desk.kit, pause=carry_on, if_due=True).outcome == "passed"
    assert drill_by_worker(desk.kit, pause=carry_on, if_due=True).outcome == "nothing to do"
    assert [subject for subject, _ in listener.messages] == ["Cloud Backup Kit: restore drill passed"]
    rot(place(desk, "a"))
    assert drill_by_worker(desk.kit, pause=carry_on, if_due=False).outcome == "failed"
    assert len(listener.messages) == 1


def test_worker_holds_a_drill_again_when_its_time_has_passed(make_desk, temporary):
    desk = make_desk(drill_every="7d")
    store(desk, "a")
    drill_by_worker(desk.kit, pause=carry_on, if_due=True)
    noted = json.loads(desk.fact("drill.last"))
    noted["at"] = (datetime.fromisoformat(noted["at"]) - 8 * DAY).isoformat()
    desk.kit.catalog.facts.set(**{"drill.last": json.dumps(noted)})
    assert drill_by_worker(desk.kit, pause=carry_on, if_due=True).outcome == "passed"


def test_worker_without_a_stored_file_holds_no_drill(make_desk, temporary):
    desk = make_desk(drill_every="7d")
    assert drill_by_worker(desk.kit, pause=carry_on, if_due=True).outcome == "nothing to do"
    assert last_drill(desk.kit) is None


def test_drill_that_a_worker_could_not_hold_is_red(make_desk, monkeypatch):
    desk = make_desk(drill_every="7d")
    store(desk, "a")
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    with pytest.raises(errors.TargetUnavailable):
        drill_by_worker(desk.kit, pause=carry_on, if_due=True)
    assert problems(desk) == ["the last drill failed: /nowhere cannot hold scratch files: no such file or directory"]
    assert drill_by_worker(desk.kit, pause=carry_on, if_due=True).outcome == "nothing to do"


def test_drill_ends_without_a_verdict_when_the_worker_is_to_stop(make_desk, temporary):
    desk = make_desk(drill_every="7d")
    store(desk, "a")
    assert drill_by_worker(desk.kit, pause=lambda _seconds: True, if_due=True).outcome == "stopped"
    assert (last_drill(desk.kit), scratch_files(temporary)) == (None, [])
    assert drill_by_worker(desk.kit, pause=carry_on, if_due=True).outcome == "passed"


def test_one_drill_is_held_at_a_time(make_desk, temporary):
    desk = make_desk(drill_every="7d")
    store(desk, "a")
    with desk.rival() as rival:
        assert rival.leases.acquire("drill", desk.kit.settings.lease)
        assert drill_by_worker(desk.kit, pause=carry_on, if_due=True).outcome == "skipped"
