"""Whether a worker has gone deaf: work waits in Redis, it has hands free, and still it takes none."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

# A single look may fall between a message that comes and the worker that takes it.
LOOKS = 3


class Act(StrEnum):
    """What a worker is to do about itself."""

    NOTHING = "nothing"
    # Begin a connection to Redis anew; what is under way goes on.
    RECONNECT = "connects again"
    # Finish what is under way, then end with an error: whoever started the process starts another one.
    STOP = "stops"
    # End at once: it does not even stop.
    END = "ends"


_LADDER = (Act.RECONNECT, Act.STOP, Act.END)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerState:
    """How things are `at` seconds of a clock that only goes forward.

    `waiting` messages are in the queues that this worker serves, `taken` is how many it took since it started, and `free` how many
    more jobs it could do at once.
    """

    at: float
    waiting: int
    taken: int
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """What the looks before have shown: since when nothing was taken that could have been, and how often that was acted on."""

    taken: int = 0
    since: float | None = None
    looks: int = 0
    tried: int = 0


def judge(look: ConsumerState | None, silence: Silence, *, patience: timedelta) -> tuple[Act, Silence]:
    """What is to be done, and what to remember. No look: Redis does not answer, and nothing can be taken from it.

    Each time that the silence lasts for another `patience`, the next graver thing is done.
    """
    if look is None:
        return Act.NOTHING, Silence(taken=silence.taken)
    if look.taken != silence.taken or look.waiting == 0 or look.free <= 0:
        return Act.NOTHING, Silence(taken=look.taken)
    since = look.at if silence.since is None else silence.since
    looks = silence.looks + 1
    if looks < LOOKS or look.at - since < patience.total_seconds():
        return Act.NOTHING, Silence(taken=look.taken, since=since, looks=looks, tried=silence.tried)
    act = _LADDER[min(silence.tried, len(_LADDER) - 1)]
    return act, Silence(taken=look.taken, tried=silence.tried + 1)
