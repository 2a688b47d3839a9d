"""Who gets in, by which name, and what a browser may do with what it gets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

# Everything comes from here, nothing runs, nothing is sent anywhere, and no other site shows it in a frame.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
# RFC 3986, 3.2.2: an IPv6 address and a port.
_IN_BRACKETS = re.compile(r"\[([0-9a-fA-F:.]+)\](?::[0-9]*)?")
CHALLENGE = 'Basic realm="Cloud Backup Kit", charset="UTF-8"'


@dataclass(frozen=True, slots=True)
class Credentials:
    """`pair` is user:password, `token` opens the metrics alone. Never shown."""

    pair: str
    token: str | None = None

    def __repr__(self) -> str:
        return "Credentials(...)"

    def open_page(self, authorization: str | None) -> bool:
        """Whether an Authorization header holds the pair (RFC 7617)."""
        given = _after("basic", authorization)
        if given is None:
            return False
        try:
            decoded = base64.b64decode(given, validate=True)
        except ValueError:
            return False
        return _equal(decoded, self.pair.encode())

    def open_metrics(self, authorization: str | None) -> bool:
        """Whether it holds the token (RFC 6750), or the pair."""
        given = _after("bearer", authorization)
        if given is None:
            return self.open_page(authorization)
        return self.token is not None and _equal(given.encode(), self.token.encode())


def _after(scheme: str, authorization: str | None) -> str | None:
    named, _, rest = (authorization or "").partition(" ")
    return rest.strip() if named.lower() == scheme else None


def _equal(given: bytes, expected: bytes) -> bool:
    """Compare in a time that tells neither the length nor the beginning of what is expected."""
    return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(expected).digest())


def is_our_name(host: str | None, names: Iterable[str]) -> bool:
    """Whether a Host header names this page: by one of `names` (lower case), or by an address.

    A page of somebody else's can make its own name stand for this machine (DNS rebinding), and its scripts would then be taken for
    ours; an address and a name that is not theirs they cannot have.
    """
    if not host:
        return False
    bracketed = _IN_BRACKETS.fullmatch(host)
    name, _, port = (bracketed[1], "", "") if bracketed else host.partition(":")
    if port and not port.isdecimal():  # "localhost:5556@evil.example" is a name of evil's
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name.lower().removesuffix(".") in names
    return True
