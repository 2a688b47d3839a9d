"""A kit on one site for each test."""

import os

import pytest

from tests.in_process_site import InProcessSite
from tests.origin import Origin


@pytest.fixture(scope="module")
def origin():
    """An HTTP origin that forgets nothing between tests: each puts its own objects."""
    with Origin() as origin:
        yield origin


@pytest.fixture
def make_site(tmp_path, origin, monkeypatch):
    """A function that makes a site with settings of its own."""
    for name in list(os.environ):
        if name.startswith("CBK_"):
            monkeypatch.delenv(name)
    sites = []

    def make(**settings):
        sites.append(InProcessSite(tmp_path, origin, **settings))
        return sites[-1]

    yield make
    for site in sites:
        site.close()
        site.require_true_counts()


@pytest.fixture
def site(make_site):
    return make_site()
