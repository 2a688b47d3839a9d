"""What `status` says where work waits: with workers that take some, and without any."""

from contextlib import suppress
from datetime import timedelta

import pytest

from cbk.errors import DownloadError
from cbk.jobs.status import take_status
from cbk.jobs.workers import FACT
from cbk.rules.health import Kind
from tests.desk import Desk
from tests.origin import Origin, status

LONG = timedelta(hours=1)


@pytest.fixture
def desk(tmp_path):
    with Origin() as origin:
        desk = Desk(tmp_path, origin, clock_sync="ignore")
        yield desk
        desk.close()


def says_nobody_works(desk):
    return Kind.WORKERS in [problem.kind for problem in take_status(desk.kit).problems]


def test_versions_that_wait_long_and_no_worker_takes_are_a_problem(desk):
    desk.upload("a.txt", b"x")
    desk.poll()
    assert not says_nobody_works(desk)
    desk.pass_time(due_at=LONG)
    assert says_nobody_works(desk)


def test_backlog_is_no_problem_while_a_worker_takes_from_it_even_in_vain(desk):
    rows = [desk.upload(f"{i}.txt", b"x", status(503)) for i in range(2)]
    desk.poll()
    desk.pass_time(due_at=LONG)
    with suppress(DownloadError):
        desk.back_up(rows[0])
    assert not says_nobody_works(desk)


def test_backlog_is_no_problem_while_a_worker_holds_a_claim(desk):
    rows = [desk.upload(f"{i}.txt", b"x") for i in range(2)]
    desk.poll()
    desk.kit.catalog.work.claim([rows[0]], LONG)
    desk.pass_time(due_at=LONG)
    assert not says_nobody_works(desk)


def test_worker_that_died_with_its_claim_is_none(desk):
    row = desk.upload("a.txt", b"x")
    desk.poll()
    desk.kit.catalog.work.claim([row], timedelta(seconds=1))
    desk.pass_time(due_at=LONG, lease_until=LONG)
    assert says_nobody_works(desk)


def test_full_disk_is_the_problem_and_not_the_workers(desk):
    desk.upload("a.txt", b"x")
    desk.poll()
    desk.pass_time(due_at=LONG)
    desk.reopen(min_free_space="1000TiB")
    assert not says_nobody_works(desk)


def test_worker_notes_that_it_is_at_work_once_for_many_files(desk):
    rows = [desk.upload(f"{i}.txt", b"x") for i in range(2)]
    desk.poll()
    desk.back_up(rows[0])
    noted = desk.fact(FACT)
    desk.back_up(rows[1])
    assert desk.fact(FACT) == noted is not None
