"""The memory of a worker: what Python's garbage collector looks at, and how much the C library keeps aside for threads.

Before its first task a worker has a hundred thousand objects of Celery's, kombu's and SQLAlchemy's. The collector would walk all of
them with each full collection, to find nothing: they stay, and tasks leave few cycles behind.
"""

from __future__ import annotations

import ctypes
import gc

from celery import signals

# So many objects were made and not freed when the youngest are looked through; Python's own 700 come with a few files already.
YOUNG_OBJECTS = 10_000
# glibc has an arena for each of the first threads, which keeps the most that it ever had. Python runs one thread at a time.
ARENAS = 2
_M_ARENA_MAX = -8  # <malloc.h>


@signals.worker_init.connect
def share_arenas(**_signal: object) -> None:
    """Have all threads allocate from a few arenas, in processes that are forked from here as well. Nothing on other C libraries."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)


# Threads work in the process that is ready. Those of a prefork pool are made before that, out of what there is by then: their own
# collectors do not write to its pages, which so stay shared.
@signals.worker_before_create_process.connect
@signals.worker_ready.connect
def spare_what_stays(**_signal: object) -> None:
    """Put what is there now out of the collector's sight, and have it look at the rest less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
