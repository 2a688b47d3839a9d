"""One kit in this process, with time that only the tests move, and an origin in memory."""

import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from cbk.edges import host
from cbk.edges.archive import archive
from cbk.edges.catalog.database import connection
from cbk.errors import CbkError, LinkExpired, ObjectMissing
from cbk.jobs.status.status import gather_status
from cbk.jobs.verification.verify import choose, verify
from cbk.model import Fetched
from tests.in_process_site import InProcessSite
from tests.model.application import HOST, bytes_behind
from tests.model.mortal import Clock, Fate, Killed, MortalArchive

CLOCK = Clock()


class MemoryOrigin:
    """What a link says is what it gives, unless all of them `are_dead`; nothing is connected."""

    are_dead = False

    def fetch(self, link, sink, *, tick, **_):
        if self.are_dead:
            raise LinkExpired("the link expired")
        data = bytes_behind(link)
        if data is None:
            raise ObjectMissing("the origin has no such object")
        sink.expect(len(data))
        sink.write(memoryview(data))
        tick(len(data))
        return Fetched(size=len(data))


class ModelSite(InProcessSite):
    """A site that is copied from one that was prepared once, and whose workers may die at any commit and change of the disk."""

    template = None

    def __init__(self, folder, source_url, **settings):
        self.fate = Fate()
        super().__init__(folder, SimpleNamespace(address=HOST), source_url=source_url, **settings)

    def prepare(self):
        if ModelSite.template is None:
            super().prepare()
            self.close()
            ModelSite.template = Path(tempfile.mkdtemp(dir=self.folder.parent))
            shutil.copytree(self.root, ModelSite.template / "backups")
            shutil.copy(self.folder / "catalog.db", ModelSite.template)
        else:
            shutil.copytree(ModelSite.template, self.folder, dirs_exist_ok=True)

    def open(self, **settings):
        context = super().open(**settings)
        context.archive = MortalArchive(self.root)
        context.archive.fate = self.fate
        context.downloader = MemoryOrigin()
        sa.event.listen(context.catalog.engine, "commit", self.fate.step)
        return context

    @contextmanager
    def mortal(self, steps):
        """A process that dies after so many steps (None: it does not); another one takes its place."""
        self.fate.left = steps
        try:
            yield
        except Killed:
            self.fate.left = None
            self.context.close()
            self._kits.remove(self.context)
            self.reopen()
        finally:
            self.fate.left = None

    # What beat and the workers do. Each says whether it was done to its end.

    def read_tables(self):
        return self.poll().outcome == "polled"

    def fetch_all(self):
        for row_id in self.publisher.take():
            with suppress(CbkError):
                self.back_up(row_id)

    def prune_all(self):
        messages, self.publisher.prunes = self.publisher.prunes, []
        for removal, _ in messages:
            with suppress(CbkError):
                self.prune(removal.delete_id, removal.version_id)

    def lose_messages(self):
        """What waits for a worker is gone."""
        self.publisher.take()
        self.publisher.prunes.clear()

    def verify_all(self):
        verify(self.context, choose(self.context), by="the model", readers=1)

    def status(self):
        return gather_status(self.context)


@contextmanager
def fake_time():
    """A folder in memory, if there is one; `CLOCK` is the machine's clock and the catalog's."""
    folder = tempfile.mkdtemp(prefix="cbk-model-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("CBK_"):
                patch.delenv(name)
        patch.setattr(connection, "datetime", CLOCK)
        patch.setattr(archive, "_written_at", lambda _stat: CLOCK.now())
        patch.setattr(host, "now", CLOCK.now)
        patch.setattr(host, "uptime", CLOCK.uptime)
        patch.setattr(host, "clock_is_synchronised", lambda: True)
        try:
            yield Path(folder)
        finally:
            ModelSite.template = None
            shutil.rmtree(folder, ignore_errors=True)
