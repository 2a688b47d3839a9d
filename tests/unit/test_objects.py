"""What all object storage has in common: the objects that files become."""

import hashlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbk.edges.destinations import open_destination
from cbk.edges.destinations.objects import MIB, Naming, content_type, in_parts, parse_address, part_bytes, verified
from cbk.errors import CopyCorrupt, DestinationError, UsageError
from cbk.model import RestoreItem


def item(key="cars/id-1/thumbnail.png", content=b"abc", **changes):
    values = {
        "storage": "s3",
        "bucket": "car-erp",
        "key": key,
        "number": 1,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "location": "car-erp/cars/id-1/thumbnail/v1.gzip",
        "path": f"car-erp/{key}",
    }
    return RestoreItem(**values | changes)


# Addresses


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("s3://new", ("new", "")),
        ("s3://new/", ("new", "")),
        ("s3://new/a/b", ("new", "a/b")),
        ("s3://new/ü %20", ("new", "ü %20")),
    ],
)
def test_address_is_taken_as_it_is(url, parts):
    assert parse_address(url, "s3", "BUCKET") == parts


def test_address_may_want_two_names_before_the_prefix():
    assert parse_address("azure://account/container/a/b", "azure", "ACCOUNT", "CONTAINER") == ("account", "container", "a/b")


@pytest.mark.parametrize("url", ["s3://", "s3:///a", "s4://new", "s3://key:secret@new/a", "s3://new/a?sig=secret"])
def test_address_that_makes_no_sense_is_refused_without_repeating_it(url):
    with pytest.raises(UsageError) as refused:
        parse_address(url, "s3", "BUCKET")
    assert "secret" not in f"{refused.value}{refused.value.hint}"
    assert "s3://BUCKET/PREFIX" in refused.value.hint


def test_address_without_a_container_is_refused():
    with pytest.raises(UsageError):
        parse_address("azure://account", "azure", "ACCOUNT", "CONTAINER")


@pytest.mark.parametrize(("url", "module"), [("s3://new", "boto3"), ("azure://account/new", "azure.storage.blob")])
def test_package_that_is_missing_is_named_with_its_cure(monkeypatch, url, module):
    extra = url.partition(":")[0]
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"cbk.edges.destinations.{extra}", raising=False)
    with pytest.raises(UsageError, match=module) as refused:
        open_destination(url)
    assert refused.value.hint == f"pip install 'cloud-backup-kit[{extra}]'"


# Names


@pytest.mark.parametrize(
    ("container", "prefix", "expected"),
    [
        ("new", "", ("new", "cars/id-1/thumbnail.png")),
        ("new", "/again/", ("new", "again/cars/id-1/thumbnail.png")),
        ("{bucket}", "", ("car-erp", "cars/id-1/thumbnail.png")),
        ("new", "{bucket}/x", ("new", "car-erp/x/cars/id-1/thumbnail.png")),
    ],
)
def test_object_has_the_files_own_key_below_the_prefix(container, prefix, expected):
    assert Naming(container, prefix).object_of(item()) == expected


def test_two_buckets_are_not_mixed_in_one_place():
    naming = Naming("new", "")
    naming.object_of(item())
    with pytest.raises(DestinationError) as refused:
        naming.object_of(item(bucket="other"))
    assert "other" in refused.value.message
    assert "{bucket}" in refused.value.hint


def test_two_buckets_go_where_the_address_keeps_them_apart():
    naming = Naming("new", "{bucket}")
    assert [naming.object_of(item("a", bucket=bucket))[1] for bucket in ("one", "two")] == ["one/a", "two/a"]


@pytest.mark.parametrize("key", ["../other/a", "a/../b", "a/./b", "..", "a/.."])
def test_key_that_a_server_could_take_for_a_path_is_refused(key):
    with pytest.raises(DestinationError):
        Naming("new", "").object_of(item(key))


@pytest.mark.parametrize("key", ["a..b", "...", ".hidden/..a", "a//b", "a\\..\\b"])
def test_key_with_dots_in_its_names_is_an_ordinary_one(key):
    assert Naming("new", "").object_of(item(key)) == ("new", key)


def test_bucket_cannot_lead_elsewhere_either():
    with pytest.raises(DestinationError):
        Naming("new", "{bucket}").object_of(item(bucket=".."))


def test_key_that_is_no_text_is_refused():
    with pytest.raises(DestinationError):
        Naming("new", "").object_of(item("a\ud800"))


# Content types


@pytest.mark.parametrize("given_type", ["image/webp", 'text/plain; charset="utf-8"', "x/y"])
def test_type_of_the_row_comes_first(given_type):
    assert content_type(item("a.png", content_type=given_type)) == given_type


@pytest.mark.parametrize("given_type", [None, "", "png", "image/", "image/ü", "image/png\r\nx-amz-acl: public-read", "a/b "])
def test_type_that_is_no_header_gives_way_to_that_of_the_name(given_type):
    assert content_type(item("a/b.PNG", content_type=given_type)) == "image/png"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a/b.jpeg", "image/jpeg"),
        ("noextension", "application/octet-stream"),
        ("folder.html/noextension", "application/octet-stream"),
        ("a.unheard-of", "application/octet-stream"),
        ("a.tar.gz", "application/gzip"),
        ("a.svg.br", "application/octet-stream"),
    ],
)
def test_type_is_guessed_from_the_name(key, expected):
    assert content_type(item(key)) == expected


# Parts


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, 8 * MIB), (80_000 * MIB, 8 * MIB), (80_000 * MIB + 1, 9 * MIB), (5 * MIB**2, 525 * MIB)],
)
def test_parts_grow_with_the_object(size, expected):
    assert part_bytes(size, most_parts=10_000, at_least=8 * MIB) == expected


@given(size=st.integers(0, 5 * MIB**2), at_least=st.integers(5 * MIB, 64 * MIB))
def test_parts_are_never_too_many(size, at_least):
    part = part_bytes(size, most_parts=10_000, at_least=at_least)
    assert part >= at_least
    assert part * 10_000 >= size


@given(chunks=st.lists(st.binary(max_size=20)), size=st.integers(1, 16))
def test_parts_are_the_same_bytes_in_pieces_of_one_size(chunks, size):
    content = b"".join(chunks)
    assert [bytes(part) for part in in_parts(chunks, size)] == [content[at : at + size] for at in range(0, len(content), size)]


# Bytes


@given(chunks=st.lists(st.binary(max_size=20)))
def test_right_bytes_pass(chunks):
    content = b"".join(chunks)
    assert b"".join(verified(item(content=content), chunks)) == content


@pytest.mark.parametrize("chunks", [[b"abx"], [b"ab"], [], [b"abc", b"d"], [b"xabc"]])
def test_other_bytes_are_found_out_in_the_end(chunks):
    with pytest.raises(CopyCorrupt) as found:
        list(verified(item(content=b"abc"), chunks))
    assert item().location in found.value.message


def test_bytes_beyond_the_size_are_not_read():
    chunks = iter([b"abc"] * 1000)
    with pytest.raises(CopyCorrupt):
        list(verified(item(content=b"abc"), chunks))
    assert len(list(chunks)) == 998
