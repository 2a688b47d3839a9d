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


def context() -> Context:
    """The kit, checked to be of this release when it is opened. Raises SettingsError or CatalogError."""
    with _lock:
        return _open()


@cache
def catalog_outage_alert() -> CatalogOutageAlert:
    """What this process says while the catalog does not answer."""
    return CatalogOutageAlert()
