"""What lies in quarantine: read it again, and put back what is whole and missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from cbk.errors import ArchiveError, CopyExists, CopyMissing, RootMissing
from cbk.jobs.context import Context
from cbk.jobs.copies import find_in_place
from cbk.model import CopyHeader, Version, VersionState
from cbk.rules.intake.layout import location_of


class QuarantineVerdict(StrEnum):
    """What a copy in quarantine is."""

    BAD = "bad"
    # It is whole, and no version of the catalog has these bytes.
    UNKNOWN = "unknown"
    # Its version has a copy, or was pruned.
    SPARE = "spare"
    # It can be put back.
    WHOLE = "whole"
    PUT_BACK = "put back"
    # It is whole, and another file is in its place.
    IN_THE_WAY = "in the way"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A copy in quarantine: its `name` there, whose copy it says that it is, and what is to be said of it; `reason` says more."""

    name: str
    header: CopyHeader
    verdict: QuarantineVerdict
    reason: str = ""

    @property
    def facts(self) -> dict[str, object]:
        """As `--json` prints it."""
        header = self.header
        named = {"storage": header.storage, "key": header.key, "version": header.version, "sha256": header.sha256}
        return {"name": self.name, "verdict": self.verdict, **named, "size": header.size, "reason": self.reason}


def look_into_quarantine(context: Context, *, put_back: bool = False) -> Iterator[Quarantined]:
    """Read each copy in quarantine to its end, one after another; with `put_back`, whole ones count again where one is missing.

    Safe to break off and to repeat. Raises RootMissing, ArchiveError of a disk that cannot be listed, or CatalogError.
    """
    for name, header in context.archive.quarantined():
        try:
            context.archive.check_quarantined(name, sha256=header.sha256)
        except RootMissing:
            raise
        except CopyMissing:
            continue  # somebody took it away just now
        except ArchiveError as error:
            reason = error.message.removeprefix(f"{name}: ")
            yield Quarantined(name=name, header=header, verdict=QuarantineVerdict.BAD, reason=reason)
            continue
        yield _judged(context, name, header, put_back=put_back)


def _judged(context: Context, name: str, header: CopyHeader, *, put_back: bool) -> Quarantined:
    named = context.catalog.work.versions_named(header.storage, header.key)
    version = next((each for each in named if (each.number, each.sha256) == (header.version, header.sha256)), None)
    verdict, reason = _what_of(version)
    if verdict is QuarantineVerdict.WHOLE and version is not None and put_back:
        verdict, reason = _put_back(context, name, version)
    return Quarantined(name=name, header=header, verdict=verdict, reason=reason)


def _what_of(version: Version | None) -> tuple[QuarantineVerdict, str]:
    if version is None:
        return QuarantineVerdict.UNKNOWN, "no row that the kit knows has these bytes"
    if version.state is VersionState.STORED:
        return QuarantineVerdict.SPARE, "its version has a copy"
    if version.state is VersionState.PRUNED:
        return QuarantineVerdict.SPARE, "its version was pruned"
    return QuarantineVerdict.WHOLE, f"its version is {version.state}"


def _put_back(context: Context, name: str, version: Version) -> tuple[QuarantineVerdict, str]:
    location = location_of(version)
    try:
        context.archive.release(name, location)
    except CopyExists:
        return QuarantineVerdict.IN_THE_WAY, f"another file is at {location}: `cbk resync` looks at it"
    if find_in_place(context, version) is None:
        return QuarantineVerdict.WHOLE, f"it is at {location} again, and counts from the next poll on"
    return QuarantineVerdict.PUT_BACK, f"at {location}"
