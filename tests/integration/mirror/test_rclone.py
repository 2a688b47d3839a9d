"""rclone as the kit drives it, at real remotes: S3, SFTP, a folder, and crypt over each."""

import os
import threading
import uuid
from pathlib import Path

import pytest

from cbk.edges.mirror import Rclone
from cbk.errors import MirrorUnavailable
from tests.integration.mirror.remotes import PASSWORD, SALT, crypt_over, rclone, s3_remote, sftp_remote, write_config
from tests.sshd import Sshd

KINDS = ["folder", "s3", "sftp", "folder-crypt", "s3-crypt", "sftp-crypt"]
NAMES = [
    "car-erp/cars/id-1/thumbnail/v1.gzip",
    "car-erp/Fotos/Straße nach Čáslav/v2.gzip",
    "car-erp/ lead and trail /v1.gzip",
    "b/#;!*?[x]/v1.gzip",
]


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    with Sshd(tmp_path_factory.mktemp("sshd")) as sshd:
        yield sshd


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tmp_path_factory.mktemp("rclone") / "rclone.conf"


@pytest.fixture(params=KINDS)
def remote(request, tmp_path, config):
    """A remote of this kind, with nothing in it."""
    kind, _, crypt = request.param.partition("-")
    name = uuid.uuid4().hex
    if kind == "s3":
        server = request.getfixturevalue("s3")
        server.create_bucket(name)
        base, place = {"base": s3_remote(server)}, f"base:{name}/prefix"
    elif kind == "sftp":
        server = request.getfixturevalue("sshd")
        base, place = {"base": sftp_remote(server)}, f"base:{server.root}/{name}"
    else:
        base, place = {"base": {"type": "alias", "remote": str(tmp_path)}}, "base:there"
    if crypt:
        base, place = base | {"secret": crypt_over(place)}, "secret:"
    write_config(config, **base)
    return Rclone(place, config=config)


@pytest.fixture
def root(tmp_path):
    """Some files with a content of their own."""
    root = tmp_path / "root"
    for number, name in enumerate(NAMES):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(b"%d" % number + os.urandom(3000))
    return root


def tick():
    pass


def test_what_is_sent_is_confirmed_and_comes_back(remote, root, tmp_path):
    assert remote.send(root, NAMES, tick=tick).problem == ""
    assert remote.confirm(root, NAMES, tick=tick) == dict.fromkeys(NAMES, "=")
    assert remote.fetch(tmp_path / "back", NAMES, tick=tick).problem == ""
    assert all((tmp_path / "back" / name).read_bytes() == (root / name).read_bytes() for name in NAMES)


def test_a_file_of_the_same_size_and_another_content_is_not_confirmed(remote, root):
    remote.send(root, NAMES, tick=tick)
    (root / NAMES[0]).write_bytes(os.urandom(3001))
    answers = remote.confirm(root, NAMES, tick=tick)
    assert answers[NAMES[0]] == "*"
    assert answers[NAMES[1]] == "="


def test_what_is_there_is_not_overwritten_unless_it_is_to_be(remote, root, tmp_path):
    before = (root / NAMES[0]).read_bytes()
    remote.send(root, NAMES, tick=tick)
    (root / NAMES[0]).write_bytes(b"other" * 700)
    assert "immutable" in remote.send(root, NAMES, tick=tick).problem
    remote.fetch(tmp_path / "back", NAMES[:1], tick=tick)
    assert (tmp_path / "back" / NAMES[0]).read_bytes() == before
    remote.send(root, NAMES[:1], replace=True, tick=tick)
    assert remote.confirm(root, NAMES[:1], tick=tick) == {NAMES[0]: "="}


def test_what_is_not_there_is_not_confirmed(remote, root):
    remote.send(root, NAMES[:1], tick=tick)
    assert remote.confirm(root, NAMES[:2], tick=tick) == {NAMES[0]: "=", NAMES[1]: "+"}


def test_what_is_removed_is_gone_and_twice_is_fine(remote, root):
    remote.send(root, NAMES, tick=tick)
    for _ in range(2):
        assert remote.remove(NAMES[:2], tick=tick).problem == ""
    assert {file.path for file in remote.files(tick)} == set(NAMES[2:])


def test_a_note_is_kept_and_replaced(remote):
    assert remote.read(".cbk/mirror.json") is None
    remote.write(".cbk/mirror.json", b"one")
    remote.write(".cbk/mirror.json", b"two, longer")
    assert remote.read(".cbk/mirror.json") == b"two, longer"


def test_nothing_of_a_crypt_remote_can_be_read_where_it_is(remote, root, tmp_path, request, config):
    if "crypt" not in request.node.callspec.id:
        pytest.skip("this remote is in plain text")
    (root / NAMES[0]).write_bytes(b"PLAINTEXT" * 300)
    remote.send(root, NAMES, tick=tick)
    under = rclone("config", "show", "secret", config=config).split("remote = ")[1].splitlines()[0]
    rclone("copy", under, tmp_path / "seen", config=config)
    seen = [path for path in (tmp_path / "seen").rglob("*") if path.is_file()]
    assert len(seen) == len(NAMES)
    shown = b"".join(str(path.relative_to(tmp_path / "seen")).encode() + path.read_bytes() for path in seen)
    assert not any(word in shown for word in (b"PLAINTEXT", b"thumbnail", b"car-erp", "Straße".encode(), b"gzip"))


def test_a_tick_that_raises_ends_the_transfer(remote, root):
    class Stop(Exception):
        pass

    def stop():
        raise Stop

    (root / "large").write_bytes(os.urandom(4_000_000))
    with pytest.raises(Stop):
        remote.send(root, ["large"], bandwidth=100_000, tick=stop)
    assert "large" not in {file.path for file in remote.files(tick)}


def test_a_remote_that_is_not_configured_is_unavailable_and_nothing_secret_is_told(tmp_path):
    config = write_config(tmp_path / "rclone.conf", secret=crypt_over("nowhere:x"))
    with pytest.raises(MirrorUnavailable) as raised:
        Rclone("secret:", config=config).read("x") or Rclone("secret:", config=config).compares_by()
    told = raised.value.message
    assert "nowhere" in told
    assert PASSWORD not in told
    assert SALT not in told


def test_the_command_line_and_the_environment_of_rclone_hold_no_secret(root, tmp_path, monkeypatch):
    monkeypatch.setenv("CBK_SOURCE_URL", "postgresql://cbk:TOPSECRET@db/app")
    config = write_config(
        tmp_path / "rclone.conf", base={"type": "alias", "remote": str(tmp_path)}, secret=crypt_over("base:there")
    )
    keys = [line.split(" = ")[1] for line in config.read_text().splitlines() if line.startswith("password")]
    seen = []

    def look():
        children = Path(f"/proc/self/task/{threading.main_thread().native_id}/children").read_text().split()
        for process in (Path("/proc") / child for child in children):
            try:
                if b"rclone" in (process / "cmdline").read_bytes():
                    seen.append((process / "cmdline").read_bytes() + (process / "environ").read_bytes())
            except OSError:
                continue

    (root / "large").write_bytes(os.urandom(1_000_000))
    Rclone("secret:", config=config).send(root, ["large"], bandwidth=500_000, tick=look)
    shown = b"".join(seen)
    assert b"--files-from-raw" in shown
    assert not any(word.encode() in shown for word in (*keys, PASSWORD, SALT, "TOPSECRET"))
