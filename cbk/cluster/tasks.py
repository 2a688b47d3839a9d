"""The tasks: names and arguments are contract, ids only. Each is one call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from celery.exceptions import Reject
from celery.worker import state

from cbk.cluster import logs
from cbk.cluster.app import app
from cbk.cluster.publisher import CeleryPublisher
from cbk.cluster.worker.worker_context import catalog_outage_alert, context, unchecked_context
from cbk.errors import Busy, CbkError
from cbk.jobs.backup import backup as backup_job
from cbk.jobs.backup.backup import BackupFailure
from cbk.jobs.dump import take as dump_job
from cbk.jobs.dump import upkeep as dump_upkeep
from cbk.jobs.mirror import run as mirror_job
from cbk.jobs.poll import poll as poll_job
from cbk.jobs.poll import resync as resync_job
from cbk.jobs.retention import prune as prune_job
from cbk.jobs.status import alerts as alerts_job
from cbk.jobs.verification import drill as drill_job
from cbk.jobs.verification import scheduled as scrub_job
from cbk.jobs.verification.verify import Found
from cbk.model import Summary
from cbk.rules.cluster.messages import read_id, read_ids, read_number, read_text
from cbk.rules.text.display import as_size

PAUSE_STEP_SECONDS = 0.2
PROGRESS_SECONDS = 10.0


def _run(task: Any, name: str, work: Callable[[], Summary]) -> str:
    """Do the work, write its line, and give Flower the outcome. What the kit expects to go wrong is a line without a traceback."""
    try:
        summary = work()
    except Busy as busy:
        # To the end of its queue: this worker looks after its other queues meanwhile, and another one may have room.
        logs.get(name).debug("put back", extra={"facts": {"reason": busy.message, "task": task.request.id}})
        raise Reject(busy.message, requeue=True) from None
    except CbkError as error:
        facts = {"error": type(error).__name__, "reason": error.message, "hint": error.hint, "retryable": error.retryable}
        logs.get(name).warning("failed", extra={"facts": {"args": task.request.argsrepr, **facts, "task": task.request.id}})
        raise
    logs.write_summary(name, summary, task.request.id)
    return summary.outcome


def _pause(seconds: float) -> bool:
    """Wait, and say whether this worker is to stop."""
    until = time.monotonic() + seconds
    while (state.should_stop, state.should_terminate) == (None, None):
        left = until - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, PAUSE_STEP_SECONDS))
    return True


@app.task(bind=True, name="cbk.poll", throws=(CbkError,))
def poll(self: Any) -> str:
    """Read the application's tables and send what is due."""
    return _run(self, "poll", lambda: poll_job.poll(context(), CeleryPublisher(app), pause=_pause))


@app.task(bind=True, name="cbk.backup", throws=(CbkError,))
def backup(self: Any, file_id: int | str) -> str:
    """Back up the version of the row `file_id`."""
    return _run(self, "backup", lambda: backup_job.back_up(context(), read_id(file_id)))


@app.task(bind=True, name="cbk.backup_batch", throws=(CbkError,))
def backup_batch(self: Any, file_ids: list[int | str]) -> str:
    """Back up the versions of these rows. Each that fails has a line of its own, and comes back as a task of its own."""

    def work() -> Summary:
        done = backup_job.back_up_together(context(), read_ids(file_ids), CeleryPublisher(app))
        for failure in done.failures:
            _log_failure(failure)
        summary = backup_job.sum_up(done)
        if done.ended_by is not None:
            logs.write_summary("backup_batch", summary, self.request.id)
            raise done.ended_by
        return summary

    return _run(self, "backup_batch", work)


def _log_failure(failure: BackupFailure) -> None:
    error = failure.error
    facts: dict[str, str | None] = {"version": failure.version.label, "row": failure.version.source_id}
    if isinstance(error, CbkError):
        facts |= {"error": type(error).__name__, "reason": error.message, "hint": error.hint}
    logs.get("backup").warning("failed", extra={"facts": facts}, exc_info=None if isinstance(error, CbkError) else error)


@app.task(bind=True, name="cbk.prune", throws=(CbkError,))
def prune(self: Any, delete_id: int | str | None = None, version_id: int | None = None) -> str:
    """Prune what the delete-log row `delete_id` covers, or the replaced version `version_id`, if it is due."""

    def work() -> Summary:
        row = None if delete_id is None else read_id(delete_id)
        version = None if version_id is None else read_number(version_id)
        return prune_job.prune(context(), CeleryPublisher(app), delete_id=row, version_id=version)

    return _run(self, "prune", work)


@app.task(bind=True, name="cbk.resync", throws=(CbkError,))
def resync(self: Any, storage: str | None = None, key: str | None = None, file_id: int | str | None = None) -> str:
    """Resync one file, named by storage and key, or by the Id of one of its rows."""

    def work() -> Summary:
        row = None if file_id is None else read_id(file_id)
        return resync_job.resync(context(), CeleryPublisher(app), storage=_text(storage), key=_text(key), file_id=row)

    return _run(self, "resync", work)


@app.task(bind=True, name="cbk.verify", throws=(CbkError,))
def verify(self: Any, storage: str | None = None, key: str | None = None, prefix: str | None = None, *, quick: bool = False) -> str:
    """Read the copies again that are named; without a name, the slice of all copies that is due."""

    def work() -> Summary:
        if storage is None and key is None and prefix is None:
            return scrub_job.scrub(context(), pause=_pause, on_found=_log_found)
        named = {"storage": _text(storage), "key": _text(key), "prefix": _text(prefix)}
        return scrub_job.verify_unattended(context(), pause=_pause, on_found=_log_found, quick=quick, **named)

    return _run(self, "verify", work)


def _text(value: object) -> str | None:
    return None if value is None else read_text(value)


def _log_found(found: Found) -> None:
    logs.get("verify").warning("bad copy", extra={"facts": found.facts})


@app.task(bind=True, name="cbk.drill", throws=(CbkError,))
def drill(self: Any, *, if_due: bool = False) -> str:
    """Restore some copies for a test; with `if_due` only where CBK_DRILL_EVERY has passed since the last one."""
    return _run(self, "drill", lambda: drill_job.drill_by_worker(context(), pause=_pause, if_due=if_due))


class Progress:
    """Told of bytes: Flower shows how many came as the task's state, every so often, as long as Redis takes it."""

    def __init__(self, task: Any) -> None:
        self._task = task
        self._bytes = 0
        self._shown_at = time.monotonic()

    def __call__(self, count: int) -> None:
        """So many bytes more."""
        self._bytes += count
        if time.monotonic() - self._shown_at >= PROGRESS_SECONDS:
            self._shown_at = time.monotonic()
            try:
                self._task.send_event(f"task-{as_size(self._bytes)}", retry=False)
            except Exception:  # noqa: BLE001 - nothing waits for what is only shown
                self._shown_at = float("inf")


@app.task(bind=True, name="cbk.dump", throws=(CbkError,))
def dump(self: Any, name: str, *, if_due: bool = False) -> str:
    """Take the dump `name`; with `if_due` only if its schedule says so, and then whatever else is due for it."""

    def work() -> Summary:
        named = read_text(name)
        summary = dump_job.take_dump(context(), named, pause=_pause, if_due=if_due, on_bytes=Progress(self))
        return dump_upkeep.tidy(context(), named, pause=_pause, after=summary)

    return _run(self, "dump", work)


@app.task(bind=True, name="cbk.mirror", throws=(CbkError,))
def mirror(self: Any, name: str) -> str:
    """Bring what is new to this mirror, verify some of what is there, and remove what was pruned long ago."""
    return _run(self, "mirror", lambda: mirror_job.run_pass(context(), read_text(name), pause=_pause).summary)


@app.task(bind=True, name="cbk.watch", throws=(CbkError,))
def watch(self: Any) -> str:
    """Tell people what needs them, and the dead man's switch that all is well."""
    return _run(self, "watch", lambda: alerts_job.send_alerts(unchecked_context(), catalog_outage_alert()))
