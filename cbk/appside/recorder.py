"""How an application that is written in Python records its uploads and deletes; any other writes the same rows by SQL.

    with engine.begin() as connection:
        file_id = record_upload(
            connection, storage="s3", path="cars/id-1/", name="thumbnail.png", version=1, sha256=digest, link=signed_url
        )

Each function works in the caller's transaction, so that the row stands or falls with what the application writes beside it.
"""

from __future__ import annotations

import re

from sqlalchemy import Connection, CursorResult, insert, update

from cbk.appside.schema import DELETE_LOG, FILES

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def record_upload(
    connection: Connection,
    *,
    storage: str,
    path: str,
    name: str,
    version: int,
    sha256: str,
    link: str,
    content_type: str | None = None,
) -> int:
    """Record that an object was uploaded and return the row's Id.

    To be called once the object can be downloaded from `link`. `path` + `name` is the object's key and `sha256` the hash of its
    bytes in hex. An update of an object is another call with a higher `version`. Raise ValueError where `sha256` is no such hash.
    """
    if not _SHA256.fullmatch(sha256):
        raise ValueError("sha256 must be 64 hex digits")
    row = {
        "Storage": storage,
        "Path": path,
        "Name": name,
        "Version": version,
        "Hash": sha256.lower(),
        "SignedDownloadUrl": link,
    }
    if content_type is not None:  # the column is optional, too
        row["ContentType"] = content_type
    return _inserted_id(connection.execute(insert(FILES).values(row)))


def record_delete(connection: Connection, file_id: int) -> int:
    """Record that the object of row `file_id` was deleted, with all its versions; return the log row's Id.

    Removing the log row before the kit's grace period ends takes the delete back.
    """
    return _inserted_id(connection.execute(insert(DELETE_LOG).values(FileId=file_id)))


def refresh_link(connection: Connection, file_id: int, link: str) -> None:
    """Replace the link of row `file_id`, whose old one has died or will soon. Raise LookupError where there is no such row."""
    changed = connection.execute(update(FILES).where(FILES.c.Id == file_id).values(SignedDownloadUrl=link))
    if not changed.rowcount:
        raise LookupError(f"no row with Id {file_id}")


def _inserted_id(result: CursorResult[tuple[int]]) -> int:
    key = result.inserted_primary_key
    assert key is not None
    return int(key[0])
