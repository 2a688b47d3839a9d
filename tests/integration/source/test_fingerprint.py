"""That a table has changed is told by how many rows it has, the highest Id and the exact sum of all."""

import pytest

from cbk.edges.source import Fingerprint
from tests.integration.source.application import OTHER_COLUMNS

NEAR = 1_860_000_000_000_000_000


def fingerprint(count, highest, total, unaddressable=0):
    return Fingerprint(count=count, unaddressable=unaddressable, highest=highest, total=total)


def test_empty_table_has_no_highest_id(application, source):
    assert source.fingerprint() == source.deletes_fingerprint() == fingerprint(0, None, 0)


@pytest.mark.parametrize(
    "numbers", [(1, 2, 3), (-7, 5), [NEAR + number for number in range(12)], [2**63 - 1 - n for n in range(50)], [-(2**63), -1]]
)
def test_fingerprint_is_exact_for_any_numbers(application, source, numbers):
    application.replace_files_table(f'"Id" BIGINT PRIMARY KEY, {OTHER_COLUMNS}')
    application.add_rows(*numbers)

    assert source.fingerprint() == fingerprint(len(numbers), max(numbers), sum(numbers))
    assert source.sum_between(None, max(numbers)) == (len(numbers), sum(numbers))
    assert source.sum_between(min(numbers), max(numbers)) == (len(numbers) - 1, sum(numbers) - min(numbers))


def test_fingerprint_of_numbers_beyond_64_bits_is_exact(pg_application, pg_source):
    numbers = [10**38 - 1, 10**38 - 2, -(10**37), 2**64]
    pg_application.replace_files_table(f'"Id" NUMERIC(38, 0) PRIMARY KEY, {OTHER_COLUMNS}')
    pg_application.add_rows(*numbers)

    assert pg_source.fingerprint() == fingerprint(4, max(numbers), sum(numbers))
    assert pg_source.sum_between(2**64, 10**40) == (2, 2 * 10**38 - 3)


def test_sum_between_numbers_that_no_id_can_be_is_that_of_all(application, source):
    for _ in range(3):
        application.upload()

    assert source.sum_between(-(10**30), 10**30) == (3, 6)
    assert source.sum_between(10**30, 10**31) == (0, 0)


def test_fingerprint_of_the_delete_log_counts_its_own_ids(application, source):
    for file_id in (30, 20, 20):
        application.delete(file_id)

    assert source.deletes_fingerprint() == fingerprint(3, 3, 6)
    assert source.deletes_sum_between(1, 3) == (2, 5)


def test_log_without_id_counts_each_file_id_once(application, source):
    application.replace_deletes_table('"FileId" BIGINT')
    for file_id in (30, 20, 20, None):
        application.delete(file_id)

    assert source.deletes_fingerprint() == fingerprint(3, 30, 50, unaddressable=1)
    assert [row.id for row in source.deletes_after(None, 10)] == ["20", "30"]


def test_ids_that_are_no_numbers_are_counted_alone(pg_application, pg_source):
    pg_application.replace_files_table(f'"Id" uuid, {OTHER_COLUMNS}')
    pg_application.add_rows("gen_random_uuid()", "gen_random_uuid()", "NULL")

    assert pg_source.fingerprint() == fingerprint(3, None, None, unaddressable=1)


def test_rows_without_id_are_counted_among_all(application, source):
    application.replace_files_table(f'"Id" BIGINT, {OTHER_COLUMNS}')
    application.add_rows("NULL", 5, "NULL")

    assert source.fingerprint() == fingerprint(3, 5, 5, unaddressable=2)


@pytest.mark.parametrize("odd", ["2.5", "'NaN'"])
def test_numbers_that_are_not_whole_have_no_sum(pg_application, pg_source, odd):
    pg_application.replace_files_table(f'"Id" NUMERIC, {OTHER_COLUMNS}')
    pg_application.add_rows(odd, 5)

    assert pg_source.fingerprint() == fingerprint(2, None, None, unaddressable=1)


@pytest.mark.parametrize("odd", ["2.5", "'uuid'", "x'00'"])
def test_sqlite_ids_of_several_types_have_no_sum(sqlite_application, sqlite_source, odd):
    sqlite_application.replace_files_table(f'"Id" INTEGER, {OTHER_COLUMNS}')
    sqlite_application.add_rows(odd, 5)

    assert sqlite_source.fingerprint() == fingerprint(2, None, None)
