"""Resync one file now: read its rows again, check the copies that are there, fetch what is missing."""

from __future__ import annotations

from cbk.errors import CopyCorrupt, CopyMissing, UsageError
from cbk.jobs.backup.dispatch import dispatch
from cbk.jobs.context import Context, Publisher
from cbk.jobs.intake.rows import record_rows
from cbk.model import SourceRow, Summary, Version, VersionState
from cbk.rules.intake.layout import location_of, object_key
from cbk.rules.intake.rows import read_row

_UNFINISHED = frozenset(
    {VersionState.FAILED, VersionState.EXPIRED, VersionState.MISSING, VersionState.MISMATCH, VersionState.DECLINED}
)


def resync(
    context: Context,
    publisher: Publisher,
    *,
    storage: str | None = None,
    key: str | None = None,
    file_id: str | None = None,
    dry_run: bool = False,
) -> Summary:
    """Resync the file named by storage and key, or by one of its rows. Raises UsageError where no row speaks of it."""
    rows = _rows(context, storage, key, file_id)
    if not dry_run:
        record_rows(context, rows)
    again = 0
    labels = []
    for version in _versions(context, rows):
        reason = _why_again(context, version)
        if reason:
            again += 1
            labels.append(f"v{version.number}: {reason}")
            if not dry_run:
                # Record before bytes: the backup that follows puts a bad copy aside, when the catalog no longer counts on it.
                context.catalog.work.make_due([version.id], reason=reason)
    if not dry_run:
        dispatch(context, publisher)
    name = f"{storage}/{key}" if key else f"row {file_id}"
    return Summary(
        outcome="would fetch" if dry_run else "resynced",
        facts={"file": name, "rows": len(rows), "again": again, "why": "; ".join(labels)},
    )


def _rows(context: Context, storage: str | None, key: str | None, file_id: str | None) -> list[SourceRow]:
    if file_id is not None and storage is None and key is None:
        row = context.source.row(str(file_id))
        rows = [row] if row else []
    elif storage is not None and key is not None and file_id is None:
        rows = context.source.rows_of_key(storage, object_key("", key))
    else:
        raise UsageError(
            "a resync takes storage and key, or the Id of a row",
            hint="such as `cbk resync --storage s3 --key cars/id-1/thumbnail.png`",
        )
    if not rows:
        raise UsageError(
            "the application's table has no row of this file", hint="the key is Path + Name as in the table, with its extension"
        )
    return rows


def _versions(context: Context, rows: list[SourceRow]) -> list[Version]:
    parsed = [read_row(row) for row in rows]
    names = {(row.storage, row.key) for row in parsed if hasattr(row, "sha256")}
    return [version for name in sorted(names) for version in context.catalog.work.versions_named(*name)]


def _why_again(context: Context, version: Version) -> str:
    if version.state is VersionState.STORED:
        return _why_copy_is_bad(context, version)
    if version.state in _UNFINISHED:
        return "asked for by a resync"
    return ""


def _why_copy_is_bad(context: Context, version: Version) -> str:
    location = location_of(version)
    try:
        context.archive.check(location, sha256=version.sha256, size=version.size)
    except CopyMissing:
        return "its copy was not on the disk"
    except CopyCorrupt:
        return "its copy was corrupt"
    return ""
