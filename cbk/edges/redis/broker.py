"""Redis as seen by `doctor`: whether it answers, and whether it is set up so that it loses nothing by itself."""

from __future__ import annotations

from dataclasses import dataclass

import redis

from cbk.errors import BrokerUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerReport:
    """What the server says: its kind and version, and what it does when its memory is full ("" where it does not tell)."""

    version: str
    eviction: str


def check_broker(url: str, *, timeout_seconds: float = 5.0) -> BrokerReport:
    """Ask the server. Raises BrokerUnavailable."""
    try:
        with redis.Redis.from_url(
            url, socket_timeout=timeout_seconds, socket_connect_timeout=timeout_seconds, decode_responses=True
        ) as client:
            client.ping()
            server = client.info("server")
            memory = client.info("memory")
    except (redis.RedisError, OSError, ValueError) as error:
        raise BrokerUnavailable(f"Redis does not answer: {error}", hint="is it running, is CBK_BROKER_URL right?") from None
    name = "Valkey" if server.get("server_name") == "valkey" else "Redis"
    version = server.get("valkey_version") or server.get("redis_version", "?")
    return BrokerReport(version=f"{name} {version}", eviction=str(memory.get("maxmemory_policy", "")))
