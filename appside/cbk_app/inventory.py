"""What the bucket holds, written into it as an ordinary object with an ordinary row: the kit compares it with what it knows.

The kit has no credential for the bucket and cannot list it; so without an inventory it answers for the rows alone. The object is
gzip, each line a JSON value: a header, one array for each object (key, size, ETag, when it was modified), and a footer that counts
them, without which the inventory is not whole.

    {"format": "cbk-inventory-1", "storage": "s3", "prefix": "", "taken_at": "2026-11-30T09:00:00+00:00"}
    ["cars/id-1/thumbnail.png", 1234, "5d41402abc4b2a76b9719d911017c592", "2026-11-01T12:00:00+00:00"]
    {"objects": 1}
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any, BinaryIO, cast
from urllib.parse import unquote_plus

from sqlalchemy import Engine

from cbk_app.contract import INVENTORY_FORMAT, INVENTORY_KEY
from cbk_app.errors import AppError
from cbk_app.recorder import Recorded, Recorder
from cbk_app.stores.store import Store, StoredObject

CONTENT_TYPE = "application/gzip"
# What stays in memory of an inventory until it goes to a temporary file.
_IN_MEMORY_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """An inventory that was put into the bucket: how many objects it names, and its row."""

    objects: int
    recorded: Recorded


def put_inventory(
    store: Store,
    engine: Engine,
    objects: Iterable[StoredObject],
    *,
    storage: str,
    link: Callable[[str], str],
    taken_at: datetime,
    prefix: str = "",
) -> Inventory:
    """Put the inventory of `objects` into `store` and record it. `taken_at` is when the listing began."""
    header = {"format": INVENTORY_FORMAT, "storage": storage, "prefix": prefix, "taken_at": taken_at.astimezone(UTC).isoformat()}
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as file:
        count = write_inventory(file, header, objects)
        file.seek(0)
        digest = hashlib.sha256()
        while chunk := file.read(1024 * 1024):
            digest.update(chunk)
        file.seek(0)
        store.put(INVENTORY_KEY, cast("BinaryIO", file), CONTENT_TYPE)
    with engine.begin() as connection:
        recorder = Recorder(storage=storage, link=link)
        recorded = recorder.record_upload(connection, INVENTORY_KEY, hash=digest.hexdigest(), content_type=CONTENT_TYPE)
    return Inventory(objects=count, recorded=recorded)


def write_inventory(file: IO[bytes], header: Mapping[str, object], objects: Iterable[StoredObject]) -> int:
    """Write an inventory and return how many objects it names; the inventory itself is none of them."""
    count = 0
    with gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") as packed, io.TextIOWrapper(packed, "utf-8") as text:
        text.write(json.dumps(header) + "\n")
        for found in objects:
            if found.key != INVENTORY_KEY:
                count += 1
                modified = found.modified.astimezone(UTC).isoformat()
                text.write(json.dumps([found.key, found.size, found.etag, modified]) + "\n")
        text.write(json.dumps({"objects": count}) + "\n")
    return count


# Amazon's own listing, which costs less than ours: https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html


def read_s3_inventory(manifest: bytes, fetch: Callable[[str], BinaryIO]) -> tuple[datetime, Iterator[StoredObject]]:
    """When an S3 Inventory was begun, and its objects. `fetch` opens a file of the inventory by its key.

    Raise AppError for a manifest that is none, or of files that are no CSV, or without a size or a date for each object.
    """
    try:
        about = json.loads(manifest)
        taken_at = datetime.fromtimestamp(int(about["creationTimestamp"]) / 1000, tz=UTC)
        columns = [name.strip() for name in about["fileSchema"].split(",")] if about["fileFormat"] == "CSV" else []
        files = [(each["key"], each.get("MD5checksum")) for each in about["files"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AppError("this is no manifest of an S3 Inventory", hint="name the manifest.json of one day") from error
    missing = [name for name in ("Key", "Size", "LastModifiedDate") if name not in columns]
    if missing:
        hint = "configure the inventory as CSV, with size and last modified date, for current versions only"
        raise AppError(f"the S3 Inventory has no {', '.join(missing)}", hint=hint)
    return taken_at, _objects_of(files, columns, fetch)


def _objects_of(
    files: list[tuple[str, str | None]], columns: list[str], fetch: Callable[[str], BinaryIO]
) -> Iterator[StoredObject]:
    for key, md5 in files:
        with fetch(key) as packed:
            checked = _Md5(packed)
            with gzip.open(checked, "rt", encoding="utf-8", newline="") as lines:  # type: ignore[call-overload]
                for values in csv.reader(lines):
                    row = dict(zip(columns, values, strict=True))
                    if row.get("IsLatest", "true") == "true" and row.get("IsDeleteMarker", "false") == "false":
                        yield _object_of(row)
            if md5 and checked.hexdigest() != md5:
                raise AppError(f"{key} of the S3 Inventory is not what its manifest says", hint="fetch it again")


def _object_of(row: Mapping[str, str]) -> StoredObject:
    modified = datetime.fromisoformat(row["LastModifiedDate"])
    # Keys are written as in an address.
    return StoredObject(key=unquote_plus(row["Key"]), size=int(row["Size"] or 0), etag=row.get("ETag", ""), modified=modified)


class _Md5:
    """A file that is hashed as it is read."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._digest = hashlib.md5(usedforsecurity=False)

    def read(self, size: int = -1) -> bytes:
        chunk: bytes = self._file.read(size)
        self._digest.update(chunk)
        return chunk

    def hexdigest(self) -> str:
        while self.read(64 * 1024):
            pass
        return self._digest.hexdigest()
