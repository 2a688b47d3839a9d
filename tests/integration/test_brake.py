"""The brake on a site: too many removals at once wait for a person's word, and nothing else does."""

from datetime import timedelta
from hashlib import sha256

import pytest
import sqlalchemy as sa

from cbk.edges import host
from cbk.edges.catalog.schema import brakes, removals, versions
from cbk.jobs.retention.plan import decide_brake
from cbk_app.schema import DELETE_LOG, FILES

WEEK = timedelta(days=7)
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _clock_that_is_kept(monkeypatch):
    """Where it is not, each prune looks at every process of the machine."""
    monkeypatch.setattr(host, "clock_is_synchronised", lambda: True)


@pytest.fixture
def make_full_site(make_site):
    """A function that makes a site with so many stored files; gives it and the Ids of their rows.

    The catalog says that they are stored; their bytes are nowhere, and missed by nobody here.
    """

    def make(number, **settings):
        site = make_site(**{"poll_interval": "1m"} | settings)
        return site, stock(site, number)

    return make


def stock(site, number, *, version=1):
    rows = [
        {
            "Path": "",
            "Name": f"{index}.txt",
            "Storage": "s3",
            "Version": version,
            "Hash": sha256(b"%d" % index).hexdigest(),
            "SignedDownloadUrl": site.link(f"/{index}"),
        }
        for index in range(number)
    ]
    with site.application.begin() as connection:
        before = connection.scalar(sa.select(sa.func.coalesce(sa.func.max(FILES.c.Id), 0)))
        connection.execute(sa.insert(FILES), rows)
        ids = list(connection.scalars(sa.select(FILES.c.Id).where(FILES.c.Id > before).order_by(FILES.c.Id)))
    site.poll()
    site.publisher.take()
    with site.context.catalog.database.writing() as connection:
        stored = {"state": "stored", "due_at": None, "lease_until": None, "size": 1, "stored_size": 30}
        connection.execute(sa.update(versions).where(versions.c.state != "stored").values(**stored))
    return ids


def delete_all(site, row_ids):
    with site.application.begin() as connection:
        connection.execute(sa.insert(DELETE_LOG), [{"FileId": row_id} for row_id in row_ids])


def held(site):
    """How many removals each held brake holds."""
    return [brake.removals for brake in site.context.catalog.brakes.all("held")]


def stored(site):
    return sum(version.state.value == "stored" for version in site.context.catalog.report.versions())


def forget_when_it_was_pulled(site):
    """The burst is long over."""
    with site.context.catalog.database.writing() as connection:
        connection.execute(sa.update(brakes).values(joined_at=site.context.catalog.database.now() - DAY))


# ---- all of a site at once ---------------------------------------------------------------------------------------------------


@pytest.fixture
def full_site(make_full_site):
    """300 files, all of them deleted at once, and their grace is over."""
    site, rows = make_full_site(300)
    delete_all(site, rows)
    site.poll()
    site.pass_grace()
    return site


def test_three_hundred_deletes_of_three_hundred_files_are_all_held(full_site):
    assert held(full_site) == [300]
    assert full_site.let_go() == []
    assert {full_site.prune(str(delete)).outcome for delete in (1, 150, 300)} == {"kept"}
    assert stored(full_site) == 300


def test_one_approval_lets_all_of_them_go_and_nobody_is_asked_again(full_site):
    assert decide_brake(full_site.context, 1, approve=True) == 300
    assert {summary.outcome for summary in full_site.let_go()} == {"pruned"}
    assert stored(full_site) == 0
    full_site.poll()
    assert full_site.context.catalog.brakes.all("held") == []
    assert full_site.context.catalog.removals.count_open() == (0, 0)


def test_rejection_keeps_all_of_them_for_good(full_site):
    assert decide_brake(full_site.context, 1, approve=False) == 300
    full_site.pass_grace()
    assert full_site.let_go() == []
    full_site.forget_fact("deletes.window")
    full_site.forget_fact("deletes.reconcile.finished_at")
    full_site.poll()
    assert full_site.let_go() == []
    assert stored(full_site) == 300
    assert full_site.context.catalog.report.counts().protected == 300


def test_removal_whose_message_is_on_its_way_is_held_all_the_same(make_full_site):
    site, rows = make_full_site(20, brake_files=10)
    delete = site.delete(rows[0])
    site.poll()
    site.pass_grace(WEEK - timedelta(minutes=10))
    site.poll()
    assert len(site.publisher.prunes) == 1
    delete_all(site, rows[1:])
    site.reopen(brake_window="30d")
    site.poll()
    assert held(site) == [20]
    site.pass_grace(timedelta(minutes=10))
    assert site.prune(delete).outcome == "kept"
    assert stored(site) == 20


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
def test_brake_is_pulled_above_both_limits_and_not_at_them(make_full_site, files, deletes, settings, expected):
    site, rows = make_full_site(files, **settings)
    delete_all(site, rows[:deletes])
    site.poll()
    assert held(site) == expected


def test_single_deletes_of_other_days_go_on(make_full_site):
    site, rows = make_full_site(30, brake_files=10)
    delete_all(site, rows[:2])
    site.poll()
    site.pass_grace(5 * DAY)
    delete_all(site, rows[2:20])
    site.poll()
    assert held(site) == [18]
    site.pass_grace(2 * DAY)
    assert [summary.outcome for summary in site.let_go()] == ["pruned", "pruned"]
    forget_when_it_was_pulled(site)
    delete_all(site, rows[20:21])
    site.poll()
    site.pass_grace()
    assert [summary.outcome for summary in site.let_go()] == ["pruned"]
    assert stored(site) == 27


def test_deletes_of_a_few_each_day_are_never_held(make_full_site):
    site, rows = make_full_site(30, brake_files=10)
    for day in range(6):
        delete_all(site, rows[day * 5 : day * 5 + 5])
        site.poll()
        site.pass_grace(2 * DAY)
    assert held(site) == []


def test_deletes_that_name_no_file_of_the_kit_hold_nothing_up(make_full_site):
    """As at the first poll of an application that has deleted for years."""
    site, rows = make_full_site(30, brake_files=10)
    delete_all(site, [*range(5000, 5100), rows[0]])
    site.poll()
    assert held(site) == []
    site.pass_grace()
    site.let_go()
    assert stored(site) == 29


def test_mass_overwrite_is_held_as_well(make_full_site):
    site, _ = make_full_site(30, brake_files=10)
    stock(site, 30, version=2)
    assert stored(site) == 60
    site.poll()
    assert held(site) == [30]
    site.pass_grace()
    assert site.let_go() == []
    decide_brake(site.context, 1, approve=False)
    site.poll()
    site.pass_grace()
    assert site.let_go() == []
    assert stored(site) == 60


def test_brake_is_off_where_the_setting_is_out_of_reach(make_full_site):
    site, rows = make_full_site(30, brake_files=1_000_000)
    delete_all(site, rows)
    site.poll()
    assert held(site) == []


# ---- a burst that goes on ----------------------------------------------------------------------------------------------------


def test_burst_over_several_polls_is_one_brake(make_full_site):
    site, rows = make_full_site(60, brake_files=10)
    for start in range(0, 60, 20):
        delete_all(site, rows[start : start + 20])
        site.poll()
    assert held(site) == [60]


def test_slow_burst_is_held_once_it_is_too_much(make_full_site):
    site, rows = make_full_site(60, brake_files=10)
    for start in range(0, 12, 3):
        delete_all(site, rows[start : start + 3])
        site.poll()
    assert held(site) == [12]


def test_few_that_follow_a_burst_are_single_deletes_and_many_belong_to_it(make_full_site):
    site, rows = make_full_site(60, brake_files=20)
    delete_all(site, rows[:30])
    site.poll()
    delete_all(site, rows[30:32])
    site.poll()
    assert held(site) == [30]
    delete_all(site, rows[32:35])
    site.poll()
    assert held(site) == [35]


def test_what_comes_long_after_a_burst_is_counted_anew(make_full_site):
    site, rows = make_full_site(60, brake_files=10)
    delete_all(site, rows[:30])
    site.poll()
    forget_when_it_was_pulled(site)
    delete_all(site, rows[30:40])
    site.poll()
    assert held(site) == [30]
    delete_all(site, rows[40:41])
    site.poll()
    assert held(site) == [30, 11]


def test_approval_is_of_one_brake_alone(make_full_site):
    site, rows = make_full_site(60, brake_files=10)
    delete_all(site, rows[:30])
    site.poll()
    forget_when_it_was_pulled(site)
    delete_all(site, rows[30:])
    site.poll()
    decide_brake(site.context, 2, approve=True)
    site.pass_grace()
    assert {summary.outcome for summary in site.let_go()} == {"pruned"}
    assert stored(site) == 30


def test_burst_over_so_many_slots_that_no_statement_could_name_them_is_held(make_full_site):
    """As where the setting was made stricter while much waited."""
    site, _ = make_full_site(1, brake_window="2s", brake_files=1)
    with site.context.catalog.database.writing() as connection:
        now = site.context.catalog.database.now()
        values = {"kind": "replaced", "file_id": 1, "version_id": 1, "first_seen_at": now, "open": True}
        due = [{"due_at": now + WEEK + timedelta(seconds=number), **values} for number in range(1200)]
        connection.execute(sa.insert(removals), due)
    site.poll()
    assert held(site) == [1200]


def test_poll_that_pulls_the_brake_sends_nothing_of_what_it_holds(make_full_site):
    site, rows = make_full_site(30, brake_files=10, grace_period="0s")
    delete_all(site, rows)
    site.poll()
    assert site.publisher.prunes == []
    assert stored(site) == 30
