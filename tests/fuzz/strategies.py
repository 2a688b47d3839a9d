"""What hostile input is made of: pieces that mean something to a parser, put together without any sense, and plain noise."""

from hypothesis import strategies as st

from cbk.model import CopyHeader, SourceRow

SHA256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

_NAMES = [".", "..", "/", "//", "\\", "%", "%2F", "~", "v1.gzip", "V1.GZIP", ".cbk", "nul", "con.txt", "é", "ß"]
_NAMES += ["\U0001f468\u200d\U0001f469", "", "\x00", "\n", " ", "a" * 250, "é" * 130, "\ud800"]
_LINKS = ["https://", "http://", "//", "files.example.com", "127.0.0.1", "0x7f.1", "[::1]", "[::ffff:10.0.0.1]", "localhost"]
_LINKS += ["example.com.", "\u24dbocalhost", "\u3002", "xn--", "-", "_", "*.", "@", ":", ":443", ":0", "/", "?", "#", "&", "="]
_LINKS += ["%", "%0a", "X-Amz-Date=", "X-Amz-Expires=", "20260101T120000Z", "99999999999", "se=", "sig=", "Expires="]
_LINKS += ["Signature="]
_HEADERS = ["0", "1", "-1", "007", "1e3", "+5", "9999999999999999999", "bytes", "bytes=", "-", "/", "*", "0-9/10", "10-19/20"]
_HEADERS += ["chunked", "gzip", "identity", "W/", '"a"', '"', ",", ";", "\u0663", "ÿ", "bytes ", " ", "\t"]
_HEADERS += ["Wed, 21 Oct 2026 07:28:00 GMT", "Mon, 00 Jan 0000 99:99:99 +9999"]
_VALUES = ["1", "90", "0", ".5", "1.5", "999999999999999999999999999999", "s", "ms", "m", "h", "d", "w", "k", "GiB", "MB", "b"]
_VALUES += ["-", "+", "e9", "inf", "nan", "\u0661", "_", " ", "9" * 400]


def texts_of(pieces, *, longest=12):
    """Texts of pieces, and others."""
    return st.lists(st.sampled_from(pieces) | st.text(st.characters(), max_size=8), max_size=longest).map("".join)


names = texts_of(_NAMES)
links = texts_of(_LINKS)
field_values = texts_of(_HEADERS)
setting_values = texts_of(_VALUES)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)

# Brackets within brackets, and digits, of which Python's own parsers do not take any number.
deep = st.builds(lambda open_, depth: open_ * depth, st.sampled_from(["[", '{"a":', "9", "[1,"]), st.integers(1, 20_000))

_HEADER_NAMES = [
    "Content-Length",
    "Transfer-Encoding",
    "Content-Range",
    "ETag",
    "Last-Modified",
    "Content-Type",
    "Retry-After",
    "Location",
]
response_headers = st.dictionaries(st.sampled_from(_HEADER_NAMES), field_values, max_size=6)

_column_values = st.none() | st.booleans() | st.integers() | st.floats() | st.decimals() | st.binary(max_size=40) | names | links
rows = st.builds(
    SourceRow,
    id=st.text(max_size=20),
    storage=st.just("s3") | _column_values,
    path=names | _column_values,
    name=names | _column_values,
    version=st.integers(0, 2**63 - 1) | _column_values,
    hash=st.just(SHA256) | _column_values,
    link=links | _column_values,
    content_type=_column_values,
)

sensible_rows = st.builds(
    SourceRow,
    id=st.text(max_size=20),
    storage=st.just("s3") | names.filter(bool),
    path=names,
    name=names.filter(lambda name: name.strip("/")),
    version=st.integers(0, 2**63 - 1),
    hash=st.just(SHA256),
    link=st.just("https://files.example.com/a"),
    content_type=st.none() | names,
)

headers = st.builds(
    CopyHeader,
    storage=names,
    path=names,
    name=names,
    version=st.integers(0, 2**63 - 1),
    sha256=st.just(SHA256) | names,
    size=st.integers(0, 2**63 - 1),
    content_type=st.none() | names,
    source_id=st.none() | names,
)
