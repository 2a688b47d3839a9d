"""No locale of the shell changes what a copy is called, read or restored as."""

import json
import os
import subprocess
import sys

import pytest

from tests.disk import BUCKETS, File, make_disk, tree

NAMES = ["Fotos/Straße nach Čáslav.jpeg", "写真/絵.png", "cars/e\u0301.txt"]
# Python takes C and POSIX for UTF-8 by itself, unless it is told not to.
PLAIN = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def locales(tmp_path_factory):
    """The environment of each locale that is tried, by its name."""
    folder = tmp_path_factory.mktemp("locales")
    made = subprocess.run(
        ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", folder / "de_DE.ISO-8859-1"], capture_output=True, check=False
    )
    return {
        "C": {"LC_ALL": "C"} | PLAIN,
        "POSIX": {"LC_ALL": "POSIX"} | PLAIN,
        "ISO-8859-1": {"LC_ALL": "de_DE.ISO-8859-1", "LOCPATH": str(folder)} if made.returncode == 0 else None,
        "UTF-8": {"LC_ALL": "C.UTF-8"},
    }


@pytest.fixture(params=["C", "POSIX", "ISO-8859-1", "UTF-8"])
def locale(request, locales):
    if locales[request.param] is None:
        pytest.skip("no source of the locale de_DE here (Debian: the package locales)")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("CBK_", "LC_", "LANG", "PYTHONUTF8"))}
    return inherited | locales[request.param]


@pytest.fixture
def cbk(locale, tmp_path):
    """A function that runs a command in the locale, over a disk with those names."""
    make_disk(tmp_path / "backups", [File(name, name.encode()) for name in NAMES])
    environment = locale | {
        "CBK_BACKUP_ROOT": str(tmp_path / "backups"),
        "CBK_SOURCE_URL": f"sqlite:///{tmp_path}/none.db",
        "CBK_CATALOG_URL": f"sqlite:///{tmp_path}/catalog.db",
        "CBK_BUCKETS": json.dumps(BUCKETS),
    }

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "cbk.cli", *arguments], env=environment, cwd=tmp_path, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_copies_are_read_and_restored_under_their_own_names_in_any_locale(cbk, tmp_path):
    cbk("rebuild")
    cbk("restore", "--to", "out")
    assert tree(tmp_path / "out") == {f"{BUCKETS['s3']}/{name}": name.encode() for name in NAMES}


@pytest.mark.parametrize("locale", ["ISO-8859-1"], indirect=True)
def test_terminal_types_keys_and_shows_names_in_its_own_encoding(cbk):
    cbk("rebuild")
    assert "Fotos/Straße nach \\u010c\xe1slav.jpeg".encode("latin-1") in cbk("ls", "--prefix", "Fotos/Straße".encode("latin-1"))


def test_worker_names_files_in_utf8_in_any_locale(locale, tmp_path):
    code = (
        "import sys; from celery import signals; import cbk.celery; "
        "signals.celeryd_init.send(sender='worker', instance=None, conf=None, options={}); print(sys.getfilesystemencoding())"
    )
    environment = locale | {"CBK_SOURCE_URL": f"sqlite:///{tmp_path}/none.db", "CBK_BACKUP_ROOT": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, check=True, text=True)
    assert done.stdout == "utf-8\n"
