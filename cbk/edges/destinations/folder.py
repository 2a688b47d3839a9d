"""Restoring to a folder, on any disk that this machine can mount.

A file comes in under a name that no restored file can have, is flushed to the disk, and only then gets its own: whatever is killed,
under a file's name there is the whole file or what was there before. Every folder on the way is entered without following symbolic
links, so that a planted one leads nowhere.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from cbk.errors import DestinationError, DestinationUnavailable
from cbk.model import RestoreItem

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE_BYTES = 1024 * 1024

# What file systems without hard links answer to link(2); EPERM is FAT's.
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
# What network file systems answer to fsync(2) of a folder.
_NO_SYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF})

_AGAIN = "then run the same command again: what is restored already is skipped"
_UNAVAILABLE: dict[int, str] = {
    errno.ENOSPC: f"make room there, {_AGAIN}",
    errno.EDQUOT: f"raise the quota there, {_AGAIN}",
    errno.EROFS: "mount it so that it can be written to, or choose another folder",
    errno.EIO: "the disk fails: see the system's log (dmesg), and choose another one",
    errno.ENODEV: f"connect the disk, {_AGAIN}",
    errno.ENXIO: f"connect the disk, {_AGAIN}",
    errno.ESTALE: f"mount the share again, {_AGAIN}",
}
_FOLDER_HINTS: dict[int, str] = {
    errno.EACCES: "restore as a user who may write there, or choose another folder",
    errno.EPERM: "restore as a user who may write there, or choose another folder",
    errno.ELOOP: "there is a symbolic link on the way, and none is followed; choose an empty folder",
    errno.ENOTDIR: "there is a file or a symbolic link where a folder should be; choose an empty folder",
    errno.EISDIR: "there is a folder of that name; choose an empty folder",
    errno.EFBIG: "the file system there cannot hold a file of this size; FAT32 ends at 4 GiB",
    errno.EINVAL: "the file system there has no such names; choose a folder on a Linux one, or object storage",
    errno.EILSEQ: "the file system there has no such names; choose a folder on a Linux one, or object storage",
    errno.ENAMETOOLONG: "the file system there has no names of this length; choose a folder on another one",
}


class FolderDestination:
    """`folder`, which is made with the first file. A file of another content is replaced only with `overwrite`.

    One restore at a time works in a folder, and nobody moves what is in it meanwhile. For any number of threads.
    """

    keeps_properties = False

    def __init__(self, folder: Path, *, overwrite: bool = False) -> None:
        self.folder = folder
        self._overwrite = overwrite
        self._opening = threading.Lock()
        self._root: int | None = None
        self._token = ""
        # By thread, the folder that it went to last, and a descriptor of it: the next file is often in the same.
        self._kept: dict[int, tuple[str, int]] = {}

    def may_mistake(self, item: RestoreItem) -> bool:  # noqa: ARG002 - the protocol's signature
        """Never: the names of all that is restored were compared before."""
        return False

    def holds(self, item: RestoreItem) -> bool:
        """Whether the file is there already with the right bytes, all of which are read.

        Raises DestinationError where something else is there and may not be replaced.
        """
        with _target_errors(f"read {item.path!r}"):
            try:
                if _has(self._parent(item.path), _name(item.path), item):
                    return True
            except FileNotFoundError:
                return False
        if not self._overwrite:
            raise _already_there(item)
        return False

    def write(self, item: RestoreItem, chunks: Iterable[bytes]) -> None:
        """Put the file there, whole and flushed to the disk, or not at all.

        Raises DestinationError; DestinationUnavailable: no other file would fare better. What the iteration of `chunks` raises
        passes through.
        """
        self._open()
        content = iter(chunks)
        first = next(content, b"")  # a copy that cannot be read at all leaves no folders behind
        temporary = self._temporary(item.path)
        with _target_errors(f"write {item.path!r}"):
            folder, descriptor = self._create(item.path, temporary)
            try:
                _write_all(descriptor, first)
                for chunk in content:
                    _write_all(descriptor, chunk)
                os.fsync(descriptor)
                self._publish(folder, temporary, item)
            finally:
                os.close(descriptor)
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
            _sync_folder(folder)

    def close(self) -> None:
        """Let another restore work in the folder. Called once no thread writes any more."""
        while self._kept:
            os.close(self._kept.popitem()[1][1])
        if self._root is not None:
            os.close(self._root)
            self._root = None

    def folds_names(self) -> bool:
        """Whether the disk takes two names for one, as those of Windows and macOS do: `A` and `a`, or two ways to write `é`.

        Found out by trying. Makes the folder. Raises DestinationUnavailable where nothing can be written there.
        """
        root = self._open()
        probe = f".cbk-probe~{uuid4().hex * 2}"
        with _target_errors(f"write to {self.folder}", always_unavailable=True):
            if _is_one_name(root, probe, probe.upper()):
                return True
        with contextlib.suppress(OSError):  # a disk that has no such names
            return _is_one_name(root, f"\u00e9{probe}", f"e\u0301{probe}")
        return False

    def is_within(self, folder: Path) -> bool:
        """Whether it is `folder`, or lies in it, whatever symbolic links lead there."""
        return self.folder.resolve().is_relative_to(folder.resolve())

    def contains(self, folder: Path) -> bool:
        """Whether `folder` lies in it, whatever symbolic links lead there."""
        return folder.resolve().is_relative_to(self.folder.resolve())

    # ---- within --------------------------------------------------------------------------------------------------------------

    def _open(self) -> int:
        """A descriptor of the folder, made and locked. Raises DestinationUnavailable."""
        with self._opening, _target_errors(f"use {self.folder}", always_unavailable=True):
            if self._root is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                root = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    self._token = self._lock(root)
                except DestinationUnavailable:
                    os.close(root)
                    raise
                self._root = root
            return self._root

    def _lock(self, root: int) -> str:
        """What the names of unfinished files differ in from those of other restores: nothing, where there can be no other one."""
        try:
            fcntl.flock(root, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DestinationUnavailable(
                f"another restore is at work in {self.folder}", hint="wait for its end, or choose another folder"
            ) from None
        except OSError:  # NFS locks no folders
            return f"-{uuid4().hex[:16]}"
        return ""

    def _create(self, path: str, temporary: str) -> tuple[int, int]:
        """The folder that `path` lies in, as `_parent` gives it, and a new file `temporary` there, to be written."""
        folder = self._parent(path, create=True)
        try:
            return folder, os.open(temporary, _CREATE_FLAGS, 0o666, dir_fd=folder)
        except FileExistsError:  # of a restore that was killed
            os.unlink(temporary, dir_fd=folder)
        except FileNotFoundError:  # somebody has removed the folder since
            self._leave()
            folder = self._parent(path, create=True)
        return folder, os.open(temporary, _CREATE_FLAGS, 0o666, dir_fd=folder)

    def _parent(self, path: str, *, create: bool = False) -> int:
        """A descriptor of the folder that `path` lies in, until this thread's next call; with `create`, what is missing on the way
        is made.
        """
        folder = path.rpartition("/")[0]
        kept = self._kept.get(threading.get_ident())
        if kept and kept[0] == folder:
            return kept[1]
        self._leave()
        descriptor = self._enter(folder, create=create)
        self._kept[threading.get_ident()] = folder, descriptor
        return descriptor

    def _leave(self) -> None:
        """Close the folder that this thread went to last."""
        _, descriptor = self._kept.pop(threading.get_ident(), ("", None))
        if descriptor is not None:
            os.close(descriptor)

    def _enter(self, folder: str, *, create: bool) -> int:
        """A descriptor of `folder`, for the caller to close."""
        # Once it is open, it is the same folder to the end, even where its disk is taken away.
        root = "." if self._root is not None else self.folder
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root)
        for segment in folder.split("/") if folder else ():
            above = descriptor
            try:
                if create:
                    _make_folder(above, segment)
                descriptor = os.open(segment, _FOLDER_FLAGS, dir_fd=above)
            finally:
                os.close(above)
        return descriptor

    def _temporary(self, path: str) -> str:
        """The name of an unfinished file: always the same, so that the next restore takes away what a killed one left.

        No restored file is called like this: where a key ends in "~" and 64 digits, rules/intake/layout.py spells it otherwise.
        """
        return f".cbk-part{self._token}~{hashlib.sha256(f'part of {path}'.encode()).hexdigest()}"

    def _publish(self, folder: int, temporary: str, item: RestoreItem) -> None:
        name = _name(item.path)
        if self._overwrite:
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            return
        try:
            os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            raise _already_there(item) from None
        except OSError as exc:
            if exc.errno not in _NO_LINKS:
                raise
            if _exists(folder, name):
                raise _already_there(item) from None
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def _already_there(item: RestoreItem) -> DestinationError:
    return DestinationError(
        f"something else is there already: {item.path!r}", hint="restore to an empty folder, or add --overwrite"
    )


@contextmanager
def _target_errors(doing: str, *, always_unavailable: bool = False) -> Iterator[None]:
    """Turn every OSError into a DestinationError. `doing` completes the sentence "cannot ..."."""
    try:
        yield
    except OSError as exc:
        number = exc.errno or 0
        message = f"cannot {doing}: {os.strerror(number).lower()} ({errno.errorcode.get(number, 'no error number')})"
        hint = _UNAVAILABLE.get(number) or _FOLDER_HINTS.get(number)
        kind = DestinationUnavailable if always_unavailable or number in _UNAVAILABLE else DestinationError
        raise kind(message, hint=hint) from exc


# ---- the file system ---------------------------------------------------------------------------------------------------------


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _has(folder: int, name: str, item: RestoreItem) -> bool:
    """Whether `name` is a file with the item's bytes. Raises FileNotFoundError."""
    entry = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(entry.st_mode) or entry.st_size != item.size:
        return False
    descriptor = os.open(name, _OPEN_FLAGS, dir_fd=folder)
    try:
        digest = hashlib.sha256()
        while data := os.read(descriptor, _PIECE_BYTES):
            digest.update(data)
    finally:
        os.close(descriptor)
    return digest.hexdigest() == item.sha256


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _is_one_name(folder: int, name: str, other: str) -> bool:
    """Whether a file that is made as `name` is there as `other`, too."""
    os.close(os.open(name, _CREATE_FLAGS, 0o600, dir_fd=folder))
    try:
        return _exists(folder, other)
    finally:
        os.unlink(name, dir_fd=folder)


def _make_folder(parent: int, segment: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(segment, dir_fd=parent)
        _sync_folder(parent)


def _sync_folder(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in _NO_SYNC:
            raise


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
