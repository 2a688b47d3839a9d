"""All that applications do, in any order, with the kit at work between: hypothesis chooses, the laws judge."""

import shutil
import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from cbk.errors import CbkError
from tests.model.application import DATES, HUGE
from tests.model.meaning import PROOFS, Content
from tests.model.story import Story
from tests.model.tables import Shape, SQLite
from tests.model.world import CLOCK, fake_time

FILES = (("s3", "a/x.txt"), ("s3", "a/x.png"), ("r2", "a/x.txt"), ("s3", "b.txt"))
VARIANTS = 3
MARKED = 2147483647
TIMES = [
    timedelta(seconds=1),
    timedelta(minutes=3),
    timedelta(minutes=50),
    timedelta(hours=25),
    timedelta(days=8),
    timedelta(days=31),
]
dates = st.sampled_from(DATES)
proofs = st.sampled_from(PROOFS)


class Histories(RuleBasedStateMachine):
    """One application and one kit. `plain` examples hold nothing that a careful application would not do."""

    folder = None
    steps = 0
    shapes = st.builds(
        Shape,
        ids=st.sampled_from(["reused", "numbers", "uuid"]),
        hashes=st.sampled_from(["sha256", "sha256", "md5", "first_seen", "mixed", "mixed"]),
        created_at=st.booleans(),
        deleted_at=st.booleans(),
        log_id=st.sampled_from([True, True, False]),
    )

    @classmethod
    def open_database(cls, shape, folder):
        """A new, empty database, and how to open one more connection to it."""
        return SQLite(shape, folder / "app.db")

    def __init__(self):
        super().__init__()
        self.place = Path(tempfile.mkdtemp(dir=self.folder))
        self.story = None

    @initialize(shape=shapes, plain=st.sampled_from([False, False, False, False, True]), keep=st.sampled_from([1, 1, 1, 2]))
    def begin(self, shape, plain, keep):
        database = self.open_database(shape, self.place)
        database.create()
        self.story = Story(database, self.place, plain=plain, keep=keep)
        self.plain, self.app, self.meaning = plain, self.story.app, self.story.meaning

    def teardown(self):
        if self.story is not None:
            self.story.close()
        shutil.rmtree(self.place, ignore_errors=True)

    # What a careful application does

    @rule(file=st.sampled_from(FILES), variant=st.integers(0, VARIANTS - 1), date=dates, proof=proofs)
    def upload(self, file, variant, date, proof):
        """A new file, or a higher version of one that lives."""
        self._done()
        self.app.upload(self._next(file, variant), date="now" if self.plain else date, proof=proof)

    @precondition(lambda self: self._newest())
    @rule(data=st.data(), drops=st.sampled_from(["nothing", "named", "all"]), date=dates)
    def delete(self, data, drops, date):
        """Delete a file by its newest row."""
        self._done()
        row = data.draw(st.sampled_from(self._newest()))
        self.app.delete(row.id, drops="nothing" if self.plain else drops, date="now" if self.plain else date)

    @rule(by=st.sampled_from(TIMES))
    def pass_time(self, by):
        self._done()
        CLOCK.move(by)

    # What applications do as well

    odd = precondition(lambda self: not self.plain)
    with_rows = precondition(lambda self: not self.plain and self.meaning.rows)

    @odd
    @rule(
        file=st.sampled_from(FILES),
        number=st.sampled_from([0, 1, 1, 2, 3, MARKED]),
        variant=st.integers(0, VARIANTS - 1),
        place=st.sampled_from(["next", "next", "free", "huge"]),
        date=dates,
        is_good=st.sampled_from([True, True, True, False]),
        proof=proofs,
    )
    def upload_any(self, file, number, variant, place, date, is_good, proof):
        """A row of any version under any Id."""
        self._done()
        self.app.upload(Content(*file, number, variant), row_id=self._id(place), date=date, is_good=is_good, proof=proof)

    @with_rows
    @rule(data=st.data(), drops=st.sampled_from(["nothing", "named", "all"]), date=dates)
    def delete_any(self, data, drops, date):
        """A delete that names any row that there is or was."""
        self._done()
        self.app.delete(data.draw(st.sampled_from(list(self.meaning.last))), drops=drops, date=date)

    @odd
    @rule(ahead=st.integers(1, 3))
    def delete_what_is_not_there(self, ahead):
        """The delete log names a row that may come one day."""
        self._done()
        if self.app.shape.has_numbers:
            row_id = max((row_id for row_id in self.meaning.last if row_id < HUGE), default=0) + ahead
            if row_id not in self.meaning.last:
                self.app.delete(row_id)

    @with_rows
    @rule(
        data=st.data(),
        step=st.integers(-1, 2),
        variant=st.integers(0, VARIANTS - 1),
        drops=st.sampled_from(["nothing", "named"]),
        date=dates,
        proof=proofs,
    )
    def replace(self, data, step, variant, drops, date, proof):
        """Delete a row and write another of the same file in one transaction."""
        self._done()
        row = data.draw(st.sampled_from(list(self.meaning.rows.values())))
        number = min(max(row.content.number + step, 0), MARKED)
        self.app.replace(row, Content(*row.content.file, number, variant), drops=drops, date=date, proof=proof)

    @with_rows
    @rule(
        data=st.data(),
        what=st.sampled_from(["name", "version", "bytes", "hash", "link", "all"]),
        date=st.none() | dates,
        proof=proofs,
    )
    def change(self, data, what, date, proof):
        """A row is changed in its place."""
        self._done()
        row = data.draw(st.sampled_from(list(self.meaning.rows.values())))
        old = row.content
        if what == "link":
            self.app.mend_link(row)
            return
        if what == "hash":
            # The same bytes in other words: the application has hashed what it had not, or has lost what it had.
            if self.app.shape.hashes == "mixed" and proof != row.proof:
                self.app.change(row, old, date=date, is_good=row.is_good, proof=proof)
            return
        new = {
            "name": lambda: Content(*data.draw(st.sampled_from(FILES)), old.number, old.variant),
            "version": lambda: Content(*old.file, data.draw(st.integers(1, 4)), old.variant),
            "bytes": lambda: Content(*old.file, old.number, (old.variant + 1) % VARIANTS),
            "all": lambda: Content(*data.draw(st.sampled_from(FILES)), data.draw(st.integers(1, 3)), old.variant),
        }[what]()
        if new != old:
            self.app.change(row, new, date=date, proof=proof)

    @with_rows
    @rule(data=st.data())
    def vanish(self, data):
        """A row is removed without a word."""
        self._done()
        self.app.vanish(data.draw(st.sampled_from(list(self.meaning.rows.values()))))

    @precondition(lambda self: not self.plain and self.meaning.log)
    @rule(data=st.data())
    def take_back(self, data):
        self._done()
        self.app.take_back(data.draw(st.sampled_from(list(self.meaning.log.values()))))

    @odd
    @rule()
    def dump(self):
        self._done()
        self.app.dump()

    @precondition(lambda self: not self.plain and self.app.dumps)
    @rule(data=st.data())
    def restore(self, data):
        self._done()
        self.app.restore(data.draw(st.integers(0, len(self.app.dumps) - 1)))

    @with_rows
    @rule(data=st.data(), log=st.sampled_from(["kept", "emptied", "mapped"]))
    def renumber(self, data, log):
        self._done()
        self.app.renumber(data.draw(st.permutations(list(self.meaning.rows.values()))), log=log)

    @odd
    @rule(file=st.sampled_from(FILES), number=st.integers(1, 3), variant=st.integers(0, VARIANTS - 1), proof=proofs)
    def begin_late(self, file, number, variant, proof):
        """A transaction that commits later; where a second writer has to wait, only its Ids are taken."""
        self._done()
        if self.app.database.has_late_commits:
            self.app.begin_late(Content(*file, number, variant), lambda: self.open_database(self.app.shape, self.place), proof)
        else:
            self.app.skip_ids()

    @precondition(lambda self: not self.plain and self.app.is_late)
    @rule()
    def commit_late(self):
        self._done()
        self.app.commit_late()

    # The kit

    @rule(rounds=st.sampled_from([1, 1, 2]))
    def work(self, rounds):
        """Whole rounds: poll, back up and prune what was sent. After two without a change, all is as it should be."""
        self._done()
        self.story.rounds(rounds)

    @precondition(lambda self: self.meaning.polls)
    @rule()
    def let_the_grace_pass(self):
        """A week without a change, and whatever is due then."""
        self._done()
        self.story.pass_grace()

    @rule(file=st.none() | st.sampled_from(FILES))
    def hold(self, file):
        """A person holds a file, or releases all."""
        self._done()
        if file is None:
            self.story.release()
        else:
            self.story.hold(file)

    @odd
    @rule(what=st.sampled_from(["die", "die", "lose", "late", "damage", "verify"]), data=st.data())
    def trouble(self, what, data):
        """What happens to workers, messages and disks."""
        self._done()
        getattr(self, f"_{what}")(data)

    def _die(self, data):
        """A worker that dies on its way."""
        story, site = self.story, self.story.site
        stage, steps = data.draw(st.sampled_from(["poll", "back up", "prune"])), data.draw(st.integers(0, 60))
        with story.trouble():
            with site.mortal(steps if stage == "poll" else None):
                story.poll()
            with site.mortal(steps if stage == "back up" else None):
                site.fetch_all()
            with site.mortal(steps if stage == "prune" else None):
                site.prune_all()

    def _lose(self, _data):
        """What a poll sends does not arrive."""
        with self.story.trouble():
            self.story.poll()
        self.story.site.lose_messages()

    def _late(self, _data):
        """Messages that waited arrive, and no poll came before."""
        self.story.site.prune_all()
        self.story.look()

    def _damage(self, data):
        """The disk loses a copy, or a bit of one."""
        copies = self.story.copies()
        if copies:
            self.story.damage(data.draw(st.sampled_from(copies)), gone=data.draw(st.booleans()))

    def _verify(self, _data):
        """Every copy is read; where many are bad, the disk is, and all stay where they are."""
        with suppress(CbkError):
            self.story.site.verify_all()
        self.story.look()

    # How

    def _done(self):
        type(self).steps += 1

    def _next(self, file, variant):
        """The next version of a file, as a careful application numbers them."""
        numbers = [content.number for content in self.meaning.live() if content.file == file]
        return Content(*file, min(max(numbers, default=0) + 1, MARKED), variant)

    def _newest(self):
        """The newest live row of each file."""
        found = {}
        for row in self.meaning.live_rows():
            best = found.get(row.content.file)
            if best is None or (row.content.number, row.born) > (best.content.number, best.born):
                found[row.content.file] = row
        return list(found.values())

    def _id(self, place):
        if place == "huge" and self.app.shape.has_numbers and not any(row_id >= HUGE for row_id in self.meaning.rows):
            return HUGE
        free = self.app.free_ids() if place == "free" else []
        return free[0] if free else None


def run(machine, *, examples, steps, number=None, shrinks=True):
    """So many histories of so many steps; `number` is a seed that gives the same ones again. Gives how many steps were done."""
    profile = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink] if shrinks else [Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    factory = type(machine.__name__, (machine,), {"steps": 0})
    if number is not None:
        seed(number)(factory)
    with fake_time() as folder:
        factory.folder = folder
        run_state_machine_as_test(factory, settings=profile)
        return factory.steps
