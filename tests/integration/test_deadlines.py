"""Links that die unfetched, and rows that wait for another link: what the catalog counts, what status and ls say of it."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from cbk.cli.main import cli
from cbk.edges.catalog.database.schema import versions
from cbk.jobs.status.status import REFRESH_ROWS, gather_status, status_object
from cbk.rules.backup.link_deadlines import Deadlines
from cbk.rules.status.health import Kind
from tests.origin import s3_error, status

MINUTE = timedelta(minutes=1)
EXPIRED = s3_error(403, "AccessDenied", "Request has expired")
DENIED = s3_error(403, "SignatureDoesNotMatch", "The request signature does not match.")
SESSION = s3_error(400, "ExpiredToken", "The provided token has expired.")


def link(site, key, dies_in):
    expires = int((datetime.now(UTC) + dies_in).timestamp())
    return f"{site.link(f'/car-erp/{key}')}&Expires={expires}&Signature=x"


def upload(site, key, dies_in, *answers):
    return site.upload(key, b"x", *answers, link=link(site, key, dies_in))


def problem(site):
    """What status says of links, how many and the kinds of all its problems."""
    problems = gather_status(site.context).problems
    (ours,) = [each for each in problems if each.kind is Kind.LINKS] or [None]
    return ours


def count(site):
    ours = problem(site)
    return int(ours.message.split()[0]) if ours else 0


def waits(site, minutes=20):
    """Everything has been due for so long."""
    with site.context.catalog.database.writing() as connection:
        since = site.context.catalog.database.later_sql(-minutes * MINUTE)
        connection.execute(sa.update(versions).where(versions.c.due_at.is_not(None)).values(due_at=since))


@pytest.fixture(params=["sqlite", "postgresql"])
def either_site(request, make_site):
    """A site with the catalog in either database."""
    if request.param == "sqlite":
        return make_site()
    postgres, name = request.getfixturevalue("postgres"), request.getfixturevalue("pg_database")
    return make_site(catalog_url=postgres.url(name))


def test_catalog_counts_links_by_the_minute_in_which_they_die(either_site):
    site = either_site
    for number, minutes in enumerate([-5, -1, 30, 30, 30, 90, 60 * 24 * 30]):
        upload(site, f"{number}", minutes * MINUTE + timedelta(seconds=1))
    site.upload("no-date", b"x")
    site.poll()
    now = site.context.catalog.database.now()
    found = site.context.catalog.links.deadlines()
    assert [number for _, number in found.dying] == [2, 3, 1]
    assert timedelta(0) <= found.dying[0][0] - now < MINUTE
    assert timedelta(0) <= now + 30 * MINUTE - found.dying[1][0] <= MINUTE
    assert now - found.waiting_since < MINUTE
    assert (found.too_late, found.stored, found.stored_last) == (0, 0, 0)


def test_links_of_deleted_files_are_not_counted(either_site):
    site = either_site
    kept = upload(site, "kept", 5 * MINUTE)
    gone = upload(site, "gone", 5 * MINUTE)
    site.poll()
    assert kept != gone
    assert sum(number for _, number in site.context.catalog.links.deadlines().dying) == 2
    site.delete(gone)
    site.poll()
    links = site.context.catalog.links
    assert sum(number for _, number in links.deadlines().dying) == 1
    assert [version.key for version, _ in links.dying(10, 10 * MINUTE)] == ["kept"]


def test_catalog_counts_what_was_stored_of_late(either_site):
    site = either_site
    for number in range(4):
        site.upload(f"{number}", b"x")
    site.work()
    with site.context.catalog.database.writing() as connection:
        ids = sorted(version.id for version in site.versions().values())
        for version_id, minutes in zip(ids, [0, 5, 14, 16], strict=True):
            moved = site.context.catalog.database.later_sql(-minutes * MINUTE)
            connection.execute(sa.update(versions).where(versions.c.id == version_id).values(stored_at=moved))
    found = site.context.catalog.links.deadlines()
    assert (found.stored, found.stored_last) == (3, 1)


def test_catalog_with_nothing_in_it_has_no_deadlines(either_site):
    nothing = Deadlines(dying=[], waiting_since=None, too_late=0, too_late_at=None, stored=0, stored_last=0)
    assert either_site.context.catalog.links.deadlines() == nothing


def test_deadlines_of_a_large_backlog_are_read_from_an_index_alone(site):
    asked = []
    sa.event.listen(site.context.catalog.engine, "before_cursor_execute", lambda *call: asked.append((call[2], call[3])))
    site.context.catalog.links.deadlines()
    by_minute, too_late, stored = [each for each in asked if "FROM versions" in each[0]]
    plans = []
    with site.context.catalog.engine.connect() as connection:
        for statement, parameters in (by_minute, too_late, stored):
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.append(" ".join(row[3] for row in rows))
    assert "COVERING INDEX ix_versions_due" in plans[0]
    assert "INDEX ix_versions_newest_state" in plans[1]
    assert "INDEX ix_versions_verified" in plans[2]


def test_link_that_dies_soon_and_is_not_fetched_is_a_problem_before_it_dies(site):
    upload(site, "soon", 3 * MINUTE)
    upload(site, "later", 60 * MINUTE)
    site.poll()
    assert problem(site).message.startswith("1 link dies before the object is fetched, the first at ")
    for row_id in site.publisher.take():
        site.back_up(row_id)
    assert count(site) == 0
    assert gather_status(site.context).is_protected


def test_links_that_die_behind_a_backlog_are_a_problem_long_before_they_die(site):
    for number in range(6):
        upload(site, f"{number}", 62 * MINUTE)
    site.poll()
    assert count(site) == 0  # how fast they are fetched is not known yet
    site.back_up(site.publisher.take()[0])
    waits(site)
    # One in a quarter of an hour is four in an hour.
    assert count(site) == 1
    assert "4 stored per hour" in problem(site).message


def test_problem_of_links_comes_before_what_waits(site):
    upload(site, "soon", MINUTE)
    site.poll()
    assert [each.kind for each in gather_status(site.context).problems] == [Kind.LINKS, Kind.PENDING]


def test_failed_version_whose_next_try_comes_after_its_link_is_dead_is_a_problem(site):
    upload(site, "a", 30 * MINUTE, status(503, retry_after="7200"))
    upload(site, "b", 180 * MINUTE, status(503, retry_after="7200"))
    site.work()
    assert count(site) == 1


def test_link_that_is_signed_anew_before_it_dies_is_no_problem_after_the_next_poll(site):
    row_id = upload(site, "a", 3 * MINUTE)
    site.poll()
    assert count(site) == 1
    due_at = site.versions()["a", 1].due_at
    site.change(row_id, SignedDownloadUrl=link(site, "a", 60 * MINUTE))
    site.poll()
    assert count(site) == 0
    version = site.versions()["a", 1]
    assert (version.state, version.due_at) == ("pending", due_at)


# Rows that wait for another link


def wanting(site):
    """Rows of each kind; gives the Ids of those whose link has to be written anew."""
    rows = {
        "expired": site.upload("expired", b"x", EXPIRED),
        "denied": site.upload("denied", b"x", DENIED),
        "session": site.upload("session", b"x", SESSION),
    }
    site.upload("stored", b"x")
    site.upload("away", b"x", status(503))
    site.upload("archived", b"x", s3_error(403, "InvalidObjectState", "The operation is not valid"))
    site.upload("missing", b"x", status(404))
    site.upload("old", b"x", EXPIRED, served_at="/car-erp/old1")
    site.upload("old", b"y", version=2, served_at="/car-erp/old2")
    site.delete(site.upload("deleted", b"x", EXPIRED))
    site.work()
    site.work()
    return rows


def ls(site, *options):
    return CliRunner().invoke(cli, ["ls", "--refresh", *options], env=site.environment)


def test_status_lists_exactly_the_rows_that_need_a_fresh_link(site):
    rows = wanting(site)
    refresh = status_object(gather_status(site.context))["refresh"]
    assert refresh["count"] == 3
    assert [row["row"] for row in refresh["rows"]] == list(rows.values())
    assert [row["key"] for row in refresh["rows"]] == list(rows)
    assert [list(row) for row in refresh["rows"]] == [["row", "storage", "key", "version", "reason"]] * 3
    reasons = " ".join(row["reason"] for row in refresh["rows"])
    assert all(part in reasons for part in ("the link expired", "refuses the link (403 SignatureDoesNotMatch)", "(ExpiredToken)"))
    assert "SECRET" not in reasons


def test_status_lists_the_first_rows_and_counts_all(site):
    for number in range(REFRESH_ROWS + 1):
        site.upload(f"{number}", b"x", EXPIRED)
    site.work()
    refresh = status_object(gather_status(site.context))["refresh"]
    assert (refresh["count"], len(refresh["rows"])) == (REFRESH_ROWS + 1, REFRESH_ROWS)


def test_ls_refresh_prints_exactly_the_ids_of_the_rows_that_need_a_fresh_link(site):
    rows = wanting(site)
    assert ls(site).stdout.splitlines() == list(rows.values())
    assert [json.loads(line)["key"] for line in ls(site, "--json").stdout.splitlines()] == list(rows)
    assert ls(site, "--key", "denied").stdout.splitlines() == [rows["denied"]]


def test_ids_of_ls_refresh_find_their_rows_and_a_fresh_link_in_each_clears_the_list(site):
    wanting(site)
    ids = ",".join(ls(site).stdout.split())
    with site.application.begin() as connection:
        found = connection.execute(sa.text(f'SELECT "Id", "Name" FROM "ObjectStorageFiles" WHERE "Id" IN ({ids})')).all()
    for row in found:
        site.origin.put(f"/fresh/{row.Name}", b"x")
        site.refresh(row.Id, f"/fresh/{row.Name}")
    site.work()
    assert ls(site).stdout == ""
    assert {key: state for (key, _), state in site.states().items() if key in {"expired", "denied", "session"}} == {
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
def test_ls_refresh_prints_no_id_that_could_be_more_than_one(site, row_id, printed):
    site.upload("a", b"x", EXPIRED)
    site.work()
    with site.context.catalog.database.writing() as connection:
        connection.execute(sa.update(versions).values(source_id=row_id))
    result = ls(site)
    assert (result.stdout, result.exit_code) == (printed, 0 if printed else 3)
    assert printed or "1 Id is not written" in result.stderr
    assert json.loads(ls(site, "--json").stdout)["row"] == row_id
