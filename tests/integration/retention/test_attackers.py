"""What somebody who holds the application's login can destroy, by whatever he writes: no more than docs/threat-model.md says."""

from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cbk.errors import CbkError
from tests.model.attacker import TACTICS, Attacker
from tests.model.story import SETTINGS
from tests.model.tables import Shape, SQLite
from tests.model.world import CLOCK, ModelSite

DAY = timedelta(days=1)
FILES, SHARE, BRAKE_FILES = 20, 10, 5
ALLOWED = FILES * SHARE // 100
GRACE_DAYS, WINDOW_DAYS = 7, 30
# One may be enough, where others are in its way.
attacks = st.fixed_dictionaries(
    {
        "tactics": st.lists(st.sampled_from(TACTICS), min_size=1, max_size=4, unique=True) | st.just(TACTICS),
        "size": st.sampled_from([1, 2, 3, 8, FILES]),
        "numbers": st.integers(0, 2**32),
    }
)


class Siege:
    """A site of files that have been there for longer than the window, and its attacker."""

    def __init__(self, folder, **attack):
        CLOCK.__init__()
        folder.mkdir()
        database = SQLite(Shape(), folder / "app.db")
        database.create()
        self.attacker = Attacker(database, CLOCK.now, files=FILES, **attack)
        self.site = ModelSite(folder, database.url, **SETTINGS | {"brake_files": BRAKE_FILES, "brake_share": SHARE})
        self.work(2)
        for days in (1, WINDOW_DAYS + 1):
            CLOCK.move(timedelta(days=days))
            self.work(1)

    def work(self, rounds):
        for _ in range(rounds):
            CLOCK.move(timedelta(seconds=61))
            with suppress(CbkError):  # an attacker may well have a poll fail
                self.site.poll()
            self.site.fetch_all()
            self.site.prune_all()

    def lost(self):
        return self.attacker.lost(self.site.root)

    def close(self):
        self.site.close()
        self.attacker.database.close()


@pytest.fixture
def make_siege(tmp_path, time_stands_still):
    """A function that makes one; the one before ends."""
    sieges = []

    def make(**attack):
        for siege in sieges:
            siege.close()
        sieges[:] = [Siege(tmp_path / f"siege-{id(attack)}-{CLOCK.time.timestamp()}-{len(list(tmp_path.iterdir()))}", **attack)]
        return sieges[0]

    yield make
    for siege in sieges:
        siege.close()


def go_on_for_a_window(siege):
    """Strike each day; what is destroyed is looked at each time."""
    for day in range(WINDOW_DAYS):
        siege.attacker.strike()
        siege.work(2)
        lost = siege.lost()
        assert lost == 0 or day >= GRACE_DAYS, f"{lost} are lost after {day} days"
        assert lost <= ALLOWED, f"{lost} are lost after {day} days"
        CLOCK.move(DAY)


def check_any_attack(make_siege, examples):
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(attack=attacks)
    def check(attack):
        go_on_for_a_window(make_siege(**attack))

    check()


def test_no_attack_by_rows_destroys_more_than_the_share_within_the_window(make_siege):
    check_any_attack(make_siege, 2)


@pytest.mark.nightly
def test_none_of_many_attacks_by_rows_destroys_more_than_the_share_within_the_window(make_siege):
    check_any_attack(make_siege, 100)


@pytest.mark.parametrize("is_good", [False, True])
def test_file_that_is_written_again_after_its_prune_gives_the_attacker_nothing_back(make_siege, is_good):
    """With a dead link nothing is fetched again; with a good one, what is fetched is a copy of today."""
    siege = make_siege(tactics=["delete"], size=1, numbers=1)
    attacker = siege.attacker
    for targets in (attacker.originals[:ALLOWED], attacker.originals[ALLOWED : 2 * ALLOWED]):
        attacker.delete_these(targets)
        siege.work(1)
        CLOCK.move(timedelta(days=GRACE_DAYS))
        siege.work(2)
        assert siege.lost() == (ALLOWED if targets[0] is attacker.originals[0] or not is_good else 0)
        for content in targets:
            attacker.write(content, is_good=is_good)
        attacker.take_deletes_back()
        siege.work(1)
    attacker.delete_these(attacker.originals[: 2 * ALLOWED])
    siege.work(1)
    CLOCK.move(timedelta(days=GRACE_DAYS))
    siege.work(2)

    assert siege.lost() <= ALLOWED
