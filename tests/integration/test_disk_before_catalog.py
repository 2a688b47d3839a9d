"""What a person reads when disk or catalog are away, and that what the words tell to do makes it well and never worse."""

import os
from contextlib import closing

import pytest
from click.testing import CliRunner

from cbk.cli.main import cli
from cbk.edges import host
from cbk.errors import CatalogDamaged, CatalogMissing, CatalogOutdated, CbkError, RootMissing
from cbk.jobs.admin.init import initialise, require_own_disk
from cbk.jobs.context import open_context
from cbk.jobs.status.status import gather_status
from cbk.settings import Settings
from tests.in_process_site import InProcessSite
from tests.origin import Origin

LOOKS = (
    ["upgrade"],
    ["status"],
    ["ls"],
    ["history", "a.txt"],
    ["verify"],
    ["prune", "--plan"],
    ["hold", "--list"],
    ["restore", "--to", "out"],
)


@pytest.fixture
def site(tmp_path):
    """A site whose catalog lies on its disk, as it does by default, with one file."""
    with (
        Origin() as origin,
        closing(InProcessSite(tmp_path, origin, catalog_url=f"sqlite:///{tmp_path}/backups/.cbk/catalog.db")) as site,
    ):
        site.upload("a.txt", b"a")
        site.poll()
        site.work()
        yield site


@pytest.fixture
def run(site, monkeypatch, tmp_path):
    """A function that runs a `cbk` command on the site; gives its exit code and all that it says."""
    for name in [name for name in os.environ if name.startswith("CBK_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        done = CliRunner().invoke(cli, arguments, env=site.environment)
        said = done.output
        if isinstance(done.exception, CbkError):
            said += f"{done.exception.message}\n{done.exception.hint}"
        return done.exit_code, said

    return run


def everything_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def unmount(site):
    """As when the disk is not plugged in: an empty folder is left."""
    site.context.close()
    site.root.rename(site.folder / "unplugged")
    site.root.mkdir()


def mount(site):
    site.root.rmdir()
    (site.folder / "unplugged").rename(site.root)


@pytest.mark.parametrize("command", LOOKS, ids=lambda command: command[0])
def test_unmounted_disk_is_named_before_any_catalog_and_nothing_is_made(site, run, command):
    unmount(site)
    code, said = run(*command)
    assert code == 1
    assert f"no backup disk is mounted at {site.root}" in said
    assert everything_below(site.root) == []


def test_init_where_the_disk_is_not_mounted_is_refused_and_mounting_makes_it_well(site, run):
    unmount(site)
    code, said = run("init")
    assert (code, "--on-system-disk" in said) == (1, True)
    assert everything_below(site.root) == []
    mount(site)
    assert run("init")[0] == 0
    assert "1 of 1 file" in run("status")[1]


def test_init_says_yes_to_the_systems_disk_by_option_and_by_setting(site, run, tmp_path):
    site.settings |= {"backup_root": str(tmp_path / "other"), "catalog_url": f"sqlite:///{tmp_path}/other/.cbk/catalog.db"}
    assert run("init")[0] == 1
    assert run("init", "--on-system-disk")[0] == 0
    assert run("init")[0] == 0  # it is a backup disk now
    site.settings |= {"backup_root": str(tmp_path / "third"), "catalog_url": f"sqlite:///{tmp_path}/third/.cbk/catalog.db"}
    site.settings["on_system_disk"] = "true"
    assert run("init")[0] == 0


def test_place_that_fstab_names_and_where_nothing_is_mounted_is_found(tmp_path):
    fstab = tmp_path / "fstab"
    fstab.write_text(f"# comment\nUUID=1 / ext4\nUUID=2 {tmp_path}/my\\040disk ext4 nofail 0 2\nproc /proc proc\n")
    assert host.unmounted_place(tmp_path / "my disk" / "backups", fstab) == tmp_path / "my disk"
    assert host.unmounted_place(tmp_path / "elsewhere", fstab) is None
    assert host.unmounted_place(tmp_path / "anything", tmp_path / "no fstab") is None


def test_folder_where_fstab_wants_a_disk_is_refused_by_that(site, monkeypatch):
    monkeypatch.setattr(host, "unmounted_place", lambda _root: site.root)
    monkeypatch.setattr(host, "shares_system_disk", lambda _root: False)
    unmount(site)
    with pytest.raises(RootMissing, match="/etc/fstab says that one belongs"):
        require_own_disk(site.context)


@pytest.mark.parametrize("command", LOOKS, ids=lambda command: command[0])
def test_lost_catalog_names_rebuild_and_looking_makes_none(site, run, command):
    site.context.close()
    for path in (site.root / ".cbk").glob("catalog.db*"):
        path.unlink()
    code, said = run(*command)
    assert code == 1
    assert "there is no catalog" in said
    assert "`cbk rebuild` makes it again" in said
    assert not (site.root / ".cbk/catalog.db").exists()


def test_rebuild_of_a_lost_catalog_makes_it_well(site, run):
    site.context.close()
    for path in (site.root / ".cbk").glob("catalog.db*"):
        path.unlink()
    assert run("rebuild")[0] == 0
    assert "1 of 1 file" in run("status")[1]


def test_damaged_catalog_names_rebuild_and_its_hint_makes_it_well(site, run):
    site.context.close()
    catalog = site.root / ".cbk/catalog.db"
    for path in (site.root / ".cbk").glob("catalog.db-*"):
        path.unlink()
    catalog.write_bytes(b"this is no database" * 1000)
    code, said = run("status")
    assert code == 1
    assert "the catalog is damaged" in said
    assert "move the file away, and let `cbk rebuild`" in said
    assert run("rebuild")[0] == 1  # on its own it changes nothing
    catalog.rename(site.folder / "aside")
    assert run("rebuild")[0] == 0
    assert "1 of 1 file" in run("status")[1]


@pytest.mark.parametrize("command", [["status"], ["init"], ["upgrade"], ["rebuild"]], ids=lambda command: command[0])
def test_catalog_of_a_newer_release_is_refused_in_words_and_stays_as_it_is(site, run, command):
    with site.context.catalog.database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    site.context.close()
    code, said = run(*command)
    assert code == 1
    assert "of a newer release" in said
    assert "install the newer release" in said
    with pytest.raises(CatalogOutdated, match="newer release"):
        site.context.catalog.require_current()


def test_catalog_is_readable_for_its_user_and_group_alone(site):
    assert (site.root / ".cbk/catalog.db").stat().st_mode & 0o777 == 0o640


def test_catalog_whose_folder_is_not_there_says_so(tmp_path):
    settings = Settings(
        source_url="sqlite:////x/app.db", catalog_url=f"sqlite:///{tmp_path}/no/c.db", backup_root=tmp_path / "root"
    )
    with closing(open_context(settings)) as context, pytest.raises(CbkError, match="cannot be made"):
        list(initialise(context))


def test_full_disk_fails_doctor_and_is_named_by_status(site, run):
    site.settings["min_free_space"] = "9999TiB"
    code, said = run("doctor")
    assert code == 1
    assert "almost full" in said
    assert "nothing new is fetched" in run("status")[1]


def test_disk_without_inodes_is_full(site, monkeypatch):
    usage = site.context.archive.usage()
    monkeypatch.setattr(type(site.context.archive), "usage", lambda _: usage._replace(files_left=3))
    [problem] = [problem for problem in gather_status(site.context).problems if problem.kind == "disk_full"]
    assert "3 more files" in problem.message


def test_redis_that_is_away_is_named_once_two_polls_did_not_come(site, run):
    site.settings["poll_interval"] = "1ms"
    site.settings["broker_url"] = "redis://127.0.0.1:1/0"
    code, said = run("status")
    assert code == 4
    assert "Redis is away" in said
    assert "start it" in said


def test_errors_tell_a_missing_catalog_from_a_damaged_one():
    assert issubclass(CatalogMissing, CatalogOutdated)
    assert not issubclass(CatalogDamaged, CatalogOutdated)


def test_hold_of_where_keys_begin_is_refused_and_its_hint_holds_the_files(run):
    code, said = run("hold", "contracts/")
    assert (code, "cbk hold --prefix contracts/" in said) == (1, True)
    assert run("hold", "--prefix", "contracts/")[0] == 0
