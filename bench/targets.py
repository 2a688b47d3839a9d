"""What is to be reached, and what a run reached: medians of ratios between turns of the same round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.place import TRANSFERS
from bench.results import MB, Run, Spread, ratios, runs_of
from bench.transfers import DELAY, HOSTS, US, US_NEAR

# A download over a connection that is open takes one: the request there, the answer back.
ROUND_TRIPS = 1


@dataclass(frozen=True, slots=True)
class Target:
    """A number that `reached` finds in the runs (None where its case was not run), and its limit: a least or a greatest value."""

    what: str
    limit: float
    is_least: bool
    reached: Callable[[list[Run]], Spread | None]

    def is_met(self, found: Spread) -> bool:
        """Whether the median is on the right side."""
        return found.middle >= self.limit if self.is_least else found.middle <= self.limit


def target_table(runs: list[Run]) -> str:
    """Every target with what was reached, in Markdown."""
    lines = ["| what | target | reached: median (least to greatest) | |", "|---|--:|--:|---|"]
    for target in TARGETS:
        found = target.reached(runs)
        limit = f"{'≥' if target.is_least else '≤'} {target.limit:g}"
        verdict = "not measured" if found is None else "met" if target.is_met(found) else "**missed**"
        lines.append(f"| {target.what} | {limit} | {found or ''} | {verdict} |")
    return "\n".join(lines)


def _ratio(case: str, other: str, figure: str, contender: str = US) -> Callable[[list[Run]], Spread | None]:
    return lambda runs: ratios(runs, case, contender, other, figure)


def _of_what_is_possible(runs: list[Run]) -> Spread | None:
    """Files/s at a distance over the least of what the distance allows (so many in flight a round trip) and of the rate nearby."""
    far, near = runs_of(runs, "delay", US), runs_of(runs, "delay", US_NEAR)
    most = TRANSFERS / (ROUND_TRIPS * DELAY)
    shares = [
        one.files_per_second / min(most, other.files_per_second)
        for one, other in zip(far, near, strict=False)
        if one.round == other.round
    ]
    return Spread.of(shares) if shares else None


def _of_linear(runs: list[Run]) -> Spread | None:
    found = ratios(runs, "hosts", f"{US}, {HOSTS[1]}", f"{US}, {HOSTS[0]}", "files_per_second")
    factor = HOSTS[1] / HOSTS[0]
    return found and Spread(found.lowest / factor, found.middle / factor, found.highest / factor)


def _worker_memory(runs: list[Run]) -> Spread | None:
    peaks = [usage.memory / MB for run in runs for name, usage in run.used.items() if name.startswith("worker-")]
    return Spread(min(peaks), max(peaks), max(peaks)) if peaks else None


def _redis_memory(runs: list[Run]) -> Spread | None:
    sizes = [run.facts["redis_bytes"] / MB for run in runs if "redis_bytes" in run.facts]
    return Spread.of(sizes) if sizes else None


TARGETS = (
    Target("small files/s, over `rclone copy` to `compress:`", 2.0, True, _ratio("small", "rclone-compress", "files_per_second")),
    Target("small: CPU a file of all processes, over the same", 0.7, False, _ratio("small", "rclone-compress", "cpu_ms_per_file")),
    Target("small files/s, over plain `rclone copy`", 1.0, True, _ratio("small", "rclone-copy", "files_per_second")),
    Target("small files/s with 40 ms of delay, over what that and the CPU allow", 0.8, True, _of_what_is_possible),
    Target("large MB/s, over `rclone copy` to `compress:`", 2.5, True, _ratio("large", "rclone-compress", "mb_per_second")),
    Target("large incompressible MB/s, over a loop written by hand", 0.8, True, _ratio("hand", "hand", "mb_per_second")),
    Target("peak memory of a worker, MB (the greatest of all cases)", 150, False, _worker_memory),
    Target("poll with nothing new at 1 M rows, over an empty table's", 3.0, False, _ratio("poll", "empty", "seconds", "history")),
    Target("Redis memory with 1 M rows waiting, MB", 20, False, _redis_memory),
    Target("`cbk verify --quick` MB/s, over `sha256sum`", 0.8, True, _ratio("verify", "sha256sum", "mb_per_second", "us, quick")),
    Target("files/s of 4 workers with delay, over 4 times one", 0.9, True, _of_linear),
)
