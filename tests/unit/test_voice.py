"""What people are told, and when: timelines of looks, and the messages that come of them."""

from datetime import UTC, datetime, timedelta

import pytest

from cbk.model import VersionState
from cbk.rules.status.alerting import AlertState, decide, patience, worth_telling
from cbk.rules.status.health import Kind, Problem

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
ALERT_AFTER = timedelta(hours=6)


def problem(kind, message=None, about=""):
    return Problem(kind=kind, message=message or f"{kind} it is", hint=f"mend {kind}", about=about)


BRAKE, FULL, POLL = problem(Kind.BRAKE, about="1"), problem(Kind.DISK_FULL), problem(Kind.POLL)


class Ear:
    """Hears what is said in one look after the other; `deaf` where no service takes it."""

    def __init__(self):
        self.state = AlertState()
        self.now = START
        self.messages = []
        self.deaf = False

    def look(self, *problems, after=timedelta(0), complete=True):
        """One look so much later; gives the subject of what was said."""
        self.now += after
        speech = decide(problems, self.state, now=self.now, alert_after=ALERT_AFTER, verdict="5 of 6 files.", complete=complete)
        said = speech.message is not None
        if said:
            self.messages.append(speech.message)
        self.state = speech.told if said and not self.deaf else speech.state
        self.grave = [each.kind for each in speech.grave]
        return speech.message.subject if said else None


@pytest.fixture
def ear():
    return Ear()


def minutes(number):
    return timedelta(minutes=number)


def hours(number):
    return timedelta(hours=number)


# ---- new ---------------------------------------------------------------------------------------------------------------------


def test_nothing_is_said_where_nothing_is_wrong(ear):
    assert [ear.look(after=hours(30)) for _ in range(3)] == [None, None, None]
    assert ear.state == AlertState()


def test_what_does_not_pass_by_itself_is_told_at_once_and_once(ear):
    assert [ear.look(BRAKE), ear.look(BRAKE, after=minutes(1))] == ["brake it is", None]
    assert ear.messages[0].text.splitlines() == ["brake it is.", "    mend brake", "5 of 6 files."]


def test_what_often_passes_by_itself_is_told_once_it_has_lasted(ear):
    assert [ear.look(POLL), ear.look(POLL, after=minutes(14))] == [None, None]
    assert ear.grave == []
    assert ear.look(POLL, after=minutes(1)) == "poll it is"
    assert ear.grave == [Kind.POLL]


def test_what_passed_in_between_begins_anew(ear):
    ear.look(POLL)
    ear.look(after=minutes(10))
    assert ear.look(POLL, after=minutes(10)) is None
    assert ear.look(POLL, after=minutes(15)) == "poll it is"


def test_several_are_one_message(ear):
    assert ear.look(FULL, BRAKE) == "disk_full it is (and 1 more)"
    assert "mend brake" in ear.messages[0].text


def test_another_one_of_a_kind_is_news(ear):
    ear.look(BRAKE)
    assert ear.look(BRAKE, problem(Kind.BRAKE, "a second one", about="2")) == "a second one"
    assert ear.messages[1].text.splitlines()[2] == "Still: brake it is."


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_is_told_within_a_quarter_of_an_hour_of_when_it_counts(kind):
    assert patience(kind, ALERT_AFTER) in {timedelta(0), minutes(15)}
    assert patience(kind, minutes(1)) <= minutes(1)


# ---- files that wait ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "state"), [(Kind.PENDING, VersionState.PENDING), (Kind.FAILED, VersionState.FAILED)])
def test_files_that_wait_count_once_the_oldest_has_waited_for_long(kind, state):
    def counted(age):
        return worth_telling([problem(kind)], {state: START - age}, now=START, alert_after=ALERT_AFTER)

    assert counted(hours(6) - minutes(1)) == []
    assert counted(hours(6)) == [problem(kind)]


def test_other_problems_count_however_young_the_files_are():
    oldest = {VersionState.PENDING: START, VersionState.EXPIRED: START}
    problems = [POLL, problem(Kind.EXPIRED)]
    assert worth_telling(problems, oldest, now=START, alert_after=ALERT_AFTER) == problems


# ---- goes on, comes again, is over -------------------------------------------------------------------------------------------


def test_what_goes_on_is_told_again_once_a_day(ear):
    ear.look(BRAKE)
    said = [ear.look(BRAKE, after=hours(1)) for _ in range(49)]
    assert [(hour, text) for hour, text in enumerate(said, start=1) if text] == [
        (24, "still: brake it is"),
        (48, "still: brake it is"),
    ]


def test_news_in_between_take_the_place_of_that(ear):
    ear.look(BRAKE)
    ear.look(BRAKE, FULL, after=hours(20))
    assert ear.look(BRAKE, FULL, after=hours(20)) is None
    assert ear.look(BRAKE, FULL, after=hours(4)) == "still: brake it is (and 1 more)"


def test_all_clear_comes_once_when_all_is_over_for_a_while(ear):
    ear.look(BRAKE, FULL)
    assert [ear.look(FULL, after=hours(1)), ear.look(after=minutes(1)), ear.look(after=minutes(14))] == [None, None, None]
    assert ear.look(after=minutes(1)) == "all clear: what was told is over"
    assert ear.messages[1].text.splitlines() == ["Over: brake it is", "Over: disk_full it is", "5 of 6 files."]
    assert [ear.look(after=hours(7)) for _ in range(9)] == [None] * 9
    assert ear.state.entries == {}


def test_nothing_is_clear_while_something_else_begins(ear):
    ear.look(BRAKE)
    ear.look(POLL, after=minutes(1))
    assert ear.look(POLL, after=minutes(15)) == "poll it is"
    assert "Over: brake it is" in ear.messages[1].text


def test_what_was_not_told_needs_no_all_clear(ear):
    ear.look(POLL)
    assert [ear.look(after=hours(1)), ear.look(after=hours(1))] == [None, None]


def test_what_comes_and_goes_is_told_four_times_a_day_at_most(ear):
    said = [ear.look(*([FULL] if number % 4 < 2 else []), after=minutes(10)) for number in range(6 * 24)]
    assert said.count("disk_full it is") <= 4
    assert sum(text is not None for text in said) <= 8


def test_what_comes_again_after_the_all_clear_counts_although_it_is_not_told_yet(ear):
    ear.look(FULL)
    ear.look(after=minutes(1))
    ear.look(after=minutes(15))
    assert ear.look(FULL, after=minutes(1)) is None
    assert ear.grave == [Kind.DISK_FULL]
    assert ear.look(FULL, after=hours(6)) == "disk_full it is"


# ---- what can go wrong -------------------------------------------------------------------------------------------------------


def test_what_no_service_took_is_said_again_after_a_while(ear):
    ear.deaf = True
    assert [ear.look(BRAKE), ear.look(BRAKE, after=minutes(14))] == ["brake it is", None]
    assert ear.look(BRAKE, after=minutes(1)) == "brake it is"
    ear.deaf = False
    assert ear.look(BRAKE, after=minutes(15)) == "brake it is"
    assert ear.look(BRAKE, after=minutes(15)) is None


def test_all_clear_that_no_service_took_is_said_again(ear):
    ear.look(BRAKE)
    ear.look(after=minutes(1))
    ear.deaf = True
    ear.look(after=minutes(15))
    ear.deaf = False
    assert ear.look(after=minutes(15)) == "all clear: what was told is over"


def test_what_cannot_be_seen_is_not_over(ear):
    ear.look(BRAKE, POLL)
    gone = problem(Kind.DISK_MISSING)
    assert ear.look(gone, after=minutes(15), complete=False) == "disk_missing it is"
    assert "Over" not in ear.messages[1].text
    assert ear.look(BRAKE, POLL, after=minutes(1)) == "poll it is"


def test_clock_that_goes_back_silences_nobody(ear):
    ear.now = START + timedelta(days=3650)
    ear.look(BRAKE)
    ear.now = START
    assert ear.look(BRAKE) is None
    assert ear.look(BRAKE, after=hours(24)) == "still: brake it is"
    assert ear.look(BRAKE, POLL) is None
    assert ear.look(BRAKE, POLL, after=minutes(15)) == "poll it is"
