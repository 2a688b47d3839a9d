"""A storage round any other one, which records what is saved and deleted in the project's own transaction."""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
from collections.abc import Mapping
from typing import Any, BinaryIO

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.files.base import File
from django.core.files.storage import FileSystemStorage, Storage, storages
from django.db import DEFAULT_DB_ALIAS, connections
from django.utils.crypto import salted_hmac
from django.utils.module_loading import import_string

from cbk_app.errors import ObjectGone
from cbk_app.links import LinkApp, Links, OpeningStore, SigningStore
from cbk_app.recorder import Recorder


class BackedUpStorage(Storage):
    """Saves and deletes as `backend` with its `options` does, and writes a row for each.

    `storage` is the rows' Storage; below `links_url` the project answers permanent links (`cbk_app.django.urls`); the rows are
    written to the database `using`.
    """

    def __init__(
        self,
        *,
        storage: str,
        links_url: str,
        backend: str = "django.core.files.storage.FileSystemStorage",
        options: Mapping[str, Any] | None = None,
        using: str = DEFAULT_DB_ALIAS,
    ) -> None:
        self.inner: Any = import_string(backend)(**(options or {}))
        self.rows_storage = storage
        self.links = Links(links_url, secrets=link_secrets())
        self.using = using
        self._recorder = Recorder(storage=storage, link=self.links.for_storage(storage))

    def save(self, name: str | None, content: Any, max_length: int | None = None) -> str:
        """Save, record, and return the name under which it was saved."""
        file = content if hasattr(content, "chunks") else File(content, name)
        digest = _sha256(file)
        saved: str = self.inner.save(name, file, max_length=max_length)
        self._recorder.record_upload(
            connections[self.using], self.key(saved), hash=digest, content_type=getattr(file, "content_type", None)
        )
        return saved

    def delete(self, name: str) -> None:
        """Record the delete, then delete: should the transaction fail, the kit still has the copy."""
        with contextlib.suppress(LookupError):  # it was there before its rows were: nothing has to be forgotten
            self._recorder.record_delete(connections[self.using], self.key(name))
        self.inner.delete(name)

    def key(self, name: str) -> str:
        """The key of a file in its bucket, which may lie below a `location` there; in a folder, its path below that."""
        name = name.replace("\\", "/")
        if isinstance(self.inner, FileSystemStorage):
            return name
        return posixpath.normpath(posixpath.join(str(getattr(self.inner, "location", "")), name)).lstrip("/")

    def name(self, key: str) -> str:
        """The name of the file with this key: `key`, the other way round."""
        location = "" if isinstance(self.inner, FileSystemStorage) else str(getattr(self.inner, "location", "")).strip("/")
        return key.removeprefix(f"{location}/") if location else key

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # not there yet: it is being copied
            raise AttributeError(name)
        return getattr(self.inner, name)

    # What the base class has a version of, and the backend perhaps another.

    def _open(self, name: str, mode: str = "rb") -> Any:
        return self.inner.open(name, mode)

    def exists(self, name: str) -> bool:
        """As the backend does."""
        return bool(self.inner.exists(name))

    def listdir(self, path: str) -> tuple[list[str], list[str]]:
        """As the backend does."""
        listed: tuple[list[str], list[str]] = self.inner.listdir(path)
        return listed

    def size(self, name: str) -> int:
        """As the backend does."""
        return int(self.inner.size(name))

    def url(self, name: str | None, *arguments: Any, **named: Any) -> str:
        """As the backend does."""
        return str(self.inner.url(name, *arguments, **named))

    def path(self, name: str) -> str:
        """As the backend does."""
        return str(self.inner.path(name))

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        """As the backend does."""
        return str(self.inner.get_available_name(name, max_length))

    def get_alternative_name(self, file_root: str, file_ext: str) -> str:
        """As the backend does."""
        return str(self.inner.get_alternative_name(file_root, file_ext))

    def get_valid_name(self, name: str) -> str:
        """As the backend does."""
        return str(self.inner.get_valid_name(name))

    def generate_filename(self, filename: str) -> str:
        """As the backend does."""
        return str(self.inner.generate_filename(filename))

    def get_accessed_time(self, name: str) -> Any:
        """As the backend does."""
        return self.inner.get_accessed_time(name)

    def get_created_time(self, name: str) -> Any:
        """As the backend does."""
        return self.inner.get_created_time(name)

    def get_modified_time(self, name: str) -> Any:
        """As the backend does."""
        return self.inner.get_modified_time(name)


def backed_up(alias: str) -> BackedUpStorage:
    """The storage of this alias in STORAGES. Raise ImproperlyConfigured if it is not backed up."""
    storage = storages[alias]
    if not isinstance(storage, BackedUpStorage):
        raise ImproperlyConfigured(f"STORAGES[{alias!r}] is no cbk_app.django.storage.BackedUpStorage")
    return storage


def link_secrets() -> list[str]:
    """The secrets of permanent links: CBKAPP_LINKS_SECRETS, or what SECRET_KEY and its fallbacks make of themselves."""
    if own := getattr(settings, "CBKAPP_LINKS_SECRETS", None):
        return list(own)
    keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
    return [salted_hmac("cbk_app.links", "permanent", secret=key, algorithm="sha256").hexdigest() for key in keys]


def link_app() -> LinkApp:
    """What answers the permanent links of every storage that is backed up."""
    found = [storage for alias in settings.STORAGES if isinstance(storage := storages[alias], BackedUpStorage)]
    if not found:
        raise ImproperlyConfigured("no storage in STORAGES is a cbk_app.django.storage.BackedUpStorage")
    stores: dict[str, SigningStore | OpeningStore] = {
        each.rows_storage: _Signing(each) if _signs(each.inner) else _Opening(each) for each in found
    }
    return LinkApp(found[0].links, stores)


class _Signing:
    """A backend of django-storages, whose addresses are signed for as long as one likes."""

    def __init__(self, storage: BackedUpStorage) -> None:
        self._storage = storage

    def sign(self, key: str, seconds: int) -> str:
        return str(self._storage.inner.url(self._storage.name(key), expire=seconds))


class _Opening:
    """Any other backend: the project hands the bytes on."""

    def __init__(self, storage: BackedUpStorage) -> None:
        self._storage = storage

    def open(self, key: str) -> tuple[BinaryIO, int]:
        name = self._storage.name(key)
        try:
            file = self._storage.inner.open(name, "rb")
            return file, int(file.size)
        except (OSError, ValueError) as error:
            raise ObjectGone(f"no file {name}") from error


def _signs(backend: Any) -> bool:
    return any(cls.__module__ in {"storages.backends.s3", "storages.backends.azure_storage"} for cls in type(backend).__mro__)


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()
    for chunk in file.chunks():
        digest.update(chunk if isinstance(chunk, bytes) else chunk.encode())
    file.seek(0)
    return digest.hexdigest()
