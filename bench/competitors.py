"""What a user would type instead of the kit, on the same files from the same server, with as many transfers at a time.

None of them flushes what it wrote, reads it back, or keeps a record; `rclone copy` compares a hash where the server names one (MD5
from S3), `copyurl` compares nothing, the naive script compares the SHA-256 as the kit does. Their start is in their figures, a
twentieth of a second. Before each turn everything is flushed, so that nobody pays for what another one has left to the kernel; how
long that takes is a fact of the run (`flush_seconds`), and no part of its time.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.cbk_run import BenchFailed
from bench.place import REPOSITORY, TRANSFERS, Origin, Place, plain_environment, rclone_program
from bench.results import Run
from bench.watch import Usage, Watch, flushed

# One file of the naive script: download, compare, compress. Its arguments are a link, a hash and a path.
NAIVE = 'mkdir -p "${3%/*}" && curl -sS --fail -o "$3" "$1" && echo "$2  $3" | sha256sum --check --quiet && gzip "$3"'

Command = tuple[list[str], dict[str, str], Path | None]
Peer = Callable[[Origin, Path], Command]


def rclone_compress(origin: Origin, target: Path) -> Command:
    """`rclone copy` to a compress: remote (gzip, its default level) over a folder: what comes nearest to the kit."""
    press = {"TYPE": "compress", "REMOTE": str(target), "LEVEL": "-1"}
    environment = {f"RCLONE_CONFIG_PRESS_{name}": value for name, value in press.items()}
    return _rclone("copy", origin.remote, "press:", *origin.flags), origin.environment | environment, None


def rclone_copy(origin: Origin, target: Path) -> Command:
    """`rclone copy` to a folder: no compression."""
    return _rclone("copy", origin.remote, str(target), *origin.flags), origin.environment, None


def rclone_copyurl(origin: Origin, target: Path) -> Command:
    """`rclone copyurl --urls` to a folder: the only one that begins with the same links as the kit; no compression, no hash."""
    listing = target.with_suffix(".csv")
    with listing.open("w", newline="") as out:
        csv.writer(out).writerows((origin.links[file.key], file.key) for file in origin.corpus.files)
    return _rclone("copyurl", "--urls", str(listing), str(target)), {}, None


def naive(origin: Origin, target: Path) -> Command:
    """`xargs -P 8` with curl, sha256sum and gzip."""
    listing = target.with_suffix(".txt")
    lines = (f"{origin.links[file.key]} {origin.corpus.sha256[file.key]} {target / file.key}\n" for file in origin.corpus.files)
    listing.write_text("".join(lines))
    return ["xargs", "-P", str(TRANSFERS), "-n", "3", "sh", "-c", NAIVE, "sh"], {}, listing


def _rclone(*arguments: str) -> list[str]:
    return [rclone_program(), *arguments, "--transfers", str(TRANSFERS), "--checkers", str(TRANSFERS)]


PEERS: dict[str, Peer] = {
    "rclone-compress": rclone_compress,
    "rclone-copy": rclone_copy,
    "rclone-copyurl": rclone_copyurl,
    "naive": naive,
}
# How the name of each payload ends; the compress: remote writes a file of metadata beside each.
_PAYLOADS = {"rclone-compress": (".gz", ".bin"), "naive": (".gz",)}


def run_peer(place: Place, origin: Origin, name: str, case: str, round_: int) -> Run:
    """One turn of a peer. Raises BenchFailed where a file is missing afterwards."""
    target = place.new_folder("copied")
    command, environment, listing = PEERS[name](origin, target)
    files = origin.corpus.files
    seconds, usage, server = timed(command, environment, listing, log=place.folder / f"{name}.log", origin=origin)
    facts = {"flush_seconds": flushed()}
    found = sum(1 for _ in _payloads(target, name))
    if found != len(files):
        raise BenchFailed(f"{name} copied {found} of {len(files)} files; see its log:\n{_tail(place.folder / f'{name}.log')}")
    place.done_with(target, found)
    return Run(case, name, round_, len(files), origin.corpus.size, seconds, {name: usage}, server, facts)


def run_hand(place: Place, origin: Origin, case: str, round_: int) -> Run:
    """One turn of `bench.baseline`. Raises BenchFailed where the file is another one."""
    (file,) = origin.corpus.files
    target = place.new_folder("copied")
    arguments = [origin.links[file.key], origin.corpus.sha256[file.key], str(target / "copy")]
    command = [sys.executable, "-m", "bench.baseline", *arguments]
    seconds, usage, server = timed(command, {"PYTHONPATH": str(REPOSITORY)}, log=place.folder / "hand.log", origin=origin)
    facts = {"flush_seconds": flushed()}
    shutil.rmtree(target)
    return Run(case, "hand", round_, 1, file.size, seconds, {"hand": usage}, server, facts)


def timed(
    command: list[str], environment: dict[str, str], listing: Path | None = None, *, log: Path, origin: Origin | None = None
) -> tuple[float, Usage, Usage | None]:
    """Wall seconds of a command, what it and its children used, and what the origin's server did. Raises BenchFailed."""
    flushed()
    with log.open("wb") as out, (listing or Path(os.devnull)).open("rb") as given:
        begun = time.perf_counter()
        process = subprocess.Popen(command, env=plain_environment() | environment, stdin=given, stdout=out, stderr=out)
        watch = Watch({"it": process.pid} | ({"origin": origin.server.pid} if origin else {}))
        with watch.watching():
            _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchFailed(f"{Path(command[0]).name} ended with {process.returncode}:\n{_tail(log)}")
    return seconds, Usage(used.ru_utime + used.ru_stime, watch.usage["it"].memory), watch.usage.get("origin")


def _payloads(target: Path, name: str) -> Iterable[Path]:
    endings = _PAYLOADS.get(name)
    return (path for path in target.rglob("*") if path.is_file() and (endings is None or path.name.endswith(endings)))


def _tail(log: Path) -> str:
    return log.read_bytes()[-2000:].decode(errors="replace")
