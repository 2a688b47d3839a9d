import base64
import hashlib
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cbk.model import AcceptedRow, DeclinedRow, SourceRow
from cbk.rules.intake.rows import read_row

NO_CLOCK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine fails no test

DIGEST = hashlib.sha256(b"content").digest()
HEX = DIGEST.hex()
LINK = "https://bucket.example.com/cars/1.png?X-Amz-Signature=5ec7e7"
MD5 = hashlib.md5(b"content").digest()
EXPECTED_HASH = "Hash is not a SHA-256 (64 hex digits, sha256:<hex>, or base64), nor an MD5 (md5:<32 hex digits>, or base64)"
EXPECTED_VERSION = "Version is not a whole number from 0 to 9223372036854775807"


def make_row(**overrides):
    values = {"id": "7", "storage": "s3", "path": "/cars/", "name": "1.png", "version": 1, "hash": HEX, "link": LINK}
    return SourceRow(**(values | overrides))


def reason(**overrides):
    declined = read_row(make_row(**overrides))
    assert isinstance(declined, DeclinedRow), declined
    return declined.reason


def test_read_row_accepts_an_ordinary_row():
    assert read_row(make_row(content_type="image/png")) == AcceptedRow(
        source_id="7", storage="s3", key="cars/1.png", number=1, sha256=HEX, link=LINK, content_type="image/png"
    )


@pytest.mark.parametrize(
    "spelling",
    [
        HEX,
        HEX.upper(),
        f"sha256:{HEX}",
        f"SHA256:{HEX.upper()}",
        f"  {HEX}   ",
        base64.b64encode(DIGEST).decode(),
        DIGEST,
        bytearray(DIGEST),
        memoryview(DIGEST),
    ],
)
def test_read_row_reads_a_hash_in_every_accepted_spelling(spelling):
    assert read_row(make_row(hash=spelling)).sha256 == HEX


@pytest.mark.parametrize(
    "spelling",
    [
        f"md5:{MD5.hex()}",
        f"MD5:{MD5.hex().upper()}  ",
        base64.b64encode(MD5).decode(),  # Rails' active_storage_blobs.checksum, Azure's Content-MD5
        f"md5:{base64.b64encode(MD5).decode()}",
    ],
)
def test_read_row_reads_an_md5_in_every_accepted_spelling(spelling):
    row = read_row(make_row(hash=spelling))
    assert (row.sha256, row.md5, row.hash) == ("", MD5.hex(), f"md5:{MD5.hex()}")


def test_read_row_accepts_a_row_without_a_hash():
    row = read_row(make_row(hash=None))
    assert (row.sha256, row.md5, row.hash) == ("", "", "")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("", "''"),
        ("d41d8cd98f00b204e9800998ecf8427e", "'d41d8cd98f00b204e9800998ecf8427e'"),
        (HEX[:-1], f"'{HEX[:39]}…'"),
        (HEX + "0", f"'{HEX[:39]}…'"),
        ("g" * 64, f"'{'g' * 39}…'"),
        ("٣" * 64, f"'{'٣' * 39}…'"),
        (f"md5:{HEX}", f"'md5:{HEX[:35]}…'"),
        ("md5:", "'md5:'"),
        (f"{MD5.hex()}-5", f"'{MD5.hex()}-5'"),  # that of an upload in five parts
        (f"sha256:{MD5.hex()}", f"'sha256:{MD5.hex()}'"),
        (f"{base64.b64encode(MD5).decode()[:-1]}!", f"'{base64.b64encode(MD5).decode()[:-1]}!'"),
        (base64.b64encode(MD5[:15]).decode() + "AAAA", f"'{base64.b64encode(MD5[:15]).decode()}AAAA'"),
        (MD5, "16 bytes"),
        (f"sha256:{base64.b64encode(DIGEST).decode()}", f"'sha256:{base64.b64encode(DIGEST).decode()[:32]}…'"),
        (base64.b64encode(DIGEST[:31]).decode(), f"'{base64.b64encode(DIGEST[:31]).decode()[:39]}…'"),
        (base64.b64encode(DIGEST + b"x").decode(), f"'{base64.b64encode(DIGEST + b'x').decode()[:39]}…'"),
        ("é" * 44, f"'{'é' * 39}…'"),
        (DIGEST[:20], "20 bytes"),
        (12345, "12345"),
        (["a"], "a value of type list"),
    ],
)
def test_read_row_declines_any_other_hash_by_name(value, shown):
    assert reason(hash=value) == f"{EXPECTED_HASH}: {shown}"


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0, 0),
        (2**63 - 1, 2**63 - 1),
        ("12", 12),
        (" 007 ", 7),
        (Decimal(3), 3),
        (Decimal("3.000"), 3),
        (Decimal("1E+3"), 1000),
        (4.0, 4),
    ],
)
def test_read_row_reads_a_version_of_every_numeric_type(value, number):
    assert read_row(make_row(version=value)).number == number


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "NULL"),
        (True, "True"),
        (-1, "-1"),
        (2**63, "9223372036854775808"),
        pytest.param(10**5000, "a value of type int", id="longer than Python prints"),
        ("9" * 5000, f"'{'9' * 39}…'"),
        ("-1", "'-1'"),
        ("1.0", "'1.0'"),
        ("٣", "'٣'"),
        ("v1", "'v1'"),
        ("", "''"),
        (1.5, "1.5"),
        (1e300, "1e+300"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (Decimal("1.5"), "1.5"),
        (Decimal("1E+999999"), "1E+999999"),
        (Decimal("NaN"), "NaN"),
        (Decimal("sNaN"), "sNaN"),
        (b"1", "1 bytes"),
        (object(), "a value of type object"),
    ],
)
def test_read_row_declines_any_other_version_by_name(value, shown):
    assert reason(version=value) == f"{EXPECTED_VERSION}: {shown}"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"storage": None}, "Storage is empty"),
        ({"storage": ""}, "Storage is empty"),
        ({"storage": 5}, "Storage is not text: 5"),
        ({"storage": "s" * 256}, f"Storage is longer than 255 bytes: '{'s' * 39}…'"),
        ({"name": None}, "Name is empty"),
        ({"name": ""}, "Name is empty"),
        ({"path": "", "name": "/"}, "Name has nothing but a slash: '/'"),
        ({"name": b"1.png"}, "Name is not text: 5 bytes"),
        ({"path": 0}, "Path is not text: 0"),
        ({"path": b""}, "Path is not text: 0 bytes"),
        ({"link": None}, "SignedDownloadUrl is empty"),
        ({"link": ""}, "SignedDownloadUrl is empty"),
        ({"link": 5}, "SignedDownloadUrl is not text"),
        ({"id": "1" * 256}, "Id is longer than 255 characters"),
    ],
)
def test_read_row_declines_a_wrong_column_by_name(overrides, expected):
    assert reason(**overrides) == expected


@pytest.mark.parametrize("path", [None, "", "/"])
def test_read_row_takes_an_empty_path_for_the_root(path):
    assert read_row(make_row(path=path)).key == "1.png"


def test_read_row_counts_the_key_in_bytes():
    assert read_row(make_row(path="é" * 2045, name="x.png")).key == "é" * 2045 + "/x.png"
    assert reason(path="é" * 2046, name="x.png") == f"Path and Name are longer than 4096 bytes together: '{'é' * 39}…'"


@pytest.mark.parametrize(
    ("value", "content_type"),
    [
        (None, None),
        ("", None),
        ("\n", None),
        (5, None),
        ("image/png\r\nSet-Cookie: x", "image/pngSet-Cookie: x"),
        ("x" * 300, "x" * 255),
    ],
)
def test_read_row_keeps_what_is_usable_of_a_content_type(value, content_type):
    assert read_row(make_row(content_type=value)).content_type == content_type


def test_read_row_shows_of_a_declined_row_what_can_be_made_out():
    declined = read_row(make_row(hash="x", path="a\x1b[31m", name="n\u202e.png", version=3))
    assert (declined.storage, declined.key, declined.version) == ("s3", "a\\x1b[31m/n\\u202e.png", "3")


def test_read_row_shows_nothing_of_a_declined_row_where_nothing_can_be_made_out():
    declined = read_row(make_row(storage=None, name=None, version=None))
    assert (declined.storage, declined.key, declined.version) == ("", "", "")


@pytest.mark.parametrize("column", ["storage", "path", "name", "version", "hash"])
def test_read_row_never_shows_a_link_that_stands_in_the_wrong_column(column):
    shown = repr(read_row(make_row(**({"hash": "x"} | {column: LINK}))))
    assert "bucket.example.com" not in shown
    assert "5ec7e7" not in shown


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.decimals(),
    st.text(),
    st.binary(),
    st.lists(st.integers()),
    st.datetimes(),
)


@NO_CLOCK
@given(
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(["storage", "path", "name", "version", "hash", "link", "content_type"], VALUES)
    )
)
def test_read_row_gives_an_answer_whatever_is_in_the_row(overrides):
    found = read_row(make_row(**overrides))
    if isinstance(found, DeclinedRow):
        assert found.reason.isprintable()
        assert len(found.reason) < 200
        assert all(text.isprintable() for text in (found.storage, found.key, found.version))
