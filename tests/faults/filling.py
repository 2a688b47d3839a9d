"""A disk that fills up under a working worker, again and again."""

from tests.faults.cuts import THREADS
from tests.faults.disks import MemoryDisk, fill
from tests.faults.scene import Scene, Tally, describe
from tests.faults.worker import DONE, UNKNOWN, process, work

_MEGABYTES = 48
_FILES = 40
_PATIENCE_SECONDS = 60
# What is left for the worker; its files need more.
_LEFT_BYTES = (0, 1_000_000)


def fill_under_load(folder, origin, *, times, seed=0):
    """So many times: nothing is kept free, the disk fills while eight threads work, and somebody makes room; gives the tally."""
    tally = Tally(f"disk full under load, {describe('tmpfs', catalog_on_disk=False)}")
    with MemoryDisk(folder / "backups", megabytes=_MEGABYTES):
        scene = Scene(folder, origin, catalog_on_disk=False, seed=seed)
        while tally.times < times:
            moment = f"{tally.fault}, {tally.times + 1}"
            scene.upload_some(_FILES)
            ballast = fill(scene.site.root, leave=scene.random.randint(*_LEFT_BYTES))
            said = _work(scene)
            if not any("no space left" in line for line in said):
                tally.missed.append(f"{moment}: there was room for everything")
            tally.wrong += [f"{moment}: {line}" for line in said if line.startswith(UNKNOWN)]
            tally.times += 1
            scene.check(tally, moment=moment)
            ballast.unlink()
            scene.recover(tally, moment=moment)
            for _ in range(len(scene.newest)):
                scene.delete()
            scene.recover(tally, moment=moment)
        scene.leave()
    return tally


def _work(scene):
    """What the worker said until it was done."""
    said = []
    with process(work, scene.site.settings, THREADS) as (_, connection):
        while DONE not in said:
            assert connection.poll(_PATIENCE_SECONDS), f"the worker does nothing more after {said}"
            said.append(connection.recv())
    return said
