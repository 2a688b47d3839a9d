"""`python -m bench [CASE ...]`: the kit beside what a user would type instead, on the same files, in turn, in one run."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.history import poll_history
from bench.page import PAGE, write_page
from bench.place import REPOSITORY, Place, opened_place
from bench.plot import plot
from bench.reading import rebuild_catalog, restore_copies, verify_copies
from bench.report import case_tables
from bench.results import Machine, Run, Session, runs_and_profiles
from bench.targets import target_table
from bench.transfers import (
    CONTENDERS,
    Options,
    copy_by_hand,
    copy_corpus,
    copy_from_afar,
    copy_with_more_workers,
    profile_corpus,
)

CASES: dict[str, Callable[[Place, Options], Iterator[Run]]] = {
    "small": partial(copy_corpus, corpus="small"),
    "medium": partial(copy_corpus, corpus="medium"),
    "large": partial(copy_corpus, corpus="large"),
    "hand": copy_by_hand,
    "delay": copy_from_afar,
    "hosts": copy_with_more_workers,
    "poll": poll_history,
    "verify": verify_copies,
    "restore": restore_copies,
    "rebuild": rebuild_catalog,
}
PROFILED = ("small", "medium", "large")
ROUNDS = 5


def main() -> int:
    """Exit code 0, whatever was reached: the verdicts are in the table."""
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = Options(arguments.rounds, arguments.only, arguments.origin, arguments.catalog, unsafe=arguments.unsafe)
    begun = time.monotonic()
    runs: list[Run] = []
    profiles: dict[str, str] = {}
    with opened_place(arguments.scale, arguments.folder) as place:
        for case in arguments.cases or CASES:
            for run in CASES[case](place, options):
                print(f"{run.case} {run.round}: {run.contender}: {run.seconds:.2f} s", file=sys.stderr, flush=True)
                runs.append(run)
            if arguments.profile and case in PROFILED:
                profiles[case] = profile_corpus(place, options, case, arguments.folded or place.folder / "folded")
    command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
    session = Session(command, _commit(), arguments.scale, time.monotonic() - begun, runs, profiles, Machine.this())
    _publish(session, arguments)
    return 0


def _commit() -> str:
    """What is checked out, as git names it; what was changed since shows."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    named = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return named.stdout.strip() or "no commit"


def _publish(session: Session, arguments: argparse.Namespace) -> None:
    if arguments.json:
        arguments.json.write_text(json.dumps(session.as_json(), indent=1) + "\n")
    sessions = [*(Session.from_json(json.loads(path.read_text())) for path in arguments.beside), session]
    runs, profiles = runs_and_profiles(sessions)
    profiled = [f"{case}, looked at by py-spy:\n\n{table}" for case, table in profiles.items()]
    report = "\n\n".join([case_tables(runs), *profiled, target_table(runs)])
    print(report)
    if arguments.markdown:
        arguments.markdown.write_text(f"{report}\n")
    if arguments.svg:
        arguments.svg.write_text(plot(runs))
    if arguments.write:
        write_page(sessions)


def _case(text: str) -> str:
    if text not in CASES:
        raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(CASES)}")
    return text


def _contenders(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= set(CONTENDERS):
        raise argparse.ArgumentTypeError(f"{text} is not a list of some of {', '.join(CONTENDERS)}")
    return names


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("cases", nargs="*", type=_case, metavar="CASE", help=f"{', '.join(CASES)}; all where none is named")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="everybody's turns (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="the share of the files, for a quick look (default: %(default)s)")
    parser.add_argument("--only", type=_contenders, default=(), help=f"some of: {','.join(CONTENDERS)}")
    parser.add_argument("--origin", choices=("s3", "static"), default="s3", help="where the files are (default: %(default)s)")
    parser.add_argument("--catalog", choices=("sqlite", "postgresql"), default="sqlite", help="(default: %(default)s)")
    parser.add_argument("--unsafe", action="store_true", help="the kit without flushing, reading back and hashing as well")
    parser.add_argument("--profile", action="store_true", help="one more turn of the kit, to see where a worker's time goes")
    parser.add_argument("--folded", type=Path, help="keep that turn's stacks in this file, as flame graphs are made of")
    parser.add_argument("--folder", type=Path, help="the disk to measure on (default: the one of TMPDIR)")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    parser.add_argument(
        "--beside",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="show what --json kept of another command's cases as well; may be given several times",
    )
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    parser.add_argument("--svg", type=Path, help="write the plot to this file")
    parser.add_argument(
        "--write", action="store_true", help=f"put the tables into {PAGE.relative_to(REPOSITORY)}, and the plot beside it"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
