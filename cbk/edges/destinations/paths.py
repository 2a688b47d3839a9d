"""The paths of one restore, kept outside of memory: which of them several files want, and which lead to others."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cbk.errors import DestinationUnavailable

# Weights: a path that a file wants is contested from 2 on, and one that no file wants is a multiple of a folder's.
_FILE, _FOLDER = 1, 2**31


class WantedPaths:
    """What `layout.contested_paths` says, for any number of paths in flat memory. `same` maps paths that are one on the target
    to one text. For one thread.
    """

    def __init__(self, same: Callable[[str], str] = str) -> None:
        self._same = same
        self._last_folder = ""
        self._any_contested: bool | None = None  # nothing is known
        # An empty name is a file of SQLite's own in the folder of temporary files, which is gone when it is closed.
        self._database = sqlite3.connect("", isolation_level=None)
        with _errors():
            self._database.execute("PRAGMA journal_mode=OFF")
            self._database.execute("CREATE TABLE wanted (path TEXT PRIMARY KEY, weight INTEGER NOT NULL) WITHOUT ROWID")

    def add(self, path: str) -> None:
        """A file wants this path. Raises DestinationUnavailable where there is no room for temporary files."""
        key = self._same(path)
        folder = key.rpartition("/")[0]
        self._any_contested = None
        with _errors():
            self._weigh(key, _FILE)
            if folder != self._last_folder:
                self._last_folder = folder
                while folder:
                    self._weigh(folder, _FOLDER)
                    folder = folder.rpartition("/")[0]

    def is_contested(self, path: str) -> bool:
        """Whether another file wants this path as well, or a path that leads through it."""
        with _errors():
            if self._any_contested is None:
                question = "SELECT EXISTS (SELECT * FROM wanted WHERE weight > ? AND weight % ? > 0)"
                self._any_contested = bool(self._database.execute(question, (_FILE, _FOLDER)).fetchone()[0])
            if not self._any_contested:  # nearly always: then not each path has to be asked for
                return False
            row = self._database.execute("SELECT weight FROM wanted WHERE path = ?", (self._same(path),)).fetchone()
        return row is not None and row[0] > _FILE

    def close(self) -> None:
        """Forget them."""
        self._database.close()

    def _weigh(self, key: str, weight: int) -> None:
        self._database.execute(
            "INSERT INTO wanted VALUES (?, ?) ON CONFLICT (path) DO UPDATE SET weight = weight + excluded.weight", (key, weight)
        )


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        hint = "make room in the folder of temporary files (TMPDIR, /var/tmp)"
        raise DestinationUnavailable(f"the list of paths cannot be kept: {exc}", hint=hint) from exc
