"""Connections to origins: dialled to checked addresses, watched while they talk, and silent about links.

`requests` is used at its adapter: a `Session` adds cookies, netrc, proxies from the environment and redirects of its own, none of
which may touch a signed link, and twice the CPU time for each request.
"""

from __future__ import annotations

import functools
import http.client
import io
import logging
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, cast

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from cbk.edges.download.dns_resolver import Address
from cbk.errors import CbkError, LinkForbidden, OriginUnavailable, SettingsError, TransferBroken
from cbk.rules.backup.links import LinkTarget, address_is_public

Resolve: TypeAlias = Callable[[str, int], Iterable[Address]]
Connect: TypeAlias = Callable[[int, Any, float | None], socket.socket]

READ_SIZE = 256 * 1024  # bytes asked of one receive, and so the most that one transfer holds
_RECEIVE_BUFFER = 64 * 1024  # bytes; headers and a small object come in one system call
_POOLS = 8  # hosts that a thread keeps a connection to; rows could name any number of them
_TRIES_PER_FAMILY = 2  # addresses; a network whose IPv6 leads nowhere must not use up the patience for IPv4

_NETWORK_ERRORS = (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError)  # OSError includes requests' own
_TIMEOUTS = (TimeoutError, urllib3.exceptions.TimeoutError)
_HANG_UPS = (ConnectionError, http.client.RemoteDisconnected, http.client.IncompleteRead)


class _HideLinks(logging.Filter):
    """urllib3 writes links with their signatures into its log, some of them as warnings. None of it is worth that."""

    def filter(self, record: logging.LogRecord) -> bool:
        del record
        return False


for _name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.response", "urllib3.util.retry"):
    logging.getLogger(_name).addFilter(_HideLinks())


class ConnectionLost(Exception):
    """The connection broke; what came before is good, and the rest may be asked for. `stalled`: by silence, which took its time."""

    def __init__(self, message: str, *, stalled: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.stalled = stalled


class Deadline:
    """Measures what comes in from the network during one transfer, headers and chunk framing included.

    A socket's timeout starts anew with each byte: an origin that sends one every 29 seconds would hold a worker for days. Only the
    time spent waiting for the network counts for the speed, not the time that the disk takes.
    """

    def __init__(self, monotonic: Callable[[], float], *, bytes_per_second: float, window_seconds: float) -> None:
        self.monotonic = monotonic
        self._bytes_per_second = bytes_per_second
        self._window_seconds = window_seconds
        self.start(float("inf"))

    def start(self, seconds: float) -> None:
        """Begin a transfer that may take `seconds`."""
        self._ends_at = self.monotonic() + seconds
        self._waited = 0.0
        self._received = 0

    def exclude(self, seconds: float) -> None:
        """So much of the transfer's time was not the network's."""
        self._ends_at += seconds

    def check(self) -> None:
        """Raise TransferBroken when the transfer's time is over."""
        if self.monotonic() >= self._ends_at:
            raise TransferBroken("the transfer takes longer than is allowed for one object")

    def received(self, count: int, waited: float) -> None:
        """Take note of `count` bytes after `waited` seconds. Raise TransferBroken when a window was slower than the minimum."""
        self._waited += waited
        self._received += count
        if self._waited >= self._window_seconds:
            if self._received < self._waited * self._bytes_per_second:
                raise TransferBroken(f"the origin sends less than {self._bytes_per_second:.0f} bytes per second")
            self._waited = 0.0
            self._received = 0


class _WatchedStream(io.RawIOBase):
    """A socket's stream under a watch."""

    def __init__(self, stream: io.RawIOBase, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        self._deadline.check()
        began = self._deadline.monotonic()
        count = self._stream.readinto(buffer)
        self._deadline.received(count or 0, self._deadline.monotonic() - began)
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


class _WatchedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, deadline: Deadline, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_WatchedStream(self.fp.detach(), deadline), _RECEIVE_BUFFER)


class Connector:
    """Opens sockets to targets. The name is looked up once, and the connection goes to an address of that very answer."""

    def __init__(self, resolve: Resolve, connect: Connect) -> None:
        self._resolve = resolve
        self._connect = connect

    def __call__(self, target: LinkTarget, timeout_seconds: float | None) -> socket.socket:
        """Raise LinkForbidden where an address is not public and has to be, OriginUnavailable where none answers."""
        addresses = self._look_up(target)
        if target.must_be_public and not all(address_is_public(address[0]) for _, address in addresses):
            raise LinkForbidden(
                f"{target.label} has an address that is not public",
                hint="a host on your own network is fetched from where CBK_ALLOWED_HOSTS names it, without a *",
            )
        reason = "it has no address"
        for family, address in _few(addresses):
            try:
                return self._connect(family, address, timeout_seconds)
            except OSError as error:
                reason = "no answer" if isinstance(error, TimeoutError) else (error.strerror or type(error).__name__).lower()
        raise OriginUnavailable(f"{target.label} cannot be reached: {reason}")

    def _look_up(self, target: LinkTarget) -> list[Address]:
        how = "be looked up"
        try:
            return list(self._resolve(target.host, target.port))
        except TimeoutError:
            how = "be looked up in time"
        except (OSError, UnicodeError):
            pass
        raise OriginUnavailable(f"the name {target.host} cannot {how}", hint="check this machine's DNS, or the link's host")


def _few(addresses: Iterable[Address]) -> Iterator[Address]:
    tries: dict[int, int] = {}
    for family, address in addresses:
        tries[family] = tries.get(family, 0) + 1
        if tries[family] <= _TRIES_PER_FAMILY:
            yield family, address


def connect(family: int, address: Any, timeout_seconds: float | None) -> socket.socket:
    """A TCP connection to one address."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(timeout_seconds)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


class _Watched:
    """What our connections have beyond urllib3's, which they are mixed into."""

    timeout: float | None

    def __init__(self, *args: Any, target: LinkTarget, dial: Connector, deadline: Deadline, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dial = functools.partial(dial, target)
        self.response_class = functools.partial(_WatchedResponse, deadline=deadline)

    def _new_conn(self) -> socket.socket:
        return self._dial(self.timeout)


class _Connection(_Watched, HTTPConnection):  # type: ignore[misc]
    pass


class _TLSConnection(_Watched, HTTPSConnection):  # type: ignore[misc]
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class _Request(requests.PreparedRequest):
    """A GET as it is: `prepare` would normalize the path, and with it the keys of objects ("a/../b" is one)."""

    def __init__(self, target: LinkTarget, link: str, headers: Mapping[str, str]) -> None:
        super().__init__()
        self.method = "GET"
        self.url = link
        self.headers = CaseInsensitiveDict(headers)
        self.target = target


def tls_context(ca_bundle: str | None) -> ssl.SSLContext:
    """A context that verifies certificates and host names, by the authorities in `ca_bundle` (PEM) or those that requests ships.

    It is made once: reading the authorities takes longer than a small download. Raise SettingsError where they cannot be read.
    """
    bundle = ca_bundle or DEFAULT_CA_BUNDLE_PATH
    try:
        return ssl.create_default_context(cafile=bundle)
    except OSError:  # ssl.SSLError is one
        pass
    raise SettingsError([f"{bundle}: expected a file of PEM certificates"])


class HttpConnections(HTTPAdapter):
    """One thread's connections, kept alive between objects."""

    def __init__(self, dial: Connector, deadline: Deadline, tls: ssl.SSLContext, timeout_seconds: tuple[float, float]) -> None:
        super().__init__(max_retries=0)
        self.deadline = deadline
        self._dial = dial
        self._tls = tls
        self._timeout_seconds = timeout_seconds
        self._pools: OrderedDict[LinkTarget, HTTPConnectionPool] = OrderedDict()

    def get(self, target: LinkTarget, link: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """Ask for a link; the answer's body is still to be read, and the caller closes it.

        Raise OriginUnavailable or LinkForbidden where there is no connection, Cut where it broke, TransferBroken on nonsense.
        """
        problem: Exception
        try:
            answer = self.send(_Request(target, link, headers), stream=True, timeout=self._timeout_seconds, proxies={})
            return cast("urllib3.BaseHTTPResponse", answer.raw)
        except _NETWORK_ERRORS as error:
            problem = _explain(error, target.label)
        # Outside of the handler: an error that is raised inside it would carry the link in its context.
        raise problem

    def close(self) -> None:
        """Close every connection."""
        while self._pools:
            self._pools.popitem()[1].close()

    # What HTTPAdapter calls, reduced to what a GET needs.

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:  # noqa: FBT001, FBT002
        """Pools are made by `_pool`."""

    def get_connection_with_tls_context(self, request: Any, *_: Any, **__: Any) -> HTTPConnectionPool:
        """The pool of the request's target."""
        pool = self._pools.get(request.target)
        if pool is None:
            pool = self._pools[request.target] = self._pool(request.target)
            if len(self._pools) > _POOLS:
                self._pools.popitem(last=False)[1].close()
        self._pools.move_to_end(request.target)
        return pool

    def _pool(self, target: LinkTarget) -> HTTPConnectionPool:
        watched: dict[str, Any] = {"target": target, "dial": self._dial, "deadline": self.deadline}
        if target.scheme == "http":
            return _Pool(target.host, target.port, **watched)
        return _TLSPool(target.host, target.port, cert_reqs="CERT_REQUIRED", ssl_context=self._tls, **watched)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """The pools of https targets verify always."""

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:
        """Path and query as they are in the link."""
        del proxies
        return request.path_url

    def build_response(self, req: requests.PreparedRequest, resp: urllib3.BaseHTTPResponse) -> requests.Response:
        """The raw response is all that is used."""
        del req
        response = requests.Response()
        response.raw = resp
        return response


def read(response: urllib3.BaseHTTPResponse, origin: str, size: int = READ_SIZE) -> bytes:
    """What has come in of the body, as it is on the network, at most `size` bytes; b"" at its end. Raise Cut where it broke."""
    try:
        return response.read1(size, decode_content=False)
    except _NETWORK_ERRORS as error:
        problem = _connection_lost(error, origin)
    raise problem


def _explain(error: Exception, origin: str) -> CbkError | ConnectionLost:
    roots = list(_roots(error))
    for root in roots:
        if isinstance(root, ssl.SSLCertVerificationError):
            return OriginUnavailable(
                f"{origin} shows a certificate that cannot be trusted: {root.verify_message}",
                hint="check this machine's clock; CBK_CA_BUNDLE names the authorities of a private origin",
            )
    for root in roots:
        if isinstance(root, ssl.SSLError):
            return OriginUnavailable(f"{origin} and this machine agree on no TLS connection ({root.reason or 'no reason given'})")
    if any(isinstance(root, _TIMEOUTS + _HANG_UPS) for root in roots):
        return _connection_lost(error, origin)
    return TransferBroken(f"{origin} gives an answer that is not HTTP ({type(error).__name__})")


def _connection_lost(error: Exception, origin: str) -> ConnectionLost:
    if any(isinstance(root, _TIMEOUTS) for root in _roots(error)):
        return ConnectionLost(f"{origin} fell silent", stalled=True)
    return ConnectionLost(f"{origin} closed the connection before the object was complete")


def _roots(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it wraps: requests and urllib3 keep causes in `args`, in `reason` and in the chain."""
    queue, seen = [error], set[int]()
    while queue:
        one = queue.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        wrapped = (*one.args, getattr(one, "reason", None), one.__cause__, one.__context__)
        queue.extend(inner for inner in wrapped if isinstance(inner, BaseException))
