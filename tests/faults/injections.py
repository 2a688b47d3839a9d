"""Faults at every call that a job makes on the backup disk: each call of each way through the write path fails in turn."""

import os
import random
import shutil
import signal
import tempfile
from collections import defaultdict
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path

from tests.faults import strace
from tests.faults.disks import LoopDisk
from tests.faults.scene import Scene, Tally, describe
from tests.faults.strace import CALLS, CHANGES, CUT, KILL, Fault, calls_on, was_injected
from tests.faults.worker import GO, UNKNOWN, act, process

_PATIENCE_SECONDS = 30
_FILES_TO_DELETE = 3
_AIMS = 3
# A batch of so many files: whether each is a new version of a file, and whether a dead worker left its copy.
_BATCH = ((False, False), (True, False), (False, True), (False, False))
# Every file of a scene is looked at after every fault: a new scene now and then keeps that short.
_FAULTS_PER_SCENE = 150
ERRORS = ("EIO", "ENOSPC")
HARMS = (*ERRORS, "EROFS", "ESTALE", KILL)
_SPOKEN = {KILL: "kill -9 at a call", CUT: "power cut at a call"}


@dataclass(frozen=True)
class Way:
    """One way through the code: `prepare(scene)` gives the job with its arguments; `always` is injected beside the fault.

    `settings` are those of the site.
    """

    prepare: object
    always: tuple = ()
    # Whether it begins with a bad copy.
    spoils: bool = False
    # Whether that copy was called stored, so that a verification has to find it.
    verifies: bool = False
    settings: dict = field(default_factory=dict)


def _new_file(scene):
    return "back_up", scene.record_rows(scene.upload(size=5_000))


def _larger_file(scene):
    return "back_up", scene.record_rows(scene.upload(size=300_000))


def _new_version(scene):
    return "back_up", scene.record_rows(scene.upload(size=5_000, again=True))


def _batch(scene):
    rows = [scene.record_rows(scene.upload(size=5_000, again=again, leave_copy=left)) for again, left in _BATCH]
    return "back_up_together", rows


def _copy_left_there(scene):
    return "back_up", scene.record_rows(scene.upload(size=5_000, leave_copy=True))


def _bad_copy_there(scene):
    row_id = scene.record_rows(scene.upload(size=5_000))
    scene.spoil(row_id)
    return "back_up", row_id


def _wrong_bytes_first(scene):
    return "back_up", scene.record_rows(scene.upload(size=5_000, wrong_first=True))


def _deleted_file(scene):
    delete_id = scene.delete()
    scene.upload(size=100)  # the next one to be deleted
    scene.site.poll()
    scene.site.pass_grace()
    scene.site.publisher.prunes.clear()
    return "prune", delete_id


def _poll(scene):
    scene.upload(size=5_000)
    (scene.site.root / ".cbk/incoming/1-0.part").write_bytes(b"what a dead worker left")
    return ("poll",)


def _verification(_scene):
    return ("verify",)


def _verification_of_a_bad_copy(scene):
    row_id = scene.upload(size=5_000)
    scene.recover(Tally("a copy to be spoiled"), moment="before")
    scene.spoil(row_id)
    return ("verify",)


WAYS = {
    "a new file": Way(_new_file),
    "a larger file": Way(_larger_file),
    "a new version": Way(_new_version),
    "a batch": Way(_batch),
    "a copy that a dead worker left": Way(_copy_left_there),
    "a bad copy in the place": Way(_bad_copy_there, spoils=True),
    "wrong bytes from the origin": Way(_wrong_bytes_first),
    "a new file, no renameat2": Way(_new_file, always=("?renameat2:error=EINVAL",)),
    "a new file, no renameat2, no links": Way(_new_file, always=("?renameat2:error=EINVAL", "?linkat:error=EPERM")),
    "a deleted file": Way(_deleted_file),
    "a deleted file, kept in the trash": Way(_deleted_file, settings={"trash": "1d"}),
    "a poll": Way(_poll),
    "a verification": Way(_verification),
    "a verification that finds a bad copy": Way(_verification_of_a_bad_copy, spoils=True, verifies=True),
}


class Injections:
    """A scene where one way through the code meets faults. `disk` is where power cuts are among them."""

    def __init__(self, scene, way, logs, disk=None):
        self._scene = scene
        self._name = way
        self._way = WAYS[way]
        self._logs = logs
        self._disk = disk
        self._places = {}

    def plan(self, harms):
        """The faults for every call of this way that is about the disk; power cuts only where a call changes something."""
        self._run(None)
        self._learn()
        self._scene.recover(Tally("plan"), moment="plan", spoiled=self._way.spoils, verified=self._way.verifies)
        names = [(name, nth) for name, places in self._places.items() for nth in range(1, len(places) + 1)]
        return [Fault(name, nth, what) for what in harms for name, nth in names if what != CUT or name in CHANGES]

    def _learn(self):
        """Which calls of each name were about the disk, in the order of all calls of that name: it moves a little between runs."""
        found = defaultdict(list)
        for call in calls_on(self._logs, self._scene.site.root):
            if call.nth not in found[call.name]:  # another thread's call is as good
                found[call.name].append(call.nth)
        self._places.update(found)

    def inject(self, tally, fault):
        """Aim at one call, at most so many times; gives whether that hit the disk."""
        return any(self._inject(tally, fault) for _ in range(_AIMS))

    def _inject(self, tally, fault):
        """One fault, what came of it, and what is there afterwards. What misses the disk does not count."""
        if fault.nth > len(self._places[fault.name]):
            return False
        aimed = replace(fault, nth=self._places[fault.name][fault.nth - 1])
        outcome, exit_code = self._run(aimed)
        hit = was_injected(aimed, self._logs, self._scene.site.root)
        moment = f"{self._name}, {fault}"
        if not hit:
            self._learn()
        else:
            tally.times += 1
            if fault.is_kill and exit_code != -signal.SIGKILL:
                tally.missed.append(f"{moment}: it was not killed")
            if not fault.is_kill and (outcome is None or outcome.startswith(UNKNOWN)):
                tally.wrong.append(f"{moment}: it came out as {outcome}")
        self._scene.check(tally, moment=moment)
        self._scene.recover(tally, moment=moment, spoiled=self._way.spoils, verified=self._way.verifies)
        return hit

    def _run(self, fault):
        way = self._way
        job = way.prepare(self._scene)
        self._scene.leave()
        calls = CALLS if fault is None else tuple({fault.name, *(text.split(":")[0].lstrip("?") for text in way.always)})
        injected = [*way.always, *([fault.injection] if fault else [])]
        with process(act, self._scene.site.settings, *job) as (child, connection):
            assert connection.poll(_PATIENCE_SECONDS), "the process does not start"
            pid = connection.recv()
            with strace.traced(pid, self._logs, calls=calls, injections=injected):
                os.kill(pid, GO)
                outcome = _answer(connection)
                child.join(_PATIENCE_SECONDS)
        if fault is not None and fault.what == CUT:
            self._disk.pull_plug()
            self._disk.power_up()
        return outcome, child.exitcode


@contextmanager
def injections(folder, origin, way, *, catalog_on_disk, kind=None, seed=0):
    """A site in `folder`, with some files that are stored; with `kind`, on a disk of that kind."""
    with LoopDisk(kind, folder / "backups") if kind else nullcontext() as disk:
        scene = Scene(folder, origin, catalog_on_disk=catalog_on_disk, seed=seed, **WAYS[way].settings)
        for _ in range(_FILES_TO_DELETE):
            scene.upload(size=100)
        scene.recover(Tally("start"), moment="start")
        yield Injections(scene, way, folder / "strace", disk)
        scene.leave()


def _answer(connection):
    """What the process said, None where it died or fell silent instead."""
    try:
        return connection.recv() if connection.poll(_PATIENCE_SECONDS) else None
    except (EOFError, ConnectionResetError):
        return None


@dataclass
class Injected:
    """What came of many faults: the tallies by kind of fault, the names of the calls that were hit, and how many were aimed at."""

    tallies: list[Tally]
    hit: set[str] = field(default_factory=set)
    planned: int = 0

    @property
    def findings(self):
        return [finding for tally in self.tallies for finding in tally.findings]

    @property
    def times(self):
        return sum(tally.times for tally in self.tallies)


def inject_all(folder, origin, *, catalog_on_disk, kind=None, ways=tuple(WAYS), harms=HARMS, first_of=(), per_way=None, seed=0):
    """Each fault at each call of each way; or at the first call of these names, or `per_way` of them at random."""
    place = describe(kind, catalog_on_disk)
    tallies = {what: Tally(f"{_SPOKEN.get(what, f'{what} from a call')}, {place}") for what in harms}
    injected = Injected(list(tallies.values()))
    for way in ways:
        faults = None
        while faults is None or faults:
            own = Path(tempfile.mkdtemp(dir=folder))
            with injections(own, origin, way, catalog_on_disk=catalog_on_disk, kind=kind, seed=seed) as met:
                plan = met.plan(harms)
                if faults is None:
                    faults = _chosen(plan, first_of, per_way, random.Random(f"{seed} {way}"))
                for fault in faults[:_FAULTS_PER_SCENE]:
                    injected.planned += 1
                    if met.inject(tallies[fault.what], fault):
                        injected.hit.add(fault.name)
                faults = faults[_FAULTS_PER_SCENE:]
            shutil.rmtree(own)
    return injected


def _chosen(plan, first_of, per_way, rng):
    if first_of:
        return [fault for fault in plan if fault.name in first_of and fault.nth == 1]
    if per_way is None:
        return plan
    return list(islice(cycle(rng.sample(plan, len(plan))), per_way))
