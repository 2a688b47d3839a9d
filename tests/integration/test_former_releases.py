"""A catalog and a disk that former releases wrote are migrated, verified, restored and rebuilt by this one (tests/data/former)."""

import json
import shutil
import sqlite3
import tarfile
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner

from cbk.cli.main import cli
from cbk.errors import CatalogOutdated
from cbk.jobs.context import open_context
from cbk.rules.intake.layout import location_of
from cbk.settings import Settings
from tests.in_process_site import InProcessSite

FORMER = Path(__file__).parents[1] / "data/former"
REVISIONS = ["0001", "0004"]


class Former:
    """What a former release left in `folder`, as it says itself."""

    def __init__(self, folder, revision):
        self.folder = folder
        self.root = folder / "backups"
        with tarfile.open(FORMER / f"{revision}.tar.gz") as archive:
            archive.extractall(folder, filter="data")

    def ask(self, database, statement):
        with closing(sqlite3.connect(self.folder / database)) as connection:
            return connection.execute(statement).fetchall()

    def states(self):
        asked = "SELECT key, number, state FROM versions JOIN files ON files.id = file_id"
        return {(key, number): state for key, number, state in self.ask("catalog.db", asked)}

    def stored(self):
        """The (key, number) of every copy, by the keys that this release has for them once it has read the rows."""
        taken = {name for name, state in self.states().items() if state == "stored"}
        # Former releases made one slash of two, and so took `a//b.txt` for this.
        return {("a//b.txt" if key == "a/b.txt" else key, number) for key, number in taken}

    def places(self):
        return dict(self.ask("catalog.db", "SELECT key, place FROM files"))

    def hashes(self):
        """By the application's rows: the SHA-256 of the newest version of each key that has a copy."""
        stored = {key for (key, _), state in self.states().items() if state == "stored"}
        rows = self.ask("app.db", 'SELECT "Path" || "Name", "Hash" FROM "ObjectStorageFiles" ORDER BY "Version"')
        by_name = {key.lstrip("/"): digest for key, digest in rows}
        return sorted(digest for name, digest in by_name.items() if name in stored or "//" in name)

    def copies(self):
        files = (path for path in self.root.rglob("*") if path.is_file() and ".cbk" not in path.parts)
        return {str(path.relative_to(self.root)): path.read_bytes() for path in files}


@pytest.fixture(params=REVISIONS)
def former(request, tmp_path):
    return Former(tmp_path, request.param)


@pytest.fixture
def site(former, origin):
    """This release, on what was left: the catalog is migrated."""
    site = InProcessSite(former.folder, origin, trash="30d", keep_versions=2)
    yield site
    site.close()


@pytest.fixture
def run(former, monkeypatch):
    """A function that runs a command of this release there."""
    for name, value in {
        "CBK_SOURCE_URL": f"sqlite:///{former.folder}/app.db",
        "CBK_CATALOG_URL": f"sqlite:///{former.folder}/catalog.db",
        "CBK_BACKUP_ROOT": str(former.root),
        "CBK_BUCKETS": '{"s3": "car-erp"}',
    }.items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: CliRunner().invoke(cli, [str(argument) for argument in arguments])


def contents(folder):
    return sorted(sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file())


def restored(run, out):
    """Restore all there is; what fails is only what never had a copy."""
    done = run("restore", "--to", out)
    failed = [line for line in done.output.splitlines() if line.startswith("failed: ")]
    assert done.exit_code == (3 if failed else 0), done.output
    assert all("has no copy: it is" in line for line in failed), done.output


def test_catalog_of_an_older_release_is_refused_in_words_until_it_is_migrated(former):
    settings = Settings(
        source_url=f"sqlite:///{former.folder}/app.db",
        catalog_url=f"sqlite:///{former.folder}/catalog.db",
        backup_root=str(former.root),
    )
    context = open_context(settings)
    with pytest.raises(CatalogOutdated, match="of an older release") as refused:
        context.catalog.require_current()
    assert "cbk upgrade" in refused.value.hint
    context.close()


def test_every_version_is_after_the_migration_what_it_was_before(former, origin):
    before, places, copies = former.states(), former.places(), former.copies()
    site = InProcessSite(former.folder, origin)
    site.context.catalog.require_current()
    assert site.states() == before
    assert {version.key: version.place for version in site.versions().values()} == places
    stored = {location_of(version) for version in site.versions().values() if version.state == "stored"}
    assert (stored, former.copies()) == (set(copies), copies)
    site.close()


def test_poll_after_the_migration_fetches_nothing_again_and_lets_nothing_go(former, site):
    states, stored, copies = former.states(), former.stored(), former.copies()
    site.poll()
    waiting = {key for (key, _), state in states.items() if state in {"pending", "missing"}}
    by_id = dict(former.ask("app.db", 'SELECT CAST("Id" AS TEXT), "Path" || "Name" FROM "ObjectStorageFiles"'))
    assert {by_id[row_id] for row_id in site.publisher.take()} <= waiting
    assert former.copies() == copies
    assert {name for name, state in site.states().items() if state == "stored"} == stored


def test_every_copy_is_verified_by_this_release(former, run):
    assert run("upgrade").exit_code == 0
    done = run("verify", "--json")
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (done.exit_code, summary["copies"], summary["found"]) == (0, len(former.copies()), 0), done.output


def test_every_file_is_restored_by_this_release(former, run, tmp_path):
    hashes = former.hashes()
    assert run("upgrade").exit_code == 0
    restored(run, tmp_path / "out")
    assert contents(tmp_path / "out") == hashes


def test_every_copy_is_taken_in_again_where_the_catalog_is_lost(former, run, tmp_path):
    hashes, places, stored = former.hashes(), set(former.places().values()), former.stored()
    (former.folder / "catalog.db").unlink()
    done = run("rebuild")
    assert done.exit_code == 0, done.output
    assert {name for name, state in former.states().items() if state == "stored"} == stored
    assert set(former.places().values()) <= places
    restored(run, tmp_path / "out")
    assert contents(tmp_path / "out") == hashes


def test_migration_keeps_a_copy_that_the_former_release_can_have_back(former, run):
    before = former.states()
    revision = revision_of(former)
    assert run("upgrade").exit_code == 0
    shutil.copy(former.folder / f"catalog.db.{revision}", former.folder / "catalog.db")
    assert (former.states(), revision_of(former)) == (before, revision)


def revision_of(former):
    return former.ask("catalog.db", "SELECT version_num FROM alembic_version")[0][0]


@pytest.mark.parametrize("former", ["0004"], indirect=True)
def test_removal_in_its_grace_is_due_when_it_was_and_a_hold_still_holds(former, origin):
    asked = "SELECT delete_id, first_seen_at, due_at FROM removals WHERE outcome = '' ORDER BY delete_id"
    before = former.ask("catalog.db", asked)
    site = InProcessSite(former.folder, origin)
    assert former.ask("catalog.db", asked) == before
    assert len(before) == 2
    site.poll()
    site.pass_grace()
    site.let_go()
    site.let_go()
    assert site.states()["gone/in-grace.txt", 1] == "pruned"
    assert site.states()["contracts/held.txt", 1] == "stored"
    site.close()


@pytest.mark.parametrize("former", ["0004"], indirect=True)
def test_pruned_copy_in_the_trash_comes_back(former, run):
    assert run("upgrade").exit_code == 0
    done = run("undelete", "gone/pruned.txt")
    assert done.exit_code == 0, done.output
    assert former.states()["gone/pruned.txt", 1] == "stored"


@pytest.mark.parametrize("arguments", [("status",), ("ls",), ("upgrade",), ("init",), ("verify",), ("rebuild",)], ids=" ".join)
@pytest.mark.parametrize("former", ["0004"], indirect=True)
def test_catalog_of_a_newer_release_is_refused_in_words_and_left_as_it_is(former, run, arguments):
    with closing(sqlite3.connect(former.folder / "catalog.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9001'")
        connection.commit()
    before = former.states()
    done = run(*arguments)
    assert isinstance(done.exception, CatalogOutdated)
    assert "of a newer release (revision 9001" in done.exception.message
    assert "install the newer release again" in done.exception.hint
    assert (former.states(), revision_of(former)) == (before, "9001")
