"""Take a delete back by hand, and bring copies back from the trash."""

from __future__ import annotations

from contextlib import suppress

from cbk.errors import CopyCorrupt, CopyMissing, UsageError
from cbk.jobs.context import Context
from cbk.jobs.copies import find_in_place, remove_bytes
from cbk.jobs.intake.rows import settle_files
from cbk.jobs.retention.journal import write_journal
from cbk.model import RemovalOutcome, Summary, Version, VersionState, Written
from cbk.rules.intake.layout import location_of, object_key

REASON = "a person took the delete back"


def undelete(context: Context, key: str, *, storage: str | None = None, dry_run: bool = False) -> Summary:
    """Keep the file `key` although the application deleted it; what was pruned comes back from the trash.

    What is no longer there is fetched again, where its row and its link still live. Raises UsageError where there is no such file,
    or several storages have one.
    """
    context.require_disk()
    versions = _versions(context, object_key("", key), storage)
    file_id = versions[0].file_id
    deletes = context.catalog.removals.deletes_of_file(file_id)
    trashed = context.catalog.pruned_copies.in_trash(file_id=file_id)
    if not deletes and not trashed:
        return Summary(
            outcome="nothing to do", facts={"key": key, "reason": "it is not deleted, and nothing of it is in the trash"}
        )
    labels = ", ".join(version.label for version in trashed)
    if dry_run:
        return Summary(outcome="would undelete", facts={"key": key, "deletes": len(deletes), "from_trash": labels})
    # What a worker left half-way when it died is brought into the trash first, and comes back from there.
    for version in versions if context.settings.trash else ():
        remove_bytes(context, version)
    # Record first: from here on nothing prunes it again.
    for removal in deletes:
        settle_files(context, context.catalog.removals.withdraw(removal.id, outcome=RemovalOutcome.REJECTED, reason=REASON))
    if context.settings.trash:
        trashed = context.catalog.pruned_copies.in_trash(file_id=file_id)
    back = [version.label for version in trashed if _bring_back(context, version)]
    # A worker that died before it removed them has left their bytes where they were.
    rest = context.catalog.work.versions_of_file(file_id)
    back += [version.label for version in rest if not version.deleted and find_in_place(context, version) is not None]
    newest = max(context.catalog.work.versions_of_file(file_id), key=lambda version: (version.live, version.number))
    if newest.state is VersionState.PRUNED and newest.live:
        context.catalog.work.make_due([newest.id], reason="undeleted, and its copy is gone")
    write_journal(context, decided=True)
    facts = {"key": key, "deletes": len(deletes), "from_trash": ", ".join(back), "newest": newest.label}
    return Summary(outcome="undeleted", facts=facts | {"fetched_again": newest.state is not VersionState.STORED})


def _bring_back(context: Context, version: Version) -> bool:
    """Whether the copy is at its place and good: from the trash, or because an earlier try has put it there."""
    # A later version of the same number may have its name meanwhile.
    version = context.catalog.pruned_copies.with_free_name(version)
    location, name = location_of(version), version.trash_name or ""
    written = _adopt(context, version, location)
    if written is None:
        with suppress(CopyMissing):
            context.archive.restore_from_trash(name, location)
        written = _adopt(context, version, location)
    context.archive.empty_trash(name)
    context.catalog.pruned_copies.out_of_trash(version, written)
    return written is not None


def _adopt(context: Context, version: Version, location: str) -> Written | None:
    """The copy that is at its place, None where there is none. One that is bad is put aside."""
    try:
        return context.archive.adopt(location, sha256=version.sha256)
    except CopyMissing:
        return None
    except CopyCorrupt:
        context.archive.quarantine(location)
        return None


def _versions(context: Context, key: str, storage: str | None) -> list[Version]:
    storages = [storage] if storage is not None else context.catalog.work.storages_of(key)
    if len(storages) > 1:
        raise UsageError(f"{key!r} is in several storages: {', '.join(storages)}", hint="say which with --storage")
    versions = context.catalog.work.versions_named(storages[0], key) if storages else []
    if not versions:
        raise UsageError(f"the kit knows no file {key!r}", hint="the key is Path + Name, with its extension: `cbk ls` lists them")
    return versions
