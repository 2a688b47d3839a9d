"""Bugs planted on purpose, each in a copy of the tree: a suite that stays green with one of them proves nothing."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_COPIED = ("cbk", "tests", "scripts", "bench", "pyproject.toml", "celeryconfig.py")
_TESTS_FAILED = 1  # pytest's exit code

_CUTS = "tests/faults/test_power_cuts.py::test_cut_where_a_missing_flush_would_show_loses_nothing[ext4-catalog {}]"
_JOBS = "tests/integration/test_jobs.py::"
_TOGETHER = "tests/integration/test_backup_together.py::"
_ARCHIVE = "tests/unit/test_archive.py::"


@dataclass(frozen=True)
class Plant:
    """`old` becomes `new` in `file`, once, and one of `tests` has to fail. `also` are more of the same, where two things guard."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    also: tuple[tuple[str, str, str], ...] = ()

    @property
    def needs_cuts(self):
        """Whether the tests need disks whose plug can be pulled."""
        return any("power_cuts" in test for test in self.tests)


PLANTS = {
    "the bytes are not flushed": Plant(
        "cbk/edges/archive/archive.py",
        "                if not self.is_flushed:\n                    os.fsync(self._descriptor)\n",
        "",
        (_CUTS.format("elsewhere"),),
    ),
    "the folder is not flushed": Plant(
        "cbk/edges/archive/archive.py",
        "        part.move(folder, name)\n        self._changed.add(place)\n",
        "        part.move(folder, name)\n",
        (_CUTS.format("elsewhere"),),
    ),
    "the folders of a batch are not flushed": Plant(
        "cbk/edges/archive/archive.py",
        "            if self._count >= _TOGETHER and _sync_filesystem(self._root_descriptor):\n",
        "            if self._count >= _TOGETHER:\n",
        (_CUTS.format("elsewhere"),),
    ),
    "the record of a prune is not flushed": Plant(
        "cbk/edges/catalog/retention/removals.py",
        "with self._database.writing(durable=True) as connection:",
        "with self._database.writing() as connection:",
        (_CUTS.format("on the disk"),),
    ),
    "a large copy is read before it was flushed": Plant(
        "cbk/edges/archive/archive.py",
        "            os.fdatasync(self._descriptor)\n            # From",
        "            # From",
        (f"{_ARCHIVE}test_large_copy_is_read_only_as_far_as_its_reader_has_flushed_it",),
    ),
    "the end of a large copy is read before it was flushed": Plant(
        "cbk/edges/archive/archive.py",
        "        self._finished = True\n",
        "        self._finished = True\n        if self._readback is not None:\n            self._readback.reach_end()\n",
        (f"{_ARCHIVE}test_end_of_a_large_copy_is_read_only_after_its_writer_has_flushed_it",),
    ),
    "a large copy is read from the page cache": Plant(
        "cbk/edges/archive/archive.py",
        "            os.posix_fadvise(self._descriptor, max(0, position - _READBACK_GAP_BYTES), 0, os.POSIX_FADV_DONTNEED)\n",
        "",
        (f"{_ARCHIVE}test_large_copy_is_dropped_from_the_page_cache_before_it_is_read",),
    ),
    "a large copy is read under another name": Plant(
        "cbk/edges/archive/archive.py",
        "        if not os.path.samestat(",
        "        if False and not os.path.samestat(",
        (f"{_ARCHIVE}test_large_copy_whose_file_was_replaced_is_read_under_its_name",),
    ),
    "the hash of a download is not compared": Plant(
        "cbk/edges/archive/archive.py",
        "        if written.sha256 != header.sha256:\n",
        "        if written.sha256 != written.sha256:\n",
        (f"{_ARCHIVE}test_read_back_refuses_other_bytes_than_the_rows",),
    ),
    "the hash of what is read is not compared": Plant(
        "cbk/rules/backup/gzip_format.py",
        "        if self._compares and self.sha256 != self.header.sha256:\n",
        "        if self._compares and self.sha256 != self.sha256:\n",
        ("tests/unit/test_gzip_format.py::test_decoder_notices_a_header_of_other_bytes",),
    ),
    "a name on the disk is overwritten": Plant(
        "cbk/edges/archive/archive.py",
        "_RENAME_NOREPLACE = 1 ",
        "_RENAME_NOREPLACE = 0 ",
        (f"{_ARCHIVE}test_publish_does_not_overwrite",),
    ),
    "the fence is not compared": Plant(
        "cbk/edges/catalog/backup/work_queue.py",
        "versions.c.fence == claim.fence, versions.c.holder == claim.holder",
        "versions.c.fence >= claim.fence",
        ("tests/integration/test_catalog.py", "-k", "slept_through"),
    ),
    "the lease is not asked before publishing": Plant(
        "cbk/jobs/backup/backup.py",
        "        self._lease_renewer.tick(item.claim)\n        if item.part is None:\n",
        "        if item.part is None:\n",
        (f"{_JOBS}test_worker_that_slept_through_its_lease_publishes_nothing",),
    ),
    "more downloads go on than were set": Plant(
        "cbk/jobs/backup/backup.py",
        "self._is_taken or self._slots.acquire(timeout=seconds)",
        "self._is_taken or self._slots.acquire(timeout=seconds) or True",
        (f"{_TOGETHER}test_nothing_is_claimed_where_all_downloads_are_under_way",),
    ),
    "a download is never given back to the process": Plant(
        "cbk/jobs/backup/backup.py",
        "            self._slots.release()\n",
        "            pass\n",
        (f"{_TOGETHER}test_download_is_given_back_to_the_process",),
    ),
    "the download is held while a copy is stored": Plant(
        "cbk/jobs/backup/backup.py",
        "            self._slot.release()\n",
        "            pass\n",
        (f"{_TOGETHER}test_what_came_is_stored_while_another_task_downloads",),
    ),
    "the disk is not asked for its identity": Plant(
        "cbk/edges/archive/archive.py",
        "        if found != expected:\n",
        "        if found != found:\n",
        (f"{_ARCHIVE}test_require_refuses_another_disk",),
    ),
    "a full disk is not noticed": Plant(
        "cbk/rules/backup/disk_space.py", "    if free < kept:\n", "    if free < 0:\n", ("tests/unit/test_room.py",)
    ),
    "work whose message was lost is not sent again": Plant(
        "cbk/edges/catalog/backup/work_queue.py",
        "        free = sa.or_(versions.c.lease_until.is_(None), versions.c.lease_until <= now)\n        query = (\n",
        "        free = versions.c.lease_until.is_(None)\n        query = (\n",
        ("tests/faults/test_network.py", "-k", "messages"),
    ),
    "a grace is not waited for": Plant(
        "cbk/rules/retention/retention.py",
        "    return None if removal.due_at is None else max(removal.due_at, ",
        "    return None if removal.due_at is None else min(removal.first_seen_at, ",
        ("tests/faults/test_network.py", "-k", "messages"),
    ),
    "a broker's certificate is not checked": Plant(
        "cbk/rules/text/broker_url.py",
        '{"ssl_cert_reqs": "required"}',
        '{"ssl_cert_reqs": "none"}',
        ("tests/unit/test_celery_config.py", "tests/unit/test_broker_url.py", "-k", "certificate"),
    ),
    "a deaf worker never ends": Plant(
        "cbk/rules/cluster/watchdog.py", "tried=silence.tried + 1)", "tried=silence.tried)", ("tests/unit/test_watchdog.py",)
    ),
}


def is_caught(plant, folder):
    """Whether the tests fail with the bug in the tree, and why they did or did not, in pytest's words. `folder` is empty."""
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    for file, old, new in ((plant.file, plant.old, plant.new), *plant.also):
        target = folder / file
        text = target.read_text()
        assert old in text, f"{file} has changed: {old!r} is not in it"
        target.write_text(text.replace(old, new, 1))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *plant.tests],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(folder / "scripts")]), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == _TESTS_FAILED, done.stdout[-3000:] + done.stderr[-1000:]
