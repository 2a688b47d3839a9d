"""Links that die unfetched, and rows that wait for another link: what the catalog counts, what status and ls say of it."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from cbk.cli.main import cli
from cbk.edges.catalog.tables import versions
from cbk.jobs.status import REFRESH_ROWS, status_object, take_status
from cbk.rules.deadlines import Deadlines
from cbk.rules.health import Kind
from tests.origin import s3_error, status

MINUTE = timedelta(minutes=1)
EXPIRED = s3_error(403, "AccessDenied", "Request has expired")
DENIED = s3_error(403, "SignatureDoesNotMatch", "The request signature does not match.")
SESSION = s3_error(400, "ExpiredToken", "The provided token has expired.")


def link(desk, key, dies_in):
    expires = int((datetime.now(UTC) + dies_in).timestamp())
    return f"{desk.link(f'/car-erp/{key}')}&Expires={expires}&Signature=x"


def upload(desk, key, dies_in, *answers):
    return desk.upload(key, b"x", *answers, link=link(desk, key, dies_in))


def problem(desk):
    """What status says of links, how many and the kinds of all its problems."""
    problems = take_status(desk.kit).problems
    (ours,) = [each for each in problems if each.kind is Kind.LINKS] or [None]
    return ours


def count(desk):
    ours = problem(desk)
    return int(ours.message.split()[0]) if ours else 0


def waits(desk, minutes=20):
    """Everything has been due for so long."""
    with desk.kit.catalog.database.writing() as connection:
        since = desk.kit.catalog.database.later_sql(-minutes * MINUTE)
        connection.execute(sa.update(versions).where(versions.c.due_at.is_not(None)).values(due_at=since))


@pytest.fixture(params=["sqlite", "postgresql"])
def either_desk(request, make_desk):
    """A desk with the catalog in either database."""
    if request.param == "sqlite":
        return make_desk()
    postgres, name = request.getfixturevalue("postgres"), request.getfixturevalue("pg_database")
    return make_desk(catalog_url=postgres.url(name))


def test_catalog_counts_links_by_the_minute_in_which_they_die(either_desk):
    desk = either_desk
    for number, minutes in enumerate([-5, -1, 30, 30, 30, 90, 60 * 24 * 30]):
        upload(desk, f"{number}", minutes * MINUTE + timedelta(seconds=1))
    desk.upload("no-date", b"x")
    desk.poll()
    now = desk.kit.catalog.database.now()
    found = desk.kit.catalog.links.deadlines()
    assert [number for _, number in found.dying] == [2, 3, 1]
    assert timedelta(0) <= found.dying[0][0] - now < MINUTE
    assert timedelta(0) <= now + 30 * MINUTE - found.dying[1][0] <= MINUTE
    assert now - found.waiting_since < MINUTE
    assert (found.too_late, found.stored, found.stored_last) == (0, 0, 0)


def test_catalog_counts_what_was_stored_of_late(either_desk):
    desk = either_desk
    for number in range(4):
        desk.upload(f"{number}", b"x")
    desk.work()
    with desk.kit.catalog.database.writing() as connection:
        ids = sorted(version.id for version in desk.versions().values())
        for version_id, minutes in zip(ids, [0, 5, 14, 16], strict=True):
            moved = desk.kit.catalog.database.later_sql(-minutes * MINUTE)
            connection.execute(sa.update(versions).where(versions.c.id == version_id).values(stored_at=moved))
    found = desk.kit.catalog.links.deadlines()
    assert (found.stored, found.stored_last) == (3, 1)


def test_catalog_with_nothing_in_it_has_no_deadlines(either_desk):
    nothing = Deadlines(dying=[], waiting_since=None, too_late=0, too_late_at=None, stored=0, stored_last=0)
    assert either_desk.kit.catalog.links.deadlines() == nothing


def test_deadlines_of_a_large_backlog_are_read_from_an_index_alone(desk):
    asked = []
    sa.event.listen(desk.kit.catalog.engine, "before_cursor_execute", lambda *call: asked.append((call[2], call[3])))
    desk.kit.catalog.links.deadlines()
    by_minute, too_late, stored = [each for each in asked if "FROM versions" in each[0]]
    plans = []
    with desk.kit.catalog.engine.connect() as connection:
        for statement, parameters in (by_minute, too_late, stored):
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.append(" ".join(row[3] for row in rows))
    assert "COVERING INDEX ix_versions_due" in plans[0]
    assert "INDEX ix_versions_newest_state" in plans[1]
    assert "INDEX ix_versions_verified" in plans[2]


def test_link_that_dies_soon_and_is_not_fetched_is_a_problem_before_it_dies(desk):
    upload(desk, "soon", 3 * MINUTE)
    upload(desk, "later", 60 * MINUTE)
    desk.poll()
    assert problem(desk).message.startswith("1 link dies before the object is fetched, the first at ")
    for row_id in desk.courier.take():
        desk.back_up(row_id)
    assert count(desk) == 0
    assert take_status(desk.kit).is_protected


def test_links_that_die_behind_a_backlog_are_a_problem_long_before_they_die(desk):
    for number in range(6):
        upload(desk, f"{number}", 62 * MINUTE)
    desk.poll()
    assert count(desk) == 0  # how fast they are fetched is not known yet
    desk.back_up(desk.courier.take()[0])
    waits(desk)
    # One in a quarter of an hour is four in an hour.
    assert count(desk) == 1
    assert "4 stored per hour" in problem(desk).message


def test_problem_of_links_comes_before_what_waits(desk):
    upload(desk, "soon", MINUTE)
    desk.poll()
    assert [each.kind for each in take_status(desk.kit).problems] == [Kind.LINKS, Kind.PENDING]


def test_failed_version_whose_next_try_comes_after_its_link_is_dead_is_a_problem(desk):
    upload(desk, "a", 30 * MINUTE, status(503, retry_after="7200"))
    upload(desk, "b", 180 * MINUTE, status(503, retry_after="7200"))
    desk.work()
    assert count(desk) == 1


def test_link_that_is_signed_anew_before_it_dies_is_no_problem_after_the_next_poll(desk):
    row_id = upload(desk, "a", 3 * MINUTE)
    desk.poll()
    assert count(desk) == 1
    due_at = desk.versions()["a", 1].due_at
    desk.change(row_id, SignedDownloadUrl=link(desk, "a", 60 * MINUTE))
    desk.poll()
    assert count(desk) == 0
    version = desk.versions()["a", 1]
    assert (version.state, version.due_at) == ("pending", due_at)


# Rows that wait for another link


def wanting(desk):
    """Rows of each kind; gives the Ids of those whose link has to be written anew."""
    rows = {
        "expired": desk.upload("expired", b"x", EXPIRED),
        "denied": desk.upload("denied", b"x", DENIED),
        "session": desk.upload("session", b"x", SESSION),
    }
    desk.upload("stored", b"x")
    desk.upload("away", b"x", status(503))
    desk.upload("archived", b"x", s3_error(403, "InvalidObjectState", "The operation is not valid"))
    desk.upload("missing", b"x", status(404))
    desk.upload("old", b"x", EXPIRED, served_at="/car-erp/old1")
    desk.upload("old", b"y", version=2, served_at="/car-erp/old2")
    desk.delete(desk.upload("deleted", b"x", EXPIRED))
    desk.work()
    desk.work()
    return rows


def ls(desk, *options):
    return CliRunner().invoke(cli, ["ls", "--refresh", *options], env=desk.environment)


def test_status_lists_exactly_the_rows_that_need_a_fresh_link(desk):
    rows = wanting(desk)
    refresh = status_object(take_status(desk.kit))["refresh"]
    assert refresh["count"] == 3
    assert [row["row"] for row in refresh["rows"]] == list(rows.values())
    assert [row["key"] for row in refresh["rows"]] == list(rows)
    assert [list(row) for row in refresh["rows"]] == [["row", "storage", "key", "version", "reason"]] * 3
    reasons = " ".join(row["reason"] for row in refresh["rows"])
    assert all(part in reasons for part in ("the link expired", "refuses the link (403 SignatureDoesNotMatch)", "(ExpiredToken)"))
    assert "SECRET" not in reasons


def test_status_lists_the_first_rows_and_counts_all(desk):
    for number in range(REFRESH_ROWS + 1):
        desk.upload(f"{number}", b"x", EXPIRED)
    desk.work()
    refresh = status_object(take_status(desk.kit))["refresh"]
    assert (refresh["count"], len(refresh["rows"])) == (REFRESH_ROWS + 1, REFRESH_ROWS)


def test_ls_refresh_prints_exactly_the_ids_of_the_rows_that_need_a_fresh_link(desk):
    rows = wanting(desk)
    assert ls(desk).stdout.splitlines() == list(rows.values())
    assert [json.loads(line)["key"] for line in ls(desk, "--json").stdout.splitlines()] == list(rows)
    assert ls(desk, "--key", "denied").stdout.splitlines() == [rows["denied"]]


def test_ids_of_ls_refresh_find_their_rows_and_a_fresh_link_in_each_clears_the_list(desk):
    wanting(desk)
    ids = ",".join(ls(desk).stdout.split())
    with desk.application.begin() as connection:
        found = connection.execute(sa.text(f'SELECT "Id", "Name" FROM "ObjectStorageFiles" WHERE "Id" IN ({ids})')).all()
    for row in found:
        desk.origin.put(f"/fresh/{row.Name}", b"x")
        desk.refresh(row.Id, f"/fresh/{row.Name}")
    desk.work()
    assert ls(desk).stdout == ""
    assert {key: state for (key, _), state in desk.states().items() if key in {"expired", "denied", "session"}} == {
        "expired": "stored",
        "denied": "stored",
        "session": "stored",
    }


@pytest.mark.parametrize(
    ("row_id", "printed"),
    [
        ("17", "17\n"),
        ("-3", "-3\n"),
        ("0190f3c2-7f3a-7000-8000-000000000001", "'0190f3c2-7f3a-7000-8000-000000000001'\n"),
        ("\u0661\u0662", ""),
        ("1) OR (1=1", ""),
        ("\\' OR 1=1 -- ", ""),
        ("a'; DROP TABLE x; --", ""),
    ],
)
def test_ls_refresh_prints_no_id_that_could_be_more_than_one(desk, row_id, printed):
    desk.upload("a", b"x", EXPIRED)
    desk.work()
    with desk.kit.catalog.database.writing() as connection:
        connection.execute(sa.update(versions).values(source_id=row_id))
    result = ls(desk)
    assert (result.stdout, result.exit_code) == (printed, 0 if printed else 3)
    assert printed or "1 Id is not written" in result.stderr
    assert json.loads(ls(desk, "--json").stdout)["row"] == row_id
