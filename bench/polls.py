"""Polls without a worker around them: `python -m bench.polls COUNT` polls so often, after one for practice unless COUNT is 0.

Prints one JSON object: the `polls`, their `seconds`, their `cpu` (seconds of a processor, this process alone), the peak of `memory`
in bytes, and how many rows were `read` and `new`. With COUNT 0 it is the first poll alone that is measured. Messages go to the real
broker, where nobody takes them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import closing

from bench.watch import high_water_mark
from cbk.cluster.app import app
from cbk.cluster.publisher import CeleryPublisher
from cbk.jobs.context import open_context
from cbk.jobs.poll.poll import poll
from cbk.settings import load_settings


def main() -> int:
    count = int(sys.argv[1])
    publisher = CeleryPublisher(app)
    with closing(open_context(load_settings())) as context:
        if count:
            poll(context, publisher, pause=_stop)
        begun, worked = time.perf_counter(), time.process_time()
        facts = [poll(context, publisher, pause=_stop).facts for _ in range(max(count, 1))]
        seconds, cpu = time.perf_counter() - begun, time.process_time() - worked
    counted = {name: sum(int(str(each[name])) for each in facts) for name in ("read", "new")}
    print(json.dumps({"polls": len(facts), "seconds": seconds, "cpu": cpu, "memory": high_water_mark(os.getpid())} | counted))
    return 0


def _stop(_seconds: float) -> bool:
    """A worker that is to end: the poll does not stay to keep the window full."""
    return True


if __name__ == "__main__":
    sys.exit(main())
