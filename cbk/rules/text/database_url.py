"""The URL of a database as other tools write it: understood, or refused by the name of what is not.

Nothing of it is repeated but names of parameters: a password that was not %-encoded can turn up in any other part.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

DATABASE_URL_EXAMPLE = "postgresql+psycopg://user:password@host/database"
# The first part of a URL, without a driver, as frameworks write it.
_BACKENDS = {
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "pgsql": "postgresql",
    "mysql": "mysql",
    "mysql2": "mysql",
    "mariadb": "mariadb",
    "sqlite": "sqlite",
    "sqlite3": "sqlite",
}
_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
    "sqlite": "sqlite+pysqlite",
}
_OTHERS = frozenset(
    {
        "mssql",
        "sqlserver",
        "oracle",
        "mongodb",
        "db2",
        "firebird",
        "cockroachdb",
        "cockroach",
        "clickhouse",
        "redshift",
        "snowflake",
    }
)
_DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}
_ENCODE = "in a user or a password, @ : / ? # and % must be %-encoded"


class Tls(StrEnum):
    """What a line to a database has to be: encrypted and with the right server, only encrypted, or as it comes."""

    VERIFY = "verify"
    ENCRYPT = "encrypt"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseTls:
    """What the settings say of lines to databases on other machines: what they have to be, and the authority's file."""

    default: Tls = Tls.VERIFY
    ca: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseUrl:
    """`url` for SQLAlchemy, with the kit's driver, and with a password if there is one; `place` is for people, without.

    `tls` is None unless the URL says something about it; so are the files `ca`, `certificate` and `key`.
    """

    url: str = field(repr=False)
    backend: str
    place: str
    is_local: bool
    tls: Tls | None = None
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None


def parse_database_url(text: str) -> DatabaseUrl:
    """What a URL says. Raises ValueError, which repeats nothing of it that could be secret.

    >>> parse_database_url("postgres://app:secret@db/shop?schema=sales&pgbouncer=true").place
    'postgresql://db:5432/shop'
    """
    text = text.strip()
    backend = _backend(text)
    if backend == "sqlite":
        return _sqlite(text)
    try:
        parts = urlsplit(text)
        query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        if parts.fragment or "@" in parts.path or any("@" in part for pair in query.items() for part in pair):
            raise ValueError
        port = parts.port
    except ValueError:
        raise ValueError(f"cannot be understood: {_ENCODE}") from None
    return _server(backend, parts, port, query)


def _backend(text: str) -> str:
    scheme, sign, rest = text.partition("://")
    if not sign:
        if re.match(r"jdbc:", text, re.IGNORECASE):
            raise ValueError(f"a JDBC URL cannot be used: expected {DATABASE_URL_EXAMPLE}")
        if re.search(r"(?i)\b(host|server|data source)\s*=", text):
            raise ValueError(f"a list of keywords cannot be used: expected a URL such as {DATABASE_URL_EXAMPLE}")
        raise ValueError(f"expected a database URL such as {DATABASE_URL_EXAMPLE}")
    if rest.startswith("jdbc:") or scheme.lower().startswith("jdbc:"):
        raise ValueError(f"a JDBC URL cannot be used: expected {DATABASE_URL_EXAMPLE}")
    name = scheme.partition("+")[0].lower()
    if name not in _BACKENDS:
        shown = f"no support for {name}: " if name in _OTHERS else ""
        raise ValueError(f"{shown}expected postgresql, mysql, mariadb or sqlite")
    return _BACKENDS[name]


def _sqlite(text: str) -> DatabaseUrl:
    rest, _, query = text.partition("://")[2].partition("?")
    if not rest.startswith("/") or rest.strip("/") in {"", ":memory:"}:
        raise ValueError("expected the path of a SQLite file, such as sqlite:////var/lib/app/app.db")
    refused = sorted(set(dict(parse_qsl(query, keep_blank_values=True))) - _SQLITE_HARMLESS)
    if refused:
        raise ValueError(f"{', '.join(refused)} is no parameter of a SQLite URL that the kit knows")
    return DatabaseUrl(url=f"sqlite+pysqlite://{rest}", backend="sqlite", place=f"sqlite://{rest}", is_local=True)


_SQLITE_HARMLESS = frozenset({"mode", "uri", "timeout", "check_same_thread", "connection_limit", "cache"})


def _server(backend: str, parts: SplitResult, port: int | None, query: dict[str, str]) -> DatabaseUrl:
    taken = _Taken(query)
    tls = _TLS[backend](taken)
    ca = taken.one_of("sslrootcert", "ssl_ca", "sslcert_ca", "ssl-ca")
    certificate, key = taken.one_of("sslcert", "ssl_cert", "ssl-cert"), taken.one_of("sslkey", "ssl_key", "ssl-key")
    if ca == "system":
        ca = None
    schema = taken.one_of("schema", "currentSchema", "search_path") if backend == "postgresql" else None
    taken.drop(_HARMLESS[backend])
    kept = taken.keep(_KEPT[backend])
    if schema:
        if not re.fullmatch(r"[\w$]+(\s*,\s*[\w$]+)*", schema):
            raise ValueError("schema takes the name of a schema")
        kept["options"] = f"{kept.get('options', '')} -c search_path={schema.replace(' ', '')}".strip()
    taken.refuse_the_rest(backend)
    spelled = parts.netloc.rpartition("@")[2]
    if spelled[:3].lower() == "%2f":  # libpq's way to write the folder of a socket, which SQLAlchemy does not know
        kept["host"], spelled = unquote(spelled.partition(":")[0]), ""
    host = (parts.hostname or "" if spelled else "") or kept.get("host", "").partition(",")[0]
    shown_port = port or _DEFAULT_PORTS[backend]
    database = unquote(parts.path.lstrip("/"))
    shown = f"[{host}]" if ":" in host else host
    is_local = _is_local(host) or "unix_socket" in kept
    where = f"{shown}:{shown_port}" if host and not host.startswith("/") else ""
    url = f"{_DRIVERS[backend]}://{_who(parts)}{spelled}/{database}"
    return DatabaseUrl(
        url=f"{url}?{urlencode(kept, quote_via=quote)}" if kept else url,
        backend=backend,
        place=f"{backend}://{where}/{database}",
        is_local=is_local,
        tls=tls,
        ca=ca,
        certificate=certificate,
        key=key,
    )


def _who(parts: SplitResult) -> str:
    if parts.username is None:
        return ""
    password = "" if parts.password is None else f":{quote(unquote(parts.password), safe='')}"
    return f"{quote(unquote(parts.username), safe='')}{password}@"


def _is_local(host: str) -> bool:
    if not host or host.startswith(("/", "@")) or host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Taken:
    """The parameters of a URL, of which each is taken out once it was understood."""

    def __init__(self, query: Mapping[str, str]) -> None:
        self._left = dict(query)

    def one_of(self, *names: str) -> str | None:
        """The value of the first of these that is there; all of them are taken."""
        values = [self._left.pop(name) for name in names if name in self._left]
        return values[0] if values else None

    def drop(self, names: frozenset[str]) -> None:
        """Take what other tools need and the kit does not."""
        for name in names & self._left.keys():
            del self._left[name]

    def keep(self, names: frozenset[str]) -> dict[str, str]:
        """Take what is handed to the driver."""
        return {name: self._left.pop(name) for name in sorted(names & self._left.keys())}

    def refuse_the_rest(self, backend: str) -> None:
        """Raise ValueError for what nobody understood."""
        if self._left:
            names = ", ".join(sorted(self._left))
            raise ValueError(f"{names} is no parameter of a {backend} URL that the kit knows: remove it, or name another way")


_YES, _NO = frozenset({"true", "1", "yes", "on", ""}), frozenset({"false", "0", "no", "off"})


def _postgresql_tls(taken: _Taken) -> Tls | None:
    modes = {
        "disable": Tls.OFF,
        "allow": Tls.OFF,
        "prefer": Tls.OFF,
        "require": Tls.ENCRYPT,
        "no-verify": Tls.ENCRYPT,
        "verify-ca": Tls.VERIFY,
        "verify-full": Tls.VERIFY,
    }
    return _tls_of(taken, modes)


def _mysql_tls(taken: _Taken) -> Tls | None:
    modes = {
        "disabled": Tls.OFF,
        "disable": Tls.OFF,
        "preferred": Tls.OFF,
        "prefer": Tls.OFF,
        "required": Tls.ENCRYPT,
        "require": Tls.ENCRYPT,
        "skip-verify": Tls.ENCRYPT,
        "verify_ca": Tls.VERIFY,
        "verify-ca": Tls.VERIFY,
        "verify_identity": Tls.VERIFY,
        "verify-identity": Tls.VERIFY,
        "verify-full": Tls.VERIFY,
    }
    return _tls_of(taken, modes)


def _tls_of(taken: _Taken, modes: Mapping[str, Tls]) -> Tls | None:
    """What the many spellings say. The word of a mode goes before a yes or no, and that before what accepts any certificate."""
    mode = taken.one_of("sslmode", "ssl-mode", "ssl_mode", "tls")
    switch = taken.one_of("ssl", "useSSL", "requireSSL", "usessl", "ssl_disabled")
    accept = taken.one_of("sslaccept", "ssl_accept")
    checks = taken.one_of("ssl_verify_identity", "ssl_verify_cert", "verifyServerCertificate", "ssl_check_hostname")
    said = None
    for value in (mode, switch):
        if value is None:
            continue
        word = value.strip().lower()
        if word in modes:
            said = modes[word]
        elif word in _YES or (word.startswith("{") and "false" not in word):
            said = Tls.VERIFY
        elif word in _NO:
            said = Tls.OFF
        elif word.startswith("{"):
            said = Tls.ENCRYPT
        else:
            raise ValueError(f"the word for TLS is none that is known: expected {', '.join(modes)}")
        break
    loose = (accept is not None and accept.lower() == "accept_invalid_certs") or (checks is not None and checks.lower() in _NO)
    if loose and said is not Tls.OFF:
        return Tls.ENCRYPT
    return Tls.VERIFY if said is None and (accept or checks) else said


_TLS = {"postgresql": _postgresql_tls, "mysql": _mysql_tls, "mariadb": _mysql_tls}
_POOLS = frozenset(
    {
        "connection_limit",
        "pool_timeout",
        "pool_size",
        "pool_max_conns",
        "pool",
        "max_connections",
        "socket_timeout",
        "statement_cache_size",
        "serverVersion",
        "server_version",
        "encoding",
        "reconnect",
        "timeout",
        "connect_timeout",
        "conn_max_age",
    }
)
_HARMLESS = {
    "postgresql": _POOLS
    | {"pgbouncer", "charset", "prepareThreshold", "application_name", "supa", "workaround", "binary_parameters"},
    "mysql": _POOLS | {"charset", "parseTime", "loc", "serverTimezone", "timezone", "collation", "allowPublicKeyRetrieval"},
    "mariadb": _POOLS | {"charset", "parseTime", "loc", "serverTimezone", "timezone", "collation"},
}
_KEPT = {
    "postgresql": frozenset(
        {
            "host",
            "port",
            "options",
            "target_session_attrs",
            "channel_binding",
            "gssencmode",
            "krbsrvname",
            "passfile",
            "service",
            "sslnegotiation",
            "sslcrl",
            "hostaddr",
            "load_balance_hosts",
            "require_auth",
        }
    ),
    "mysql": frozenset({"unix_socket"}),
    "mariadb": frozenset({"unix_socket"}),
}


def tls_arguments(database: DatabaseUrl, settings: DatabaseTls, *, system_ca: str) -> dict[str, object]:
    """What the driver takes so that the line is what it has to be: the URL's own word counts first, then the settings.

    `system_ca` is the file of the system's roots. Of a line that does not leave this machine nothing is asked.
    """
    wanted = database.tls or (Tls.OFF if database.is_local else settings.default)
    files = {"cert": database.certificate, "key": database.key}
    authority = database.ca or settings.ca or system_ca
    if database.backend == "postgresql":
        return _postgresql_arguments(database, wanted, authority, files)
    if database.backend in {"mysql", "mariadb"} and wanted is not Tls.OFF:
        verified = wanted is Tls.VERIFY
        given: dict[str, object] = {f"ssl_{name}": value for name, value in files.items() if value}
        return {"ssl_ca": authority, "ssl_verify_cert": verified, "ssl_verify_identity": verified} | given
    return {"ssl_disabled": True} if database.backend in {"mysql", "mariadb"} and database.tls is Tls.OFF else {}


def _postgresql_arguments(database: DatabaseUrl, wanted: Tls, authority: str, files: Mapping[str, str | None]) -> dict[str, object]:
    given: dict[str, object] = {f"ssl{name}": value for name, value in files.items() if value}
    if wanted is Tls.VERIFY:
        return {"sslmode": "verify-full", "sslrootcert": authority} | given
    if wanted is Tls.ENCRYPT:
        return {"sslmode": "require"} | given
    # "prefer" would end at a server whose certificate is broken, and hide whether a line is encrypted.
    return {"sslmode": "disable"} if database.tls is Tls.OFF or not database.is_local else {}
