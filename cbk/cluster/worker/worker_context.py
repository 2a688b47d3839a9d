"""The open kit of this process: made when the first task needs it, so that a prefork worker's children each open their own."""

from __future__ import annotations

import threading
from functools import cache

from cbk.jobs.context import Context, open_context
from cbk.jobs.status.alerts import CatalogOutageAlert
from cbk.settings import load_settings

_lock = threading.Lock()


@cache
def _open() -> Context:
    return open_context(load_settings())


@cache
def _checked() -> Context:
    opened = _open()
    opened.catalog.require_current()
    return opened


def context() -> Context:
    """The kit, once its catalog was seen to be of this release. Raises SettingsError, CatalogError or RootMissing."""
    with _lock:
        return _checked()


def unchecked_context() -> Context:
    """The same, for who tells people that the catalog or the disk is away. Raises SettingsError."""
    with _lock:
        return _open()


@cache
def catalog_outage_alert() -> CatalogOutageAlert:
    """What this process says while the catalog does not answer."""
    return CatalogOutageAlert()
