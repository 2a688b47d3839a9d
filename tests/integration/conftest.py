"""A kit on one desk for each test."""

import os

import pytest

from tests.desk import Desk
from tests.origin import Origin


@pytest.fixture(scope="module")
def origin():
    """An HTTP origin that forgets nothing between tests: each puts its own objects."""
    with Origin() as origin:
        yield origin


@pytest.fixture
def make_desk(tmp_path, origin, monkeypatch):
    """A function that makes a desk with settings of its own."""
    for name in list(os.environ):
        if name.startswith("CBK_"):
            monkeypatch.delenv(name)
    desks = []

    def make(**settings):
        desks.append(Desk(tmp_path, origin, **settings))
        return desks[-1]

    yield make
    for desk in desks:
        desk.close()


@pytest.fixture
def desk(make_desk):
    return make_desk()
