"""No parser takes much longer for hostile input than for other input as long: an expression that backtracks would take hours.

Each runs in a process of its own, with a limit on the processor's time that is many times what it needs.
"""

import resource
from contextlib import suppress
from datetime import UTC, datetime
from multiprocessing import get_context

import pytest

from cbk.cluster import logs
from cbk.errors import CbkError
from cbk.model import SourceRow
from cbk.rules.backup.http_responses import classify_refusal, read_entity, retry_after_seconds
from cbk.rules.backup.links import AllowedHosts, check_link, link_expires_at
from cbk.rules.intake.layout import place_key, places, restore_names
from cbk.rules.intake.rows import read_row
from cbk.rules.retention.journal import decode_journal
from cbk.rules.text.durations import parse_duration
from cbk.settings import parse_size
from tests.fuzz.strategies import SHA256

LENGTH = 100_000
LIMIT_SECONDS = 10
NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)

PIECES = ["a", " ", "/", ".", "a.", "://", "://a:", "?a=", "sig=", "<Code>", "<Code", '"code":"', '"code" ', "9", "1s", "1."]
PIECES += ["%2F", "~", "\x00", "é", "-", "@"]
TEXTS = [piece * (LENGTH // len(piece)) + end for piece in PIECES for end in ("", "\n", "@")]


def row(text):
    return read_row(SourceRow(id="1", storage=text, path=text, name=text, version=text, hash=text, link=text, content_type=text))


def column(name):
    """The row that is sensible but for this column."""

    def read(text):
        sensible = {"id": "1", "storage": "s3", "path": "a/", "name": "b", "version": 1, "hash": SHA256, "link": "https://h/"}
        return read_row(SourceRow(**sensible | {name: text}))

    return read


PARSERS = {
    "a row": row,
    "Path": column("path"),
    "Version": column("version"),
    "Hash": column("hash"),
    "ContentType": column("content_type"),
    "a place": lambda text: places("b", text[:4096], "s3"),
    "the key of a place": place_key,
    "the names of a restore": lambda text: restore_names(text[:4096], "s3"),
    "a link": lambda text: check_link(f"https://{text[:8000]}", AllowedHosts()),
    "the path of a link": lambda text: check_link(f"https://files.example.com/{text[:8000]}", AllowedHosts()),
    "the expiry of a link": lambda text: link_expires_at(f"https://h/?X-Amz-Date={text}&X-Amz-Expires={text}"),
    "the expiry of a link to Azure": lambda text: link_expires_at(f"https://h/?sig=x&se={text}"),
    "an error page": lambda text: classify_refusal(403, text, {}, origin="h", link_expires_at=None, now=NOW),
    "a length": lambda text: read_entity("h", {"Content-Length": text}),
    "a time to wait": lambda text: retry_after_seconds(text[:65536], now=NOW),
    "a journal": lambda text: decode_journal(text.encode()),
    "a duration": parse_duration,
    "a size": parse_size,
    "a log line": logs.redact,
}


def parse_all(name):
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_SECONDS, LIMIT_SECONDS))
    for text in TEXTS:
        with suppress(CbkError, ValueError):
            PARSERS[name](text)


@pytest.mark.parametrize("name", PARSERS)
def test_time_to_parse_grows_with_the_length_alone(name):
    process = get_context("fork").Process(target=parse_all, args=(name,))
    process.start()
    process.join()
    assert process.exitcode == 0
