"""Tell people once of what goes on for long."""

from __future__ import annotations

from datetime import timedelta

from cbk.jobs.kit import Kit

# After a message that no service took, or a worker that died while it sent one.
TRY_AGAIN_AFTER = timedelta(minutes=15)


def tell_once(kit: Kit, key: str, subject: str, text: str) -> bool:
    """Tell what `key` stands for, unless that was told before and not forgotten since; whether it was told now.

    Of several workers one sends. What no service took is tried again by a later call. Raises CatalogError.
    """
    name = _name(key)
    if not kit.notifier.is_configured or kit.catalog.facts.get(name) is not None:
        return False
    lease = kit.catalog.leases.for_one()
    if not lease.acquire(name, TRY_AGAIN_AFTER):
        return False
    # Between the first look and the lease another worker may have told it.
    told = kit.catalog.facts.get(name) is None
    if told and not kit.notifier.notify(subject, text):
        return False  # the lease stays: it is what makes the next try wait
    if told:
        kit.catalog.facts.set(**{name: kit.catalog.database.now().isoformat()})
    lease.release(name)
    return told


def forget(kit: Kit, key: str) -> None:
    """It is over: should it come again, it is told again. Raises CatalogError."""
    if kit.catalog.facts.get(_name(key)) is not None:
        kit.catalog.facts.set(**{_name(key): None})


def _name(key: str) -> str:
    return f"told.{key}"
