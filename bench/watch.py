"""What processes use: seconds of a processor, and memory at its peak, from /proc (proc(5))."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Often enough for peaks of seconds, and seldom enough to cost the machine nothing; a single process tells its own peak.
SAMPLE_SECONDS = 0.5
# Fields of /proc/<pid>/stat after the name: the parent's id, and clock ticks in user and kernel, own and of the reaped children.
PARENT, TICKS = 1, slice(11, 15)


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one part with all its processes: `cpu` in seconds, `memory` at its peak in bytes."""

    cpu: float
    memory: int


@dataclass
class Watch:
    """Watches named process trees by the ids of their roots. The numbers are there when `watching` has ended."""

    roots: Mapping[str, int]
    usage: dict[str, Usage]

    def __init__(self, roots: Mapping[str, int]) -> None:
        self.roots = roots
        self.usage = {}
        self._peaks = dict.fromkeys(roots, 0)
        self._over = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Measure while the body runs."""
        for root in self.roots.values():
            _forget_high_water_mark(root)
        before = _trees(self.roots)
        thread = threading.Thread(target=self._sample, daemon=True)
        thread.start()
        try:
            yield
        finally:
            after = _trees(self.roots)
            self._over.set()
            thread.join()
        for name, root in self.roots.items():
            peak = max(self._peaks[name], high_water_mark(root))
            self.usage[name] = Usage(_ticks(after[name]) - _ticks(before[name]), peak)

    def _sample(self) -> None:
        while True:
            for name, tree in _trees(self.roots).items():
                self._peaks[name] = max(self._peaks[name], memory_of(list(tree)))
            if self._over.wait(SAMPLE_SECONDS):
                return


def flushed() -> float:
    """Have the kernel write what it still holds for any disk (sync(2)); the seconds that took."""
    begun = time.perf_counter()
    os.sync()
    return time.perf_counter() - begun


def memory_of(pids: list[int]) -> int:
    """Bytes in memory: of one process at its peak so far, of several now, with what they share counted once."""
    return high_water_mark(pids[0]) if len(pids) == 1 else sum(_proportional(pid) for pid in pids)


def high_water_mark(pid: int) -> int:
    """The largest resident set of a process since it began, or since the watch did; 0 where it has ended."""
    return _from_status(pid, "VmHWM:")


def tree_of(root: int) -> list[int]:
    """The ids of a process and its descendants."""
    return list(_trees({"": root})[""])


def _ticks(tree: Mapping[int, float]) -> float:
    return sum(tree.values())


def _trees(roots: Mapping[str, int]) -> dict[str, dict[int, float]]:
    """For each root its process ids, each with its seconds of a processor, those of its ended children included."""
    stats = dict(_stats())
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in stats.items():
        children.setdefault(parent, []).append(pid)
    trees = {}
    for name, root in roots.items():
        found, waiting = {}, [root]
        while waiting:
            pid = waiting.pop()
            if pid in stats:
                found[pid] = stats[pid][1]
                waiting += children.get(pid, [])
        trees[name] = found
    return trees


def _stats() -> Iterator[tuple[int, tuple[int, float]]]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError):
                fields = Path(entry.path, "stat").read_bytes().rpartition(b")")[2].split()
                yield int(entry.name), (int(fields[PARENT]), sum(map(int, fields[TICKS])) / TICKS_PER_SECOND)


def _from_status(pid: int, field: str) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0


def _proportional(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def _forget_high_water_mark(pid: int) -> None:
    with suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # proc(5): reset the peak resident set size
