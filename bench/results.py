"""What was measured, and how it compares."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from bench.watch import Usage

MB = 1000 * 1000
DERIVED = ("files_per_second", "mb_per_second", "cpu", "cpu_ms_per_file", "memory")


@dataclass(frozen=True, slots=True)
class Run:
    """One contender's turn in one round of a case: `files` with `size` bytes took `seconds`.

    `used` says what its processes needed, by name; `origin` is what the server needed that sent the bytes, which is no part of it.
    """

    case: str
    contender: str
    round: int
    files: int
    size: int
    seconds: float
    used: dict[str, Usage]
    origin: Usage | None = None
    facts: dict[str, float] = field(default_factory=dict)

    @property
    def files_per_second(self) -> float:
        """Files in a second of wall time."""
        return self.files / self.seconds

    @property
    def mb_per_second(self) -> float:
        """MB (10^6 bytes, uncompressed) in a second of wall time."""
        return self.size / MB / self.seconds

    @property
    def cpu(self) -> float:
        """Seconds of a processor of all its processes."""
        return sum(usage.cpu for usage in self.used.values())

    @property
    def cpu_ms_per_file(self) -> float:
        """Milliseconds of a processor for each file, of all its processes."""
        return self.cpu * 1000 / self.files

    @property
    def memory(self) -> int:
        """Bytes of memory, the peaks of all its processes added up."""
        return sum(usage.memory for usage in self.used.values())

    def as_json(self) -> dict[str, Any]:
        """Everything, with what follows from it."""
        return asdict(self) | {name: getattr(self, name) for name in DERIVED}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Run:
        """The run that `as_json` told of."""
        own = {name: value for name, value in values.items() if name not in DERIVED}
        used = {name: Usage(**usage) for name, usage in own.pop("used").items()}
        origin = own.pop("origin")
        return cls(**own, used=used, origin=Usage(**origin) if origin else None)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where was measured: `system` is the kernel with its architecture, `python` the version of Python."""

    system: str
    processors: int
    python: str

    @classmethod
    def this(cls) -> Machine:
        """The one that this process runs on."""
        release = ".".join(platform.release().split(".")[:2])
        return cls(f"{platform.system()} {release} on {platform.machine()}", os.cpu_count() or 1, platform.python_version())

    def __str__(self) -> str:
        return f"{self.system}, {self.processors} processors, Python {self.python}"


@dataclass(frozen=True, slots=True)
class Session:
    """What one command measured: `seconds` is how long it took, `profiles` has a table for each case that was looked at.

    `commit` is the short name of what was measured. `machine` is None where the file that it was read from does not tell.
    """

    command: str
    commit: str
    scale: float
    seconds: float
    runs: list[Run]
    profiles: dict[str, str]
    machine: Machine | None = None

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        return {
            "command": self.command,
            "commit": self.commit,
            "scale": self.scale,
            "seconds": self.seconds,
            "runs": [run.as_json() for run in self.runs],
            "profiles": self.profiles,
            "machine": asdict(self.machine) if self.machine else None,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Session:
        """What `as_json` told of."""
        machine = values.get("machine")
        told = {"runs": [Run.from_json(run) for run in values["runs"]], "machine": Machine(**machine) if machine else None}
        return cls(**values | told)


def runs_and_profiles(sessions: Iterable[Session]) -> tuple[list[Run], dict[str, str]]:
    """All that was measured; of a case that several took, what the last of them did."""
    by_case: dict[str, list[Run]] = {}
    profiles: dict[str, str] = {}
    for session in sessions:
        by_case |= {case: [run for run in session.runs if run.case == case] for case in {run.case for run in session.runs}}
        profiles |= session.profiles
    return [run for runs in by_case.values() for run in runs], profiles


@dataclass(frozen=True, slots=True)
class Spread:
    """A number that was measured in each round."""

    lowest: float
    middle: float
    highest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The least, the median and the greatest of some."""
        known = sorted(values)
        return cls(known[0], median(known), known[-1])

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.lowest:.2f} to {self.highest:.2f})"


def runs_of(runs: Iterable[Run], case: str, contender: str) -> list[Run]:
    """The runs of one contender in one case, by their rounds."""
    return sorted((run for run in runs if (run.case, run.contender) == (case, contender)), key=lambda run: run.round)


def ratios(runs: list[Run], case: str, contender: str, other: str, figure: str) -> Spread | None:
    """`figure` of one contender over that of another, round by round: both ran one after the other, under the same weather."""
    ours = {run.round: getattr(run, figure) for run in runs_of(runs, case, contender)}
    theirs = {run.round: getattr(run, figure) for run in runs_of(runs, case, other)}
    both = [ours[number] / theirs[number] for number in ours if theirs.get(number)]
    return Spread.of(both) if both else None


def spread(runs: list[Run], case: str, contender: str, figure: str) -> Spread | None:
    """`figure` of one contender over the rounds."""
    values = [getattr(run, figure) for run in runs_of(runs, case, contender)]
    return Spread.of(values) if values else None
