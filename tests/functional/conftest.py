"""A whole site for each test."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
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


def loadable(library):
    """Whether this machine can preload it: the wheel's is for x86-64."""
    env = {**os.environ, "LD_PRELOAD": library, "FAKETIME": "+730d"}
    ask = [sys.executable, "-c", "import time; print(time.time())"]
    done = subprocess.run(ask, env=env, capture_output=True, text=True, check=False)
    return done.returncode == 0 and float(done.stdout) > time.time() + 86400


@pytest.fixture(scope="session")
def libfaketime():
    """The path of the library: of the wheel, or where Debian's package has it."""
    package = Path(importlib.util.find_spec("libfaketime").origin).parent
    found = [*package.rglob("libfaketime.so.1"), *Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]
    for library in map(str, found):
        if loadable(library):
            return library
    pytest.skip(f"no libfaketime for this kind of machine ({os.uname().machine}): the clock cannot be turned")
