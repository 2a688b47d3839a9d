"""The conduct of one download: ask, judge the answer, pass the bytes on, go on where the connection broke.

The promise: when `fetch` returns, the sink was given every byte of one answer, or of several that are parts of one object, in order
and once, and as many as the origin announced. Whether these are the row's bytes is for their SHA-256 to say, which the sink has.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from cbk.edges.download.connector import Connect, Connector, Resolve
from cbk.edges.download.connector import connect as connect_to
from cbk.edges.download.deadline import Deadline
from cbk.edges.download.dns_resolver import DnsResolver
from cbk.edges.download.host_limit import HostLimit
from cbk.edges.download.http_connections import (
    READ_SIZE,
    ConnectionLost,
    HttpConnections,
    HttpResponse,
    readable_ca_bundle,
)
from cbk.errors import DownloadError, LinkForbidden, NotTheObject, OriginUnavailable, TooLarge, TransferBroken
from cbk.model import Fetched, ObjectProperties
from cbk.rules.backup.http_responses import REDIRECTS, Entity, check_resumed, classify_refusal, is_packed, read_entity
from cbk.rules.backup.links import AllowedHosts, LinkTarget, check_link, follow_redirect, link_expires_at, request_target
from cbk.rules.backup.object_properties import read_properties

_HEADERS = {"User-Agent": "cloud-backup-kit", "Accept": "*/*"}
# Google's and Cloudflare's storage sends an object as it is stored to who accepts its coding, and inflates it for everybody else.
_AS_STORED = _HEADERS | {"Accept-Encoding": "gzip, br, zstd"}
_UNPACKED = _HEADERS | {"Accept-Encoding": "identity"}
_EXCERPT_SIZE = 4096  # bytes of an error page that are read; the services' XML has a few hundred
_PROGRESS = 1024 * 1024  # bytes after which a broken transfer's patience starts anew
_LONGEST_PAUSE_SECONDS = 8.0


class Sink(Protocol):
    """Takes an object's bytes in order. The memory of `data` is only lent: it may not be kept."""

    def expect(self, size: int, /) -> object:
        """Be told how many bytes the origin announces, once it does; again, where another answer announces others."""

    def write(self, data: memoryview, /) -> object:
        """Take the next bytes."""


@dataclass(slots=True, kw_only=True)
class _Transfer:
    """How far one download has come: `position` counts the bytes that the sink was given."""

    link: str
    sink: Sink
    tick: Callable[[int], None]
    piece: Callable[[], int]
    now: Callable[[], datetime]
    unpack: bool
    describe: Callable[[ObjectProperties | None], object]
    entity: Entity | None = None
    digest: hashlib._Hash | None = None  # of what came so far, where a content coding leaves open what it is
    announced: int | None = None
    position: int = 0
    followed: str = ""  # the link that answered, after all redirects

    @property
    def headers(self) -> dict[str, str]:
        """The request's headers: for the whole object, or for what is missing of it."""
        whole = _UNPACKED if self.unpack else _AS_STORED
        if not self.position or self.entity is None:
            return whole
        rest = whole | {"Range": f"bytes={self.position}-"}
        return rest | {"If-Range": self.entity.if_range} if self.entity.if_range else rest


class Downloader:
    """Fetches objects by their links. One instance serves all threads; each has its own connections.

    `connect_timeout_seconds` is for one look-up of a name and for one try at an address, `read_timeout_seconds` for one silence;
    `max_seconds` is for an object as a whole, resumed parts and pauses included but not what `tick` takes, and overrun by one
    silence at most;
    `min_bytes_per_second` is demanded of every `speed_window_seconds` of waiting for the network. `max_file_bytes` None takes any
    size, `max_per_host` None any number of downloads from one host at a time. `max_resumes` counts the times in
    a row that a transfer went on without getting a megabyte further. `ca_bundle` is a PEM file of the authorities to trust instead
    of the usual ones. `sleep`, `monotonic`, `jitter` (0 to 1), `resolve` and `connect` are the outside world, for tests.
    """

    def __init__(
        self,
        allowed: AllowedHosts,
        *,
        connect_timeout_seconds: float = 10,
        read_timeout_seconds: float = 30,
        max_seconds: float = 12 * 3600,
        min_bytes_per_second: float = 1024,
        speed_window_seconds: float = 60,
        max_file_bytes: int | None = None,
        max_redirects: int = 5,
        max_resumes: int = 5,
        max_per_host: int | None = None,
        ca_bundle: str | None = None,
        sleep: Callable[[float], object] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        resolve: Resolve | None = None,
        connect: Connect = connect_to,
    ) -> None:
        self._allowed = allowed
        self._connect_timeout_seconds = connect_timeout_seconds
        self._read_timeout_seconds = read_timeout_seconds
        self._max_seconds = max_seconds
        self._min_bytes_per_second = min_bytes_per_second
        self._speed_window_seconds = speed_window_seconds
        self._max_file_bytes = max_file_bytes
        self._max_redirects = max_redirects
        self._max_resumes = max_resumes
        self._host_limit = HostLimit(max_per_host)
        self._ca_bundle = readable_ca_bundle(ca_bundle)
        self._sleep = sleep
        self._monotonic = monotonic
        self._jitter = jitter
        self._connector = Connector(resolve or DnsResolver(connect_timeout_seconds), connect)
        self._threads = threading.local()
        self._all_connections: weakref.WeakSet[HttpConnections] = weakref.WeakSet()

    def fetch(
        self,
        link: str,
        sink: Sink,
        *,
        tick: Callable[[int], None],
        now: Callable[[], datetime],
        piece: Callable[[], int] = lambda: READ_SIZE,
        unpack: bool = False,
        describe: Callable[[ObjectProperties | None], object] = lambda _: None,
    ) -> Fetched:
        """Fetch one object into `sink`, and return once it is complete.

        `tick` is called with the bytes so far, after each piece and around each pause; what it raises (LeaseLost, say) ends the
        transfer and comes out of here, as does what the sink raises. Raise a DownloadError of the class that fits; no error holds
        the link. `piece` says how many bytes to read next, at the most. `unpack` is for the plain bytes of an
        object that is stored in a content coding, or that comes in one because its origin packs what it sends. `describe` is told,
        before the first byte, what the object is besides.
        """
        with self._host_limit.slot(link, lambda: tick(0)):
            return self._fetch(_Transfer(link=link, sink=sink, tick=tick, piece=piece, now=now, unpack=unpack, describe=describe))

    def _fetch(self, transfer: _Transfer) -> Fetched:
        connections, tick = self._connections(), transfer.tick

        def timed(position: int) -> None:
            began = self._monotonic()
            tick(position)
            connections.deadline.exclude(self._monotonic() - began)

        transfer.tick = timed
        connections.deadline.start(self._max_seconds)
        resumes, mark = 0, 0
        while True:
            failure = self._attempt(connections, transfer)
            if failure is None:
                return _fetched(transfer)
            if transfer.position - mark >= _PROGRESS:
                resumes, mark = 0, transfer.position
            if resumes >= self._patience(transfer, failure):
                raise TransferBroken(failure.message) if isinstance(failure, ConnectionLost) else failure
            resumes += 1
            self._pause(transfer, resumes)

    def close(self) -> None:
        """Close all connections; no thread may be fetching. What is fetched later gets new ones."""
        self._threads = threading.local()
        while self._all_connections:
            self._all_connections.pop().close()

    def _connections(self) -> HttpConnections:
        connections: HttpConnections | None = getattr(self._threads, "connections", None)
        if connections is None:
            deadline = Deadline(
                self._monotonic, bytes_per_second=self._min_bytes_per_second, window_seconds=self._speed_window_seconds
            )
            connections = self._threads.connections = HttpConnections(
                self._connector,
                deadline,
                ca_bundle=self._ca_bundle,
                connect_timeout_seconds=self._connect_timeout_seconds,
                read_timeout_seconds=self._read_timeout_seconds,
            )
            self._all_connections.add(connections)
        return connections

    def _attempt(self, connections: HttpConnections, transfer: _Transfer) -> ConnectionLost | OriginUnavailable | None:
        """Get the object, or the rest of it. Return why it did not come to its end, where another attempt may help."""
        try:
            self._transfer(connections, transfer)
        except (ConnectionLost, OriginUnavailable) as error:
            return error
        return None

    def _patience(self, transfer: _Transfer, failure: ConnectionLost | OriginUnavailable) -> int:
        """How many attempts in a row such a failure is worth. Where nothing has come yet, a later task can start as well."""
        if transfer.position:
            may_resume = transfer.entity is not None and transfer.entity.recognizable
            asked_to_wait = isinstance(failure, OriginUnavailable) and failure.retry_after_seconds is not None
            return self._max_resumes if may_resume and not asked_to_wait else 0
        # One at once: a connection that was kept alive may have been closed by the other end in the meantime.
        return 1 if isinstance(failure, ConnectionLost) and not failure.stalled else 0

    def _pause(self, transfer: _Transfer, resumes: int) -> None:
        """No pause before the first resumption; then 0.5, 1, 2 ... seconds, give or take half of it."""
        transfer.tick(transfer.position)
        if resumes > 1:
            self._sleep(min(0.5 * 2 ** (resumes - 2), _LONGEST_PAUSE_SECONDS) * (0.5 + self._jitter()))
            transfer.tick(transfer.position)

    def _transfer(self, connections: HttpConnections, transfer: _Transfer) -> None:
        target, response = self._open(connections, transfer)
        with closing(response):
            skip = self._judge(transfer, response, target.label)
            if response.status != 416:
                self._receive(transfer, response, target.label, skip)

    def _open(self, connections: HttpConnections, transfer: _Transfer) -> tuple[LinkTarget, HttpResponse]:
        """Ask for the link, following redirects: each is a new link that has to be one to follow."""
        link, secure = transfer.link, False
        for _ in range(self._max_redirects + 1):
            connections.deadline.check()
            target = check_link(link, self._allowed)
            if secure and target.scheme != "https":
                raise LinkForbidden(f"the link is redirected from https to plain http at {target.label}")
            secure = target.scheme == "https"
            response = connections.get(target, request_target(link), transfer.headers, unpack=transfer.unpack)
            location = response.headers.get("Location")
            if response.status not in REDIRECTS or location is None:
                transfer.followed = link
                return target, response
            response.close()
            place = follow_redirect(link, location)
            if place is None:
                raise NotTheObject(f"{target.label} redirects the link to nowhere")
            link = place
        raise NotTheObject(f"the link is redirected more than {self._max_redirects} times")

    def _judge(self, transfer: _Transfer, response: HttpResponse, origin: str) -> int:
        """Take the answer for the object (or its rest) and return how many of its bytes are known already, or raise why not."""
        status, headers = response.status, response.headers
        if status != 200 and ((status >= 400 and status != 416) or not transfer.position):
            raise _refusal(transfer, response, origin)
        skip = 0
        if transfer.position and transfer.entity is not None:
            transfer.entity, skip = check_resumed(origin, transfer.entity, status, headers, position=transfer.position)
        else:
            transfer.entity = read_entity(origin, headers, is_unpacked=transfer.unpack)
            transfer.describe(read_properties(headers, transfer.followed, is_unpacked=transfer.unpack))
            transfer.digest = hashlib.sha256() if transfer.unpack or is_packed(headers) else None
        size = transfer.entity.size
        self._check_size(size)
        if size is not None and size != transfer.announced:
            transfer.sink.expect(size)
            transfer.announced = size
        return skip

    def _receive(self, transfer: _Transfer, response: HttpResponse, origin: str, skip: int) -> None:
        size = transfer.entity.size if transfer.entity is not None else None
        while chunk := response.read(transfer.piece()):
            data = chunk[skip:]
            skip = max(0, skip - len(chunk))
            if size is not None and transfer.position + len(data) > size:
                raise TransferBroken(f"{origin} sends more than it announced")
            self._check_size(transfer.position + len(data))
            if data:
                transfer.sink.write(data)
                if transfer.digest is not None:
                    transfer.digest.update(data)
                transfer.position += len(data)
            transfer.tick(transfer.position)
            if transfer.position == size and not skip:
                return
        if skip or size not in {None, transfer.position}:
            raise ConnectionLost(f"{origin} closed the connection before the object was complete")

    def _check_size(self, size: int | None) -> None:
        if self._max_file_bytes is not None and size is not None and size > self._max_file_bytes:
            raise TooLarge(f"the object is larger than the {self._max_file_bytes} bytes that are accepted")


def _fetched(transfer: _Transfer) -> Fetched:
    entity = transfer.entity
    return Fetched(
        size=transfer.position,
        content_type=entity.content_type if entity else None,
        etag=entity.etag if entity else None,
        sha256=transfer.digest.hexdigest() if transfer.digest else None,
    )


def _refusal(transfer: _Transfer, response: HttpResponse, origin: str) -> DownloadError:
    excerpt = b""
    try:
        while len(excerpt) < _EXCERPT_SIZE and (chunk := response.read(_EXCERPT_SIZE)):
            excerpt += chunk
    except ConnectionLost:
        pass  # the status is known; the page would only have told more
    return classify_refusal(
        response.status,
        excerpt.decode("utf-8", "replace"),
        response.headers,
        origin=origin,
        link_expires_at=link_expires_at(transfer.link),
        now=transfer.now(),
    )
