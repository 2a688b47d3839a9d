"""Copying: the kit and its peers, in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench.cbk_run import back_up
from bench.competitors import PEERS, run_hand, run_peer
from bench.place import TRANSFERS, Origin, Place
from bench.profile import profile_table, profiled
from bench.results import Run

US = "us"
US_NEAR = "us, without delay"
US_ALONE = "us, one worker"
UNSAFE = "us, unsafe"
HAND = "hand"
CONTENDERS = (US, *PEERS, HAND)
# A round trip to a bucket on another continent, in seconds.
DELAY = 0.040
# One that keeps four workers waiting on two processors as it keeps one: what grows with the machines must not end at this one's.
HOSTS_DELAY = 0.2
HOSTS = (1, 4)


@dataclass(frozen=True, slots=True)
class Options:
    """How cases are run: how many rounds, who takes part (all where empty), where the files and where the catalog are."""

    rounds: int
    only: tuple[str, ...] = ()
    origin: str = "s3"
    catalog: str = "sqlite"
    unsafe: bool = False

    def takes_part(self, contender: str) -> bool:
        """Whether this contender was asked for."""
        return not self.only or contender in self.only


Turn = Callable[[int], Run]


def copy_corpus(place: Place, options: Options, *, corpus: str) -> Iterator[Run]:
    """Everybody's turns at a corpus."""
    origin = place.origin(corpus, options.origin)
    turns: dict[str, Turn] = {name: partial(run_peer, place, origin, name, corpus) for name in PEERS if options.takes_part(name)}
    yield from in_turn(_ours(place, origin, options, corpus) | turns, options.rounds)


def _ours(place: Place, origin: Origin, options: Options, case: str) -> dict[str, Turn]:
    """The kit's turns: as it is installed, as one process with its defaults as well, and, where that was asked for, unsafe.

    Eight downloads in one process need the most memory; `large` and `hand` have not so many files.
    """
    turns: dict[str, Turn] = {}
    if options.takes_part(US):
        ours = partial(back_up, place, origin, place.application(origin), case, catalog=options.catalog)
        turns[US] = ours
        if case in {"small", "medium"}:
            turns[US_ALONE] = partial(ours, contender=US_ALONE, workers=1, downloads=TRANSFERS)
        if options.unsafe:
            turns[UNSAFE] = partial(ours, contender=UNSAFE, program="bench.unsafe")
    return turns


def copy_from_afar(place: Place, options: Options) -> Iterator[Run]:
    """The small files with a round trip of 40 ms; the kit without it as well, which says what the processors would allow.

    Nothing is promised beside the others here; `rclone-copyurl` takes part only where it is named.
    """
    far, near = place.origin("small", "static", DELAY), place.origin("small", "static")
    turns: dict[str, Turn] = {}
    if options.takes_part(US):
        turns[US] = partial(back_up, place, far, place.application(far), "delay", catalog=options.catalog)
        turns[US_NEAR] = partial(back_up, place, near, place.application(near), "delay", catalog=options.catalog, contender=US_NEAR)
    for name in ("rclone-compress", "rclone-copy", "rclone-copyurl"):
        if name in options.only or (name != "rclone-copyurl" and options.takes_part(name)):
            turns[name] = partial(run_peer, place, far, name, "delay")
    yield from in_turn(turns, options.rounds)


def copy_with_more_workers(place: Place, options: Options) -> Iterator[Run]:
    """Two fifths of the small files from far away, by one worker and by four; several machines need the catalog in PostgreSQL."""
    origin = place.origin("few", "static", HOSTS_DELAY)
    source_url = place.application(origin)
    turns: dict[str, Turn] = {
        f"{US}, {count}": partial(
            back_up,
            place,
            origin,
            source_url,
            "hosts",
            catalog="postgresql",
            workers=count,
            downloads=TRANSFERS,
            contender=f"{US}, {count}",
        )
        for count in HOSTS
    }
    yield from in_turn(turns, options.rounds)


def copy_by_hand(place: Place, options: Options) -> Iterator[Run]:
    """One large file that does not compress: the kit beside a loop that only downloads, hashes, writes and flushes."""
    origin = place.origin("incompressible", options.origin)
    # What the unsafe kit leaves to be written costs the loop's turn after it up to three times its processor time.
    turns = _ours(place, origin, replace(options, unsafe=False), "hand")
    if options.takes_part(HAND):
        turns[HAND] = partial(run_hand, place, origin, "hand")
    yield from in_turn(turns, options.rounds)


def profile_corpus(place: Place, options: Options, corpus: str, folded: Path) -> str:
    """One more turn of the kit, one worker's, looked at by py-spy: where its time went, as Markdown. Raises ProfilerMissing."""
    origin = place.origin(corpus, options.origin)
    turn = partial(
        back_up, place, origin, place.application(origin), corpus, 0, catalog=options.catalog, workers=1, downloads=TRANSFERS
    )
    run = turn(beside=lambda pid: profiled(pid, folded))
    return profile_table(folded.read_text(), files=run.files, seconds=run.used["worker-1"].cpu)


def in_turn(turns: dict[str, Turn], rounds: int) -> Iterator[Run]:
    """Round after round; who begins moves on by one in each, so that nobody is always first."""
    names = list(turns)
    for round_ in range(1, rounds + 1):
        first = (round_ - 1) % len(names)
        for name in names[first:] + names[:first]:
            yield turns[name](round_)
