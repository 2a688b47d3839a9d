"""A pass of a mirror: a folder, a remote, and a remote that is encrypted."""

from datetime import timedelta

import pytest

from cbk.errors import MirrorError
from cbk.model import VersionState
from tests.integration.mirror.conftest import copies_in

MONTH = timedelta(days=31)


def fill(site, count=5):
    rows = [site.upload(f"cars/id-{number}/photo.png", b"content of %d" % number * 20) for number in range(count)]
    site.work()
    return rows


def test_every_stored_copy_arrives_and_is_in_the_ledger(mirrored):
    fill(mirrored.site)
    passed = mirrored.run(by_person=True)
    assert (passed.done[0].sent, passed.done[0].missing, passed.done[0].problems) == (5, 0, [])
    assert mirrored.ledger().keys() == mirrored.site.copies()
    assert mirrored.standing()[0].held == 5


def test_a_second_pass_sends_nothing_and_what_is_new_goes_with_the_next(mirrored):
    fill(mirrored.site)
    mirrored.run(by_person=True)
    assert mirrored.run().done[0].sent == 0
    mirrored.site.upload("new.txt", b"new")
    mirrored.site.work()
    assert mirrored.run().done[0].sent == 1


def test_a_folder_holds_the_same_files_as_the_backup_disk(mirrored, kind):
    if kind == "crypt":
        pytest.skip("what lies there is encrypted")
    fill(mirrored.site)
    mirrored.run(by_person=True)
    assert copies_in(mirrored.place) == mirrored.site.copies()
    assert all((mirrored.place / name).read_bytes() == (mirrored.site.root / name).read_bytes() for name in mirrored.site.copies())
    assert {"README.txt", "restore.sh", "MIRROR.txt"} <= {path.name for path in (mirrored.place / ".cbk").iterdir()}


def test_what_arrived_without_a_record_is_recorded_by_the_next_pass(mirrored):
    """A kill between bytes and record."""
    fill(mirrored.site)
    mirrored.run(by_person=True)
    with mirrored.context.catalog.database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM mirror_copies")
    assert mirrored.run().done[0].missing == 0
    assert mirrored.ledger().keys() == mirrored.site.copies()


def test_a_copy_that_is_bad_here_does_not_go_there(mirrored):
    fill(mirrored.site)
    bad = min(mirrored.site.copies())
    (mirrored.site.root / bad).write_bytes(b"rubbish")
    passed = mirrored.run(by_person=True)
    assert passed.done[0].sent == 4
    assert len(passed.done[0].problems) == 1
    assert bad not in mirrored.ledger()
    # It was found out, put aside, and is fetched again.
    assert [version.state for version in mirrored.site.versions().values()].count(VersionState.PENDING) == 1


def test_a_pruned_copy_stays_there_for_the_mirrors_own_grace(make_mirrored):
    mirrored = make_mirrored(grace_period="0s", brake_files=100)
    rows = fill(mirrored.site)
    mirrored.run(by_person=True)
    mirrored.site.delete(rows[0])
    mirrored.site.poll()
    mirrored.site.pass_grace()
    mirrored.site.let_go()
    assert len(mirrored.site.copies()) == 4
    assert mirrored.run().done[0].removed == 0
    mirrored.pass_time(timedelta(days=29))
    assert mirrored.run().done[0].removed == 0
    mirrored.pass_time(timedelta(days=2))
    assert mirrored.run().done[0].removed == 1
    assert mirrored.ledger().keys() == mirrored.site.copies()


def test_what_an_attacker_has_pruned_stays_there_and_many_at_once_wait_for_a_person(make_mirrored):
    mirrored = make_mirrored(grace_period="0s", brake_files=1000)
    rows = fill(mirrored.site, 6)
    mirrored.run(by_person=True)
    for row in rows[:4]:
        mirrored.site.delete(row)
    mirrored.site.poll()
    mirrored.site.pass_grace()
    mirrored.site.let_go()
    assert len(mirrored.site.copies()) == 2
    mirrored.site.reopen(brake_files=1)
    mirrored.run()
    mirrored.pass_time(MONTH)
    passed = mirrored.run()
    assert (passed.done[0].removed, passed.done[0].braked) == (0, 4)
    assert len(mirrored.ledger()) == 6
    mirrored.context.catalog.mirrors.approve("there", mirrored.context.catalog.database.now())
    assert mirrored.run().done[0].removed == 4


def test_an_append_only_mirror_removes_nothing(make_mirrored):
    mirrored = make_mirrored({"append_only": True}, grace_period="0s")
    rows = fill(mirrored.site)
    mirrored.run(by_person=True)
    mirrored.site.delete(rows[0])
    mirrored.site.poll()
    mirrored.site.pass_grace()
    mirrored.site.let_go()
    mirrored.run()
    mirrored.pass_time(MONTH)
    assert mirrored.run().done[0].removed == 0
    assert len(mirrored.ledger()) == 5


def test_a_version_that_comes_back_ends_its_grace(make_mirrored):
    mirrored = make_mirrored(grace_period="0s", trash="7d")
    rows = fill(mirrored.site)
    mirrored.run(by_person=True)
    mirrored.site.delete(rows[0])
    mirrored.site.poll()
    mirrored.site.pass_grace()
    mirrored.site.let_go()
    mirrored.run()
    assert any(row.gone_at is not None for row in mirrored.ledger().values())
    with mirrored.context.catalog.database.writing() as connection:
        connection.exec_driver_sql("UPDATE versions SET state = 'stored' WHERE state = 'pruned'")
    mirrored.run()
    assert not any(row.gone_at is not None for row in mirrored.ledger().values())


def test_a_copy_that_is_bad_there_is_replaced_from_here(make_mirrored):
    mirrored = make_mirrored({"every": "1h", "verify_every": "1h"})
    fill(mirrored.site)
    mirrored.run(by_person=True)
    victims = [mirrored.lies_at(location) for location in sorted(mirrored.ledger())[:2]]
    victims[0].write_bytes(b"x" * victims[0].stat().st_size)
    victims[1].unlink()
    passed = mirrored.run()
    assert passed.done[0].missing == 0
    assert passed.done[0].verified >= 5
    assert mirrored.run().done[0].bad == 0


def test_a_lost_copy_whose_link_is_dead_comes_back_from_there(mirrored):
    fill(mirrored.site)
    mirrored.run(by_person=True)
    lost = min(mirrored.site.copies())
    content = (mirrored.site.root / lost).read_bytes()
    (mirrored.site.root / lost).write_bytes(content[:50])
    with mirrored.context.catalog.database.writing() as connection:
        connection.exec_driver_sql("UPDATE versions SET state = 'expired', due_at = NULL WHERE id = 1")
    assert mirrored.run().done[0].repaired == 1
    assert mirrored.site.states()["cars/id-0/photo.png", 1] == "stored"
    assert (mirrored.site.root / lost).read_bytes() == content


def test_nothing_goes_to_a_folder_that_nobody_prepared(make_mirrored, kind):
    if kind != "folder":
        pytest.skip("only a folder can be a disk that is not mounted")
    mirrored = make_mirrored()
    fill(mirrored.site)
    with pytest.raises(MirrorError, match="mount point"):
        mirrored.run()
    assert copies_in(mirrored.place) == set()
    assert mirrored.site.fact("mirror.there.problem")


def test_an_empty_folder_where_a_disk_was_takes_nothing(make_mirrored, kind):
    if kind != "folder":
        pytest.skip("only a folder can be a disk that is not mounted")
    mirrored = make_mirrored()
    fill(mirrored.site)
    mirrored.run(by_person=True)
    mirrored.place.rename(mirrored.place.parent / "away")
    mirrored.place.mkdir()
    with pytest.raises(MirrorError, match="no disk of this mirror"):
        mirrored.run(by_person=True)
    assert copies_in(mirrored.place) == set()


def test_remote_of_which_nothing_can_be_decrypted_is_away_and_no_copy_is_called_bad(make_mirrored, kind):
    if kind != "crypt":
        pytest.skip("what lies there is in plain text")
    mirrored = make_mirrored({"every": "1h", "verify_every": "1h"})
    fill(mirrored.site)
    mirrored.run(by_person=True)
    for location in mirrored.ledger():
        lies_at = mirrored.lies_at(location)
        lies_at.write_bytes(b"x" * lies_at.stat().st_size)
    passed = mirrored.run()
    assert ["nothing of what lies there can be decrypted" in reason for reason in passed.failed] == [True]
    assert [each.bad for each in passed.done] == [0]
