"""The process that dies: beat and a worker's threads in one, on the settings of a site."""

import ctypes
import os
import signal
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, zip_longest
from multiprocessing import get_context

from cbk.edges import host
from cbk.edges.archive import archive
from cbk.errors import CbkError
from cbk.jobs.backup.backup import back_up, back_up_together, sum_up
from cbk.jobs.context import open_context
from cbk.jobs.poll.poll import poll
from cbk.jobs.retention.prune import prune
from cbk.jobs.verification.verify import choose, verify
from cbk.settings import Settings
from tests.faults.disks import pull_plug
from tests.faults.steps import before_step
from tests.in_process_site import CollectingPublisher

DONE = "done"
GO = signal.SIGUSR1
UNKNOWN = "not an error of the kit"
_PATIENCE_SECONDS = 60
BATCHES = (1, 3, 1, 6)
_PR_SET_PTRACER = 0x59616D61  # <linux/prctl.h>


@contextmanager
def process(target, *arguments):
    """A process that runs `target(connection, *arguments)`, forked from one that has everything imported; killed at the end."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    ours, theirs = context.Pipe()
    child = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    child.start()
    theirs.close()
    try:
        yield child, ours
    finally:
        child.kill()
        child.join()
        ours.close()


def work(connection, settings, threads, step=None, batches=BATCHES):
    """Poll, and do all that is due, until it is done or this process dies. Tells how each task ended, then DONE.

    With `step`, the plug is pulled there, and this process dies in the same instant. `batches` is how many files share a message,
    each number in turn.
    """
    _ignore_advice()
    if step is None:  # else the flush that a copy's reader makes would hide that its writer's is missing
        _call_large_what_a_scene_has()
    context, publisher = open_context(Settings(**settings)), CollectingPublisher()
    telling = threading.Lock()

    def one(task):
        said = how_it_goes(lambda: do(context, publisher, task))
        with telling:
            connection.send(said)

    if step is not None:
        before_step(step, lambda: die_without_power(settings["backup_root"]))
    connection.send(how_it_goes(lambda: poll(context, publisher, pause=lambda _: True)))
    tasks = zip_longest(share_out(publisher.take(), batches), [removal for removal, _ in publisher.prunes])
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, [task for pair in tasks for task in pair if task is not None]))
    connection.send(DONE)


def share_out(row_ids, sizes=BATCHES):
    """In lists of these sizes by turns."""
    left, sizes = list(row_ids), cycle(sizes)
    while left:
        size = next(sizes)
        yield left[:size]
        del left[:size]


def do(context, publisher, task):
    """Back up rows, given by their Ids, or carry out a removal."""
    if isinstance(task, list):
        return back_up(context, task[0]) if len(task) == 1 else _back_up_together(context, task)
    return prune(context, publisher, delete_id=task.delete_id, version_id=task.version_id)


def how_it_goes(job):
    """Do it; gives its outcome, or the error's type and message."""
    try:
        return job().outcome
    except CbkError as error:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - the report is about whatever comes out
        return f"{UNKNOWN}: {traceback.format_exc()}"


def _ignore_advice():
    """As a kernel may. Linux takes it for a reason to write early what was never flushed, which hides a missing flush."""
    os.posix_fadvise = lambda *_: None
    archive._begin_writeback = lambda _: None


def _call_large_what_a_scene_has():
    """Some copies are read back while they come, as those of 64 MiB are. Not where calls are counted: these have no order."""
    archive._READBACK_FROM_BYTES, archive._READBACK_STEP_BYTES, archive._READBACK_GAP_BYTES = 128 * 1024, 64 * 1024, 4 * 1024


def die_without_power(root):
    """The plug is pulled, and nothing else happens in this process."""
    pull_plug(root)
    os.kill(os.getpid(), signal.SIGKILL)


def act(connection, settings, job, *arguments):
    """Do one job once told to, and tell how it went: an outcome, or the error's type and message.

    What is opened once per process is open before, so that what follows is the job's own calls and nothing else.
    """
    _ignore_advice()
    host.clock_is_kept = lambda: False  # it looks at every process of the machine: no two runs would make the same calls
    context = open_context(Settings(**settings))
    context.require_disk()
    context.catalog.facts.all()
    context.source.row("0")
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)  # where only parents may trace, anybody may trace this
    signal.pthread_sigmask(signal.SIG_BLOCK, {GO})
    connection.send(os.getpid())
    # Unlike a read from the pipe, it is no call that a fault could be meant for.
    if signal.sigtimedwait({GO}, _PATIENCE_SECONDS) is None:
        return  # whoever started this is dead
    connection.send(how_it_goes(lambda: JOBS[job](context, *arguments)))


def _poll(context):
    return poll(context, CollectingPublisher(), pause=lambda _: True)


def _prune(context, delete_id):
    return prune(context, CollectingPublisher(), delete_id=delete_id)


def _back_up_together(context, row_ids):
    """As a worker does with a batch; what went wrong with one of them is raised in the end."""
    done = back_up_together(context, row_ids)
    done.raise_first()
    return sum_up(done)


def _verify(context):
    return verify(context, choose(context), by="a test").summary


JOBS = {"back_up": back_up, "back_up_together": _back_up_together, "poll": _poll, "prune": _prune, "verify": _verify}
