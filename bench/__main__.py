"""`python -m bench [CASE ...]`: the kit beside what a user would type instead, on the same files, in turn, in one run."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.place import Place, opened_place
from bench.report import case_table, parts_table
from bench.results import Run
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
}
PROFILED = ("small", "medium", "large")
ROUNDS = 5


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options = Options(arguments.rounds, arguments.only, arguments.origin, arguments.catalog)
    runs: list[Run] = []
    with opened_place(arguments.scale, arguments.folder) as place:
        for case in arguments.cases or CASES:
            for run in CASES[case](place, options):
                print(f"{case} {run.round}: {run.contender}: {run.seconds:.2f} s", file=sys.stderr)
                runs.append(run)
            print(f"\n{case_table(runs, case)}\n\n{parts_table(runs, case)}\n", flush=True)
            if arguments.profile and case in PROFILED:
                folded = arguments.folded or place.folder / "folded"
                print(f"{case}, looked at by py-spy:\n\n{profile_corpus(place, options, case, folded)}\n", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"runs": [run.as_json() for run in runs]}, indent=1) + "\n")
    return 0


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
    parser.add_argument("--profile", action="store_true", help="one more turn of the kit, to see where a worker's time goes")
    parser.add_argument("--folded", type=Path, help="keep that turn's stacks in this file, as flame graphs are made of")
    parser.add_argument("--folder", type=Path, help="the disk to measure on (default: the one of TMPDIR)")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
