"""The rules of mirrors: which place is one, what goes from there and when, what is read again, what is said."""

from datetime import UTC, datetime, timedelta

import pytest

from cbk.model import Hold, VersionState
from cbk.rules.mirror import (
    MirrorCopy,
    MirrorDisk,
    MirrorStanding,
    decide_mirror_removal,
    describe_disk,
    describe_mirrors,
    judge_mirrors,
    next_label,
    refuse_place,
    removals_allowed,
    sum_up_elsewhere,
    verify_quota,
)
from cbk.rules.retention.retention import Remove

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MONTH = timedelta(days=30)


def disk(**values):
    return MirrorDisk(
        **{"id": 1, "mirror": "usb", "identity": "u", "label": "A", "added_at": NOW - 90 * DAY, "seen_at": NOW} | values
    )


def copy(**values):
    made = {
        "disk_id": 1,
        "version_id": 1,
        "sha256": "0" * 64,
        "location": "car-erp/x/v1.gzip",
        "storage": "s3",
        "key": "x.png",
        "number": 1,
        "stored_sha256": "1" * 64,
        "stored_size": 10,
        "copied_at": NOW - 90 * DAY,
        "state": VersionState.PRUNED,
        "gone_at": NOW - MONTH,
    }
    return MirrorCopy(**made | values)


def standing(*disks, **values):
    return MirrorStanding(**{"name": "usb", "disks": disks, "every": HOUR, "away": 14 * DAY} | values)


def goes(made, *, holds=(), grace=MONTH, append_only=False, now=NOW):
    return isinstance(decide_mirror_removal(made, holds=holds, now=now, grace=grace, append_only=append_only), Remove)


def refused(**values):
    asked = {"name": "usb", "known": [], "marker": None, "is_empty": True, "by_person": False, "is_mount": True}
    return refuse_place(**asked | values)


def problems(*mirrors, alert_after=6 * HOUR):
    return [problem.message for problem in judge_mirrors(mirrors, now=NOW, alert_after=alert_after)]


def test_a_copy_goes_when_its_grace_on_the_mirror_has_passed_and_not_a_moment_earlier():
    assert goes(copy())
    assert not goes(copy(gone_at=NOW - MONTH + timedelta(milliseconds=1)))


@pytest.mark.parametrize("state", [None, *(state for state in VersionState if state is not VersionState.PRUNED)])
def test_what_is_not_pruned_by_the_catalog_never_goes(state):
    assert not goes(copy(state=state))


def test_a_copy_whose_grace_has_not_begun_stays():
    assert not goes(copy(gone_at=None))


def test_a_hold_keeps_it_on_the_mirror_as_well():
    hold = Hold(id=1, key="x", is_prefix=True)
    assert not goes(copy(), holds=[hold])
    assert goes(copy(key="y"), holds=[hold])


def test_an_append_only_mirror_keeps_all():
    assert not goes(copy(gone_at=NOW - 1000 * DAY), append_only=True)


@pytest.mark.parametrize(
    ("held", "removed", "share", "at_least", "allowed"),
    [
        (1000, 0, 10, 0, 100),
        (1000, 60, 10, 0, 40),
        (1000, 100, 10, 0, 0),
        (1000, 200, 10, 0, 0),
        (5, 0, 10, 3, 3),
        (0, 0, 10, 0, 0),
    ],
)
def test_a_share_of_what_was_there_goes_without_a_person_within_the_window(held, removed, share, at_least, allowed):
    assert removals_allowed(held_then=held, removed=removed, share=share, at_least=at_least) == allowed


def test_the_first_disk_is_taken_at_a_mount_point_or_by_a_persons_word():
    assert refused() is None
    assert "mount point" in refused(is_mount=False)
    assert refused(is_mount=False, by_person=True) is None


def test_an_empty_folder_where_a_disk_is_known_is_none_unless_a_person_says_so():
    assert "known: A" in refused(known=[disk()])
    assert refused(known=[disk()], by_person=True) is None


def test_a_folder_with_other_things_in_it_or_of_another_mirror_is_not_taken():
    assert "not empty" in refused(is_empty=False)
    assert "belongs to the mirror b2" in refused(marker="b2", by_person=True)
    assert "ledger knows nothing" in refused(marker="usb", is_empty=False)
    assert refused(marker="usb", is_empty=False, by_person=True) is None


def test_labels_are_letters_and_none_twice():
    assert [next_label([]), next_label(["A", "C"]), next_label(chr(65 + number) for number in range(26))] == ["A", "B", "D27"]


@pytest.mark.parametrize(
    ("held", "every", "verify_every", "quota"), [(90, DAY, 90 * DAY, 1), (100_000, HOUR, 90 * DAY, 47), (5, DAY, HOUR, 5)]
)
def test_every_copy_is_verified_within_its_time(held, every, verify_every, quota):
    assert verify_quota(held, every=every, verify_every=verify_every) == quota


def test_none_is_verified_where_that_is_set_or_nothing_is_there():
    assert verify_quota(100, every=HOUR, verify_every=timedelta(0)) == 0
    assert verify_quota(0, every=HOUR, verify_every=DAY) == 0


def test_the_line_says_how_much_is_elsewhere_by_the_mirror_that_has_least():
    usb = standing(disk(counted_at=NOW, held=12_400, missing=31, missing_since=NOW - 3 * HOUR))
    b2 = standing(disk(counted_at=NOW, held=12_431, completed_at=NOW), name="b2")
    assert (
        describe_mirrors([usb, b2], NOW)[0] == "elsewhere   12,400 of 12,431 copies in 2 places, the oldest one missing since 3 h"
    )


def test_what_was_never_counted_does_not_count():
    counted, never = standing(disk(counted_at=NOW, held=5)), standing(name="b2")
    assert sum_up_elsewhere([counted, never]).held == 0
    assert describe_mirrors([counted, never], NOW)[0] == "elsewhere   nothing yet"
    assert sum_up_elsewhere([]) is None


def test_a_disk_that_is_away_is_said_to_be_complete_to_a_day():
    away = disk(label="B", completed_at=datetime(2026, 11, 24, 9, 30, tzinfo=UTC), counted_at=NOW, held=5, seen_at=NOW - 6 * DAY)
    assert describe_disk(away, away=True, now=NOW) == "disk B complete to Tue 24 Nov 09:30, away for 6 days"


def test_a_mirror_without_copies_is_red():
    assert problems(standing(problem="/mnt/usb: it is no mount point")) == ["mirror usb: /mnt/usb: it is no mount point"]
    assert problems(standing()) == ["mirror usb: it has no copies yet"]


def test_a_complete_mirror_is_no_problem():
    assert problems(standing(disk(counted_at=NOW, held=5, completed_at=NOW))) == []


def test_a_disk_is_red_once_it_is_away_for_longer_than_its_setting():
    here = disk(counted_at=NOW, held=5, completed_at=NOW)
    gone = disk(id=2, label="B", identity="v", counted_at=NOW, held=5, seen_at=NOW - 14 * DAY)
    assert problems(standing(here, gone)) == []
    late = disk(id=2, label="B", identity="v", counted_at=NOW, held=5, seen_at=NOW - 15 * DAY)
    assert problems(standing(here, late)) == ["mirror usb: disk B was last seen 15 days ago"]


def test_copies_that_are_late_are_red_with_the_reason():
    late = disk(counted_at=NOW, held=5, missing=2, missing_since=NOW - 7 * HOUR)
    assert problems(standing(late, problem="no room")) == ["mirror usb: 2 copies are missing there, the oldest since 7 h (no room)"]
    assert problems(standing(disk(counted_at=NOW, held=5, missing=2, missing_since=NOW - 5 * HOUR))) == []


def test_of_two_disks_in_rotation_what_is_new_may_wait_until_one_comes_back():
    pair = [
        disk(id=number, label=label, counted_at=NOW, held=5, missing=1, missing_since=NOW - 6 * DAY)
        for number, label in enumerate("AB")
    ]
    assert problems(standing(*pair)) == []


def test_bad_copies_and_removals_that_wait_are_told():
    told = problems(standing(disk(counted_at=NOW, held=5, bad=1, braked=40)))
    assert told == ["mirror usb: 1 copy on disk A could not be replaced", "mirror usb: 40 removals at once are held back on disk A"]


def test_a_mirror_that_no_pass_looks_at_is_red():
    known = disk(counted_at=NOW, held=5, completed_at=NOW)
    assert problems(standing(known, passed_at=NOW - 7 * HOUR)) == ["mirror usb: no pass for 7 h"]
    assert problems(standing(known, passed_at=NOW - 5 * HOUR)) == []


def test_a_disk_that_is_away_is_complete_to_when_it_was_and_not_to_now():
    away = disk(completed_at=NOW - 6 * DAY, counted_at=NOW, held=5, missing=3, seen_at=NOW - 6 * DAY)
    assert describe_disk(away, away=True, now=NOW).startswith("disk A complete to Tue 24 Nov 12:00, away")
    assert describe_disk(away, away=False, now=NOW) == "disk A 5 of 8 copies"
