"""What becomes of a version after its row was read again, and after a failed download."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cbk import errors
from cbk.model import AcceptedRow, DeclinedRow, VersionState
from cbk.rules.backup.http_responses import FRESH_LINK
from cbk.rules.backup.retry import LONGEST_DELAY, Fetch, after_failure, backoff, decide_fetch, is_worth_another_try
from tests.unit.test_wanted import version

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BASE = timedelta(seconds=60)


def accepted(**overrides):
    values = {"source_id": "2", "storage": "s3", "key": "a.txt", "number": 2, "sha256": "00" * 32, "link": "https://x/"}
    return AcceptedRow(**values | overrides)


def failed(error, *, number=2, attempts=1, siblings=()):
    return after_failure(version(number, attempts=attempts), error, siblings=siblings, now=NOW, base=BASE, jitter=0.5)


def test_decide_fetch_fetches_what_the_row_still_says():
    assert decide_fetch(version(2), accepted()) == Fetch(row=accepted())


@pytest.mark.parametrize(
    ("row", "state", "reason"),
    [
        (None, "missing", "gone from the application's table"),
        (DeclinedRow(source_id="2", reason="Hash is not a SHA-256"), "declined", "Hash is not a SHA-256"),
        (accepted(number=3), "missing", "of another version now (v3)"),
        (accepted(sha256="11" * 32), "declined", "new content needs a higher Version"),
    ],
)
def test_decide_fetch_gives_a_reason_where_the_row_says_something_else(row, state, reason):
    outcome = decide_fetch(version(2), row)
    assert outcome.state.value == state
    assert reason in outcome.reason
    assert outcome.due_at is None


@pytest.mark.parametrize(
    ("error", "state", "returns"),
    [
        (errors.TransferBroken("cut"), "failed", True),
        (errors.OriginUnavailable("503"), "failed", True),
        (errors.LinkDenied("403"), "failed", True),
        (errors.NotTheObject("html"), "failed", True),
        (errors.CopyCorrupt("other bytes came back from the disk"), "failed", True),
        (errors.ObjectMissing("404"), "missing", True),
        (errors.HashMismatch("other bytes", expected="00", actual="11"), "mismatch", True),
        (errors.LinkExpired("expired"), "expired", False),
        (errors.LinkForbidden("private address"), "declined", True),
        (errors.TooLarge("5 GB"), "declined", True),
    ],
)
def test_after_failure_keeps_state_and_reason_and_whether_it_comes_back(error, state, returns):
    outcome = failed(error)
    assert (outcome.state.value, outcome.reason, outcome.due_at is not None) == (state, error.message, returns)


@pytest.mark.parametrize(
    ("state", "due", "link_is_fresh", "worth"),
    [
        ("expired", False, True, True),
        ("expired", False, False, False),
        ("missing", False, False, True),
        ("missing", True, False, False),
        ("missing", True, True, True),
        ("declined", False, False, True),
        ("declined", True, False, False),
        ("failed", True, False, False),
        ("failed", True, True, False),
    ],
)
def test_another_try_is_worth_it_for_a_fresh_link_or_where_only_the_row_was_in_the_way(state, due, link_is_fresh, worth):
    assert is_worth_another_try(version(2, state, due=due), accepted(), link_is_fresh=link_is_fresh) is worth


def test_another_try_of_a_version_whose_link_was_denied_is_worth_it_for_a_fresh_one():
    denied = replace(version(2, "failed", due=True), reason=f"files.example.com refuses the link (403) ({FRESH_LINK})")
    assert is_worth_another_try(denied, accepted(), link_is_fresh=True)
    assert not is_worth_another_try(denied, accepted(), link_is_fresh=False)


def test_another_try_is_worth_nothing_where_the_row_says_something_else():
    assert not is_worth_another_try(version(2, "missing"), accepted(number=3), link_is_fresh=True)


def test_after_failure_calls_an_overwritten_object_superseded():
    newer = version(3)
    outcome = failed(errors.HashMismatch("other bytes", expected="11" * 32, actual=newer.sha256), siblings=[newer])
    assert (outcome.state, outcome.reason, outcome.due_at) == (
        VersionState.SUPERSEDED,
        "its object holds the bytes of v3 now",
        None,
    )


def test_after_failure_does_not_call_the_bytes_of_an_older_version_superseded():
    older = version(1)
    assert (
        failed(errors.HashMismatch("x", expected="11" * 32, actual=older.sha256), siblings=[older]).state is VersionState.MISMATCH
    )


def test_after_failure_honours_the_delay_that_the_origin_asks_for():
    assert failed(errors.OriginUnavailable("503", retry_after_seconds=7200)).due_at == NOW + timedelta(hours=2)


@pytest.mark.parametrize(("attempts", "seconds"), [(1, 60), (2, 120), (3, 240), (4, 480)])
def test_backoff_doubles(attempts, seconds):
    assert backoff(attempts, base=BASE, longest=LONGEST_DELAY, jitter=0.5) == timedelta(seconds=seconds)


def test_backoff_ends_at_the_longest_delay_however_many_attempts():
    assert backoff(10**6, base=BASE, longest=LONGEST_DELAY, jitter=0.5) == LONGEST_DELAY


def test_backoff_of_rare_polls_stays_in_the_calendar():
    assert backoff(10**6, base=timedelta(days=36_500), longest=LONGEST_DELAY, jitter=0.5) == LONGEST_DELAY


def test_backoff_spreads_by_half_of_it():
    assert backoff(1, base=BASE, longest=LONGEST_DELAY, jitter=0.0) == timedelta(seconds=30)
    assert backoff(1, base=BASE, longest=LONGEST_DELAY, jitter=1.0) == timedelta(seconds=90)
