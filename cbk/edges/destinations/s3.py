"""Restoring to S3, and to whatever speaks its language: AWS, R2, B2, MinIO, Ceph, Wasabi ...

Endpoint, region and credentials are those of the person who restores, in the way of every AWS tool: AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE and so on. The kit reads none of them itself, and keeps none.

How an object is known to be right, after it was sent as well as on a later run, by the first of these that says something:

1. the SHA-256 of all its bytes, where the endpoint computed it and keeps it (AWS does, of an object sent in one request);
2. our note with the object, `x-amz-meta-cbk-sha256`, and how its ETag must end, `x-amz-meta-cbk-etag`. Of an object sent in one
   request that is the MD5 of its bytes: the ETag shows that they are still those that the note is about. Of one sent in parts it is
   their number; whoever replaces such an object by other bytes, as many, in as many parts and with the same note, is not noticed;
3. reading the whole object back and hashing it.

Right after it was sent, an object in parts is known by the checksum of its parts' checksums instead of 2.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004 - botocore's own, for an endpoint that is away
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
)

from cbk.edges.destinations.objects import (
    PART_BYTES,
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
from cbk.rules.backup.object_properties import expires_at

MOST_PARTS = 10_000
NAME_MAX_BYTES = 1024
ATTEMPTS = 5  # of one request; the waits between them grow to 8 s

_METADATA_MAX_BYTES = 2048  # names and values together
_HEADER_ARGUMENTS = {
    "content_encoding": "ContentEncoding",
    "content_disposition": "ContentDisposition",
    "content_language": "ContentLanguage",
    "cache_control": "CacheControl",
}
_PIECE_BYTES = 1024 * 1024
_S3_SHA256_NOTE = "cbk-sha256"
_ETAG_NOTE = "cbk-etag"
_NAME_NOTE = "cbk-name"

# What endpoints answer that do not know a header; "400" is all that there is to an answer without a body.
_NOT_KNOWN = frozenset({"NotImplemented", "InvalidArgument", "InvalidRequest", "400", "501"})
_THERE_ALREADY = frozenset({"PreconditionFailed", "412"})
_UNAVAILABLE_CODES = frozenset({"SlowDown", "RequestTimeout", "Throttling", "TooManyRequests"})

_S3_CREDENTIALS_HINT = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to credentials of this object storage"
_NO_ACCESS = (
    "access is denied",
    "the credentials need s3:ListBucket, s3:GetObject, s3:PutObject and s3:AbortMultipartUpload in this bucket",
)
_NO_BUCKET = (
    "there is no such bucket",
    "make it first, or correct the address; where it is looked for is AWS_ENDPOINT_URL, without which it is AWS",
)
_REGION = ("the bucket is in another region", "set AWS_DEFAULT_REGION to the bucket's region")
_CLOCK = ("this machine's clock is too far off for signed requests", "set the clock (timedatectl status), then restore again")
_S3_ENDPOINT_HINT = "is AWS_ENDPOINT_URL right, and can this machine reach it? what was restored so far is skipped next time"
_S3_REFUSALS = {
    "AccessDenied": _NO_ACCESS,
    "AllAccessDisabled": _NO_ACCESS,
    "403": _NO_ACCESS,
    "InvalidAccessKeyId": ("the access key is not known there", _S3_CREDENTIALS_HINT),
    "SignatureDoesNotMatch": ("the secret key is wrong", _S3_CREDENTIALS_HINT),
    "ExpiredToken": ("the session's token has expired", "sign in again, and restore again: what was restored so far is skipped"),
    "InvalidToken": ("the session's token is not valid", _S3_CREDENTIALS_HINT),
    "NoSuchBucket": _NO_BUCKET,
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "301": _REGION,
}


class S3Destination:
    """The bucket and prefix that `s3://bucket/prefix` names. What is there is replaced only where `overwrite` allows it."""

    keeps_properties = True

    def __init__(self, url: str, *, overwrite: bool = False, part_size: int = PART_BYTES, attempts: int = ATTEMPTS) -> None:
        self._naming = Naming(*parse_address(url, "s3", "BUCKET"))
        allow_many_headers()
        self._overwrite = overwrite
        self._part_size = part_size
        self._seen: set[str] = set()
        self._found_absent = threading.local()
        # Whether the endpoint was found not to know checksums other than MD5, or conditions.
        self._plain = False
        config = Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            # The SDK's own checksums are CRC32, in a form that several endpoints refuse.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            max_pool_connections=32,
            connect_timeout=10,
            read_timeout=60,
        )
        try:
            self._client = boto3.session.Session().client("s3", config=config)
        except (BotoCoreError, ValueError) as exc:
            hint = "look at AWS_ENDPOINT_URL, AWS_PROFILE and the other AWS_ variables"
            raise UsageError(f"the settings for S3 are not valid: {type(exc).__name__}", hint=hint) from exc

    def may_mistake(self, item: RestoreItem) -> bool:
        """Whether the endpoint may take the object's key for another one."""
        return is_odd(item.key)

    def holds(self, item: RestoreItem) -> bool:
        """Whether the object is there with the right bytes; how that is known is said above.

        Raises DestinationError, also where something else is there and may not be replaced.
        """
        with _errors():
            target = self._target(item)
            found = self._head(target)
            if found is None:
                self._found_absent.target = target
                return False
            self._require_own_name(item, target, found)
            is_right = self._is_right(item, target, found)
            if not is_right and not self._overwrite:
                raise _already_there()
            return is_right

    def write(self, item: RestoreItem, chunks: Iterable[bytes]) -> None:
        """Send the object; its name exists only after all bytes were there and right.

        Raises DestinationError; DestinationUnavailable: no other file would fare better. What the iteration of `chunks` raises
        passes through, with nothing left under the name.
        """
        with _errors():
            target = self._target(item)
            if not self._overwrite and not self._is_absent(target):
                raise _already_there()
            checked = verified(item, chunks)
            try:
                if item.size <= self._part_size:
                    self._put(item, target, b"".join(checked))
                else:
                    self._put_in_parts(item, target, checked)
            except ClientError as exc:
                # An answer that got lost makes the SDK ask again, and then it is our own object that is there, or our own parts
                # that are not there any more.
                if _code(exc) not in {*_THERE_ALREADY, "NoSuchUpload"} or not self.holds(item):
                    raise
            if self.may_mistake(item):
                self._require_own_name(item, target, self._head(target) or {})
                # Such an endpoint answers with the ETag of what it was sent, and may have kept nothing of it.
                if not self._reads_back(item, target):
                    raise _other_bytes()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    # ---- within --------------------------------------------------------------------------------------------------------------

    def _target(self, item: RestoreItem) -> dict[str, str]:
        """Bucket and key. Some endpoints make a bucket of any name that they are sent, so it has to be there already."""
        bucket, key = self._naming.object_of(item)
        if len(key.encode()) > NAME_MAX_BYTES:
            hint = "choose a shorter prefix, or restore it to a folder"
            raise DestinationError(f"its key is longer than the {NAME_MAX_BYTES} bytes that S3 allows", hint=hint)
        target = {"Bucket": bucket, "Key": key}
        if bucket not in self._seen:
            self._look_into_bucket(target)
            self._seen.add(bucket)
        return target

    def _look_into_bucket(self, target: Mapping[str, str]) -> None:
        """Where this is refused, the answer says why, which that to a HEAD never does."""
        self._client.list_objects_v2(Bucket=target["Bucket"], Prefix=target["Key"], MaxKeys=1)

    def _head(self, target: Mapping[str, str]) -> Mapping[str, Any] | None:
        try:
            return self._ask(self._client.head_object, {**target}, {"ChecksumMode": "ENABLED"})
        except ClientError as exc:
            if _code(exc) in {"404", "NoSuchKey", "NotFound"}:
                return None
            self._look_into_bucket(target)
            raise

    def _is_absent(self, target: Mapping[str, str]) -> bool:
        """Whether nothing is there; not asked again by a thread that was told so right before."""
        found, self._found_absent.target = getattr(self._found_absent, "target", None), None
        return found == target or self._head(target) is None

    def _require_own_name(self, item: RestoreItem, target: Mapping[str, str], found: Mapping[str, Any]) -> None:
        """Raise DestinationError where what was `found` under an odd name is what another name means, too."""
        for other in likely_mistaken(item.key):
            key = target["Key"].removesuffix(item.key) + other
            there = self._head({**target, "Key": key})
            if there is None:
                continue
            note = there.get("Metadata", {}).get(_NAME_NOTE)
            is_same = all(there.get(name) == found.get(name) for name in ("ETag", "LastModified", "ContentLength"))
            is_ours = found.get("Metadata", {}).get(_NAME_NOTE) == name_note(item.key)
            if note == name_note(item.key) or (is_same and not is_ours):
                raise mistaken(item.key, other)

    def _is_right(self, item: RestoreItem, target: Mapping[str, str], found: Mapping[str, Any]) -> bool:
        if found["ContentLength"] != item.size:
            return False
        checksum = found.get("ChecksumSHA256", "-")
        if checksum == _base64(bytes.fromhex(item.sha256)):
            return True
        notes = found.get("Metadata", {})
        ending = notes.get(_ETAG_NOTE)
        if "-" in checksum and notes.get(_S3_SHA256_NOTE) == item.sha256 and ending and _etag(found).endswith(ending):
            return True
        return self._reads_back(item, target)

    def _reads_back(self, item: RestoreItem, target: Mapping[str, str]) -> bool:
        digest = hashlib.sha256()
        with contextlib.closing(self._client.get_object(**target)["Body"]) as body:
            for chunk in body.iter_chunks(_PIECE_BYTES):
                digest.update(chunk)
        return digest.hexdigest() == item.sha256

    def _put(self, item: RestoreItem, target: Mapping[str, str], content: bytes) -> None:
        md5 = _md5(content)
        about = self._about(item, md5.hex())
        answer = self._ask(
            self._client.put_object,
            {**target, **about, "Body": content, "ContentMD5": _base64(md5)},
            {"ChecksumSHA256": _base64(bytes.fromhex(item.sha256)), **self._unless_there()},
        )
        self._require_right(item, target, answer, sha256=bytes.fromhex(item.sha256), etag=md5.hex())

    def _put_in_parts(self, item: RestoreItem, target: Mapping[str, str], chunks: Iterable[bytes]) -> None:
        size = part_bytes(item.size, most_parts=MOST_PARTS, at_least=self._part_size)
        about = self._about(item, f"-{-(-item.size // size)}")
        begun = self._ask(self._client.create_multipart_upload, {**target, **about}, {"ChecksumAlgorithm": "SHA256"})
        upload = {**target, "UploadId": begun["UploadId"]}
        try:
            parts, md5s, sha256s = [], b"", b""
            for number, part in enumerate(in_parts(chunks, size), start=1):
                md5, sha256 = _md5(part), hashlib.sha256(part).digest()
                answer = self._ask(
                    self._client.upload_part,
                    {**upload, "PartNumber": number, "Body": part, "ContentMD5": _base64(md5)},
                    {"ChecksumSHA256": _base64(sha256)},
                )
                if answer.get("ChecksumSHA256", _base64(sha256)) != _base64(sha256):
                    raise _other_bytes()
                kept = {name: answer[name] for name in ("ETag", "ChecksumSHA256") if name in answer}
                parts.append({"PartNumber": number, **kept})
                md5s += md5
                sha256s += sha256
            answer = self._ask(
                self._client.complete_multipart_upload, {**upload, "MultipartUpload": {"Parts": parts}}, self._unless_there()
            )
        except BaseException:
            # Parts that stay are paid for. Where even this fails, what went wrong before is what matters.
            with contextlib.suppress(BotoCoreError, ClientError):
                self._client.abort_multipart_upload(**upload)
            raise
        etag = f"{_md5(md5s).hex()}-{len(parts)}"
        self._require_right(item, target, answer, sha256=hashlib.sha256(sha256s).digest(), etag=etag)

    def _about(self, item: RestoreItem, etag_ending: str) -> dict[str, Any]:
        about: dict[str, Any] = {_HEADER_ARGUMENTS[name]: value for name, value in headers_of(item, "S3").items()}
        if item.properties is not None and (expires := expires_at(item.properties)) is not None:
            about["Expires"] = expires
        metadata = {name: _mail_safe(value) for name, value in (item.properties.metadata if item.properties is not None else ())}
        notes = {_S3_SHA256_NOTE: item.sha256, _ETAG_NOTE: etag_ending}
        if self.may_mistake(item):
            notes[_NAME_NOTE] = name_note(item.key)
        # What the object had goes before what we note with it: without our notes, it is read back instead.
        if _metadata_size(metadata) > _METADATA_MAX_BYTES or _metadata_size(metadata | notes) <= _METADATA_MAX_BYTES:
            metadata |= notes
        return about | {"ContentType": content_type(item), "Metadata": metadata}

    def _unless_there(self) -> dict[str, str]:
        return {} if self._overwrite else {"IfNoneMatch": "*"}

    def _require_right(
        self, item: RestoreItem, target: Mapping[str, str], answer: Mapping[str, Any], *, sha256: bytes, etag: str
    ) -> None:
        """Raise DestinationError unless the `answer` to what was sent has this checksum or ETag, or what was sent comes back."""
        checksum, _, _ = answer.get("ChecksumSHA256", "").partition("-")
        # An encrypted object's ETag is no MD5, and says nothing.
        if checksum != _base64(sha256) and _etag(answer) != etag and not self._reads_back(item, target):
            raise _other_bytes()

    def _ask(
        self, request: Callable[..., Mapping[str, Any]], arguments: dict[str, Any], newer: dict[str, str]
    ) -> Mapping[str, Any]:
        """Ask with what `newer` endpoints know. Where this one does not, ask without, and do so from then on."""
        if newer and not self._plain:
            try:
                return request(**arguments, **newer)
            except ClientError as exc:
                if _code(exc) not in _NOT_KNOWN:
                    raise
            answer = request(**arguments)
            self._plain = True
            return answer
        return request(**arguments)


def _mail_safe(value: str) -> str:
    """A value of metadata as S3 takes it, in ASCII alone: it decodes RFC 2047 when it comes, and encodes again when it is asked."""
    return value if value.isascii() else f"=?UTF-8?B?{_base64(value.encode())}?="


def _metadata_size(metadata: Mapping[str, str]) -> int:
    return sum(len(name) + len(value) for name, value in metadata.items())


def _etag(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"')


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _md5(content: bytes | bytearray) -> bytes:
    return hashlib.md5(content, usedforsecurity=False).digest()


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode("ascii")


def _already_there() -> DestinationError:
    return DestinationError("something else is there already", hint="restore to another prefix, or add --overwrite")


def _other_bytes() -> DestinationError:
    hint = "restore it again with --overwrite; where that fails again, do not trust this endpoint"
    return DestinationError("the endpoint has other bytes than it was sent", hint=hint)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """What the SDK raises, as what it means: DestinationUnavailable where no other file would fare better.

    No word of the SDK's goes on: its messages have links in them.
    """
    try:
        yield
    except ClientError as exc:
        raise _refused(exc) from exc
    except (NoCredentialsError, PartialCredentialsError) as exc:
        raise DestinationUnavailable("there are no credentials for S3", hint=_S3_CREDENTIALS_HINT) from exc
    except SSLError as exc:
        hint = "a private certificate authority is named by AWS_CA_BUNDLE"
        raise DestinationUnavailable("the endpoint's certificate is not trusted", hint=hint) from exc
    except (ConnectionError, HTTPClientError, IncompleteReadError) as exc:
        raise DestinationUnavailable(f"the endpoint cannot be reached: {type(exc).__name__}", hint=_S3_ENDPOINT_HINT) from exc
    except ParamValidationError as exc:
        raise DestinationUnavailable("S3 allows no such bucket name", hint="correct the address") from exc
    except BotoCoreError as exc:
        raise DestinationUnavailable(f"S3 cannot be used: {type(exc).__name__}", hint=_S3_CREDENTIALS_HINT) from exc


def _refused(error: ClientError) -> DestinationError:
    code = _code(error)
    if code in _THERE_ALREADY:
        return _already_there()
    if code in _S3_REFUSALS:
        message, hint = _S3_REFUSALS[code]
        return DestinationUnavailable(message, hint=hint)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _UNAVAILABLE_CODES or (status >= 500 and status != 501):
        return DestinationUnavailable(f"the endpoint refuses for now: {code} ({status})", hint=_S3_ENDPOINT_HINT)
    return DestinationError(f"the endpoint refuses: {code} ({status})", hint="its documentation says what this code means")
