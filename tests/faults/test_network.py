"""Every line of a site breaks, at random and under load: nothing is lost or wrong, and all is done in the end.

`scripts/test-faults` does the same at length, and writes docs/reliability.md.
"""

import pytest

from tests.faults.network import MESSAGES, break_catalog, break_messages, break_origin, break_source, suites


def test_origin_that_misbehaves_in_every_way_loses_nothing(tmp_path, origin):
    tally = break_origin(tmp_path, origin, "does several of these in turn", times=100)
    assert tally.findings == []
    assert tally.times >= 100


@pytest.mark.parametrize("break_one", [break_source, break_catalog])
def test_database_whose_connections_are_reset_loses_nothing(tmp_path, origin, postgres, break_one):
    tally = break_one(tmp_path, origin, postgres, times=40)
    assert tally.findings == []
    assert tally.times >= 40


def test_messages_that_are_lost_doubled_late_or_forged_lose_nothing(tmp_path, origin):
    tally = break_messages(tmp_path, origin, list(MESSAGES), times=100)
    assert tally.findings == []
    assert tally.times >= 100


@pytest.mark.nightly
@pytest.mark.parametrize("number", range(len(list(suites(times=0)))))
def test_lines_that_break_a_thousand_times_lose_nothing(tmp_path, origin, postgres, number):
    tally = list(suites(times=2000, seed="nightly"))[number](tmp_path, origin, postgres)
    assert tally.findings == []
