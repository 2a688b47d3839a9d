"""`cbk setup`: answers are tried on real servers, and become a file of settings; `cbk upgrade` keeps a copy of the catalog."""

import os
import re
import sqlite3
import tomllib
from contextlib import closing

import click
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from cbk.cli.main import cli
from cbk.edges import host
from cbk.edges.archive.archive import Archive
from cbk.edges.catalog.catalog import Catalog
from cbk.edges.catalog.database.connection import make_file
from cbk.edges.catalog.database.migration import migrate, migrating
from cbk.settings import load_settings
from cbk_app.schema import ddl, grants


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """A machine without settings, with a disk for the backups and a clock that keeps time."""
    for name in [name for name in os.environ if name.startswith("CBK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CBK_CONFIG", str(tmp_path / "etc/cbk.toml"))
    monkeypatch.setattr(host, "shares_system_disk", lambda _: False)
    monkeypatch.setattr(host, "is_on_sd_card", lambda _: False)
    monkeypatch.setattr(host, "clock_is_synchronised", lambda: True)
    (tmp_path / "backups").mkdir()
    return monkeypatch


@pytest.fixture
def config(tmp_path):
    return tmp_path / "etc/cbk.toml"


@pytest.fixture
def source_url(tmp_path):
    """An application's database without users."""
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.executescript(ddl("sqlite"))
    return f"sqlite:///{tmp_path}/app.db"


@pytest.fixture
def answers(tmp_path, source_url, broker_url):
    """A function that writes an answers file, with lines of its own at the beginning."""

    def write(*lines, **values):
        given = {"source_url": source_url, "backup_root": str(tmp_path / "backups"), "broker_url": broker_url, **values}
        text = "\n".join([*lines, *(f'{name} = "{value}"' for name, value in given.items())])
        (tmp_path / "answers.toml").write_text(text)
        return str(tmp_path / "answers.toml")

    return write


def cbk(*arguments, typed=None):
    """Run a command; gives its exit code, and all that it said, its error at the end."""
    done = CliRunner().invoke(cli, arguments, input=typed)
    return done.exit_code, done.output + (f"{done.exception}\n{getattr(done.exception, 'hint', '')}" if done.exception else "")


# ---- answers from a file -----------------------------------------------------------------------------------------------------


def test_answers_become_the_file_of_settings(answers, config, tmp_path):
    code, said = cbk("setup", "--answers", answers(lease="5m"))
    assert code == 0, said
    assert f"wrote {config}" in said
    settings = load_settings()
    assert (settings.backup_root, settings.lease.total_seconds()) == (tmp_path / "backups", 300)
    assert re.fullmatch(r"cbk:\S{12,}", settings.flower_auth.get_secret_value())


def test_file_of_settings_is_for_nobody_else_to_read(answers, config):
    cbk("setup", "--answers", answers())
    assert config.stat().st_mode & 0o777 == (0o640 if os.geteuid() == 0 else 0o600)


def test_environment_is_no_answer(answers, environment):
    environment.setenv("CBK_LEASE", "nonsense")
    assert cbk("setup", "--answers", answers())[0] == 0


def test_second_setup_keeps_flowers_password_and_the_former_file(answers, config):
    cbk("setup", "--answers", answers(lease="5m"))
    former = config.read_text()
    cbk("setup", "--answers", answers(lease="6m"))
    assert config.with_name("cbk.toml.before").read_text() == former
    assert config.read_text() == former.replace("5m", "6m")


def test_dry_run_tries_and_shows_without_secrets_and_writes_nothing(answers, config, broker_url):
    code, said = cbk("setup", "--dry-run", "--answers", answers())
    assert code == 0
    assert "both tables are there" in said
    assert 'backup_root = "' in said
    assert 'source_url = "***"' in said
    assert not config.parent.exists()


@pytest.mark.parametrize(
    ("wrong", "finding"),
    [
        ({"source_url": "sqlite:////nowhere/app.db"}, "fail source"),
        ({"backup_root": "/nowhere"}, "fail disk     /nowhere is no folder"),
        ({"broker_url": "redis://127.0.0.1:1/0"}, "fail broker   Redis is away"),
        ({"catalog_url": "postgresql+psycopg://cbk@127.0.0.1:1/cbk"}, "fail catalog"),
        ({"notify": "nonsense://"}, "fail settings URL 1 is of no service"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_answer_that_does_not_hold_is_named_and_nothing_is_written(answers, config, wrong, finding):
    code, said = cbk("setup", "--answers", answers(**wrong))
    assert code == 1
    assert finding in said
    assert not config.exists()


def test_value_that_makes_no_sense_is_named(answers, config):
    code, said = cbk("setup", "--answers", answers(lease="soon", lase="2m"))
    assert code == 1
    assert "CBK_LEASE: expected a duration" in said
    assert "lase (did you mean lease?)" in said
    assert not config.exists()


# ---- what needs a yes --------------------------------------------------------------------------------------------------------


def test_systems_own_disk_needs_a_yes(answers, config, environment):
    environment.setattr(host, "shares_system_disk", lambda _: True)
    code, said = cbk("setup", "--answers", answers())
    assert code == 1
    assert "is on the system's own disk; nothing was written" in said
    assert 'accept = ["system-disk"]' in said
    assert not config.exists()
    assert cbk("setup", "--answers", answers('accept = ["system-disk"]'))[0] == 0
    assert "accept" not in tomllib.loads(config.read_text())


def test_sd_card_needs_a_yes_of_its_own(answers, environment):
    environment.setattr(host, "is_on_sd_card", lambda _: True)
    assert 'accept = ["sd-card"]' in cbk("setup", "--answers", answers('accept = ["system-disk"]'))[1]


def test_database_user_who_may_write_needs_a_yes(answers, postgres, pg_database):
    postgres.execute(ddl("postgresql"), pg_database)
    assert 'accept = ["source-writable"]' in cbk("setup", "--answers", answers(source_url=postgres.url(pg_database)))[1]


# ---- answers from a person ---------------------------------------------------------------------------------------------------


def test_person_is_asked_again_where_an_answer_does_not_hold(source_url, broker_url, tmp_path):
    typed = [
        "sqlite:////nowhere/app.db",
        source_url,
        "/nowhere",
        tmp_path / "backups",
        "car-erp",
        "s3=car-erp",
        "",
        broker_url,
        "",
        "",
    ]
    code, said = cbk("setup", typed="".join(f"{line}\n" for line in typed))
    assert code == 0, said
    settings = load_settings()
    assert (settings.source, settings.buckets, settings.broker) == (source_url, {"s3": "car-erp"}, broker_url)
    assert settings.backup_root == tmp_path / "backups"
    assert settings.catalog_url is None


def test_person_who_says_no_is_asked_for_another_disk(source_url, broker_url, tmp_path, environment):
    other = tmp_path / "other"
    other.mkdir()
    environment.setattr(host, "shares_system_disk", lambda root: root != other)
    typed = [source_url, tmp_path / "backups", "n", other, "", "", broker_url, "", ""]
    assert cbk("setup", typed="".join(f"{line}\n" for line in typed))[0] == 0
    assert load_settings().backup_root == other


def test_input_that_ends_before_the_answers_do_says_so_and_writes_nothing(source_url, config):
    code, said = cbk("setup", typed=f"{source_url}\n")
    assert code != 0
    assert "the input ended before every question was answered; nothing was written\n`cbk setup` asks at a terminal" in said
    assert not config.exists()


def test_person_who_interrupts_is_not_told_of_an_input_that_ended(environment):
    def interrupt(*_arguments, **_options):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise click.Abort from None

    environment.setattr("click.prompt", interrupt)
    assert "the input ended" not in cbk("setup")[1]


def test_password_of_the_database_is_asked_for_and_not_shown(postgres, pg_database, broker_url, tmp_path):
    for statement in (ddl("postgresql"), "DROP ROLE IF EXISTS cbk_setup", grants("postgresql", user="cbk_setup")):
        postgres.execute(statement, pg_database)
    url = postgres.url(pg_database, "cbk_setup")
    typed = [url, "p@ss/word", tmp_path / "backups", "", "", broker_url, "", ""]
    code, said = cbk("setup", typed="".join(f"{line}\n" for line in typed))
    assert code == 0, said
    assert "p@ss/word" not in said
    assert load_settings().source == url.replace("cbk_setup@", "cbk_setup:p%40ss%2Fword@")


def test_person_who_answers_nothing_keeps_what_was_set(answers, config):
    cbk("setup", "--answers", answers(lease="5m", allowed_hosts="*.example.com"))
    before = config.read_text()
    code, said = cbk("setup", typed="\n" * 7)
    assert code == 0, said
    assert config.read_text() == before


# ---- a second machine --------------------------------------------------------------------------------------------------------


def test_export_is_an_answers_file_for_another_machine(answers, config, tmp_path):
    cbk("setup", "--answers", answers())
    shared = 'broker_url = "redis://:p@pi/0"\ncatalog_url = "postgresql+psycopg://cbk:p@pi/cbk"\nflower_auth = "cbk:long"\n'
    config.write_text(f'source_url = "sqlite:////app.db"\n{shared}')
    bundle = tmp_path / "second-pi.toml"
    code, said = cbk("setup", "--export", str(bundle))
    assert code == 0, said
    assert tomllib.loads(bundle.read_text()) == {
        name: value for name, value in tomllib.loads(config.read_text()).items() if name != "flower_auth"
    }
    assert bundle.stat().st_mode & 0o007 == 0
    assert cbk("setup", "--export", "-")[1] == bundle.read_text()


def test_export_of_a_machine_that_cannot_be_joined_says_why(answers, tmp_path):
    cbk("setup", "--answers", answers())
    code, said = cbk("setup", "--export", str(tmp_path / "second-pi.toml"))
    assert code == 1
    assert "the catalog is SQLite" in said
    assert not (tmp_path / "second-pi.toml").exists()


# ---- from one release to the next --------------------------------------------------------------------------------------------


@pytest.fixture
def old_catalog(tmp_path, answers):
    """A kit whose catalog is of the first release; gives its file."""
    file = tmp_path / "catalog.db"
    cbk("setup", "--answers", answers(catalog_url=f"sqlite:///{file}"))
    Archive.create(tmp_path / "backups", now=host.now())
    make_file(file)
    with closing(Catalog(f"sqlite:///{file}", holder="old")) as catalog, migrating(catalog.engine) as connection:
        migrate(connection, "0001")
    return file


def revision_of(file):
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]


def test_upgrade_keeps_a_copy_of_the_catalog_before_it_migrates(old_catalog):
    code, said = cbk("upgrade")
    assert code == 0, said
    copy = old_catalog.with_name("catalog.db.0001")
    assert f"a copy of the catalog as it was is in {copy}" in said
    assert revision_of(copy) == "0001"
    assert revision_of(old_catalog) > "0001"


def test_upgrade_makes_no_copy_of_what_is_of_this_release(old_catalog, tmp_path):
    cbk("upgrade")
    old_catalog.with_name("catalog.db.0001").unlink()
    code, said = cbk("upgrade")
    assert (code, "was ready" in said) == (0, True)
    assert [file.name for file in tmp_path.glob("catalog.db.*") if not file.name.endswith(("-wal", "-shm"))] == []


def test_upgrade_in_a_dry_run_changes_nothing(old_catalog, tmp_path):
    code, said = cbk("upgrade", "--dry-run")
    assert (code, "would keep a copy" in said) == (0, True)
    assert revision_of(old_catalog) == "0001"
    assert not old_catalog.with_name("catalog.db.0001").exists()


def test_upgrade_without_a_copy_migrates_nothing(old_catalog):
    old_catalog.with_name("catalog.db.0001.new").mkdir()  # in the way
    code, said = cbk("upgrade")
    assert (code, "no copy of the catalog could be made" in said) == (1, True)
    assert revision_of(old_catalog) == "0001"


def fail_at_the_first_migration(monkeypatch):
    def fail(*_arguments, **_options):
        raise sa.exc.OperationalError("DROP TABLE marks", {}, sqlite3.OperationalError("disk I/O error"))

    monkeypatch.setattr("alembic.op.drop_table", fail)


def test_upgrade_in_a_dry_run_tries_the_migration_and_leaves_nothing(old_catalog, tmp_path, monkeypatch):
    before = sorted(tmp_path.glob("catalog.db*"))
    assert "tried the migration from revision 0001: it succeeds" in cbk("upgrade", "--dry-run")[1]
    assert sorted(tmp_path.glob("catalog.db*")) == before
    fail_at_the_first_migration(monkeypatch)
    code, said = cbk("upgrade", "--dry-run")
    assert (code, "disk I/O error" in said) == (1, True)
    assert sorted(tmp_path.glob("catalog.db*")) == before
    assert revision_of(old_catalog) == "0001"


def test_migration_that_fails_in_the_middle_leaves_the_catalog_as_it_was(old_catalog, monkeypatch):
    with monkeypatch.context() as patched:
        fail_at_the_first_migration(patched)
        assert cbk("upgrade")[0] == 1
    assert revision_of(old_catalog) == "0001"
    assert cbk("upgrade")[0] == 0


def test_rollback_puts_back_what_was_kept_and_keeps_what_was_there(old_catalog):
    cbk("upgrade")
    newest = revision_of(old_catalog)
    assert "would keep the catalog as it is" in cbk("upgrade", "--rollback", "--dry-run")[1]
    assert revision_of(old_catalog) == newest
    code, said = cbk("upgrade", "--rollback")
    assert code == 0, said
    assert "the catalog is at revision 0001 again" in said
    assert (revision_of(old_catalog), revision_of(old_catalog.with_name(f"catalog.db.{newest}"))) == ("0001", newest)
    assert "is at revision 0001 already" in cbk("upgrade", "--rollback", "--to", "0001")[1]
    assert cbk("upgrade")[0] == 0
    assert revision_of(old_catalog) == newest


def test_rollback_without_a_copy_says_so_and_changes_nothing(old_catalog):
    cbk("upgrade")
    old_catalog.with_name("catalog.db.0001").unlink()
    code, said = cbk("upgrade", "--rollback", "--to", "0001")
    assert (code, "there is no copy of the catalog at revision 0001; nothing was changed" in said) == (1, True)
    assert revision_of(old_catalog) > "0001"


def test_upgrade_of_nothing_asks_for_init(answers):
    cbk("setup", "--answers", answers())
    code, said = cbk("upgrade")
    assert (code, "no backup disk is mounted" in said, "only one that is new is prepared by `cbk init`" in said) == (1, True, True)
