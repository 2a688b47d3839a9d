"""No part of a secret, not even four characters of one, is in anything that the kit prints, whatever is wrong with it."""

import json
import logging
import os
import sys
from urllib.parse import quote

import pytest

from cbk.cli.main import main
from cbk.settings import PREFIX, Settings, load_settings

RUN = 4  # characters of a secret that nobody may see in a row
PARTS = ("Qx7Zk9Wj", "2Vq8Yg5X")
# What people paste between the letters of a password without knowing that it has to be encoded.
MARKS = ["", "@", "/", "#", "?", ":", "%", "&", "=", "[", "]", " ", ",", "\\", "'", "é", ":9/", "@:", "://"]
DATABASES = [
    "{scheme}://cbk:{secret}@127.0.0.1:1/app",
    "{scheme}://cbk:{secret}@127.0.0.1:port/app",
    "{scheme}://cbk:{secret}@127.0.0.1:1/app?fancy=1",
    "{scheme}://cbk:{secret}@127.0.0.1:1/app?sslmode=fancy",
    "{scheme}://cbk:{secret}@[::1/app",
    "{scheme}:/cbk:{secret}@127.0.0.1/app",
    "{scheme}://127.0.0.1:1/app?password={secret}",
    "user=cbk password={secret} host=127.0.0.1",
    "Server=127.0.0.1;Password={secret}",
    "jdbc:{scheme}://127.0.0.1/app?user=cbk&password={secret}",
    "{secret}",
]
SHAPES = {
    "source_url": [
        shape.replace("{scheme}", scheme)
        for scheme in ("postgresql", "postgres", "mysql", "sqlite", "oracle")
        for shape in DATABASES
    ],
    "catalog_url": [shape.replace("{scheme}", scheme) for scheme in ("postgresql", "mysql", "sqlite") for shape in DATABASES],
    "broker_url": [
        "redis://:{secret}@127.0.0.1:1/0",
        "rediss://cbk:{secret}@127.0.0.1:1/0",
        "redis://:{secret}@127.0.0.1:port/0",
        "redis://:{secret}@127.0.0.1:1/zero",
        "redis://:{secret}@127.0.0.1:1/0?fancy=1",
        "redis://:{secret}@127.0.0.1:1/0;redis://:{secret}@127.0.0.2:1/0",
        "redis+socket://:{secret}@/nowhere.sock",
        "unix://:{secret}@/nowhere.sock?db=zero",
        "redis://127.0.0.1:1/0?password={secret}",
        "sentinel://:{secret}@127.0.0.1:1/0",
        "amqp://cbk:{secret}@127.0.0.1",
        "{secret}",
    ],
    "notify": [
        "json://cbk:{secret}@127.0.0.1:1/",
        "nosuch://{secret}",
        "slack://{secret}",
        "mailto://cbk:{secret}@127.0.0.1:1",
        "{secret}",
    ],
    "heartbeat_url": ["http://127.0.0.1:1/{secret}", "ftp://127.0.0.1/{secret}", "http://127.0.0.1:port/{secret}", "{secret}"],
    "flower_auth": ["cbk:{secret}", "{secret}", ":{secret}", "cbk:{secret},cbk:{secret}"],
    "page_auth": ["cbk:{secret}", "{secret}", ":{secret}"],
    "metrics_token": ["{secret}", "{secret} {secret}", "{secret}{secret}"],
    "dumps": [
        '{{"app": {{"url": "postgresql://cbk:{secret}@127.0.0.1:1/app"}}}}',
        '{{"app": {{"url": "postgresql://cbk:{secret}@127.0.0.1:port/app"}}}}',
        '{{"app": {{"url": "mysql://cbk:{secret}@127.0.0.1:1/app"}}}}',
        '{{"app": {{"url": "oracle://cbk:{secret}@127.0.0.1:1/app"}}}}',
        '{{"app": {{"url": "{secret}"}}}}',
        '{{"app": {{"url": "postgresql://cbk:{secret}@127.0.0.1/app", "fancy": 1}}}}',
        '{{"app": {{"url": ["postgresql://cbk:{secret}@127.0.0.1/app"]}}}}',
        '{{"app": "postgresql://cbk:{secret}@127.0.0.1/app"}}',
        '{{"app": {{"url": "postgresql://cbk:{secret}@127.0.0.1/app"}}',
        "{secret}",
    ],
}
COMMANDS = [
    ["doctor"],
    ["status"],
    ["init", "--on-system-disk"],
    ["notify", "--test"],
    ["dump", "now", "app"],
    ["resync", "--storage", "s3"],
]
GOOD = {"source_url": "sqlite:///{folder}/app.db", "broker_url": "redis://127.0.0.1:1/0"}


@pytest.fixture
def environment(monkeypatch, tmp_path):
    for name in [*os.environ]:
        if name.startswith("CBK_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr("cbk.settings.DEFAULT_CONFIG", tmp_path / "no.toml")
    (tmp_path / "backups").mkdir()
    monkeypatch.setenv("CBK_BACKUP_ROOT", str(tmp_path / "backups"))
    monkeypatch.setenv("CBK_CONNECT_TIMEOUT", "1s")
    for name, value in GOOD.items():
        monkeypatch.setenv(PREFIX + name.upper(), value.format(folder=tmp_path))
    return monkeypatch


@pytest.fixture
def said(environment, capsys, caplog):
    """A function that runs a command and gives all that it printed and logged."""

    def run(*arguments):
        caplog.set_level(logging.DEBUG)
        caplog.clear()
        environment.setattr(sys, "argv", ["cbk", *arguments])
        with pytest.raises(SystemExit):
            main()
        # pytest listens to what a process shows nowhere, too: what Apprise says stays with it.
        assert not logging.getLogger("apprise").propagate
        shown = [f"{each.getMessage()} {each.__dict__}" for each in caplog.records if each.name.partition(".")[0] != "apprise"]
        return "".join(capsys.readouterr()) + "\n".join(shown)

    return run


def runs_of(secret):
    """Every few characters in a row that tell something of it, as they are and as a URL spells them."""
    spellings = {secret, quote(secret, safe="")}
    return {text[at : at + RUN] for text in spellings for at in range(len(text) - RUN + 1)}


def shown(secret, text):
    """What of a secret is in a text. A run that has none of its letters, such as `%3A%`, tells nothing."""
    letters = set("".join(PARTS))
    return sorted(run for run in runs_of(secret) if run in text and sum(letter in letters for letter in run) >= RUN - 1)


def secrets_of(shape):
    """The secret with each mark in it, and the whole value."""
    for mark in MARKS:
        secret = mark.join(PARTS)
        yield secret, shape.format(secret=json.dumps(secret)[1:-1] if shape.startswith("{{") else secret)


def test_every_setting_that_holds_a_secret_is_tried():
    secret = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert secret | {"dumps"} == set(SHAPES)


@pytest.mark.parametrize(("setting", "shape"), [(setting, shape) for setting, shapes in SHAPES.items() for shape in shapes])
def test_setting_is_taken_or_refused_without_a_part_of_its_secret(environment, tmp_path, setting, shape):
    for secret, value in secrets_of(shape):
        environment.setenv(PREFIX + setting.upper(), value)
        try:
            told = repr(load_settings())
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody sees it
            told = f"{error!r} {error} {getattr(error, 'hint', '')}"
        assert shown(secret, told) == [], (value, told)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("setting", SHAPES)
def test_command_tells_no_part_of_a_secret(environment, said, setting, command):
    for shape in SHAPES[setting][:4]:
        for secret, value in list(secrets_of(shape))[:2]:
            environment.setenv(PREFIX + setting.upper(), value)
            text = said(*command)
            assert shown(secret, text) == [], (value, text)


@pytest.mark.parametrize("setting", SHAPES)
def test_settings_in_a_file_tell_no_part_of_a_secret(environment, said, tmp_path, setting):
    file = tmp_path / "cbk.toml"
    for shape in SHAPES[setting][:3]:
        for secret, value in list(secrets_of(shape))[:5]:
            for written in (json.dumps(value), value, f'"{value}', f"[{json.dumps(value)}]", f"{{ a = {json.dumps(value)} }}"):
                file.write_text(f"{setting} = {written}\n")
                text = said("--config", str(file), "doctor")
                assert shown(secret, text) == [], (written, text)
