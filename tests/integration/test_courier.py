"""Messages on a real Valkey: what is sent, what still waits, and what goes wrong when the server is away."""

import json

import pytest
import redis
from celery import Celery

from cbk.cluster.config import kit_config
from cbk.cluster.publisher import CeleryPublisher
from cbk.errors import BrokerUnavailable
from cbk.settings import Settings
from tests.unit.test_wanted import version


def make_courier(url):
    app = Celery("courier-test", set_as_current=False)
    app.conf.update(kit_config(Settings(source_url="sqlite:////nowhere.db", broker_url=url)))
    app.conf.broker_connection_timeout = 0.01  # seconds in which to try again
    return app, CeleryPublisher(app)


@pytest.fixture
def publisher(broker_url, monkeypatch):
    monkeypatch.delenv("CBK_BROKER_URL", raising=False)
    app, publisher = make_courier(broker_url)
    yield publisher
    app.close()


def test_nothing_waits_where_nothing_was_sent(publisher):
    assert publisher.waiting_backups() == set()


def test_message_waits_under_the_id_of_its_row_until_a_worker_takes_it(publisher, broker_url):
    publisher.send_backups([[version(7)], [version(8)]])
    assert publisher.waiting_backups() == {"7", "8"}
    with redis.Redis.from_url(broker_url) as client:
        client.rpop("cbk:backup")
    assert publisher.waiting_backups() == {"8"}


def test_messages_that_wait_are_counted_over_the_queues_that_are_named(publisher):
    publisher.send_backups([[version(7)], [version(8)]])
    assert publisher.count_waiting(["backup", "prune"]) == 2
    assert publisher.count_waiting(["prune", "verify"]) == 0


def test_versions_of_one_batch_share_a_message_that_names_the_first(publisher, broker_url):
    publisher.send_backups([[version(7), version(8), version(9)]])
    assert publisher.waiting_backups() == {"7", "8", "9"}
    with redis.Redis.from_url(broker_url) as client:
        [message] = client.lrange("cbk:backup", 0, -1)
    headers = json.loads(message)["headers"]
    assert (headers["task"], headers["argsrepr"]) == ("cbk.backup_batch", "('s3/a.txt v7', 'and 2 more')")


def test_fan_out_of_more_messages_than_one_pipeline_arrives_whole(publisher):
    publisher.send_backups([version(number)] for number in range(1201))
    assert publisher.waiting_backups() == {str(number) for number in range(1201)}


def test_message_holds_the_id_and_a_name_for_people_and_nothing_else_of_the_row(publisher, broker_url):
    publisher.send_backups([[version(7)]])
    with redis.Redis.from_url(broker_url) as client:
        [message] = client.lrange("cbk:backup", 0, -1)
        assert {key for key in client.scan_iter() if not key.startswith(b"cbk:")} == set()
    headers = json.loads(message)["headers"]
    assert (headers["task"], headers["argsrepr"], headers["kwargsrepr"]) == ("cbk.backup", "('s3/a.txt v7',)", "{}")
    assert version(7).sha256 not in message.decode()


def test_server_that_is_away_is_told_as_such(monkeypatch):
    monkeypatch.delenv("CBK_BROKER_URL", raising=False)
    app, publisher = make_courier("redis://:hunter2@127.0.0.1:1/0")
    for ask in (publisher.waiting_backups, lambda: publisher.send_backups([[version(1)]])):
        with pytest.raises(BrokerUnavailable) as caught:
            ask()
        assert caught.value.message.partition(": ")[2].startswith("Redis is away: ")
        assert "hunter2" not in caught.value.message
    app.close()
