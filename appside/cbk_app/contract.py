"""The contract between the application and the kit, in plain values: table names, keys and hashes. No outside world."""

from __future__ import annotations

import base64
import binascii
import re

FILES = "ObjectStorageFiles"
DELETE_LOG = "ObjectStorageDeleteLog"

# Where an inventory of the bucket lies among its objects: an ordinary object with an ordinary row, which the kit also reads.
INVENTORY_KEY = "cbk-inventory/inventory.jsonl.gz"
INVENTORY_FORMAT = "cbk-inventory-1"

_SHA256_HEX = re.compile(r"(?:sha256:)?([0-9a-f]{64})", re.IGNORECASE | re.ASCII)
_SHA256_BYTES = 32


class NamingError(ValueError):
    """A key that two columns, Path and Name, cannot say."""


def split_key(key: str) -> tuple[str, str]:
    """The Path and the Name of an object's key: `cars/id-1/thumbnail.png` is `cars/id-1/` and `thumbnail.png`.

    The contract drops one leading slash, so a key that begins with one gets another in front. Raise NamingError for a key that is
    empty or ends with a slash (a folder's marker): its Name would be empty.
    """
    if not key or key.endswith("/"):
        raise NamingError(f"a row cannot name an object whose key is empty or ends with a slash: {key!r}")
    path, slash, name = key.rpartition("/")
    folder = path + slash
    return ("/" + folder if folder.startswith("/") else folder), name


def object_key(path: str | None, name: str) -> str:
    """The key of a row's object: a slash is put between Path and Name where neither has one, and one leading slash is dropped."""
    folder = path or ""
    if folder and not folder.endswith("/") and not name.startswith("/"):
        folder += "/"
    return (folder + name).removeprefix("/")


def key_spellings(key: str) -> tuple[list[str], list[str]]:
    """The Names and the Paths that rows of `key` may have: it may be split at any slash, with the slash on either side, or both."""
    slashes = [position for position, character in enumerate(key) if character == "/"]
    names = [key, *(key[position + 1 :] for position in slashes)]
    folders = ["", *(key[:position] for position in slashes)]
    return (
        [spelling for name in names for spelling in (name, f"/{name}")],
        [spelling for folder in folders for spelling in (folder, f"{folder}/", f"/{folder}", f"/{folder}/")],
    )


def clean_hash(value: str) -> str:
    """A SHA-256 as 64 hex digits in lower case, from these in either case, also after `sha256:`, or from 44 characters of base64.

    Raise ValueError for anything else.
    """
    if match := _SHA256_HEX.fullmatch(value):
        return match[1].lower()
    try:
        digest = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != _SHA256_BYTES:
        raise ValueError("the hash must be a SHA-256: 64 hex digits, or 44 characters of base64")
    return digest.hex()
