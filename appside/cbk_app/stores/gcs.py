"""Google Cloud Storage, for permanent links. Credentials are found by Google's SDK; to sign they need a private key."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from google.auth.exceptions import GoogleAuthError
from google.cloud import storage

from cbk_app.errors import StoreError


class GcsStore:
    """One bucket. `client` is a client to use instead of one with Google's own settings."""

    def __init__(self, bucket: str, *, client: Any = None) -> None:
        self.name = bucket
        self._bucket = (client or storage.Client()).bucket(bucket)

    def sign(self, key: str, seconds: int) -> str:
        """A link that gives out the object for so many seconds. Raise StoreError if these credentials cannot sign."""
        try:
            blob = self._bucket.blob(key)
            return str(blob.generate_signed_url(version="v4", expiration=timedelta(seconds=seconds), method="GET"))
        except (GoogleAuthError, AttributeError) as error:
            hint = "signing needs a service account's key, or the right to sign as it"
            raise StoreError(f"could not sign: {type(error).__name__}", hint=hint) from error
