"""Rows from the storage's own notices: doubled, in any order, by every way they come."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest

from cbk_app.contract import INVENTORY_KEY
from cbk_app.errors import AppError
from cbk_app.events import LAST_EVENTS, Inbox, Target
from cbk_app.recorder import Recorder


@pytest.fixture
def inbox(engine, bucket, store):
    LAST_EVENTS.metadata.drop_all(engine)
    recorder = Recorder(storage="s3", link=lambda key: f"https://app.example.com/{key}")
    inbox = Inbox(engine, {bucket: Target(recorder, store), "container": Target(recorder, store)})
    inbox.create_table()
    return inbox


def pytest_generate_tests(metafunc):
    """Every test of the inbox runs on both databases."""
    if "inbox" in metafunc.fixturenames:
        metafunc.parametrize("engine", ["sqlite", "postgresql"], indirect=True)


def s3_record(bucket, key, name="ObjectCreated:Put", sequencer="1", **object_):
    found = {"key": key, "size": 1, "eTag": "", "sequencer": sequencer, **object_}
    return {"eventSource": "aws:s3", "eventName": name, "s3": {"bucket": {"name": bucket}, "object": found}}


def of_s3(bucket, key, **about):
    return {"Records": [s3_record(bucket, key, **about)]}


def versions(rows_of):
    return [(row["Path"] + row["Name"], row["Version"], row["Hash"]) for row in rows_of()]


def test_an_object_that_was_created_gets_a_row_with_its_hash(inbox, bucket, s3, rows_of):
    key = "cars/ä b+c.png"
    etag = s3.client().put_object(Bucket=bucket, Key=key, Body=b"abc")["ETag"].strip('"')
    assert inbox.take_s3(of_s3(bucket, "cars/%C3%A4+b%2Bc.png", eTag=etag)) == {"batchItemFailures": []}
    assert versions(rows_of) == [(key, 1, sha256(b"abc").hexdigest())]


def test_a_notice_that_comes_twice_is_one_row(inbox, bucket, s3, rows_of):
    s3.client().put_object(Bucket=bucket, Key="a", Body=b"abc")
    for _ in range(3):
        inbox.take_s3(of_s3(bucket, "a"))
    assert len(versions(rows_of)) == 1


def test_notices_in_any_order_come_to_the_same(inbox, bucket, s3, rows_of):
    """Created, removed and created again: whatever comes last, the object is live, and never as it was before."""
    s3.client().put_object(Bucket=bucket, Key="a", Body=b"now")
    notices = [
        of_s3(bucket, "a", sequencer="0A01"),
        of_s3(bucket, "a", name="ObjectRemoved:Delete", sequencer="0A02"),
        of_s3(bucket, "a", sequencer="0A03"),
    ] * 2
    random.Random(3).shuffle(notices)
    for notice in notices:
        inbox.take_s3(notice)
    newest = max(versions(rows_of), key=lambda row: row[1])
    live = {row["Id"] for row in rows_of() if row["Version"] == newest[1]} - {
        row["FileId"] for row in rows_of("ObjectStorageDeleteLog")
    }
    assert newest[2] == sha256(b"now").hexdigest()
    assert len(live) == 1


def test_a_removal_is_logged_once(inbox, bucket, s3, rows_of):
    s3.client().put_object(Bucket=bucket, Key="a", Body=b"abc")
    inbox.take_s3(of_s3(bucket, "a", sequencer="01"))
    for _ in range(2):
        inbox.take_s3(of_s3(bucket, "a", name="ObjectRemoved:DeleteMarkerCreated", sequencer="02", versionId="v"))
    assert [row["FileId"] for row in rows_of("ObjectStorageDeleteLog")] == [1]


def test_a_creation_that_comes_after_its_removal_stays_out(inbox, bucket, s3, rows_of):
    s3.client().put_object(Bucket=bucket, Key="a", Body=b"abc")
    inbox.take_s3(of_s3(bucket, "a", name="ObjectRemoved:Delete", sequencer="02"))
    inbox.take_s3(of_s3(bucket, "a", sequencer="01"))
    assert (rows_of(), rows_of("ObjectStorageDeleteLog")) == ([], [])


def test_a_shorter_sequencer_is_filled_up_with_zeros(inbox, bucket, s3, rows_of):
    s3.client().put_object(Bucket=bucket, Key="a", Body=b"abc")
    inbox.take_s3(of_s3(bucket, "a", sequencer="0B"))
    inbox.take_s3(of_s3(bucket, "a", name="ObjectRemoved:Delete", sequencer="0AFF"))
    assert rows_of("ObjectStorageDeleteLog") == []


@pytest.mark.parametrize(
    ("name", "about"),
    [
        ("ObjectRemoved:Delete", {"versionId": "one of many"}),
        ("ObjectRestore:Completed", {}),
        ("ObjectTagging:Put", {}),
        ("ReducedRedundancyLostObject", {}),
    ],
)
def test_what_does_not_remove_the_object_is_no_delete(inbox, bucket, s3, rows_of, name, about):
    s3.client().put_object(Bucket=bucket, Key="a", Body=b"abc")
    inbox.take_s3(of_s3(bucket, "a", sequencer="01"))
    inbox.take_s3(of_s3(bucket, "a", name=name, sequencer="02", **about))
    assert rows_of("ObjectStorageDeleteLog") == []


def test_an_object_that_is_another_one_by_now_waits_for_its_own_notice(inbox, bucket, s3, rows_of):
    s3.client().put_object(Bucket=bucket, Key="a", Body=b"abc")
    inbox.take_s3(of_s3(bucket, "a", eTag="0" * 32))
    inbox.take_s3(of_s3(bucket, "never-there"))
    assert rows_of() == []


def test_other_buckets_markers_and_inventories_are_none_of_ours(inbox, bucket, rows_of):
    for notice in (of_s3("other", "a"), of_s3(bucket, "folder/"), of_s3(bucket, INVENTORY_KEY)):
        inbox.take_s3(notice)
    assert rows_of() == []


def sqs(*bodies):
    return {
        "Records": [
            {"eventSource": "aws:sqs", "messageId": str(number), "body": body if isinstance(body, str) else json.dumps(body)}
            for number, body in enumerate(bodies)
        ]
    }


def sns(event):
    return {"Message": json.dumps(event)}


WAYS = {
    "itself": lambda event: event,
    "a queue": sqs,
    "a queue of a topic": lambda event: sqs(sns(event)),
    "a topic": lambda event: {"Records": [{"Sns": sns(event)}]},
}


@pytest.mark.parametrize("wrap", WAYS.values(), ids=WAYS)
def test_a_notice_is_taken_whichever_way_it_comes(inbox, bucket, s3, rows_of, wrap):
    s3.client().put_object(Bucket=bucket, Key="a", Body=b"abc")
    assert inbox.take_s3(wrap(of_s3(bucket, "a"))) == {"batchItemFailures": []}
    assert len(rows_of()) == 1


def test_event_bridge_names_keys_as_they_are(inbox, bucket, s3, rows_of):
    s3.client().put_object(Bucket=bucket, Key="a+b", Body=b"abc")
    detail = {"bucket": {"name": bucket}, "object": {"key": "a+b", "size": 3, "etag": "", "sequencer": "01"}}
    inbox.take_s3({"detail-type": "Object Created", "detail": detail})
    detail = {**detail, "object": {**detail["object"], "sequencer": "02"}, "deletion-type": "Permanently Deleted"}
    inbox.take_s3({"detail-type": "Object Deleted", "detail": detail})
    assert [row["Name"] for row in rows_of()] == ["a+b"]
    assert len(rows_of("ObjectStorageDeleteLog")) == 1


def test_a_bad_message_of_a_queue_comes_again_and_the_others_are_taken(inbox, bucket, s3, rows_of):
    s3.client().put_object(Bucket=bucket, Key="a", Body=b"abc")
    answer = inbox.take_s3(sqs("no json", of_s3(bucket, "a"), {"strange": 1}, {"Event": "s3:TestEvent"}))
    assert answer == {"batchItemFailures": [{"itemIdentifier": "0"}, {"itemIdentifier": "2"}]}
    assert len(rows_of()) == 1


def test_a_delivery_that_is_no_notice_is_refused(inbox):
    with pytest.raises(AppError, match="no notice of S3's"):
        inbox.take_s3({"hello": "world"})


def test_ten_deliveries_at_once_of_one_notice_are_one_row(inbox, bucket, s3, rows_of):
    s3.client().put_object(Bucket=bucket, Key="a", Body=b"abc")
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(inbox.take_s3, [of_s3(bucket, "a")] * 10))
    assert len(rows_of()) == 1


# Event Grid


def of_azure(key, kind="BlobCreated", sequencer="0000000000000442", etag="", **about):
    return {
        "eventType": f"Microsoft.Storage.{kind}",
        "subject": f"/blobServices/default/containers/container/blobs/{key}",
        "data": {"eTag": etag, "contentLength": 3, "sequencer": sequencer},
        **about,
    }


def test_event_grid_makes_rows_and_deletes(inbox, rows_of, s3, bucket):
    key = "cars/blobs/ä b.png"
    s3.client().put_object(Bucket=bucket, Key=key, Body=b"abc")
    assert inbox.take_event_grid([of_azure(key, sequencer="01"), of_azure(key, sequencer="01")]) == {}
    inbox.take_event_grid(of_azure(key, "BlobDeleted", sequencer="02"))
    assert versions(rows_of) == [(key, 1, sha256(b"abc").hexdigest())]
    assert len(rows_of("ObjectStorageDeleteLog")) == 1


def test_event_grid_may_speak_in_cloud_events(inbox, rows_of, s3, bucket):
    s3.client().put_object(Bucket=bucket, Key="a", Body=b"abc")
    event = of_azure("a")
    event["type"] = event.pop("eventType")
    inbox.take_event_grid(event)
    assert len(rows_of()) == 1


def test_the_handshake_of_event_grid_is_answered(inbox, rows_of):
    handshake = {"eventType": "Microsoft.EventGrid.SubscriptionValidationEvent", "data": {"validationCode": "512d38b6"}}
    assert inbox.take_event_grid([handshake]) == {"validationResponse": "512d38b6"}
    assert inbox.take_event_grid([of_azure("a", "BlobTierChanged")]) == {}
    assert rows_of() == []
