"""What the kit's processes write, send and are started with holds no part of a secret, whatever of their neighbours is wrong.

Every setting that may hold a secret holds one that is easy to recognise. Real processes meet them on four paths: connections that
are refused, passwords that are wrong, no TLS where it is wanted, and a day on which all goes well but for two files.
"""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
import requests

from cbk.settings import Settings
from local_servers import Postgres, Valkey, free_port, wait_until
from tests.functional.site import READER, Process, Site
from tests.integration.mirror.remotes import write_config

RUN = 4  # characters of a secret in a row that nobody may see
# Letters that neither a word nor a number in hex has, with one that a URL spells otherwise.
SECRETS = {
    name: f"{part[:6]}@{part[6:]}"
    for name, part in {
        "source": "QxZkWjVqXJ9K",
        "catalog": "ZqJxKwQvWk7X",
        "broker": "XkQzJvWqKx5Z",
        "notify": "JwXqZkVxQj3W",
        "heartbeat": "KqWxJzXvZq8J",
        "flower": "VxKjQwZxJq6K",
        "page": "WzQkXjKvJx4Q",
        "dump": "ZxVqWkJzKj9X",
        "remote": "XvJqKzWxQk7J",
        "link": "KwZvQxJkXq5W",
    }.items()
} | {"metrics": "QjWvKxZqXk2V-JwQzXqVkW"}  # which takes no @
PATHS = ["refused", "wrong password", "no TLS"]


class Keyed(Valkey):
    """A Valkey with a password."""

    def __init__(self, folder, password):
        super().__init__(folder)
        self.password = password

    def command(self):
        return [*super().command(), "--requirepass", self.password]

    def is_ready(self):
        with suppress(redis.ConnectionError), self.client() as client:
            return client.ping()

    def client(self):
        return redis.Redis(port=self.port, password=self.password)


def encoded(name):
    return quote(SECRETS[name], safe="")


def settings(folder, *, database_port, broker_port, broker_scheme="redis", query=""):
    """All settings that hold secrets; what is away is at port 1."""
    remote = write_config(
        folder / "rclone.conf",
        far={
            "type": "s3",
            "provider": "Other",
            "endpoint": "http://127.0.0.1:1",
            "access_key_id": "key",
            "secret_access_key": SECRETS["remote"],
        },
    )
    database = f"127.0.0.1:{database_port}/app{query}"
    return {
        "CBK_SOURCE_URL": f"postgresql+psycopg://{READER}:{encoded('source')}@{database}",
        "CBK_CATALOG_URL": f"postgresql+psycopg://cbk:{encoded('catalog')}@{database.replace('/app', '/catalog')}",
        "CBK_BROKER_URL": f"{broker_scheme}://:{encoded('broker')}@127.0.0.1:{broker_port}/0",
        "CBK_NOTIFY": f"json://cbk:{encoded('notify')}@127.0.0.1:1/",
        "CBK_HEARTBEAT_URL": f"http://127.0.0.1:1/{encoded('heartbeat')}",
        "CBK_FLOWER_AUTH": f"cbk:{SECRETS['flower']}",
        "CBK_PAGE_AUTH": f"cbk:{SECRETS['page']}",
        "CBK_METRICS_TOKEN": SECRETS["metrics"],
        "CBK_DUMPS": json.dumps({"app": {"url": f"postgresql://dumper:{encoded('dump')}@{database}"}}),
        "CBK_MIRRORS": json.dumps({"far": {"remote": "far:bucket", "config": str(remote or folder / "rclone.conf")}}),
        "CBK_FLOWER_PORT": str(free_port()),
        "CBK_PAGE_PORT": str(free_port()),
        "CBK_CONNECT_TIMEOUT": "1s",
    }


def parts_in(text):
    """What of any secret is in a text. A run that has two of its letters or fewer, such as `%40`, tells nothing."""
    found = set()
    for secret in SECRETS.values():
        for spelling in (secret, quote(secret, safe="")):
            for at in range(len(spelling) - RUN + 1):
                run = spelling[at : at + RUN]
                if run in text and sum(letter in secret.replace("@", "") for letter in run) >= RUN - 1:
                    found.add(run)
    return sorted(found)


def command_lines(processes):
    """How these processes and all that they started were called."""
    groups = {process.pid for process in processes}
    lines = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            if os.getpgid(int(folder.name)) in groups:
                lines.append((folder / "cmdline").read_bytes().decode(errors="replace"))
    return "\n".join(lines)


class Watched:
    """A site whose processes are started, and all that can be read of them."""

    def __init__(self, site):
        self.site = site
        self.said = []
        self.page = None

    def start(self):
        self.site.worker()
        self.site.beat()
        self.site.celery("flower")
        self.page = Process([sys.executable, "-m", "cbk.cli", "page"], self.site.env, self.site.folder / "page.log")
        self.site._processes.append(self.page)

    def run(self, *arguments):
        """A command, as somebody types it who wonders; its command line and those of what it starts are looked at meanwhile."""
        with subprocess.Popen(
            [sys.executable, "-m", "cbk.cli", *arguments],
            env=self.site.env,
            cwd=self.site.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as command:
            while command.poll() is None:
                self.said.append(command_lines([command]))
                with suppress(subprocess.TimeoutExpired):
                    command.wait(0.2)
            self.said.append(command.stdout.read())
        return self.said[-1]

    def ask(self, port, path, secret):
        """What a web page of the kit answers, with and without its password."""
        for auth in (None, ("cbk", "wrong"), ("cbk", SECRETS[secret])):
            with suppress(requests.RequestException):
                answer = requests.get(f"http://127.0.0.1:{self.site.env[port]}{path}", auth=auth, timeout=10)
                self.said.append(f"{answer.headers}\n{answer.text}")

    def answers(self, path):
        with suppress(requests.RequestException):
            return requests.get(f"http://127.0.0.1:{self.site.env['CBK_PAGE_PORT']}{path}", timeout=10).ok
        return False

    def everything(self):
        return "\n".join([*self.said, self.site.logs(), command_lines(self.site.processes)])


COMMANDS = (
    ["doctor"],
    ["dump", "now", "app"],
    ["mirror", "far"],
    ["notify", "--test"],
    ["status"],
    ["init"],
    ["resync", "--storage", "s3"],
)


def test_every_setting_that_holds_a_secret_has_one_here(tmp_path):
    here = {name.removeprefix("CBK_").lower() for name in settings(tmp_path, database_port=1, broker_port=1)}
    assert {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)} <= here


@pytest.fixture
def guarded(servers_folder):
    """A PostgreSQL that wants passwords of the kit's users, and other ones than they have."""
    with Postgres(servers_folder) as postgres:
        for role in ("cbk", "dumper"):
            postgres.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'another-one'")
        postgres.create_database("app")
        postgres.execute('CREATE DATABASE "catalog" OWNER cbk')
        rules = postgres.data_folder / "pg_hba.conf"
        rules.write_text(f"host all {READER},cbk,dumper 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        postgres.execute("SELECT pg_reload_conf()")
        yield postgres


@pytest.fixture
def site_of(origin, tmp_path):
    """A function that makes a site with these settings in the guarded database; its processes end with the test."""
    sites = []

    def make(postgres, planted):
        sites.append(Site(tmp_path, broker_url="", postgres=postgres, database="app", origin=origin, **planted))
        postgres.execute(f"ALTER ROLE {READER} PASSWORD 'another-one'")
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.mark.parametrize("path", PATHS)
def test_processes_that_meet_what_is_wrong_tell_no_part_of_a_secret(site_of, tmp_path, servers_folder, guarded, path):
    broker = Keyed(servers_folder, "another-one")
    broker.start()
    there = {"database_port": guarded.port, "broker_port": broker.port}
    if path == "refused":
        planted = settings(tmp_path, database_port=1, broker_port=1)
    elif path == "wrong password":
        planted = settings(tmp_path, **there)
    else:
        planted = settings(tmp_path, **there, broker_scheme="rediss", query="?sslmode=require")
    watched = Watched(site_of(guarded, planted))
    try:
        watched.start()
        for command in COMMANDS[:4]:
            assert watched.run(*command) != ""
        worker, beat, flower, page = watched.site.processes

        def page_says():
            return f"the page\n{page.log}"

        for process in (worker, beat, flower):
            wait_until(lambda process=process: process.log.strip() != "" or not process.is_running(), 90, watched.site.logs)
        wait_until(lambda: watched.answers("/healthz") or not page.is_running(), 90, page_says)
        watched.ask("CBK_PAGE_PORT", "/", "page")
        watched.ask("CBK_PAGE_PORT", "/metrics", "page")
        watched.ask("CBK_FLOWER_PORT", "/", "flower")
        wait_until(lambda: "edis" in worker.log or not worker.is_running(), 90, lambda: f"Redis in\n{worker.log}")
        assert parts_in(watched.everything()) == []
    finally:
        broker.kill()


def test_processes_at_work_leave_no_part_of_a_secret_anywhere(site_of, tmp_path, servers_folder, guarded):
    with Keyed(servers_folder, SECRETS["broker"]) as broker:
        site = site_of(guarded, settings(tmp_path, database_port=guarded.port, broker_port=broker.port))
        for role, name in ((READER, "source"), ("cbk", "catalog"), ("dumper", "dump")):
            guarded.execute(f"ALTER ROLE {role} PASSWORD '{SECRETS[name]}'")
        watched = Watched(site)
        site.init()
        watched.start()
        broken = f"http://127.0.0.1:1/x?X-Amz-Signature={encoded('link')}"
        site.upload("whole.txt", b"whole")
        site.upload("broken.txt", b"broken", link=broken)
        site.upload("denied.txt", b"denied", link=site.origin.url("/nothing", f"X-Amz-Signature={encoded('link')}"))
        seen = []

        def both_tried():
            with broker.client() as client:
                for key in client.keys("*"):
                    kind = client.type(key)
                    read = {b"list": lambda k: client.lrange(k, 0, -1), b"hash": client.hgetall, b"string": client.get}.get(kind)
                    seen.append(f"{key} {read(key) if read else client.dump(key)}")
            seen.append(command_lines(site.processes))
            states = site.states()
            return states.get(("whole.txt", 1)) == "stored" and states.get(("broken.txt", 1)) in {"failed", "declined", "expired"}

        wait_until(both_tried, 120, watched.everything, every_seconds=0.5)
        for command in COMMANDS:
            watched.run(*command)
        watched.ask("CBK_PAGE_PORT", "/", "page")
        watched.ask("CBK_PAGE_PORT", "/problems", "page")
        watched.ask("CBK_FLOWER_PORT", "/tasks", "flower")
        watched.ask("CBK_FLOWER_PORT", "/broker", "flower")
        assert "whole.txt" in watched.everything()
        assert any("unacked" in each or "backup" in each for each in seen)
        assert parts_in(watched.everything() + "\n".join(seen)) == []


def test_parts_of_a_secret_are_found():
    secret = SECRETS["source"]
    assert parts_in(f"password {secret[3:7]} wrong") == [secret[3:7]]
    assert parts_in(quote(f"{secret}/", safe="")) != []
    assert parts_in("nothing %40 of it") == []
