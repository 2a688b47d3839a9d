"""What the measured figures come to with more files than anybody measures."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from bench.results import MB, Run, runs_of, spread
from cbk.jobs.intake.table_reader import FULL_READ_PAGES, PAGE_ROWS
from cbk.settings import Settings

SIZES = {"1 M": 10**6, "100 M": 10**8, "10 G": 10**10}
GB = 1000 * MB
HOUR_SECONDS = 3600
FIRST_BACKUP_DAYS = 30
POLL_INTERVAL: timedelta = Settings.model_fields["poll_interval"].default


def arithmetic_table(runs: list[Run]) -> str:
    """For each size what grows with it, in Markdown; empty where its figures were not measured."""
    intake, reconcile = runs_of(runs, "intake", "us"), runs_of(runs, "reconcile", "us")
    copying = spread(runs, "small", "us, one worker", "files_per_second")
    empty, history = (spread(runs, "poll", name, "cpu_ms_per_file") for name in ("empty", "history"))
    if not (intake and reconcile and copying and empty and history):
        return ""
    taken, read = intake[0], reconcile[0]
    bytes_per_version = taken.facts["catalog_bytes_per_version"]
    polls_per_reading = 1 / (FULL_READ_PAGES * PAGE_ROWS)
    growth = max(history.middle - empty.middle, 0) / taken.files
    rows: dict[str, Callable[[int], float]] = {
        f"catalog, GB ({bytes_per_version:.0f} bytes a version)": lambda files: files * bytes_per_version / GB,
        "Redis, MB": lambda _: taken.facts["redis_bytes"] / MB,
        "a poll with nothing new, CPU ms": lambda files: empty.middle + growth * files,
        f"all rows taken in, hours (at {taken.files_per_second:,.0f} a second)": lambda files: (
            files / taken.files_per_second / HOUR_SECONDS
        ),
        "all rows read again, CPU hours": lambda files: files * read.cpu_ms_per_file / 1000 / HOUR_SECONDS,
        f"all rows read again, hours ({FULL_READ_PAGES * PAGE_ROWS:,} a poll, every {POLL_INTERVAL.seconds} s)": lambda files: (
            files * polls_per_reading * POLL_INTERVAL.total_seconds() / HOUR_SECONDS
        ),
        f"workers for a first backup in {FIRST_BACKUP_DAYS} days (at {copying.middle:,.0f} small files/s each)": lambda files: (
            files / copying.middle / HOUR_SECONDS / 24 / FIRST_BACKUP_DAYS
        ),
    }
    lines = ["| files | " + " | ".join(SIZES) + " |", "|---|" + "--:|" * len(SIZES)]
    lines += [f"| {what} | " + " | ".join(_number(count(files)) for files in SIZES.values()) + " |" for what, count in rows.items()]
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"
