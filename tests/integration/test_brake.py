"""The brake on a site: too many removals at once wait for a person's word, and nothing else does."""

import json
from datetime import datetime, timedelta
from hashlib import sha256

import pytest
import sqlalchemy as sa

from cbk.edges import host
from cbk.edges.catalog.database.schema import facts, removals, samples, versions
from cbk.jobs.retention.plan import decide_brake
from cbk.model import BrakeState
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
    return _add(site, [(f"{index}.txt", version, b"%d" % index) for index in range(number)])


def _add(site, named):
    rows = [
        {
            "Path": "",
            "Name": name,
            "Storage": "s3",
            "Version": version,
            "Hash": sha256(content).hexdigest(),
            "SignedDownloadUrl": site.link(f"/{name}"),
        }
        for name, version, content in named
    ]
    with site.application.begin() as connection:
        before = connection.scalar(sa.select(sa.func.coalesce(sa.func.max(FILES.c.Id), 0)))
        connection.execute(sa.insert(FILES), rows)
        ids = list(connection.scalars(sa.select(FILES.c.Id).where(FILES.c.Id > before).order_by(FILES.c.Id)))
    site.poll()
    site.publisher.take()
    with site.context.catalog.database.writing() as connection:
        stored = {"state": "stored", "due_at": None, "lease_until": None, "size": 1, "stored_size": 30}
        stored["stored_at"] = site.context.catalog.database.now_sql
        connection.execute(sa.update(versions).where(versions.c.state != "stored").values(**stored))
        connection.execute(sa.update(versions).values(kept=False))  # as whoever stores a version does for its file
    return ids


def stock_more(site, number):
    """So many other files, of one byte each."""
    return _add(site, [(f"more-{index}.txt", 1, b"%d" % index) for index in range(number)])


def stock_versions(site, indexes):
    """Other bytes for these files, each under the next version."""
    return _add(site, [(f"{index}.txt", 2, b"garbage %d" % index) for index in indexes])


def delete_all(site, row_ids):
    with site.application.begin() as connection:
        connection.execute(sa.insert(DELETE_LOG), [{"FileId": row_id} for row_id in row_ids])


def held(site):
    """How many removals each held brake holds."""
    return [brake.removals for brake in site.context.catalog.brakes.all(BrakeState.HELD)]


def stored(site):
    return sum(version.state.value == "stored" for version in site.context.catalog.report.versions())


def let_time_pass(site, by):
    """As if all that the catalog has were older: copies, removals, what was pruned, and how things stood."""
    milliseconds = by // timedelta(milliseconds=1)
    moved = (
        (versions, ("first_seen_at", "stored_at", "verified_at", "pruned_at")),
        (removals, ("first_seen_at", "due_at", "closed_at")),
    )
    with site.context.catalog.database.writing() as connection:
        for table, columns in moved:
            for name in columns:
                earlier = sa.type_coerce(table.c[name], sa.BigInteger) - milliseconds
                values = {name: sa.type_coerce(earlier, table.c[name].type)}
                connection.execute(sa.update(table).where(table.c[name].is_not(None)).values(values))
        connection.execute(sa.update(removals).values(armed_until=None, poll=-1))
        earlier = sa.type_coerce(sa.type_coerce(samples.c.at, sa.BigInteger) - milliseconds, samples.c.at.type)
        connection.execute(sa.update(samples).values(at=earlier))
        connection.execute(sa.delete(facts).where(facts.c.name == "brake.looked"))
        began = connection.scalar(sa.select(facts.c.value).where(facts.c.name == "brake.began"))
        if began is not None:
            at, copies = json.loads(began)
            value = json.dumps([(datetime.fromisoformat(at) - by).isoformat(), copies])
            connection.execute(sa.update(facts).where(facts.c.name == "brake.began").values(value=value))


def note_how_things_stand(site):
    """A sample of now, as a poll notes one every quarter of an hour."""
    with site.context.catalog.database.writing() as connection:
        connection.execute(sa.delete(samples))
    site.poll()


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
    assert full_site.context.catalog.brakes.all(BrakeState.HELD) == []
    assert full_site.context.catalog.removals.count_open() == (0, 0)


def test_rejection_keeps_all_of_them_for_good(full_site):
    assert decide_brake(full_site.context, 1, approve=False) == 300
    full_site.pass_grace()
    assert full_site.let_go() == []
    full_site.forget_fact("deletes.reading")
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
    site.poll()
    assert len(site.publisher.prunes) == 1
    delete_all(site, rows[1:])
    site.poll()
    assert held(site) == [20]
    site.pass_grace(timedelta(minutes=10))
    assert site.prune(delete).outcome == "kept"
    assert stored(site) == 20


# ---- how many are too many ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "deletes", "settings", "expected"),
    [
        # So small a set has no brake; one that is larger by one has its share.
        (10, 10, {"brake_files": 10, "brake_share": 10}, []),
        (11, 2, {"brake_files": 10, "brake_share": 10}, [2]),
        (30, 3, {"brake_files": 10, "brake_share": 10}, []),
        (30, 4, {"brake_files": 10, "brake_share": 10}, [4]),
        (120, 12, {"brake_files": 10, "brake_share": 10}, []),
        (120, 13, {"brake_files": 10, "brake_share": 10}, [13]),
        (30, 30, {"brake_files": 1, "brake_share": 100}, []),
        (30, 1, {"brake_files": 1, "brake_share": 0}, [1]),
    ],
)
def test_brake_is_pulled_above_the_share_and_not_at_it(make_full_site, files, deletes, settings, expected):
    site, rows = make_full_site(files, **settings)
    delete_all(site, rows[:deletes])
    site.poll()
    assert held(site) == expected


def test_small_steps_add_up_over_the_window(make_full_site):
    site, rows = make_full_site(100, brake_files=10, grace_period="1h")
    for start in range(0, 10, 2):
        delete_all(site, rows[start : start + 2])
        site.poll()
        let_time_pass(site, DAY)
        assert {summary.outcome for summary in site.let_go()} == {"pruned"}
    assert stored(site) == 90
    delete_all(site, rows[10:11])
    site.poll()
    assert held(site) == [1]
    let_time_pass(site, DAY)
    assert site.let_go() == []
    assert stored(site) == 90


def test_what_went_counts_no_more_once_the_window_has_passed(make_full_site):
    site, rows = make_full_site(100, brake_files=10, grace_period="1h")
    delete_all(site, rows[:10])
    site.poll()
    let_time_pass(site, DAY)
    site.let_go()
    note_how_things_stand(site)
    let_time_pass(site, 31 * DAY)
    delete_all(site, rows[10:19])
    site.poll()
    assert held(site) == []
    delete_all(site, rows[19:20])
    site.poll()
    assert held(site) == [10]


def test_rows_that_are_added_do_not_let_held_deletes_go(make_full_site):
    site, rows = make_full_site(100, brake_files=20)
    delete_all(site, rows[:30])
    site.poll()
    assert held(site) == [30]
    stock_more(site, 320)
    site.poll()
    site.pass_grace()
    assert site.let_go() == []
    assert held(site) == [30]


def test_rows_that_were_added_within_the_window_do_not_widen_it(make_full_site):
    site, rows = make_full_site(100, brake_files=20)
    note_how_things_stand(site)
    let_time_pass(site, 31 * DAY)
    stock_more(site, 900)
    delete_all(site, rows[:11])
    site.poll()
    assert held(site) == [11]


def test_garbage_that_replaces_a_few_files_each_day_is_held(make_full_site):
    site, _ = make_full_site(100, brake_files=10, grace_period="1h")
    lost = 0
    for start in range(0, 30, 3):
        stock_versions(site, range(start, start + 3))
        site.poll()
        let_time_pass(site, DAY / 2)
        lost += sum(summary.outcome == "pruned" for summary in site.let_go())
    assert lost <= 10
    assert held(site) != []


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


# ---- what a brake holds ------------------------------------------------------------------------------------------------------


def test_approval_lets_go_what_was_held_and_not_what_came_later(make_full_site):
    site, rows = make_full_site(60, brake_files=10)
    delete_all(site, rows[:30])
    site.poll()
    delete_all(site, rows[30:])
    site.poll()
    assert held(site) == [30, 30]
    assert decide_brake(site.context, 1, approve=True) == 30
    site.pass_grace()
    assert {summary.outcome for summary in site.let_go()} == {"pruned"}
    assert (stored(site), held(site)) == (30, [30])


def test_what_a_person_approved_of_uses_nothing_of_the_window(make_full_site):
    site, rows = make_full_site(100, brake_files=10)
    delete_all(site, rows[:30])
    site.poll()
    decide_brake(site.context, 1, approve=True)
    site.pass_grace()
    site.let_go()
    delete_all(site, rows[30:40])
    site.poll()
    assert held(site) == []


def test_brake_whose_deletes_were_all_taken_back_ends_by_itself(make_full_site):
    site, rows = make_full_site(30, brake_files=10)
    delete_all(site, rows)
    site.poll()
    assert held(site) == [30]
    with site.application.begin() as connection:
        connection.execute(sa.delete(DELETE_LOG))
    site.poll()
    assert held(site) == []
    assert [brake.state for brake in site.context.catalog.brakes.all()] == [BrakeState.ENDED]
    assert site.context.catalog.removals.count_open() == (0, 0)


def test_status_tells_how_much_of_the_window_is_used(make_full_site):
    site, rows = make_full_site(100, brake_files=10, grace_period="1h")
    delete_all(site, rows[:4])
    site.poll()
    let_time_pass(site, DAY)
    site.let_go()
    delete_all(site, rows[4:6])
    site.poll()
    allowance = site.context.catalog.brakes.allowance()
    assert (allowance.used, allowance.waiting, allowance.allowed) == (4, 2, 10)


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
    site.poll()
    assert site.publisher.prunes == []
    assert stored(site) == 30
