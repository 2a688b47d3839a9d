"""The bucket's inventory, compared on the Pi: from a real listing's object to what `status` and `ls` say."""

import gzip
import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from cbk.cli.main import cli
from cbk.jobs.status.status import gather_status, status_object
from cbk.rules.intake.inventory import INVENTORY_KEY
from cbk.rules.status.health import Kind
from cbk_app.inventory import write_inventory
from cbk_app.stores.store import StoredObject

BEFORE = datetime(2026, 1, 1, tzinfo=UTC)


def inventory_of(objects, *, storage="s3", prefix="", taken_at=None):
    """The bytes of an inventory of these objects: size by key."""
    taken_at = taken_at or datetime.now(UTC) + timedelta(hours=1)
    header = {"format": "cbk-inventory-1", "storage": storage, "prefix": prefix, "taken_at": taken_at.isoformat()}
    file = io.BytesIO()
    listed = (StoredObject(key=key, size=size, etag="e", modified=BEFORE) for key, size in objects.items())
    write_inventory(file, header, listed)
    return file.getvalue()


@pytest.fixture
def take(site):
    """A function that puts an inventory into the bucket, and has the kit fetch and compare it."""
    count = [0]

    def take(content):
        count[0] += 1
        content = content if isinstance(content, bytes) else inventory_of(content)
        site.upload(INVENTORY_KEY, content, version=count[0])
        site.work()
        site.poll()

    return take


def problems(site):
    """What the inventories say is wrong, by kind."""
    kinds = (Kind.UNRECORDED, Kind.ABSENT, Kind.OTHER_SIZE, Kind.INVENTORY)
    return {problem.kind: problem.message for problem in gather_status(site.context).problems if problem.kind in kinds}


def cbk(site, *arguments):
    return CliRunner().invoke(cli, arguments, env=site.environment)


def upload_three(site):
    for key in ("cars/a", "cars/b", "top"):
        site.upload(key, key.encode())
    site.work()


def test_a_bucket_that_holds_what_the_rows_say_is_no_problem(site, take):
    upload_three(site)
    take({"cars/a": 6, "cars/b": 6, "top": 3})
    assert problems(site) == {}
    assert cbk(site, "status").exit_code == 0


def test_what_the_bucket_holds_otherwise_is_counted_and_red(site, take):
    upload_three(site)
    take({"cars/a": 6, "cars/b": 7, "new/1": 1, "new/2": 2})
    assert problems(site) == {
        Kind.UNRECORDED: "2 objects in s3 have no row",
        Kind.ABSENT: "1 file of s3 has no object",
        Kind.OTHER_SIZE: "1 object in s3 is of another size than its copy",
    }
    assert cbk(site, "status").exit_code == 4


def test_objects_without_a_row_are_listed(site, take):
    upload_three(site)
    take({"cars/a": 6, "cars/b": 6, "top": 3, "new/1": 1, "new/ä\n2": 2})
    assert cbk(site, "ls", "--unrecorded").stdout.splitlines()[0] == "s3\tnew/1\t1"
    listed = [json.loads(line) for line in cbk(site, "ls", "--unrecorded", "--json").stdout.splitlines()]
    assert listed == [{"storage": "s3", "key": "new/1", "size": 1}, {"storage": "s3", "key": "new/ä\n2", "size": 2}]


def test_a_row_that_comes_later_settles_it_without_another_inventory(site, take):
    upload_three(site)
    take({"cars/a": 6, "cars/b": 6, "top": 3, "new/1": 1})
    assert set(problems(site)) == {Kind.UNRECORDED}
    site.upload("new/1", b"1")
    site.work()
    site.poll()
    assert problems(site) == {}


def test_a_delete_that_comes_later_settles_a_file_without_an_object(site, take):
    row = site.upload("cars/a", b"a")
    site.work()
    take({})
    assert set(problems(site)) == {Kind.ABSENT}
    site.delete(row)
    site.poll()
    site.poll()
    assert problems(site) == {}


def test_another_version_settles_a_size(site, take):
    site.upload("cars/a", b"a")
    site.work()
    take({"cars/a": 2})
    assert set(problems(site)) == {Kind.OTHER_SIZE}
    site.upload("cars/a", b"aa", version=2)
    site.work()
    site.poll()
    assert problems(site) == {}


def test_what_was_deleted_may_lie_there_for_a_while(site, take):
    row = site.upload("cars/a", b"a")
    site.work()
    site.delete(row)
    site.poll()
    take({"cars/a": 1})
    assert problems(site) == {}


def test_a_file_that_came_after_the_listing_is_not_missed(site, take):
    site.upload("cars/a", b"a")
    site.work()
    take(inventory_of({}, taken_at=datetime(2020, 1, 1, tzinfo=UTC)))
    assert set(problems(site)) == {Kind.INVENTORY}


def test_the_next_inventory_takes_the_place_of_the_last(site, take):
    upload_three(site)
    take({"new/1": 1})
    take({"cars/a": 6, "cars/b": 6, "top": 3})
    assert problems(site) == {}
    assert status_object(gather_status(site.context))["inventories"][0]["objects"] == 3


def test_an_inventory_of_a_part_says_nothing_of_the_rest(site, take):
    upload_three(site)
    take(inventory_of({"cars/a": 6}, prefix="cars/"))
    assert problems(site) == {Kind.ABSENT: "1 file of s3 has no object"}


def test_other_storages_are_not_mixed_up(site, take):
    site.upload("cars/a", b"a", storage="other")
    take({"cars/a": 1})
    assert problems(site) == {Kind.UNRECORDED: "1 object in s3 has no row"}


def test_an_inventory_that_is_old_is_red(site, take):
    take({})
    assert problems(site) == {}
    site.reopen(inventory_max_age="1s")
    with site.context.catalog.database.writing() as connection:
        connection.exec_driver_sql("UPDATE inventories SET as_of = as_of - 7200000")
    assert problems(site) == {Kind.INVENTORY: "the last inventory of s3 is 2 h old"}


def test_a_storage_without_any_is_said_once_and_is_not_red(site):
    upload_three(site)
    said = cbk(site, "status")
    assert said.exit_code == 0
    assert said.stdout.count("inventory   none") == 1


def lines(*values):
    return gzip.compress("".join(json.dumps(value) + "\n" for value in values).encode())


HEADER = {"format": "cbk-inventory-1", "storage": "s3", "prefix": "", "taken_at": "2026-11-30T09:00:00+00:00"}
WHOLE = lines(HEADER, ["a", 1, "e", "2026-11-01T12:00:00+00:00"], {"objects": 1})
BROKEN = {
    "no gzip": b"hello",
    "cut off": WHOLE[:-12],
    "no end": lines(HEADER, ["a", 1, "e", None]),
    "too few": lines(HEADER, ["a", 1, "e", None], {"objects": 2}),
    "more behind": lines(HEADER, {"objects": 0}, ["a", 1, "e", None]),
    "no header": lines(["a", 1, "e", None], {"objects": 1}),
    "another format": lines({**HEADER, "format": "cbk-inventory-2"}, {"objects": 0}),
    "another storage": lines({**HEADER, "storage": "other"}, {"objects": 0}),
    "no date": lines({**HEADER, "taken_at": "yesterday"}, {"objects": 0}),
    "no size": lines(HEADER, ["a", None, "e", None], {"objects": 1}),
    "nested": gzip.compress(b"[" * 60_000 + b"\n"),
    "a line without end": gzip.compress(b"x" * 1_000_000),
    "empty": gzip.compress(b""),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_an_inventory_that_makes_no_sense_is_red_and_stops_nothing(site, take, content):
    take(content)
    assert set(problems(site)) == {Kind.INVENTORY}
    site.upload("cars/a", b"a")
    site.work()
    assert site.states()["cars/a", 1] == "stored"


def test_a_good_one_after_that_mends_it(site, take):
    take(b"hello")
    take({})
    assert problems(site) == {}


def test_more_than_is_kept_by_name_is_counted(site, take, monkeypatch):
    monkeypatch.setattr("cbk.edges.catalog.intake.inventory.KEPT_FINDINGS", 3)
    take({f"new/{number}": 1 for number in range(10)})
    assert problems(site) == {Kind.UNRECORDED: "10 objects in s3 have no row"}
    assert len(cbk(site, "ls", "--unrecorded").stdout.splitlines()) == 3
    site.upload("new/0", b"1")
    site.work()
    site.poll()
    assert problems(site) == {Kind.UNRECORDED: "9 objects in s3 have no row"}
