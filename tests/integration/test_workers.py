"""What `status` says where work waits: with workers that take some, and without any."""

from contextlib import suppress
from datetime import timedelta

import pytest

from cbk.errors import DownloadError
from cbk.jobs.status.status import gather_status
from cbk.jobs.status.workers import WORK_FACT
from cbk.rules.status.health import Kind
from tests.in_process_site import InProcessSite
from tests.origin import Origin, status

LONG = timedelta(hours=1)


@pytest.fixture
def site(tmp_path):
    with Origin() as origin:
        site = InProcessSite(tmp_path, origin, clock_sync="ignore")
        yield site
        site.close()


def says_nobody_works(site):
    return Kind.WORKERS in [problem.kind for problem in gather_status(site.context).problems]


def test_versions_that_wait_long_and_no_worker_takes_are_a_problem(site):
    site.upload("a.txt", b"x")
    site.poll()
    assert not says_nobody_works(site)
    site.pass_time(due_at=LONG)
    assert says_nobody_works(site)


def test_backlog_is_no_problem_while_a_worker_takes_from_it_even_in_vain(site):
    rows = [site.upload(f"{i}.txt", b"x", status(503)) for i in range(2)]
    site.poll()
    site.pass_time(due_at=LONG)
    with suppress(DownloadError):
        site.back_up(rows[0])
    assert not says_nobody_works(site)


def test_backlog_is_no_problem_while_a_worker_holds_a_claim(site):
    rows = [site.upload(f"{i}.txt", b"x") for i in range(2)]
    site.poll()
    site.context.catalog.work.claim([rows[0]], LONG)
    site.pass_time(due_at=LONG)
    assert not says_nobody_works(site)


def test_worker_that_died_with_its_claim_is_none(site):
    row = site.upload("a.txt", b"x")
    site.poll()
    site.context.catalog.work.claim([row], timedelta(seconds=1))
    site.pass_time(due_at=LONG, lease_until=LONG)
    assert says_nobody_works(site)


def test_full_disk_is_the_problem_and_not_the_workers(site):
    site.upload("a.txt", b"x")
    site.poll()
    site.pass_time(due_at=LONG)
    site.reopen(min_free_space="1000TiB")
    assert not says_nobody_works(site)


def test_worker_notes_that_it_is_at_work_once_for_many_files(site):
    rows = [site.upload(f"{i}.txt", b"x") for i in range(2)]
    site.poll()
    site.back_up(rows[0])
    noted = site.fact(WORK_FACT)
    site.back_up(rows[1])
    assert site.fact(WORK_FACT) == noted is not None
