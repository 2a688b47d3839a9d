"""A folder of files, such as an application's uploads on its own disk. It has no links: permanent links give out the bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from cbk_app.errors import AppUsageError, ObjectGone, StoreError
from cbk_app.stores.store import CHUNK_BYTES, StoredObject


class FolderStore:
    """The files below `root`; a key is a file's path relative to it, with slashes."""

    def __init__(self, root: Path) -> None:
        self.name = root.name
        self._root = root.resolve()

    def objects(self, prefix: str = "") -> Iterator[StoredObject]:
        """See Store. Links to elsewhere are not followed."""
        if not self._root.is_dir():
            raise StoreError(f"no folder {self._root}", hint="is its disk mounted?")
        for folder, folders, files in os.walk(self._root, onerror=_refuse):
            folders.sort()
            for name in sorted(files):
                path = Path(folder, name)
                key = path.relative_to(self._root).as_posix()
                if key.startswith(prefix) and not path.is_symlink():
                    yield self._stored(key, path)

    def sha256(self, found: StoredObject) -> str | None:
        """None: a folder keeps no checksums."""
        del found
        return None

    def read(self, found: StoredObject) -> Iterator[bytes]:
        """See Store."""
        body, _ = self.open(found.key)
        with body:
            while chunk := body.read(CHUNK_BYTES):
                yield chunk

    def put(self, key: str, content: BinaryIO, content_type: str) -> None:
        """See Store: under another name first, so that nobody reads half of it."""
        del content_type
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.new")
        with draft.open("wb") as file:
            shutil.copyfileobj(content, file)
        draft.replace(path)

    def sign(self, key: str, seconds: int) -> str:
        """A folder has no links of its own."""
        del key, seconds
        raise AppUsageError("a folder signs no links", hint="give --links, where the application answers permanent ones")

    def open(self, key: str) -> tuple[BinaryIO, int]:
        """The file, and its size. Raise ObjectGone if it is not there, or elsewhere."""
        try:
            path = (self._root / key).resolve()
            if not path.is_relative_to(self._root) or not path.is_file():
                raise ObjectGone(f"no file {key}")
            return path.open("rb"), path.stat().st_size
        except (OSError, ValueError) as error:
            raise ObjectGone(f"no file {key}") from error

    def _stored(self, key: str, path: Path) -> StoredObject:
        about = path.stat()
        return StoredObject(key=key, size=about.st_size, etag="", modified=datetime.fromtimestamp(about.st_mtime, tz=UTC))


def _refuse(error: OSError) -> None:
    """What cannot be read is never nothing."""
    raise StoreError(f"cannot read {error.filename}: {error.strerror}", hint="may this user read the folder?") from error
