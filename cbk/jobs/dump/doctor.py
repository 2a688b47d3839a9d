"""What `cbk doctor` says of dumps: whether each could be taken now, and restored for a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cbk.edges.dump.check import check_drill, check_source
from cbk.edges.filesystem.scratch import scratch_folder, scratch_place
from cbk.errors import CbkError
from cbk.jobs.admin.findings import DoctorFinding, fail, ok, warn
from cbk.jobs.context import Context
from cbk.rules.dump.spec import DumpSpec

_PART = "dumps"


def look_at_dumps(context: Context) -> Iterator[DoctorFinding]:
    """Each dump that is configured; nothing where there is none."""
    for _, spec in sorted(context.settings.dumps.items()):
        yield from _look_at(spec)


def _look_at(spec: DumpSpec) -> Iterator[DoctorFinding]:
    try:
        with scratch_folder(scratch_place(None)) as scratch:
            told = check_source(spec, tick=_no_tick, scratch=Path(scratch))
    except CbkError as error:
        yield fail(_PART, f"dump {spec.name}: {error.message}", error.hint or f"`cbk dump now {spec.name}` shows what goes wrong")
    else:
        yield ok(_PART, f"dump {spec.name}: {told}")
    try:
        check_drill(spec.kind)
    except CbkError as error:
        message = f"dump {spec.name} cannot be restored for a test here: {error.message}"
        yield warn(_PART, message, error.hint or "install a server of its kind")


def _no_tick() -> None:
    pass
