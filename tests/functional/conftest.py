"""A whole site for each test."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.functional.site import Site
from tests.origin import Origin


@pytest.fixture
def origin():
    """An HTTP origin of the test's own."""
    with Origin() as origin:
        yield origin


@pytest.fixture
def make_site(postgres, pg_database, broker_url, origin):
    """A function that makes a site with settings of its own; its processes end with the test."""
    folder = Path(tempfile.mkdtemp(prefix="cbk-site-"))
    sites = []

    def make(**settings):
        site = Site(folder, broker_url=broker_url, postgres=postgres, database=pg_database, origin=origin, **settings)
        sites.append(site)
        return site

    yield make
    for site in sites:
        site.close()
    shutil.rmtree(folder)


@pytest.fixture
def site(make_site):
    """A site whose disk and catalog are ready."""
    site = make_site()
    site.init()
    return site
