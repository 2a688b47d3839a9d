"""The tables that are printed and written."""

from __future__ import annotations

from collections.abc import Iterable

from bench.results import MB, Run, Spread, ratios, runs_of, spread

FIGURES = ("files_per_second", "mb_per_second", "cpu_ms_per_file", "memory")


def case_table(runs: list[Run], case: str) -> str:
    """Each contender's medians, and how often it was as fast as us, in Markdown."""
    lines = [
        f"| {case} | files/s | MB/s | CPU ms/file | memory, MB | origin's CPU ms/file | us / it: files/s | us / it: CPU |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in _contenders(runs, case):
        rates = [_middle(runs, case, name, figure) for figure in FIGURES]
        of_origin = [run.origin.cpu * 1000 / run.files for run in runs_of(runs, case, name) if run.origin]
        cells = [f"{rates[0]:.0f}", f"{rates[1]:.1f}", f"{rates[2]:.2f}", f"{rates[3] / MB:.0f}"]
        cells.append(f"{Spread.of(of_origin).middle:.2f}" if of_origin else "")
        cells += [_compared(runs, case, name, figure) for figure in ("files_per_second", "cpu_ms_per_file")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parts_table(runs: list[Run], case: str) -> str:
    """What each process used where there were several, medians, in Markdown; empty where there were none."""
    lines = [f"| {case} | process | CPU ms/file | memory, MB |", "|---|---|--:|--:|"]
    for contender in _contenders(runs, case):
        theirs = runs_of(runs, case, contender)
        for part in theirs[0].used if len(theirs[0].used) > 1 else ():
            cpu = Spread.of(run.used[part].cpu * 1000 / run.files for run in theirs).middle
            memory = Spread.of(run.used[part].memory / MB for run in theirs).middle
            lines.append(f"| {contender} | {part} | {cpu:.2f} | {memory:.0f} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _contenders(runs: Iterable[Run], case: str) -> list[str]:
    return list(dict.fromkeys(run.contender for run in sorted(runs, key=lambda run: run.round) if run.case == case))


def _middle(runs: list[Run], case: str, name: str, figure: str) -> float:
    found = spread(runs, case, name, figure)
    return found.middle if found else 0.0


def _compared(runs: list[Run], case: str, name: str, figure: str) -> str:
    found = ratios(runs, case, "us", name, figure) if name != "us" else None
    return str(found) if found else ""
