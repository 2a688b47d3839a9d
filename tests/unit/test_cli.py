"""The `cbk` command: what it prints, how it ends, and what it never prints. In this process; a few times as a real one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cbk.cli.main import cli, main
from cbk.edges.archive import disk_tools
from cbk.jobs.status.status import gather_status
from cbk.model import VersionState
from tests.in_process_site import InProcessSite
from tests.origin import Origin, status

AWAY = "redis://:hunter2@127.0.0.1:1/0"
HOSTILE = "cars/ünï 日本\x1b[31mred\nforged\x9b2J\u202egnp.exe"
COMMANDS = sorted(cli.commands)
# What a command cannot be called without.
NEEDED = {
    "cat": ["a.txt"],
    "history": ["a.txt"],
    "hold": ["a.txt"],
    "notify": ["--test"],
    "pause": ["2h"],
    "release": ["a.txt"],
    "restore": ["--to", "restored"],
    "undelete": ["a.txt"],
}
WHOLE = ["seen", "stored", "verified"]


@pytest.fixture(scope="module")
def origin():
    with Origin() as origin:
        yield origin


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """No setting of the machine's own, and no terminal."""
    for name in [*os.environ]:
        if name.startswith("CBK_") or name in {"FORCE_COLOR", "COLUMNS"}:
            monkeypatch.delenv(name)
    monkeypatch.setattr("cbk.settings.DEFAULT_CONFIG", tmp_path / "no.toml")
    return monkeypatch


@pytest.fixture
def live_in(environment):
    """A function that puts a site's settings into the environment."""

    def live_in(site):
        for name, value in site.environment.items():
            environment.setenv(name, value)
        return site

    return live_in


@pytest.fixture
def site(tmp_path, origin, live_in):
    """A kit that is ready; its broker is away."""
    site = live_in(InProcessSite(tmp_path, origin, broker_url=AWAY))
    yield site
    site.close()


@pytest.fixture
def cbk(environment, capsys):
    """A function that runs `cbk` and gives its exit code, its standard output and its standard error."""

    def run(*arguments):
        environment.setattr(sys, "argv", ["cbk", *map(str, arguments)])
        with pytest.raises(SystemExit) as ending:
            main()
        captured = capsys.readouterr()
        return ending.value.code, captured.out, captured.err

    return run


def real(*arguments, **environment):
    """`python -m cbk.cli` as a process."""
    return subprocess.run(
        [sys.executable, "-m", "cbk.cli", *arguments],
        env=dict(os.environ) | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def files_below(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if "-shm" not in path.name}


# ---- help and usage --------------------------------------------------------------------------------------------------------


def test_help_names_each_command_once_in_a_group_with_a_line_that_is_whole(cbk, environment):
    environment.setenv("COLUMNS", "80")
    code, out, _ = cbk("--help")
    assert code == 0
    listed = [line.split()[0] for line in out.partition("Set up:")[2].splitlines() if re.match(r"  [a-z]+ +[a-z]", line)]
    assert sorted(listed) == COMMANDS
    assert max(len(line) for line in out.partition("Set up:")[2].partition("Exit codes")[0].splitlines()) < 80
    assert "..." not in out.partition("Set up:")[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example_on_lines_of_its_own(cbk, command):
    code, out, _ = cbk(command, "--help")
    assert code == 0
    [example] = [line.strip() for line in out.partition("Example:\n")[2].splitlines()[:1]]
    assert f"cbk {command}" in example
    assert "\\b" not in out


def test_help_lists_the_exit_codes_and_every_command(cbk):
    code, out, _ = cbk("--help")
    assert code == 0
    assert "Exit codes: 0 done; 1 failed; 2 wrong usage or settings" in out
    assert [command for command in COMMANDS if f"\n  {command} " not in out] == []


def test_version_is_that_of_the_package(cbk):
    assert cbk("--version")[:2] == (0, "cbk, version 0.1.0\n")


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["nonsense"], "no such command 'nonsense'", "`cbk --help`"),
        (["ls", "--state", "lost"], "invalid value for '--state': 'lost' is not one of 'pending', 'stored'", "`cbk ls --help`"),
        (["ls", "--nope"], "no such option '--nope'", "`cbk ls --help`"),
        (["status", "everything"], "got unexpected extra argument (everything)", "`cbk status --help`"),
        (["schema"], "missing argument", "`cbk schema --help`"),
        (["schema", "oracle"], "invalid value for", "`cbk schema --help`"),
        (["--config"], "option '--config' requires an argument", "`cbk --help`"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_hint(cbk, arguments, message, hint):
    code, out, err = cbk(*arguments)
    assert (code, out) == (2, "")
    first, *_, last = err.splitlines()
    assert first.startswith(f"cbk: {message}")
    assert last == f"HINT: {hint} shows what it takes"


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in {"schema", "setup", "dump"}])
def test_wrong_settings_end_with_2_and_are_all_told(cbk, environment, command):
    environment.setenv("CBK_LEASE", "soon")
    environment.setenv("CBK_BROKER_URL", "hunter2")
    code, out, err = cbk(command, *NEEDED.get(command, []))
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == "cbk: settings are not valid:"
    assert {name for name in ("CBK_LEASE", "CBK_BROKER_URL", "CBK_SOURCE_URL") if f"  {name}: " in err} == {
        "CBK_LEASE",
        "CBK_BROKER_URL",
        "CBK_SOURCE_URL",
    }
    assert "\nHINT: " in err
    assert "hunter2" not in err


def test_config_file_that_is_named_is_read(cbk, site, environment, tmp_path):
    file = tmp_path / "cbk.toml"
    file.write_text(f'source_url = "{site.settings["source_url"]}"\ncatalog_url = "sqlite:///{tmp_path}/other.db"\n')
    for name in ("CBK_SOURCE_URL", "CBK_CATALOG_URL"):
        environment.delenv(name)
    code, _, err = cbk("--config", file, "ls")
    assert (code, "run `cbk init`" in err) == (1, True)


def test_interrupt_ends_with_130_and_no_traceback(cbk, site, environment):
    def interrupted(_context):
        raise KeyboardInterrupt

    environment.setattr("cbk.cli.status.status.gather_status", interrupted)
    code, out, err = cbk("status")
    assert (code, out, err.strip()) == (130, "", "")


# ---- init ------------------------------------------------------------------------------------------------------------------


def test_init_prepares_disk_and_catalog_and_a_second_time_changes_nothing(cbk, site, environment, tmp_path):
    environment.setenv("CBK_BACKUP_ROOT", str(tmp_path / "disk"))
    environment.delenv("CBK_CATALOG_URL")
    code, out, _ = cbk("init", "--on-system-disk")
    assert code == 0
    assert out.splitlines()[1] == f"the catalog at sqlite:///{tmp_path}/disk/.cbk/catalog.db is ready"
    identity = (tmp_path / "disk/.cbk/identity").read_text()
    code, out, _ = cbk("init", "--on-system-disk")
    assert (code, (tmp_path / "disk/.cbk/identity").read_text()) == (0, identity)
    assert out.splitlines()[1].endswith("was ready")


def test_dry_init_says_what_would_be_done_and_does_nothing(cbk, site, environment, tmp_path):
    environment.setenv("CBK_BACKUP_ROOT", str(tmp_path / "disk"))
    environment.setenv("CBK_CATALOG_URL", f"sqlite:///{tmp_path}/fresh.db")
    before = files_below(tmp_path)
    code, out, _ = cbk("init", "--on-system-disk", "--dry-run")
    assert code == 0
    assert out.splitlines() == [
        f"would give {tmp_path}/disk an identity, unless it has one, and put a README and a restore script beside it",
        f"would make or migrate the catalog at sqlite:///{tmp_path}/fresh.db",
    ]
    assert files_below(tmp_path) == before


def test_init_puts_the_readme_and_the_restore_script_on_the_disk_and_refreshes_them(cbk, site, environment):
    for name in ("README.txt", "restore.sh"):
        assert (site.root / ".cbk" / name).read_bytes() == (Path(disk_tools.__file__).parent / name).read_bytes()
        (site.root / ".cbk" / name).write_text("of an earlier release")
    assert cbk("init", "--on-system-disk")[0] == 0
    for name in ("README.txt", "restore.sh"):
        assert (site.root / ".cbk" / name).read_bytes() == (Path(disk_tools.__file__).parent / name).read_bytes()


def test_init_of_a_new_catalog_says_that_the_disk_has_copies_already(cbk, site, environment, tmp_path):
    site.leave_copy("a.txt", b"content", location="car-erp/a/v1.gzip")
    environment.setenv("CBK_CATALOG_URL", f"sqlite:///{tmp_path}/fresh.db")
    assert "let `cbk rebuild` take them in before workers start" in cbk("init", "--on-system-disk")[1]


def test_init_where_no_folder_can_be_made_ends_with_1_and_a_hint(cbk, site, environment, tmp_path):
    (tmp_path / "file").write_text("")
    environment.setenv("CBK_BACKUP_ROOT", str(tmp_path / "file" / "disk"))
    environment.setenv("CBK_CATALOG_URL", f"sqlite:///{tmp_path}/fresh.db")
    code, _, err = cbk("init", "--on-system-disk")
    assert code == 1
    assert err.startswith("cbk: cannot prepare ")
    assert "\nHINT: " in err


def test_init_of_another_disk_than_the_catalogs_ends_with_1(cbk, site, environment, tmp_path):
    environment.setenv("CBK_BACKUP_ROOT", str(tmp_path / "disk"))
    code, _, err = cbk("init", "--on-system-disk")
    assert code == 1
    assert "the catalog belongs to the disk" in err
    assert "HINT: mount the right disk" in err


# ---- status ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["status", "ls"])
@pytest.mark.parametrize("catalog", ["sqlite:///{folder}/fresh.db", ""])
def test_command_before_init_ends_with_1_and_names_it(cbk, site, environment, tmp_path, command, catalog):
    environment.setenv("CBK_BACKUP_ROOT", str(tmp_path / "disk"))
    environment.delenv("CBK_CATALOG_URL")
    if catalog:
        environment.setenv("CBK_CATALOG_URL", catalog.format(folder=tmp_path))
    code, out, err = cbk(command)
    assert (code, out) == (1, "")
    assert "cbk init" in err


@pytest.mark.parametrize("command", ["status", "ls"])
def test_command_on_a_catalog_of_another_release_ends_with_1_and_names_init(cbk, site, command):
    with site.context.catalog.database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    code, out, err = cbk(command)
    assert (code, out) == (1, "")
    assert "the catalog is at revision 0000" in err
    assert "HINT: run `cbk init`" in err


def test_status_before_the_first_poll_is_not_protected(cbk, site):
    code, out, _ = cbk("status")
    assert code == 4
    assert out.startswith("not everything is protected\n")
    assert "- the application's tables were never read\n" in out
    assert "last poll   never" in out


def test_status_of_everything_stored_is_protected(cbk, site):
    site.upload("a.txt", b"x" * 1234)
    site.work()
    code, out, _ = cbk("status")
    assert code == 0
    assert out.splitlines()[:2] == [
        "everything is protected",
        "if the cloud account were gone now: 1 of 1 file, newest version each",
    ]
    assert "1.2 kB of objects" in out


def test_status_names_the_reasons_and_a_few_examples(cbk, site):
    for i in range(5):
        site.upload(f"{i}.txt", b"x", status(503))
    site.work()
    code, out, _ = cbk("status")
    assert code == 4
    assert "- 5 files are failed\n  HINT: is tried again by itself" in out
    assert "  5 failed: 127.0.0.1:" in out
    assert "      s3/0.txt v1, s3/1.txt v1, s3/2.txt v1 ...\n" in out


def test_status_as_json_has_the_documented_shape(cbk, site):
    site.upload("good.txt", b"x" * 10)
    site.upload("bad.txt", b"x", status(503))
    site.change(site.upload("declined.txt", b"x"), Hash="nonsense")
    site.work()
    code, out, _ = cbk("status", "--json")
    assert code == 4
    shown = json.loads(out)
    named = ("last_poll_at", "oldest_unprotected_at", "newest_protected_at", "oldest_verified_at", "protected_until")
    moments = [shown.pop(name) for name in named]
    assert all(moment.endswith("+00:00") for moment in moments)
    assert shown.pop("lag_seconds") >= 0
    stored_size = shown.pop("stored_size")
    assert stored_size > 10
    assert shown.pop("buckets") == [
        {"bucket": "car-erp", "files": 2, "protected_files": 1, "copies": 1, "size": 10, "stored_size": stored_size}
    ]
    assert shown["disk"].pop("free") < shown.pop("disk")["total"]
    assert shown.pop("refresh") == {"count": 0, "rows": []}
    [group] = shown.pop("unprotected")
    assert (group.pop("reason") != "", group) == (True, {"state": "failed", "count": 1, "examples": ["s3/bad.txt v1"]})
    assert [problem["kind"] for problem in shown["problems"]] == ["failed", "rows"]
    assert [problem.keys() for problem in shown.pop("problems")] == [{"kind": 0, "message": 0, "hint": 0}.keys()] * 2
    assert {name: count for name, count in shown.items() if count} == {
        "states": {"failed": 1, "stored": 1},
        "files": 3,
        "protected_files": 1,
        "proved_files": 1,
        "proofs": {"sha256": 1, "md5": 0, "first_seen": 0},
        "declined_rows": 1,
        "declined_files": 1,
        "copies": 1,
        "size": 10,
        "allowance": {"allowed": None, "used": 0, "waiting": 0, "since": None},
    }


def test_status_tells_of_each_bucket_where_there_are_several(cbk, site):
    site.upload("good.txt", b"x")
    site.upload("bad.txt", b"x", status(503), storage="azure")
    site.work()
    out = cbk("status")[1]
    assert "  .................... azure: 0 of 1 file, 0 B\n" in out
    assert "  #################### car-erp: 1 of 1 file, " in out


def test_status_is_complete_up_to_when_the_oldest_row_was_seen_that_is_not_protected(cbk, site):
    site.change(site.upload("declined.txt", b"x"), Hash="nonsense")
    site.work()
    declined = json.loads(cbk("status", "--json")[1])["protected_until"]
    site.upload("good.txt", b"x")
    site.work()
    shown = json.loads(cbk("status", "--json")[1])
    assert shown["protected_until"] == declined < shown["newest_protected_at"]


def test_status_is_watched_until_it_is_interrupted(cbk, site, environment):
    looks = iter(range(2))
    environment.setattr(
        "cbk.cli.status.status.gather_status",
        lambda context: gather_status(context) if next(looks, None) is not None else interrupt(),
    )
    code, out, _ = cbk("status", "--watch", "0.1")
    assert (code, out.count("not everything is protected")) == (130, 2)


def test_status_that_is_watched_as_json_is_one_object_per_line(cbk, site, environment):
    looks = iter(range(2))
    environment.setattr(
        "cbk.cli.status.status.gather_status",
        lambda context: gather_status(context) if next(looks, None) is not None else interrupt(),
    )
    lines = cbk("status", "--json", "--watch", "0.1")[1].splitlines()
    assert [json.loads(line)["protected"] for line in lines] == [False, False]


def test_status_goes_on_watching_a_disk_that_is_away(cbk, site, environment):
    def look(context):
        if (site.folder / "away").exists():
            (site.folder / "away").rename(site.root / ".cbk")
            interrupt()
        (site.root / ".cbk").rename(site.folder / "away")
        return gather_status(context)

    environment.setattr("cbk.cli.status.status.gather_status", look)
    code, out, _ = cbk("status", "--watch", "0.1")
    assert code == 130
    assert "nothing is known: " in out
    assert "  HINT: " in out


def interrupt():
    raise KeyboardInterrupt


def test_status_of_a_disk_that_is_not_mounted_is_an_error_not_an_answer(cbk, site):
    (site.root / ".cbk").rename(site.folder / "away")
    code, out, err = cbk("status")
    assert (code, out) == (1, "")
    assert "identity is missing" in err


# ---- page ------------------------------------------------------------------------------------------------------------------


def test_page_is_never_served_open(cbk, site):
    code, out, err = cbk("page")
    assert (code, out) == (2, "")
    assert "CBK_PAGE_AUTH: is required for the page (user:password)" in err


# ---- ls --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three(tmp_path_factory, origin):
    """A stored, a failed and a declined one; for commands that only look."""
    site = InProcessSite(tmp_path_factory.mktemp("three"), origin, broker_url=AWAY)
    site.upload("cars/a.png", b"x")
    site.upload("cars/b.png", b"x", status(503))
    site.change(site.upload("declined.txt", b"x", storage="azure"), Hash="nonsense")
    site.work()
    yield site
    site.close()


@pytest.fixture
def listed(three, live_in):
    return live_in(three)


def test_ls_as_json_is_one_object_per_line_with_the_documented_names(cbk, listed):
    code, out, _ = cbk("ls", "--json")
    assert code == 0
    stored, failed, declined = map(json.loads, out.splitlines())
    names = ["storage", "bucket", "key", "version", "state", "reason", "location", "sha256", "proof", "size"]
    names += ["stored_size", "stored_at"]
    names += ["row", "due_at", "newest", "deleted", "live", "verified_at", "pruned_at"]
    assert [list(item) for item in (stored, failed, declined)] == [names] * 3
    assert (stored["bucket"], stored["key"], stored["version"], stored["state"]) == ("car-erp", "cars/a.png", 1, "stored")
    assert (stored["location"], stored["size"], stored["reason"]) == ("car-erp/cars/a/v1.gzip", 1, "")
    assert (listed.root / stored["location"]).stat().st_size == stored["stored_size"]
    assert (failed["state"], failed["location"], failed["due_at"] is None) == ("failed", None, False)
    assert (declined["state"], declined["storage"], declined["sha256"]) == ("declined", "azure", None)


def test_ls_into_a_pipe_is_tab_separated(cbk, listed):
    _, out, _ = cbk("ls")
    rows = [line.split("\t") for line in out.splitlines()]
    assert rows[0] == ["stored", "s3", "cars/a.png", "1", "1", "car-erp/cars/a/v1.gzip", ""]
    assert [len(row) for row in rows] == [7, 7, 7]
    assert rows[2][-1].startswith("Hash is not a SHA-256")


def test_ls_on_a_terminal_is_a_table(cbk, listed, environment):
    environment.setenv("FORCE_COLOR", "1")
    environment.setenv("COLUMNS", "150")
    _, out, _ = cbk("ls")
    assert "location or reason" in out.splitlines()[0]
    assert "s3/cars/a.png" in out.splitlines()[1]


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        (["--state", "stored"], ["cars/a.png"]),
        (["--state", "declined"], ["declined.txt"]),
        (["--storage", "azure"], ["declined.txt"]),
        (["--storage", "s3"], ["cars/a.png", "cars/b.png"]),
        (["--prefix", "cars/b"], ["cars/b.png"]),
        (["--prefix", "dec"], ["declined.txt"]),
        (["--storage", "s3", "--prefix", "dec"], []),
        (["--prefix", "CARS/"], []),
        (["--prefix", "/cars/"], ["cars/a.png", "cars/b.png"]),
        (["*.png"], ["cars/a.png", "cars/b.png"]),
        (["/cars/**"], ["cars/a.png", "cars/b.png"]),
        (["*.txt"], ["declined.txt"]),
        (["a.png"], []),
        (["cars/[!a].???", "--storage", "s3"], ["cars/b.png"]),
        (["--key", "cars/a.png"], ["cars/a.png"]),
        (["--key", "/cars/a.png"], ["cars/a.png"]),
        (["--key", "declined.txt"], ["declined.txt"]),
        (["--key", "cars/a"], []),
        (["--bucket", "car-erp"], ["cars/a.png", "cars/b.png"]),
        (["--newest"], ["cars/a.png", "cars/b.png"]),
        (["--deleted"], []),
        (["--no-deleted"], ["cars/a.png", "cars/b.png", "declined.txt"]),
        (["--since", "1h"], ["cars/a.png"]),
        (["--until", "1h"], []),
        (["--since", "2000-01-01", "--until", "2999-01-01"], ["cars/a.png"]),
    ],
)
def test_ls_lists_only_what_is_asked_for(cbk, listed, options, keys):
    _, out, _ = cbk("ls", *options)
    assert [line.split("\t")[2] for line in out.splitlines()] == keys


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["a.png"], "a pattern is compared with the whole key, which has no storage or bucket in front of it: cbk ls '*a.png*'"),
        (["--storage", "s4"], "`cbk ls` without options lists everything, with storage and key; upper and lower case differ"),
        (
            ["--prefix", "Cars/", "--json"],
            "`cbk ls` without options lists everything, with storage and key; upper and lower case differ",
        ),
    ],
    ids=["pattern", "storage", "prefix"],
)
def test_ls_of_a_name_that_nothing_has_says_so_and_how_to_find_it(cbk, listed, options, hint):
    assert cbk("ls", *options) == (0, "", f"cbk: nothing that the kit knows matches\nHINT: {hint}\n")


@pytest.mark.parametrize("options", [["--refresh"], ["--state", "expired"], ["--until", "1h"]], ids=" ".join)
def test_ls_is_silent_where_it_is_an_answer_that_there_is_none(cbk, listed, options):
    assert cbk("ls", *options) == (0, "", "")


def test_ls_of_a_time_that_is_none_ends_with_2_and_says_what_one_is(cbk, listed):
    code, out, err = cbk("ls", "--since", "yesterday")
    assert (code, out) == (2, "")
    assert err.startswith("cbk: 'yesterday' is no time\nHINT: such as ")


def test_long_ls_into_a_pipe_has_its_further_columns_behind_the_others(cbk, listed):
    short, long = ([line.split("\t") for line in cbk("ls", *options)[1].splitlines()] for options in ([], ["--long"]))
    assert [line[:7] for line in long] == short
    bucket, row, newest, deleted, stored_size, stored_at, verified_at, pruned_at, due_at, digest, proof = long[0][7:]
    assert (bucket, row, newest, deleted, pruned_at, due_at) == ("car-erp", "1", "True", "False", "", "")
    assert int(stored_size) > 1
    assert stored_at[:2] == verified_at[:2] == "20"
    assert (len(digest), proof) == (64, "sha256")
    assert len(long[2]) == len(long[0])


def test_long_ls_on_a_terminal_has_more_columns(cbk, listed, environment):
    environment.setenv("FORCE_COLOR", "1")
    environment.setenv("COLUMNS", "200")
    headings, stored, *_ = cbk("ls", "--long")[1].splitlines()
    assert [heading in headings for heading in ("on disk", "stored", "verified", "row", "location or reason")] == [True] * 5
    assert stored.split()[-2:] == ["1", "car-erp/cars/a/v1.gzip"]


def test_ls_on_a_terminal_begins_another_table_after_so_many_lines(cbk, listed, environment):
    environment.setenv("FORCE_COLOR", "1")
    environment.setenv("COLUMNS", "200")
    environment.setattr("cbk.cli.status.ls.TABLE_ROWS", 2)
    lines = cbk("ls")[1].splitlines()
    assert [number for number, line in enumerate(lines) if "location or reason" in line] == [0, 3]
    assert len(lines) == 5


def test_ls_knows_every_state(cbk, listed):
    assert {cbk("ls", "--state", state.value)[0] for state in VersionState} == {0}


# ---- history ---------------------------------------------------------------------------------------------------------------


def test_history_tells_state_and_events_of_each_version_newest_first(cbk, site):
    for number in (1, 2):
        site.upload("cars/a.png", b"%d" % number, version=number, served_at=f"/{number}")
    site.delete(site.upload("cars/b.png", b"b"))
    site.work()
    code, out, err = cbk("history", "cars/a.png")
    assert (code, err) == (0, "")
    lines = [line.split("+00:00  ")[-1] for line in out.splitlines()]
    assert lines == [
        "s3/cars/a.png v2  stored: car-erp/cars/a/v2.gzip",
        "seen        row 2",
        "stored",
        "verified",
        "s3/cars/a.png v1  superseded: v2 is stored",
        "seen        row 1",
        "superseded  v2 was stored",
    ]
    [deleted] = [line for line in cbk("history", "cars/b.png")[1].splitlines() if "until" in line]
    assert re.fullmatch(r"  20\S+ \S+\+00:00  deleted     until 20\S+ \S+\+00:00, delete-log row 1", deleted)


def test_history_as_json_is_what_ls_says_and_the_events(cbk, listed):
    [line] = cbk("history", "cars/a.png", "--json")[1].splitlines()
    told = json.loads(line)
    events = told.pop("events")
    assert told == json.loads(cbk("ls", "--key", "cars/a.png", "--json")[1])
    assert [event["event"] for event in events] == WHOLE
    assert events[0] == {"at": events[0]["at"], "event": "seen", "until": None, "detail": "row 1"}


def test_history_of_a_declined_row_tells_why(cbk, listed):
    _, out, _ = cbk("history", "declined.txt")
    assert out.startswith("azure/declined.txt v1  declined: Hash is not a SHA-256")
    assert json.loads(cbk("history", "declined.txt", "--json")[1])["events"] == []


def test_history_of_an_unknown_file_ends_with_2_and_says_how_to_find_it(cbk, listed):
    code, out, err = cbk("history", "a.png")
    assert (code, out) == (2, "")
    assert err.splitlines()[1] == "HINT: a key has no storage or bucket in front of it: cbk ls '*a.png*'"


# ---- names that are not meant for a terminal ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hostile_rows(tmp_path_factory, origin):
    """Two files with the same hostile name, one stored and one not, and a row that is hostile in every column."""
    site = InProcessSite(tmp_path_factory.mktemp("hostile"), origin, broker_url=AWAY)
    site.upload(HOSTILE + ".png", b"x", served_at="/hostile")
    site.upload(HOSTILE + ".txt", b"x", status(503), served_at="/failing")
    site.change(site.upload("x", b"x", storage=HOSTILE), Hash=HOSTILE, Name=HOSTILE)
    site.work()
    yield site
    site.close()


@pytest.fixture
def hostile(hostile_rows, live_in):
    return live_in(hostile_rows)


@pytest.mark.parametrize(
    "command",
    [
        ["ls"],
        ["ls", "--json"],
        ["status"],
        ["status", "--json"],
        ["history", HOSTILE + ".png"],
        ["history", HOSTILE + ".png", "--json"],
    ],
)
def test_control_characters_of_a_key_do_not_reach_the_terminal(cbk, hostile, command):
    code, out, err = cbk(*command)
    assert code in {0, 4}
    assert err == ""
    assert [character for character in out if not character.isprintable() and character not in "\n\t"] == []
    assert "\nforged" not in out
    assert out.isascii() or "ünï 日本" in out


def test_control_characters_of_a_reason_do_not_reach_the_terminal(cbk, site):
    site.upload("a.txt", b"x", status(503))
    site.work()
    with site.context.catalog.database.writing() as connection:
        connection.exec_driver_sql("UPDATE versions SET reason = ?", (HOSTILE,))
    for command in ("status", "ls"):
        assert "\\x1b[31mred\\nforged\\x9b2J\\u202egnp.exe" in cbk(command)[1]


def test_key_comes_out_of_json_as_it_is(cbk, hostile):
    _, out, _ = cbk("ls", "--json")
    assert [json.loads(line)["key"] for line in out.splitlines()][:2] == [HOSTILE + ".png", HOSTILE + ".txt"]


def test_table_on_a_terminal_shows_escapes_as_text(cbk, hostile, environment):
    environment.setenv("FORCE_COLOR", "1")
    environment.setenv("NO_COLOR", "1")
    environment.setenv("COLUMNS", "300")
    _, out, _ = cbk("ls")
    assert "\x1b[31m" not in out
    assert "\\x1b[31mred\\nforged\\x9b2J\\u202egnp.exe" in out


def test_markup_in_a_key_is_no_markup(cbk, site, environment):
    environment.setenv("FORCE_COLOR", "1")
    environment.setenv("NO_COLOR", "1")
    site.upload("[red]a[/red].txt", b"x", status(503))
    site.work()
    assert "s3/[red]a[/red].txt v1" in cbk("status")[1]
    assert "s3/[red]a[/red].txt" in cbk("ls")[1]


def test_terminal_that_knows_only_ascii_gets_the_rest_as_escapes(hostile):
    done = real("status", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (4, "")
    assert "cars/\\xfcn\\xef \\u65e5" in done.stdout


# ---- doctor ----------------------------------------------------------------------------------------------------------------


def test_doctor_looks_at_every_part_and_ends_with_1_where_one_is_broken(cbk, site):
    code, out, _ = cbk("doctor")
    assert code == 1
    parts = {line[5:13].strip(): line[:4].strip() for line in reversed(out.splitlines()) if not line.startswith(" ")}
    assert list(reversed(parts)) == ["settings", "source", "catalog", "broker", "disk", "clock"]
    assert (parts["source"], parts["catalog"], parts["broker"]) == ("ok", "ok", "fail")
    assert "Redis is away: " in out
    assert "\n              HINT: start it " in out


def test_doctor_as_json_is_one_object_per_line(cbk, site):
    code, out, _ = cbk("doctor", "--json")
    findings = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert all(list(finding) == ["part", "level", "message", "hint"] for finding in findings)
    assert {finding["level"] for finding in findings} <= {"ok", "warn", "fail"}
    assert [finding["part"] for finding in findings if finding["level"] == "fail"] == ["broker"]
    assert all(finding["hint"] for finding in findings if finding["level"] != "ok")


def test_doctor_finds_a_setting_that_is_misspelt(cbk, site, environment):
    environment.setenv("CBK_POLL_INTERVALL", "1s")
    _, out, _ = cbk("doctor")
    assert "warn settings CBK_POLL_INTERVALL (did you mean CBK_POLL_INTERVAL?) is no setting of this kit\n" in out


def test_doctor_goes_on_past_every_broken_part(cbk, site, environment, tmp_path):
    environment.setenv("CBK_SOURCE_URL", f"sqlite:///{tmp_path}/nothing.db")
    environment.setenv("CBK_CATALOG_URL", f"sqlite:///{tmp_path}/no/catalog.db")
    code, out, _ = cbk("doctor", "--json")
    broken = [finding["part"] for finding in map(json.loads, out.splitlines()) if finding["level"] == "fail"]
    assert (code, broken) == (1, ["source", "catalog", "broker", "disk", "clock"])


# ---- schema and resync -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["postgresql", "mysql", "sqlite"])
def test_schema_prints_tables_and_grants_without_any_setting(cbk, environment, dialect):
    code, out, err = cbk("schema", dialect)
    assert (code, err) == (0, "")
    assert "ObjectStorageFiles" in out
    assert "ObjectStorageDeleteLog" in out
    assert ("GRANT SELECT" in out) is (dialect != "sqlite")


def test_schema_names_the_user_that_is_asked_for(cbk):
    assert 'TO "backup";' in cbk("schema", "postgresql", "--user", "backup")[1]


def test_resync_that_names_nothing_ends_with_2(cbk, site):
    code, _, err = cbk("resync")
    assert code == 2
    assert err.startswith("cbk: a resync takes storage and key, or the Id of a row\nHINT: ")


def test_dry_resync_says_what_it_would_do_without_a_broker(cbk, site):
    site.upload("a.txt", b"x")
    site.work()
    (site.root / "car-erp/a/v1.gzip").unlink()
    code, out, err = cbk("resync", "--storage", "s3", "--key", "a.txt", "--dry-run", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "outcome": "would fetch",
        "file": "s3/a.txt",
        "rows": 1,
        "again": 1,
        "why": "v1: its copy was not on the disk",
    }
    assert site.states() == {("a.txt", 1): "stored"}


def test_resync_without_a_broker_ends_with_1_and_uses_that_of_the_named_file(site, environment, tmp_path):
    site.upload("a.txt", b"x")
    file = tmp_path / "cbk.toml"
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in site.settings.items() if name != "buckets"))
    for name in site.environment:
        environment.delenv(name)
    (tmp_path / "impatient.py").write_text("broker_connection_timeout = 0.01\n")
    environment.setenv("CBK_CELERY_CONFIG", str(tmp_path / "impatient.py"))
    done = real("--config", str(file), "resync", "--storage", "s3", "--key", "a.txt")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("cbk: the messages could not be sent: Redis is away: ")
    assert "\nHINT: start it " in done.stderr


# ---- secrets -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["init", "doctor", "status", "ls"])
def test_password_is_never_printed(cbk, site, environment, command):
    away = "postgresql+psycopg://cbk:hunter2@127.0.0.1:1/app"
    environment.setenv("CBK_SOURCE_URL", away)
    environment.setenv("CBK_CATALOG_URL", away)
    environment.setenv("CBK_FLOWER_AUTH", "dev:hunter2")
    code, out, err = cbk(command)
    assert code == 1
    assert "hunter2" not in out + err
    assert "127.0.0.1" in out + err


def test_signature_of_a_link_is_never_printed(cbk, site):
    with Origin() as elsewhere:
        site.upload("a.txt", b"x", link=elsewhere.url("/a", "X-Amz-Signature=DEADBEEFSECRET"))
        site.upload("b.txt", b"x", status(403))
        site.change(site.upload("c.txt", b"x"), Hash=site.link("/c"))
        site.work()
    shown = "".join(out + err for _, out, err in (cbk("status"), cbk("ls"), cbk("ls", "--json"), cbk("status", "--json")))
    assert "declined" in shown
    assert "DEADBEEF" not in shown
