"""What `status` and `drill` say of copies that were read again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from cbk.cli.terminal.text import as_text, counted
from cbk.jobs.status.status import Status
from cbk.jobs.verification.drill import Drill
from cbk.rules.status.health import describe_age

BYTES_PER_MB = 1e6
# How many of the last bad copies are named.
NAMED = 3


def verification_lines(taken: Status) -> Iterator[str]:
    """The lines of `cbk status`."""
    standing, now = taken.verification, taken.counts.now
    if standing.oldest_at:
        yield f"verified    every copy in the last {describe_age(max(now - standing.oldest_at, timedelta(0)))}"
    if standing.found:
        named = [as_text(f"{one['storage']}/{one['key']} v{one['version']} {one['finding']}") for one in standing.latest[-NAMED:]]
        ago = describe_age(now - datetime.fromisoformat(standing.latest[-1]["at"]))
        yield f"found bad   {standing.found} so far, the last one {ago} ago: {', '.join(reversed(named))}"
    if taken.drill:
        yield f"last drill  {describe_age(now - taken.drill.at)} ago, {drill_line(taken.drill)}"


def drill_line(drill: Drill) -> str:
    """The verdict in one line."""
    if drill.problem:
        return as_text(f"failed: {drill.problem}")
    rate = f"{drill.bytes_per_second / BYTES_PER_MB:.1f} MB/s"
    whole = describe_age(timedelta(seconds=drill.estimate_seconds or 0))
    return f"passed: {counted(drill.files, 'file')} at {rate}; all {drill.all_files} would take about {whole}"
