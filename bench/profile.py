"""Where a worker's time goes, by py-spy (which looks at it from outside, a hundred times a second, and leaves idle threads out).

A stack belongs to the first part that one of its frames belongs to, from the innermost frame outwards: time in SQLAlchemy that the
catalog called is the catalog's. Being looked at costs a worker something, so that no other figure of such a run counts.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SAMPLES_PER_SECOND = 100
END_SECONDS = 60.0
SHOWN_FRAMES = 15

# By what is in the text of a frame, "function (path:line)": first what is looked for in the whole stack, then, from the innermost
# frame outwards, the part of the first frame that has one.
ANYWHERE = (
    (".read_back (cbk/edges/archive", "archive: read back"),
    ("_Trail.", "archive: read back"),
    ("Publication.", "archive: publish (folders, rename, flush of folders)"),
    (".flush (cbk/edges/archive", "archive: flush"),
    (".finish (cbk/edges/archive", "archive: write, compress"),
    (".is_free (cbk/edges/archive", "archive: is there a copy already"),
    (".adopt (cbk/edges/archive", "archive: is there a copy already"),
    ("celery/events/", "Celery: events"),
    ("celery/worker/request.py", "Celery: acknowledging"),
)
PARTS = (
    ("cbk/edges/download", "download: connection, HTTP, bytes"),
    ("IncomingCopy.write (cbk/edges/archive", "archive: write, compress"),
    ("cbk/rules/backup/gzip_format", "archive: write, compress"),
    ("cbk/edges/archive", "archive: the rest"),
    ("cbk/edges/catalog", "catalog"),
    ("cbk/edges/source", "application's database"),
    ("cbk/cluster/publisher", "messages sent"),
    ("cbk/cluster/logs", "log"),
    ("cbk/rules", "rules"),
    ("cbk/jobs", "jobs"),
    ("kombu/transport", "Celery: receiving"),
    ("celery/app/trace", "Celery: running a task"),
    ("celery/", "Celery: the rest"),
    ("kombu/", "Celery: the rest"),
    ("concurrent/futures/thread", "archive: read back"),  # the stored bytes' hash, which is taken beside
)
# What waits for something in a way that looks busy to py-spy.
IDLE = ("_worker (", "Condition.wait (", "_pause (")
POLLING = "cbk/jobs/poll/poll.py"
_FOLDER = re.compile(r"\(\S*?/(?:site-packages/|lib/python[\d.]+/(?!site-packages)|(?=cbk/))")


class ProfilerMissing(Exception):
    """py-spy cannot look at the worker; the message says why."""


@contextmanager
def profiled(pid: int, folded: Path) -> Iterator[None]:
    """Write the stacks of a process while the body runs, one a line with its count, to `folded`. Raises ProfilerMissing."""
    beside = Path(sys.executable).parent / "py-spy"
    program = str(beside) if beside.exists() else shutil.which("py-spy")
    if not program:
        raise ProfilerMissing("py-spy is not installed")
    options = ["--pid", str(pid), "--format", "raw", "--rate", str(SAMPLES_PER_SECOND), "--full-filenames", "--output", str(folded)]
    process = subprocess.Popen([program, "record", *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=END_SECONDS)
    if not folded.exists():
        raise ProfilerMissing(f"py-spy could not look at process {pid} (root may, others see `kernel.yama.ptrace_scope`): {said}")


def profile_table(folded: str, *, files: int, seconds: float) -> str:
    """Parts by their share, and what each is in milliseconds a file of the worker's `seconds` of a processor; Markdown."""
    stacks = list(_stacks(folded))
    parts: Counter[str] = Counter()
    leaves: Counter[str] = Counter()
    for frames, count in stacks:
        parts[part_of(frames)] += count
        leaves[_short(frames[-1])] += count
    total = sum(parts.values()) or 1
    per_sample = seconds * 1000 / files / total
    lines = ["| part of the worker | share | ms a file |", "|---|--:|--:|"]
    lines += [f"| {name} | {count / total:.1%} | {count * per_sample:.2f} |" for name, count in parts.most_common()]
    lines += ["", "| innermost function | share |", "|---|--:|"]
    lines += [f"| `{name}` | {count / total:.1%} |" for name, count in leaves.most_common(SHOWN_FRAMES)]
    return "\n".join(lines)


def part_of(frames: list[str]) -> str:
    """The part that a stack belongs to, outermost frame first."""
    texts = [_short(frame) for frame in frames]
    if any(POLLING in text for text in texts):
        return "poll"
    for sign, part in ANYWHERE:
        if any(sign in text for text in texts):
            return part
    for text in reversed(texts):
        for sign, part in PARTS:
            if sign in text:
                return part
    return "Python itself, other threads"


def _stacks(folded: str) -> Iterator[tuple[list[str], int]]:
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        if stack and not stack.rpartition(";")[2].startswith(IDLE):
            yield stack.split(";"), int(count)


def _short(frame: str) -> str:
    """A frame without the folder that the project, a package or Python is installed in."""
    return _FOLDER.sub("(", frame)
