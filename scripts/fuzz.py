"""What scripts/fuzz runs: every test of a parser that Hypothesis drives, each with input that Atheris chooses by what it covers.

What makes a test fail is kept where Hypothesis looks first: the same test, run as always, finds it again and makes it small.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import os
import random
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

MODULES = [
    "tests.fuzz.test_parsers",
    "tests.unit.test_gzip_format",
    "tests.unit.test_journal",
    "tests.unit.test_layout",
    "tests.unit.test_links",
    "tests.unit.test_objects",
    "tests.unit.test_rebuild_rules",
    "tests.unit.test_rows",
]
CORPUS = ROOT / ".hypothesis" / "corpus"
LONGEST_INPUT = 8192  # bytes that Hypothesis makes its values of
SEED_SIZES = (64, 256, 1024, 4096)
SLOW_SECONDS = 20  # for one input, with the coverage counted
SHOWN_LINES = 60


def main() -> int:
    """Run what is asked for; exit code 1 where a test failed."""
    arguments = _arguments()
    if arguments.inside:
        return _fuzz(*arguments.targets, arguments.seconds)
    targets = [target for target in _targets() if not arguments.targets or any(word in target for word in arguments.targets)]
    if arguments.list or not targets:
        print("\n".join(targets) or "no target has such a name; --list shows them")
        return int(not targets)
    if not _has_atheris():
        print("NOT GUIDED BY COVERAGE: there is no Atheris for this machine; the input is random", file=sys.stderr)
    failed = [target for target in targets if _failed(target, arguments.seconds)]
    return int(bool(failed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="parts of the names of those to run; without any, all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--list", action="store_true", help="instead: show the targets")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _targets() -> list[str]:
    """Tests as "module:name", of those that take nothing but what Hypothesis gives them."""
    return [
        f"{name}:{test}"
        for name in MODULES
        for test, function in vars(importlib.import_module(name)).items()
        if test.startswith("test_") and hasattr(function, "hypothesis") and not inspect.signature(function).parameters
    ]


def _has_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


def _failed(target: str, seconds: int) -> bool:
    """Fuzz in a process of its own, which ends as the fuzzer likes; where the test fails, show the smallest input that makes it."""
    command = [sys.executable, __file__, "--inside", "--seconds", str(seconds), target]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    lines = done.stdout.splitlines()
    if done.returncode == 0:
        print(f"ok      {target}  {next((line for line in reversed(lines) if 'DONE' in line), '')}", flush=True)
        return False
    print("\n".join(lines[-SHOWN_LINES:]))
    module, _, test = target.partition(":")
    subprocess.run([sys.executable, "-m", "pytest", "-q", f"{module.replace('.', '/')}.py::{test}"], cwd=ROOT, check=False)
    print(f"FAILED  {target}", flush=True)
    return True


def _fuzz(target: str, seconds: int) -> int:
    os.chdir(ROOT)
    module, _, test = target.partition(":")
    if not _has_atheris():
        return _feed_noise(getattr(importlib.import_module(module), test).hypothesis.fuzz_one_input, seconds)
    import atheris  # noqa: PLC0415 - not every machine has it

    with atheris.instrument_imports(include=["cbk"]):
        function = getattr(importlib.import_module(module), test)
    corpus = CORPUS / test
    corpus.mkdir(parents=True, exist_ok=True)
    for size in SEED_SIZES:
        (corpus / f"seed-{size}").write_bytes(random.Random(size).randbytes(size))
    options = [
        "-len_control=0",
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST_INPUT}",
        f"-timeout={SLOW_SECONDS}",
        f"-artifact_prefix={corpus}.",
    ]
    atheris.Setup([sys.argv[0], str(corpus), *options], function.hypothesis.fuzz_one_input)
    atheris.Fuzz()  # ends this process
    return 0


def _feed_noise(feed, seconds: int) -> int:
    until, runs = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        feed(os.urandom(int.from_bytes(os.urandom(2), "big") % LONGEST_INPUT))
        runs += 1
    print(f"{runs} DONE")
    return 0


if __name__ == "__main__":
    sys.exit(main())
