"""What an object is besides its bytes: read from an answer, kept in a header, and never more than that."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbk.model import CopyHeader, ObjectProperties
from cbk.rules.backup.gzip_format import decode_header, encode_header
from cbk.rules.backup.http_responses import Headers, parse_headers
from cbk.rules.backup.object_properties import (
    PROPERTIES_MAX_BYTES,
    expires_at,
    properties_from_fields,
    properties_to_fields,
    read_properties,
)

LINK = "https://bucket.s3.amazonaws.com/a.css?X-Amz-Signature=feed"
SAID = {
    "Content-Type": "text/css; charset=utf-8",
    "Content-Encoding": "gzip",
    "Content-Disposition": 'attachment; filename="a.css"',
    "Content-Language": "de",
    "Cache-Control": "max-age=60",
    "Expires": "Tue, 01 Dec 2026 08:00:00 GMT",
}


def read(fields, link=LINK, **options):
    return read_properties(Headers(fields), link, **options)


def header(properties, **changes):
    values = {"storage": "s3", "path": "cars/", "name": "a.css", "version": 1, "sha256": "ab" * 32, "size": 7}
    return CopyHeader(**values | changes, properties=properties)


def test_every_property_of_an_answer_is_read():
    properties = read(SAID | {"x-amz-meta-owner": "id-1", "ETag": '"5d41"', "x-amz-storage-class": "GLACIER"})
    assert dataclasses.asdict(properties) == {
        "content_type": "text/css; charset=utf-8",
        "content_encoding": "gzip",
        "content_disposition": 'attachment; filename="a.css"',
        "content_language": "de",
        "cache_control": "max-age=60",
        "expires": "Tue, 01 Dec 2026 08:00:00 GMT",
        "metadata": (("owner", "id-1"),),
    }
    assert expires_at(properties).isoformat() == "2026-12-01T08:00:00+00:00"


@pytest.mark.parametrize("prefix", ["x-amz-meta-", "x-ms-meta-", "x-goog-meta-"])
def test_metadata_are_read_by_the_habit_of_each_provider(prefix):
    assert read({f"{prefix}owner": "Jörg", f"{prefix}empty": ""}).metadata == (("empty", ""), ("owner", "Jörg"))


@pytest.mark.parametrize("name", ["cbk-sha256", "cbk-etag", "cbk_sha256", "cbk_md5"])
def test_what_a_restore_has_noted_is_no_property_of_the_object(name):
    assert read({f"x-amz-meta-{name}": "ab"}) is None


@pytest.mark.parametrize(
    ("parameter", "name"),
    [
        ("response-content-type", "content_type"),
        ("response-content-encoding", "content_encoding"),
        ("response-content-disposition", "content_disposition"),
        ("response-content-language", "content_language"),
        ("response-cache-control", "cache_control"),
        ("response-expires", "expires"),
        ("rscd", "content_disposition"),
        ("rsct", "content_type"),
    ],
)
def test_what_the_link_makes_the_storage_say_is_not_the_objects(parameter, name):
    found = read(SAID, f"{LINK}&{parameter}=something")
    assert getattr(found, name) is None
    assert found == dataclasses.replace(read(SAID), **{name: None})


def test_plain_bytes_are_in_no_coding():
    assert read(SAID, is_unpacked=True) == dataclasses.replace(read(SAID), content_encoding=None)


@pytest.mark.parametrize(("coding", "kept"), [("aws-chunked", None), ("gzip, aws-chunked", "gzip"), ("identity", None)])
def test_how_an_object_was_sent_is_no_coding_of_it(coding, kept):
    assert read({"Content-Encoding": coding, "Cache-Control": "x"}).content_encoding == kept


@pytest.mark.parametrize("expires", ["0", "-1", "soon", ""])
def test_expires_that_is_no_date_is_left_out(expires):
    assert read({"Expires": expires}) is None


@pytest.mark.parametrize("value", ["a\r\nx-amz-acl: public-read", "a\nb", "a\0b", "a\x7fb", "a\u2028b", "a\udcffb"])
def test_value_that_could_say_something_else_is_left_out(value):
    fields = {"cache_control": value, "content_type": "text/css", "metadata": [["owner", value], ["id", "1"]]}
    assert properties_from_fields(fields) == ObjectProperties(content_type="text/css", metadata=(("id", "1"),))


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "ä"])
def test_metadata_without_a_name_that_a_header_can_have_are_left_out(name):
    assert properties_from_fields({"metadata": [[name, "1"]]}) is None


def test_bytes_that_are_no_text_are_left_out():
    assert read_properties(parse_headers([b"HTTP/1.1 200 OK", b"x-amz-meta-owner: J\xf6rg"]), LINK) is None


@pytest.mark.parametrize("fields", [None, 5, [], "x", {}, {"metadata": 5}, {"metadata": [5, ["a"], ["a", 5]]}, {"expires": 5}])
def test_nonsense_in_a_header_is_no_property(fields):
    assert properties_from_fields(fields) is None


def test_a_hundred_and_ten_metadata_are_kept():
    metadata = {f"x-amz-meta-key-{number}": f"value-{number}" for number in range(110)}
    assert len(read(metadata).metadata) == 110


def test_more_metadata_than_any_storage_keeps_are_left_out():
    huge = {f"x-amz-meta-{number}": "x" * 1000 for number in range(PROPERTIES_MAX_BYTES // 1000 + 1)}
    assert read(huge | SAID) == read(SAID)


@given(
    st.dictionaries(st.sampled_from(sorted(SAID)), st.text(max_size=30)),
    st.dictionaries(st.text(max_size=10), st.text(max_size=30), max_size=5),
)
def test_header_gives_back_what_was_read(said, metadata):
    properties = read(said | {f"x-ms-meta-{name}": value for name, value in metadata.items()})
    encoded = encode_header(header(properties))
    assert decode_header(encoded)[0] == header(properties)
    assert properties is None or properties_from_fields(json.loads(json.dumps(properties_to_fields(properties)))) == properties


def test_largest_properties_fit_beside_the_longest_names():
    properties = read({f"x-amz-meta-{number}": '"' * 900 for number in range(10)})
    longest = header(properties, storage="ä" * 127, path="\x01" * 4094 + "/", name="x", content_type="\x01" * 255)
    assert decode_header(encode_header(longest))[0] == longest


def test_header_is_as_long_for_any_size_with_properties():
    properties = read(SAID)
    assert len(encode_header(header(properties, size=0))) == len(encode_header(header(properties, size=2**62)))
