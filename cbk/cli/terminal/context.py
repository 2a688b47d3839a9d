"""Opening the kit for a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cbk.jobs.context import Context, open_context
from cbk.settings import load_settings


@contextmanager
def opened(config: Path | None) -> Iterator[Context]:
    """The kit for one command. Raises SettingsError."""
    context = open_context(load_settings(config))
    try:
        yield context
    finally:
        context.close()
