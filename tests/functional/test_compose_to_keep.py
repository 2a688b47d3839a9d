"""docker-compose.yml, the one to keep, without Docker: valid, without a secret; test_compose.py runs the same commands."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from cbk.settings import Settings, unknown_names
from tests.functional.test_compose import SERVICES as DEVELOPMENT

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES = COMPOSE["services"]
KIT_SERVICES = ("init", "worker", "beat", "page")
DISK_SERVICES = ("init", "worker", "page")
EXAMPLE = (ROOT / "docker/example.env").read_text()


def example_of(*, with_comments):
    """What example.env sets, or with what stands there as a comment."""
    lines = re.findall(r"^(#?)([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE)
    return {name: "".join(shlex.split(value)) for comment, name, value in lines if with_comments or not comment}


def test_file_is_valid_by_the_compose_specification():
    schema = json.loads((ROOT / "tests/data/compose-spec/compose-spec.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(COMPOSE)


def test_file_and_example_hold_no_password():
    assert not re.search(r"://[^/\s@]+:[^/\s@]+@|PASSWORD|dev-", TEXT + EXAMPLE)
    assert [value for name, value in example_of(with_comments=False).items() if name.endswith(("_AUTH", "_URL"))] == ["", ""]


def test_file_with_what_is_yours_is_not_committed():
    assert "/.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_example_names_what_the_file_asks_for_and_nothing_else():
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", TEXT))
    named = example_of(with_comments=True)
    assert asked == {name for name in named if not name.startswith("CBK_")}
    assert unknown_names(named) == []


def test_defaults_in_the_file_are_those_that_the_example_shows():
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", TEXT))
    shown = example_of(with_comments=True)
    assert defaults == {name: shown[name] for name in defaults}


def test_settings_are_valid_once_the_example_is_filled_in(monkeypatch):
    for name in [name for name in os.environ if name.startswith("CBK_")]:
        monkeypatch.delenv(name)
    filled = example_of(with_comments=False) | {
        "CBK_SOURCE_URL": "postgresql+psycopg://cbk_reader:x@db.example.com/app",
        "CBK_PAGE_AUTH": "me:a-password",
    }
    for name, value in (filled | SERVICES["worker"]["environment"]).items():
        monkeypatch.setenv(name, value)
    assert Settings().buckets == {"s3": "car-erp"}


@pytest.mark.parametrize("missing", ["CBK_SOURCE_URL", "CBK_PAGE_AUTH"])
def test_example_as_it_stands_starts_nothing(missing):
    assert example_of(with_comments=False)[missing] == ""


def test_page_without_a_password_does_not_start(tmp_path):
    settings = {"CBK_SOURCE_URL": f"sqlite:///{tmp_path}/app.db", "CBK_BACKUP_ROOT": str(tmp_path), "CBK_PAGE_AUTH": ""}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CBK_")} | settings
    command = [str(Path(sys.executable).parent / "cbk"), *shlex.split(SERVICES["page"]["command"])[1:]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "CBK_PAGE_AUTH" in done.stderr


def test_commands_and_health_checks_are_those_of_the_development_file():
    for name in KIT_SERVICES[1:]:
        assert (SERVICES[name]["command"], SERVICES[name]["healthcheck"]) == (
            DEVELOPMENT[name]["command"],
            DEVELOPMENT[name]["healthcheck"],
        )
    assert (SERVICES["valkey"]["command"], SERVICES["valkey"]["image"]) == (
        DEVELOPMENT["valkey"]["command"],
        DEVELOPMENT["valkey"]["image"],
    )


def test_everything_starts_again_by_itself_but_the_one_that_ends():
    assert {name: service["restart"] for name, service in SERVICES.items()} == {
        **dict.fromkeys(("valkey", "worker", "beat", "page"), "unless-stopped"),
        "init": "no",
    }


def test_disk_is_a_path_that_is_never_made():
    for name in DISK_SERVICES:
        (disk,) = SERVICES[name]["volumes"]
        assert disk["source"].startswith("${BACKUP_DISK:?")
        assert disk["target"] == SERVICES[name]["environment"]["CBK_BACKUP_ROOT"]
        assert disk["bind"] == {"create_host_path": False}
        assert disk.get("read_only", False) is (name == "page")
    assert "volumes" not in COMPOSE


def test_page_is_seen_on_this_machine_alone_unless_the_owner_says_otherwise():
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {"page": ["${BACKUP_PAGE:-127.0.0.1:5556}:5556"]}


def test_kit_may_write_to_nothing_but_its_disk_and_become_nobody_else():
    for name in KIT_SERVICES:
        service = SERVICES[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["tmpfs"] == str(Path(service["environment"]["CBK_ALIVE_FILE"]).parent)


def test_image_is_built_once_and_before_what_needs_it():
    assert [name for name in KIT_SERVICES if "build" in SERVICES[name]] == ["init"]
    assert SERVICES["init"]["depends_on"] == {}
    for name in KIT_SERVICES[1:]:
        assert SERVICES[name]["depends_on"]["init"]["condition"] == "service_completed_successfully"


def test_disk_is_made_ours_only_where_it_is_no_system_disk():
    assert SERVICES["init"]["command"] == "cbk init"


@pytest.mark.skipif(not shutil.which("docker"), reason="no docker here to ask")
@pytest.mark.parametrize(("filled", "code"), [("", 1), ("BACKUP_DISK=/srv/backups\n", 0)], ids=["without a disk", "filled in"])
def test_docker_compose_reads_the_file(tmp_path, filled, code):
    asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if asked.returncode:
        pytest.skip("docker has no compose here")
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    (tmp_path / ".env").write_text(filled)
    done = subprocess.run(
        ["docker", "compose", "config", "--quiet"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
