"""Everything comes back from a mirror alone: to a new backup disk, and to whoever restores."""

import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from cbk.edges.destinations import FolderDestination
from cbk.errors import MirrorError
from cbk.jobs.admin.init import initialise
from cbk.jobs.admin.rebuild import rebuild
from cbk.jobs.mirror.back import adopt_place, context_from, pull
from cbk.jobs.restore.restore import planned_restore
from cbk.jobs.retention.holds import place_hold
from cbk.rules.restore import RestoreFilter
from tests.disk import tree
from tests.integration.mirror.conftest import copies_in
from tests.integration.mirror.remotes import rclone

KEYS = ["cars/id-1/photo.png", "cars/id-1/photo.jpg", "Fotos/Straße nach Čáslav.jpeg", "../../etc/passwd", "a b/#c?.txt", "empty"]


def ignore(*_):
    pass


@pytest.fixture
def filled(make_mirrored):
    """A site with a mirror that has everything, and a file that is held."""
    mirrored = make_mirrored(keep_versions=2)
    for number, key in enumerate(KEYS):
        mirrored.site.upload(key, b"" if key == "empty" else b"content of %d" % number * 30)
    mirrored.site.work()
    mirrored.site.upload(KEYS[0], b"the second version", version=2)
    mirrored.site.work()
    place_hold(mirrored.context, "cars/id-1/", is_prefix=True, storage=None, until=None, reason="a lawsuit")
    mirrored.site.poll()
    mirrored.run(by_person=True)
    return mirrored


def restore_to(context, folder, ahead=None):
    """What `cbk restore` brings to a folder."""
    with closing(FolderDestination(folder)) as target, planned_restore(context, target, RestoreFilter(), ahead=ahead) as planned:
        failed = [result.reason for result in planned.results(ignore) if result.reason]
    assert failed == []
    return tree(folder)


def new_machine(mirrored):
    """The backup disk and the catalog are gone; the mirror is all there is."""
    site = mirrored.site
    site.context.close()
    shutil.rmtree(site.root)
    for file in site.folder.glob("catalog.db*"):
        file.unlink()
    site.reopen()
    list(initialise(site.context))


def test_a_new_machine_has_the_same_copies_files_and_holds(filled, tmp_path):
    before, copies = restore_to(filled.context, tmp_path / "before"), tree(filled.site.root)
    new_machine(filled)
    came, present = pull(filled.context, "there", tell=pytest.fail, advance=ignore)
    assert (came, present) == (len(KEYS) + 1, 0)
    rebuild(filled.context, tell=pytest.fail, advance=ignore)
    adopt_place(filled.context, "there")
    after = tree(filled.site.root)
    assert {name: content for name, content in after.items() if not name.startswith(".cbk/")} == {
        name: content for name, content in copies.items() if not name.startswith(".cbk/")
    }
    assert restore_to(filled.context, tmp_path / "after") == before
    assert [held.reason for held in filled.context.catalog.holds.all()] == ["a lawsuit"]
    # What lies on the mirror is taken as it is.
    assert filled.run().done[0].missing == 0


def test_a_pull_that_is_broken_off_goes_on(filled):
    new_machine(filled)
    pull(filled.context, "there", tell=pytest.fail, advance=ignore)
    lost = min(filled.site.copies())
    (filled.site.root / lost).unlink()
    assert pull(filled.context, "there", tell=pytest.fail, advance=ignore) == (1, len(KEYS))


def test_a_copy_that_is_bad_on_the_mirror_is_told_and_does_not_come(filled):
    location = min(filled.ledger())
    bad = filled.lies_at(location)
    bad.write_bytes(bad.read_bytes()[:-9])
    new_machine(filled)
    told = []
    came, _ = pull(filled.context, "there", tell=told.append, advance=ignore)
    assert came == len(KEYS)
    assert location not in filled.site.copies()


def test_a_restore_reads_the_mirror_where_the_backup_disk_is_empty(filled, tmp_path):
    before = restore_to(filled.context, tmp_path / "before")
    for location in filled.site.copies():
        (filled.site.root / location).unlink()
    with context_from(filled.context, "there") as (context, ahead):
        assert restore_to(context, tmp_path / "after", ahead) == before


def test_without_the_kit_restore_sh_works_on_what_is_there(filled, tmp_path, kind):
    before = restore_to(filled.context, tmp_path / "before")
    folder = filled.place
    if kind != "folder":
        folder = tmp_path / "copies"
        rclone("copy", "secret:" if kind == "crypt" else "base:", folder, config=filled.config)
    subprocess.run(["sh", folder / ".cbk" / "restore.sh", folder, tmp_path / "after"], check=True, capture_output=True)
    (tmp_path / "after" / "SHA256SUMS").unlink()
    assert tree(tmp_path / "after") == before


def test_a_mirror_that_is_away_is_named(filled):
    filled.place.rename(filled.place.parent / "away")
    with pytest.raises(MirrorError, match="there"):
        pull(filled.context, "there", tell=ignore, advance=ignore)


def test_a_pull_of_a_hostile_listing_writes_nothing_beside_the_copies(filled, kind):
    if kind != "folder":
        pytest.skip("planted in plain sight")
    planted = filled.place / "car-erp" / "v1.gzip.exe"
    planted.write_bytes(b"x")
    (filled.place / "owned.sh").write_bytes(b"x")
    new_machine(filled)
    pull(filled.context, "there", tell=ignore, advance=ignore)
    assert copies_in(filled.site.root) == filled.site.copies()
    assert not any(Path(name).suffix in {".exe", ".sh"} for name in filled.site.copies())
