"""`cbk pause`, `cbk resume` and `cbk bandwidth`: what they print, how they end, and what they refuse."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner

from cbk.cli.backup.overrides import _parse_end
from cbk.cli.main import cli
from tests.in_process_site import InProcessSite
from tests.origin import Origin

NOW = datetime(2026, 11, 25, 12, 30, 15, tzinfo=UTC)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with Origin() as origin:
        site = InProcessSite(tmp_path_factory.mktemp("site"), origin, bandwidth="1M")
        yield site
        site.close()


@pytest.fixture
def cbk(site, monkeypatch):
    """A function that runs `cbk` and gives its exit code and its output, or the error's message."""
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    for fact in ("order.pause", "order.bandwidth"):
        site.context.catalog.facts.set(**{fact: None})

    def run(*arguments):
        done = CliRunner().invoke(cli, arguments)
        return done.exit_code, done.output or getattr(done.exception, "message", "")

    return run


@pytest.fixture
def berlin(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_pause_says_until_when_and_status_shows_it_until_it_is_ended(cbk):
    code, output = cbk("pause", "2h")
    assert (code, "nothing new is fetched. `cbk resume` ends it" in output) == (0, True)
    assert "paused      until " in cbk("status")[1]
    assert json.loads(cbk("status", "--json")[1])["paused_until"] is not None
    assert [cbk("resume"), cbk("resume")] == [(0, "resumed\n"), (0, "nothing is paused\n")]
    assert "paused" not in cbk("status")[1]


@pytest.mark.usefixtures("berlin")
def test_end_of_a_pause_has_its_zone(cbk):
    soon = (datetime.now(tz=UTC) + timedelta(days=1)).astimezone()
    until = f"{soon:%Y-%m-%d %H:%M}"
    assert cbk("pause", "--until", until)[1].startswith(f"paused until {until} {soon:%Z}: ")
    assert f"paused      until {until} {soon:%Z}: " in cbk("status")[1]


def test_pause_as_json(cbk):
    ends = datetime.fromisoformat(json.loads(cbk("pause", "2h", "--json")[1])["paused_until"])
    assert timedelta(minutes=119) < ends - datetime.now(UTC) <= timedelta(hours=2)
    assert [cbk("resume", "--json")[1] for _ in range(2)] == ['{"resumed": true}\n', '{"resumed": false}\n']


@pytest.mark.parametrize("arguments", [(), ("2h", "--until", "07:00")])
def test_pause_takes_a_duration_or_an_end(cbk, arguments):
    assert cbk("pause", *arguments) == (1, "a pause takes a duration, or --until")


def test_pause_until_what_is_no_time_is_refused(cbk):
    assert cbk("pause", "--until", "soon") == (1, "'soon' is no time")


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("07:00", datetime(2026, 11, 26, 6, tzinfo=UTC)),
        ("13:31", datetime(2026, 11, 25, 12, 31, tzinfo=UTC)),
        ("13:30", datetime(2026, 11, 26, 12, 30, tzinfo=UTC)),
        ("2026-11-26 08:00", datetime(2026, 11, 26, 7, tzinfo=UTC)),
        ("90m", NOW + timedelta(minutes=90)),
    ],
)
def test_end_of_a_pause_is_the_next_time_of_day_in_local_time(berlin, text, end):
    assert _parse_end(text, NOW) == end


def test_bandwidth_is_shown_changed_and_given_back(cbk):
    assert cbk("bandwidth") == (0, "1 MB/s now, as CBK_BANDWIDTH says: 1M\n")
    assert cbk("bandwidth", "2M") == (0, "2 MB/s now, ordered by `cbk bandwidth`: 2M\n")
    assert "bandwidth   2 MB/s for all workers together (by `cbk bandwidth`)" in cbk("status")[1]
    assert cbk("bandwidth", "off") == (0, "no limit now, ordered by `cbk bandwidth`: off\n")
    assert cbk("bandwidth", "00:00,3M", "23:59,3M")[1].startswith("3 MB/s now")
    assert cbk("bandwidth", "auto") == (0, "1 MB/s now, as CBK_BANDWIDTH says: 1M\n")
    assert "bandwidth   1 MB/s for all workers together\n" in cbk("status")[1]


def test_bandwidth_that_is_none_is_refused(cbk):
    code, output = cbk("bandwidth", "fast")
    assert (code, output.startswith("'fast' is no bandwidth: expected bytes per second such as")) == (1, True)
