"""The settings of mirrors: by environment and by file, and what is declined by name."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from cbk.errors import SettingsError
from cbk.settings import load_settings


@pytest.fixture
def load(monkeypatch, tmp_path):
    """A function that loads settings with these mirrors."""
    monkeypatch.setenv("CBK_SOURCE_URL", "sqlite:///app.db")
    monkeypatch.setenv("CBK_BACKUP_ROOT", "/backups")
    monkeypatch.delenv("CBK_MIRRORS", raising=False)

    def load(mirrors=None, *, toml=None):
        if mirrors is not None:
            monkeypatch.setenv("CBK_MIRRORS", mirrors if isinstance(mirrors, str) else json.dumps(mirrors))
        if toml is not None:
            (tmp_path / "cbk.toml").write_text(toml)
        return load_settings(tmp_path / "cbk.toml" if toml is not None else None)

    return load


def test_there_are_none_by_default(load):
    assert load().mirrors == {}


def test_the_environment_names_folders_and_remotes(load):
    mirrors = load({"usb": {"path": "/mnt/usb"}, "b2": {"remote": "b2:bucket/prefix"}}).mirrors
    assert mirrors["usb"].folders == [Path("/mnt/usb")]
    assert mirrors["b2"].remote == "b2:bucket/prefix"


def test_the_file_says_the_same_and_more(load):
    text = (
        '[mirrors.usb]\npath = ["/mnt/a", "/mnt/b"]\ngrace = "60d"\nappend_only = true\nbandwidth = "Mon-Fri 08:00,1M 18:00,off"\n'
    )
    usb = load(toml=text).mirrors["usb"]
    assert usb.folders == [Path("/mnt/a"), Path("/mnt/b")]
    assert (usb.grace, usb.append_only, usb.every) == (timedelta(days=60), True, timedelta(hours=1))


def test_a_disk_may_be_away_for_longer_than_a_remote(load):
    mirrors = load({"usb": {"path": "/mnt/usb"}, "b2": {"remote": "b2:"}, "own": {"remote": "b2:", "away": "3d"}}).mirrors
    assert [mirrors[name].away_after.days for name in ("usb", "b2", "own")] == [14, 1, 3]


@pytest.mark.parametrize(
    ("mirrors", "told"),
    [
        ("not json", "expected JSON"),
        ("[]", "expected JSON"),
        ({"usb": {}}, "either path"),
        ({"usb": {"path": "/mnt/usb", "remote": "b2:x"}}, "either path"),
        ({"usb": {"path": "mnt/usb"}}, "from / on"),
        ({"usb": {"path": "/backups/mirror"}}, "lies in the backup root"),
        ({"usb": {"path": "/"}}, "lies in the backup root"),
        ({"usb": {"path": "/mnt/usb", "config": "/etc/rclone.conf"}}, "goes with remote"),
        ({"usb": {"path": "/mnt/usb", "graze": "1d"}}, "graze"),
        ({"usb": {"path": "/mnt/usb", "grace": "soon"}}, "duration"),
        ({"usb": {"path": "/mnt/usb", "bandwidth": "fast"}}, "bytes per second"),
        ({"A mirror": {"path": "/mnt/usb"}}, "small letters"),
        ({"b2": {"remote": "/mnt/usb"}}, "remote of rclone"),
        ({"b2": {"remote": ":sftp,host=x,pass=TOPSECRET:"}}, "remote of rclone"),
        ({"b2": {"remote": "b2,key=TOPSECRET:bucket"}}, "remote of rclone"),
    ],
)
def test_what_makes_no_sense_is_declined_by_name_and_no_secret_is_shown(load, mirrors, told):
    with pytest.raises(SettingsError) as raised:
        load(mirrors)
    assert told in raised.value.message
    assert "CBK_MIRRORS" in raised.value.message or "mirrors" in raised.value.message
    assert "TOPSECRET" not in raised.value.message
