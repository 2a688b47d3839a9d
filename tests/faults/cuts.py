"""Power cuts: the plug is pulled under a working worker, the disk comes back, and every file is looked at."""

import shutil
import signal
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.faults.disks import LoopDisk
from tests.faults.scene import Scene, Tally, describe
from tests.faults.steps import DONE_AFTER, IN, IN_BATCH, NEW_FOLDERS, OUT, STEPS
from tests.faults.worker import UNKNOWN, process, work

THREADS = 8
_PATIENCE_SECONDS = 60
_SHARE_OF_DELETES = 0.3
_BATCH = 4
# More than one piece of a download.
_STEP_BYTES = 600_000
# Every file of a site is looked at after every cut: a new site now and then keeps that short.
_CUTS_PER_SCENE = 10
# The plug is pulled within this time after a random file has ended: long enough for the others to be anywhere on their way.
_WITHIN_SECONDS = 0.02


class PowerCuts:
    """A site on a disk whose plug is pulled again and again."""

    def __init__(self, disk, scene):
        self._disk = disk
        self._scene = scene
        self._random = scene.random

    def at_a_random_moment(self, tally, files):
        """Pull the plug while eight threads work on so many files."""
        self._scene.delete_some(int(files * _SHARE_OF_DELETES))
        self._scene.upload_some(files)
        self._scene.leave()
        said = []
        with process(work, self._scene.site.settings, THREADS) as (child, connection):
            for _ in range(self._random.randrange(1, files // 4 - 2)):
                assert connection.poll(_PATIENCE_SECONDS), "the worker does nothing"
                said.append(connection.recv())
            time.sleep(self._random.uniform(0, _WITHIN_SECONDS))  # where the cut falls is the point
            self._disk.pull_plug()
            child.kill()
            said += _rest(connection)
        moment = f"cut {tally.times + 1}"
        tally.wrong += [f"{moment}: {line}" for line in said if line.startswith(UNKNOWN)]
        self._look(tally, moment, under_way=True)

    def at_step(self, tally, label, *, again=False):
        """Pull the plug at a labelled step of the way of one file in or out, or of one new version of a file that is there."""
        if label in OUT:
            self._scene.delete_some(1)
        for _ in range(0 if label in OUT else _BATCH if label in IN_BATCH else 1):
            self._scene.upload(size=_STEP_BYTES, again=again)
        self._scene.leave()
        with process(work, self._scene.site.settings, 1, label, (_BATCH,)) as (child, _):
            child.join(_PATIENCE_SECONDS)
            reached = child.exitcode == -signal.SIGKILL
        if not reached:
            tally.missed.append(f"the step {label!r} was never reached")
            self._disk.pull_plug()
        self._look(tally, label, under_way=reached and label not in DONE_AFTER)

    def now(self, tally):
        """Pull the plug while nobody works."""
        self._scene.leave()
        self._disk.pull_plug()
        self._look(tally, "now", under_way=False)

    def _look(self, tally, moment, *, under_way):
        self._disk.power_up()
        if under_way and not self._scene.unfinished() and not self._scene.undeleted():
            tally.missed.append(f"{moment}: nothing was under way")
        tally.times += 1
        self._scene.check(tally, moment=f"{tally.fault}, {moment}")
        self._scene.recover(tally, moment=f"{tally.fault}, {moment}")


def _rest(connection):
    """What a process said that has been killed."""
    said = []
    with suppress(EOFError, OSError):
        while True:
            said.append(connection.recv())
    return said


@contextmanager
def power_cuts(folder, origin, kind, *, catalog_on_disk, seed=0):
    """A site in `folder` on a disk of `kind`."""
    with LoopDisk(kind, folder / "backups") as disk:
        scene = Scene(folder, origin, catalog_on_disk=catalog_on_disk, seed=seed)
        yield PowerCuts(disk, scene)
        scene.leave()


def cut_at_random(folder, origin, kind, *, catalog_on_disk, times, files=60, seed=0):
    """So many cuts at random moments, each while so many files are due; gives the tally."""
    tally = Tally(f"power cut under load, {describe(kind, catalog_on_disk)}")
    while tally.times < times:
        own = Path(tempfile.mkdtemp(dir=folder))
        own_seed = f"{seed} {tally.times}"
        with power_cuts(own, origin, kind, catalog_on_disk=catalog_on_disk, seed=own_seed) as cuts:
            for _ in range(min(_CUTS_PER_SCENE, times - tally.times)):
                cuts.at_a_random_moment(tally, files)
        shutil.rmtree(own)
    return tally


# Each step of a new file's way in and of a deleted one's way out, and each of a new version of a file that is there.
EACH_STEP = (*((label, False) for label in STEPS), *((label, True) for label in IN if label not in NEW_FOLDERS))


def cut_at_steps(folder, origin, kind, *, catalog_on_disk, steps=EACH_STEP, seed=0):
    """One cut at each of these steps, (label, whether it is about a new version); gives the tally."""
    tally = Tally(f"power cut at a step, {describe(kind, catalog_on_disk)}")
    with power_cuts(folder, origin, kind, catalog_on_disk=catalog_on_disk, seed=seed) as cuts:
        for label, again in steps:
            cuts.at_step(tally, label, again=again)
    return tally


def cut_after_init(folder, origin, kind):
    """One cut in the moment after `cbk init`, with a catalog on the disk; gives the tally."""
    tally = Tally(f"power cut after init, {kind}")
    with power_cuts(folder, origin, kind, catalog_on_disk=True) as cuts:
        cuts.now(tally)
    return tally
