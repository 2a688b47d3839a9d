"""Azure Blob Storage. The account's key comes from AZURE_STORAGE_KEY, or all of it from AZURE_STORAGE_CONNECTION_STRING."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO
from urllib.parse import quote

from azure.core import MatchConditions
from azure.core.exceptions import AzureError, HttpResponseError, ResourceModifiedError, ResourceNotFoundError
from azure.storage.blob import BlobSasPermissions, ContainerClient, ContentSettings, generate_blob_sas

from cbk_app.errors import AppUsageError, ObjectGone, StoreError
from cbk_app.stores.store import StoredObject

# Clocks differ a little: a link is valid from a moment ago.
_CLOCKS_DIFFER = timedelta(minutes=5)


class AzureStore:
    """One container. `key` is the account's; without it the environment is asked. Raise AppUsageError if that says nothing."""

    def __init__(self, account: str, container: str, *, key: str | None = None, endpoint: str | None = None) -> None:
        self.name = container
        self._account = account
        connection_string = os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
        self._key = key or os.environ.get("AZURE_STORAGE_KEY") or _key_of(connection_string)
        if not self._key:
            raise AppUsageError("no key for the Azure account", hint="set AZURE_STORAGE_KEY or AZURE_STORAGE_CONNECTION_STRING")
        self._url = (endpoint or f"https://{account}.blob.core.windows.net").rstrip("/")
        self._client = ContainerClient(
            self._url, container, credential={"account_name": account, "account_key": self._key}, retry_total=5
        )

    def objects(self, prefix: str = "") -> Iterator[StoredObject]:
        """See Store."""
        with _errors():
            for found in self._client.list_blobs(name_starts_with=prefix or None):
                yield StoredObject(
                    key=found.name, size=found.size or 0, etag=(found.etag or "").strip('"'), modified=found.last_modified
                )

    def sha256(self, found: StoredObject) -> str | None:
        """None: Azure keeps an MD5 at most."""
        del found
        return None

    def read(self, found: StoredObject) -> Iterator[bytes]:
        """See Store."""
        about: dict[str, Any] = {}
        if found.etag:
            about = {"etag": f'"{found.etag}"' if not found.etag.startswith('"') else found.etag}
            about["match_condition"] = MatchConditions.IfNotModified
        with _errors():
            blob = self._client.get_blob_client(found.key)
            yield from blob.download_blob(max_concurrency=1, **about).chunks()

    def put(self, key: str, content: BinaryIO, content_type: str) -> None:
        """See Store."""
        with _errors():
            settings = ContentSettings(content_type=content_type)
            self._client.upload_blob(key, content, overwrite=True, content_settings=settings)

    def sign(self, key: str, seconds: int) -> str:
        """See Store. Nothing is asked of the service."""
        now = datetime.now(UTC)
        token = generate_blob_sas(
            account_name=self._account,
            container_name=self.name,
            blob_name=key,
            account_key=self._key,
            permission=BlobSasPermissions(read=True),
            start=now - _CLOCKS_DIFFER,
            expiry=now + timedelta(seconds=seconds),
        )
        return f"{self._url}/{quote(self.name)}/{quote(key, safe='/~')}?{token}"


def _key_of(connection_string: str | None) -> str | None:
    parts = dict(part.split("=", 1) for part in (connection_string or "").split(";") if "=" in part)
    return parts.get("AccountKey")


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (ResourceNotFoundError, ResourceModifiedError) as error:
        raise ObjectGone("the object is gone, or another one by now") from error
    except HttpResponseError as error:
        hint = "may this key list and read the container?"
        raise StoreError(f"the storage refused: {getattr(error, 'error_code', None) or error.status_code}", hint=hint) from error
    except AzureError as error:
        hint = "the account's name, and the way there"
        raise StoreError(f"the storage did not answer: {type(error).__name__}", hint=hint) from error
