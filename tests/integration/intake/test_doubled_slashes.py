"""Keys that differ in slashes alone are different files, also for a catalog of a release that took them for one."""

from datetime import timedelta
from hashlib import sha256
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from cbk.edges.destinations import FolderDestination
from cbk.jobs.admin.rebuild import rebuild
from cbk.jobs.restore.restore import planned_restore
from cbk.jobs.retention.holds import place_hold
from cbk.jobs.retention.journal import write_journal
from cbk.jobs.verification.verify import choose, verify
from cbk.model import VersionState
from cbk.rules.intake.layout import former_key
from cbk.rules.restore import RestoreFilter
from cbk_app.schema import FILES

DOUBLED, PLAIN = "cars//x.png", "cars/x.png"
OLD_PLACE = "car-erp/cars/x/v1.gzip"
HIDDEN = "car-erp/cars/%2F/x/v1.gzip"


@pytest.fixture
def earlier():
    """The kit takes keys as earlier releases did, until the function that this gives is called."""
    patch = pytest.MonkeyPatch()
    for module in ("cbk.rules.intake.rows", "cbk.edges.source.reader", "cbk.jobs.intake.names"):
        patch.setattr(f"{module}.object_key", former_key)
    yield patch.undo
    patch.undo()


def upload(site, path, name, content, *, version=1):
    """A row with Path and Name as they are given; the object is served as the bucket would."""
    at = f"/{sha256(f'{path}|{name}|{version}'.encode()).hexdigest()}"
    site.origin.put(at, content)
    with site.application.begin() as connection:
        values = {"Path": path, "Name": name, "Storage": "s3", "Version": version, "Hash": sha256(content).hexdigest()}
        made = connection.execute(sa.insert(FILES).values(values | {"SignedDownloadUrl": site.link(at)}))
        return str(made.inserted_primary_key[0])


def read_all(site):
    """A poll that reads every row, and the work that it brings."""
    site.work()
    site.work()


def restored(site, folder, **names):
    """What a restore brings, by path."""
    with planned_restore(site.context, FolderDestination(folder), RestoreFilter(**names)) as planned:
        assert not [result.reason for result in planned.results(lambda _: None) if result.reason]
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fetches(site):
    """How often anything was asked for so far."""
    with site.application.connect() as connection:
        links = connection.scalars(sa.select(FILES.c.SignedDownloadUrl))
        return sum(site.origin.count(urlsplit(link).path) for link in links)


# ---- two objects -----------------------------------------------------------------------------------------------------------------


def test_both_keys_are_live_at_once_each_with_its_own_bytes(site, tmp_path):
    upload(site, "cars//", "x.png", b"doubled")
    upload(site, "cars/", "x.png", b"plain")
    site.work()
    assert site.states() == {(DOUBLED, 1): "stored", (PLAIN, 1): "stored"}
    assert site.copies() == {HIDDEN, OLD_PLACE}
    assert restored(site, tmp_path / "out") == {"car-erp/cars/%2F/x.png": b"doubled", "car-erp/cars/x.png": b"plain"}


@pytest.mark.parametrize("deleted", [DOUBLED, PLAIN])
def test_deleting_one_leaves_the_other(site, deleted):
    ids = {DOUBLED: upload(site, "cars/", "/x.png", b"doubled"), PLAIN: upload(site, "cars/", "x.png", b"plain")}
    site.work()
    site.delete(ids[deleted])
    site.poll()
    site.pass_grace()
    site.let_go()
    (other,) = {DOUBLED, PLAIN} - {deleted}
    assert site.states() == {(deleted, 1): "pruned", (other, 1): "stored"}
    assert site.copies() == {HIDDEN if other == DOUBLED else OLD_PLACE}


@pytest.mark.parametrize(
    ("path", "name", "key"),
    [("//cars", "x", "/cars/x"), ("cars/", "folder/", "cars/folder/"), ("cars", "x//", "cars/x//"), ("/", "/x", "/x")],
)
def test_key_with_slashes_at_an_end_is_stored_named_verified_and_rebuilt(site, tmp_path, path, name, key):
    upload(site, path, name, b"bytes")
    site.work()
    assert site.states() == {(key, 1): "stored"}
    assert not verify(site.context, choose(site.context, key=f"/{key}"), by="test").found
    rebuilt(site)
    assert site.states() == {(key, 1): "stored"}
    assert list(restored(site, tmp_path / "out", key=key).values()) == [b"bytes"]


# ---- a catalog of an earlier release ---------------------------------------------------------------------------------------------


def test_file_of_an_earlier_release_gets_its_key_and_keeps_its_place_and_copy(site, tmp_path, earlier):
    upload(site, "/cars/", "/x.png", b"doubled")
    site.work()
    assert site.states() == {(PLAIN, 1): "stored"}
    before = fetches(site)
    earlier()
    read_all(site)
    assert site.states() == {(DOUBLED, 1): "stored"}
    assert site.versions()[DOUBLED, 1].live
    assert site.copies() == {OLD_PLACE}
    assert fetches(site) == before
    assert not verify(site.context, choose(site.context), by="test").found
    assert restored(site, tmp_path / "out") == {"car-erp/cars/%2F/x.png": b"doubled"}


def test_what_is_fetched_since_lies_beside_the_earlier_copies(site, earlier):
    upload(site, "cars//", "x.png", b"one")
    site.work()
    earlier()
    upload(site, "cars//", "x.png", b"two", version=2)
    site.work()
    assert site.states() == {(DOUBLED, 1): "stored", (DOUBLED, 2): "stored"}
    assert site.copies() == {OLD_PLACE, "car-erp/cars/x/v2.gzip"}
    rebuilt(site)
    assert site.states() == {(DOUBLED, 1): "stored", (DOUBLED, 2): "stored"}
    assert not verify(site.context, choose(site.context), by="test").found


def test_version_that_waited_is_fetched_after_the_upgrade(site, earlier):
    row_id = upload(site, "cars//", "x.png", b"one")
    site.poll()
    earlier()
    site.back_up(row_id)
    read_all(site)
    assert site.states() == {(DOUBLED, 1): "stored"}
    assert site.copies() == {OLD_PLACE}


def test_delete_log_row_still_finds_its_file(site, earlier):
    row_id = upload(site, "cars//", "x.png", b"doubled")
    site.work()
    earlier()
    site.delete(row_id)
    site.poll()
    site.pass_grace()
    site.let_go()
    assert site.states() == {(DOUBLED, 1): "pruned"}
    assert not site.copies()


def test_delete_that_was_noted_before_goes_on(site, earlier):
    row_id = upload(site, "cars//", "x.png", b"doubled")
    site.work()
    site.delete(row_id)
    site.poll()
    earlier()
    read_all(site)
    assert site.versions()[DOUBLED, 1].deleted
    site.pass_grace()
    site.let_go()
    assert site.states() == {(DOUBLED, 1): "pruned"}


def test_two_files_that_were_taken_for_one_become_two(site, earlier):
    upload(site, "cars/", "x.png", b"plain")
    row_id = upload(site, "cars//", "x.png", b"doubled")
    site.work()
    assert list(site.declined()) == [row_id]
    earlier()
    read_all(site)
    assert site.states() == {(DOUBLED, 1): "stored", (PLAIN, 1): "stored"}
    assert site.copies() == {OLD_PLACE, HIDDEN}
    assert not site.declined()


def test_newer_version_that_was_another_file_leaves_the_older_one_its_place(site, tmp_path, earlier):
    upload(site, "cars/", "x.png", b"plain")
    site.work()
    upload(site, "cars//", "x.png", b"doubled", version=2)
    site.work()
    earlier()
    read_all(site)
    states = site.states()
    assert (states[PLAIN, 1], states[DOUBLED, 2]) == ("stored", "stored")
    found = restored(site, tmp_path / "out")
    assert found == {"car-erp/cars/%2F/x.png": b"doubled", "car-erp/cars/x.png": b"plain"}


def test_deleted_row_of_two_that_were_taken_for_one_stays_deleted(site, earlier):
    upload(site, "cars/", "x.png", b"plain")
    site.work()
    row_id = upload(site, "cars//", "x.png", b"doubled", version=2)
    site.work()
    site.delete(row_id)
    site.poll()
    earlier()
    read_all(site)
    versions = site.versions()
    assert versions[DOUBLED, 2].deleted
    assert not versions[DOUBLED, 2].live


def test_new_object_with_doubled_slashes_does_not_take_over_a_deleted_file(site):
    row_id = upload(site, "cars/", "x.png", b"plain")
    site.work()
    site.delete(row_id)
    site.drop(row_id)
    site.poll()
    upload(site, "cars//", "x.png", b"doubled")
    site.work()
    assert site.copies() == {OLD_PLACE, HIDDEN}
    assert site.versions()[PLAIN, 1].deleted


@pytest.mark.parametrize(("held", "is_prefix"), [("cars/x.png", False), ("cars/x", True)])
def test_hold_keeps_what_it_kept(site, earlier, held, is_prefix):
    row_id = upload(site, "cars//", "x.png", b"doubled")
    site.work()
    place_hold(site.context, held, is_prefix=is_prefix, storage=None, until=None, reason="lawsuit")
    earlier()
    read_all(site)
    site.delete(row_id)
    site.poll()
    site.pass_grace()
    site.let_go()
    assert site.copies() == {OLD_PLACE}


def rebuilt(site, **options):
    """The catalog, made again from the disk."""
    write_journal(site.context, decided=True)
    site.context.catalog.close()
    for path in site.folder.glob("catalog.db*"):
        path.unlink()
    site.reopen()
    problems = []
    rebuild(site.context, tell=problems.append, advance=lambda _: None, **options)
    assert not problems


def test_catalog_that_is_made_again_fetches_nothing_anew(site, earlier):
    upload(site, "cars//", "x.png", b"doubled")
    upload(site, "//", "y.png", b"leading")
    site.work()
    earlier()
    before = fetches(site)
    rebuilt(site)
    site.work()
    assert site.states() == {(DOUBLED, 1): "stored", ("/y.png", 1): "stored"}
    assert fetches(site) == before


def test_grace_that_ran_before_runs_on_after_a_rebuild(site, earlier):
    row_id = upload(site, "cars//", "x.png", b"doubled")
    site.work()
    site.delete(row_id)
    site.poll()
    site.pass_grace(timedelta(days=3))
    due = next(iter(site.removals().values())).due_at
    write_journal(site.context)
    earlier()
    rebuilt(site)
    (removal,) = site.removals().values()
    assert removal.due_at == due
    assert site.versions()[DOUBLED, 1].deleted
    assert site.versions()[DOUBLED, 1].state is VersionState.STORED
