"""`examine`: each part of a kit that is odd or broken is found, and told with what to do."""

import os
import sqlite3
from datetime import timedelta

import pytest
import redis
import sqlalchemy as sa

from cbk.edges.mirror.rclone import Rclone, Transferred
from cbk.errors import MirrorError
from cbk.jobs.admin import doctor
from cbk.jobs.admin.doctor import Level, examine
from cbk.jobs.mirror.run import run_pass
from tests.in_process_site import InProcessSite
from tests.integration.mirror.remotes import write_config
from tests.origin import Origin


@pytest.fixture(scope="module")
def origin():
    with Origin() as origin:
        yield origin


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No setting of the machine's own, and a clock that keeps time."""
    for name in list(os.environ):
        if name.startswith("CBK_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(doctor.host, "clock_is_synchronised", lambda: True)
    monkeypatch.setattr(doctor.host, "shares_system_disk", lambda _: False)
    return monkeypatch


@pytest.fixture
def make_site(tmp_path, origin, broker_url):
    sites = []

    def make(**settings):
        sites.append(InProcessSite(tmp_path, origin, **{"broker_url": broker_url} | settings))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.fixture
def site(make_site):
    return make_site()


def found(site, part, level):
    """The findings of a part at a level, as (message, hint)."""
    findings = list(examine(site.context))
    assert all(finding.hint for finding in findings if finding.level is not Level.OK)
    return [(finding.message, finding.hint) for finding in findings if (finding.part, finding.level) == (part, level)]


def test_whole_kit_has_nothing_to_complain_about(site):
    findings = list(examine(site.context))
    assert [finding for finding in findings if finding.level is not Level.OK] == []
    assert {finding.part for finding in findings} == {"settings", "source", "catalog", "broker", "disk", "clock"}


def test_broker_is_named_with_its_version(site):
    [(message, _)] = found(site, "broker", Level.OK)
    assert message.startswith("Valkey ")
    assert message.endswith(" answers")


def test_broker_that_throws_messages_away_is_odd(site, broker_url):
    with redis.Redis.from_url(broker_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            [(message, hint)] = found(site, "broker", Level.WARN)
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert "allkeys-lru" in message
    assert hint == "set maxmemory-policy noeviction"


def test_broker_that_is_away_is_broken_and_its_password_not_told(make_site):
    [(message, hint)] = found(make_site(broker_url="redis://:hunter2@127.0.0.1:1/0"), "broker", Level.FAIL)
    assert "Redis is away" in message
    assert "hunter2" not in message + hint


def test_hosts_that_are_not_named_are_odd(make_site):
    [(message, hint)] = found(make_site(allowed_hosts=""), "settings", Level.WARN)
    assert "any public host" in message
    assert "amazonaws.com" in hint


def test_column_that_is_missing_is_broken_and_named(site):
    with site.application.begin() as connection:
        connection.exec_driver_sql('ALTER TABLE "ObjectStorageFiles" DROP COLUMN "SignedDownloadUrl"')
    [(message, hint)] = found(site, "source", Level.FAIL)
    assert "SignedDownloadUrl" in message
    assert "cbk schema sqlite" in hint


def test_rows_that_cannot_be_read_and_ids_that_rows_share_are_broken(site):
    with site.application.begin() as connection:
        columns = '"Id" INT, "Name", "Path", "Storage", "Version", "Hash", "SignedDownloadUrl"'
        connection.exec_driver_sql('DROP TABLE "ObjectStorageFiles"')
        connection.exec_driver_sql(f'CREATE TABLE "ObjectStorageFiles" ({columns})')
        connection.exec_driver_sql('INSERT INTO "ObjectStorageFiles" ("Id") VALUES (NULL), (7), (7)')

    assert [message for message, _ in found(site, "source", Level.FAIL)] == [
        '1 row of "ObjectStorageFiles" cannot be read: "Id" is NULL',
        'several rows of "ObjectStorageFiles" have the same Id: 1 Id',
    ]


def test_optional_column_that_is_missing_is_fine_and_named(site):
    with site.application.begin() as connection:
        connection.exec_driver_sql('ALTER TABLE "ObjectStorageFiles" DROP COLUMN "ContentType"')
    assert ("works without the optional ObjectStorageFiles.ContentType", "") in found(site, "source", Level.OK)


def test_ids_without_an_order_are_odd(make_site, tmp_path):
    application = sa.create_engine(f"sqlite:///{tmp_path}/app.db")
    with application.begin() as connection:
        connection.exec_driver_sql(
            'CREATE TABLE "ObjectStorageFiles" ("Id" TEXT PRIMARY KEY, "Name" TEXT, "Path" TEXT, "Storage" TEXT,'
            ' "Version" INTEGER, "Hash" TEXT, "SignedDownloadUrl" TEXT)'
        )
    application.dispose()
    [(message, _)] = found(make_site(), "source", Level.WARN)
    assert message == "Ids are not integers: every poll reads every row"


def test_user_who_may_write_to_the_source_is_odd(make_site, postgres, pg_database):
    site = make_site(source_url=postgres.url(pg_database))
    [(message, hint)] = found(site, "source", Level.WARN)
    assert message == "the database user may write to the tables"
    assert "may only SELECT" in hint


def test_catalog_that_is_not_made_is_broken(site):
    with site.context.catalog.database.writing() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    [(message, hint)] = found(site, "catalog", Level.FAIL)
    assert "has no tables" in message
    assert "`cbk rebuild`" in hint
    assert "run `cbk init`" in hint


def test_disk_that_is_not_mounted_is_broken(site):
    (site.root / ".cbk").rename(site.folder / "away")
    [(message, hint)] = found(site, "disk", Level.FAIL)
    assert "identity is missing" in message
    assert "mounted" in hint


def test_disk_that_is_not_writable_is_broken(site, environment):
    access = os.access  # root may write everywhere
    environment.setattr(os, "access", lambda path, mode: path != site.root and access(path, mode))
    [(message, _)] = found(site, "disk", Level.FAIL)
    assert message == f"{site.root} is not writable"


def test_disk_that_is_nearly_full_is_odd(site, environment):
    environment.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 9 * 10**9, "total": 100 * 10**9})())
    assert found(site, "disk", Level.WARN) == [("9.0 GB free of 100.0 GB", "make room before it is full")]


def test_backup_root_on_the_systems_disk_is_odd(site, environment):
    environment.setattr(doctor.host, "shares_system_disk", lambda _: True)
    [(message, _)] = found(site, "disk", Level.WARN)
    assert message.endswith("is on the system's own disk")


@pytest.mark.parametrize(("state", "told"), [(False, "is not synchronised"), (None, "does not tell whether")])
def test_clock_that_may_be_wrong_is_odd(site, environment, state, told):
    environment.setattr(doctor.host, "clock_is_synchronised", lambda: state)
    [(message, _)] = found(site, "clock", Level.WARN)
    assert told in message


def test_clocks_that_differ_are_odd(site, environment):
    now = doctor.host.now
    environment.setattr(doctor.host, "now", lambda: now() + timedelta(seconds=30))
    [(message, _)] = found(site, "clock", Level.WARN)
    assert message.startswith("this machine and the catalog's database differ by ")


def test_clock_that_keeps_from_pruning_is_broken(site, environment):
    now = doctor.host.now
    environment.setattr(doctor.host, "now", lambda: now() - timedelta(days=14, hours=1))
    [(message, hint)] = found(site, "clock", Level.FAIL)
    assert message == "nothing is pruned: this machine's clock and that of the catalog's database differ by 14 days"
    assert "--trust-clock" in hint
    assert found(site, "clock", Level.WARN) == []


def test_service_to_tell_that_there_is_not_is_broken_and_its_url_is_not_shown(make_site):
    site = make_site(notify="json://127.0.0.1/, nosuch://user:sesame@example.com")
    [(message, hint)] = found(site, "settings", Level.FAIL)
    assert message == "URL 2 of CBK_NOTIFY is of no service that Apprise knows"
    assert "sesame" not in message + hint


# ---- dumps and mirrors -------------------------------------------------------------------------------------------------------


def test_dump_whose_database_answers_and_whose_server_is_here_is_well(make_site, postgres, pg_database, pg_programs):
    site = make_site(dumps={"app": {"url": postgres.url(pg_database).replace("+psycopg", "")}})
    [(message, _)] = found(site, "dumps", Level.OK)
    assert message == "dump app: pg_dump 17 reaches the server, which is PostgreSQL 17"
    assert found(site, "dumps", Level.WARN) == []


def test_dump_that_this_machine_has_no_tool_for_is_broken_and_the_package_named(make_site, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("cbk.edges.dump.tools._globbed", list)
    site = make_site(dumps={"app": {"url": "postgresql://backup:hunter2@127.0.0.1:1/app"}})
    [(message, hint)] = found(site, "dumps", Level.FAIL)
    assert message == "dump app: pg_dump is not on this machine"
    assert hint == "on Debian: apt-get install postgresql-client"
    [(message, hint)] = found(site, "dumps", Level.WARN)
    assert message == "dump app cannot be restored for a test here: initdb is not on this machine"
    assert hint == "on Debian: apt-get install postgresql"


def test_dump_of_a_server_that_is_newer_than_the_tool_is_broken_and_the_client_named(
    make_site, monkeypatch, postgres, pg_database, pg_programs
):
    monkeypatch.setattr("cbk.edges.dump.postgresql.find_postgres", lambda name: (name, 15))
    [(message, hint)] = found(
        make_site(dumps={"app": {"url": postgres.url(pg_database).replace("+psycopg", "")}}), "dumps", Level.FAIL
    )
    assert message == "dump app: the server is PostgreSQL 17, and pg_dump here is 15"
    assert "postgresql-client-17" in hint


def test_dump_whose_database_is_away_is_broken_and_its_password_not_told(make_site, pg_programs):
    site = make_site(dumps={"app": {"url": "postgresql://backup:hunter2@127.0.0.1:1/app"}})
    [(message, hint)] = found(site, "dumps", Level.FAIL)
    assert message.startswith("dump app: the database cannot be reached")
    assert "hunter2" not in message + hint


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "sqlite:////nowhere/shop.db"}, "/nowhere/shop.db cannot be read as a SQLite database"),
        ({"command": ["no-such-tool", "-x"], "kind": "raw"}, "no-such-tool is not on this machine"),
        ({"ssh": "me@db", "kind": "sqlite", "ssh_key": "/nowhere/key"}, "the key /nowhere/key cannot be read"),
    ],
)
def test_dump_that_cannot_be_taken_from_here_is_broken(make_site, options, told):
    [(message, hint)] = found(make_site(dumps={"app": options}), "dumps", Level.FAIL)
    assert told in message
    assert hint


def test_dump_of_a_sqlite_file_that_is_there_is_well(make_site, tmp_path):
    sqlite3.connect(tmp_path / "shop.db").close()
    site = make_site(dumps={"app": {"url": f"sqlite:///{tmp_path}/shop.db"}})
    assert found(site, "dumps", Level.OK) == [(f"dump app: reads {tmp_path}/shop.db", "")]


@pytest.fixture
def make_mirrored(make_site, tmp_path):
    """A function that makes a site with a mirror in a folder, or a remote of it, which had one pass."""

    def make(*, remote=False, passed=True, **mirror):
        (tmp_path / "mirror").mkdir(exist_ok=True)
        where = {"path": str(tmp_path / "mirror")}
        if remote:
            config = write_config(tmp_path / "rclone.conf", base={"type": "alias", "remote": str(tmp_path / "mirror")})
            where = {"remote": "base:", "config": str(config)}
        site = make_site(mirrors={"there": where | mirror})
        if passed:
            run_pass(site.context, "there", pause=lambda _seconds: False, by_person=True)
        return site

    return make


@pytest.mark.parametrize("remote", [False, True])
def test_mirror_that_is_there_and_known_is_well(make_mirrored, remote):
    [(message, _)] = found(make_mirrored(remote=remote), "mirrors", Level.OK)
    assert message.startswith("mirror there: disk A is at ")


def test_mirror_that_has_nothing_yet_is_odd(make_mirrored):
    [(message, hint)] = found(make_mirrored(passed=False), "mirrors", Level.WARN)
    assert message.endswith("is no disk of this mirror")
    assert hint == "`cbk mirror there` begins"


def test_another_disk_where_the_mirrors_own_should_be_is_odd(make_mirrored, tmp_path):
    site = make_mirrored()
    (tmp_path / "mirror").rename(tmp_path / "away")
    (tmp_path / "mirror").mkdir()
    [(message, hint)] = found(site, "mirrors", Level.WARN)
    assert message.endswith("is no disk of this mirror")
    assert "--init" in hint


def test_mirror_that_cannot_be_reached_is_broken(make_mirrored, tmp_path):
    site = make_mirrored()
    (tmp_path / "mirror").rename(tmp_path / "away")
    [(message, hint)] = found(site, "mirrors", Level.FAIL)
    assert message == f"mirror there: there is no folder {tmp_path}/mirror"
    assert "plug the disk in" in hint


def test_of_disks_in_rotation_the_ones_that_are_away_are_no_finding(make_mirrored, tmp_path):
    site = make_mirrored(path=[str(tmp_path / "mirror"), str(tmp_path / "other")])
    assert found(site, "mirrors", Level.FAIL) == []
    assert len(found(site, "mirrors", Level.OK)) == 1


def test_remote_without_rclone_is_broken(make_mirrored, monkeypatch):
    site = make_mirrored(remote=True)

    def none():
        raise MirrorError("there is no rclone", hint="install it")

    monkeypatch.setattr("cbk.edges.mirror.rclone._program", none)
    assert found(site, "mirrors", Level.FAIL) == [("mirror there: there is no rclone", "install it")]


def test_configuration_of_rclone_that_everybody_may_read_is_odd(make_mirrored, tmp_path):
    site = make_mirrored(remote=True)
    (tmp_path / "rclone.conf").chmod(0o644)
    [(message, hint)] = found(site, "mirrors", Level.WARN)
    assert message == f"every user of this machine may read {tmp_path}/rclone.conf"
    assert "chmod 640" in hint


def test_append_only_mirror_whose_key_can_delete_is_odd(make_mirrored, tmp_path):
    site = make_mirrored(remote=True, append_only=True)
    [(message, hint)] = found(site, "mirrors", Level.WARN)
    assert "can be removed from view with its key" in message
    assert "object lock" in hint
    assert not (tmp_path / "mirror/.cbk/doctor.txt").exists()


def test_append_only_mirror_whose_key_cannot_delete_is_well(make_mirrored, monkeypatch):
    site = make_mirrored(remote=True, append_only=True)
    monkeypatch.setattr(Rclone, "remove", lambda *_args, **_kw: Transferred(problem="AccessDenied"))
    assert ("mirror there: its key cannot delete", "") in found(site, "mirrors", Level.OK)
