"""What `--write` puts into docs/performance.md, between its marks, and the plot beside it."""

from __future__ import annotations

import re
from datetime import timedelta

from bench.arithmetic import arithmetic_table
from bench.place import REPOSITORY
from bench.plot import plot
from bench.report import case_tables
from bench.results import Session, runs_and_profiles
from bench.targets import target_table

PAGE = REPOSITORY / "docs" / "performance.md"
PLOT = REPOSITORY / "docs" / "performance.svg"


def write_page(sessions: list[Session]) -> None:
    """Put each table between its marks; where there is nothing to say, what stands there stays."""
    runs, profiles = runs_and_profiles(sessions)
    text = PAGE.read_text(encoding="utf-8")
    text = _between(text, "targets", f"{target_table(runs)}\n\n{_provenance(sessions)}")
    text = _between(text, "cases", case_tables(runs))
    text = _between(text, "arithmetic", arithmetic_table(runs))
    profile = "\n\n".join(f"**{case}**\n\n{table}" for case, table in profiles.items())
    text = _between(text, "profile", profile)
    PAGE.write_text(text, encoding="utf-8")
    PLOT.write_text(plot(runs), encoding="utf-8")


def _between(text: str, name: str, content: str) -> str:
    if not content:
        return text
    marks = re.compile(rf"(<!-- {name}: python -m bench -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    return marks.sub(lambda found: f"{found[1]}\n{content}\n\n{found[2]}", text)


def _provenance(sessions: list[Session]) -> str:
    """Each command, and the machine: once where all ran on the same one."""
    machines = {session.machine for session in sessions}
    agree = len(machines) == 1
    told = [f"{_command(session)}{_shrunk(session)}{'' if agree else _where(session)}" for session in sessions]
    return f"{'; '.join(told)}." + "".join(f" {machine}." for machine in machines if agree and machine)


def _where(session: Session) -> str:
    return f" ({session.machine})" if session.machine else " (on a machine that its file does not name)"


def _command(session: Session) -> str:
    return f"`{session.command}` at {session.commit}, {timedelta(seconds=round(session.seconds))} hours"


def _shrunk(session: Session) -> str:
    return "" if session.scale == 1 else f" (**only {session.scale:.0%} of the files: no figures to quote**)"
