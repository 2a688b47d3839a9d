"""S3 and whatever speaks it: R2, B2, MinIO, SeaweedFS. Credentials are found by boto3."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError, ReadTimeoutError
from urllib3.exceptions import HTTPError

from cbk_app.errors import ObjectGone, StoreError
from cbk_app.stores.store import CHUNK_BYTES, StoredObject

_CONNECTIONS = 64
_SHA256_BYTES = 32
_GONE = {"404", "NoSuchKey", "NotFound", "412", "PreconditionFailed"}


class S3Store:
    """One bucket. `client` is a boto3 client to use instead of one with boto3's own settings; threads may share it."""

    def __init__(self, bucket: str, *, endpoint: str | None = None, client: Any = None) -> None:
        self.name = bucket
        retries = {"max_attempts": 8, "mode": "adaptive"}
        config = Config(signature_version="s3v4", max_pool_connections=_CONNECTIONS, retries=retries)
        self._client = client or boto3.client("s3", endpoint_url=endpoint, config=config)

    def objects(self, prefix: str = "") -> Iterator[StoredObject]:
        """See Store."""
        with _errors():
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
                for found in page.get("Contents", []):
                    yield StoredObject(
                        key=found["Key"],
                        size=found["Size"],
                        etag=found.get("ETag", "").strip('"'),
                        modified=found["LastModified"],
                        # Absent from those that know no checksums of this kind, and composite where it is not of the whole object.
                        checksums="SHA256" in found.get("ChecksumAlgorithm", []) and found.get("ChecksumType") != "COMPOSITE",
                    )

    def sha256(self, found: StoredObject) -> str | None:
        """See Store."""
        if not found.checksums:
            return None
        with _errors():
            head = self._client.head_object(Bucket=self.name, Key=found.key, ChecksumMode="ENABLED")
        if head.get("ETag", "").strip('"') != found.etag or head.get("ChecksumType") == "COMPOSITE":
            return None
        try:
            digest = base64.b64decode(head.get("ChecksumSHA256", ""), validate=True)  # a composite one ends in "-" and a number
        except binascii.Error:
            return None
        return digest.hex() if len(digest) == _SHA256_BYTES else None

    def read(self, found: StoredObject) -> Iterator[bytes]:
        """See Store."""
        about = {"IfMatch": f'"{found.etag}"'} if found.etag else {}
        with _errors():
            body = self._client.get_object(Bucket=self.name, Key=found.key, **about)["Body"]
            with body:
                yield from body.iter_chunks(CHUNK_BYTES)

    def fetch(self, key: str) -> Any:
        """The object as an open file. Raise ObjectGone if it is not there."""
        with _errors():
            return self._client.get_object(Bucket=self.name, Key=key)["Body"]

    def put(self, key: str, content: BinaryIO, content_type: str) -> None:
        """See Store."""
        with _errors():
            self._client.upload_fileobj(content, self.name, key, ExtraArgs={"ContentType": content_type})

    def sign(self, key: str, seconds: int) -> str:
        """See Store. Nothing is asked of the service, unless boto3's credentials have to be renewed."""
        with _errors():
            what = {"Bucket": self.name, "Key": key}
            return str(self._client.generate_presigned_url("get_object", Params=what, ExpiresIn=seconds))


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _GONE:
            raise ObjectGone(f"the object is gone, or another one by now ({code})") from error
        raise StoreError(f"the storage refused: {code}", hint="may these credentials list and read the bucket?") from error
    except (IncompleteReadError, ReadTimeoutError, HTTPError) as error:
        raise StoreError(f"the object broke off: {type(error).__name__}", hint="run the command again") from error
    except (BotoCoreError, Boto3Error) as error:
        hint = "credentials, region and --endpoint, as for the aws command"
        raise StoreError(f"the storage did not answer: {error}", hint=hint) from error
