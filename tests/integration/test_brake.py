"""The brake on a desk: too many removals at once wait for a person's word, and nothing else does."""

from datetime import timedelta
from hashlib import sha256

import pytest
import sqlalchemy as sa

from cbk.appside.schema import DELETE_LOG, FILES
from cbk.edges import machine
from cbk.edges.catalog.tables import brakes, removals, versions
from cbk.jobs.plan import decide_brake

WEEK = timedelta(days=7)
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _clock_that_is_kept(monkeypatch):
    """Where it is not, each prune looks at every process of the machine."""
    monkeypatch.setattr(machine, "clock_is_synchronised", lambda: True)


@pytest.fixture
def make_full_desk(make_desk):
    """A function that makes a desk with so many stored files; gives it and the Ids of their rows.

    The catalog says that they are stored; their bytes are nowhere, and missed by nobody here.
    """

    def make(number, **settings):
        desk = make_desk(**{"poll_interval": "1m"} | settings)
        return desk, stock(desk, number)

    return make


def stock(desk, number, *, version=1):
    rows = [
        {
            "Path": "",
            "Name": f"{index}.txt",
            "Storage": "s3",
            "Version": version,
            "Hash": sha256(b"%d" % index).hexdigest(),
            "SignedDownloadUrl": desk.link(f"/{index}"),
        }
        for index in range(number)
    ]
    with desk.application.begin() as connection:
        before = connection.scalar(sa.select(sa.func.coalesce(sa.func.max(FILES.c.Id), 0)))
        connection.execute(sa.insert(FILES), rows)
        ids = list(connection.scalars(sa.select(FILES.c.Id).where(FILES.c.Id > before).order_by(FILES.c.Id)))
    desk.poll()
    desk.courier.take()
    with desk.kit.catalog.database.writing() as connection:
        stored = {"state": "stored", "due_at": None, "lease_until": None, "size": 1, "stored_size": 30}
        connection.execute(sa.update(versions).where(versions.c.state != "stored").values(**stored))
    return ids


def delete_all(desk, row_ids):
    with desk.application.begin() as connection:
        connection.execute(sa.insert(DELETE_LOG), [{"FileId": row_id} for row_id in row_ids])


def held(desk):
    """How many removals each held brake holds."""
    return [brake.removals for brake in desk.kit.catalog.brakes.all("held")]


def stored(desk):
    return sum(version.state.value == "stored" for version in desk.kit.catalog.report.versions())


def forget_when_it_was_pulled(desk):
    """The burst is long over."""
    with desk.kit.catalog.database.writing() as connection:
        connection.execute(sa.update(brakes).values(joined_at=desk.kit.catalog.database.now() - DAY))


# ---- all of a site at once ---------------------------------------------------------------------------------------------------


@pytest.fixture
def site(make_full_desk):
    """300 files, all of them deleted at once, and their grace is over."""
    desk, rows = make_full_desk(300)
    delete_all(desk, rows)
    desk.poll()
    desk.pass_grace()
    return desk


def test_three_hundred_deletes_of_three_hundred_files_are_all_held(site):
    assert held(site) == [300]
    assert site.let_go() == []
    assert {site.prune(str(delete)).outcome for delete in (1, 150, 300)} == {"kept"}
    assert stored(site) == 300


def test_one_approval_lets_all_of_them_go_and_nobody_is_asked_again(site):
    assert decide_brake(site.kit, 1, approve=True) == 300
    assert {summary.outcome for summary in site.let_go()} == {"pruned"}
    assert stored(site) == 0
    site.poll()
    assert site.kit.catalog.brakes.all("held") == []
    assert site.kit.catalog.removals.count_open() == (0, 0)


def test_rejection_keeps_all_of_them_for_good(site):
    assert decide_brake(site.kit, 1, approve=False) == 300
    site.pass_grace()
    assert site.let_go() == []
    site.forget_fact("deletes.window")
    site.forget_fact("deletes.reconcile.finished_at")
    site.poll()
    assert site.let_go() == []
    assert stored(site) == 300
    assert site.kit.catalog.report.counts().protected == 300


def test_removal_whose_message_is_on_its_way_is_held_all_the_same(make_full_desk):
    desk, rows = make_full_desk(20, brake_files=10)
    delete = desk.delete(rows[0])
    desk.poll()
    desk.pass_grace(WEEK - timedelta(minutes=10))
    desk.poll()
    assert len(desk.courier.prunes) == 1
    delete_all(desk, rows[1:])
    desk.reopen(brake_window="30d")
    desk.poll()
    assert held(desk) == [20]
    desk.pass_grace(timedelta(minutes=10))
    assert desk.prune(delete).outcome == "kept"
    assert stored(desk) == 20


# ---- how many are too many ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "deletes", "settings", "expected"),
    [
        (30, 10, {"brake_files": 10, "brake_share": 10}, []),
        (30, 11, {"brake_files": 10, "brake_share": 10}, [11]),
        # The share of what is stored, where that is more.
        (120, 12, {"brake_files": 10, "brake_share": 10}, []),
        (120, 13, {"brake_files": 10, "brake_share": 10}, [13]),
        (30, 30, {"brake_files": 1, "brake_share": 100}, []),
        (30, 2, {"brake_files": 1, "brake_share": 0}, [2]),
    ],
)
def test_brake_is_pulled_above_both_limits_and_not_at_them(make_full_desk, files, deletes, settings, expected):
    desk, rows = make_full_desk(files, **settings)
    delete_all(desk, rows[:deletes])
    desk.poll()
    assert held(desk) == expected


def test_single_deletes_of_other_days_go_on(make_full_desk):
    desk, rows = make_full_desk(30, brake_files=10)
    delete_all(desk, rows[:2])
    desk.poll()
    desk.pass_grace(5 * DAY)
    delete_all(desk, rows[2:20])
    desk.poll()
    assert held(desk) == [18]
    desk.pass_grace(2 * DAY)
    assert [summary.outcome for summary in desk.let_go()] == ["pruned", "pruned"]
    forget_when_it_was_pulled(desk)
    delete_all(desk, rows[20:21])
    desk.poll()
    desk.pass_grace()
    assert [summary.outcome for summary in desk.let_go()] == ["pruned"]
    assert stored(desk) == 27


def test_deletes_of_a_few_each_day_are_never_held(make_full_desk):
    desk, rows = make_full_desk(30, brake_files=10)
    for day in range(6):
        delete_all(desk, rows[day * 5 : day * 5 + 5])
        desk.poll()
        desk.pass_grace(2 * DAY)
    assert held(desk) == []


def test_deletes_that_name_no_file_of_the_kit_hold_nothing_up(make_full_desk):
    """As at the first poll of an application that has deleted for years."""
    desk, rows = make_full_desk(30, brake_files=10)
    delete_all(desk, [*range(5000, 5100), rows[0]])
    desk.poll()
    assert held(desk) == []
    desk.pass_grace()
    desk.let_go()
    assert stored(desk) == 29


def test_mass_overwrite_is_held_as_well(make_full_desk):
    desk, _ = make_full_desk(30, brake_files=10)
    stock(desk, 30, version=2)
    assert stored(desk) == 60
    desk.poll()
    assert held(desk) == [30]
    desk.pass_grace()
    assert desk.let_go() == []
    decide_brake(desk.kit, 1, approve=False)
    desk.poll()
    desk.pass_grace()
    assert desk.let_go() == []
    assert stored(desk) == 60


def test_brake_is_off_where_the_setting_is_out_of_reach(make_full_desk):
    desk, rows = make_full_desk(30, brake_files=1_000_000)
    delete_all(desk, rows)
    desk.poll()
    assert held(desk) == []


# ---- a burst that goes on ----------------------------------------------------------------------------------------------------


def test_burst_over_several_polls_is_one_brake(make_full_desk):
    desk, rows = make_full_desk(60, brake_files=10)
    for start in range(0, 60, 20):
        delete_all(desk, rows[start : start + 20])
        desk.poll()
    assert held(desk) == [60]


def test_slow_burst_is_held_once_it_is_too_much(make_full_desk):
    desk, rows = make_full_desk(60, brake_files=10)
    for start in range(0, 12, 3):
        delete_all(desk, rows[start : start + 3])
        desk.poll()
    assert held(desk) == [12]


def test_few_that_follow_a_burst_are_single_deletes_and_many_belong_to_it(make_full_desk):
    desk, rows = make_full_desk(60, brake_files=20)
    delete_all(desk, rows[:30])
    desk.poll()
    delete_all(desk, rows[30:32])
    desk.poll()
    assert held(desk) == [30]
    delete_all(desk, rows[32:35])
    desk.poll()
    assert held(desk) == [35]


def test_what_comes_long_after_a_burst_is_counted_anew(make_full_desk):
    desk, rows = make_full_desk(60, brake_files=10)
    delete_all(desk, rows[:30])
    desk.poll()
    forget_when_it_was_pulled(desk)
    delete_all(desk, rows[30:40])
    desk.poll()
    assert held(desk) == [30]
    delete_all(desk, rows[40:41])
    desk.poll()
    assert held(desk) == [30, 11]


def test_approval_is_of_one_brake_alone(make_full_desk):
    desk, rows = make_full_desk(60, brake_files=10)
    delete_all(desk, rows[:30])
    desk.poll()
    forget_when_it_was_pulled(desk)
    delete_all(desk, rows[30:])
    desk.poll()
    decide_brake(desk.kit, 2, approve=True)
    desk.pass_grace()
    assert {summary.outcome for summary in desk.let_go()} == {"pruned"}
    assert stored(desk) == 30


def test_burst_over_so_many_slots_that_no_statement_could_name_them_is_held(make_full_desk):
    """As where the setting was made stricter while much waited."""
    desk, _ = make_full_desk(1, brake_window="2s", brake_files=1)
    with desk.kit.catalog.database.writing() as connection:
        now = desk.kit.catalog.database.now()
        values = {"kind": "replaced", "file_id": 1, "version_id": 1, "first_seen_at": now, "open": True}
        due = [{"due_at": now + WEEK + timedelta(seconds=number), **values} for number in range(1200)]
        connection.execute(sa.insert(removals), due)
    desk.poll()
    assert held(desk) == [1200]


def test_poll_that_pulls_the_brake_sends_nothing_of_what_it_holds(make_full_desk):
    desk, rows = make_full_desk(30, brake_files=10, grace_period="0s")
    delete_all(desk, rows)
    desk.poll()
    assert desk.courier.prunes == []
    assert stored(desk) == 30
