"""What changes at the end of a table that is too large to be read by each poll is seen by the next two polls."""

import pytest

from cbk.jobs.intake import table_reader


@pytest.fixture
def site(make_site, monkeypatch):
    """A site whose table counts as large, and whose rows have all settled."""
    monkeypatch.setattr("cbk.rules.intake.reading.ONE_PAGE", 0)
    monkeypatch.setattr("cbk.rules.intake.reading.SMALL_ROWS", 0)
    monkeypatch.setattr(table_reader, "PAGE_ROWS", 5)
    site = make_site(settle="1ms")
    for number in range(1, 31):
        site.upload(f"{number}.txt", b"%d" % number, row_id=number)
    for _ in range(3):
        site.work()
    return site


@pytest.mark.parametrize("removed", [1, 7, 20])
def test_rows_that_take_the_ids_of_removed_newest_rows_are_stored(site, removed):
    again = range(31 - removed, 31)
    for number in again:
        site.drop(number)
    for number in again:
        site.upload(f"new-{number}.txt", b"new", row_id=number)
    for _ in range(2):
        site.work()
    states = site.states()
    assert [states.get((f"new-{number}.txt", 1)) for number in again] == ["stored"] * removed
    assert len(site.copies()) == 30 + removed


def test_log_row_that_takes_the_id_of_a_removed_newest_one_is_a_delete(site):
    first = site.delete(3)
    site.poll()
    site.pass_grace()
    site.let_go()
    with site.application.begin() as connection:
        connection.exec_driver_sql('DELETE FROM "ObjectStorageDeleteLog"')
        connection.exec_driver_sql('INSERT INTO "ObjectStorageDeleteLog" ("Id", "FileId") VALUES (?, 5)', (int(first),))
    for _ in range(2):
        site.poll()
    assert [removal.row_id for removal in site.removals().values() if removal.open] == ["5"]
