"""A copy that is lost here, and whose link is dead, comes back from a mirror before it counts as lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cbk.edges.catalog import LeaseRenewer
from cbk.errors import CopyCorrupt, CopyMissing, MirrorUnavailable
from cbk.jobs.context import Context
from cbk.jobs.dump.take import DUMP_LEASE
from cbk.jobs.dump.upkeep import ticking_pacer
from cbk.jobs.intake.rows import settle_files
from cbk.jobs.mirror.places import MirrorPlace
from cbk.jobs.mirror.transfer import Wanted, transfer
from cbk.jobs.verification.pacer import alone
from cbk.model import Claim, Written
from cbk.rules.dump.records import DumpVersion
from cbk.rules.intake.layout import location_of
from cbk.rules.mirror import CopyHere, MirrorCopy, MirrorDisk

REPAIR_TOGETHER = 100


def repair(
    context: Context, place: MirrorPlace, disk: MirrorDisk, *, tick: Callable[[], None], on_bytes: Callable[[int], None]
) -> int:
    """Bring back what this disk has of what is lost here; how many copies. Raises MirrorUnavailable, ArchiveError, CatalogError."""
    repaired, last = 0, 0
    while lost := context.catalog.mirrors.repairable(disk.id, REPAIR_TOGETHER, after=last):
        last = max(each.version_id for each in lost)
        repaired += _bring_back(context, place, lost, tick=tick, on_bytes=on_bytes)
    return repaired


def _bring_back(
    context: Context, place: MirrorPlace, lost: Sequence[MirrorCopy], *, tick: Callable[[], None], on_bytes: Callable[[int], None]
) -> int:
    ledger, work = context.catalog.mirrors, context.catalog.work
    there = {copy.version_id: copy for copy in lost}
    claims = {claim.version.id: claim for claim in ledger.claim_lost(there, context.settings.lease)}
    if not claims:
        return 0
    renewer = LeaseRenewer(work, claims.values(), context.settings.lease)

    def keep() -> None:
        tick()
        renewer.tick(next(iter(claims.values())))

    stored: list[tuple[Claim, Written]] = []
    try:
        with place.reading([there[version_id].location for version_id in claims], tick=keep, on_bytes=on_bytes) as archive:
            wanted = {_wanted(claim, there[version_id]): claim for version_id, claim in claims.items()}
            moved = transfer(archive, context.archive, list(wanted), tick=keep)
        for each in moved:
            claim = wanted[each.wanted]
            if each.written is not None:
                stored.append((claim, each.written))
            elif isinstance(each.error, CopyCorrupt | CopyMissing) and place.marker() is not None:
                copy = there[claim.version.id]
                ledger.note_bad(copy.disk_id, copy.version_id, each.error.message)
            elif each.error is not None:
                raise MirrorUnavailable(f"{place.where}: {each.error.message}", hint=each.error.hint)
        not_ours = work.record_stored(stored)
        stored = [each for each in stored if each[0] not in not_ours]
    finally:
        done = {claim.version.id for claim, _ in stored}
        ledger.release_lost([claim for version_id, claim in claims.items() if version_id not in done])
    settle_files(context, {claim.version.file_id for claim, _ in stored})
    return len(stored)


def _wanted(claim: Claim, copy: MirrorCopy) -> Wanted:
    version = claim.version
    name = f"{version.id}-{claim.fence}.part"
    return Wanted(location=location_of(version), from_location=copy.location, sha256=version.sha256, part_name=name)


# ---- dumps -----------------------------------------------------------------------------------------------------------------------


def repair_dumps(
    context: Context, place: MirrorPlace, disk: MirrorDisk, *, tick: Callable[[], None], on_bytes: Callable[[int], None]
) -> int:
    """Bring back the dumps that this disk has and that went bad here, each with its roles or not at all; how many dumps.

    While a dump is at work they wait for the next pass. Raises as `repair` does.
    """
    lost = context.catalog.mirrors.lost_dumps(disk.id)
    if not lost:
        return 0
    with alone(context, DUMP_LEASE) as leases:
        if leases is None:
            return 0
        pacer = ticking_pacer(context, leases, tick)
        return sum(
            _bring_dump_back(context, place, disk, version, copies, tick=lambda: pacer(0), on_bytes=on_bytes)
            for _, version, copies in lost
        )


def _bring_dump_back(
    context: Context,
    place: MirrorPlace,
    disk: MirrorDisk,
    version: DumpVersion,
    copies: Sequence[CopyHere],
    *,
    tick: Callable[[], None],
    on_bytes: Callable[[int], None],
) -> bool:
    # Roles first: alone they are nobody's.
    wanted = [Wanted(location=copy.location, sha256=copy.sha256, part_name=f"{copy.id}.part") for copy in reversed(copies)]
    with place.reading([copy.location for copy in copies], tick=tick, on_bytes=on_bytes) as archive:
        moved = transfer(archive, context.archive, wanted, tick=tick)
    by_location = {each.wanted.location: each for each in moved}
    for copy in copies:
        error = by_location[copy.location].error
        if isinstance(error, CopyCorrupt | CopyMissing) and place.marker() is not None:
            context.catalog.mirrors.note_bad(disk.id, copy.id, error.message)
        elif error is not None:
            raise MirrorUnavailable(f"{place.where}: {error.message}", hint=error.hint)
    whole = by_location[copies[0].location].written
    if whole is None or any(each.written is None for each in moved):
        return False
    context.catalog.dumps.record_restored(version, whole)
    return True
