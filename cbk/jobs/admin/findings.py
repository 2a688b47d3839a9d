"""What `cbk doctor` says of a part."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How a finding stands."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorFinding:
    """One line of `cbk doctor`. `consent`: by what name a person says yes to it, where `cbk setup` goes no further without one."""

    part: str
    level: Level
    message: str
    hint: str = ""
    consent: str = ""


def ok(part: str, message: str) -> DoctorFinding:
    """It is well."""
    return DoctorFinding(part=part, level=Level.OK, message=message)


def warn(part: str, message: str, hint: str) -> DoctorFinding:
    """It is odd, and this helps."""
    return DoctorFinding(part=part, level=Level.WARN, message=message, hint=hint)


def fail(part: str, message: str, hint: str) -> DoctorFinding:
    """It is broken, and this mends it."""
    return DoctorFinding(part=part, level=Level.FAIL, message=message, hint=hint)
