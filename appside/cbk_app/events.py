"""Rows from the storage's own notifications, for uploads whose bytes the application never sees.

    inbox = Inbox(engine, {"car-erp": Target(recorder, store)})

    def handler(event, context):            # a Lambda function behind the bucket's events, or behind an SQS queue of them
        return inbox.take_s3(event)

S3 and Azure's Event Grid deliver at least once, and in any order. Each notice has a sequencer, which says of two about one object
which is later; the last one of each object is kept in a table of its own (`LAST_EVENTS`), and what is not later changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from urllib.parse import unquote_plus

from sqlalchemy import Column, Engine, MetaData, String, Table

from cbk_app.contract import INVENTORY_KEY, NamingError, split_key
from cbk_app.errors import AppError, ObjectGone
from cbk_app.recorder import Recorder
from cbk_app.sql import Session, open_session
from cbk_app.stores.store import Store, StoredObject

logger = logging.getLogger(__name__)

_metadata = MetaData()
LAST_EVENTS = Table(
    "ObjectStorageLastEvents",
    _metadata,
    Column("Container", String(255), primary_key=True),
    Column("KeyHash", String(64), primary_key=True),
    Column("Sequencer", String(64), nullable=False),
)

_SEQUENCER_CHARACTERS = 64


class Change(StrEnum):
    """What happened to an object."""

    CREATED = "created"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One notice. Of two about one object the one whose `sequencer` is higher, as text, is later."""

    change: Change
    container: str
    key: str
    sequencer: str
    etag: str = ""
    size: int = -1


@dataclass(frozen=True, slots=True)
class Target:
    """Where the rows of one bucket or container go, and the store by which its objects are hashed."""

    recorder: Recorder
    store: Store


@dataclass(slots=True, kw_only=True)
class Taken:
    """What became of a delivery's notices.

    `stale` ones came before, or are older than what is known; `ignored` ones are about what we keep no rows of.
    """

    recorded: int = 0
    deleted: int = 0
    stale: int = 0
    ignored: int = 0


class Inbox:
    """Takes notices and writes rows. `targets` are the buckets or containers to keep rows of, by name."""

    def __init__(self, engine: Engine, targets: Mapping[str, Target]) -> None:
        self._engine = engine
        self._targets = targets

    def create_table(self) -> None:
        """Make the table of what came last, if it is not there."""
        _metadata.create_all(self._engine)

    def take_s3(self, delivery: Mapping[str, Any]) -> dict[str, Any]:
        """Take what S3 sends to a Lambda function: itself, through SQS, through SNS or through EventBridge.

        Returns what Lambda wants to know: the messages of a queue that have to come again (switch `ReportBatchItemFailures` on).
        Raises what went wrong with a delivery that came without a queue, so that it comes again.
        """
        records = delivery.get("Records", [])
        if not any(record.get("eventSource") == "aws:sqs" for record in records):
            self.take(s3_events(delivery))
            return {"batchItemFailures": []}
        failures = []
        for record in records:
            try:
                self.take(s3_events(json.loads(record["body"])))
            except Exception:  # whatever it was, the queue brings this message again and the others are done
                logger.exception("a message was not taken", extra={"message_id": record["messageId"]})
                failures.append({"itemIdentifier": record["messageId"]})
        return {"batchItemFailures": failures}

    def take_event_grid(self, delivery: Any) -> dict[str, str]:
        """Take what Event Grid posts, in its own schema or as CloudEvents, and return what to answer as JSON (its handshake)."""
        events = delivery if isinstance(delivery, list) else [delivery]
        for event in events:
            if event.get("eventType") == "Microsoft.EventGrid.SubscriptionValidationEvent":
                return {"validationResponse": event["data"]["validationCode"]}
        self.take(event_grid_events(events))
        return {}

    def take(self, events: Iterator[Event]) -> Taken:
        """Write the rows of these notices, each in a transaction of its own."""
        taken = Taken()
        for event in events:
            outcome = self._take_one(event)
            setattr(taken, outcome, getattr(taken, outcome) + 1)
        return taken

    def _take_one(self, event: Event) -> str:
        target = self._targets.get(event.container)
        if target is None or event.key == INVENTORY_KEY or not _is_nameable(event.key):
            return "ignored"
        if event.change is Change.REMOVED:
            return self._remove(event, target)
        try:
            known = _sha256(target.store, event)
        except ObjectGone:
            return "stale"  # another notice says what it is by now
        with self._engine.begin() as connection:
            if not _is_news(open_session(connection), event):
                return "stale"
            target.recorder.record_upload(connection, event.key, hash=known)
        return "recorded"

    def _remove(self, event: Event, target: Target) -> str:
        with self._engine.begin() as connection:
            if not _is_news(open_session(connection), event):
                return "stale"
            try:
                target.recorder.record_delete(connection, event.key)
            except LookupError:
                return "ignored"  # it was never recorded; its creation, should it come now, is stale
        return "deleted"


def s3_events(delivery: Mapping[str, Any]) -> Iterator[Event]:
    """The notices in what S3 sends, whichever way it came. Raise AppError for what is none of S3's."""
    if isinstance(message := delivery.get("Message"), str):  # from SNS
        delivery = json.loads(message)
    if "detail-type" in delivery:  # from EventBridge
        yield from _from_event_bridge(delivery)
        return
    if delivery.get("Event") == "s3:TestEvent":
        return
    if "Records" not in delivery:
        raise AppError("this is no notice of S3's", hint="connect the bucket's events to this function, or to its queue")
    for record in delivery["Records"]:
        if "Sns" in record:
            yield from s3_events(record["Sns"])
            continue
        found, removes = record["s3"]["object"], _removes(record["eventName"], versioned="versionId" in record["s3"]["object"])
        if removes is not None:
            yield Event(
                change=Change.REMOVED if removes else Change.CREATED,
                container=record["s3"]["bucket"]["name"],
                key=unquote_plus(found["key"]),
                sequencer=_comparable(found["sequencer"]),
                etag=found.get("eTag", "").strip('"'),
                size=found.get("size", -1),
            )


def _removes(name: str, *, versioned: bool) -> bool | None:
    """Whether an event of this name takes the object away; None if it is about something else.

    Who deletes one version of a bucket with versioning need not have deleted the object: that is no delete.
    """
    kind, _, what = name.removeprefix("s3:").partition(":")
    if kind == "ObjectCreated":
        return False
    if kind in {"ObjectRemoved", "LifecycleExpiration"} and (what == "DeleteMarkerCreated" or not versioned):
        return True
    return None


def _from_event_bridge(delivery: Mapping[str, Any]) -> Iterator[Event]:
    kind, detail = delivery["detail-type"], delivery["detail"]
    # The kind of a delete is told by its own field: one version for good, or the object by a marker.
    one_version = "version-id" in detail["object"] and detail.get("deletion-type") == "Permanently Deleted"
    gone = kind == "Object Deleted" and not one_version
    if kind == "Object Created" or gone:
        found = detail["object"]
        yield Event(
            change=Change.REMOVED if gone else Change.CREATED,
            container=detail["bucket"]["name"],
            key=found["key"],
            sequencer=_comparable(found["sequencer"]),
            etag=found.get("etag", "").strip('"'),
            size=found.get("size", -1),
        )


def event_grid_events(events: list[Mapping[str, Any]]) -> Iterator[Event]:
    """The notices of blobs in a delivery of Event Grid's."""
    changes = {"Microsoft.Storage.BlobCreated": Change.CREATED, "Microsoft.Storage.BlobDeleted": Change.REMOVED}
    for event in events:
        kind = event.get("eventType") or event.get("type")
        change = changes.get(str(kind))
        if change is None:
            logger.warning("a notice of another kind was left alone", extra={"kind": kind})
            continue
        # /blobServices/default/containers/<container>/blobs/<name>
        container, _, key = event["subject"].partition("/containers/")[2].partition("/blobs/")
        yield Event(
            change=change,
            container=container,
            key=key,
            sequencer=_comparable(event["data"]["sequencer"]),
            etag=event["data"].get("eTag", "").strip('"'),
            size=event["data"].get("contentLength", -1),
        )


def _comparable(sequencer: str) -> str:
    """S3 has the shorter of two sequencers filled up with zeros before they are compared."""
    return sequencer.lower().ljust(_SEQUENCER_CHARACTERS, "0")


def _is_nameable(key: str) -> bool:
    try:
        split_key(key)
    except NamingError:
        return False
    return True


def _sha256(store: Store, event: Event) -> str:
    """The SHA-256 of the object that the notice speaks of. Raise ObjectGone if that is not there any more."""
    found = StoredObject(key=event.key, size=event.size, etag=event.etag, modified=datetime.min.replace(tzinfo=UTC), checksums=True)
    if known := store.sha256(found):
        return known
    digest = hashlib.sha256()
    for chunk in store.read(found):
        digest.update(chunk)
    return digest.hexdigest()


def _is_news(database: Session, event: Event) -> bool:
    """Whether nothing later is known of this object; if so, it is noted, and others wait until this transaction ends."""
    key_hash = hashlib.sha256(event.key.encode()).hexdigest()
    ignore, otherwise = ("IGNORE ", "") if database.kind == "mysql" else ("", " ON CONFLICT DO NOTHING")
    database.change(
        f'INSERT {ignore}INTO "ObjectStorageLastEvents" ("Container", "KeyHash", "Sequencer") VALUES (?, ?, ?){otherwise}',
        [event.container, key_hash, ""],
    )
    later = 'UPDATE "ObjectStorageLastEvents" SET "Sequencer" = ? WHERE "Container" = ? AND "KeyHash" = ? AND "Sequencer" < ?'
    return database.change(later, [event.sequencer, event.container, key_hash, event.sequencer]) == 1
