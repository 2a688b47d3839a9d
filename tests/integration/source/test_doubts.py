"""Rows that are there and are not read are named, with what to do."""

import pytest

from tests.integration.source.application import OTHER_COLUMNS

FILES = '"ObjectStorageFiles"'
ENABLE = f"ALTER TABLE {FILES} ENABLE ROW LEVEL SECURITY"


def reader_of(application):
    return f'"{application.reader_url.partition("//")[2].partition(":")[0]}"'


def kinds(source):
    return [doubt.kind for doubt in source.unreadable()]


def test_nothing_is_hidden_where_nothing_hides(application, source):
    application.upload()

    assert source.unreadable() == []
    assert source.duplicates() == []


def test_row_level_security_without_a_policy_hides_all(pg_application, pg_source):
    pg_application.upload()
    pg_application.run(ENABLE)

    (doubt,) = pg_source.unreadable()

    role = reader_of(pg_application).strip('"')
    assert pg_source.rows_after(None, 10) == []
    assert doubt.kind == "row-security"
    assert doubt.message == f'row-level security hides rows of "ObjectStorageFiles" from {role}'
    pg_application.run(doubt.hint)
    assert pg_source.unreadable() == []
    assert len(pg_source.rows_after(None, 10)) == 1


@pytest.mark.parametrize(
    ("policy", "hides"),
    [
        ("FOR SELECT USING (true)", False),
        ("FOR ALL USING (true)", False),
        ("FOR SELECT TO {reader} USING (true)", False),
        ('FOR SELECT TO {reader} USING ("Version" > 0)', True),
        ("FOR SELECT TO postgres USING (true)", True),
        ("FOR UPDATE USING (true)", True),
        ("AS RESTRICTIVE FOR SELECT USING (true)", True),
    ],
)
def test_policy_hides_rows_unless_it_shows_all(pg_application, pg_source, policy, hides):
    pg_application.run(ENABLE)
    pg_application.run(f"CREATE POLICY p ON {FILES} {policy.format(reader=reader_of(pg_application))}")

    assert kinds(pg_source) == ["row-security"] * hides


@pytest.mark.parametrize(("condition", "hides"), [("true", False), ('"Version" > 1', True)])
def test_restrictive_policy_beside_one_that_shows_all_hides(pg_application, pg_source, condition, hides):
    pg_application.run(ENABLE)
    pg_application.run(f"CREATE POLICY all_rows ON {FILES} USING (true)")
    pg_application.run(f"CREATE POLICY fewer ON {FILES} AS RESTRICTIVE USING ({condition})")

    assert kinds(pg_source) == ["row-security"] * hides


def test_policy_for_a_role_that_the_reader_has_shows_all(pg_application, pg_source):
    pg_application.run(ENABLE)
    pg_application.run(f"CREATE ROLE readers_of_all; GRANT readers_of_all TO {reader_of(pg_application)}")
    pg_application.run(f"CREATE POLICY p ON {FILES} TO readers_of_all USING (true)")

    hidden = kinds(pg_source)

    pg_application.run("DROP POLICY p ON " + FILES + "; DROP ROLE readers_of_all")
    assert hidden == []


def test_role_that_bypasses_row_level_security_sees_all(pg_application, pg_source):
    pg_application.run(ENABLE)
    pg_application.run(f"ALTER ROLE {reader_of(pg_application)} BYPASSRLS")

    assert kinds(pg_source) == []


def test_row_level_security_of_the_delete_log_is_named(pg_application, pg_source):
    pg_application.run('ALTER TABLE "ObjectStorageDeleteLog" ENABLE ROW LEVEL SECURITY')

    assert [doubt.message.partition(" from")[0] for doubt in pg_source.unreadable()] == [
        'row-level security hides rows of "ObjectStorageDeleteLog"'
    ]


@pytest.mark.parametrize("views", [1, 2])
def test_row_level_security_behind_views_of_the_readers_rights_is_named(pg_application, pg_source, views):
    pg_application.run(f'ALTER TABLE {FILES} RENAME TO "uploads"')
    pg_application.run('ALTER TABLE "uploads" ENABLE ROW LEVEL SECURITY')
    below = '"uploads"'
    for name in ['"between"', FILES][2 - views :]:
        pg_application.run(f"CREATE VIEW {name} WITH (security_invoker = true) AS SELECT * FROM {below}")
        below = name
    pg_application.let_read()

    (doubt,) = pg_source.unreadable()

    assert 'hides rows of "uploads", which "ObjectStorageFiles" shows, from reader_' in doubt.message
    pg_application.run(doubt.hint)
    assert pg_source.unreadable() == []


def test_view_of_who_sees_all_hides_nothing(pg_application, pg_source):
    pg_application.run(f'ALTER TABLE {FILES} RENAME TO "uploads"')
    pg_application.run('ALTER TABLE "uploads" ENABLE ROW LEVEL SECURITY')
    pg_application.run(f'CREATE VIEW {FILES} AS SELECT * FROM "uploads"')
    pg_application.let_read()

    assert kinds(pg_source) == []


def test_row_without_id_is_named_with_its_column(application, source):
    application.replace_files_table(f'"Id" INTEGER, {OTHER_COLUMNS}')
    application.add_rows("NULL", 1)

    (doubt,) = source.unreadable()

    assert (doubt.kind, doubt.message) == ("no-id", '1 row of "ObjectStorageFiles" cannot be read: "Id" is NULL')


def test_number_that_is_not_whole_is_named_with_its_column(pg_application, pg_source):
    pg_application.replace_files_table(f'"Id" NUMERIC PRIMARY KEY, {OTHER_COLUMNS}')
    pg_application.add_rows("1.5", 1, "'NaN'")

    (doubt,) = pg_source.unreadable()

    assert (doubt.kind, doubt.message) == ("odd-id", '2 rows of "ObjectStorageFiles" cannot be read: "Id" is no whole number')


def test_ids_that_rows_share_are_named(application, source):
    application.replace_files_table(f'"Id" INTEGER, {OTHER_COLUMNS}')
    application.add_rows(1, 1, 2, 2, 2, 3)

    (doubt,) = source.duplicates()

    assert (doubt.kind, doubt.message) == ("duplicate-id", 'several rows of "ObjectStorageFiles" have the same Id: 2 Ids')
