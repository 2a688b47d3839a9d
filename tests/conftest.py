"""Real servers, one of each for a whole run and started only when a test asks for them, and small makers of values."""

import os
import shutil
import signal
import tempfile
import uuid
from pathlib import Path

import pytest

import local_servers
from cbk.model import SourceRow
from local_servers import S3, Postgres, Valkey
from tests.dump_servers import MariaDB
from tests.dump_tools import reachable_programs
from tests.sshd import Sshd

# Whoever starts the tests with `&` has them ignore ^C, and with them all that they start: what is interrupted in a test must not.
signal.signal(signal.SIGINT, signal.default_int_handler)

# pytest-xdist runs several of us at once: nobody may take the port of another one's server that is down for a moment.
_NUMBER, _COUNT = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
local_servers.PORTS = local_servers.PORTS[int(_NUMBER) :: int(_COUNT)]


@pytest.fixture(scope="session")
def servers_folder():
    """A folder for the servers' data that PostgreSQL, running as `nobody`, may enter."""
    folder = Path(tempfile.mkdtemp(prefix="cbk-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def valkey(servers_folder):
    """The run's Valkey. A test that kills it starts it again."""
    with Valkey(servers_folder) as server:
        yield server


@pytest.fixture
def broker_url(valkey):
    """The URL of an empty Redis database."""
    import redis  # noqa: PLC0415 - as above

    valkey.start()
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
    return valkey.url


@pytest.fixture(scope="session")
def postgres(servers_folder):
    """The run's PostgreSQL cluster. A test that kills it starts it again."""
    with Postgres(servers_folder) as server:
        yield server


@pytest.fixture
def pg_database(postgres):
    """The name of a fresh, empty database; `postgres.url(pg_database)` is its URL."""
    name = f"test_{uuid.uuid4().hex}"
    postgres.start().create_database(name)
    yield name
    postgres.start().execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def mariadb(servers_folder):
    """The run's MariaDB. Skips, and says why, where none is installed."""
    with MariaDB(servers_folder) as server:
        yield server


@pytest.fixture(scope="session")
def sshd(servers_folder):
    """An sshd for one key; a test says with `force` what the key can run."""
    with Sshd(servers_folder / "sshd") as server:
        yield server


@pytest.fixture
def pg_programs(postgres, servers_folder, monkeypatch):
    """The programs of the run's PostgreSQL, first on the PATH."""
    programs = reachable_programs(postgres, servers_folder)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}:/usr/sbin")
    return programs


@pytest.fixture(scope="session")
def s3(servers_folder):
    """The run's S3 server. A test takes a bucket of its own name."""
    with S3(servers_folder) as server:
        yield server


@pytest.fixture
def tmp_root(tmp_path):
    """An empty folder to be a backup root."""
    root = tmp_path / "backups"
    root.mkdir()
    return root


@pytest.fixture
def make_row():
    """A function that makes a `SourceRow` that makes sense, but for what a test overrides."""

    def make(**overrides):
        values = {
            "id": "1",
            "storage": "s3",
            "path": "cars/id-1/",
            "name": "thumbnail.png",
            "version": 1,
            "hash": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "link": "https://objects.example.com/car-erp/cars/id-1/thumbnail.png?X-Amz-Signature=secret",
        }
        return SourceRow(**values | overrides)

    return make
