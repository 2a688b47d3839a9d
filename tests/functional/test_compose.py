"""docker-compose.dev.yml and the Dockerfile without Docker: valid by the specification, and every command in them runs."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from fnmatch import fnmatch
from pathlib import Path

import jsonschema
import pytest
import yaml

from cbk.settings import Settings, unknown_names
from cbk_app.schema import ddl, grants
from local_servers import S3, Postgres, Server, Valkey, free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.dev.yml").read_text())
SERVICES = COMPOSE["services"]
KIT_SERVICES = ("init", "worker", "beat", "flower", "page")
DATABASES_SQL = ROOT / "docker/dev-databases.sql"
COMMANDS = Path(sys.executable).parent


def kit_settings(**replaced_hosts):
    """The environment of the kit's services, with the names of other services replaced by where these are in a test."""
    settings = dict(SERVICES["worker"]["environment"])
    for name, value in settings.items():
        for host, address in replaced_hosts.items():
            value = re.sub(rf"(?<=[@/]){host}(:\d+)?(?=/|$)", address, value)  # noqa: PLW2901 - one change upon another
        settings[name] = value
    return settings


def command_of(service):
    """A service's command as Compose splits it, `$$` being its way to write a dollar."""
    return shlex.split(SERVICES[service]["command"].replace("$$", "$"))


def health_command_of(service):
    kind, *words = SERVICES[service]["healthcheck"]["test"]
    words = [word.replace("$$", "$") for word in words]
    return ["sh", "-c", *words] if kind == "CMD-SHELL" else words


# --- the file ---


def test_file_is_valid_by_the_compose_specification():
    schema = json.loads((ROOT / "tests/data/compose-spec/compose-spec.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(COMPOSE)


def test_images_are_pinned_by_tag():
    images = {name: service["image"] for name, service in SERVICES.items()}
    assert all(re.fullmatch(r"[\w/-]+:[\w.-]+", image) and not image.endswith(":latest") for image in images.values()), images


def test_all_but_the_one_that_ends_have_a_health_check():
    assert {name for name, service in SERVICES.items() if "healthcheck" not in service} == {"init"}


def test_what_a_service_waits_for_can_happen():
    for name, service in SERVICES.items():
        for other, wait in service.get("depends_on", {}).items():
            if wait["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], name
            else:
                assert (wait["condition"], SERVICES[other]["restart"]) == ("service_completed_successfully", "no"), name


def test_worker_can_be_scaled():
    assert not {"container_name", "hostname", "ports"} & set(SERVICES["worker"])


def test_workers_share_a_catalog_that_several_machines_can_share():
    assert kit_settings()["CBK_CATALOG_URL"].startswith("postgresql+psycopg://")


def test_kit_services_have_the_same_settings():
    assert len({json.dumps(SERVICES[name]["environment"]) for name in KIT_SERVICES}) == 1


def test_kit_settings_are_valid_and_known(monkeypatch):
    for name, value in kit_settings().items():
        monkeypatch.setenv(name, value)
    Settings()
    assert unknown_names(kit_settings()) == []


def test_image_is_built_once_for_all_of_the_kit():
    assert [name for name in KIT_SERVICES if "build" in SERVICES[name]] == ["init"]
    assert len({SERVICES[name]["image"] for name in KIT_SERVICES}) == 1
    assert all("init" in SERVICES[name]["depends_on"] for name in KIT_SERVICES if name != "init")


def test_something_reaps_what_health_checks_leave_behind():
    assert all(SERVICES[name]["init"] is True for name in KIT_SERVICES)


def test_health_check_of_the_kit_starts_no_python():
    for name in KIT_SERVICES[1:]:
        assert not re.search(r"\b(python|celery|cbk)\b", " ".join(health_command_of(name)).replace("CBK_", "")), name


def test_only_servers_of_the_file_have_a_place_of_their_own():
    """What has no volume named here, and wants one, gets an anonymous one with each container."""
    assert SERVICES["valkey"]["tmpfs"] == "/data"


def test_backup_disk_is_one_volume_at_the_backup_root():
    root = kit_settings()["CBK_BACKUP_ROOT"]
    assert SERVICES["init"]["volumes"] == SERVICES["worker"]["volumes"] == [f"backups:{root}"]


def test_published_ports_are_open_to_this_machine_alone():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_file_takes_nothing_from_the_environment_of_whoever_starts_it():
    assert not re.search(r"(?<!\$)\$(?!\$)", (ROOT / "docker-compose.dev.yml").read_text())


def test_passwords_are_for_development():
    text = (ROOT / "docker-compose.dev.yml").read_text() + DATABASES_SQL.read_text()
    secrets = re.findall(r"PASSWORD:? '?([\w.-]+)|Key\": \"([\w-]+)|_AUTH: \w+:([\w-]+)|//\w+:([^@/\s]+)@", text)
    assert len(secrets) >= 8
    assert all("".join(found).startswith(("dev-", "...")) for found in secrets), secrets


# --- the servers ---


class ByCommand(Server):
    """A server of the Compose file, started by the command that stands there, in a folder and on ports of the test's own."""

    def prepare(self):
        self.folder.mkdir(parents=True, exist_ok=True)


class ComposeValkey(ByCommand, Valkey):
    name = "compose-valkey"

    def command(self):
        program, *options = command_of("valkey")
        assert program == "valkey-server"
        return [Valkey.command(self)[0], *options, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)]


class ComposeS3(S3):
    name = "compose-s3"

    def prepare(self):
        super().prepare()
        content = COMPOSE["configs"]["s3"]["content"]
        (credentials,) = json.loads(content)["identities"][0]["credentials"]
        self.access_key, self.secret_key = credentials["accessKey"], credentials["secretKey"]
        self._identities.write_text(content)

    def command(self):
        options = [option for option in command_of("s3") if not option.startswith(("-ip=", "-ip.bind=", "-s3.config="))]
        mine = {
            "dir": self.folder / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "s3.config": self._identities,
            **self._ports,
        }
        return [S3.command(self)[0], *options, *(f"-{key}={value}" for key, value in mine.items())]


def test_valkey_command_makes_a_server_that_refuses_rather_than_drops(tmp_path):
    with ComposeValkey(tmp_path) as valkey, socket.create_connection(("127.0.0.1", valkey.port)) as connection:
        connection.sendall(b"CONFIG GET maxmemory-policy\r\n")
        assert b"noeviction" in connection.recv(200)


def test_s3_command_makes_a_server_that_knows_the_key_of_the_file(tmp_path):
    with ComposeS3(tmp_path) as s3:
        client = s3.client()
        client.create_bucket(Bucket="car-erp")
        client.put_object(Bucket="car-erp", Key="a", Body=b"bytes")
        link = client.generate_presigned_url("get_object", Params={"Bucket": "car-erp", "Key": "a"})
        with urllib.request.urlopen(link, timeout=10) as answer:
            assert answer.read() == b"bytes"


def test_s3_health_check_asks_what_the_server_answers(tmp_path):
    (url,) = [word for word in health_command_of("s3") if word.startswith("http:")]
    with ComposeS3(tmp_path) as s3, urllib.request.urlopen(url.replace("8333", str(s3.port)), timeout=10) as answer:
        assert answer.status == 200


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """A server that ran the file's SQL for its first start, as the image does it."""
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        psql = [
            server._tool("psql"),
            "--set=ON_ERROR_STOP=1",
            "--quiet",
            "--host=127.0.0.1",
            f"--port={server.port}",
            "--username=postgres",
        ]
        subprocess.run([*psql, f"--file={DATABASES_SQL}"], env=server._environment(), check=True)
        yield server


def test_databases_hold_what_cbk_schema_prints():
    sql = DATABASES_SQL.read_text()
    assert ddl("postgresql") in sql
    assert grants("postgresql") in sql


def test_databases_let_the_kit_read_and_no_more(postgres):
    assert postgres.execute('SET ROLE cbk_reader; SELECT count(*) FROM "ObjectStorageFiles"', "app") == [(0,)]
    privileges = postgres.execute(
        "SELECT DISTINCT privilege_type FROM information_schema.table_privileges WHERE grantee = 'cbk_reader'", "app"
    )
    assert privileges == [("SELECT",)]


def test_postgres_health_check_asks_what_the_server_answers(postgres):
    program, *options = health_command_of("postgres")
    answered = subprocess.run(
        [postgres._tool(program), *options, f"--port={postgres.port}"], env=postgres._environment(), check=False
    )
    assert answered.returncode == 0


# --- the kit ---


@pytest.fixture(scope="module")
def kit_environment(tmp_path_factory, postgres):
    """The settings of the Compose file, for servers that run here; HOSTNAME as it is in a container."""
    folder = tmp_path_factory.mktemp("compose")
    with Valkey(folder) as valkey:
        settings = kit_settings(postgres=f"127.0.0.1:{postgres.port}", valkey=f"127.0.0.1:{valkey.port}")
        settings["CBK_BACKUP_ROOT"] = str(folder / "backups")
        (folder / "backups").mkdir()
        plain = {name: value for name, value in os.environ.items() if not name.startswith("CBK_")}
        path = f"{COMMANDS}{os.pathsep}{os.environ['PATH']}"
        yield plain | settings | {"HOSTNAME": socket.gethostname(), "PATH": path}


@pytest.fixture(scope="module")
def kit_folder(tmp_path_factory):
    """The image's working folder: celeryconfig.py and nothing else."""
    folder = tmp_path_factory.mktemp("image")
    shutil.copy(ROOT / "celeryconfig.py", folder)
    return folder


@pytest.fixture(scope="module")
def initialised(kit_environment, kit_folder):
    """`init` ran, twice: as the first start and every later one do."""
    for _ in range(2):
        done = subprocess.run(command_of("init"), env=kit_environment, cwd=kit_folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("initialised")
@pytest.mark.parametrize("service", ["worker", "beat", "flower", "page"])
def test_service_runs_and_its_health_check_says_so(service, kit_environment, kit_folder, tmp_path):
    port = free_port()
    command = command_of(service) + ([f"--port={port}"] if service == "flower" else [])
    alive = str(tmp_path / "alive")
    health = [re.sub("555[56]", str(port), word).replace("/tmp/alive", alive) for word in health_command_of(service)]
    environment = kit_environment | {"CBK_PAGE_PORT": str(port), "CBK_ALIVE_FILE": alive}
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(command, env=environment, cwd=kit_folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def is_healthy():
            assert process.poll() is None, (tmp_path / "log").read_text()
            return subprocess.run(health, env=kit_environment, cwd=kit_folder, capture_output=True, check=False).returncode == 0

        try:
            wait_until(is_healthy, 90, lambda: f"{service} to be healthy; its log:\n{(tmp_path / 'log').read_text()}")
        finally:
            process.terminate()
            process.wait(90)


@pytest.mark.usefixtures("initialised")
@pytest.mark.parametrize("service", ["worker", "beat", "flower", "page"])
def test_health_check_of_a_service_that_does_not_run_fails(service, kit_environment, kit_folder, tmp_path):
    port, alive = str(free_port()), str(tmp_path / "alive")
    health = [re.sub("555[56]", port, word).replace("/tmp/alive", alive) for word in health_command_of(service)]
    assert subprocess.run(health, env=kit_environment, cwd=kit_folder, capture_output=True, check=False).returncode != 0


@pytest.mark.parametrize("service", ["worker", "beat"])
def test_health_check_of_a_service_that_fell_silent_fails(service, tmp_path):
    health = [word.replace("/tmp/alive", str(tmp_path / "alive")) for word in health_command_of(service)]
    (tmp_path / "alive").touch()
    assert subprocess.run(health, check=False).returncode == 0
    two_minutes_ago = time.time() - 120
    os.utime(tmp_path / "alive", (two_minutes_ago, two_minutes_ago))
    assert subprocess.run(health, check=False).returncode != 0


def test_health_check_of_a_page_that_answers_with_an_error_fails():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse():
            with server.accept()[0] as connection:
                connection.sendall(b"HTTP/1.0 503 Service Unavailable\r\n\r\n")

        answering = threading.Thread(target=refuse)
        answering.start()
        health = [word.replace("5556", str(server.getsockname()[1])) for word in health_command_of("page")]
        assert subprocess.run(health, check=False).returncode != 0
        answering.join()


# --- the image ---


def dockerfile():
    """(instruction, argument) pairs, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line and not line.startswith("#")]


def test_image_starts_from_a_pinned_release():
    bases = [argument.split()[0] for instruction, argument in dockerfile() if instruction == "FROM"]
    assert all(re.fullmatch(r"python:3\.\d+-slim-\w+", base) for base in bases)
    assert len(set(bases)) == 1


def test_image_copies_only_what_is_there_and_not_ignored():
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sources = [
        source
        for instruction, argument in dockerfile()
        if instruction == "COPY" and not argument.startswith("--from")
        for source in argument.split()[:-1]
    ]
    assert set(sources) == set(allowed)
    assert all((ROOT / source).exists() for source in sources)


def test_image_needs_no_more_of_the_tree_than_it_copies(tmp_path):
    """What the build's second `pip install` does, from the copied files alone."""
    for name in [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]:
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True, parents=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, target)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        "wheels",
        ".",
    ]
    subprocess.run(pip, cwd=tmp_path, check=True, capture_output=True)
    assert any(fnmatch(path.name, "cloud_backup_kit-*-py3-none-any.whl") for path in (tmp_path / "wheels").iterdir())


def test_image_installs_by_hash_and_compiles_nothing():
    installs = [argument for instruction, argument in dockerfile() if instruction == "RUN" and "pip install" in argument]
    assert any("--require-hashes --only-binary :all: -r constraints/runtime.txt" in install for install in installs)
    assert all("--no-deps" in install or "--require-hashes" in install for install in installs)


def test_image_fixes_the_numbers_of_user_and_group():
    (making,) = [argument for instruction, argument in dockerfile() if instruction == "RUN" and "useradd" in argument]
    assert "groupadd --gid 10001 cbk" in making
    assert re.search(r"useradd .*--uid 10001 .*--gid cbk ", making)
    assert "--system" not in making  # numbers of the system's own are below 1000


def test_image_does_not_run_as_root():
    *_, user = [argument for instruction, argument in dockerfile() if instruction == "USER"]
    assert user == "cbk"


def test_image_runs_a_worker_without_a_shell_around_it():
    *_, command = [argument for instruction, argument in dockerfile() if instruction == "CMD"]
    assert json.loads(command) == command_of("worker")
