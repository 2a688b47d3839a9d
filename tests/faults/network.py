"""Lines that break: thousands of faults of the origin, of both databases' connections and of messages, under eight threads.

Each suite gives tallies of what really happened. After each round every file is compared with what was uploaded; in the end
everything is stored, or gone where the application deleted it, and no debris is left.
"""

import itertools
import random
import shutil
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from cbk.edges.download import Downloader
from cbk.model import VersionState
from cbk.rules.backup.links import AllowedHosts
from tests.faults.proxy import Proxy
from tests.faults.scene import Scene, Tally
from tests.faults.worker import UNKNOWN, do, how_it_goes, share_out
from tests.origin import announce, chunked, cut, endless, html_page, raw, redirect, s3_error, status

THREADS = 8
# Every file of a site is looked at after every round: a new site now and then keeps that short.
FILES_PER_SITE = 120
_ROUNDS = 14
_PATIENCE_SECONDS = 0.25
_LEAST_BYTES, _MOST_BYTES = 1_000, 120_000
_DELETES_PER_ROUND = 10
_SHARE_OF_BAD_MESSAGES = 0.7
# In each round some come out of nowhere.
_FORGED_ALONE = 5


class Player:
    """Beat and a worker with eight threads on the site of a scene; what they say that the kit does not know is wrong."""

    def __init__(self, scene, tally):
        self.scene, self.tally = scene, tally

    def poll(self):
        self._note([how_it_goes(self.scene.site.poll)])

    def work(self, tasks):
        """Do these: batches of row Ids, and removals."""
        context, publisher = self.scene.site.context, self.scene.site.publisher
        with ThreadPoolExecutor(THREADS) as pool:
            self._note(pool.map(lambda task: how_it_goes(lambda: do(context, publisher, task)), tasks))

    def take(self):
        """What was sent since the last time."""
        publisher = self.scene.site.publisher
        removals, publisher.prunes = publisher.prunes, []
        return [*share_out(publisher.take()), *(removal for removal, _ in removals)]

    def _note(self, said):
        self.tally.wrong += [f"{self.tally.fault}: {line}" for line in said if line.startswith(UNKNOWN)]

    def is_done(self):
        return not self.scene.unfinished() and not self.scene.undeleted()


@contextmanager
def _site(folder, origin, seed, **settings):
    """A scene in a folder of its own, which goes with it."""
    own = Path(tempfile.mkdtemp(dir=folder))
    scene = Scene(own, origin, catalog_on_disk=False, seed=seed, **settings)
    try:
        yield scene
    finally:
        scene.leave()
        shutil.rmtree(own)


# The origin


def _hang_up(sent=b"", *, reset=False):
    """Send these bytes and end the connection."""

    def answer(exchange):
        exchange.sock.sendall(sent)
        if reset:
            exchange.reset()
        return False

    return answer


def _fall_silent(share=None):
    """Send this share of the object, or not even a header, and then nothing until the other end hangs up."""

    def answer(exchange):
        if share is not None:
            cut(int(len(exchange.data) * share))(exchange)
        _until_left(exchange)
        return False

    return answer


def _until_left(exchange):
    with suppress(OSError):
        while exchange.sock.recv(1000):
            pass


def _trickle():
    """One byte at a time, each in time, all of them together never."""

    def answer(exchange):
        exchange.head(200, {"Content-Length": len(exchange.data)})
        with suppress(OSError):
            for byte in exchange.data:
                exchange.sock.sendall(bytes([byte]))
                time.sleep(_PATIENCE_SECONDS / 10)
        return False

    return answer


def _other_part(*, tag=True, shift=1):
    """Something else than the part that was asked for, or a part of nothing."""

    def answer(exchange):
        start = exchange.request.range_start or 0
        size = len(exchange.data)
        tag_sent = exchange.etag if tag else '"of another object"'
        part = exchange.data[start + shift :]
        exchange.send(206, {"Content-Range": f"bytes {start + shift}-{size - 1}/{size}", "ETag": tag_sent}, part)
        return False

    return answer


def _without_end(path="/without-end"):
    """To where it goes on to where it came from."""

    def answer(exchange):
        exchange.origin.put(path, b"", redirect(path))
        return redirect(path)(exchange)

    return answer


_EXPIRED = s3_error(403, "AccessDenied", "Request has expired")
_DENIED = s3_error(403, "AccessDenied", "Access Denied")
_HALF_A_HEAD = b"HTTP/1.1 200 OK\r\nContent-Le"

# What an origin does, by the name of its row in the table: each is a list of answers in turn, made by a random number generator.
ORIGIN = {
    "resets the connection": [
        lambda _: [_hang_up(reset=True)],
        lambda _: [_hang_up(_HALF_A_HEAD, reset=True)],
        lambda dice: [cut(dice.randrange(_LEAST_BYTES), reset=True)],
    ],
    "cuts its answer short": [
        lambda _: [_hang_up(_HALF_A_HEAD)],
        lambda dice: [cut(dice.randrange(_LEAST_BYTES))],
        lambda dice: [chunked(97, cut_after=dice.randrange(_LEAST_BYTES))],
        lambda dice: [announce(dice.randrange(_LEAST_BYTES))],
        lambda _: [announce(_MOST_BYTES * 10)],
    ],
    "falls silent": [
        lambda _: [_fall_silent()],
        lambda dice: [_fall_silent(dice.random() * 0.9)],
        lambda _: [_trickle()],
    ],
    "sends something else": [
        lambda dice: [status(200, dice.randbytes(dice.randrange(1, _MOST_BYTES)))],
        lambda _: [html_page()],
        lambda dice: [raw(dice.randbytes(500))],
        lambda _: [endless(b"X-Header: again\r\n", before=b"HTTP/1.1 200 OK\r\n")],
        lambda _: [status(200, b"")],
    ],
    "refuses": [
        lambda dice: [status(dice.choice([400, 401, 404, 408, 410, 418, 429, 500, 502, 503, 504]))],
        lambda _: [_DENIED],
        lambda _: [_EXPIRED],
        lambda _: [s3_error(404, "NoSuchKey", "The specified key does not exist.")],
        lambda _: [status(503, retry_after="86400")],
        lambda _: [status(204)],
    ],
    "sends another part": [
        lambda _: [_other_part()],
        lambda dice: [cut(dice.randrange(1, _LEAST_BYTES)), _other_part()],
        lambda dice: [cut(dice.randrange(1, _LEAST_BYTES)), _other_part(tag=False, shift=0)],
        lambda dice: [cut(dice.randrange(2, _LEAST_BYTES)), _other_part(shift=-1)],
    ],
    "redirects without end": [lambda _: [_without_end()]],
}
ORIGIN["does several of these in turn"] = list(itertools.chain(*ORIGIN.values()))


def break_origin(folder, origin, kind, *, times, seed=0):
    """So many times: the origin does what it should not, each file meets it up to three times; gives the tally."""
    tally = Tally(f"the origin {kind}")
    counting = threading.Lock()

    def counted(answer):
        def and_count(exchange):
            with counting:
                tally.times += 1
            return answer(exchange)

        return and_count

    while tally.times < times:
        with _site(folder, origin, f"{seed} {kind} {tally.times}") as scene:
            _be_impatient(scene)
            files = min(FILES_PER_SITE, times - tally.times)
            for _ in range(files):
                makers = scene.random.choices(ORIGIN[kind], k=scene.random.randint(1, 3))
                answers = [counted(answer) for make in makers for answer in make(scene.random)]
                scene.upload(size=scene.random.randint(_LEAST_BYTES, _MOST_BYTES), answers=answers)
            player = Player(scene, tally)
            for _ in range(_ROUNDS):
                scene.pass_time()
                scene.freshen()
                player.poll()
                player.work(player.take())
                if player.is_done():
                    break
                scene.check(tally, moment=tally.fault)
            scene.recover(tally, moment=tally.fault)
    return tally


def _be_impatient(scene):
    """Silence counts after a moment, and nobody waits before trying again."""
    context = scene.site.context
    context.downloader = Downloader(
        AllowedHosts.parse(context.settings.allowed_hosts),
        read_timeout_seconds=_PATIENCE_SECONDS,
        speed_window_seconds=_PATIENCE_SECONDS,
        sleep=lambda _: None,
    )


# Databases


def break_source(folder, origin, postgres, *, times, seed=0):
    """So many times a connection to the application's database is reset in mid-question; gives the tally."""
    tally = Tally("a connection to the application's database is reset")
    _break_database(tally, folder, origin, postgres, "source_url", times=times, share=0.15, seed=seed)
    return tally


def break_catalog(folder, origin, postgres, *, times, seed=0):
    """The same of the catalog's database."""
    tally = Tally("a connection to the catalog's database is reset")
    _break_database(tally, folder, origin, postgres, "catalog_url", times=times, share=0.04, seed=seed)
    return tally


def _break_database(tally, folder, origin, postgres, setting, *, times, share, seed):
    with Proxy(postgres.port) as proxy:
        while tally.times < times:
            name = f"network_{random.randbytes(8).hex()}"
            postgres.create_database(name)
            try:
                with _site(folder, origin, f"{seed} {setting} {tally.times}", **{setting: postgres.url(name)}) as scene:
                    scene.site.reopen(**{setting: postgres.url(name).replace(str(postgres.port), str(proxy.port))})
                    before, wanted = proxy.faults, times - tally.times
                    _play_with_broken_lines(Player(scene, tally), proxy, share, until=before + wanted)
                    tally.times += proxy.faults - before
            finally:
                postgres.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _play_with_broken_lines(player, proxy, share, *, until):
    """Rows and deletes come, polls and jobs break, until there were so many faults or the site is full."""
    scene, tally = player.scene, player.tally
    while len(scene.truth) < FILES_PER_SITE and proxy.faults < until:
        for _ in range(min(_DELETES_PER_ROUND, len(scene.newest))):
            scene.delete()
        scene.upload_some(FILES_PER_SITE // 3)
        for _ in range(_ROUNDS):
            proxy.break_some(scene.random, share)
            player.poll()
            player.work(player.take())
            proxy.go_on()
            scene.check(tally, moment=tally.fault)
            if player.is_done() or proxy.faults >= until:
                break
            scene.pass_time()
        scene.recover(tally, moment=tally.fault)


# Messages


def _junk(dice):
    """What may stand where an Id should."""
    return dice.choice(["", "-1", "9" * 9, "9" * 400, "1; DROP TABLE versions", "ünï\ud800", "\0", "None", "1e3", " 1", "[]"])


class Forged:
    """A prune that nobody sent."""

    def __init__(self, delete_id=None, version_id=None):
        self.delete_id, self.version_id = delete_id, version_id


def _forge(scene, dice):
    """A message that the kit never sent: with an Id that is not, or of something that is not due, or not to go at all."""
    numbers = [version.id for version in scene.site.context.catalog.report.versions()] or [0]
    return dice.choice(
        [
            lambda: [_junk(dice)],
            lambda: [str(dice.randint(1, len(scene.truth) * 2))],
            lambda: [_junk(dice), str(dice.randint(1, len(scene.truth))), _junk(dice)],
            lambda: Forged(delete_id=_junk(dice)),
            lambda: Forged(delete_id=str(dice.randint(1, len(scene.deleted) + 1))),
            lambda: Forged(delete_id=str(dice.randint(1, len(scene.deleted) + 1))),
            lambda: Forged(version_id=dice.choice(numbers)),
            lambda: Forged(version_id=dice.choice([0, 1, 2**40, 2**63 - 1])),
            Forged,
            lambda: Forged(delete_id="1", version_id=1),
        ]
    )()


# What becomes of a message, by the name of its row in the table: which messages come, and which of them later.
_FORGED = "accompanied by a forged one"
MESSAGES = {
    "lost": lambda task, *_: ([], []),
    "doubled": lambda task, *_: ([task, task], []),
    "late": lambda task, *_: ([], [task]),
    "late and doubled": lambda task, *_: ([task], [task]),
    _FORGED: lambda task, scene, dice: ([task, _forge(scene, dice)], []),
}


def break_messages(folder, origin, kinds, *, times, seed=0):
    """So many times a message meets one of these fates, and all come in any order; gives the tally.

    Nothing may go before its grace is over.
    """
    tally = Tally(f"a message is {kinds[0] if len(kinds) == 1 else 'any of these, and out of order'}")
    while tally.times < times:
        with _site(folder, origin, f"{seed} {kinds} {tally.times}", grace_period="7d") as scene:
            _play_with_bad_messages(Player(scene, tally), kinds, times)
    return tally


def _play_with_bad_messages(player, kinds, times):
    scene, tally, dice = player.scene, player.tally, player.scene.random
    late = []
    while len(scene.truth) < FILES_PER_SITE and tally.times < times:
        scene.upload_some(FILES_PER_SITE // 3)
        for _ in range(min(_DELETES_PER_ROUND, len(scene.newest) // 2)):
            scene.delete()
        gone = _pruned(scene)
        for may_go in (False, False, False, True, True, True):
            scene.site.pass_backoff()
            scene.site.expire_leases()
            if may_go:
                scene.site.pass_grace()
            scene.site.publisher.waiting = {row_id for task in late if isinstance(task, list) for row_id in task}
            player.poll()
            tasks, late = late, []
            for task in player.take():
                if dice.random() < _SHARE_OF_BAD_MESSAGES and tally.times < times:
                    tally.times += 1
                    now, later = MESSAGES[dice.choice(kinds)](task, scene, dice)
                    tasks, late = tasks + now, late + later
                else:
                    tasks.append(task)
            if _FORGED in kinds:
                tasks += [_forge(scene, dice) for _ in range(_FORGED_ALONE)]
                tally.times += _FORGED_ALONE
            dice.shuffle(tasks)
            player.work(tasks)
            scene.check(tally, moment=tally.fault)
            if not may_go:
                tally.wrong += [f"{tally.fault}: {name} went before its grace was over" for name in _pruned(scene) - gone]
        scene.site.publisher.waiting = set()
        scene.recover(tally, moment=tally.fault)


def _pruned(scene):
    return {(version.key, version.number) for version in scene.site.context.catalog.report.versions(state=VersionState.PRUNED)}


# All of them


def suites(*, times, seed=0):
    """About so many faults of every kind: functions of a folder, an origin and a PostgreSQL server, each of which gives a tally."""
    each = {"origin": times * 3 // 8 // len(ORIGIN), "database": times // 8, "messages": times * 3 // 8 // (len(MESSAGES) + 1)}
    for kind in ORIGIN:
        yield lambda folder, origin, _, kind=kind: break_origin(folder, origin, kind, times=each["origin"], seed=seed)
    for break_one in (break_source, break_catalog):
        yield lambda *site, break_one=break_one: break_one(*site, times=each["database"], seed=seed)
    for kinds in (*([kind] for kind in MESSAGES), list(MESSAGES)):
        yield lambda folder, origin, _, kinds=kinds: break_messages(folder, origin, kinds, times=each["messages"], seed=seed)
