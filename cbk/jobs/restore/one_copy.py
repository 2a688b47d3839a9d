"""Give one copy's bytes to somebody who must get the file or nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from cbk.errors import CopyMissing, CopySwapped, UsageError
from cbk.jobs.context import Context
from cbk.model import Version, VersionState
from cbk.rules.intake.layout import location_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A copy that was read to its end and is good, its size in bytes, and its content, which is read once more."""

    version: Version
    size: int
    content: Iterator[bytes]


def open_download(context: Context, version_id: int) -> Download:
    """Read the version's copy and compare it with its row's SHA-256; only then its content can be had.

    Should the disk give other bytes the second time, the last ones are held back: whoever counts bytes knows that it is not the
    file. Raises UsageError for a version that there is not; CopyMissing or CopyCorrupt; CatalogError, RootMissing or DiskFailed.
    """
    context.catalog.require_current()
    context.require_disk()
    version = context.catalog.report.version(version_id)
    if version is None:
        raise UsageError("the catalog knows no such version", hint="it may have been rebuilt since: find the file again")
    if version.state is not VersionState.STORED:
        state = f"{version.label} is {version.state.value}"
        raise CopyMissing(f"{state}: {version.reason}" if version.reason else state, hint="only what is stored can be had")
    location = location_of(version)
    written = context.archive.check(location, sha256=version.sha256, size=version.size)
    return Download(version=version, size=written.size, content=_content(context, location, version))


def _content(context: Context, location: str, version: Version) -> Iterator[bytes]:
    digest, held_back = hashlib.sha256(), b""
    for chunk in context.archive.open_copy(location):
        if held_back:
            yield held_back
        digest.update(chunk)
        held_back = chunk
    if digest.hexdigest() != version.sha256:
        raise CopySwapped(f"{location}: changed while it was read")
    if held_back:
        yield held_back
