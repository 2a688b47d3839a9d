"""Permanent links: an address of the application's own that answers with a link which the storage signed just now.

    links = Links("https://app.example.com/cbk-links", secrets=[secret])
    app = LinkApp(links, {"s3": S3Store("car-erp")})       # a WSGI application; `app.asgi` is the same as ASGI

The address of an object holds an HMAC of its storage and key, so that nobody can make one up; it never dies, so that no row has
to be refreshed. Who asks is sent on (302) with a link of a minute, or gets the bytes if the store has no links, such as a folder.

The first secret signs and all of them are accepted, so that one can be replaced: put the new one first, run `cbk-app relink`, then
take the old one away. From then on its addresses are refused (403).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import secrets as random_secrets
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol, runtime_checkable

from cbk_app.errors import AppUsageError, ObjectGone, StoreError

logger = logging.getLogger(__name__)

LINK_SECONDS = 60
RATE_PER_SECOND = 200.0
SHORTEST_SECRET = 32  # characters
CHUNK_BYTES = 64 * 1024

_Receive = Callable[[], Awaitable[Any]]
_Send = Callable[[dict[str, Any]], Awaitable[None]]

_PURPOSE = b"cbk-link-1\n"


class Links:
    """Makes and reads permanent addresses below `url`. Raise AppUsageError for a secret that is too short to be one."""

    def __init__(self, url: str, *, secrets: Sequence[str]) -> None:
        if not secrets or any(len(secret) < SHORTEST_SECRET for secret in secrets):
            raise AppUsageError(
                f"a secret for permanent links has at least {SHORTEST_SECRET} characters", hint="`cbk-app secret` makes one"
            )
        self._url = url.rstrip("/")
        self._secrets = [secret.encode() for secret in secrets]

    def link(self, storage: str, key: str) -> str:
        """The permanent address of an object."""
        if "\n" in storage:
            raise AppUsageError("the name of a storage has no line breaks")
        name = f"{storage}\n{key}".encode()
        return f"{self._url}/{_mac(self._secrets[0], name)}/{_payload(name)}"

    def for_storage(self, storage: str) -> Callable[[str], str]:
        """The function that makes addresses for one storage: a Recorder's `link`."""
        return lambda key: self.link(storage, key)

    def read(self, path: str) -> tuple[str, str] | None:
        """The storage and the key of an address, of which `path` is what follows our URL; None for one that we did not sign."""
        mac, _, payload = path.strip("/").partition("/")
        try:
            name = base64.b64decode(payload + "=" * (-len(payload) % 4), altchars=b"-_", validate=True)
            storage, separator, key = name.decode().partition("\n")
        except (binascii.Error, ValueError):
            return None
        # All secrets are tried whatever the first says: how long it takes tells nothing.
        good = [hmac.compare_digest(_mac(secret, name).encode(), mac.encode()) for secret in self._secrets]
        return (storage, key) if any(good) and separator and payload == _payload(name) else None


def _payload(name: bytes) -> str:
    return base64.urlsafe_b64encode(name).rstrip(b"=").decode()


def _mac(secret: bytes, name: bytes) -> str:
    return hmac.digest(secret, _PURPOSE + name, hashlib.sha256).hex()


def new_secret() -> str:
    """A secret that nobody guesses."""
    return random_secrets.token_urlsafe(48)


@runtime_checkable
class SigningStore(Protocol):
    """A storage whose SDK signs links."""

    def sign(self, key: str, seconds: int) -> str:
        """A link that gives out the object `key` for so many seconds."""


@runtime_checkable
class OpeningStore(Protocol):
    """A storage without links, such as a folder."""

    def open(self, key: str) -> tuple[BinaryIO, int]:
        """The object's bytes and how many there are. Raise ObjectGone if it is not there."""


@dataclass(slots=True)
class Answer:
    """What is answered: `body` is closed by who sends it."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: BinaryIO | None = None
    text: bytes = b""

    def chunks(self) -> Iterator[bytes]:
        """The body, piece by piece; it is closed at the end."""
        if self.body is None:
            yield self.text
            return
        try:
            while chunk := self.body.read(CHUNK_BYTES):
                yield chunk
        finally:
            self.body.close()


class LinkApp:
    """Answers permanent addresses. `stores` says where each storage's objects are; `clock` counts seconds and never goes back."""

    def __init__(
        self,
        links: Links,
        stores: Mapping[str, SigningStore | OpeningStore],
        *,
        link_seconds: int = LINK_SECONDS,
        rate_per_second: float = RATE_PER_SECOND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._links = links
        self._stores = stores
        self._link_seconds = link_seconds
        self._bucket = _TokenBucket(rate_per_second, clock)

    def answer(self, method: str, path: str) -> Answer:
        """What is answered to a request for `path`, the part of the address that follows the links' URL."""
        if method not in {"GET", "HEAD"}:
            return _refusal(405, "only GET and HEAD", {"Allow": "GET, HEAD"})
        named = self._links.read(path)
        if named is None:
            return _refusal(403, "not an address that we signed")
        if (wait := self._bucket.take()) > 0:
            return _refusal(429, "too many requests", {"Retry-After": str(max(1, round(wait)))})
        storage, key = named
        try:
            return self._found(storage, key, with_body=method == "GET")
        except ObjectGone:
            return _refusal(404, "no such object")
        except StoreError as error:
            logger.warning("could not sign a link", extra={"storage": storage, "error": str(error)})
            return _refusal(503, "the storage does not answer", {"Retry-After": "30"})

    def _found(self, storage: str, key: str, *, with_body: bool) -> Answer:
        if (store := self._stores.get(storage)) is None:
            return _refusal(404, "no such storage")
        fresh = {"Cache-Control": "no-store"}
        if not isinstance(store, OpeningStore):
            return Answer(302, {**fresh, "Location": store.sign(key, self._link_seconds), "Content-Length": "0"})
        body, size = store.open(key)
        headers = {**fresh, "Content-Type": "application/octet-stream", "Content-Length": str(size)}
        if with_body:
            return Answer(200, headers, body)
        body.close()
        return Answer(200, headers)

    def __call__(self, environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """The WSGI application."""
        answer = self.answer(environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""))
        start_response(f"{answer.status} {_REASONS[answer.status]}", list(answer.headers.items()))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else answer.chunks()

    async def asgi(self, scope: Mapping[str, Any], receive: _Receive, send: _Send) -> None:
        """The ASGI application. What may wait for a disk or a network is done in threads."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            return
        # Servers differ in whether `path` holds the part at which we are mounted.
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        answer = await asyncio.to_thread(self.answer, scope["method"], path)
        headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        chunks = answer.chunks()
        while scope["method"] != "HEAD" and (chunk := await asyncio.to_thread(next, chunks, b"")):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


_REASONS = {
    200: "OK",
    302: "Found",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    429: "Too Many Requests",
    503: "Service Unavailable",
}


def _refusal(status: int, text: str, headers: Mapping[str, str] | None = None) -> Answer:
    body = f"{text}\n".encode()
    plain = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body)), "Cache-Control": "no-store"}
    return Answer(status, {**plain, **(headers or {})}, text=body)


async def _live(receive: _Receive, send: _Send) -> None:
    for part in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{part}.complete"})


class _TokenBucket:
    """So many a second, and a second's worth at once."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = rate
        self._at = clock()

    def take(self) -> float:
        """Take one; returns the seconds to wait if there is none, else 0."""
        with self._lock:
            now = self._clock()
            self._tokens = min(max(self._rate, 1.0), self._tokens + (now - self._at) * self._rate)
            self._at = now
            if self._tokens < 1:
                return (1 - self._tokens) / self._rate
            self._tokens -= 1
            return 0.0
