"""Restoring to Azure Blob Storage, as block blobs.

Credentials are those of the person who restores, under the names that Azure's own command line uses:
AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_KEY, or AZURE_STORAGE_SAS_TOKEN. None of them is kept.

How a blob is known to be right, after it was sent as well as on a later run: by our note with it, `cbk_sha256`, while its
Content-MD5 is the one of our other note, `cbk_md5`; writing other bytes changes one of them. Where they are missing or do not fit,
the whole blob is read back and hashed. Each request's bytes are compared with an MD5 by the service as they arrive.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from azure.core import MatchConditions
from azure.core.credentials import AzureSasCredential
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    IncompleteReadError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.storage.blob import BlobBlock, BlobClient, BlobProperties, BlobServiceClient, ContentSettings, ExponentialRetry

from cbk.edges.destinations.objects import (
    MIB,
    PART_BYTES,
    PROPERTIES_HINT,
    Naming,
    allow_many_headers,
    content_type,
    headers_of,
    in_parts,
    is_odd,
    likely_mistaken,
    mistaken,
    name_note,
    parse_address,
    part_bytes,
    verified,
)
from cbk.errors import DestinationError, DestinationUnavailable, UsageError
from cbk.model import RestoreItem

MOST_BLOCKS = 50_000
NAME_MAX_CHARACTERS = 1024
RETRIES = 3  # of one request, after 3, 5 and 9 seconds

_AZURE_SHA256_NOTE = "cbk_sha256"
_MD5_NOTE = "cbk_md5"
_NAME_NOTE = "cbk_name"
_METADATA_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)  # those of C#
_CLOCK_TOLERANCE = timedelta(minutes=14)  # Azure refuses requests that are 15 minutes old

_AZURE_CREDENTIALS_HINT = "set AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN to one of this account"
_AZURE_ENDPOINT_HINT = "is the account's name right, and can this machine reach it? what was restored so far is skipped next time"
_AZURE_REFUSALS = {
    "ContainerNotFound": ("there is no such container", "make it first, or correct the address"),
    "ContainerBeingDeleted": ("the container is being deleted", "wait some minutes, make it anew, and restore again"),
    "AccountIsDisabled": ("the account is disabled", "ask for it to be enabled, or restore to another account"),
    "AuthorizationPermissionMismatch": ("access is denied", "the credentials must allow to read, create and write blobs"),
    "AuthorizationFailure": ("access is denied", "the credentials must allow to read, create and write blobs, from this network"),
}


class AzureDestination:
    """The container and prefix that `azure://account/container/prefix` names; the account may also be a host.

    What is there is replaced only where `overwrite` allows it.
    """

    keeps_properties = True

    def __init__(
        self,
        url: str,
        *,
        overwrite: bool = False,
        part_size: int = PART_BYTES,
        retries: int = RETRIES,
        backoff_seconds: int = 1,
        environ: Mapping[str, str] = os.environ,  # noqa: TID251 - the credentials are the person's, and no setting of the kit
    ) -> None:
        account, container, prefix = parse_address(url, "azure", "ACCOUNT", "CONTAINER")
        self._naming = Naming(container, prefix)
        allow_many_headers()
        self._overwrite = overwrite
        self._part_size = part_size
        self._found_absent = threading.local()
        retry = ExponentialRetry(
            initial_backoff=backoff_seconds,
            increment_base=2 * backoff_seconds,
            retry_total=retries,
            random_jitter_range=backoff_seconds,
        )
        self._service = _connect(account, environ, part_size=part_size, retry=retry)

    def may_mistake(self, item: RestoreItem) -> bool:
        """Whether the account may take the blob's name for another one."""
        return is_odd(item.key)

    def holds(self, item: RestoreItem) -> bool:
        """Whether the blob is there with the right bytes; how that is known is said above.

        Raises DestinationError, also where something else is there and may not be replaced.
        """
        with _errors():
            blob = self._blob(item)
            found = _properties(blob)
            if found is None:
                self._found_absent.url = blob.url
                return False
            self._require_own_name(item, found)
            is_right = _is_right(item, blob, found)
            if not is_right and not self._overwrite:
                raise _already_there()
            return is_right

    def write(self, item: RestoreItem, chunks: Iterable[bytes]) -> None:
        """Send the blob; its name exists only after all bytes were there and right.

        Raises DestinationError; DestinationUnavailable: no other file would fare better. What the iteration of `chunks` raises
        passes through, with nothing left under the name.
        """
        with _errors():
            blob = self._blob(item)
            if not self._overwrite and not self._is_absent(blob):
                raise _already_there()
            checked = verified(item, chunks)
            try:
                if item.size <= self._part_size:
                    proven = self._put(item, blob, b"".join(checked))
                else:
                    proven = self._put_in_blocks(item, blob, checked)
            except HttpResponseError as exc:
                # An answer that got lost makes the SDK ask again, and then it is our own blob that is there.
                if exc.status_code not in {409, 412} or not self.holds(item):
                    raise
                return
            if self.may_mistake(item) and (written := _properties(blob)):
                self._require_own_name(item, written)
            if not proven and not ((found := _properties(blob)) and _is_right(item, blob, found)):
                hint = "restore it again with --overwrite; where that fails again, do not trust this endpoint"
                raise DestinationError("the endpoint has other bytes than it was sent", hint=hint)

    def close(self) -> None:
        """Close the connections."""
        self._service.close()

    # ---- within --------------------------------------------------------------------------------------------------------------

    def _blob(self, item: RestoreItem) -> BlobClient:
        container, name = self._naming.object_of(item)
        if len(name) > NAME_MAX_CHARACTERS:
            hint = "choose a shorter prefix, or restore it to a folder"
            raise DestinationError(f"its key is longer than the {NAME_MAX_CHARACTERS} characters that Azure allows", hint=hint)
        return self._service.get_blob_client(container, name)

    def _require_own_name(self, item: RestoreItem, found: BlobProperties) -> None:
        """Raise DestinationError where what was `found` under an odd name is what another name means, too."""
        for other in likely_mistaken(item.key):
            there = _properties(self._blob(dataclasses.replace(item, key=other)))
            if there is None:
                continue
            note, own = (each.metadata.get(_NAME_NOTE) if each.metadata else None for each in (there, found))
            if note == name_note(item.key) or (there.etag == found.etag and own != name_note(item.key)):
                raise mistaken(item.key, other)

    def _is_absent(self, blob: BlobClient) -> bool:
        """Whether nothing is there; not asked again by a thread that was told so right before."""
        found, self._found_absent.url = getattr(self._found_absent, "url", None), None
        return found == blob.url or _properties(blob) is None

    def _put(self, item: RestoreItem, blob: BlobClient, content: bytes) -> bool:
        """Send it in one request; gives whether the answer shows what the service has computed from the bytes."""
        md5 = hashlib.md5(content, usedforsecurity=False).digest()
        answer = blob.upload_blob(
            content, length=len(content), overwrite=self._overwrite, validate_content="md5", **_about(item, md5)
        )
        return bytes(answer.get("content_md5") or b"") == md5

    def _put_in_blocks(self, item: RestoreItem, blob: BlobClient, chunks: Iterable[bytes]) -> bool:
        """Send it in blocks, each of which the service compares with its MD5, then make the blob of them. Proves nothing more."""
        size = part_bytes(item.size, most_parts=MOST_BLOCKS, at_least=self._part_size)
        md5 = hashlib.md5(usedforsecurity=False)
        blocks = []
        # Blocks that are never committed have no name, and Azure removes them after a week.
        for number, part in enumerate(in_parts(chunks, size)):
            # Two restores of different versions at once must not mix their blocks.
            block = BlobBlock(f"{item.sha256[:16]}-{number:05}")
            blob.stage_block(block.id, bytes(part), length=len(part), validate_content="md5")
            md5.update(part)
            blocks.append(block)
        condition = None if self._overwrite else MatchConditions.IfMissing
        blob.commit_block_list(blocks, match_condition=condition, **_about(item, md5.digest()))
        return False


def _connect(account: str, environ: Mapping[str, str], *, part_size: int, retry: ExponentialRetry) -> BlobServiceClient:
    """A client of the account with the credentials of the environment. Raises UsageError."""
    options: dict[str, Any] = {"retry_policy": retry, "max_single_put_size": part_size, "max_single_get_size": 4 * MIB}
    host = account if "." in account else f"{account}.blob.core.windows.net"
    name = host.partition(".")[0]
    try:
        if text := environ.get("AZURE_STORAGE_CONNECTION_STRING"):
            service = BlobServiceClient.from_connection_string(text, **options)
            if account not in {service.account_name, urlsplit(service.url).hostname}:
                hint = "name the same account in both, so that nothing is restored to a wrong one"
                raise UsageError("AZURE_STORAGE_CONNECTION_STRING is for another account than the address", hint=hint)
            return service
        if key := environ.get("AZURE_STORAGE_KEY"):
            return BlobServiceClient(f"https://{host}", credential={"account_name": name, "account_key": key}, **options)
        if token := environ.get("AZURE_STORAGE_SAS_TOKEN"):
            return BlobServiceClient(f"https://{host}", credential=AzureSasCredential(token), **options)
    except ValueError as exc:
        raise UsageError("the credentials for Azure are not well-formed", hint=_AZURE_CREDENTIALS_HINT) from exc
    raise UsageError("there are no credentials for Azure", hint=_AZURE_CREDENTIALS_HINT)


def _properties(blob: BlobClient) -> BlobProperties | None:
    try:
        return blob.get_blob_properties()
    except ResourceNotFoundError as exc:
        if _code(exc) == "ContainerNotFound":
            raise
        return None


def _is_right(item: RestoreItem, blob: BlobClient, found: BlobProperties) -> bool:
    if found.size != item.size:
        return False
    notes, md5 = found.metadata or {}, bytes(found.content_settings.content_md5 or b"")
    if notes.get(_AZURE_SHA256_NOTE) == item.sha256 and md5 and notes.get(_MD5_NOTE) == md5.hex():
        return True
    digest = hashlib.sha256()
    for chunk in blob.download_blob(max_concurrency=1, decompress=False).chunks():  # as it is stored, whatever its Content-Encoding
        digest.update(chunk)
    return digest.hexdigest() == item.sha256


def _about(item: RestoreItem, md5: bytes) -> dict[str, Any]:
    metadata = dict(item.properties.metadata) if item.properties is not None else {}
    for name, value in metadata.items():
        if not _METADATA_NAME.fullmatch(name):
            message = f"its metadata has the name {name}, and Azure's consist of letters, digits and underscores"
            raise DestinationError(message, hint=PROPERTIES_HINT)
        if not value.isascii():
            raise DestinationError(f"its metadata {name} is not ASCII, and Azure takes no other", hint=PROPERTIES_HINT)
    settings = ContentSettings(content_type=content_type(item), content_md5=bytearray(md5), **headers_of(item, "Azure"))
    metadata |= {_AZURE_SHA256_NOTE: item.sha256, _MD5_NOTE: md5.hex()}
    if is_odd(item.key):
        metadata[_NAME_NOTE] = name_note(item.key)
    return {"content_settings": settings, "metadata": metadata}


def _already_there() -> DestinationError:
    return DestinationError("something else is there already", hint="restore to another prefix, or add --overwrite")


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """What the SDK raises, as what it means: DestinationUnavailable where no other file would fare better.

    No word of the SDK's goes on: its messages have links in them.
    """
    try:
        yield
    except HttpResponseError as exc:
        raise _refused(exc) from exc
    except (ServiceRequestError, ServiceResponseError, IncompleteReadError) as exc:
        raise DestinationUnavailable(f"the account cannot be reached: {type(exc).__name__}", hint=_AZURE_ENDPOINT_HINT) from exc
    except AzureError as exc:
        raise DestinationUnavailable(f"Azure cannot be used: {type(exc).__name__}", hint=_AZURE_CREDENTIALS_HINT) from exc


def _refused(error: HttpResponseError) -> DestinationError:
    code, status = _code(error), error.status_code or 0
    if code in {"BlobAlreadyExists", "ConditionNotMet"}:
        return _already_there()
    if code in _AZURE_REFUSALS:
        message, hint = _AZURE_REFUSALS[code]
        return DestinationUnavailable(message, hint=hint)
    if status in {401, 403} and _clock_is_off(error):
        hint = "set the clock (timedatectl status), then restore again"
        return DestinationUnavailable("this machine's clock is too far off for signed requests", hint=hint)
    if isinstance(error, ClientAuthenticationError) or status in {401, 403}:
        return DestinationUnavailable("the credentials are refused", hint=f"they may have expired; {_AZURE_CREDENTIALS_HINT}")
    if status in {408, 429} or status >= 500:
        return DestinationUnavailable(f"the account refuses for now: {code} ({status})", hint=_AZURE_ENDPOINT_HINT)
    return DestinationError(f"the account refuses: {code} ({status})", hint="Azure's documentation says what this code means")


def _code(error: HttpResponseError) -> str:
    code = getattr(error, "error_code", None) or ""
    return str(getattr(code, "value", code))  # an enumeration, or text where the SDK does not know it


def _clock_is_off(error: HttpResponseError) -> bool:
    """Whether the refused request bears another time than its answer: Azure itself says no more than that it was refused."""
    response: Any = error.response  # the SDK's types are those of a response without a request
    try:
        asked = parsedate_to_datetime(response.request.headers["x-ms-date"])
        answered = parsedate_to_datetime(response.headers["Date"])
    except (AttributeError, KeyError, ValueError):
        return False
    return abs(answered - asked) > _CLOCK_TOLERANCE
