"""What a line to a database takes to be encrypted, and to end at the right server."""

from __future__ import annotations

import ssl
from functools import cache
from pathlib import Path

import certifi

from cbk.rules.text.database_url import DatabaseTls, parse_database_url, tls_arguments


def line_arguments(url: str, tls: DatabaseTls) -> dict[str, object]:
    """The arguments for the driver of a database URL. Raises ValueError if the URL cannot be understood."""
    return tls_arguments(parse_database_url(url), tls, system_ca=_system_roots())


@cache
def _system_roots() -> str:
    """The file of the authorities that this system trusts; where it has none, those that Mozilla trusts."""
    # The drivers bring libraries of their own, which look in other places than the system's.
    found = ssl.get_default_verify_paths().cafile
    candidates = [found, "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"]
    return next((name for name in candidates if name and Path(name).is_file()), certifi.where())
