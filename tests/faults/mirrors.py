"""A site with so many copies and a mirror, whose passes are processes of their own: to be killed, and to lose their disk."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path

import sqlalchemy as sa

from cbk.edges.catalog.database.schema import leases, mirror_copies
from cbk.jobs.admin.init import initialise
from cbk.jobs.admin.rebuild import rebuild
from cbk.jobs.context import open_context
from cbk.jobs.dump.take import take_dump
from cbk.jobs.mirror.run import lease_of
from cbk.rules.intake.layout import copy_location, places
from cbk.settings import Settings
from cbk_app.schema import FILES
from tests.disk import File, drop

MIRROR = "there"


class MirrorScene:
    """The backup disk with `count` copies, and the settings of one mirror."""

    def __init__(self, folder, mirror, *, count, seed=1, **settings):
        self.folder = Path(folder)
        self.root = self.folder / "backups"
        self.random = random.Random(seed)
        self.settings = {
            "source_url": f"sqlite:///{folder}/app.db",
            "catalog_url": f"sqlite:///{folder}/catalog.db",
            "backup_root": str(self.root),
            "buckets": {"s3": "car-erp"},
            "mirrors": {MIRROR: mirror},
            "dumps": {"shop": {"command": ["head", "-c", "300000", "/dev/urandom"], "kind": "raw", "keep": 1000}},
            "lease": "2s",
            **settings,
        }
        engine = sa.create_engine(self.settings["source_url"])
        FILES.metadata.create_all(engine)
        engine.dispose()
        with closing(self.open()) as context:
            list(initialise(context))
        self._count = 0
        self._lease = None
        self.grow(count)

    def open(self):
        return open_context(Settings(**self.settings))

    def grow(self, count):
        """So many copies more, as `cbk rebuild` takes them in, and a dump."""
        for number in range(self._count, self._count + count):
            content = self.random.randbytes(self.random.randrange(200, 6000))
            file = File(f"cars/{number % 97}/photo-{number}.jpg", content, row=str(number + 1))
            drop(self.root, file, copy_location(places("car-erp", file.key, "s3")[0], 1))
        self._count += count
        with closing(self.open()) as context:
            rebuild(context, tell=_ignore, advance=_ignore)
            assert take_dump(context, "shop", pause=lambda _seconds: False).outcome == "stored"

    def whole(self):
        """The content of every copy."""
        return {name: (self.root / name).read_bytes() for name in _files(self.root)}

    def ledger(self):
        """The locations that the ledger says are there."""
        with closing(self.open()) as context, context.catalog.database.reading() as connection:
            return set(connection.scalars(sa.select(mirror_copies.c.location).where(mirror_copies.c.removed_at.is_(None))))

    def start(self, *arguments):
        """A pass, as a process."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("CBK_", "RCLONE_"))}
        environment |= {f"CBK_{name.upper()}": v if isinstance(v, str) else json.dumps(v) for name, v in self.settings.items()}
        command = [Path(sys.executable).parent / "cbk", "mirror", MIRROR, *arguments]
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def run(self, *arguments):
        """A pass to its end; what it printed."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=580)
        assert process.returncode == 0, output
        return output

    def wait_until_at_work(self, process):
        """Until the pass has its lease, or has ended."""
        with closing(self.open()) as context:
            query = sa.select(leases.c.until).where(leases.c.name == lease_of(MIRROR))
            before = self._lease
            while process.poll() is None and self._lease == before:
                time.sleep(0.02)
                with context.catalog.database.reading() as connection:
                    self._lease = connection.scalar(query) or before

    def kill_in_the_middle(self, seconds):
        """Start a pass and kill it, and nothing else, within so many seconds of its work; whether it was still at work."""
        process = self.start()
        try:
            self.wait_until_at_work(process)
            process.wait(self.random.uniform(0, seconds))  # where the kill falls is the point
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        finally:
            process.stdout.close()
        return False


def end_group(process):
    """What the pass started ends with it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def wait_for_lease(seconds=2.5):
    """A pass that was killed holds its lease for so long."""
    time.sleep(seconds)


def is_half(content, whole):
    """Whether what lies under a copy's name is not the copy."""
    return sha256(content).digest() != sha256(whole).digest()


def _files(folder):
    folder = Path(folder)
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".cbk" not in path.parts}


def _ignore(*_):
    pass
