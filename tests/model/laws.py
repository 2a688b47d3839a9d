"""What has to hold after whatever the application, the disk and the kit did: judged by the meaning and the bytes on the disk alone.

1. No live content that had a copy lost it, unless a newer live one of its file has had its own for a grace.
2. Green means that every live file has its copy.
3. What is deleted keeps its copy for a grace.
4. What is live, can be read and can be fetched is stored within two whole rounds of the kit (poll, workers).
5. What a person holds stays.
6. In plain histories it is green then, and what was deleted is gone after its grace.
7. Nothing is said to be proved by more than a row said of it.

4 and 6 are what a kit that is always red, or never removes, breaks.
"""

from datetime import timedelta

from tests.model.copies import read_copies, read_leftovers
from tests.model.meaning import PROOFS

ROUNDS = 2
# After a link that led nowhere, the kit waits longer and longer before it tries again.
PATIENT_ROUNDS, PATIENCE = 4, timedelta(days=3)


class LawBroken(AssertionError):
    """What was lost, and by which law it should not have been."""


class Laws:
    """Look at the disk after each round, and remember what was there."""

    def __init__(self, meaning, now, *, grace, keep, plain):
        self.meaning = meaning
        self.now = now
        self.grace = grace
        self.keep = keep
        self.plain = plain
        self.had = set()
        self.deleted = set()
        self.damaged = set()
        self.there = set()
        self.held = set()
        self.ever_held = set()
        self.was_bad = set()
        # By content: since when it is live and there, without a break.
        self.there_since = {}
        self.calm = {}
        self.calm_since = {}
        self.has_seen_rows = False

    # What the harness tells

    def note_damage(self, content):
        self.damaged.add(content)
        self.had.discard(content)
        self.deleted.discard(content)
        self.there_since.pop(content, None)
        self.there.discard(content)

    def note_hold(self, file):
        self.held.add(file)
        self.ever_held.add(file)

    def note_trouble(self):
        """A worker died, or messages were lost: what was under way is done again after the leases."""
        for file in self.calm:
            self.calm[file] = -4

    def note_round(self, polls_before):
        """A whole round is over."""
        files = {content.file for content in self.meaning.bearers}
        for file in files:
            if self.meaning.changed.get(file, 0) >= polls_before or file not in self.calm:
                self.calm[file], self.calm_since[file] = min(self.calm.get(file, 0), 0), self.now()
            self.calm[file] += 1

    # What is judged

    def look(self, site):
        """Compare what is there with what has to be. Raises LawBroken."""
        there = self._there(site.root)
        live = self.meaning.live()
        for content in self.there - there:
            if content.file in self.held:
                raise LawBroken(f"law 5: {content} is on hold, and its copy is gone")
        self._check_kept(there, live)
        self._check_grace(there, live)
        for lacking in self._lacking(there):
            status = site.status()
            if status.is_protected:
                raise LawBroken(f"law 2: it is green, and {lacking}")
            self._check_proofs(status, there)
            break
        self._check_stored(there)
        if self.plain:
            self._check_plain(site, there, live)
        self._remember(there, live)

    def _there(self, root):
        good = {copy.name: copy for copy in read_copies(root) if copy.is_good}
        found = {
            content: good.get((content.storage, content.key, content.number, content.sha256)) for content in self.meaning.bearers
        }
        for content, copy in found.items():
            if copy is not None and PROOFS.index(copy.proof) < PROOFS.index(self.meaning.proof_of(content)):
                raise LawBroken(f"law 7: the copy of {content} says that it is proved by {copy.proof}, and no row said that")
        return {content for content, copy in found.items() if copy is not None}

    def _check_kept(self, there, live):
        for content in self.had - there:
            if content not in live and self.meaning.deletes_of(content):
                continue
            if not self.meaning.is_told_apart(content):
                continue
            if not self._is_replaced(content, there, live) and not self.meaning.is_ambiguous(content):
                raise LawBroken(f"law 1: {content} is {'live' if content in live else 'not deleted'}, and its copy is gone")

    def _check_grace(self, there, live):
        for content in self.deleted - there:
            began = self.meaning.grace_began(content)
            if content in live or began is None or self.now() >= began + self.grace or self._is_replaced(content, there, live):
                continue
            raise LawBroken(f"law 3: {content} was deleted at {began}, and its copy is gone at {self.now()}")

    def _is_replaced(self, content, there, live):
        newer = [
            other
            for other in live
            if other.file == content.file
            and other.number > content.number
            and self._stands(other, there)
            and other in self.there_since
            and self.now() >= self.there_since[other] + self.grace
        ]
        return len(newer) >= self.keep

    def _stands(self, content, there):
        """Whether its copy is there, or since nothing tells its bytes, that of whatever bore its number."""
        return content in there or any(other in there for other in self.meaning.stand_ins(content))

    def _lacking(self, there):
        """All that keeps it from being green; the status is asked for only where there is any."""
        if not self.has_seen_rows and not self.meaning.rows:
            yield "no row was ever seen"
        for file, contents in self.meaning.files():
            if self.meaning.changed.get(file, 0) >= self.meaning.polls:
                continue
            if self._contradict(contents):
                yield f"two live rows claim one number of {file} with different bytes"
            if not self._stands(contents[0], there | self.damaged):
                yield f"{contents[0]} has no copy"

    def _check_stored(self, there):
        for file, contents in self.meaning.files():
            newest = contents[0]
            if self._stands(newest, there) or self._rounds_of(file) < self._rounds(newest) or newest in self.damaged:
                continue
            numbers = [content.number for content in contents]
            if len(set(numbers)) < len(numbers) or not self._can_be_fetched(newest) or self.meaning.stand_ins(newest):
                continue
            if self.meaning.is_in_question(newest):
                continue
            if newest in self.was_bad and self.now() < self.calm_since[file] + PATIENCE:
                continue
            raise LawBroken(f"law 4: {newest} is live, can be fetched, and is not stored after {self.calm[file]} rounds")

    def _rounds_of(self, file):
        """How many whole rounds in a row a file was left as it is."""
        return 0 if self.meaning.changed.get(file, 0) >= self.meaning.polls else self.calm.get(file, 0)

    def _rounds(self, content):
        return PATIENT_ROUNDS if content in self.was_bad else ROUNDS

    def _contradict(self, contents):
        """Whether live rows say of one number that its bytes are different ones."""
        if len({content.number for content in contents}) == len(contents):
            return False
        live = self.meaning.live()
        told = [content.number for content in contents if any(row.proof != "first_seen" for row in live[content])]
        return len(set(told)) < len(told)

    def _check_proofs(self, status, there):
        """No more files count as proved than there are whose rows say it of what is here."""
        by_proof = {proof.value: count for proof, count in status.counts.by_proof.items()}
        for strongest in (1, 2):
            proofs = PROOFS[:strongest]
            said = sum(by_proof[proof] for proof in proofs)
            files = {content.file for content in there | self.damaged if self.meaning.proof_of(content) in proofs}
            if said > len(files):
                raise LawBroken(f"law 7: {said} files are proved by {' or '.join(proofs)}, which rows say of {len(files)}")

    def _can_be_fetched(self, content):
        return all(row.is_good for row in self.meaning.live()[content])

    def _check_plain(self, site, there, live):
        if self.calm and min(map(self._rounds_of, self.calm)) >= ROUNDS:
            status = site.status()
            self._check_proofs(status, there)
            problems = [problem.message for problem in status.problems]
            if problems:
                raise LawBroken(f"law 6: all that was done is plain, and it is not green: {problems}")
        for content in self.meaning.bearers:
            began = self.meaning.grace_began(content)
            if content in live or began is None or self._rounds_of(content.file) < ROUNDS or content.file in self.ever_held:
                continue
            if any(content in self.meaning.stand_ins(other) for other in live):
                continue  # a live row without a hash may mean it
            # The grace runs from the poll that saw the delete, and ends before the last round began.
            over = max(began, self.calm_since[content.file]) + self.grace
            if self.rounds_since(over) < ROUNDS:
                continue
            left = {(copy.storage, copy.key, copy.number, copy.claimed) for copy in read_leftovers(site.root)}
            if content in there or (content.storage, content.key, content.number, content.sha256) in left:
                raise LawBroken(f"law 6: {content} was deleted at {began}, and its bytes are there at {self.now()}")

    def rounds_since(self, instant):
        """How many whole rounds began after this."""
        return sum(began > instant for began in self.round_began[-ROUNDS:])

    round_began = ()

    def begin_round(self):
        self.round_began = (*self.round_began[-ROUNDS:], self.now())

    def _remember(self, there, live):
        self.has_seen_rows |= bool(self.meaning.rows)
        self.there = there
        self.damaged -= there
        self.had = {c for c in there if (c in live or not self.meaning.deletes_of(c)) and not self.meaning.is_ambiguous(c)}
        self.deleted = {c for c in there if c not in live}
        self.there_since = {c: self.there_since.get(c, self.now()) for c in live if self._stands(c, there)}
        self.was_bad |= {row.content for row in self.meaning.rows.values() if not row.is_good}
