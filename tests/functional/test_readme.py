"""README.md, followed literally: what a newcomer types is what runs here, but for the installation."""

import os
import re
import signal
import subprocess
import sysconfig
from contextlib import suppress
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
PHOTO = bytes(range(256)) * 500


def commands_of(heading):
    """The shell blocks below a heading."""
    section = re.split(r"^## ", README.read_text(), flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(heading)]
    return re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def run(script, folder, environment):
    """What a shell prints that runs `script`; what it starts in the background ends with it."""
    # Into a file: a pipe would stay open for as long as what was started in the background.
    with (folder / "printed").open("w+") as printed, (folder / "errors").open("w+") as errors:
        shell = subprocess.Popen(
            ["sh", "-euc", script],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=errors,
            start_new_session=True,
        )
        try:
            code = shell.wait(timeout=240)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
        assert code == 0, (folder / "printed").read_text() + (folder / "errors").read_text()
    return (folder / "printed").read_text()


@pytest.fixture(scope="module")
def walk(servers_folder, valkey, tmp_path_factory):
    """The home folder of somebody who followed "Your own file, in ten minutes", and what they saw."""
    from local_servers import Postgres, free_port  # noqa: PLC0415 - started only where asked for

    home = tmp_path_factory.mktemp("home")
    (home / "photo.jpg").write_bytes(PHOTO)
    with Postgres(servers_folder) as postgres:
        postgres.create_database("app")
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("CBK_", "PG"))}
        paths = (sysconfig.get_path("scripts"), str(Path(postgres._tool("psql")).parent), plain["PATH"])
        environment = plain | {
            "HOME": str(home),
            "PATH": os.pathsep.join(paths),
            "PGHOST": "127.0.0.1",
            "PGPORT": str(postgres.port),
            "PGUSER": "postgres",
            "CBK_BROKER_URL": valkey.url,
        }
        _install, *steps = commands_of("Your own file, in ten minutes")
        script = "".join(steps).replace("8000", str(free_port()))
        assert "sleep 20\n" in script
        yield home, run(script.replace("sleep 20\n", "until cbk status; do sleep 1; done\n"), home, environment)


def test_ten_minutes_end_with_a_protected_file(walk):
    assert "everything is protected" in walk[1]
    assert "my-bucket/photos/photo/v1.gzip" in walk[1]


def test_ten_minutes_end_with_the_same_bytes_by_zcat(walk):
    assert walk[1].endswith("the same file\n")
    assert (walk[0] / "restored.jpg").read_bytes() == PHOTO


def test_commands_for_a_copy_say_what_it_is(walk, tmp_path):
    copy = walk[0] / "backups/my-bucket/photos/photo/v1.gzip"
    printed = run(f"copy={copy}\n" + "".join(commands_of("On the disk")), tmp_path, dict(os.environ))
    assert (tmp_path / "thumbnail.png").read_bytes() == PHOTO
    assert "photo.jpg" in printed
    assert '"storage":"s3","path":"photos/","name":"photo.jpg"' in printed


def test_two_commands_are_there():
    (block,) = commands_of("Two commands")
    for line in block.splitlines():
        assert os.access(README.parent / line.split()[0], os.X_OK)
