"""What scripts/test-faults runs: the fault suites at length, and the table of docs/reliability.md."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from local_servers import Postgres  # noqa: E402 - found by the line above
from tests.faults import disks, network, strace  # noqa: E402
from tests.faults.cuts import cut_after_init, cut_at_random, cut_at_steps  # noqa: E402
from tests.faults.filling import fill_under_load  # noqa: E402
from tests.faults.injections import HARMS, WAYS, inject_all  # noqa: E402
from tests.faults.planted import PLANTS, is_caught  # noqa: E402
from tests.faults.planted_rows import ROW_PLANTS  # noqa: E402
from tests.faults.scene import Tally  # noqa: E402
from tests.faults.strace import CUT  # noqa: E402
from tests.origin import Origin  # noqa: E402

PAGE = ROOT / "docs" / "reliability.md"
MARKED = re.compile(r"(<!-- table: scripts/test-faults -->\n).*?(<!-- end of table -->)", re.DOTALL)
SHOWN = 20

Suite = Callable[[Path, Origin], list[Tally]]


def main() -> int:
    """Run what is asked for; exit code 1 where anything was lost, wrong or needed hands, or a planted bug was missed."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that folders go with it
    for name in [name for name in os.environ if name.startswith("CBK_")]:
        del os.environ[name]
    if arguments.planted:
        return _find_planted_bugs()
    started = time.monotonic()
    tallies: list[Tally] = []
    for suite in _suites(arguments):
        for tally in _run(suite):
            print(f"{tally.times:6} x {tally.fault}: {_counted(tally)}", flush=True)
            tallies += [tally]
    findings = [finding for tally in tallies for finding in tally.findings]
    for finding in findings[:SHOWN]:
        print(f"FOUND: {finding}")
    table = _table(tallies, arguments, time.monotonic() - started)
    print(f"\n{table}")
    if arguments.write:
        PAGE.write_text(MARKED.sub(lambda marks: marks[1] + table + marks[2], PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return int(bool(findings))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/test-faults", description=__doc__)
    parser.add_argument("--cuts", type=int, default=50, help="power cuts under load, for each file system and place of the catalog")
    parser.add_argument("--faults", type=int, default=3000, help="faults at system calls, about")
    parser.add_argument("--full", type=int, default=20, help="times that a disk fills up under load")
    parser.add_argument("--network", type=int, default=8000, help="faults of origins, connections to databases and messages, about")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is random; another one takes other moments")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.relative_to(ROOT)}")
    parser.add_argument("--planted", action="store_true", help="instead: plant bugs in a copy, and see that the tests find each")
    return parser.parse_args()


def _suites(arguments: argparse.Namespace) -> Iterator[Suite]:
    """Everything that this machine can do; what it cannot is said."""
    seed = arguments.seed
    can_trace = arguments.faults > 0 and _can("faults at system calls", strace.why_not())
    per_way = max(arguments.faults // (len(WAYS) * (2 + len(disks.KINDS))), 1)
    for kind in disks.KINDS if arguments.cuts else ():
        if not _can(f"power cuts on {kind}", disks.why_not(kind)):
            continue
        for on_disk in (True, False):
            yield lambda folder, origin, kind=kind, on_disk=on_disk: [
                cut_at_random(folder, origin, kind, catalog_on_disk=on_disk, times=arguments.cuts, seed=seed)
            ]
            yield lambda folder, origin, kind=kind, on_disk=on_disk: [
                cut_at_steps(folder, origin, kind, catalog_on_disk=on_disk, seed=seed)
            ]
        yield lambda folder, origin, kind=kind: [cut_after_init(folder, origin, kind)]
        if can_trace:
            yield (
                lambda folder, origin, kind=kind: (
                    inject_all(folder, origin, catalog_on_disk=True, kind=kind, harms=[CUT], per_way=per_way, seed=seed).tallies
                )
            )
    if can_trace:
        for on_disk in (True, False):
            yield (
                lambda folder, origin, on_disk=on_disk: (
                    inject_all(folder, origin, catalog_on_disk=on_disk, harms=HARMS, per_way=per_way, seed=seed).tallies
                )
            )
    if arguments.full and _can("full disks", disks.why_not("tmpfs")):
        yield lambda folder, origin: [fill_under_load(folder, origin, times=arguments.full, seed=seed)]
    yield from _network_suites(arguments)


def _network_suites(arguments: argparse.Namespace) -> Iterator[Suite]:
    if not arguments.network:
        return
    with tempfile.TemporaryDirectory(prefix="cbk-faults-") as folder, Postgres(folder) as postgres:
        for suite in network.suites(times=arguments.network, seed=arguments.seed):
            yield lambda folder, origin, suite=suite: [suite(folder, origin, postgres)]


def _can(what: str, reason: str) -> bool:
    if reason:
        print(f"NOT TESTED: {what}: {reason}", file=sys.stderr)
    return not reason


def _run(suite: Suite) -> list[Tally]:
    folder = Path(tempfile.mkdtemp(prefix="cbk-faults-"))
    try:
        with Origin() as origin:
            return suite(folder, origin)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _find_planted_bugs() -> int:
    missed = 0
    for name, plant in (PLANTS | ROW_PLANTS).items():
        if plant.needs_cuts and not _can(f"whether it is found that {name}", disks.why_not("ext4")):
            continue
        folder = Path(tempfile.mkdtemp(prefix="cbk-planted-"))
        try:
            caught, said = is_caught(plant, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        missed += not caught
        print(f"{'found' if caught else 'NOT FOUND'}: {name}" + ("" if caught else f"\n{said}"), flush=True)
    return int(missed > 0)


def _counted(tally: Tally) -> str:
    return f"{tally.files} files looked at, {len(tally.lost)} lost, {len(tally.wrong)} wrong, {len(tally.hands)} needed hands"


def _table(tallies: list[Tally], arguments: argparse.Namespace, seconds: float) -> str:
    lines = ["", "| fault | times | files looked at | lost | wrong | needed hands |", "|---|--:|--:|--:|--:|--:|"]
    rows = [(tally.fault, tally.times, tally.files, len(tally.lost), len(tally.wrong), len(tally.hands)) for tally in tallies]
    rows.append(("**all**", *(sum(column) for column in zip(*(row[1:] for row in rows), strict=True))))
    lines += [f"| {name} | " + " | ".join(f"{number:,}" for number in numbers) + " |" for name, *numbers in rows]
    command = (
        f"scripts/test-faults --cuts {arguments.cuts} --faults {arguments.faults} --full {arguments.full} "
        f"--network {arguments.network} --seed {arguments.seed}"
    )
    where = f"{platform.system()} {re.match(r'[0-9.]+', platform.release())[0].rstrip('.')} on {platform.machine()}"
    version = (
        subprocess.run(["strace", "-V"], capture_output=True, text=True, check=False).stdout.split("\n")[0]
        if shutil.which("strace")
        else "no strace"
    )
    lines += ["", f"`{command}`, {seconds / 60:.0f} minutes, {where}, {os.cpu_count()} processors, {version}.", ""]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
