"""Where the objects are. Each store needs the SDK of its own extra: `cloud-backup-kit-app[s3]`, `[azure]`, `[gcs]`."""

from __future__ import annotations

import importlib
from typing import Any
from urllib.parse import urlsplit

from cbk_app.errors import AppUsageError
from cbk_app.stores.store import Store


def open_store(url: str, *, endpoint: str | None = None) -> Store:
    """The store at `s3://bucket` or `azure://account/container`, with the SDK's own way to find credentials.

    `endpoint` is the address of an S3 service that is not Amazon's, or of an Azure that is not the public one.
    Raise AppUsageError for another address, and if the SDK is not installed.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3" and parts.netloc and parts.path.strip("/") == "":
        store: Store = sdk("cbk_app.stores.s3", "s3").S3Store(parts.netloc, endpoint=endpoint)
        return store
    container = parts.path.strip("/")
    if parts.scheme == "azure" and parts.netloc and container and "/" not in container:
        blobs: Store = sdk("cbk_app.stores.azure", "azure").AzureStore(parts.netloc, container, endpoint=endpoint)
        return blobs
    raise AppUsageError(f"no such store: {url}", hint="s3://bucket or azure://account/container; --prefix names a part of it")


def sdk(module: str, extra: str) -> Any:
    """A module that imports an SDK. Raise AppUsageError that names the extra if that is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as missing:
        hint = f'pip install "cloud-backup-kit-app[{extra}]"'
        raise AppUsageError(f"{missing.name} is not installed", hint=hint) from missing
