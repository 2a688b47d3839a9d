"""What a worker does about its memory, before it works."""

import gc
import weakref
from types import SimpleNamespace

import pytest
from celery import signals

from cbk.cluster.worker import gc_tuning


@pytest.fixture
def collector():
    """As it was, afterwards."""
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


class Cycle:
    def __init__(self):
        self.itself = self


# Others listen to these signals, too, and need a worker for it.
@pytest.mark.parametrize("signal", [signals.worker_ready, signals.worker_before_create_process], ids=["threads", "prefork"])
def test_collector_is_told_by_what_begins_either_kind_of_worker(signal):
    assert gc_tuning.spare_what_stays in [receiver() for _, receiver in signal.receivers]


@pytest.mark.usefixtures("collector")
def test_what_is_there_is_out_of_the_collectors_sight():
    kept = Cycle()
    gc_tuning.spare_what_stays()
    assert not any(each is kept for each in gc.get_objects())
    assert gc.get_threshold()[0] == gc_tuning.YOUNG_OBJECTS


@pytest.mark.usefixtures("collector")
def test_garbage_of_the_start_goes_before():
    gone = weakref.ref(Cycle())
    gc_tuning.spare_what_stays()
    assert gone() is None


@pytest.mark.parametrize("library", [SimpleNamespace(mallopt=None), SimpleNamespace()], ids=["glibc", "musl"])
def test_threads_of_a_worker_share_arenas_where_the_library_has_them(library, monkeypatch):
    assert gc_tuning.share_arenas in [receiver() for _, receiver in signals.worker_init.receivers]
    asked = []
    if hasattr(library, "mallopt"):
        library.mallopt = lambda *arguments: asked.append(arguments)
    monkeypatch.setattr(gc_tuning.ctypes, "CDLL", lambda _: library)
    gc_tuning.share_arenas()
    assert asked == ([(-8, 2)] if hasattr(library, "mallopt") else [])
