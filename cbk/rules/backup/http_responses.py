"""What an HTTP answer means: is it the object, how long is it, may a broken transfer go on, and why is there none.

Messages carry words that are known beforehand, a host and numbers. The text of an answer is never repeated: error pages of storage
services quote the request with its signature.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from cbk.errors import DownloadError, LinkDenied, LinkExpired, NotTheObject, ObjectMissing, OriginUnavailable, TransferBroken

REDIRECTS = frozenset({301, 302, 303, 307, 308})
LONGEST_RETRY_AFTER_SECONDS = 86_400.0

# Beyond every 5xx: the request took too long, it came too early, there were too many.
_COME_BACK_LATER = frozenset({408, 425, 429})

# What the services say of a link whose time is over, in <Code>, <Message>, <Details> or <AuthenticationErrorDetail> (S3 and its
# relatives, Google, Azure) or in "code" and "message" (B2). The rest of the body is not searched: it quotes the object's key.
_SAID = re.compile(r"<(Code|Message|Details|AuthenticationErrorDetail)>([^<]*)|\"(code|message)\"\s*:\s*\"([^\"]*)", re.IGNORECASE)
_TIME_IS_OVER = re.compile(r"expired|not valid in the specified time frame", re.IGNORECASE)
_CODE = re.compile(r"[A-Za-z_.]{1,40}")

# In the reason of every version that only the application can help: `cbk ls --refresh` finds its row by this.
FRESH_LINK = "the application has to write a fresh link into its row"
_DENIED_STATUSES = frozenset({400, 401, 403})
# The key or the session that signed the link is over: S3 and its relatives, MinIO, Alibaba. Google says ExpiredToken of a link that
# is simply too old, and then tells when its signature expired.
_SIGNER_IS_GONE = frozenset(
    {
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidSecurityToken",
        "InvalidToken",
        "InvalidTokenId",
        "SecurityTokenExpired",
        "TokenRefreshRequired",
    }
)
_SIGNATURE_IS_OLD = re.compile(r"signature expired", re.IGNORECASE)
# What another link does not help.
_NOT_THE_LINK = frozenset({"BlobArchived", "InvalidObjectState", "RequestTimeTooSkewed"})
# What only the account's owner can mend; then the same link is good again (Backblaze, Google, MinIO, Alibaba, Azure, AWS).
_CAP = "the account's cap on downloads is reached: raise it there, or wait for the next day"
_ACCOUNT = "the account is suspended, disabled or its billing is not in order: see to it at the provider"
_ENCRYPTION_KEY = "the key that the object is encrypted with cannot be used: enable it at the provider"
_ACCOUNT_HINTS = {
    "cap_exceeded": _CAP,
    "download_cap_exceeded": _CAP,
    "transaction_cap_exceeded": _CAP,
    "AccountDisabled": _ACCOUNT,
    "AccountIsDisabled": _ACCOUNT,
    "AccountProblem": _ACCOUNT,
    "AllAccessDisabled": _ACCOUNT,
    "UserDisable": _ACCOUNT,
    "UserProjectAccountProblem": _ACCOUNT,
    "UserSuspended": _ACCOUNT,
    "KMS.DisabledException": _ENCRYPTION_KEY,
    "KMS.KMSInvalidStateException": _ENCRYPTION_KEY,
    "KMS.NotFoundException": _ENCRYPTION_KEY,
}
# Backblaze says it in the message alone where it speaks S3: "Cannot download file, download bandwidth or transaction (Class B) cap
# exceeded. See the Caps & Alerts page to increase your cap."
_CAP_IS_REACHED = re.compile(r"\bcap exceeded\b", re.IGNORECASE)
# A bucket is somewhere else than the link says; the signature names the region, so that it cannot be followed there.
_WHERE = re.compile(r"<(Region|Endpoint)>([A-Za-z0-9.-]{2,100})</")
_REGION = re.compile(r"[a-z0-9-]{2,40}")
_REFUSAL_HINTS = {
    "AccessDenied": "storage services answer so for an object that is not there, too, where the signer may not list the bucket",
    "InvalidObjectState": "the object is in an archive tier: restore it there first",
    "BlobArchived": "the object is in an archive tier: restore it there first",
    "RequestTimeTooSkewed": "compare the clock of the machine that signs the links",
    "SignatureDoesNotMatch": "the link was altered after it was signed, or cut off where it was stored",
}


# Fields of which several lines are one list (RFC 9110 5.3); of all others the first line counts.
_LISTS = frozenset({"cache-control", "content-encoding", "content-language", "content-length", "transfer-encoding"})
_STATUS_LINE = re.compile(rb"HTTP/[0-9](?:\.[0-9])? +([0-9]{3})(?![0-9])")


class Headers(Mapping[str, str]):
    """An answer's header fields, by their names in any case. What is not UTF-8 in a value is kept by surrogates.

    `spelled` has the names as they came, by those in small letters.
    """

    def __init__(self, fields: Mapping[str, str] | None = None, spelled: Mapping[str, str] | None = None) -> None:
        self._fields = {name.lower(): value for name, value in (fields or {}).items()}
        self.spelled = spelled or {name.lower(): name for name in fields or ()}

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


def parse_status(lines: Sequence[bytes]) -> int:
    """The status of a head, 0 where its first line is no status line."""
    match = _STATUS_LINE.match(lines[0]) if lines else None
    return int(match[1]) if match else 0


def parse_headers(lines: Sequence[bytes]) -> Headers:
    """The fields of a head, whose first line is the status line. What is no field is passed over."""
    unfolded: list[bytes] = []
    for line in lines[1:]:
        if line[:1] in {b" ", b"\t"} and unfolded:  # RFC 9112 5.2
            unfolded[-1] += b" " + line.strip()
        else:
            unfolded.append(line.strip())
    fields: dict[str, str] = {}
    spelled: dict[str, str] = {}
    for line in unfolded:
        raw_name, colon, raw_value = line.partition(b":")
        as_it_came = raw_name.strip().decode("latin-1")
        name = as_it_came.lower()
        value = raw_value.strip().decode("utf-8", "surrogateescape")
        if not colon or not name:
            continue
        if name not in fields:
            fields[name], spelled[name] = value, as_it_came
        elif name in _LISTS:
            fields[name] += f", {value}"
    return Headers(fields, spelled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """The object as the first answer described it; `size` in bytes, None where it was not announced."""

    size: int | None
    etag: str | None
    last_modified: str | None
    content_type: str | None

    @property
    def if_range(self) -> str | None:
        """The validator for If-Range (RFC 9110 13.1.5): a strong ETag, or the date where there is no ETag at all."""
        if self.etag is None:
            return self.last_modified
        return None if self.etag.startswith("W/") else self.etag

    @property
    def recognizable(self) -> bool:
        """Whether a later answer can be told to be of the same object."""
        return self.size is not None or self.etag is not None or self.last_modified is not None


def is_packed(headers: Mapping[str, str]) -> bool:
    """Whether an answer's body is in a content coding (RFC 9110 8.4): it may be stored so, or be packed on the way."""
    return bool(
        {coding.strip().lower() for coding in headers.get("Content-Encoding", "").split(",")} - {"", "identity", "aws-chunked"}
    )


def read_entity(origin: str, headers: Mapping[str, str], *, is_unpacked: bool = False) -> Entity:
    """The entity of a 200 answer. Raise NotTheObject where its framing cannot be trusted (RFC 9112 6.3).

    `is_unpacked`: a content coding is taken off the body. Then nothing that is said of the packed one holds.
    """
    coding = headers.get("Transfer-Encoding")
    if coding is not None and coding.strip().lower() != "chunked":
        raise NotTheObject(f"{origin} sends the object in a coding that was not asked for")
    size = _length(origin, headers) if coding is None else None
    if is_unpacked and is_packed(headers):
        return Entity(size=None, etag=None, last_modified=None, content_type=headers.get("Content-Type"))
    return Entity(
        size=size, etag=headers.get("ETag"), last_modified=headers.get("Last-Modified"), content_type=headers.get("Content-Type")
    )


def _length(origin: str, headers: Mapping[str, str]) -> int | None:
    value = headers.get("Content-Length")
    if value is None:
        return None
    length, *others = (part.strip() for part in value.split(","))
    if any(other != length for other in others) or not re.fullmatch(r"[0-9]{1,18}", length):  # the same one may come twice
        raise NotTheObject(f"{origin} announces a length that is no number")
    return int(length)


def check_resumed(origin: str, entity: Entity, status: int, headers: Mapping[str, str], *, position: int) -> tuple[Entity, int]:
    """Judge the answer to a request for everything from `position` on (RFC 9110 14.2).

    Return the entity, which may know its size now, and how many bytes of the answer are to be skipped, because they came before. An
    answer of 416 that comes through says that nothing is missing. Raise TransferBroken where the answer is not the rest of the same
    object.
    """
    etag = headers.get("ETag")
    if etag is not None and entity.etag is not None and _opaque(etag) != _opaque(entity.etag):
        raise TransferBroken(f"the object changed at {origin} while it was fetched")
    if status == 200:
        # The bytes so far are only known to be this answer's first ones where both have the same strong validator.
        if etag is None or etag != entity.if_range or read_entity(origin, headers).size != entity.size:
            raise TransferBroken(f"{origin} cannot go on in the middle of the object")
        return entity, position
    if status == 416:
        return _check_nothing_missing(origin, entity, headers, position), 0
    if status != 206:
        raise TransferBroken(f"{origin} answers {status} to a request for the rest of the object")
    match = re.fullmatch(r"bytes\s+([0-9]{1,18})\s*-\s*([0-9]{1,18})\s*/\s*([0-9]{1,18}|\*)", headers.get("Content-Range", ""))
    if match is None:
        raise TransferBroken(f"{origin} does not say which part of the object it sends")
    start, end = int(match[1]), int(match[2])
    size = entity.size if match[3] == "*" else int(match[3])
    if not start <= position or start > end or (size is not None and end >= size) or entity.size not in {None, size}:
        raise TransferBroken(f"{origin} sends another part of the object than was asked for")
    return replace(entity, size=size), position - start


def _opaque(etag: str) -> str:
    """What the ETag compares by: a proxy that packs an answer on the way makes a weak one of it."""
    return etag.removeprefix("W/")


def _check_nothing_missing(origin: str, entity: Entity, headers: Mapping[str, str], position: int) -> Entity:
    match = re.fullmatch(r"bytes\s+\*\s*/\s*([0-9]{1,18})", headers.get("Content-Range", ""))
    if match is None or int(match[1]) != position or entity.size not in {None, position}:
        raise TransferBroken(f"{origin} answers 416 to a request for the rest of the object")
    return replace(entity, size=position)


def classify_refusal(
    status: int, excerpt: str, headers: Mapping[str, str], *, origin: str, link_expires_at: datetime | None, now: datetime
) -> DownloadError:
    """The error that an answer other than 200 stands for. `excerpt` is the start of its body."""
    if status in _COME_BACK_LATER or status >= 500:
        wait = retry_after_seconds(headers.get("Retry-After"), now=now)
        return OriginUnavailable(f"{origin} answers {status} for now", retry_after_seconds=wait)
    elsewhere = _elsewhere(excerpt, headers) if status in {301, 307, 400} else None
    if elsewhere is not None:
        return LinkDenied(f"{origin} answers {status}: the bucket is {elsewhere}", hint=f"sign for that; {FRESH_LINK}")
    if status < 400:
        return NotTheObject(f"{origin} answers {status} instead of the object")
    return _explained(status, excerpt, origin=origin, link_expires_at=link_expires_at, now=now)


def _explained(status: int, excerpt: str, *, origin: str, link_expires_at: datetime | None, now: datetime) -> DownloadError:
    """The error that a refusal stands for, by what its page says."""
    fields = [((tag or name).lower(), xml or json) for tag, xml, name, json in _SAID.findall(excerpt)]
    said = [text for _, text in fields]
    code = next((text for name, text in fields if name == "code" and _CODE.fullmatch(text)), "")
    if status in {404, 410}:
        what = "bucket or container" if code in {"NoSuchBucket", "ContainerNotFound"} else "object"
        return ObjectMissing(f"{origin} has no such {what} ({status})")
    account = _CAP if any(_CAP_IS_REACHED.search(text) for text in said) else _ACCOUNT_HINTS.get(code)
    if account is not None:
        return OriginUnavailable(f"{origin} refuses every link for now ({_name(status, code)})", hint=account)
    expired = _expired(said, code, link_expires_at, now) if status in _DENIED_STATUSES else None
    return expired or _denied(status, code, origin)


def _denied(status: int, code: str, origin: str) -> LinkDenied:
    hints = [_REFUSAL_HINTS[code]] if code in _REFUSAL_HINTS else []
    if status in _DENIED_STATUSES and code not in _NOT_THE_LINK:
        hints.append(FRESH_LINK)
    return LinkDenied(f"{origin} refuses the link ({_name(status, code)})", hint="; ".join(hints) or None)


def _name(status: int, code: str) -> str:
    return f"{status} {code}" if code else str(status)


def _elsewhere(excerpt: str, headers: Mapping[str, str]) -> str | None:
    """Where S3 says that the bucket is, in words that hold nothing else: it names no Location."""
    found = dict(_WHERE.findall(excerpt))
    region = found.get("Region") or headers.get("x-amz-bucket-region", "")
    known = [f"in region {region}"] if _REGION.fullmatch(region) else []
    known += [f"at {found['Endpoint']}"] if "Endpoint" in found else []
    return ", ".join(known) or None


def _expired(said: list[str], code: str, link_expires_at: datetime | None, now: datetime) -> LinkExpired | None:
    """The origin's word counts before our clock: a link dies with its signer's session, and our clock may be wrong."""
    when = link_expires_at and f"{link_expires_at:%Y-%m-%d %H:%M} UTC"
    if link_expires_at is not None and link_expires_at <= now:
        return LinkExpired(f"the link expired at {when}", hint=FRESH_LINK)
    early = f", before the time that the link shows ({when})" if when else ""
    if code in _SIGNER_IS_GONE and not any(_SIGNATURE_IS_OLD.search(text) for text in said):
        return LinkExpired(f"the key or the session that signed the link is over ({code}){early}", hint=FRESH_LINK)
    if any(_TIME_IS_OVER.search(text) for text in said):
        return LinkExpired(f"the link expired{early}", hint=FRESH_LINK)
    return None


def retry_after_seconds(value: str | None, *, now: datetime) -> float | None:
    """Seconds that Retry-After asks for (RFC 9110 10.2.3: seconds or a date), 0 to a day; None where it asks for nothing clear."""
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value):
        return min(float(value), LONGEST_RETRY_AFTER_SECONDS)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    date = date.replace(tzinfo=UTC) if date.tzinfo is None else date
    return min(max((date - now).total_seconds(), 0.0), LONGEST_RETRY_AFTER_SECONDS)
