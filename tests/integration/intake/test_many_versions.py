"""A file with very many versions costs no more than as many files, and is decided about as one with few is."""

import random

import pytest
import sqlalchemy as sa

from cbk.edges.catalog.database.schema import versions
from cbk.jobs.intake import rows
from cbk.jobs.intake.rows import decide_files
from cbk.rules.intake.version_selection import plan_versions

OUT_OF_REACH = ("missing", "mismatch", "expired", "declined", "failed")
MIXES = {
    "anything": ("pending", "stored", "superseded", "pruned", *OUT_OF_REACH),
    "waiting": ("pending",),
    "past": ("superseded", "superseded", "superseded", "pruned", "stored"),
    "out of reach": (*OUT_OF_REACH, "superseded"),
    "out of reach, and some wait": (*OUT_OF_REACH, "superseded", "superseded", "pending"),
}


@pytest.fixture(params=["sqlite", "postgresql"])
def site(make_site, request):
    """A site that knows one file with thirty versions, in either catalog."""
    settings = {}
    if request.param == "postgresql":
        settings = {"catalog_url": request.getfixturevalue("postgres").url(request.getfixturevalue("pg_database"))}
    site = make_site(**settings)
    for number in range(1, 31):
        site.upload("a.txt", b"%d" % number, version=number)
    site.poll()
    return site


def scatter(site, chance, states):
    """Put every version into some state."""
    lives = chance.choice([0.0, 0.05, 0.5, 1.0])
    with site.context.catalog.database.writing() as connection:
        ids = list(connection.scalars(sa.select(versions.c.id)))
        for version_id in ids:
            live = chance.random() < lives
            values = {
                "state": chance.choice(states),
                "live": live,
                "deleted": not live and chance.random() < 0.7,
                "attempts": chance.choice([0, 0, 1, 3]),
                "reason": chance.choice(["", "waits for v30, which is newer"]),
                "due_at": chance.choice([None, site.context.catalog.database.now_sql]),
            }
            connection.execute(sa.update(versions).where(versions.c.id == version_id).values(values))


@pytest.mark.parametrize("mix", MIXES)
def test_file_of_which_a_part_is_looked_at_is_decided_about_as_if_all_of_it_were(site, mix, monkeypatch):
    chance, work = random.Random(mix), site.context.catalog.work
    monkeypatch.setattr(rows, "LOOKED_AT", 3)
    left_out = 0
    for _ in range(15):
        scatter(site, chance, MIXES[mix])
        [(file_id, all_of_it)] = work.versions_of_files([1]).items()
        part, partly = work.undecided_of_files([file_id], 4)
        left_out += bool(partly)
        assert len(part[file_id]) <= len(all_of_it)
        found = sorted(decide_files(site.context, [file_id]), key=lambda each: each.version_id)
        assert found == sorted(plan_versions(all_of_it, 1), key=lambda each: each.version_id)
    assert left_out or mix == "waiting" or "reach" in mix


def test_versions_that_wait_are_not_read_again_with_each_page(make_site, monkeypatch):
    from cbk.jobs.intake import table_reader  # noqa: PLC0415 - patched here only

    monkeypatch.setattr(table_reader, "PAGE_ROWS", 50)
    site = make_site()
    for number in range(1, 201):
        site.upload("a.txt", b"", version=number)
    work, read = site.context.catalog.work, []
    undecided = work.undecided_of_files

    def count(file_ids, ranks):
        found, partly = undecided(file_ids, ranks)
        read.extend(len(listed) for listed in found.values())
        return found, partly

    monkeypatch.setattr(work, "undecided_of_files", count)
    monkeypatch.setattr(work, "versions_of_files", lambda file_ids: pytest.fail("all versions are read") if file_ids else {})
    site.poll()
    assert len(read) >= 4
    assert max(read) <= 50 + rows.LOOKED_AT + 2
