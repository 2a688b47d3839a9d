"""The tables that are printed and written."""

from __future__ import annotations

from collections.abc import Iterable

from bench.results import MB, Run, Spread, ratios, runs_of, spread

FIGURES = ("files_per_second", "mb_per_second", "cpu_ms_per_file", "memory")
# What is counted where it is not files.
UNITS = {"poll": "poll", "intake": "row", "reconcile": "row", "rebuild": "copy", "verify": "copy"}
# Who of ours stands beside whom, where it is not "us" beside everybody.
COMPARED = {
    "verify": {"gzip -t": "us", "sha256sum": "us, quick"},
    "poll": {"empty": "history"},
    "hosts": {"us, 1": "us, 4"},
    "delay": dict.fromkeys(("us, without delay", "rclone-compress", "rclone-copy", "rclone-copyurl"), "us"),
}


def case_tables(runs: list[Run]) -> str:
    """A table for each case and one of its processes, in Markdown."""
    cases = dict.fromkeys(run.case for run in runs)
    return "\n\n".join(table for case in cases for table in (case_table(runs, case), parts_table(runs, case)) if table)


def case_table(runs: list[Run], case: str) -> str:
    """Each contender's medians, and how often it was as fast as the kit."""
    unit = UNITS.get(case, "file")
    heads = [case, f"{unit}/s", "MB/s", f"CPU ms/{unit}", "memory, MB", f"origin's CPU ms/{unit}", "left to flush, s"]
    heads += ["ours/its: speed", "ours/its: CPU"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "--:|" * (len(heads) - 1)]
    for name in _contenders(runs, case):
        rate, mb, cpu, memory = (_middle(runs, case, name, figure) for figure in FIGURES)
        of_origin = [run.origin.cpu * 1000 / run.files for run in runs_of(runs, case, name) if run.origin]
        cells = [f"{rate:,.1f}" if rate < 10 else f"{rate:,.0f}", f"{mb:.1f}" if mb else "", f"{cpu:,.2f}", f"{memory / MB:.0f}"]
        cells.append(f"{Spread.of(of_origin).middle:,.2f}" if of_origin else "")
        cells.append(_left_to_flush(runs, case, name))
        cells += [_compared(runs, case, name, figure) for figure in ("files_per_second", "cpu_ms_per_file")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parts_table(runs: list[Run], case: str) -> str:
    """What each process used where there were several, medians; empty where there were none."""
    unit = UNITS.get(case, "file")
    lines = [f"| {case} | process | CPU ms/{unit} | memory, MB |", "|---|---|--:|--:|"]
    for contender in _contenders(runs, case):
        theirs = runs_of(runs, case, contender)
        for part in theirs[0].used if len(theirs[0].used) > 1 else ():
            cpu = Spread.of(run.used[part].cpu * 1000 / run.files for run in theirs).middle
            memory = Spread.of(run.used[part].memory / MB for run in theirs).middle
            lines.append(f"| {contender} | {part} | {cpu:,.2f} | {memory:.0f} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _contenders(runs: Iterable[Run], case: str) -> list[str]:
    return list(dict.fromkeys(run.contender for run in sorted(runs, key=lambda run: run.round) if run.case == case))


def _middle(runs: list[Run], case: str, name: str, figure: str) -> float:
    found = spread(runs, case, name, figure)
    return found.middle if found else 0.0


def _left_to_flush(runs: list[Run], case: str, name: str) -> str:
    seconds = [run.facts["flush_seconds"] for run in runs_of(runs, case, name) if "flush_seconds" in run.facts]
    return f"{Spread.of(seconds).middle:.1f}" if seconds else ""


def _compared(runs: list[Run], case: str, name: str, figure: str) -> str:
    ours = COMPARED[case].get(name) if case in COMPARED else "us"
    found = ratios(runs, case, ours, name, figure) if ours and ours != name else None
    return str(found) if found else ""
