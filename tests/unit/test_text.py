"""How values look to a person."""

from datetime import UTC, datetime

import pytest

from cbk.cli.verification.verification_lines import drill_line
from cbk.jobs.verification.drill import Drill
from cbk.model import Brake
from cbk.rules.status.health import judge_retention
from cbk.rules.text.display import counted


@pytest.mark.parametrize(
    ("count", "words", "text"),
    [
        (1, ("file",), "1 file"),
        (0, ("file",), "0 files"),
        (2, ("file",), "2 files"),
        (1, ("copy", "copies"), "1 copy"),
        (3, ("copy", "copies"), "3 copies"),
    ],
)
def test_one_of_something_is_not_many(count, words, text):
    assert counted(count, *words) == text


@pytest.mark.parametrize(("files", "words"), [(1, "passed: 1 file at "), (2, "passed: 2 files at ")])
def test_drill_says_how_many_files_it_restored(files, words):
    assert drill_line(Drill(at=datetime(2026, 11, 26, tzinfo=UTC), files=files)).startswith(words)


@pytest.mark.parametrize(
    ("removals", "message"), [(1, "1 removal is held back by brake 7"), (300, "300 removals are held back by brake 7")]
)
def test_brake_says_how_much_it_holds_back(removals, message):
    brake = Brake(id=7, pulled_at=datetime(2026, 11, 26, tzinfo=UTC), removals=removals, stored_files=10, state="held")
    [problem] = judge_retention([brake], overdue=0)
    assert problem.message == message
