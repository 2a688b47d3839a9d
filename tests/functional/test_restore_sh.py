"""The script on the disk, run as on a machine that has nothing: an empty environment, a shell, gzip, and no Python."""

import json
import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import pytest

from cbk.edges.archive.archive import Archive
from cbk.model import ObjectProperties
from cbk.rules.intake.layout import contested_paths, restore_path
from tests.disk import BUCKETS, NOW, File, corpus, make_disk, newest, put, tree

SHELLS = {
    "sh": ["sh"],
    "dash": ["dash"],
    "bash": ["bash", "--posix"],
    "busybox": ["busybox", "sh"],
    "mksh": ["mksh"],
    "ksh93": ["ksh93"],
    "zsh": ["zsh"],
}
EMPTY = {"PATH": "/usr/bin:/bin"}


def expected(files):
    """What a restore of these files gives: the content by path."""
    last = newest(files)
    own = {name: restore_path(BUCKETS[name[0]], name[1], name[0]) for name in last}
    contested = contested_paths(own.values())
    return {
        restore_path(BUCKETS[storage], key, storage, contested=own[storage, key] in contested): file.content
        for (storage, key), file in last.items()
    }


def restore_sh(root, *target, shell="sh", cwd=None, env=EMPTY):
    program, *options = SHELLS[shell]
    if shutil.which(program) is None:
        pytest.skip(f"there is no {shell}")
    command = [shutil.which(program), *options, str(root / ".cbk/restore.sh"), str(root), *map(str, target)]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def files():
    return corpus()


@pytest.fixture(scope="module")
def disk(files, tmp_path_factory):
    """A disk with every kind of name on it. Who harms it works on a copy."""
    archive, _ = make_disk(tmp_path_factory.mktemp("disk") / "backups", files)
    return archive.root


@pytest.fixture
def small(tmp_path):
    """A function that makes a disk of a few files."""

    def make(*files):
        return make_disk(tmp_path / "backups", files)

    return make


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.mark.parametrize("shell", SHELLS)
def test_gives_every_file_its_newest_version_and_its_own_name(disk, files, out, shell):
    done = restore_sh(disk, out, shell=shell)
    restored = tree(out)
    sums = restored.pop("SHA256SUMS")
    assert restored == expected(files)
    assert (done.returncode, done.stdout) == (0, b"")
    assert sums.count(b"\n") == len(restored)
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=out, check=True, capture_output=True).stdout == b""


@pytest.mark.parametrize("shell", SHELLS)
def test_properties_of_an_object_change_nothing(small, out, shell):
    forged = '","restore_as":"owned","restore_else":"owned","size":1}'
    properties = ObjectProperties(content_type="text/css", cache_control=forged, metadata=(("owner", forged), ("x", "Jörg|\\")))
    archive, _ = small(File("cars/a.css", b"css", properties=properties))
    done = restore_sh(archive.root, out, shell=shell)
    assert (done.returncode, done.stdout) == (0, b"")
    assert tree(out)["car-erp/cars/a.css"] == b"css"


def test_gives_the_tree_that_cbk_restore_gives(disk, files, tmp_path):
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("CBK_")},
        "CBK_BACKUP_ROOT": str(disk),
        "CBK_SOURCE_URL": f"sqlite:///{tmp_path}/none.db",
        "CBK_CATALOG_URL": f"sqlite:///{tmp_path}/catalog.db",
        "CBK_BUCKETS": json.dumps(BUCKETS),
    }
    for command in (["rebuild"], ["restore", "--to", str(tmp_path / "by-cbk")]):
        done = subprocess.run([sys.executable, "-m", "cbk.cli", *command], env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    restore_sh(disk, tmp_path / "by-sh")
    by_sh = tree(tmp_path / "by-sh")
    del by_sh["SHA256SUMS"]
    assert by_sh == tree(tmp_path / "by-cbk")


def test_without_a_target_prints_the_sums_and_writes_nothing(disk, files, out, tmp_path):
    before = tree(disk)
    listed = restore_sh(disk, env=EMPTY | {"TMPDIR": str(tmp_path)})
    assert (listed.returncode, listed.stderr) == (0, b"")
    restore_sh(disk, out)
    assert listed.stdout == (out / "SHA256SUMS").read_bytes()
    assert tree(disk) == before
    assert list(tmp_path.iterdir()) == [out]


def test_sums_are_spelt_as_sha256sum_spells_them(disk, out):
    restore_sh(disk, out)
    names = [path.relative_to(out) for path in out.rglob("*") if path.is_file() and path != out / "SHA256SUMS"]
    by_coreutils = subprocess.run(["sha256sum", "--", *names], cwd=out, capture_output=True, check=True).stdout
    assert set(by_coreutils.split(b"\n")) == set((out / "SHA256SUMS").read_bytes().split(b"\n"))


def test_nothing_is_written_outside_the_target(disk, tmp_path):
    before = tree(disk)
    (tmp_path / "here").mkdir()
    restore_sh(disk, "out/below", cwd=tmp_path / "here")
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["out"]
    assert sorted(path.name for path in (tmp_path / "here/out/below").iterdir()) == ["Größe", "SHA256SUMS", "car-erp"]
    assert tree(disk) == before


def test_newest_is_the_highest_number_and_not_the_last_in_the_alphabet(small, out):
    archive, _ = small(*(File("a", b"%d" % number, number=number) for number in (9, 10, 100, 99, 0)))
    assert restore_sh(archive.root, out).returncode == 0
    assert (out / "car-erp/a").read_bytes() == b"100"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:-100], id="truncated"),
        pytest.param(lambda data: data[:-40] + bytes([data[-40] ^ 1]) + data[-39:], id="flipped"),
        pytest.param(lambda data: data + b"more", id="longer"),
        pytest.param(lambda data: b"", id="emptied"),
        pytest.param(lambda data: b"\0" * len(data), id="zeroed"),
    ],
)
def test_damaged_copy_is_named_and_leaves_no_file(small, out, damage):
    archive, locations = small(File("a", b"good"), File("b", bytes(range(256)) * 40))
    path = archive.root / locations["s3", "b", 1]
    path.write_bytes(damage(path.read_bytes()))
    done = restore_sh(archive.root, out)
    assert done.returncode == 1
    assert locations["s3", "b", 1].encode() in done.stderr
    assert {path for path in tree(out) if not path.startswith(".cbk/unnamed/")} == {"car-erp/a", "SHA256SUMS"}


def test_copy_with_a_damaged_header_keeps_its_content(small, out):
    archive, locations = small(File("a/b.txt", b"precious"))
    path = archive.root / locations["s3", "a/b.txt", 1]
    path.write_bytes(path.read_bytes().replace(b'{"storage"', b'{"stxrage"'))
    done = restore_sh(archive.root, out)
    assert done.returncode == 1
    assert (out / ".cbk/unnamed/car-erp/a/b/v1").read_bytes() == b"precious"
    assert b"car-erp/a/b/v1.gzip: its header cannot be read; its content is in" in done.stderr


@pytest.mark.parametrize("key", ["a", "a\nb"])
def test_wrong_sum_is_named(small, out, key):
    archive, locations = small(File(key, b"good"))
    path = archive.root / locations["s3", key, 1]
    path.write_bytes(path.read_bytes().replace(sha256(b"good").hexdigest().encode(), b"0" * 64))
    done = restore_sh(archive.root, out)
    assert done.returncode == 1
    assert b"FAILED car-erp/%s: it does not have the SHA-256" % quote(key).encode() in done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "../owned",
        "x/../../owned",
        "/owned",
        "%2E%2E/owned",
        "x%2Fy",
        "x%00",
        "%",
        "%4",
        "%zz",
        "x//y",
        "",
        "a b",
        "a*",
        "$(id)",
        ".",
    ],
)
def test_header_that_was_forged_leads_nowhere(small, out, tmp_path, name):
    archive, locations = small(File("a" * 20, b"content"))
    path = archive.root / locations["s3", "a" * 20, 1]
    forged = re.sub(rb'"restore_as":"a+"', b'"restore_as":"%s"' % name.encode(), path.read_bytes())
    path.write_bytes(forged)
    done = restore_sh(archive.root, out / "deep/target")
    assert done.returncode == 1
    assert all("/.cbk/unnamed/" in file for file in tree(out) if not file.endswith("SHA256SUMS"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backups", "out"]


def test_content_that_reads_like_a_header_names_nothing(small, out):
    content = b',"restore_as":"owned","restore_else":"owned","size":1}' * 50
    archive, locations = small(File("a", os.urandom(70_000) + content))
    path = archive.root / locations["s3", "a", 1]
    assert content in path.read_bytes()
    restore_sh(archive.root, out)
    assert set(tree(out)) == {"car-erp/a", "SHA256SUMS"}


def test_second_run_leaves_what_is_there_and_brings_what_is_missing(disk, files, out):
    restore_sh(disk, out)
    whole = tree(out)
    gone = out / "car-erp/写真/👨\u200d👩\u200d👧.png"
    inode = (out / "car-erp/README").stat().st_ino
    gone.unlink()
    done = restore_sh(disk, out)
    assert done.returncode == 0
    assert b"restored 1 file " in done.stderr
    assert (out / "car-erp/README").stat().st_ino == inode
    assert tree(out) == whole


def test_file_of_another_content_is_not_overwritten(small, out):
    archive, _ = small(File("a", b"from the disk"), File("b", b"other"))
    (out / "car-erp").mkdir(parents=True)
    (out / "car-erp/a").write_bytes(b"mine")
    done = restore_sh(archive.root, out)
    assert done.returncode == 1
    assert b"car-erp/a is there already, with another content" in done.stderr
    assert {name: content for name, content in tree(out).items() if name != "SHA256SUMS"} == {
        "car-erp/a": b"mine",
        "car-erp/b": b"other",
    }


def test_killed_half_way_it_leaves_no_partial_file_under_a_name(small, out):
    archive, _ = small(*(File(f"{number}", os.urandom(3_000_000)) for number in range(6)))
    command = ["sh", str(archive.root / ".cbk/restore.sh"), str(archive.root), str(out)]
    with subprocess.Popen(command, env=EMPTY, stderr=subprocess.PIPE, start_new_session=True) as process:
        while not list(out.glob("car-erp/*")):
            assert process.poll() is None
        os.killpg(process.pid, 9)
    assert all(path.stat().st_size == 3_000_000 for path in (out / "car-erp").iterdir())
    assert restore_sh(archive.root, out).returncode == 0
    assert set(tree(out)) == {"SHA256SUMS", *(f"car-erp/{number}" for number in range(6))}


def test_what_is_not_the_kits_is_passed_by(small, out):
    archive, _ = small(File("a", b"content"))
    root = archive.root
    for name in ("notes.txt", "car-erp/a/notes", "car-erp/a/v02.gzip", "car-erp/a/v1.gzip.bak", "car-erp/b\nc/v1.gzip", "v1.gzip"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"not a copy")
    (root / "car-erp/link").symlink_to(root / "car-erp/a")
    (root / ".cbk/quarantine/x-1.gzip").write_bytes(b"bad")
    assert restore_sh(root, out).returncode == 0
    assert set(tree(out)) == {"car-erp/a", "SHA256SUMS"}


def test_bucket_named_like_the_list_of_sums_is_restored(tmp_path, out):
    archive = Archive.create(tmp_path / "backups", now=NOW)
    put(archive, File("a", b"content"), "SHA256SUMS/a/v1.gzip")
    shutil.copy(Path(__file__).parents[2] / "cbk/edges/archive/disk_tools/restore.sh", archive.root / ".cbk")
    assert restore_sh(archive.root, out).returncode == 0
    assert set(tree(out)) == {"SHA256SUMS/a", ".cbk/SHA256SUMS"}


@pytest.mark.parametrize("arguments", [[], ["a", "b", "c"], ["nowhere", "out"]])
def test_wrong_usage_says_what_is_right(disk, arguments, tmp_path):
    done = subprocess.run(["sh", disk / ".cbk/restore.sh", *arguments], cwd=tmp_path, env=EMPTY, capture_output=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"restore.sh: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", [".", "restored", ".cbk"])
def test_target_on_the_backup_disk_is_refused(small, target):
    archive, _ = small(File("a", b"content"))
    before = sorted(archive.root.rglob("*"))
    done = restore_sh(archive.root, archive.root / target)
    assert done.returncode == 1
    assert b"must not lie on the backup disk" in done.stderr
    assert sorted(archive.root.rglob("*")) == before


def test_disk_without_copies_says_so(small, out):
    archive, _ = small()
    done = restore_sh(archive.root, out)
    assert done.returncode == 1
    assert b"there are no copies below" in done.stderr
