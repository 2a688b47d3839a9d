"""Which links are followed, and what a link tells about itself.

A link comes from a row, and rows are hostile input: one can point this machine at its own network. So a link is taken apart once,
here, and the connection goes to the `LinkTarget` that came out, never to what another parser makes of the same text.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, urlsplit

from cbk.errors import LinkForbidden

Scheme = Literal["http", "https"]

LONGEST_LINK = 8192  # characters; what storage services and proxies take as a request line
_LONGEST_HOST = 253  # RFC 1035 2.3.4, without the closing dot
_DEFAULT_PORTS: Mapping[Scheme, int] = {"https": 443, "http": 80}
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
# RFC 6761, RFC 6762, RFC 8375, the top-level domain that ICANN keeps free for private use, and what routers like to call it.
_PRIVATE_SUFFIXES = (".localhost", ".local", ".home.arpa", ".internal", ".lan")

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # RFC 4291 2.4; all that is routed today
_DOCUMENTATION = ipaddress.IPv6Network("3fff::/20")  # RFC 9637, newer than Python 3.11's own list
# What a cloud's machines reach their host by, although it is of the public range: Azure's documentation calls it "WireServer".
_PLATFORMS = frozenset({ipaddress.IPv4Address("168.63.129.16")})
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are the IPv4 address


@dataclass(frozen=True, slots=True)
class LinkTarget:
    """Where a link leads. `host` is as `normalized_host` gives it; where `must_be_public`, every address of it has to be."""

    scheme: Scheme
    host: str
    port: int
    must_be_public: bool

    @property
    def label(self) -> str:
        """What a message calls the target: its host, and its port where that is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class _AllowedHost:
    """One entry: the host itself, or with `below` every name under it; `port` None stands for the scheme's own (443, 80)."""

    host: str
    below: bool
    port: int | None

    def matches(self, scheme: Scheme, host: str, port: int) -> bool:
        named = host.endswith("." + self.host) if self.below else host == self.host
        return named and port == (self.port or _DEFAULT_PORTS[scheme])

    @property
    def vouches(self) -> bool:
        """Whether who wrote the entry knows each host that it names, and not only who gives names below its domain.

        Below a public domain that can be anybody: a load balancer of any account has a name below amazonaws.com, and where it is an
        internal one, a private address.
        """
        return not self.below or ("." + self.host).endswith(_PRIVATE_SUFFIXES)


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """The hosts that may be fetched from; with no entries at all, every public one over https.

    An entry without a port stands for the scheme's own port alone: naming `nas.lan` for its web server does not open
    every other service of that machine. `*.example.com` stands for every name below example.com, not for example.com; their
    addresses have to be public, unless the domain is one that only an own network has (`*.minio.lan`).
    """

    entries: tuple[_AllowedHost, ...] = ()

    @classmethod
    def parse(cls, text: str) -> AllowedHosts:
        """Read "host, host:port, *.example.com". Raise ValueError that names every entry that is none of these."""
        entries: list[_AllowedHost] = []
        problems: list[str] = []
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            try:
                entries.append(_parse_entry(part))
            except ValueError as problem:
                problems.append(f"{part!r}: {problem}")
        if problems:
            raise ValueError("; ".join(problems))
        return cls(tuple(entries))

    def __bool__(self) -> bool:
        return bool(self.entries)

    def target(self, scheme: Scheme, host: str, port: int) -> LinkTarget | None:
        """The target that this host and port are; None where no entry names them."""
        matching = [entry for entry in self.entries if entry.matches(scheme, host, port)]
        return LinkTarget(scheme, host, port, must_be_public=not any(entry.vouches for entry in matching)) if matching else None


def _parse_entry(text: str) -> _AllowedHost:
    if "://" in text or "/" in text:
        raise ValueError("expected a host without scheme and path")
    if "@" in text:
        raise ValueError("expected a host without user name")
    below = text.startswith("*.")
    rest = text.removeprefix("*.")
    if "*" in rest:
        raise ValueError("expected the * at the start, as in *.example.com")
    host, port = (rest, None) if rest.count(":") > 1 and not rest.startswith("[") else _split_port(rest)
    name = normalized_host(host)
    if name is None or (below and _address(name) is not None):
        raise ValueError("expected host, host:port or *.example.com")
    return _AllowedHost(name, below, port)


def _split_port(text: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::(.*))?", text)
    if match is None:
        raise ValueError("expected host, host:port or *.example.com")
    host, port = match.groups()
    if port is None:
        return host, None
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError("expected a port from 1 to 65535")
    return host, int(port)


def check_link(link: str, allowed: AllowedHosts) -> LinkTarget:
    """Take a link apart and say where it leads.

    Raise LinkForbidden where that is not a place to fetch from. Its message names the host at most: path and query are the secret.
    """
    if len(link) > LONGEST_LINK:
        raise LinkForbidden(f"the link is longer than {LONGEST_LINK} characters")
    if not link.isprintable() or " " in link or "\\" in link:
        raise LinkForbidden("the link holds white space, control characters or a backslash")
    parts = _split(link)
    scheme = _scheme(parts)
    if "@" in parts.netloc:
        raise LinkForbidden("the link holds a user name or a password")
    host = _host(parts)
    port = _port(parts, scheme)
    target = LinkTarget(scheme, host, port, must_be_public=True)
    if not allowed:
        _check_public(target)
        return target
    named = allowed.target(scheme, host, port)
    if named is None:
        raise LinkForbidden(f"{target.label} is not an allowed host", hint="name it in CBK_ALLOWED_HOSTS to fetch from it")
    return named


def request_target(link: str) -> bytes:
    """Path and query of a link that was checked, byte for byte: what was signed is what is asked for.

    Letters beyond ASCII, which a request cannot hold, are percent-encoded as UTF-8.
    """
    target = re.sub(r"^[^:/?#]*://[^/?#]*", "", link).partition("#")[0]
    return _quoted(target if target.startswith("/") else f"/{target}").encode()


def follow_redirect(link: str, location: str) -> str | None:
    """The link that a Location leads to from `link` (RFC 3986 5.2), None where it leads nowhere.

    It stays as it is but for dots in its path, which lead to where they say, and for letters beyond ASCII and blanks
    after the host, which are percent-encoded, as curl does. Other bytes than those of UTF-8 are surrogates here.
    """
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*:)?(//[^/?#]*)?([^?#]*)(\?[^#]*)?(?:#.*)?", location, re.DOTALL)
    base = re.match(r"([A-Za-z]+:)(//[^/?#]*)([^?#]*)", link)
    if not location or match is None or base is None:
        return None
    scheme, authority, path, query = (part or "" for part in match.groups())
    if not scheme and not authority:
        if path and not path.startswith("/"):
            path = base[3][: base[3].rfind("/") + 1] + path
        elif not path:
            path = base[3]
        authority = base[2]
    return f"{scheme or base[1]}{authority}{_quoted(_without_dots(path) + query)}"


def _without_dots(path: str) -> str:
    """RFC 3986 5.2.4: each `..` takes what is before it; doubled slashes stay."""
    kept: list[str] = []
    *folders, last = path.split("/")
    for segment in folders:
        if segment == "..":
            if len(kept) > 1:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if last == ".." and len(kept) > 1:
        kept.pop()
    return "/".join([*kept, "" if last in {".", ".."} else last])


def _quoted(text: str) -> str:
    return re.sub(rb"[^!-~]", lambda byte: b"%%%02X" % byte[0][0], text.encode("utf-8", "surrogateescape")).decode("ascii")


def _split(link: str) -> SplitResult:
    try:
        return urlsplit(link)
    except ValueError:
        pass
    raise LinkForbidden("the link has no valid host")


def _scheme(parts: SplitResult) -> Scheme:
    if parts.scheme == "https":
        return "https"
    if parts.scheme == "http":
        return "http"
    raise LinkForbidden("the link is neither https nor http")


def _host(parts: SplitResult) -> str:
    host = normalized_host(parts.hostname or "")
    if host is None or ("[" in parts.netloc and ":" not in host):
        raise LinkForbidden("the link has no valid host")
    return host


def _port(parts: SplitResult, scheme: Scheme) -> int:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise LinkForbidden("the link has no valid port")
    return port or _DEFAULT_PORTS[scheme]


def _check_public(target: LinkTarget) -> None:
    hint = "a host on your own network is fetched from where CBK_ALLOWED_HOSTS names it"
    if target.scheme != "https":
        raise LinkForbidden(
            f"{target.label} is linked over plain http", hint="plain http is for hosts that CBK_ALLOWED_HOSTS names"
        )
    if _address(target.host) is not None:
        if not address_is_public(target.host):
            raise LinkForbidden(f"{target.label} is not a public address", hint=hint)
    elif "." not in target.host or target.host.endswith(_PRIVATE_SUFFIXES):
        raise LinkForbidden(f"{target.label} is not a public name", hint=hint)


@functools.lru_cache(maxsize=256)
def normalized_host(host: str) -> str | None:
    """The one spelling of a host: ASCII (IDNA 2003), lower case, no closing dot, an address in its shortest form.

    None where it is no host. That includes the spellings of an IPv4 address that only some resolvers know ("127.1", "0x7f.1",
    "2130706433", "0177.0.0.1"): as in the WHATWG URL standard, what ends in a number is an address or nothing.
    """
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        return str(_address(host)) if ":" in host and _address(host) else None
    if ":" in host:
        return str(_address(host)) if _address(host) else None
    try:
        name = host.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError:
        return None
    labels = name.split(".")
    if len(name) > _LONGEST_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        return None
    if _NUMBER.fullmatch(labels[-1]):
        return name if _address(name) else None
    return name


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    # A scope ("fe80::1%eth0") belongs to one machine's interface.
    return None if isinstance(address, ipaddress.IPv6Address) and address.scope_id else address


def is_address(host: str) -> bool:
    """Whether a normalized host is an IP address and no name."""
    return _address(host) is not None


def address_is_public(text: str) -> bool:
    """Whether an IP address is one of the public internet; an IPv4 address inside an IPv6 one is what counts.

    What cannot be told is not public: Teredo (RFC 4380), everything outside the global unicast range, and what is no address.
    """
    address = _address(text)
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(address.packed[-4:])
        if inner is None:
            return address in _GLOBAL_UNICAST and address not in _DOCUMENTATION and address.is_global and not address.teredo
        address = inner
    if address is None or address in _PLATFORMS:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def link_digest(link: str) -> str:
    """16 hex digits that change with the link: enough to notice a fresh one without keeping it."""
    return hashlib.sha256(link.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def link_expires_at(link: str) -> datetime | None:
    """When a signed link says that it expires (UTC); None where it does not say so in a way that is known.

    AWS Signature 4 (X-Amz-Date + X-Amz-Expires; also MinIO, R2, B2, SeaweedFS), Google (X-Goog-) and Alibaba (x-oss-) alike;
    AWS Signature 2, CloudFront and Google's older form (Expires, Unix seconds); Azure SAS (se, ISO 8601; ske, where a key of a user
    signed it, which dies then). It is a promise, not a fact: a link dies earlier with the session of its signer.
    """
    try:
        query = {name.lower(): value for name, value in parse_qsl(urlsplit(link).query)}
        return _expires_at(query)
    except (ValueError, OverflowError):
        return None


def _expires_at(query: Mapping[str, str]) -> datetime | None:
    for vendor in ("x-amz", "x-goog", "x-oss"):
        if f"{vendor}-date" in query and f"{vendor}-expires" in query:
            signed_at = datetime.strptime(query[f"{vendor}-date"], "%Y%m%dT%H%M%S%z")
            return signed_at.astimezone(UTC) + timedelta(seconds=_seconds(query[f"{vendor}-expires"]))
    if "signature" in query and "expires" in query:
        return datetime.fromtimestamp(_seconds(query["expires"]), UTC)
    if "sig" in query and "se" in query:
        return min(_instant(query[name]) for name in ("se", "ske") if name in query)
    return None


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _seconds(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise ValueError("not a number of seconds")
    return int(text)
