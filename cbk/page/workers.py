"""Which workers are there. They are asked in the background, so that a broker that is away holds no page up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from time import monotonic

from cbk.errors import BrokerUnavailable

EVERY_SECONDS = 15.0
# An answer counts for so long; after that nothing is known.
COUNTS_SECONDS = 60.0

# Asks the workers: how many tasks each of them is at, by its name. Raises BrokerUnavailable.
Ask = Callable[[], Mapping[str, int]]


class WorkerCounts:
    """The last answer of the workers. The asking begins with `start`, in a thread that ends with the process."""

    def __init__(self, ask: Ask, *, clock: Callable[[], float] = monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._answer: tuple[float, Mapping[str, int]] | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to ask."""
        threading.Thread(target=self._keep_asking, name="roll", daemon=True).start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    def latest(self) -> Mapping[str, int] | None:
        """How many tasks each worker was at, by name; None where nobody could be asked of late."""
        answer = self._answer
        return answer[1] if answer is not None and self._clock() - answer[0] < COUNTS_SECONDS else None

    def look(self) -> None:
        """Ask once."""
        try:
            found = self._ask()
        except BrokerUnavailable:
            self._answer = None
            return
        self._answer = (self._clock(), found)

    def _keep_asking(self) -> None:
        while not self._stopped.is_set():
            try:
                self.look()
            except Exception:  # the thread must not end while the page goes on: an answer that gets old says that nothing is known
                logging.getLogger(__name__).exception("the workers could not be asked")
            self._stopped.wait(EVERY_SECONDS)
