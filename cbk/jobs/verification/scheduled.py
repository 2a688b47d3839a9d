"""Verification by a worker, when nobody waits for it: a slice of all copies at a time, at a bounded rate, by one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from time import monotonic

from cbk.edges.catalog import Scope
from cbk.errors import CbkError, LeaseLost
from cbk.jobs.context import Context
from cbk.jobs.verification.pacer import Pacer, Pause, alone
from cbk.jobs.verification.verify import OnFound, Task, Verified, choose, verify
from cbk.model import Summary, Version
from cbk.rules.verification import STAY, may_read, slice_interval

VERIFY_LEASE = "verify"
# Who found a bad copy, in its evidence.
BY = "cbk.verify"
# How finely the times at which copies were read are told apart for the pace: a hundredth of CBK_VERIFY_EVERY.
BATCHES = 100
_SKIPPED = Summary(outcome="skipped", facts={"reason": "another verification is at work"})


def verify_unattended(
    context: Context,
    *,
    pause: Pause,
    on_found: OnFound = lambda _found: None,
    storage: str | None = None,
    key: str | None = None,
    prefix: str | None = None,
    quick: bool = False,
) -> Summary:
    """Verify the copies that `storage`, `key` and `prefix` name: gently, one reader and one verification at a time.

    `pause(seconds)` waits and says whether the worker is to stop; then this ends before its time, and what was read counts.
    """
    with alone(context, VERIFY_LEASE) as leases:
        if leases is None:
            return _SKIPPED
        pacer = Pacer(context, leases, VERIFY_LEASE, pause, rate=context.settings.verify_rate)
        task = choose(context, storage=storage, key=key, prefix=prefix)
        return verify(context, task, by=BY, quick=quick, readers=1, on_found=on_found, on_read=pacer).summary


def scrub(context: Context, *, pause: Pause, on_found: OnFound = lambda _found: None) -> Summary:
    """Verify the slice that is due of all copies, longest unread first. `pause` as in `verify_unattended`.

    Raises what `verify` does, after noting the problem for `status`.
    """
    if not context.settings.verify_every:
        return Summary(outcome="nothing to do", facts={"reason": "CBK_VERIFY_EVERY is 0"})
    with alone(context, VERIFY_LEASE) as leases:
        if leases is None:
            return _SKIPPED
        try:
            verified = _read_slice(
                context, Pacer(context, leases, VERIFY_LEASE, pause, rate=context.settings.verify_rate), on_found
            )
        except LeaseLost:
            raise
        except CbkError as error:
            context.catalog.facts.set(**{"verify.problem": error.message})
            raise
        context.catalog.facts.set(**{"verify.problem": None})
        return verified.summary


def _read_slice(context: Context, pacer: Pacer, on_found: OnFound) -> Verified:
    catalog, every = context.catalog, context.settings.verify_every
    now = catalog.database.now()
    credit = int(catalog.facts.get("verify.credit") or 0)
    limit = may_read(catalog.verification.batches(every / BATCHES), credit=credit, now=now, every=every)
    chosen = _Chosen(catalog.verification.copies(Scope(before=now)), limit, stay=slice_interval(every) * STAY)
    verified = verify(context, Task(versions=chosen), by=BY, readers=1, on_found=on_found, on_read=pacer)
    catalog.facts.set(**{"verify.credit": str(max(limit - verified.size, 0))})
    return verified


class _Chosen:
    """Copies for as long as they fit into `limit` bytes, and the time of the slice is not over."""

    def __init__(self, versions: Iterable[Version], limit: int, *, stay: timedelta) -> None:
        self._versions = versions
        self._limit = limit
        self._until = monotonic() + stay.total_seconds()

    def __iter__(self) -> Iterator[Version]:
        size = 0
        for version in self._versions:
            size += version.stored_size or 0
            if size > self._limit or monotonic() >= self._until:
                return
            yield version
