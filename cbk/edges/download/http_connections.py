"""HTTP by libcurl, over sockets that the kit opens: to judged addresses, watched while they talk, and silent about links.

libcurl is told as little as can be. It sees the origin's host and port, never the link: the request's target is
handed to it as bytes. It looks up no name and connects to nobody: each socket that it asks for comes from the
`Connector`. It follows nothing, keeps no cookies, reads no netrc and no proxy of the environment, and decodes
nothing unless it is asked to. It gives back header lines and body as they come.
"""

from __future__ import annotations

import re
import select
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress

import pycurl
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from cbk.edges.download.connector import Connector
from cbk.edges.download.deadline import Deadline
from cbk.errors import CbkError, NotTheObject, OriginUnavailable, SettingsError, TransferBroken
from cbk.rules.backup.http_responses import Headers, parse_headers, parse_status
from cbk.rules.backup.links import LinkTarget

_RECEIVE_SIZE = 32 * 1024  # bytes; headers and a small object come in one system call
# Bytes; the most that one transfer holds. libcurl receives ten times before it looks up: all of that has room.
READ_SIZE = 10 * _RECEIVE_SIZE
KEPT_CONNECTIONS = 8  # for each thread; rows could name any number of hosts
# Where libcurl would go if a socket were not ours: nowhere (RFC 5737). It is an address, so no name is ever looked up.
_NOWHERE = ["::192.0.2.1:9"]

_WANTED = {pycurl.POLL_IN: select.POLLIN, pycurl.POLL_OUT: select.POLLOUT, pycurl.POLL_INOUT: select.POLLIN | select.POLLOUT}
# How libcurl says that the connection ended before the answer did.
_HANG_UPS = {pycurl.E_PARTIAL_FILE, pycurl.E_GOT_NOTHING, pycurl.E_RECV_ERROR, pycurl.E_SEND_ERROR, pycurl.E_WRITE_ERROR}
# The parts of libcurl's messages that may be repeated: OpenSSL's reasons, which hold nothing of the link.
_CERTIFICATE_REASON = re.compile(r"SSL certificate (?:problem|verification failed): ([A-Za-z0-9 ,'()-]{1,120})")
_OTHER_NAME = re.compile(r"no alternative certificate subject name matches|does not match target host")
_TLS_REASON = re.compile(r"error:[0-9A-F]{8}:[A-Za-z ]*:[A-Za-z0-9_ ]*:([A-Za-z0-9 /-]{1,60})")
# A TCP connection that ends without TLS' own goodbye. Where its end is that of the object, too, it is taken for it, as
# by many clients: whether the object is whole is for its hash to say.
_TLS_CUT = "unexpected eof while reading"


class ConnectionLost(Exception):
    """The connection broke; what came before is good, and the rest may be asked for. `stalled`: by silence, which took its time."""

    def __init__(self, message: str, *, stalled: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.stalled = stalled


def readable_ca_bundle(path: str | None) -> str:
    """The PEM file of the authorities to trust: `path`, or the one that requests ships. Raise SettingsError where it is none."""
    bundle = path or DEFAULT_CA_BUNDLE_PATH
    try:
        ssl.create_default_context(cafile=bundle)
    except OSError:  # ssl.SSLError is one
        pass
    else:
        return bundle
    raise SettingsError([f"{bundle}: expected a file of PEM certificates"])


class HttpConnections:
    """One thread's connections, kept alive between objects, for one GET at a time.

    `connect_timeout_seconds` is for the TLS handshake, too; `read_timeout_seconds` for one silence. `ca_bundle` as of
    `readable_ca_bundle`.
    """

    def __init__(
        self,
        connector: Connector,
        deadline: Deadline,
        *,
        ca_bundle: str,
        connect_timeout_seconds: float,
        read_timeout_seconds: float,
    ) -> None:
        self.deadline = deadline
        self._connector = connector
        self._connect_timeout_seconds = connect_timeout_seconds
        self._read_timeout_seconds = read_timeout_seconds
        self._poll = select.poll()  # the socket that libcurl waits for; select(2) would end at descriptor 1023
        self._timer_at: float | None = None
        self.buffer = bytearray(READ_SIZE)  # for each body in turn: fresh memory would have to be paged in each time
        self._sockets: list[socket.socket] = []
        self._headers: Mapping[str, str] = {}
        self._response: HttpResponse | None = None
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, KEPT_CONNECTIONS)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._set_timer)
        self._easy = self._make_easy(ca_bundle)

    def _make_easy(self, ca_bundle: str) -> pycurl.Curl:
        easy = pycurl.Curl()
        easy.setopt(pycurl.NOSIGNAL, 1)
        easy.setopt(pycurl.PROXY, "")  # not even one of the environment
        easy.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        easy.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        easy.setopt(pycurl.BUFFERSIZE, _RECEIVE_SIZE)
        easy.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
        easy.setopt(pycurl.CAINFO, ca_bundle)
        easy.unsetopt(pycurl.CAPATH)  # the bundle's authorities, and no others
        easy.setopt(pycurl.CONNECT_TO, _NOWHERE)
        easy.setopt(pycurl.OPENSOCKETFUNCTION, self._open_socket)
        easy.setopt(pycurl.SOCKOPTFUNCTION, lambda *_: pycurl.SOCKOPT_ALREADY_CONNECTED)
        easy.setopt(pycurl.PREREQFUNCTION, self._note_connected)
        return easy

    def get(self, target: LinkTarget, request_target: bytes, headers: Mapping[str, str], *, unpack: bool) -> HttpResponse:
        """Ask for what `request_target` names; the answer's body is still to be read, and the caller closes it.

        With `unpack`, the body comes without its content coding: gzip, br or deflate.

        Raise OriginUnavailable or LinkForbidden where there is no connection, ConnectionLost where it broke, TransferBroken on
        nonsense.
        """
        host = f"[{target.host}]" if ":" in target.host else target.host
        self._easy.setopt(pycurl.URL, f"{target.scheme}://{host}:{target.port}/")
        self._easy.setopt(pycurl.REQUEST_TARGET, request_target)
        if headers is not self._headers:
            self._easy.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in headers.items()])
            self._headers = headers
        if unpack:
            self._easy.setopt(pycurl.ACCEPT_ENCODING, "gzip")  # what is asked for is in `headers`; this has the answer decoded
        else:
            self._easy.unsetopt(pycurl.ACCEPT_ENCODING)
        response = self._response = HttpResponse(self, target)
        self._easy.setopt(pycurl.HEADERFUNCTION, response.take_header)
        self._easy.setopt(pycurl.WRITEFUNCTION, response.take_body)
        self._multi.add_handle(self._easy)
        try:
            response.await_head()
        except BaseException:
            response.close()
            raise
        return response

    def close(self) -> None:
        """Close every connection; nothing can be asked for any more."""
        self._easy.close()
        self._multi.close()

    def proceed(self, response: HttpResponse) -> None:
        """Let a response get further, and wait for the network where it cannot. Raise as `get` does."""
        self.deadline.check()
        before = response.received
        if response.is_paused:
            response.is_paused = False
            self._easy.pause(pycurl.PAUSE_CONT)
            if response.received > before:
                return
        if self._timer_is_due():
            self._act(response, pycurl.SOCKET_TIMEOUT, 0)
        else:
            self._wait(response)

    def release(self, response: HttpResponse) -> None:
        """Be done with a response: its connection is kept where the answer has come to its end, and closed otherwise."""
        if not response.is_finished and not response.is_paused and self._timer_is_due():
            with suppress(CbkError, ConnectionLost):
                self._act(response, pycurl.SOCKET_TIMEOUT, 0)  # what came last may have been the end
        self._multi.remove_handle(self._easy)
        self._response = None

    def _wait(self, response: HttpResponse) -> None:
        limit = self._read_timeout_seconds if response.is_connected else self._connect_timeout_seconds
        now = time.monotonic()
        until = response.heard_at + limit
        if self._timer_at is not None:
            until = min(until, self._timer_at)
        before, began = response.received, self.deadline.monotonic()
        events = self._poll.poll(max(until - now, 0) * 1000)
        waited = self.deadline.monotonic() - began
        if events:
            response.heard_at = time.monotonic()
            for descriptor, event in events:
                readable = pycurl.CSELECT_IN if event & ~select.POLLOUT else 0
                writable = pycurl.CSELECT_OUT if event & select.POLLOUT else 0
                self._act(response, descriptor, readable | writable)
        elif self._timer_is_due():
            self._act(response, pycurl.SOCKET_TIMEOUT, 0)
        elif time.monotonic() >= response.heard_at + limit:
            raise ConnectionLost(f"{response.origin} fell silent", stalled=True)
        self.deadline.received(response.received - before, waited)

    def _act(self, response: HttpResponse, descriptor: int, events: int) -> None:
        _, running = self._multi.socket_action(descriptor, events)
        while self._sockets:
            self._sockets.pop().close()  # pycurl has handed a duplicate to libcurl
        if response.failure is not None:
            response.is_finished = True
            failure, response.failure = response.failure, None
            raise failure
        if not running and not response.is_finished:
            response.is_finished = True
            _, _, failed = self._multi.info_read()
            for _, code, message in failed:
                if not (response.ends_with_connection and _TLS_CUT in message):
                    response.problem = _explain(code, message, response.origin)
                    if isinstance(response.problem, TransferBroken) and not (response.is_first or response.status):
                        # What the connection's last answer had too much of came late, and was read as the head of this one.
                        response.problem = ConnectionLost(response.problem.message)

    def _timer_is_due(self) -> bool:
        return self._timer_at is not None and time.monotonic() >= self._timer_at

    # What libcurl calls. An error in here would be printed and forgotten.

    def _watch_socket(self, event: int, descriptor: int, *_: object) -> None:
        if event == pycurl.POLL_REMOVE:
            with suppress(KeyError):
                self._poll.unregister(descriptor)
        else:
            self._poll.register(descriptor, _WANTED.get(event, 0))

    def _set_timer(self, milliseconds: int) -> None:
        self._timer_at = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000

    def _open_socket(self, *_: object) -> socket.socket | int:
        response = self._response
        if response is None:
            return int(pycurl.SOCKET_BAD)
        try:
            sock = self._connector(response.target, self._connect_timeout_seconds)
        except BaseException as error:  # noqa: BLE001 - it is raised again outside of libcurl
            response.failure = error
            return int(pycurl.SOCKET_BAD)
        response.heard_at = time.monotonic()
        response.is_first = True
        self._sockets.append(sock)
        return sock

    def _note_connected(self, *_: object) -> int:
        if self._response is not None:
            self._response.is_connected = True
            self._response.heard_at = time.monotonic()
        return int(pycurl.PREREQFUNC_OK)


class HttpResponse:
    """An answer: its status and headers, and its body as it comes in."""

    def __init__(self, connections: HttpConnections, target: LinkTarget) -> None:
        self.target = target
        self.origin = target.label
        self.status = 0
        self.headers = Headers()
        self.received = 0  # bytes, those of the headers included
        self.heard_at = time.monotonic()
        self.is_connected = False
        self.is_first = False  # of its connection
        self.is_paused = False
        self.is_finished = False
        self.failure: BaseException | None = None  # why there is no connection
        self.problem: CbkError | ConnectionLost | None = None  # how the answer ended before its time
        self._connections = connections
        self._lines: list[bytes] = []
        self._buffer = memoryview(connections.buffer)
        self._start = self._end = 0  # what is held of the body
        self._wanted = READ_SIZE

    @property
    def ends_with_connection(self) -> bool:
        """Whether nothing else than its end says how long the object is (RFC 9112 6.3)."""
        return self.status == 200 and not {"content-length", "transfer-encoding"} & self.headers.keys()

    def await_head(self) -> None:
        """Wait for status and headers; what comes before them (100 to 199) is passed over. Raise as `HttpConnections.get` does."""
        while not self.status and not self.is_finished:
            self._connections.proceed(self)
        if not self.status:
            self._raise_problem()
            raise TransferBroken(f"{self.origin} gives an answer that is not HTTP")

    def read(self, size: int) -> memoryview:
        """What has come in of the body, as it is on the wire, at most `size` bytes; nothing at its end.

        The memory is lent until the next call. Raise as `get` does.
        """
        self._wanted = size
        if self._start == self._end:
            self._start = self._end = 0
        while not self._end and not self.is_finished:
            self._connections.proceed(self)
        if not self._end:
            self._raise_problem()
        start, self._start = self._start, min(self._start + size, self._end)
        return self._buffer[start : self._start]

    def _raise_problem(self) -> None:
        if self.problem is not None:
            raise self.problem

    def close(self) -> None:
        """Be done with it; to be called once."""
        self._connections.release(self)

    # What libcurl calls.

    def take_header(self, line: bytes) -> None:
        """A line of the head, or a trailer."""
        self.received += len(line)
        if self.status:
            return
        if line.rstrip(b"\r\n"):
            self._lines.append(line)
            return
        status = parse_status(self._lines)
        if status >= 200:
            self.headers = parse_headers(self._lines)
            self.status = status
        self._lines.clear()

    def take_body(self, data: bytes) -> int | None:
        """A piece of the body; where enough is held, libcurl keeps it for later."""
        end = self._end + len(data)
        if end > READ_SIZE or self._end >= self._wanted:
            self.is_paused = True
            return int(pycurl.WRITEFUNC_PAUSE)
        self._buffer[self._end : end] = data
        self._end = end
        self.received += len(data)
        return None


def _explain(code: int, message: str, origin: str) -> CbkError | ConnectionLost:
    if code == pycurl.E_PEER_FAILED_VERIFICATION:
        found = _CERTIFICATE_REASON.search(message)
        reason = found[1].strip() if found else "it is for another name" if _OTHER_NAME.search(message) else "it cannot be verified"
        return OriginUnavailable(
            f"{origin} shows a certificate that cannot be trusted: {reason}",
            hint="check this machine's clock; CBK_CA_BUNDLE names the authorities of a private origin",
        )
    if code == pycurl.E_SSL_CONNECT_ERROR:
        found = _TLS_REASON.search(message)
        if found is None:  # it hung up in the middle
            return ConnectionLost(f"{origin} closed the connection before there was one over TLS")
        return OriginUnavailable(f"{origin} and this machine agree on no TLS connection ({found[1]})")
    if code == pycurl.E_BAD_CONTENT_ENCODING:
        return NotTheObject(f"{origin} sends the object in a coding that was not asked for")
    if code in _HANG_UPS:
        return ConnectionLost(f"{origin} closed the connection before the object was complete")
    return TransferBroken(f"{origin} gives an answer that is not HTTP (libcurl {code})")
