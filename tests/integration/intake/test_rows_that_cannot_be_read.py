"""What cannot be read is not nothing: it is found within two polls, or `status` is red and says why."""

import uuid
from datetime import timedelta

import pytest
from sqlalchemy.engine import make_url

from tests.model.tables import FILES, LOG, uuid_of


@pytest.mark.parametrize("kind", ["postgresql-numbers", "postgresql-uuid"])
def test_row_level_security_that_hides_rows_is_red(tell, postgres):
    reader = f"reader_{uuid.uuid4().hex[:8]}"
    story = tell()
    run = story.app.database.run
    url = make_url(story.app.database.url)
    run(f"CREATE ROLE {reader} LOGIN PASSWORD 'secret'")
    run(f'GRANT SELECT ON "{FILES}", "{LOG}" TO {reader}')
    story.site.settings["source_url"] = url.set(username=reader, password="secret").render_as_string(hide_password=False)
    story.site.reopen()
    story.upload("a.png")
    story.rounds()
    assert not story.problems()

    run(f'ALTER TABLE "{FILES}" ENABLE ROW LEVEL SECURITY')
    story.upload("b.png")
    story.site.read_tables()
    try:
        assert "row-level security" in story.problems()
        assert story.has("a.png")
    finally:
        run(f'DROP OWNED BY "{reader}"')
        run(f'DROP ROLE "{reader}"')


@pytest.mark.parametrize("kind", ["postgresql-numbers", "postgresql-uuid"])
@pytest.mark.parametrize("style", ["German", "SQL, DMY"])
def test_dates_in_another_style_delete_nothing_that_was_created_later(tell, postgres, pg_database, style):
    story = tell()
    story.app.database.run(f"ALTER DATABASE \"{pg_database}\" SET datestyle = '{style}'")
    row = story.upload("a.png", 1)
    story.rounds()
    story.delete(row)
    story.let_time_pass(timedelta(hours=1))
    story.upload("a.png", 2)

    story.pass_grace()

    assert story.has("a.png", 2)


@pytest.mark.parametrize("kind", ["postgresql-uuid"])
def test_domain_over_uuid_is_read_within_two_polls(tell):
    story = tell()
    run = story.app.database.run
    run("CREATE DOMAIN file_id AS uuid")
    run(f'ALTER TABLE "{FILES}" ALTER COLUMN "Id" TYPE file_id')
    for number in range(20):
        story.upload(f"{number}.png")
        if number % 5 == 0:
            story.round()
    row = story.upload("deleted.png")
    story.rounds()

    assert all(story.has(f"{number}.png") for number in range(20))
    story.delete(row)
    story.pass_grace()
    assert not story.has("deleted.png")


@pytest.mark.parametrize("kind", ["untyped-uuid"])
def test_numbers_and_then_uuids_in_one_sqlite_table_are_read_or_red(tell):
    story = tell()
    story.upload("1.png", row_id=1)
    story.upload("2.png", row_id=2)
    story.rounds()
    for number in range(5):
        story.upload(f"u{number}.png", row_id=uuid_of(number + 1))
    story.site.read_tables()
    story.site.fetch_all()
    story.site.read_tables()
    story.site.fetch_all()

    assert all(story.has(f"u{number}.png") for number in range(5)) or "Id" in story.problems()


def test_files_of_declined_rows_are_counted(story):
    story.upload("a.png")
    row = story.upload("b.png")
    story.app.database.update(FILES, row.id, {"Hash": "no hash at all"})
    row.is_good = False
    story.rounds()

    counts = story.site.status().counts
    assert (counts.protected, counts.files) == (1, 2)
    assert story.problems()


def test_sqlite_number_with_a_fraction_between_whole_ones_is_backed_up_and_stops_no_poll(site):
    rows = [site.upload(f"{number}.png", b"%d" % number) for number in range(3)]
    with site.application.begin() as connection:
        connection.exec_driver_sql('CREATE TABLE free AS SELECT * FROM "ObjectStorageFiles"')
        connection.exec_driver_sql('DROP TABLE "ObjectStorageFiles"')
        connection.exec_driver_sql('ALTER TABLE free RENAME TO "ObjectStorageFiles"')
        connection.exec_driver_sql('UPDATE "ObjectStorageFiles" SET "Id" = 1.5 WHERE "Id" = ?', (rows[1],))
    site.work()
    site.poll()
    assert site.copies() == {f"car-erp/{number}/v1.gzip" for number in range(3)}
    assert site.context.catalog.facts.get("poll.problem") is None
