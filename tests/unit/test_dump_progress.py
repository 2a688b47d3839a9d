"""How far a dump is, as Flower shows it."""

import importlib

import pytest


class Task:
    def __init__(self, error=None):
        self.events = []
        self.error = error

    def send_event(self, name, *, retry):
        self.events.append((name, retry))
        if self.error:
            raise self.error


@pytest.fixture
def tasks(monkeypatch, tmp_path):
    """The tasks, which need an app, and that settings."""
    monkeypatch.setenv("CBK_SOURCE_URL", f"sqlite:///{tmp_path}/app.db")
    return importlib.import_module("cbk.cluster.tasks")


@pytest.fixture
def clock(monkeypatch, tasks):
    now = [0.0]
    monkeypatch.setattr(tasks.time, "monotonic", lambda: now[0])
    return now


def test_bytes_are_shown_every_ten_seconds(clock, tasks):
    task = Task()
    told = tasks.Progress(task)
    for second in range(25):
        clock[0] = float(second)
        told(100_000_000)
    assert task.events == [("task-1.1 GB", False), ("task-2.1 GB", False)]


def test_a_redis_that_is_away_is_asked_once(clock, tasks):
    task = Task(ConnectionError("away"))
    told = tasks.Progress(task)
    for second in range(0, 100, 10):
        clock[0] = float(second)
        told(1)
    assert len(task.events) == 1
