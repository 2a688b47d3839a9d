"""Events that cannot be sent hold nothing up, and are sent later."""

import os
import subprocess
import sys

import pytest
from celery import Celery

from cbk.cluster.compat.event_dispatcher import EventDispatcher


class Producer:
    """Notes whether it was asked to try again, and publishes only while `broken` is not set."""

    def __init__(self):
        self.broken = True
        self.patience = []
        self.published = []

    def publish(self, event, *, retry, **_options):
        self.patience.append(retry)
        if self.broken:
            raise ConnectionError("Redis is away")
        self.published.append(event["type"])


@pytest.fixture
def dispatcher():
    app = Celery("test", broker="memory://", events="cbk.cluster.compat.event_dispatcher:Events", set_as_current=False)
    with app.connection_for_write() as connection:
        dispatcher = app.events.Dispatcher(connection, "w1@localhost", enabled=True)
        dispatcher.producer = Producer()
        yield dispatcher


def test_heartbeat_is_not_tried_again_while_redis_is_away(dispatcher):
    dispatcher.send("worker-heartbeat", retry=True)
    assert dispatcher.producer.patience == [False]


def test_heartbeat_that_could_not_be_sent_is_sent_later(dispatcher):
    dispatcher.send("worker-heartbeat", retry=True)
    dispatcher.producer.broken = False
    dispatcher.flush()
    assert dispatcher.producer.published == ["worker-heartbeat"]


def test_kits_app_sends_its_events_so(tmp_path):
    program = "from cbk.celery import app; print(app.events.Dispatcher.__mro__[1].__module__)"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CBK_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=kept | {"CBK_SOURCE_URL": "sqlite:////app.db"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == EventDispatcher.__module__
