"""Keys and hashes as the contract has them."""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cbk_app.contract import NamingError, clean_hash, key_spellings, object_key, split_key

SHA256 = hashlib.sha256(b"abc")
MD5 = hashlib.md5(b"abc")


@given(st.text(alphabet="ab/.ä ", max_size=20).filter(lambda key: key and not key.endswith("/")))
def test_a_row_names_the_key_that_it_was_made_of(key):
    assert object_key(*split_key(key)) == key


@pytest.mark.parametrize(
    ("path", "name", "key"),
    [
        ("cars/id-1/", "a.png", "cars/id-1/a.png"),
        ("cars/id-1", "a.png", "cars/id-1/a.png"),
        ("cars", "/a.png", "cars/a.png"),
        ("/cars/", "a.png", "cars/a.png"),
        ("cars//", "a.png", "cars//a.png"),
        (None, "a.png", "a.png"),
        ("", "cars/a.png", "cars/a.png"),
    ],
)
def test_a_key_is_path_and_name(path, name, key):
    assert object_key(path, name) == key


@pytest.mark.parametrize("key", ["", "/", "cars/", "cars//"])
def test_a_key_without_a_name_is_refused(key):
    with pytest.raises(NamingError, match="empty or ends with a slash"):
        split_key(key)


@pytest.mark.parametrize(("path", "name"), [("cars/id-1/", "a"), ("cars", "id-1/a"), ("/cars/id-1", "a"), ("", "cars/id-1/a")])
def test_the_spellings_of_a_key_hold_every_way_to_split_it(path, name):
    names, paths = key_spellings("cars/id-1/a")
    assert name in names
    assert path in paths


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (SHA256.hexdigest().upper(), SHA256.hexdigest()),
        (f"sha256:{SHA256.hexdigest()}", SHA256.hexdigest()),
        (base64.b64encode(SHA256.digest()).decode(), SHA256.hexdigest()),
    ],
)
def test_a_hash_is_kept_as_the_contract_knows_it(given, kept):
    assert clean_hash(given) == kept


NO_HASHES = ["", "x", MD5.hexdigest(), f"md5:{MD5.hexdigest()}", f'"{MD5.hexdigest()}"']
NO_HASHES += [SHA256.hexdigest()[:-1], f"{SHA256.hexdigest()}\n"]


@pytest.mark.parametrize("given", NO_HASHES)
def test_what_is_no_hash_is_refused(given):
    with pytest.raises(ValueError, match="SHA-256"):
        clean_hash(given)
