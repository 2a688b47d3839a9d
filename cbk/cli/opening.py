"""Opening the kit for a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cbk.jobs.kit import Kit, open_kit
from cbk.settings import load_settings


@contextmanager
def opened(config: Path | None) -> Iterator[Kit]:
    """The kit for one command. Raises SettingsError."""
    kit = open_kit(load_settings(config))
    try:
        yield kit
    finally:
        kit.close()
