"""What the measured figures come to with more files than anybody measures."""

from __future__ import annotations

from bench.results import MB, Run, runs_of, spread

SIZES = {"1 M": 10**6, "100 M": 10**8, "10 G": 10**10}
GB = 1000 * MB
DAY_SECONDS = 86_400
FIRST_BACKUP_DAYS = 30


def arithmetic_table(runs: list[Run]) -> str:
    """For each size what grows with it, in Markdown; empty where its figures were not measured."""
    intake, reconcile = runs_of(runs, "intake", "us"), runs_of(runs, "reconcile", "us")
    copying, polling = spread(runs, "small", "us", "files_per_second"), spread(runs, "poll", "history", "cpu_ms_per_file")
    if not (intake and reconcile and copying and polling):
        return ""
    bytes_per_version = intake[0].facts["catalog_bytes_per_version"]
    rows = {
        f"catalog, GB ({bytes_per_version:.0f} bytes a version)": lambda files: files * bytes_per_version / GB,
        "Redis, MB": lambda _: intake[0].facts["redis_bytes"] / MB,
        "a poll with nothing new, CPU ms": lambda _: polling.middle,
        f"taking in all rows, hours (at {intake[0].files_per_second:,.0f} a second)": lambda files: (
            files / intake[0].files_per_second / 3600
        ),
        "the daily reading of all rows, CPU hours": lambda files: files * reconcile[0].cpu_ms_per_file / 1000 / 3600,
        f"workers like this one for a first backup in {FIRST_BACKUP_DAYS} days (at {copying.middle:,.0f} files/s)": lambda files: (
            files / copying.middle / DAY_SECONDS / FIRST_BACKUP_DAYS
        ),
    }
    lines = ["| files | " + " | ".join(SIZES) + " |", "|---|" + "--:|" * len(SIZES)]
    lines += [f"| {what} | " + " | ".join(_number(count(files)) for files in SIZES.values()) + " |" for what, count in rows.items()]
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"
