"""Every parser of what the kit does not control, against input that nobody would write.

Each test is a target of `scripts/fuzz` as well, where coverage chooses the input and the time is yours. What other files say of
their parsers with Hypothesis already is not said again here, and `scripts/fuzz` runs that, too.
"""

import base64
import gzip
import json
import re
import socket
import tempfile
import unicodedata
from contextlib import closing
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from cbk.cluster import logs
from cbk.cluster.publisher import _arguments, _row_ids
from cbk.edges.archive.archive import _identity_in
from cbk.edges.download import Downloader
from cbk.errors import (
    ArchiveError,
    CopyCorrupt,
    DownloadError,
    LinkExpired,
    LinkForbidden,
    NotTheObject,
    SettingsError,
    TransferBroken,
)
from cbk.model import AcceptedRow, CopyHeader
from cbk.rules.backup.gzip_format import CHUNK_MAX_BYTES, HEADER_MAX_BYTES, Decoder, Encoder, decode_header, encode_header
from cbk.rules.backup.http_responses import (
    LONGEST_RETRY_AFTER_SECONDS,
    Entity,
    check_resumed,
    classify_refusal,
    read_entity,
    retry_after_seconds,
)
from cbk.rules.backup.links import AllowedHosts, address_is_public, check_link, link_expires_at, normalized_host
from cbk.rules.intake.layout import copy_location, places, split_key
from cbk.rules.intake.rows import read_row
from cbk.rules.retention.journal import _line, decode_journal, encode_journal
from cbk.rules.status.glob import compile_pattern, literal_start
from cbk.rules.text.durations import parse_duration
from cbk.settings import Settings, _parse_buckets, load_settings, parse_size
from tests.fuzz import strategies as hostile
from tests.fuzz.budget import BUDGET

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
ORIGIN = "files.example.com"
SECRET = "SECRETSECRET"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e]")


def attempt(errors, call, *arguments, **options):
    """What it gives and None, or None and the error, of these kinds."""
    try:
        return call(*arguments, **options), None
    except errors as error:
        return None, error


# Rows


@BUDGET
@given(hostile.rows | hostile.sensible_rows)
def test_row_that_is_accepted_has_a_place_below_the_root_and_a_header_that_comes_back(source_row):
    row = read_row(source_row)
    assume(isinstance(row, AcceptedRow))
    for place in places(row.storage, row.key, row.storage):
        segments = copy_location(place, row.number).split("/")
        assert not {"", ".", ".."} & set(segments)
        assert all(len(segment.encode()) <= 255 and not _CONTROL.search(segment) for segment in segments)
        assert segments[0] != ".cbk"
    path, name = split_key(row.key)
    header = CopyHeader(
        storage=row.storage,
        path=path,
        name=name,
        version=row.number,
        sha256=row.sha256,
        size=0,
        content_type=row.content_type,
        source_id=row.source_id,
    )
    encoded = encode_header(header)
    assert decode_header(encoded + b"\x03\0") == (header, len(encoded))


@BUDGET
@given(hostile.links)
def test_link_that_is_followed_leads_where_it_says_and_nowhere_private(link):
    target, refused = attempt(LinkForbidden, check_link, link, AllowedHosts())
    if refused:
        assert "Signature=" not in refused.message
        return
    assert target.scheme == "https"
    assert normalized_host(target.host) == target.host
    assert 1 <= target.port <= 65535
    assert target.must_be_public
    assert not target.host.endswith((".localhost", ".local", ".internal"))
    if ":" in target.host or target.host.replace(".", "").isdigit():
        assert address_is_public(target.host)
    moment = link_expires_at(link)
    assert moment is None or moment.tzinfo is UTC


@BUDGET
@given(hostile.links)
def test_allowed_hosts_that_are_read_allow_no_other_host(text):
    allowed, _ = attempt(ValueError, AllowedHosts.parse, text)
    assume(allowed)
    named = unicodedata.normalize("NFKC", text).lower().replace("。", ".")
    for host in ("127.0.0.1", "localhost", "files.example.com", "example.com"):
        if allowed.target("https", host, 443):
            assert host in named or f"*.{host.partition('.')[2]}" in named


# Answers


@BUDGET
@given(hostile.response_headers)
def test_entity_of_an_answer_has_a_size_that_a_file_can_have(headers):
    entity, error = attempt(NotTheObject, read_entity, ORIGIN, headers)
    assert error or entity.size is None or 0 <= entity.size < 10**18


@BUDGET
@given(
    st.builds(
        Entity,
        size=st.none() | st.integers(0, 100),
        etag=st.none() | hostile.field_values,
        last_modified=st.none() | hostile.field_values,
        content_type=st.none(),
    ),
    st.sampled_from([200, 204, 206, 304, 416]),
    hostile.response_headers,
    st.integers(1, 100),
)
def test_rest_of_an_object_begins_where_it_was_asked_for_or_is_known_up_to_there(entity, status, headers, position):
    found, error = attempt((TransferBroken, NotTheObject), check_resumed, ORIGIN, entity, status, headers, position=position)
    if error:
        return
    resumed, skip = found
    assert skip in {0, position}
    assert entity.size in {None, resumed.size}
    if status == 206:
        assert headers["Content-Range"].startswith(f"bytes {position}-")


@BUDGET
@given(st.integers(100, 999), st.text(st.characters(), max_size=60), hostile.response_headers, st.booleans())
def test_refusal_is_an_error_of_the_kit_and_repeats_nothing_of_the_page(status, page, headers, in_a_tag):
    excerpt = f"<Code>{page}{SECRET}</Code>" if in_a_tag else f'"message": "{page} {SECRET}"'
    error = classify_refusal(status, excerpt, headers, origin=ORIGIN, link_expires_at=None, now=NOW)
    assert isinstance(error, DownloadError)
    if not isinstance(error, LinkExpired) and not in_a_tag:
        assert SECRET not in f"{error.message} {error.hint}"
    assert error.message.isprintable()


@BUDGET
@given(hostile.field_values)
def test_time_to_wait_is_none_or_at_most_a_day(value):
    seconds = retry_after_seconds(value, now=NOW)
    assert seconds is None or 0 <= seconds <= LONGEST_RETRY_AFTER_SECONDS


class OneAnswer:
    """A stand-in for the network: whoever connects is sent this answer, then the end."""

    answer = b""

    def connect(self, _family, _address, timeout_seconds):
        ours, theirs = socket.socketpair()
        ours.settimeout(timeout_seconds)
        with theirs:
            theirs.sendall(self.answer)
        return ours


class Sink:
    def __init__(self):
        self.bytes = b""

    def expect(self, size):
        pass

    def write(self, data):
        self.bytes += bytes(data)


NETWORK = OneAnswer()
DOWNLOADER = Downloader(
    AllowedHosts.parse(ORIGIN),
    read_timeout_seconds=5,
    max_file_bytes=1000,
    sleep=lambda _: None,
    resolve=lambda _host, port: [(socket.AF_INET, ("203.0.113.7", port))],
    connect=NETWORK.connect,
)
_STATUS_LINES = [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 206 x\r\n", b"HTTP/1.0 302 \r\n", b"HTTP/1.1 100 Continue\r\n\r\n"]
_LINES = st.sampled_from([*_STATUS_LINES, b"\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n"])
_FIELDS = st.builds(
    lambda name, value: f"{name}: {value}\r\n".encode("latin-1", "replace"),
    st.sampled_from(["Content-Length", "Transfer-Encoding", "Content-Range", "Location", "ETag", "Content-Encoding"]),
    hostile.field_values,
)


@BUDGET
@given(st.lists(_LINES | _FIELDS | st.binary(max_size=20), max_size=12).map(b"".join))
def test_whatever_an_origin_sends_is_an_object_or_an_error_of_the_kit(answer):
    NETWORK.answer = answer
    sink = Sink()
    link = f"http://{ORIGIN}/a?X-Amz-Signature={SECRET}"
    with closing(DOWNLOADER):  # which may be used again
        fetched, error = attempt(DownloadError, DOWNLOADER.fetch, link, sink, tick=lambda _: None, now=lambda: NOW)
    if error:
        assert SECRET not in f"{error.message} {error.hint}"
        return
    assert fetched.size == len(sink.bytes) <= 1000
    assert sink.bytes in answer or b"\r\n" in answer  # of chunks, their frames are not the object's


# Copies


@BUDGET
@given(hostile.headers)
def test_header_comes_back_and_is_as_long_for_any_size(header):
    encoded = encode_header(header)
    assert decode_header(encoded) == (header, len(encoded))
    assert gzip.decompress(encoded + Encoder().finish()) == b""


def damaged(data):
    """Strategies for bytes that were `data` once: flipped, cut, doubled."""
    places_in_it = st.integers(0, len(data))
    flips = st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(1, 255)), max_size=4)

    def damage(found, start, end):
        changed = bytearray(data)
        for at, mask in found:
            changed[at] ^= mask
        return bytes(changed[:end] + changed[start:])

    return st.builds(damage, flips, places_in_it, places_in_it)


def _copy(content):
    encoder = Encoder()
    body = b"".join([*encoder.feed(content), encoder.finish()])
    digest = sha256(content).hexdigest()
    header = CopyHeader(storage="s3", path="cars/", name="a.png", version=1, sha256=digest, size=len(content))
    return encode_header(header) + body


CONTENT = b"content of a copy, " * 20
COPY = _copy(CONTENT)


@BUDGET
@given(damaged(COPY) | st.binary(max_size=300), st.integers(1, 400))
def test_bytes_on_the_disk_are_a_whole_copy_or_a_corrupt_one(data, chunk):
    try:
        decoder = Decoder(data[start : start + chunk] for start in range(0, len(data), chunk))
        pieces = list(decoder)
    except CopyCorrupt:
        return
    assert all(len(piece) <= CHUNK_MAX_BYTES for piece in pieces)
    assert b"".join(pieces) == CONTENT


@BUDGET
@given(damaged(COPY[:HEADER_MAX_BYTES]) | st.binary(max_size=300).map(COPY[:12].__add__))
def test_header_that_is_believed_is_written_the_same_way_again(data):
    try:
        header, length = decode_header(data)
    except CopyCorrupt:
        return
    assert decode_header(encode_header(header))[0] == header
    assert length <= len(data)


@BUDGET
@given(
    st.binary(max_size=100)
    | hostile.deep.map(str.encode)
    | hostile.json_values.map(lambda value: json.dumps({"uuid": value, "format": value}).encode())
)
def test_identity_of_a_disk_is_read_or_is_damaged(content):
    identity, error = attempt(ArchiveError, _identity_in, content)
    assert error or isinstance(identity, str)


@BUDGET
@given(st.sampled_from(["hold", "removal"]), hostile.json_values)
def test_journal_whose_sums_are_right_but_whose_values_are_not_raises_nothing(kind, body):
    first = encode_journal([], [], NOW)
    try:
        line = _line(kind, body if isinstance(body, dict) else {"key": body}).encode()
    except ValueError:  # a lone surrogate, which `_line` cannot write either
        return
    journal = decode_journal(first + line)
    assert journal.problems or journal.holds or journal.removals


# Messages


@BUDGET
@given(hostile.json_values, st.booleans())
def test_message_of_any_shape_has_arguments_that_are_texts(body, encoded):
    text = json.dumps(body)
    packed = base64.b64encode(text.encode()).decode() if encoded else text
    properties = {"body_encoding": "base64"} if encoded else {}
    for message in (text.encode(), json.dumps({"body": packed, "properties": properties}).encode()):
        assert all(isinstance(row_id, str) for row_id in _row_ids(_arguments(message)))


@BUDGET
@given(st.binary(max_size=100) | hostile.deep.map(str.encode))
def test_bytes_in_the_queue_raise_nothing(message):
    assert _arguments(message) == []
    envelope = json.dumps({"body": base64.b64encode(message).decode(), "properties": {"body_encoding": "base64"}})
    assert isinstance(_arguments(envelope.encode()), list)


# What a person types


@BUDGET
@given(st.sampled_from([parse_duration, parse_size, _parse_buckets]), hostile.setting_values | hostile.deep)
def test_setting_is_read_or_is_a_value_error(parse, text):
    _, error = attempt(ValueError, parse, text)
    assert error is None or "expected" in str(error)


@BUDGET
@given(
    st.dictionaries(
        st.sampled_from(sorted(Settings.model_fields)), hostile.setting_values | hostile.links | hostile.json_values, max_size=6
    )
)
def test_settings_of_any_values_are_settings_or_name_each_problem(values):
    _, error = attempt(ValidationError, lambda: Settings(**values))
    assert error is None or all(detail["loc"] for detail in error.errors())


@BUDGET
@given(
    st.binary(max_size=200)
    | (hostile.setting_values | hostile.deep).map(lambda text: f"poll_interval = {text}".encode("utf-8", "replace"))
)
def test_file_of_settings_is_read_or_is_an_error_of_the_kit(content):
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(content)
        _, error = attempt(SettingsError, load_settings, Path(file.name))
    assert error is None or error.problems


@BUDGET
@given(hostile.names, hostile.names)
def test_pattern_of_any_characters_compiles_and_begins_as_what_it_matches(pattern, key):
    if compile_pattern(pattern).match(key):
        assert key.startswith(literal_start(pattern))


# What leaves


@BUDGET
@given(hostile.links, st.sampled_from(["sig=", "X-Amz-Signature=", "token="]), hostile.links)
def test_redacted_text_shows_no_signature(before, name, after):
    assert SECRET not in logs.redact(f"{before}?{name}{SECRET}&{after}")
