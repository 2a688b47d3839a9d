"""The open kit of this process: made when the first task needs it, so that a prefork worker's children each open their own."""

from __future__ import annotations

import threading
from functools import cache

from cbk.jobs.kit import Kit, open_kit
from cbk.jobs.watch import LastWords
from cbk.settings import load_settings

_lock = threading.Lock()


@cache
def _open() -> Kit:
    return open_kit(load_settings())


def kit() -> Kit:
    """The kit, checked to be of this release when it is opened. Raises SettingsError or CatalogError."""
    with _lock:
        return _open()


@cache
def last_words() -> LastWords:
    """What this process says while the catalog does not answer."""
    return LastWords()
