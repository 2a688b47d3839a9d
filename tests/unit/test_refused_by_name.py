"""What makes no sense is refused with the words that help, before it does harm."""

from datetime import UTC, datetime

import pytest

from cbk.cli.terminal.text import parse_instant
from cbk.errors import SettingsError, UsageError
from cbk.page.auth import is_our_name
from cbk.settings import Settings, parse_settings

SOURCE = "sqlite:////srv/app.db"


@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31 23:59:59", "0001-01-01T00:00+14:00"])
@pytest.mark.parametrize("forward", [True, False])
def test_time_at_an_end_of_the_calendar_is_no_traceback(text, forward):
    try:
        assert parse_instant(text, now=datetime(2026, 11, 30, tzinfo=UTC), forward=forward).tzinfo is UTC
    except UsageError as error:
        assert "calendar" in error.message  # noqa: PT017 - both are right, as the machine's zone has it


@pytest.mark.parametrize("setting", ["ca_bundle", "database_ca"])
@pytest.mark.parametrize("value", ["/etc", "/no/such/file.pem"])
def test_authorities_that_are_no_file_are_told_by_the_settings_name(setting, value):
    with pytest.raises(SettingsError) as caught:
        parse_settings({"source_url": SOURCE, setting: value})
    assert caught.value.problems[0].startswith(f"CBK_{setting.upper()}: expected a file of certificates")


@pytest.mark.parametrize("setting", ["flower_auth", "page_auth"])
def test_password_that_browsers_spell_in_two_ways_is_refused(setting):
    with pytest.raises(SettingsError, match="ASCII") as caught:
        parse_settings({"source_url": SOURCE, setting: "cbk:Qzxjäö"})
    assert "Qzxj" not in str(caught.value)


def test_name_is_suggested_only_if_it_is_much_like_a_setting():
    with pytest.raises(SettingsError) as caught:
        parse_settings({"source_url": SOURCE, "poll_intervall": "1m", "colour": "red"})
    assert "unknown setting colour" in caught.value.problems
    assert "unknown setting poll_intervall (did you mean poll_interval?)" in caught.value.problems


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("localhost", True),
        ("localhost:5556", True),
        ("LOCALHOST.:5556", True),
        ("127.0.0.1:5556", True),
        ("[::1]:5556", True),
        ("localhost:5556@evil.example", False),
        ("localhost:evil", False),
        ("evil.example", False),
        ("evil.example:5556", False),
        ("", False),
    ],
)
def test_host_header_names_the_page_or_is_refused(host, ours):
    assert is_our_name(host, {"localhost"}) is ours


def test_line_to_another_machines_database_is_verified_by_default():
    assert Settings(source_url=SOURCE).database_tls == "verify"
