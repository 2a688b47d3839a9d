"""Log lines: one per unit of work, readable by people and by logfmt, and without a secret whatever is logged."""

import io
import logging
import sys

import pytest

from cbk.cluster import logs
from cbk.model import Summary

SECRET = "DEADBEEFSECRET"


@pytest.fixture
def logged():
    """The lines that a logger of the kit's wrote; `logged.logger` is that logger."""

    class Logged(io.StringIO):
        logger = logs.get("test")

    stream = Logged()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.FactsFormatter())
    Logged.logger.addHandler(handler)
    Logged.logger.setLevel(logging.DEBUG)
    yield stream
    Logged.logger.removeHandler(handler)
    Logged.logger.setLevel(logging.NOTSET)


@pytest.fixture
def root():
    """The root logger, as it was when the test is over."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield root
    root.handlers, root.level = handlers, level


def fields(logged):
    """What follows the event in the only line."""
    [line] = logged.getvalue().splitlines()
    return line.partition(" event")[2].strip()


def log(logged, **facts):
    logged.logger.info("event", extra={"facts": facts})
    return fields(logged)


@pytest.mark.parametrize(
    "text",
    [
        "https://s3.example.com/a.png?X-Amz-Signature={}",
        "https://s3.example.com/a.png?X-Amz-Expires=600&X-Amz-Signature={}&x-id=GetObject",
        "http://127.0.0.1:8333/bucket/a?sig={}",
        "https://host?sig={}",
        "GET /bucket/a.png?X-Amz-Signature={} HTTP/1.1",
        "url: /a?se=2026&sp=r&sig={}",
        "('https://h/a?AWSAccessKeyId=x&Signature={}',)",
        '<a href="https://h/a?Expires=1&Signature={}">',
        "https://h/a?rscd=attachment;filename*=UTF-8''it's%20mine&sig={}",
        'https://h/a?response-content-disposition=filename="a b"&X-Amz-Signature={}',
        "https://h/a?X-Amz-Security-Token={0}&X-Amz-Signature={0}",
        "https://h/a?x=<y>&Signature={}",
        "SignedDownloadUrl=https://h/a?a=1&X-Goog-Signature={}",
        "headers: X-Amz-Signature={}",
    ],
)
def test_redact_leaves_nothing_of_a_signature(text):
    redacted = logs.redact(f"before {text.format(SECRET)} after")
    assert SECRET not in redacted
    assert redacted.startswith("before ")
    assert "***" in redacted


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("postgresql+psycopg://reader:{}@db/app", "postgresql+psycopg://reader:***@db/app"),
        ("redis://:{}@127.0.0.1:6379/0", "redis://:***@127.0.0.1:6379/0"),
        ("'amqp://user:{}@host'", "'amqp://user:***@host'"),
        ("mysql://u:p'{}\"@host/db", "mysql://u:***@host/db"),
        ("redis://u:p@{}@host/0", "redis://u:***@host/0"),
        ("two: redis://u:{0}@a and redis://u:{0}@b", "two: redis://u:***@a and redis://u:***@b"),
    ],
)
def test_redact_leaves_nothing_of_a_password(text, redacted):
    assert logs.redact(text.format(SECRET)) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "stored s3/cars/id-1/thumbnail.png v1",
        "which? that one = this",
        "http://127.0.0.1:5555/tasks",
        "mail me at person@example.com",
        "redis://127.0.0.1:6379/0 answers someone@example.com",
        "https://h/a?list-type",
    ],
)
def test_redact_leaves_everything_else_alone(text):
    assert logs.redact(text) == text


def test_line_has_time_level_name_event_and_facts(logged):
    record = logging.LogRecord("cbk.backup", logging.INFO, "", 0, "stored", None, None)
    record.created = 1_794_808_521.7
    record.facts = {"key": "cars/a b.png", "version": 1}
    assert logs.FactsFormatter().format(record) == '2026-11-16T05:55:21Z info cbk.backup stored key="cars/a b.png" version=1'


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain/path-1_2.png", "plain/path-1_2.png"),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "no"', "\"say 'no'\""),
        ("back\\slash", '"back\\slash"'),
        ("ünï/日本.png", "ünï/日本.png"),
        (7, "7"),
        (0, "0"),
        (False, "False"),
        (1.5, "1.5"),
        ([1, 2], '"[1, 2]"'),
        ({"a": 1}, "\"{'a': 1}\""),
    ],
)
def test_fact_is_quoted_where_logfmt_needs_it(logged, value, shown):
    assert log(logged, fact=value) == f"fact={shown}"


def test_fact_without_a_value_is_left_out(logged):
    assert log(logged, nothing=None, empty="", something="x") == "something=x"


@pytest.mark.parametrize(
    "hostile", ["a\nINFO forged", "a\r\nb", "a\x00b", "a\x1b[31mred", "a\u2028b", "a\u202eb", "a\x85b", "a\x9bb"]
)
def test_control_characters_of_a_key_cannot_make_a_line_or_colour_a_terminal(logged, hostile):
    logged.logger.info("got %s", hostile, extra={"facts": {"key": hostile}})
    text = logged.getvalue()
    assert len(text.splitlines()) == 1
    assert text.removesuffix("\n").isprintable()


def test_lone_surrogate_can_be_written(logged):
    log(logged, key="a\ud800b")
    assert logged.getvalue().encode()


def test_secret_in_a_message_or_a_fact_or_its_arguments_is_redacted(logged):
    link = f"https://h/a?X-Amz-Signature={SECRET}"
    logged.logger.warning("failed: %s", link, extra={"facts": {"link": link, "args": f"({link!r},)"}})
    assert SECRET not in logged.getvalue()


def test_secret_in_a_traceback_and_in_its_causes_is_redacted(logged):
    try:
        try:
            raise ValueError(f"https://h/a?X-Amz-Signature={SECRET}")
        except ValueError as error:
            raise RuntimeError(f"redis://u:{SECRET}@h") from error
    except RuntimeError:
        logged.logger.exception("crashed")
    text = logged.getvalue()
    assert "Traceback" in text
    assert "ValueError: https://h/a?***" in text
    assert "RuntimeError: redis://u:***@h" in text
    assert SECRET not in text


def test_stack_that_was_asked_for_is_redacted_too(logged):
    logged.logger.info("here", stack_info=True)
    assert "Stack (most recent call last)" in logged.getvalue()
    record = logging.LogRecord("cbk.x", logging.INFO, "", 0, "here", None, None, sinfo=f"https://h/a?sig={SECRET}")
    assert SECRET not in logs.FactsFormatter().format(record)


def test_summary_is_one_line_with_its_task(logged):
    logs.write_summary("test", Summary(outcome="event", facts={"key": "a.png", "size": 3}), "id-1")
    assert fields(logged) == "key=a.png size=3 task=id-1"


def test_configure_sends_every_logger_to_standard_error_once(root, capsys):
    logs.configure()
    logs.configure("WARNING")
    logging.getLogger("some.library").warning("odd")
    logging.getLogger("some.library").info("chatter")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [captured.err.strip()]
    assert captured.err.endswith("warning some.library odd\n")


def test_configure_sends_lines_to_a_file_where_one_is_named(root, capsys, tmp_path):
    logs.configure(file=str(tmp_path / "worker.log"))
    logging.getLogger("some.library").warning("odd \ud800")
    root.handlers[0].close()
    assert (tmp_path / "worker.log").read_text().endswith("warning some.library odd \\ud800\n")
    assert capsys.readouterr().err == ""


def test_configure_keeps_lines_away_that_come_with_every_task(root):
    logs.configure("DEBUG")
    names = ("celery.worker.strategy", "celery.app.trace", "alembic")
    assert not any(logging.getLogger(name).isEnabledFor(logging.INFO) for name in names)
    assert root.handlers[0].stream is sys.stderr


def test_line_stays_a_line_whatever_somebody_put_into_it(logged):
    endless = "x" * 10_000_000
    try:
        raise ValueError(endless)
    except ValueError:
        logged.logger.exception(endless, extra={"facts": {"args": endless}})
    assert len(logged.getvalue()) < 40_000
    assert "... (10000000 characters)" in logged.getvalue()
