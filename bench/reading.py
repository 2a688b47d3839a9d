"""Reading copies back: restoring, verifying, rebuilding the catalog. Before each turn nothing of them is in the page cache."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from shutil import rmtree

from bench.cbk_run import BenchFailed, Context, back_up
from bench.competitors import PEERS, timed
from bench.place import BUCKET, Place, plain_environment, rclone_program
from bench.rebuild import make_copies
from bench.results import Run
from bench.transfers import Options, in_turn

COPIES = 100_000
RESTORED = ("medium", "small")
# What anybody would look with: one process, since the kit reads one copy after the other as well.
BY_HAND = {
    "sha256sum": "find {root} -name '*.gzip' -print0 | xargs -0 sha256sum",
    "gzip -t": "find {root} -name '*.gzip' -print0 | xargs -0 gzip -t -S .gzip",
}


def verify_copies(place: Place, options: Options) -> Iterator[Run]:
    """`cbk verify` beside `gzip -t`, and `cbk verify --quick` beside `sha256sum`; sizes are those on the disk."""
    context = _stored(place, options, "proof")
    copies = _copies(context)
    ours = [sys.executable, "-m", "cbk.cli", "verify"]
    commands = {"us": ours, "gzip -t": None, "us, quick": [*ours, "--quick"], "sha256sum": None}
    for name, script in BY_HAND.items():
        commands[name] = ["sh", "-c", script.format(root=shlex.quote(str(context.root / BUCKET)))]

    def turn(contender: str, round_: int) -> Run:
        environment = context.environment if contender.startswith("us") else plain_environment()
        _evict(copies)
        seconds, usage, _ = timed(commands[contender], environment, log=place.folder / "verify.log")
        size = sum(path.stat().st_size for path in copies)
        return Run("verify", contender, round_, len(copies), size, seconds, {contender: usage})

    yield from in_turn({name: partial(turn, name) for name in commands}, options.rounds)
    rmtree(context.root)


def restore_copies(place: Place, options: Options) -> Iterator[Run]:
    """`cbk restore` beside `rclone copy` from the compress: remote that rclone itself has filled."""
    for corpus in RESTORED:
        yield from _restore(place, options, corpus)


def _restore(place: Place, options: Options, corpus: str) -> Iterator[Run]:
    context = _stored(place, options, corpus)
    origin = place.origin(corpus, "static")
    pressed = place.new_folder("pressed")
    fill, press, _ = PEERS["rclone-compress"](origin, pressed)
    timed(fill, press, log=place.folder / "fill.log")
    kept = {"us": _copies(context), "rclone-compress": [path for path in pressed.rglob("*") if path.is_file()]}

    def turn(contender: str, round_: int) -> Run:
        target = place.new_folder("restored")
        ours = [sys.executable, "-m", "cbk.cli", "restore", "--to", str(target), "--jobs", "8"]
        theirs = [rclone_program(), "copy", "press:", str(target), "--transfers", "8", "--checkers", "8"]
        command, environment = (ours, context.environment) if contender == "us" else (theirs, press)
        _evict(kept[contender])
        seconds, usage, _ = timed(command, environment, log=place.folder / "restore.log")
        found = [path.stat().st_size for path in target.rglob("*") if path.is_file()]
        if (len(found), sum(found)) != (len(origin.corpus.files), origin.corpus.size):
            raise BenchFailed(f"{contender} restored {len(found)} of {len(origin.corpus.files)} files")
        rmtree(target)
        return Run(f"restore {corpus}", contender, round_, len(found), origin.corpus.size, seconds, {contender: usage})

    yield from in_turn({name: partial(turn, name) for name in kept}, options.rounds)
    rmtree(context.root)
    rmtree(pressed)


def rebuild_catalog(place: Place, options: Options) -> Iterator[Run]:
    """`cbk rebuild` of 100,000 copies that workers wrote, into an empty catalog."""
    copies = max(int(COPIES * place.scale), 1)
    _, source_url = place.new_tables()
    context = Context.made(place, source_url, allowed="objects.example.com", catalog=options.catalog)
    make_copies(context.root, copies)

    def turn(round_: int) -> Run:
        _evict(_copies(context))
        context.forget_catalog()
        command = [sys.executable, "-m", "cbk.cli", "rebuild"]
        seconds, usage, _ = timed(command, context.environment, log=place.folder / "rebuild.log")
        return Run("rebuild", "us", round_, copies, 0, seconds, {"us": usage})

    yield from in_turn({"us": turn}, options.rounds)
    rmtree(context.root)


def _stored(place: Place, options: Options, corpus: str) -> Context:
    """A kit that has stored a corpus."""
    kept: list[Context] = []
    origin = place.origin(corpus, "static")
    back_up(place, origin, place.application(origin), corpus, 0, catalog=options.catalog, finish=kept.append)
    return kept[0]


def _copies(context: Context) -> list[Path]:
    return sorted((context.root / BUCKET).rglob("*.gzip"))


def _evict(paths: list[Path]) -> None:
    """Have the kernel forget what it holds of these files; what is not on the disk yet would stay."""
    os.sync()
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
