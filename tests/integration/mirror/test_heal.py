"""Damage on both sides heals from whichever side is good, and a file that is created again does not push its predecessor out."""

import gzip
import hashlib
import random
from datetime import timedelta

import pytest

from cbk.jobs.admin.rebuild import rebuild
from cbk.jobs.mirror.back import pull
from cbk.jobs.verification.verify import Task, verify
from tests.integration.mirror.conftest import copies_in
from tests.integration.mirror.remotes import rclone
from tests.integration.mirror.test_back import ignore, new_machine
from tests.origin import status

MONTH = timedelta(days=31)
KEY = "cars/id-1/photo.png"


def digests(folder):
    """SHA-256 of each copy's file in a folder."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in copies_in(folder)}


def digests_there(mirrored, folder):
    """The same of what lies on the mirror, as a person without the kit would get it."""
    if mirrored.kind == "folder":
        return digests(mirrored.place)
    rclone("copy", "secret:" if mirrored.kind == "crypt" else "base:", folder, config=mirrored.config)
    return digests(folder)


def damage(path, how):
    """A byte that turned over, an end that is missing, nothing left but the name, or not even that."""
    content = path.read_bytes()
    if how == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 0x40]) + content[middle + 1 :])
    elif how == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-20] if how == "cut" else b"")


def verify_here(mirrored):
    """All of it, as workers do in turn."""
    versions = list(mirrored.site.versions().values())
    verify(mirrored.context, Task(copies=len(versions), size=0, versions=versions), by="cbk.verify", readers=1)


def test_twenty_copies_that_are_damaged_here_and_twenty_others_there_are_all_whole_again(make_mirrored, tmp_path):
    mirrored = make_mirrored({"every": "1h", "verify_every": "1h"})
    keys = [f"cars/id-{number}/photo.png" for number in range(40)]
    contents = {key: random.Random(key).randbytes(3000) for key in keys}
    for key, content in contents.items():
        mirrored.site.upload(key, content)
    mirrored.site.work()
    mirrored.run(by_person=True)
    before, there = digests(mirrored.site.root), digests_there(mirrored, tmp_path / "before")
    assert len(before) == 40
    assert there == before
    for key, content in contents.items():
        mirrored.site.origin.put(f"/car-erp/{key}", content, status(404))
    ways = ["flipped", "cut", "empty", "gone"]
    for number, location in enumerate(sorted(before)):
        damage(mirrored.site.root / location if number % 2 else mirrored.lies_at(location), ways[number // 2 % len(ways)])
    # Workers find what is bad here, and ask the dead origin; passes do the rest.
    verify_here(mirrored)
    mirrored.site.work()
    first = mirrored.run()
    assert (first.done[0].repaired, first.done[0].bad, first.done[0].missing) == (20, 20, 0)
    assert digests(mirrored.site.root) == before
    assert digests_there(mirrored, tmp_path / "after") == before
    second = mirrored.run()
    assert (second.done[0].sent, second.done[0].bad, second.done[0].missing) == (0, 0, 0)
    assert set(mirrored.site.states().values()) == {"stored"}


# ---- created again -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def created_again(make_mirrored):
    """A file that was pruned here and is in its grace on the mirror; then the same key and number came with other bytes."""
    mirrored = make_mirrored({"every": "1h", "verify_every": "1h"}, grace_period="0s", brake_files=100)
    row = mirrored.site.upload(KEY, b"the first photo" * 20)
    mirrored.site.work()
    mirrored.run(by_person=True)
    mirrored.site.delete(row)
    mirrored.site.poll()
    mirrored.site.pass_grace()
    mirrored.site.let_go()
    assert mirrored.site.copies() == set()
    mirrored.site.upload(KEY, b"the second photo" * 20)
    mirrored.site.work()
    return mirrored


def contents_there(mirrored, folder):
    digests_there(mirrored, folder)
    folder = mirrored.place if mirrored.kind == "folder" else folder
    return sorted(gzip.decompress((folder / name).read_bytes()) for name in copies_in(folder))


BOTH = [b"the first photo" * 20, b"the second photo" * 20]


def test_a_file_that_is_created_again_does_not_push_its_predecessor_out_before_its_grace(created_again, tmp_path):
    assert created_again.run().done[0].missing == 0
    assert contents_there(created_again, tmp_path / "both") == BOTH
    assert len(created_again.ledger()) == 2
    created_again.pass_time(MONTH)
    assert created_again.run().done[0].removed == 1
    assert contents_there(created_again, tmp_path / "one") == BOTH[1:]
    assert created_again.run().done[0].missing == 0


def test_nor_where_the_ledger_was_lost(created_again, tmp_path):
    with created_again.context.catalog.database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM mirror_copies")
    assert created_again.run().done[0].missing == 0
    assert contents_there(created_again, tmp_path / "both") == BOTH


def test_what_lies_there_under_another_name_is_verified_replaced_and_comes_back(created_again, tmp_path):
    created_again.run()
    [mine] = created_again.site.copies()
    [(other, _)] = [(name, row) for name, row in created_again.ledger().items() if name != mine]
    damage(created_again.lies_at(other), "flipped")
    passed = created_again.run()
    assert (passed.done[0].bad, passed.done[0].missing) == (1, 0)
    assert contents_there(created_again, tmp_path / "both") == BOTH
    before = (created_again.site.root / mine).read_bytes()
    created_again.site.origin.put(f"/car-erp/{KEY}", b"", status(404))
    damage(created_again.site.root / mine, "cut")
    verify_here(created_again)
    created_again.site.work()
    assert created_again.run().done[0].repaired == 1
    assert (created_again.site.root / mine).read_bytes() == before


def test_a_new_machine_has_the_file_that_was_created_again(created_again):
    created_again.run()
    new_machine(created_again)
    pull(created_again.context, "there", tell=pytest.fail, advance=ignore)
    rebuild(created_again.context, tell=ignore, advance=ignore)
    stored = [version for version in created_again.context.catalog.report.versions() if version.state.value == "stored"]
    assert hashlib.sha256(BOTH[1]).hexdigest() in {version.sha256 for version in stored}
