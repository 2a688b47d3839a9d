"""The URL of Redis: what is understood of it, as Celery wants it and as redis-py wants it, which are not the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

BROKER_URL_EXAMPLE = "redis://127.0.0.1:6379/0"
# Celery's words for what a server's certificate has to be, and Redis' own.
_CERT_REQS = {
    "cert_none": "none",
    "cert_optional": "optional",
    "cert_required": "required",
    "none": "none",
    "optional": "optional",
    "required": "required",
}
_TLS_NAMES = frozenset(
    {"ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_keyfile_password", "ssl_check_hostname"}
)
_TRUE, _FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerUrl:
    """Where Redis is: `celery` and `redis` are its URL for these two, and hold a password if there is one; `tls` is what
    Celery and redis-py take beside it, empty without TLS; `place` is for people, without user and password.
    """

    celery: str = field(repr=False)
    redis: str = field(repr=False)
    tls: Mapping[str, str | bool] = field(repr=False)
    place: str


def parse_broker_url(text: str) -> BrokerUrl:
    """What a URL says. Raises ValueError, which repeats nothing of it that could be secret.

    >>> parse_broker_url("redis://127.0.0.1").celery
    'redis://127.0.0.1:6379/0'
    >>> parse_broker_url("redis+socket:///run/redis.sock?virtual_host=2").redis
    'unix:///run/redis.sock?db=2'
    """
    scheme = text.partition("://")[0].lower()
    if scheme.startswith("sentinel"):
        raise ValueError("sentinel:// is not supported: name the primary, or an address that follows it, such as a proxy's")
    if scheme not in {"redis", "rediss", "redis+socket", "unix"}:
        raise ValueError(f"expected a Redis URL such as {BROKER_URL_EXAMPLE}")
    if ";" in text:
        raise ValueError("several URLs are not supported: name one address, which may be a proxy's before several servers")
    try:
        parts = urlsplit(text)
        query = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        return _socket(parts, query) if scheme in {"redis+socket", "unix"} else _address(parts, query)
    except _UrlError as error:
        raise ValueError(str(error)) from None
    except ValueError:
        raise ValueError("cannot be understood: in a user or a password, @ : / ? # and % must be %-encoded") from None


class _UrlError(Exception):
    """What is wrong with a URL, in words that may be shown."""


def _address(parts: SplitResult, query: dict[str, str]) -> BrokerUrl:
    if parts.fragment or "@" in parts.path or "@" in parts.query:
        raise ValueError
    is_encrypted = parts.scheme == "rediss"
    host, port = unquote(parts.hostname or "127.0.0.1"), parts.port or 6379
    number = _number(query.pop("db", "") or query.pop("virtual_host", "") or unquote(parts.path).strip("/") or "0")
    tls = _tls(query) if is_encrypted else {}
    _refuse_the_rest(query, hint="" if is_encrypted else "; ssl_... belongs to rediss://")
    shown = f"[{host}]" if ":" in host else host
    url = f"{parts.scheme}://{_who(parts)}{shown}:{port}/{number}"
    spelled = {name: str(value).lower() if isinstance(value, bool) else value for name, value in tls.items()}
    return BrokerUrl(
        celery=url,
        redis=f"{url}?{urlencode(spelled)}" if spelled else url,
        tls=tls,
        place=f"{parts.scheme}://{shown}:{port}/{number}",
    )


def _socket(parts: SplitResult, query: dict[str, str]) -> BrokerUrl:
    if parts.fragment or "@" in parts.path or "@" in parts.query or parts.port:
        raise ValueError
    path = unquote(parts.path)
    if parts.hostname or not path.strip("/"):
        raise _UrlError("expected the path of a socket, such as redis+socket:///run/redis/redis.sock")
    number = _number(query.pop("db", "") or query.pop("virtual_host", "") or "0")
    _refuse_the_rest(query)
    place = f"redis+socket://{quote(path)}?virtual_host={number}"
    return BrokerUrl(
        celery=f"redis+socket://{_who(parts)}{quote(path)}?virtual_host={number}",
        redis=f"unix://{_who(parts)}{quote(path)}?db={number}",
        tls={},
        place=place,
    )


def _who(parts: SplitResult) -> str:
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not user and not password:
        return ""
    return f"{quote(user, safe='')}{':' + quote(password, safe='') if password else ''}@"


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise _UrlError("expected the number of a database behind the address, such as /0")
    return int(text)


def _tls(query: dict[str, str]) -> dict[str, str | bool]:
    """The parameters of TLS, taken out of `query`. Without one, a certificate is required and compared with the host's name."""
    found: dict[str, str | bool] = {"ssl_cert_reqs": "required"}
    for name in sorted(_TLS_NAMES & query.keys()):
        value = query.pop(name)
        if name == "ssl_cert_reqs":
            if value.lower() not in _CERT_REQS:
                raise _UrlError("ssl_cert_reqs takes required, optional or none")
            found[name] = _CERT_REQS[value.lower()]
        elif name == "ssl_check_hostname":
            if value.lower() not in _TRUE | _FALSE:
                raise _UrlError("ssl_check_hostname takes true or false")
            found[name] = value.lower() in _TRUE
        else:
            found[name] = value
    if found["ssl_cert_reqs"] == "none":
        found.setdefault("ssl_check_hostname", False)
    return found


def _refuse_the_rest(query: Mapping[str, str], hint: str = "") -> None:
    """No @ is left behind the ?, so that these are names, and not the end of a password with a ? in it."""
    if query:
        raise _UrlError(f"{', '.join(sorted(query))} cannot be set in the URL of Redis{hint}")
