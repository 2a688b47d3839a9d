"""Where a copy lies below the backup root: from an object key, which is hostile input, to a folder that is safe on any disk.

The normal case is exact and is documented: bucket `car-erp`, key `cars/id-1/thumbnail.png`, version 1 goes to

    car-erp/cars/id-1/thumbnail/v1.gzip
    └──────────── place ──────┘ └ copy ┘

A *place* is the folder of one file, relative to the root, with "/" between its segments. `places` gives the candidates in order of
preference; the catalog takes the first whose `place_key` nobody has, and remembers it. What holds for every candidate:

- it is relative, has no `..`, and no segment is empty, longer than 255 bytes, or means something of its own to Linux or Windows;
- no segment reads like the name of a copy (`v1.gzip`), so that no folder stands where another file's copy goes;
- the last candidate belongs to its file alone: nobody else's key can be spelt so that it gets there.

What is restored to a folder goes to `<bucket>/<key>` again, spelt otherwise only where Linux has no such name. Object storage can
hold what a folder cannot: `a` beside `a/b`, or one key in two storages of one bucket. Then the file that others' names lead
through, and each of those that share one name, has its hash behind it (`contested_paths`, `restore_path`). Which those are depends
on all that is restored, and not on its order, so that `cbk restore` and the shell script on the disk give one tree.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise

from cbk.model import Version
from cbk.rules.intake.unicode14 import UNASSIGNED

COPY_NAME = re.compile(r"v[0-9]+(?:-[0-9a-f]{32})?\.gzip")
UNKNOWN_VARIANT = "0" * 32
# Folders of the root in which no copies lie.
NOT_BUCKETS = frozenset({".cbk", "lost+found"})
SEGMENT_MAX_BYTES = 255  # NAME_MAX of Linux file systems; exFAT and NTFS count 255 UTF-16 units, which are never more
PLACE_MAX_BYTES = 2000  # leaves half of Linux's PATH_MAX (4096) to the root
PLACE_MAX_SEGMENTS = 100
LONG_FOLDER = "%long"
# A page of rows is asked about twice, and its keys share their folders.
_REMEMBERED = 1024

_KIT_FOLDERS = frozenset({".cbk", "lost+found"})  # ours, and the one that ext4 keeps in the root of a disk

# Control characters (C0, DEL, C1), what Windows reserves, what turns or breaks a line in a listing, and lone surrogates.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f/\\<>:"|?*\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]')
# The DOS devices, which Windows opens whatever follows the first dot.
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$) *(?:\.|$)", re.IGNORECASE)
# Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties.txt: HFS+ and ext4's casefold compare names without them.
_IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff"
    "\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_SLASHES = re.compile("//+")
# What no name in a Linux folder can have, whatever the disk.
_IMPOSSIBLE = re.compile("[\0\ud800-\udfff]")
_FULL_HASH_TAIL = re.compile(r"~[0-9a-f]{64}")
_WHOLE_SEGMENT = {"": "%2F", ".": "%2E", "..": "%2E%2E"}


def object_key(path: str, name: str) -> str:
    """The key of an object from its row's Path and Name: a slash is put between them where neither has one, and one leading slash
    is dropped. Nothing else changes: to object storage, `cars//x.png` and `cars/x.png` are two objects.

    >>> object_key("/cars/id-1", "thumbnail.png")
    'cars/id-1/thumbnail.png'
    """
    between = "/" if path and not path.endswith("/") and not name.startswith("/") else ""
    return f"{path}{between}{name}".removeprefix("/")


def former_key(path: str, name: str) -> str:
    """What earlier releases took for the key: they dropped slashes in front, and made one of those where Path and Name meet."""
    folder = path.strip("/")
    return f"{folder}/{name.lstrip('/')}" if folder else name.lstrip("/")


def former_keys(key: str) -> tuple[str, ...]:
    """Every other key that this file may have had in earlier releases: headers of its copies may name one of them."""
    bare = key.lstrip("/")
    joined = (f"{bare[: run.start()]}/{bare[run.end() :]}" for run in _SLASHES.finditer(bare))
    return tuple(dict.fromkeys(former for former in (bare, *joined) if former not in {"", key}))


def names_file(named: str, key: str) -> bool:
    """Whether `named`, such as a copy's header has it, is the file `key`: by its key, or by one that it had before."""
    return named == key or named in former_keys(key)


def split_key(key: str) -> tuple[str, str]:
    """The two halves that a copy's header names: a path that is empty or ends in "/", and a name; together they are `key` again."""
    path, slash, name = key.rpartition("/")
    return path + slash, name


def copy_location(place: str, number: int, variant: str = "") -> str:
    """Where version `number` of the file at `place` lies, relative to the root.

    A file that is deleted and created again may have two versions of one number. The later one's name ends in its `variant`.
    """
    return f"{place}/v{number}{f'-{variant}' if variant else ''}.gzip"


def location_of(version: Version) -> str:
    """Where the copy of a version lies, relative to the root."""
    return copy_location(version.place, version.number, version.variant)


def variant_of(sha256: str) -> str:
    """What tells a copy's name from that of another version of the same number: the beginning of its SHA-256.

    Of the one whose SHA-256 is not known yet (""), it is what no copy is called.
    """
    return sha256[:32] or UNKNOWN_VARIANT


def is_copy_location(location: str) -> bool:
    """Whether a copy may lie at that path, relative to the root: one that the layout could give."""
    place, _, name = location.rpartition("/")
    segments = place.split("/")
    return segments[0] not in NOT_BUCKETS and COPY_NAME.fullmatch(name) is not None and {"", ".", ".."}.isdisjoint(segments)


@lru_cache(_REMEMBERED)
def places(bucket: str, key: str, storage: str = "") -> tuple[str, ...]:
    """The folders that may hold `key`, best first: without its extension, with it, and with a short and a full hash behind it.

    `storage` only tells apart two storages that share one bucket folder. A key too long or too deep for a disk has one place
    instead, `<bucket>/%long/<hash>`; its name is in the header of its copies.
    """
    folder = bucket_folder(bucket)
    *parents, name = key.split("/")
    identity = hashlib.sha256(json.dumps([storage, bucket, key]).encode("ascii")).hexdigest()
    stem = posixpath.splitext(name)[0]
    above = "/".join([folder, *map(_segment, parents)])
    last_segments = (_segment(stem), _segment(name), _segment(name, f"~{identity[:12]}"), _segment(name, f"~{identity}"))
    found = tuple(dict.fromkeys(f"{above}/{last}" for last in last_segments))
    if len(parents) + 2 > PLACE_MAX_SEGMENTS or max(map(_byte_length, found)) > PLACE_MAX_BYTES:
        return (f"{folder}/{LONG_FOLDER}/{identity}",)
    return found


def place_key(place: str) -> str:
    """What two places must differ in to be two folders on every disk: it ignores case, composition and invisible characters.

    This is Unicode's canonical caseless match (Unicode Standard 3.13, D145), without the code points that some disks ignore. It is
    that of Unicode 14.0, whatever this Python knows: what came later is compared as it is.
    """
    if place.isascii():
        return place.lower()
    parts = UNASSIGNED.split(_IGNORABLE.sub("", place))  # every second one is of what came later
    parts[::2] = map(_fold, parts[::2])
    return "".join(parts)


def _fold(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def bucket_folder(bucket: str) -> str:
    """The first segment of every place in `bucket`; slashes in it make no further folders."""
    folder = _segment(bucket)
    return _percent(folder[0]) + folder[1:] if place_key(folder) in _KIT_FOLDERS else folder


def restore_path(bucket: str, key: str, storage: str, *, contested: bool = False) -> str:
    """Where a file is restored to, relative to the target: its own name in its bucket's folder, or a name that is its alone.

    The latter is for those whose own path is among `contested_paths`.
    """
    return f"{bucket_folder(bucket)}/{restore_names(key, storage)[contested]}"


def restore_names(key: str, storage: str) -> tuple[str, str]:
    """The two names that a file may be restored under, below its bucket's folder: its own, and one that no other file can have.

    Neither has an empty segment, `.` or `..`, and no segment is longer than 255 bytes.
    """
    identity = hashlib.sha256(json.dumps([storage, key]).encode("ascii")).hexdigest()
    *parents, name = key.split("/")
    above = "".join(f"{_fit(_possible(parent), parent)}/" for parent in parents)
    own, alone = (above + _fit(_possible(name), name, tail) for tail in ("", f"~{identity}"))
    if _byte_length(alone) > PLACE_MAX_BYTES:
        return (f"{LONG_FOLDER}/{identity}",) * 2
    return own, alone


def contested_paths(paths: Iterable[str]) -> set[str]:
    """Of the paths of all files that are restored together: those that several want, and those that others' paths lead through."""
    # In this order, what lies below a path comes right after it.
    ordered = sorted(paths, key=lambda path: path.replace("/", "\0"))
    return {path for path, following in pairwise(ordered) if following == path or following.startswith(f"{path}/")}


def _possible(text: str) -> str:
    """`text` as Linux can have it for a name, but for its length, and not ending as the names do that are one file's alone."""
    if text in _WHOLE_SEGMENT:
        return _WHOLE_SEGMENT[text]
    possible = _IMPOSSIBLE.sub(lambda match: _percent(match[0]), text)
    return possible.replace("~", "%7E") if _FULL_HASH_TAIL.fullmatch(possible[-65:]) else possible


def _segment(text: str, tail: str = "") -> str:
    """`text` as one folder name that ends in `tail`; where that is too long, a hash of `text` stands for what is cut off."""
    return _fit(_safe(text), text, tail)


def _fit(safe: str, text: str, tail: str = "") -> str:
    """`safe`, a spelling of `text`, with `tail` behind it; where that is too long, a hash of `text` stands for what is cut off."""
    room = SEGMENT_MAX_BYTES - len(tail)
    if _byte_length(safe) <= room:
        return safe + tail
    mark = "~" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    head = safe.encode()[: room - len(mark)].decode("utf-8", "ignore")
    return head + mark + tail


@lru_cache(_REMEMBERED)
def _safe(text: str) -> str:
    if text in _WHOLE_SEGMENT:
        return _WHOLE_SEGMENT[text]
    safe = _UNSAFE.sub(lambda match: _percent(match[0]), text)
    if safe[-1] in ". ":  # Windows drops these
        safe = safe[:-1] + _percent(safe[-1])
    if _DEVICE.match(safe):
        safe = _percent(safe[0]) + safe[1:]
    return _unclaimed(safe)


def _unclaimed(safe: str) -> str:
    """`safe`, spelt so that it is none of the names that the kit gives itself, not even on a disk that ignores case."""
    folded = place_key(safe)
    if COPY_NAME.fullmatch(folded):
        return safe.replace(".", "%2E")
    if folded == LONG_FOLDER:
        return safe.replace("%", "%25")
    if _FULL_HASH_TAIL.fullmatch(folded[-65:]):
        return safe.replace("~", "%7E")
    return safe


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _byte_length(text: str) -> int:
    return len(text.encode())
