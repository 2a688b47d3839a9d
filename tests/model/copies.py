"""The copies on a backup disk, read with zlib and nothing of the kit's."""

import json
import os
import struct
import zlib
from dataclasses import dataclass
from hashlib import sha256

_FEXTRA = 0x04


@dataclass(frozen=True)
class Copy:
    """What one file on the disk says that it is (None: nothing), and the SHA-256 of what it holds (None: it is damaged).

    `proof` is what it says to be proved by.
    """

    place: str
    storage: str | None = None
    key: str | None = None
    number: int | None = None
    claimed: str | None = None
    sha256: str | None = None
    proof: str | None = None

    @property
    def is_good(self):
        """Whether it holds what it says."""
        return self.sha256 is not None and self.sha256 == self.claimed

    @property
    def name(self):
        """What it is a copy of: storage, key, version and the hash of what it really holds."""
        return self.storage, self.key, self.number, self.sha256


def read_copies(root):
    """Every file below `root` outside of `.cbk`."""
    return _read(root, lambda name: name != ".cbk")


def read_leftovers(root):
    """Every copy in `.cbk`, wherever it lies: in arrival, in the trash, in quarantine."""
    return [copy for copy in _read(root / ".cbk", lambda _: True) if copy.storage is not None]


def _read(root, enters):
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if enters(name)]
        for name in names:
            place = f"{folder}/{name}"
            with open(place, "rb") as file:  # noqa: PTH123 - thousands of times
                yield parse_copy(place, file.read())


def parse_copy(place, data):
    """A gzip file of one member with the kit's subfield; anything else is a copy of nothing."""
    try:
        header = _header(data)
    except (ValueError, KeyError, struct.error, IndexError):
        return Copy(place)
    try:
        inflated = zlib.decompress(data, wbits=31)
    except zlib.error:
        found = None
    else:
        found = sha256(inflated).hexdigest()
    return Copy(
        place,
        storage=header["storage"],
        key=header["path"] + header["name"]
        if header["path"].endswith("/") or not header["path"]
        else f"{header['path']}/{header['name']}",
        number=header["version"],
        claimed=header["sha256"],
        sha256=found,
        proof=header.get("proof", "sha256"),
    )


def _header(data):
    if data[:3] != b"\x1f\x8b\x08" or not data[3] & _FEXTRA:
        raise ValueError("no gzip with fields of its own")
    (length,) = struct.unpack_from("<H", data, 10)
    at, end = 12, 12 + length
    while at < end:
        name, size = struct.unpack_from("<2sH", data, at)
        if name == b"CB":
            return json.loads(data[at + 4 : at + 4 + size])
        at += 4 + size
    raise ValueError("no field of the kit's")
