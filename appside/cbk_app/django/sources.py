"""What the commands need of a project: the store behind a storage, and its database as SQLAlchemy has it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.files.storage import FileSystemStorage
from django.db import connections
from sqlalchemy import URL, Engine, create_engine

from cbk_app.django.storage import BackedUpStorage
from cbk_app.stores import sdk
from cbk_app.stores.folder import FolderStore
from cbk_app.stores.store import Store

_DRIVERS = {"postgresql": ("psycopg", "psycopg2"), "mysql": ("MySQLdb", "pymysql")}
_SQLALCHEMY_NAMES = {"MySQLdb": "mysqldb"}


def store_of(storage: BackedUpStorage) -> Store:
    """The bucket, container or folder behind a storage. Raise ImproperlyConfigured for a backend that cannot be listed."""
    inner = storage.inner
    if isinstance(inner, FileSystemStorage):
        return FolderStore(Path(inner.location))
    modules = {cls.__module__ for cls in type(inner).__mro__}
    if "storages.backends.s3" in modules:
        found: Store = sdk("cbk_app.stores.s3", "s3").S3Store(inner.bucket_name, client=inner.connection.meta.client)
        return found
    if "storages.backends.azure_storage" in modules:
        azure: Any = sdk("cbk_app.stores.azure", "azure")
        blobs: Store = azure.AzureStore(inner.account_name, inner.azure_container, key=inner.account_key)
        return blobs
    raise ImproperlyConfigured(f"{type(inner).__qualname__} cannot be listed; use cbk-app with its bucket")


def engine_of(alias: str) -> Engine:
    """The database of this alias. Raise ImproperlyConfigured for one that is neither PostgreSQL, MySQL nor SQLite."""
    connection = connections[alias]
    about: dict[str, Any] = connection.settings_dict
    if connection.vendor == "sqlite":
        return create_engine(URL.create("sqlite", database=str(about["NAME"])))
    drivers = [name for name in _DRIVERS.get(connection.vendor, ()) if importlib.util.find_spec(name)]
    if not drivers:
        raise ImproperlyConfigured(f"no rows can be written to a database of the kind {connection.vendor}")
    options = {name: str(value) for name, value in about.get("OPTIONS", {}).items() if isinstance(value, str | int)}
    return create_engine(
        URL.create(
            f"{connection.vendor}+{_SQLALCHEMY_NAMES.get(drivers[0], drivers[0])}",
            username=about["USER"] or None,
            password=about["PASSWORD"] or None,
            host=about["HOST"] or None,
            port=int(about["PORT"]) if about["PORT"] else None,
            database=about["NAME"],
            query=options,
        )
    )
