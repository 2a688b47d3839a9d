"""The hashes of versions whose rows have no SHA-256: each is pinned with the first copy, for good."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.database.database import Database
from cbk.edges.catalog.database.schema import rows, versions
from cbk.edges.catalog.database.transitions import refresh_versions
from cbk.model import Claim, Version, Written
from cbk.rules.backup.hashes import Hashes
from cbk.rules.intake.layout import UNKNOWN_VARIANT, variant_of


def pin(connection: sa.Connection, version: Version, written: Written) -> None:
    """The bytes of this version are those of its copy from now on. In the transaction that records the copy."""
    if version.sha256 and (version.md5 or not written.md5):
        return
    values: dict[str, Any] = {"sha256": written.sha256, "md5": written.md5 or version.md5}
    if version.variant == UNKNOWN_VARIANT:
        values["variant"] = variant_of(written.sha256)
    connection.execute(sa.update(versions).where(versions.c.id == version.id).values(**values))


def twin_of(connection: sa.Connection, version: Version, sha256: str) -> int | None:
    """Another version of the same file and number that has this SHA-256."""
    same = (versions.c.file_id == version.file_id, versions.c.number == version.number, versions.c.sha256 == sha256)
    twin: int | None = connection.scalar(sa.select(versions.c.id).where(*same, versions.c.id != version.id).with_for_update())
    return twin


class Pins:
    """Versions that turn out to be of bytes that are known."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def merge_with_twin(self, claim: Claim, came: Hashes) -> bool:
        """Where the file has a version of the same number and these bytes already, give it the rows of this one, which ends.

        False where there is none, or the claim is not ours any more.
        """
        version = claim.version
        ours = (versions.c.id == version.id, versions.c.fence == claim.fence, versions.c.holder == claim.holder)
        with self._database.writing() as connection:
            if connection.scalar(sa.select(versions.c.id).where(*ours, versions.c.sha256 == "").with_for_update()) is None:
                return False
            twin = twin_of(connection, version, came.sha256)
            if twin is None:
                return False
            connection.execute(sa.update(rows).where(rows.c.version_id == version.id).values(version_id=twin))
            connection.execute(sa.update(versions).where(versions.c.id == twin).values(md5=came.md5))
            connection.execute(sa.delete(versions).where(versions.c.id == version.id))
            refresh_versions(self._database, connection, [twin])
            return True
