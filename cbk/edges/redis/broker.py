"""Redis as `doctor` and `status` see it: whether it answers, may do what the kit needs, and loses nothing by itself."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from cbk.errors import BrokerUnavailable
from cbk.rules.cluster.broker_trouble import describe_trouble
from cbk.rules.text.broker_url import parse_broker_url

_PREFIX = "cbk:"
_PERMISSION = re.compile(r"'([a-z|]+)' command|access a (key|channel)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerReport:
    """What the server says: its kind and version, and what it does when its memory is full ("" if it does not tell).

    `denied` are the rights that its user lacks, as words: commands, "keys" or "channels".
    """

    version: str
    eviction: str
    denied: tuple[str, ...] = ()


def check_broker(url: str, *, timeout_seconds: float = 5.0) -> BrokerReport:
    """Ask the server, and try what workers, beat and the rate limiter do. Raises BrokerUnavailable."""
    try:
        with _client(url, timeout_seconds) as client:
            client.ping()
            server, memory = _info(client, "server"), _info(client, "memory")
            denied = _denied(client)
    except (redis.RedisError, OSError, ValueError) as error:
        raise _translated(error) from None
    name = "Valkey" if server.get("server_name") == "valkey" else "Redis"
    version = server.get("valkey_version") or server.get("redis_version", "")
    return BrokerReport(version=f"{name} {version}".strip(), eviction=str(memory.get("maxmemory_policy", "")), denied=denied)


def ping_broker(url: str, *, timeout_seconds: float = 2.0) -> None:
    """Raise BrokerUnavailable unless the server takes writes of the kit's user."""
    try:
        with _client(url, timeout_seconds) as client:
            client.ping()
            client.set(f"{_PREFIX}ping", 1, px=1000)
    except (redis.RedisError, OSError, ValueError) as error:
        raise _translated(error) from None


def _client(url: str, timeout_seconds: float) -> redis.Redis:
    return redis.Redis.from_url(
        parse_broker_url(url).redis,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        decode_responses=True,
        retry=Retry(NoBackoff(), 0),
    )


def _translated(error: Exception) -> BrokerUnavailable:
    if isinstance(error, ValueError) and not isinstance(error, redis.RedisError):
        # Its text can hold any part of the URL.
        return BrokerUnavailable("CBK_BROKER_URL cannot be understood", hint="such as redis://127.0.0.1:6379/0")
    trouble = describe_trouble(type(error).__name__, str(error))
    return BrokerUnavailable(trouble.message, hint=trouble.hint)


def _info(client: redis.Redis, section: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = client.info(section)
    except NoPermissionError:
        return {}
    return found


def _denied(client: redis.Redis) -> tuple[str, ...]:
    """What the user may not do of all that the kit does, tried on keys of its own that nobody else uses."""
    key = f"{_PREFIX}doctor:{uuid.uuid4().hex}"
    attempts: list[Callable[[], object]] = [
        lambda: client.lpush(key, "1"),
        lambda: client.rpush(key, "1"),
        lambda: client.llen(key),
        lambda: client.lrange(key, 0, -1),
        lambda: client.brpop([key], timeout=1),
        lambda: client.delete(key),
        lambda: client.hset(key, "a", "1"),
        lambda: client.hget(key, "a"),
        lambda: client.hdel(key, "a"),
        lambda: client.sadd(key, "1"),
        lambda: client.smembers(key),
        lambda: client.srem(key, "1"),
        lambda: client.zadd(key, {"1": 1}),
        lambda: client.zrevrangebyscore(key, 1, 0),
        lambda: client.zremrangebyscore(key, 0, 0),
        lambda: client.zrem(key, "1"),
        lambda: client.set(key, "1", nx=True, px=1000),
        lambda: client.get(key),
        lambda: client.expire(key, 1),
        lambda: client.eval("return redis.call('TIME')", 1, key),
        client.time,
        lambda: client.publish(f"/0.{_PREFIX}doctor", "1"),
        lambda: _in_a_transaction(client, key),
        lambda: _subscribed(client, by_pattern=False),
        lambda: _subscribed(client, by_pattern=True),
    ]
    denied: dict[str, None] = {}
    for attempt in attempts:
        try:
            attempt()
        except NoPermissionError as error:
            denied[_right(str(error))] = None
        except redis.ResponseError as error:
            if "ACL failure in script" not in str(error):
                raise
            denied[_right(str(error))] = None
    return tuple(denied)


def _in_a_transaction(client: Any, key: str) -> None:
    with client.pipeline(transaction=True) as pipeline:
        pipeline.watch(key)
        pipeline.multi()
        pipeline.delete(key)
        pipeline.execute()


def _subscribed(client: Any, *, by_pattern: bool) -> None:
    """Listen for a moment as a worker does, to its remote control and events."""
    with client.pubsub() as listener:
        if by_pattern:
            listener.psubscribe("/0.celeryev/*")
        else:
            listener.subscribe("/0.celery.pidbox")
        listener.get_message(timeout=1.0)


def _right(said: str) -> str:
    """The right that is missing, from the server's answer: "lpush", "keys", "channels"."""
    match = _PERMISSION.search(said)
    if match is None:
        return "something"
    return (match[1] or f"{match[2]}s").lower()
