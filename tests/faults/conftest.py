"""Disks and an origin for the fault tests. Where a machine cannot have them, the tests are skipped and say why."""

import os

import pytest

from tests.faults import disks, strace
from tests.origin import Origin


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in list(os.environ):
        if name.startswith("CBK_"):
            monkeypatch.delenv(name)


@pytest.fixture(params=disks.KINDS)
def kind(request):
    """Each file system whose plug can be pulled."""
    if reason := disks.why_not(request.param):
        pytest.skip(f"POWER CUTS ON {request.param} ARE NOT TESTED: {reason}")
    return request.param


@pytest.fixture
def small_disks():
    if reason := disks.why_not("tmpfs"):
        pytest.skip(f"FULL DISKS ARE NOT TESTED: {reason}")


@pytest.fixture
def tracing():
    if reason := strace.why_not():
        pytest.skip(f"FAULTS AT SYSTEM CALLS ARE NOT TESTED: {reason}")


@pytest.fixture
def origin():
    with Origin() as origin:
        yield origin
