"""Messages reach a real receiver, once; a service that is away, slow or unknown hurts nobody, and no URL is ever shown."""

import json
import logging
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from cbk.cli.main import cli
from cbk.edges.notify import notifier
from cbk.edges.notify.notifier import Delivery, Notifier
from cbk.settings import Settings

NOBODY = "json://user:sesame@127.0.0.1:9/"


class Receiver:
    """A webhook: what it was sent is in `messages`; `answer` is its status, and it waits for `open` before it gives it."""

    def __init__(self, server):
        self.url = f"json://user:sesame@127.0.0.1:{server.server_port}/?x=secret"
        self.messages = []
        self.answer = 200
        self.open = threading.Event()
        self.open.set()

    @property
    def subjects(self):
        return [message["title"] for message in self.messages]


@contextmanager
def receiving():
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            receiver.open.wait(30)
            receiver.messages.append(message)
            self.send_response(receiver.answer)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield receiver
        receiver.open.set()
        server.shutdown()


@pytest.fixture
def receiver():
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def site(make_site, receiver):
    return make_site(notify=receiver.url)


class Log(logging.Handler):
    """What a process shows: what gets to the root logger. pytest's own listens to all of them."""

    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)

    @property
    def text(self):
        return "\n".join(f"{record.getMessage()} {record.__dict__}" for record in self.records)


@pytest.fixture
def log():
    root, log = logging.getLogger(), Log()
    level = root.level
    root.addHandler(log)
    root.setLevel(logging.DEBUG)
    yield log
    root.removeHandler(log)
    root.setLevel(level)


def shown(log):
    return [(record.getMessage(), getattr(record, "facts", {})) for record in log.records if record.name.startswith("cbk")]


def test_message_reaches_the_service_as_it_was_written(receiver):
    assert Notifier([receiver.url]).notify("300 removals are held back", "<b>näher</b> & \\n: `cbk prune`\nsecond line")
    (message,) = receiver.messages
    assert message["title"] == "300 removals are held back"
    assert message["message"] == "<b>näher</b> & \\n: `cbk prune`\nsecond line"


def test_service_that_shows_html_shows_the_text_as_it_was_written(receiver):
    assert Notifier([receiver.url + "&format=html"]).notify("subject", "<b>a</b> & b")
    assert "&lt;b&gt;a&lt;/b&gt; &amp;" in receiver.messages[0]["message"].replace("&nbsp;", " ")


def test_without_services_nobody_is_told_and_nothing_is_loaded():
    script = (
        "import sys; from cbk.edges.notify.notifier import Notifier; n = Notifier([]);"
        "print(n.is_configured, n.unknown(), n.notify('subject', 'text'), 'apprise' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False [] False False\n", "")


def test_every_service_gets_the_message(receiver):
    with receiving() as second:
        assert Notifier([receiver.url, second.url]).notify("subject", "text")
        assert (receiver.subjects, second.subjects) == (["subject"], ["subject"])


@pytest.mark.parametrize(
    ("url", "service", "reason"),
    [
        (NOBODY, "JSON", "its host refuses the connection"),
        ("nosuch://user:sesame@example.com", "URL 1", "no service that is known"),
        ("slack://sesame", "URL 1", "no service that is known"),
    ],
)
def test_service_that_is_away_or_unknown_is_one_line_without_its_url(log, url, service, reason):
    assert not Notifier([url]).notify("subject", "text")
    assert shown(log) == [("notification not sent", {"service": service, "reason": reason, "subject": "subject"})]
    assert "sesame" not in log.text


@pytest.mark.parametrize(
    ("answer", "phrase"), [(302, "302 (Found)"), (403, "403 (Forbidden)"), (500, "500 (Internal Server Error)")]
)
def test_service_that_refuses_or_leads_nowhere_is_a_failure_with_its_answer(receiver, answer, phrase):
    receiver.answer = answer
    text = "a database refuses the connection: timed out"
    assert Notifier([receiver.url]).deliver("subject", text) == [Delivery(name="JSON", problem=f"it answers {phrase}")]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("jsons://user:sesame@127.0.0.1:{port}/", "its certificate or TLS cannot be trusted"),
        ("json://user:sesame@nobody.invalid/", "its host's name is not known"),
        ("mailto://user:sesame@127.0.0.1:9/?from=a@example.com&to=b@example.com&smtp=127.0.0.1", "its host refuses the connection"),
    ],
)
def test_service_that_is_not_reached_has_its_reason(receiver, url, reason):
    port = receiver.url.rpartition(":")[2].partition("/")[0]
    (delivery,) = Notifier([url.format(port=port)]).deliver("subject", "text")
    assert delivery.problem == reason


def test_service_that_falls_silent_is_given_up(receiver, monkeypatch):
    monkeypatch.setattr(notifier, "NOTIFY_TIMEOUT_SECONDS", 0.2)
    receiver.open.clear()
    started = time.monotonic()
    assert not Notifier([receiver.url + "&rto=600"]).notify("subject", "text")
    assert time.monotonic() - started < 20
    receiver.open.set()


def test_one_service_that_took_it_is_enough(receiver, log):
    assert Notifier([NOBODY, receiver.url, "nosuch://x"]).notify("subject", "text")
    assert receiver.subjects == ["subject"]
    assert [facts["service"] for _, facts in shown(log)] == ["URL 3", "JSON"]


def test_urls_are_shown_by_nothing(receiver):
    settings = Settings(source_url="sqlite:////none.db", notify=receiver.url)
    assert "sesame" not in repr(settings) + str(settings) + repr(Notifier(settings.notify_urls))


# The command


def run(site, monkeypatch, *arguments):
    for name, value in site.environment.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(cli, ["notify", *arguments])
    return done.exit_code, done.output


@pytest.mark.parametrize(("urls", "code"), [("{}", 0), ("{} " + NOBODY, 3), (NOBODY, 1)])
def test_test_message_tells_which_service_took_it(make_site, receiver, monkeypatch, urls, code):
    site = make_site(notify=urls.format(receiver.url))
    exit_code, output = run(site, monkeypatch, "--test")
    assert exit_code == code
    assert ("JSON: sent" in output, "JSON: its host refuses the connection" in output) == (code != 1, code != 0)
    assert len(receiver.messages) == (code != 1)


def test_test_message_as_json(site, monkeypatch):
    assert run(site, monkeypatch, "--test", "--json") == (0, '{"service": "JSON", "sent": true, "problem": ""}\n')


def test_test_message_to_nobody_is_wrong_usage(make_site, monkeypatch):
    for name, value in make_site().environment.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(cli, ["notify", "--test"])
    assert (type(done.exception).__name__, done.exception.message) == ("UsageError", "there is nobody to tell")
