"""Copying a corpus: the kit and its peers, in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from bench.peers import PEERS, run_peer
from bench.place import Place
from bench.results import Run
from bench.us import back_up

US = "us"
CONTENDERS = (US, *PEERS)


@dataclass(frozen=True, slots=True)
class Options:
    """How a case is run: rounds, who takes part (all where empty), where the catalog is, what stands before a worker's command."""

    rounds: int
    only: tuple[str, ...] = ()
    catalog: str = "sqlite"
    before: tuple[str, ...] = ()

    def takes_part(self, contender: str) -> bool:
        """Whether this contender was asked for."""
        return not self.only or contender in self.only


Turn = Callable[[int], Run]


def copy_corpus(place: Place, options: Options, *, case: str, corpus: str, kind: str) -> Iterator[Run]:
    """Everybody's turns at a corpus from one kind of origin."""
    origin = place.origin(corpus, kind)
    turns: dict[str, Turn] = {name: partial(run_peer, place, origin, name, case) for name in PEERS if options.takes_part(name)}
    if options.takes_part(US):
        ours = partial(back_up, place, origin, place.application(origin), case, catalog=options.catalog, before=options.before)
        turns = {US: ours} | turns
    yield from in_turn(turns, options.rounds)


def in_turn(turns: dict[str, Turn], rounds: int) -> Iterator[Run]:
    """Round after round; who begins moves on by one in each, so that nobody is always first."""
    names = list(turns)
    for round_ in range(1, rounds + 1):
        first = (round_ - 1) % len(names)
        for name in names[first:] + names[:first]:
            yield turns[name](round_)
