"""Looking into folders, on SQLite and on PostgreSQL."""

import pytest
import sqlalchemy as sa

from cbk.edges.catalog import Catalog, Place
from cbk.edges.catalog.database.schema import files, versions
from cbk.edges.catalog.intake.intake import name_digest, place_digest


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog(request, tmp_path):
    url = f"sqlite:///{tmp_path}/catalog.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").url(request.getfixturevalue("pg_database"))
    catalog = Catalog(url, holder="one")
    catalog.upgrade()
    yield catalog
    catalog.close()


def add(catalog, *keys, bucket="b", storage="s3"):
    rows = [
        {
            "storage": storage,
            "key": key,
            "bucket": bucket,
            "place": f"{bucket}/{key}",
            "name_digest": name_digest(storage, key),
            "place_digest": place_digest(f"{storage}/{bucket}/{key}"),
        }
        for key in keys
    ]
    with catalog.database.writing() as connection:
        connection.execute(sa.insert(files), rows)
        newest = sa.select(
            files.c.id, sa.literal(1), sa.literal("1"), sa.literal(b"\1" * 32), sa.literal("stored"), sa.true(), sa.literal(0)
        ).where(files.c.id.not_in(sa.select(versions.c.file_id)))
        columns = ("file_id", "number", "source_id", "sha256", "state", "newest", "first_seen_at")
        connection.execute(sa.insert(versions).from_select(columns, newest))


def names(catalog, folder="", *, bucket="b", **more):
    return [entry.name for entry in catalog.folders.look_into(bucket, folder, **more).entries]


def all_pages(catalog, folder, *, limit):
    found, start = [], None
    while True:
        listing = catalog.folders.look_into("b", folder, start=start, limit=limit)
        found.append([entry.name for entry in listing.entries])
        start = listing.following
        if start is None:
            return found


def flat(pages):
    return [name for page in pages for name in page]


def test_folder_holds_its_files_and_the_folders_below_it_once(catalog):
    add(catalog, "a.txt", "cars/1/x", "cars/1/y", "cars/2/x", "cars/z", "zoo")
    assert names(catalog) == ["a.txt", "cars/", "zoo"]
    assert names(catalog, "cars/") == ["1/", "2/", "z"]


def test_file_and_folder_of_one_name_are_both_there(catalog):
    add(catalog, "a", "a/b", "a.txt", "a0")
    assert names(catalog) == ["a", "a.txt", "a/", "a0"]


def test_buckets_do_not_mix(catalog):
    add(catalog, "x", bucket="b")
    add(catalog, "y", bucket="c")
    assert names(catalog) == ["x"]
    assert names(catalog, bucket="c") == ["y"]
    assert names(catalog, bucket="d") == []


def test_file_comes_with_its_newest_version(catalog):
    add(catalog, "x")
    [entry] = catalog.folders.look_into("b", "").entries
    assert (entry.newest.key, entry.newest.state, entry.newest.file_id) == ("x", "stored", entry.file_id)


def test_pages_follow_one_another_without_a_gap_or_a_double(catalog):
    keys = [f"{folder}/{name}" for folder in "abc" for name in range(3)] + ["a", "aa", "b!", "d", "e/f/g"]
    add(catalog, *keys)
    [whole] = all_pages(catalog, "", limit=1000)
    assert whole == ["a", "a/", "aa", "b!", "b/", "c/", "d", "e/"]
    for limit in (1, 2, 3):
        assert flat(all_pages(catalog, "", limit=limit)) == whole


def test_one_key_in_two_storages_of_a_bucket_is_two_files(catalog):
    add(catalog, "x", "y")
    add(catalog, "x", storage="azure")
    assert all_pages(catalog, "", limit=1) == [["x"], ["x"], ["y"]]


HOSTILE = ["\0", "..", "a b%20&?#", "'quoted\"", "<b>", "ünï", "日本", "\U0001f600", "\ud800", "\uf8ff", " ", "\u202egnp.exe"]


@pytest.mark.parametrize("limit", [1, 5, 100])
def test_names_of_any_kind_are_found_in_their_folders(catalog, limit):
    add(catalog, *(f"{name}/{inner}" for name in HOSTILE for inner in HOSTILE))
    assert sorted(flat(all_pages(catalog, "", limit=limit))) == sorted(f"{name}/" for name in HOSTILE)
    assert sorted(flat(all_pages(catalog, "\0/", limit=limit))) == sorted(HOSTILE)
    assert sorted(flat(all_pages(catalog, "\ud800/", limit=limit))) == sorted(HOSTILE)


def test_empty_names_and_folders_of_empty_names_are_found(catalog):
    add(catalog, "a/", "a//", "a//b")
    assert (names(catalog), names(catalog, "a/"), names(catalog, "a//")) == (["a/"], ["", "/"], ["", "b"])


def test_keys_that_are_alike_for_longer_than_the_index_knows_are_told_apart(catalog):
    long = "ü" * 1000 + "/"
    add(catalog, *(long + name for name in ("c", "a", "b/x", "b/y", "d")))
    assert all_pages(catalog, long, limit=2) == [["a", "b/"], ["c", "d"]]


def test_listing_begins_where_it_is_told_to(catalog):
    add(catalog, "a", "b/x", "c")
    assert names(catalog, start=Place(key="b")) == ["b/", "c"]
    assert names(catalog, "b/", start=Place(key="a")) == ["x"]


def test_what_lies_below_a_subfolder_is_jumped_over(catalog):
    add(catalog, *(f"{folder}/{number}" for folder in "ab" for number in range(3000)))
    read = []

    def count(_connection, cursor, _statement, *_):
        read.append(cursor)

    sa.event.listen(catalog.engine, "after_cursor_execute", count)
    assert names(catalog) == ["a/", "b/"]
    assert len(read) < 10


def test_listing_goes_by_the_index(catalog):
    add(catalog, *(f"{number}" for number in range(3000)))
    query = catalog.folders._from("b", Place(key="2"))
    is_sqlite = catalog.engine.dialect.name == "sqlite"
    with catalog.engine.begin() as connection:
        if not is_sqlite:
            connection.exec_driver_sql("ANALYZE files")
        text = query.compile(connection, compile_kwargs={"literal_binds": True})
        plan = connection.exec_driver_sql(f"EXPLAIN {'QUERY PLAN' if is_sqlite else ''} {text}".replace("%", "%%")).all()
    assert "ix_files_folder" in str(plan)
    assert "TEMP B-TREE" not in str(plan)
