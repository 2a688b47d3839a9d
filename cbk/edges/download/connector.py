"""Sockets to origins: the name is looked up once, its addresses are judged, and the connection goes to one of them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from cbk.edges.download.dns_resolver import Address
from cbk.errors import LinkForbidden, OriginUnavailable
from cbk.rules.backup.links import LinkTarget, address_is_public

Resolve: TypeAlias = Callable[[str, int], Iterable[Address]]
Connect: TypeAlias = Callable[[int, Any, float | None], socket.socket]

_TRIES_PER_FAMILY = 2  # addresses; a network whose IPv6 leads nowhere must not use up the patience for IPv4


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
