"""The documentation says what is: names, shapes and links in it are compared with the code."""

import json
import os
import re
import sqlite3
import subprocess
import sys
import tomllib
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

import settings_doc
from cbk import errors
from cbk.cli.main import cli
from cbk.jobs.context import open_context
from cbk.jobs.intake.rows import record_rows
from cbk.jobs.poll.poll import poll
from cbk.model import VersionState
from cbk.rules.status.health import Kind
from cbk.settings import OTHER_NAMES, PREFIX, Settings, load_settings
from cbk_app.schema import ddl
from tests.in_process_site import CollectingPublisher

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
HASH = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def name_of(path):
    return str(path.relative_to(ROOT))


def blocks(page, kind):
    """The fenced blocks of a page that are marked as `kind`."""
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchor_of(heading):
    """What GitHub makes of a heading for links."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_settings_page_is_what_the_settings_say():
    assert settings_doc.render() == settings_doc.PAGE.read_text(), "run scripts/settings-doc"


def test_settings_example_is_valid(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    (example,) = blocks(DOCS / "settings.md", "toml")
    (tmp_path / "cbk.toml").write_text(example)
    settings = load_settings(tmp_path / "cbk.toml")
    assert settings.bucket("s3") == tomllib.loads(example)["buckets"]["s3"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_page_names_only_settings_that_there_are(page):
    known = {PREFIX + name.upper() for name in Settings.model_fields} | OTHER_NAMES
    assert set(re.findall(r"\bCBK_[A-Z_]*[A-Z]\b", page.read_text())) <= known


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_page_links_to_what_is_there(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        headings = re.findall(r"^#+ (.*)$", linked.read_text(), flags=re.MULTILINE) if anchor else []
        assert not anchor or anchor in {anchor_of(heading) for heading in headings}, target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_page_names_only_commands_that_there_are(page):
    code = re.findall(r"`[^`\n]+`|^(?: {4}|```sh\n(?:.*\n)*?```).*$", page.read_text(), flags=re.MULTILINE)
    named = {name for text in code for name in re.findall(r"(?:^|[`\n] *)cbk ([a-z]+)", text)}
    assert named <= set(cli.commands)


def test_every_command_is_documented():
    documented = re.findall(r"^## cbk ([a-z]+)$", (DOCS / "commands.md").read_text(), flags=re.MULTILINE)
    assert sorted(documented) == sorted(cli.commands)


def test_readme_names_every_command():
    (named,) = re.findall(r"^`cbk ([a-z ·\n]+)`, each", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert sorted(named.replace("\n", " ").split(" · ")) == sorted(cli.commands)


def test_every_command_with_json_has_its_shape_documented():
    text = (DOCS / "commands.md").read_text()
    sections = dict(section.split("\n", 1) for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:])
    with_json = [name for name, command in cli.commands.items() if any("--json" in each.opts for each in command.params)]
    assert [name for name in with_json if "\n```json " not in sections[f"cbk {name}"]] == []


def test_index_leads_to_every_page():
    linked = set(re.findall(r"\]\(([a-z-]+\.md)", (DOCS / "README.md").read_text()))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"README.md"}


def test_every_exit_code_of_its_own_is_documented():
    """A command whose module ends with a code of its own has a row that names the code."""
    table = dict(
        re.findall(
            r"^\| `cbk ([a-z]+)` \| (.*) \|$", (DOCS / "commands.md").read_text().split("## cbk schema")[0], flags=re.MULTILINE
        )
    )
    codes = {name: set(re.findall(r"\b([1-9]):", text)) for name, text in table.items()}
    some_failed = ("ls", "restore", "verify", "drill", "rebuild", "mirror", "notify")
    own = {"3": some_failed, "4": ("status",), "1": ("doctor", "notify", "cat")}
    assert [(name, code) for code, names in own.items() for name in names if code not in codes[name]] == []


def test_every_option_of_a_command_is_documented():
    sections = re.split(r"^## cbk ", (DOCS / "commands.md").read_text(), flags=re.MULTILINE)
    texts = {section.split("\n", 1)[0]: section for section in sections}
    missing = [
        f"{name} {option}"
        for name, command in cli.commands.items()
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--") and option not in texts[name]
    ]
    assert missing == []


def test_every_command_about_dumps_is_documented_with_its_options():
    section = (DOCS / "commands.md").read_text().split("\n## cbk dump\n")[1].split("\n## ")[0]
    missing = [
        f"{name} {option}"
        for name, command in cli.commands["dump"].commands.items()
        for option in (f"cbk dump {name}", *(each for parameter in command.params for each in parameter.opts))
        if option.startswith(("--", "cbk")) and option not in section
    ]
    assert missing == []


def test_glossary_explains_every_state():
    explained = re.findall(r"^\| \*\*([a-z]+)\*\* \| .* \| .* \| .* \|$", (DOCS / "glossary.md").read_text(), flags=re.MULTILINE)
    assert sorted(explained) == sorted(VersionState)


# What went wrong, by what one sees


def trouble(section):
    """A section of the page, from its heading to the next one of its rank."""
    return re.split(r"^## ", (DOCS / "troubleshooting.md").read_text().split(f"\n## {section}\n")[1], flags=re.MULTILINE)[0]


def error_rows():
    """The cells of the tables of errors, row by row."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in re.findall(r"^\| .*$", trouble("Errors"), flags=re.MULTILINE)
    ]
    return [row for row in rows if row[0] != "error"]


def test_trouble_has_a_heading_for_every_kind_of_problem():
    assert sorted(re.findall(r"^### ([a-z_]+)$", trouble("Problems"), flags=re.MULTILINE)) == sorted(Kind)


def test_trouble_has_a_row_for_every_state():
    assert re.findall(r"^\| `([a-z]+)` \|", trouble("States"), flags=re.MULTILINE) == list(VersionState)


def test_trouble_has_a_row_for_every_error_that_is_raised():
    groups = {"CbkError", "SourceError", "CatalogError", "DownloadError", "DumpError"}  # what is raised has a class below these
    raised = {
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.CbkError)
    } - groups
    assert {row[0].strip("`") for row in error_rows() if row[0].startswith("`")} == raised


def test_trouble_knows_the_state_that_an_error_leads_to():
    table = trouble("Errors").split("### Links and downloads")[1]
    named = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", table, flags=re.MULTILINE))
    assert named == {name: getattr(errors, name).state for name in named}
    assert {cls.__name__ for cls in errors.DownloadError.__subclasses__()} == set(named)


def test_trouble_quotes_what_is_really_said():
    source = "\n".join(path.read_text() for path in (ROOT / "cbk").rglob("*.py"))
    quoted = re.findall(r"^ {4}(.*)$", trouble("Problems"), flags=re.MULTILINE)
    quoted += [words for row in error_rows() for words in re.findall(r"`([^`]*)`", row[-2])]
    quoted += re.findall(r"`([^`]*)`", "".join(re.findall(r"^\| (`.*?) \|", trouble("In the log"), flags=re.MULTILINE)))
    said = [part.strip() for line in quoted for part in line.split("...") if part.strip(" ():,")]
    assert [part for part in said if part not in source] == []


def test_kinds_of_problems_are_named_with_the_json_of_status():
    (named,) = re.findall(r"`kind` is one of (.*?) \|$", (DOCS / "commands.md").read_text(), flags=re.MULTILINE)
    # These are known only to who cannot give that answer, or are no state of things.
    elsewhere = {Kind.DISK_MISSING, Kind.CATALOG, Kind.CORRUPT}
    assert set(re.findall(r"`(\w+)`", named)) == set(Kind) - elsewhere


def test_decisions_are_numbered_as_their_files():
    pages = sorted((DOCS / "decisions").glob("*.md"))
    numbers = [page.name[:3] for page in pages]
    assert len(set(numbers)) == len(numbers)
    assert [page.read_text()[2:5] for page in pages] == numbers


# The JSON of the commands


@pytest.fixture
def full_site(tmp_path, monkeypatch):
    """A kit on SQLite that has taken in one row; gives the settings as environment."""
    source = tmp_path / "app.db"
    environment = {"CBK_SOURCE_URL": f"sqlite:///{source}", "CBK_BACKUP_ROOT": str(tmp_path / "backups")}
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.executescript(ddl("sqlite"))
        connection.execute(
            'INSERT INTO "ObjectStorageFiles" ("Name", "Path", "Storage", "Version", "Hash", "SignedDownloadUrl")'
            " VALUES ('thumbnail.png', 'cars/id-1/', 's3', 1, ?, 'https://objects.example.com/thumbnail.png')",
            [HASH],
        )
    assert CliRunner().invoke(cli, ["init", "--on-system-disk"]).exit_code == 0
    with closing(open_context(load_settings())) as context:
        record_rows(context, context.source.rows_after(None, 10))
    return environment


def shape(value):
    """The names in a JSON value, without what stands behind them; how many states or rows there are is no matter of shape."""
    if isinstance(value, dict):
        return {name: {} if name in {"states", "rows"} else shape(inner) for name, inner in value.items()}
    return [shape(inner) for inner in value[:1]] if isinstance(value, list) else None


def documented(command):
    (block,) = blocks(DOCS / "commands.md", f"json {command}")
    return shape(json.loads(block))


@pytest.mark.parametrize(("command", "exit_code"), [("status", 4), ("ls", 0), ("history cars/id-1/thumbnail.png", 0)])
def test_json_has_the_documented_shape(full_site, command, exit_code):
    result = CliRunner().invoke(cli, [*command.split(), "--json"])
    assert result.exit_code == exit_code
    assert shape(json.loads(result.stdout)) == documented(command.split()[0])


@pytest.mark.parametrize("command", ["pause 2h", "resume", "bandwidth 2M"])
def test_json_of_an_order_has_the_documented_shape(full_site, command):
    result = CliRunner().invoke(cli, [*command.split(), "--json"])
    assert shape(json.loads(result.stdout)) == documented(command.split()[0])


@pytest.mark.parametrize(("command", "name"), [("mirror usb", "mirror"), ("mirror", "elsewhere")])
def test_json_of_a_mirror_has_the_documented_shape(full_site, tmp_path, monkeypatch, command, name):
    (tmp_path / "usb").mkdir()
    monkeypatch.setenv("CBK_MIRRORS", json.dumps({"usb": {"path": str(tmp_path / "usb")}}))
    assert CliRunner().invoke(cli, ["mirror", "usb"]).exit_code == 0
    result = CliRunner().invoke(cli, [*command.split(), "--json"])
    assert shape(json.loads(result.stdout)) == documented(name)


def test_json_of_the_doctor_has_the_documented_shape(full_site):
    lines = CliRunner().invoke(cli, ["doctor", "--json"]).stdout.splitlines()
    assert {tuple(json.loads(line)) for line in lines} == {tuple(documented("doctor"))}


def test_json_of_a_declined_row_has_the_documented_shape(full_site, make_row):
    with closing(open_context(load_settings())) as context:
        record_rows(context, [make_row(id="2", hash="nonsense")])
    result = CliRunner().invoke(cli, ["ls", "--json", "--state", "declined"])
    assert shape(json.loads(result.stdout)) == documented("ls")


def test_json_of_a_resync_has_the_documented_shape(full_site):
    command = [
        sys.executable,
        "-m",
        "cbk.cli",
        "resync",
        "--storage",
        "s3",
        "--key",
        "cars/id-1/thumbnail.png",
        "--dry-run",
        "--json",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)} | full_site
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert shape(json.loads(done.stdout)) == documented("resync")


@pytest.fixture
def deleted(full_site):
    """The same, where the application has deleted the file, and the kit has seen it."""
    with closing(sqlite3.connect(full_site["CBK_SOURCE_URL"].removeprefix("sqlite:///"))) as connection, connection:
        connection.execute('INSERT INTO "ObjectStorageDeleteLog" ("FileId") VALUES (1)')
    with closing(open_context(load_settings())) as context:
        poll(context, CollectingPublisher(), pause=lambda _: True)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("prune --plan", "prune"),
        ("hold cars/id-1/thumbnail.png", "hold"),
        ("hold --list", "hold"),
        ("release cars/ --prefix", "release"),
        ("undelete cars/id-1/thumbnail.png", "undelete"),
    ],
)
def test_json_of_keeping_has_the_documented_shape(deleted, command, name):
    assert CliRunner().invoke(cli, ["hold", "cars/", "--prefix"]).exit_code == 0
    result = CliRunner().invoke(cli, [*command.split(), "--json"])
    assert {tuple(json.loads(line)) for line in result.stdout.splitlines()} == {tuple(documented(name))}


def test_json_of_a_test_message_has_the_documented_shape(full_site, monkeypatch):
    monkeypatch.setenv("CBK_NOTIFY", "json://127.0.0.1:9/")
    result = CliRunner().invoke(cli, ["notify", "--test", "--json"])
    assert (result.exit_code, shape(json.loads(result.stdout))) == (1, documented("notify"))


def test_json_of_a_rebuild_has_the_documented_shape(full_site):
    damaged = Path(full_site["CBK_BACKUP_ROOT"]) / "b/x/v1.gzip"
    damaged.parent.mkdir(parents=True)
    damaged.touch()
    result = CliRunner().invoke(cli, ["rebuild", "--json"])
    problem, done = (json.loads(line) for line in result.stdout.splitlines())
    assert (result.exit_code, shape(problem), shape(done)) == (3, documented("rebuild-problem"), documented("rebuild"))


def test_tests_that_the_threat_model_names_are_there():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (DOCS / "threat-model.md").read_text(encoding="utf-8"))
    assert len(named) > 10
    assert [(file, test) for file, test in named if f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8")] == []
