"""Back up one version: claim it, fetch it, verify it, put it on the disk, record it. Bytes before record."""

from __future__ import annotations

from datetime import timedelta
from random import random

from cbk.edges import machine
from cbk.edges.catalog import Keeper
from cbk.errors import CatalogError, CbkError, CopyCorrupt, CopyExists, CopyMissing, DiskFailed, LeaseLost, RootMissing, SourceError
from cbk.jobs.intake import settle_files, take_in
from cbk.jobs.kit import Kit
from cbk.jobs.removing import remove_bytes
from cbk.jobs.room import check_room
from cbk.jobs.workers import note_at_work
from cbk.model import AcceptedRow, Claim, CopyHeader, Summary, Version, Written
from cbk.rules.layout import copy_location, split_key
from cbk.rules.outcome import Outcome, after_failure, decide_fetch
from cbk.rules.rows import read_row

# A piece of work that was given back because a part of the kit is away is tried again after this, not at once.
GIVE_BACK = timedelta(seconds=30)
# A copy that the disk could not read in so many attempts is not waited for any longer.
UNREADABLE_ATTEMPTS = 3


def back_up(kit: Kit, source_id: str) -> Summary:
    """Store the version of this row. Doubled, late and stray messages return quietly.

    While the disk takes nothing new (`jobs.room`), nothing is claimed.

    Raises what went wrong, after recording what became of the version and when it is tried again, or after giving it back where a
    part of the kit is away; LeaseLost where another worker has taken it over, with nothing recorded.
    """
    kit.require_disk()
    problem = check_room(kit)
    if problem is not None:  # its dispatch runs out, and it is sent again once there is room
        return Summary(outcome="put off", facts={"row": source_id, "reason": problem.message})
    claim = kit.catalog.work.claim(source_id, kit.settings.lease) or _claim_unseen(kit, source_id)
    if isinstance(claim, Summary):
        return claim
    try:
        note_at_work(kit)
        summary = _fetch_and_store(kit, claim)
    except LeaseLost:
        raise
    except (SourceError, CatalogError, RootMissing) as error:
        kit.catalog.work.give_back(claim, min(GIVE_BACK, kit.settings.poll_interval), reason=f"tried again soon: {error.message}")
        raise
    except CbkError as error:
        _record_failure(kit, claim, error)
        raise
    except Exception as error:
        # A bug, ours or a library's: its version backs off and says so, instead of coming back with each lease.
        _record_failure(kit, claim, CbkError(f"unexpected {type(error).__name__}", hint="the worker's log has the traceback"))
        raise
    return summary


def _claim_unseen(kit: Kit, source_id: str) -> Claim | Summary:
    """Why there was nothing to claim; a row that no poll has seen yet is taken in first."""
    version = kit.catalog.work.version_of_row(source_id)
    if version is not None:
        return _nothing_to_do(version)
    row = kit.source.row(source_id)
    if row is None:
        return Summary(outcome="nothing to do", facts={"row": source_id, "reason": "there is no such row"})
    take_in(kit, [row])
    return kit.catalog.work.claim(source_id, kit.settings.lease) or Summary(
        outcome="nothing to do", facts={"row": source_id, "reason": "its version is known from another row, or not wanted now"}
    )


def _nothing_to_do(version: Version) -> Summary:
    reason = "another worker is at it, or it is not due yet" if version.due_at else version.reason or "it is stored"
    return Summary(outcome="nothing to do", facts={"version": version.label, "state": version.state.value, "reason": reason})


def _fetch_and_store(kit: Kit, claim: Claim) -> Summary:
    version = claim.version
    row = kit.source.row(version.source_id)
    decision = decide_fetch(version, read_row(row) if row else None)
    if isinstance(decision, Outcome):
        kit.catalog.work.record_outcome(claim, decision)
        settle_files(kit, [version.file_id])
        return _summary(decision.state.value, version, reason=decision.reason)
    keeper = Keeper(kit.catalog.work, claim, kit.settings.lease)
    written = _adopt(kit, version, keeper)
    outcome = "adopted"
    if written is None:
        written = _download(kit, claim, decision.row, keeper)
        outcome = "stored"
    try:
        kit.catalog.work.record_stored(claim, written)
    except LeaseLost:
        # It slept through the lease, and the version was pruned meanwhile: nobody else knows of these bytes.
        if kit.catalog.removals.note_leftover(version.id):
            remove_bytes(kit, version)
        raise
    _settle_siblings(kit, version)
    return _summary(outcome, version, size=written.size, stored_size=written.stored_size)


def _adopt(kit: Kit, version: Version, keeper: Keeper) -> Written | None:
    """The copy that lies there already: a worker died between publishing and recording, or it could not be read for a while.

    A bad one is put aside, and so is one that the disk fails to read again and again.
    """
    location = copy_location(version.place, version.number)
    try:
        return kit.archive.adopt(location, sha256=version.sha256, tick=keeper.tick)
    except CopyMissing:
        return None
    except CopyCorrupt:
        kit.archive.quarantine(location)
        return None
    except DiskFailed:
        if version.attempts < UNREADABLE_ATTEMPTS:
            raise  # a disk that was away for a moment gives it the next time
        kit.archive.quarantine(location)
        return None


def _download(kit: Kit, claim: Claim, row: AcceptedRow, keeper: Keeper) -> Written:
    version = claim.version
    location = copy_location(version.place, version.number)
    with kit.archive.incoming(f"{version.id}-{claim.fence}.part", _header(version, row)) as part:
        kit.downloader.fetch(row.link, part, tick=keeper.tick, now=machine.now)
        keeper.tick()
        part.seal()
        keeper.tick()
        written = part.read_back(tick=keeper.tick)
        # A worker that slept through its lease stops here; should it fall asleep right after, the name is not overwritten.
        keeper.tick()
        try:
            kit.archive.publish(part, location)
        except CopyExists:
            # Another worker was first with the same version: its copy counts, if it is good.
            return kit.archive.adopt(location, sha256=version.sha256, tick=keeper.tick)
    return written


def _header(version: Version, row: AcceptedRow) -> CopyHeader:
    path, name = split_key(version.key)
    return CopyHeader(
        storage=version.storage,
        path=path,
        name=name,
        version=version.number,
        sha256=version.sha256,
        size=0,  # known when the last byte has come
        content_type=row.content_type,
        source_id=version.source_id,
    )


def _record_failure(kit: Kit, claim: Claim, error: CbkError) -> None:
    siblings = [other for other in kit.catalog.work.versions_of_file(claim.version.file_id) if other.id != claim.version.id]
    outcome = after_failure(
        claim.version,
        error,
        siblings=siblings,
        now=kit.catalog.database.now(),
        base=kit.settings.poll_interval,
        jitter=random(),  # noqa: S311 - spreads retries
    )
    kit.catalog.work.record_outcome(claim, outcome)
    if siblings:
        settle_files(kit, [claim.version.file_id])


def _settle_siblings(kit: Kit, version: Version) -> None:
    if kit.catalog.work.has_siblings(version.file_id):
        settle_files(kit, [version.file_id])


def _summary(outcome: str, version: Version, **facts: object) -> Summary:
    named = {"storage": version.storage, "key": version.key, "version": version.number, "row": version.source_id}
    return Summary(outcome=outcome, facts=named | facts)
