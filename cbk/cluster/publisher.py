"""Messages: a backup task per version or batch of versions, sent in one pipeline; ids only, with a name for people beside them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from celery import Celery
from kombu.exceptions import OperationalError

from cbk.cluster.outage_log import trouble_of
from cbk.edges.catalog import Planned
from cbk.errors import BrokerUnavailable
from cbk.model import Version

MESSAGES_PER_PIPELINE = 500

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Message:
    """A task and its arguments, what Flower shows for them, and the seconds until it is to run."""

    task: str
    args: tuple[str | list[str], ...] = ()
    kwargs: dict[str, int] = field(default_factory=dict)
    shown: str
    countdown: float | None = None


def _backup_message(batch: Sequence[Version]) -> _Message:
    first = batch[0]
    if len(batch) == 1:
        return _Message(task="cbk.backup", args=(first.source_id,), shown=f"({first.label!r},)")
    shown = f"({first.label!r}, 'and {len(batch) - 1} more')"
    return _Message(task="cbk.backup_batch", args=([version.source_id for version in batch],), shown=shown)


def _prune_message(planned: Planned, now: datetime) -> _Message:
    removal = planned.removal
    return _Message(
        task="cbk.prune",
        args=() if removal.delete_id is None else (removal.delete_id,),
        kwargs={} if removal.version_id is None else {"version_id": removal.version_id},
        shown=f"({planned.label!r},)",
        countdown=max(((removal.due_at or now) - now).total_seconds(), 0) or None,
    )


class CeleryPublisher:
    """Sends through the app's broker."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        connection: Any = app.connection_for_write()
        self._errors: tuple[type[Exception], ...] = (
            *connection.recoverable_connection_errors,
            *connection.recoverable_channel_errors,
            OperationalError,
        )

    def send_backups(self, batches: Iterable[Sequence[Version]]) -> None:
        """Send one `cbk.backup` task per version, and one `cbk.backup_batch` task where several share a message.

        Raises BrokerUnavailable; some may have been sent then.
        """
        self._send([_backup_message(batch) for batch in batches])

    def send_prunes(self, planned: Iterable[Planned], now: datetime) -> None:
        """Send one `cbk.prune` task per removal, with the countdown until it is due. Raises BrokerUnavailable, as above."""
        self._send([_prune_message(each, now) for each in planned])

    def send_mirrors(self, names: Iterable[str]) -> None:
        """Send one `cbk.mirror` task per mirror. Raises BrokerUnavailable, as above."""
        self._send([_Message(task="cbk.mirror", args=(name,), shown=f"({name!r},)") for name in names])

    def _send(self, messages: list[_Message]) -> None:
        try:
            pool: Any = self._app.producer_pool
            with pool.acquire(block=True) as producer, producer.batch(MESSAGES_PER_PIPELINE):
                for message in messages:
                    self._app.send_task(
                        message.task,
                        message.args,
                        message.kwargs,
                        countdown=message.countdown,
                        argsrepr=message.shown,
                        kwargsrepr="{}",
                        producer=producer,
                        retry=False,
                    )
        except self._errors as error:
            trouble = trouble_of(error)
            raise BrokerUnavailable(f"the messages could not be sent: {trouble.message}", hint=trouble.hint) from error

    def waiting_backups(self) -> set[str]:
        """Row ids in the queue `backup`. Raises BrokerUnavailable."""
        # LRANGE is none of kombu's own commands.
        messages = self._read(lambda client, prefix: client.lrange(f"{prefix}backup", 0, -1))
        return {row_id for message in messages for row_id in _row_ids(_arguments(message))}

    def count_waiting(self, queues: Iterable[str]) -> int:
        """How many messages wait in these queues. Raises BrokerUnavailable."""
        return self._read(lambda client, _: sum(int(client.llen(queue)) for queue in queues))

    def _read(self, ask: Callable[[Any, str], _T]) -> _T:
        """Ask Redis, by a client and the prefix of the kit's keys. Kombu puts it there by itself in the commands that it uses."""
        try:
            with self._app.connection_for_read() as connection:
                channel: Any = connection.default_channel
                return ask(channel.client, channel.global_keyprefix)
        except self._errors as error:
            trouble = trouble_of(error)
            raise BrokerUnavailable(f"the queue could not be read: {trouble.message}", hint=trouble.hint) from error


def _row_ids(arguments: list[object]) -> Iterator[str]:
    for argument in arguments:
        yield from (str(each) for each in (argument if isinstance(argument, list) else [argument]))


def _arguments(message: bytes) -> list[object]:
    """The positional arguments of a task message (Celery message protocol 2: a JSON body in base64).

    One that is not understood (compressed by the operator's configuration, or not Celery's) has none: its work is sent a second
    time at worst, which does no harm.
    """
    try:
        envelope = json.loads(message)
        body = envelope["body"]
        if envelope.get("properties", {}).get("body_encoding") == "base64":
            body = base64.b64decode(body)
        return list(json.loads(body)[0])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []
