"""Power cuts: the plug is pulled under a working worker, the disk comes back, and every file is looked at."""

import signal
import time

from tests.faults.disks import LoopDisk
from tests.faults.scene import Scene, Tally, describe
from tests.faults.steps import DONE_AFTER, IN, NEW_FOLDERS, OUT, STEPS
from tests.faults.worker import DONE, WENT_WELL, process, work

THREADS = 8
_PATIENCE_SECONDS = 60
_SHARE_OF_DELETES = 0.3
# The plug is pulled within this time after a random file has ended: long enough for the others to be anywhere on their way.
_WITHIN_SECONDS = 0.02


class PowerCuts:
    """A site on a disk of `kind`, whose plug is pulled again and again. A context manager."""

    def __init__(self, folder, origin, kind, *, catalog_on_disk, seed=0):
        self._disk = LoopDisk(kind, folder / "backups")
        try:
            self._scene = Scene(folder, origin, catalog_on_disk=catalog_on_disk, seed=seed)
        except BaseException:
            self._disk.close()
            raise
        self._random = self._scene.random

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._scene.leave()
        self._disk.close()

    def at_a_random_moment(self, tally, files):
        """Pull the plug while eight threads work on so many files."""
        for _ in range(int(files * _SHARE_OF_DELETES) if self._scene.newest else 0):
            self._scene.delete()
        self._scene.upload_some(files)
        self._scene.leave()
        with process(work, self._scene.desk.settings, THREADS) as (_, connection):
            for _ in range(self._random.randrange(files - THREADS)):
                self._next(connection)
            time.sleep(self._random.uniform(0, _WITHIN_SECONDS))  # where the cut falls is the point
            self._disk.pull_plug()
        self._look(tally, f"cut {tally.times + 1}", under_way=True)

    def at_step(self, tally, label, *, again=False):
        """Pull the plug at a labelled step of the way of one file in or out, or of one new version of a file that is there."""
        if label in OUT:
            self._scene.delete()
        else:
            self._scene.upload(size=200_000, again=again)
        self._scene.leave()
        with process(work, self._scene.desk.settings, 1, label) as (child, _):
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

    def _next(self, connection):
        assert connection.poll(_PATIENCE_SECONDS), "the worker does nothing"
        said = connection.recv()
        assert said != DONE, "the worker had done everything before the plug was pulled"
        assert said == WENT_WELL, said


def cut_at_random(folder, origin, kind, *, catalog_on_disk, times, files=60, seed=0):
    """So many cuts at random moments, each while so many files are due; gives the tally."""
    tally = Tally(f"power cut under load, {describe(kind, catalog_on_disk)}")
    with PowerCuts(folder, origin, kind, catalog_on_disk=catalog_on_disk, seed=seed) as cuts:
        while tally.times < times:
            cuts.at_a_random_moment(tally, files)
    return tally


# Each step of a new file's way in and of a deleted one's way out, and each of a new version of a file that is there.
EACH_STEP = (*((label, False) for label in STEPS), *((label, True) for label in IN if label not in NEW_FOLDERS))


def cut_at_steps(folder, origin, kind, *, catalog_on_disk, steps=EACH_STEP, seed=0):
    """One cut at each of these steps, (label, whether it is about a new version); gives the tally."""
    tally = Tally(f"power cut at a step, {describe(kind, catalog_on_disk)}")
    with PowerCuts(folder, origin, kind, catalog_on_disk=catalog_on_disk, seed=seed) as cuts:
        for label, again in steps:
            cuts.at_step(tally, label, again=again)
    return tally


def cut_after_init(folder, origin, kind):
    """One cut in the moment after `cbk init`, with a catalog on the disk; gives the tally."""
    tally = Tally(f"power cut after init, {kind}")
    with PowerCuts(folder, origin, kind, catalog_on_disk=True) as cuts:
        cuts.now(tally)
    return tally
