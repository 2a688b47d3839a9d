"""What the application means by its rows, and what of it a reader of its tables cannot tell.

Nothing here knows the kit. A `Row` is one row as the application wrote it: one that is changed in place, or written again under the
same Id, is another `Row`. A `Delete` is one row of the delete log and the rows that it is about.
"""

from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import md5, sha256

# What a row may say of its bytes: the strongest first.
PROOFS = ("sha256", "md5", "first_seen")


@dataclass(frozen=True, order=True)
class Content:
    """One version of one file with its bytes, of which `variant` stands for: the same for every number."""

    storage: str
    key: str
    number: int
    variant: int

    @property
    def file(self):
        return self.storage, self.key

    def is_number_of(self, other):
        """Whether it claims the same version of the same file."""
        return (self.file, self.number) == (other.file, other.number)

    @property
    def bytes(self):
        return f"{self.storage}:{self.key} #{self.variant}\n".encode() * 2

    @property
    def sha256(self):
        return sha256(self.bytes).hexdigest()

    @property
    def md5(self):
        return md5(self.bytes, usedforsecurity=False).digest()

    def __str__(self):
        return f"{self.storage}:{self.key} v{self.number} #{self.variant}"


@dataclass(eq=False)
class Row:
    """A row of the files table. `born` counts the application's writes; `created_at` is what stands in the row, true or not."""

    id: int | str
    content: Content
    born: int
    created_at: datetime | None
    # Whether its link gives its bytes.
    is_good: bool = True
    # What its Hash is: of `PROOFS`.
    proof: str = "sha256"

    @property
    def hash(self):
        """As it stands in the row, in one of the spellings that applications have."""
        if self.proof == "sha256":
            return self.content.sha256
        if self.proof == "first_seen":
            return None
        return f"md5:{self.content.md5.hex()}" if self.content.variant else b64encode(self.content.md5).decode()

    @property
    def words(self):
        """What a reader takes for one row: the same words under the same Id are no news."""
        return self.id, *self.content.file, self.content.number, self.hash

    def may_be(self, other):
        """Whether a reader may take it for the other one: nothing that can be compared is another."""
        names = (self.id, self.content.file, self.content.number)
        if names != (other.id, other.content.file, other.content.number):
            return False
        return self.content == other.content or "first_seen" in (self.proof, other.proof)

    def __repr__(self):
        return f"<row {self.id}: {self.content}{'' if self.proof == 'sha256' else f', hash: {self.proof}'}>"


@dataclass(eq=False)
class Delete:
    """A row of the delete log: the row that the application means (None: none at all), and all that goes with it."""

    id: int | str
    file_id: int | str
    named: Row | None
    covers: frozenset
    born: int
    at: datetime
    deleted_at: datetime | None

    @property
    def words(self):
        return self.id, self.file_id, self.deleted_at

    def __repr__(self):
        return f"<delete {self.id} of row {self.file_id}>"


@dataclass
class _Sight:
    """What every reader has seen of one row or delete under its Id without a break: all that bore the same words.

    `poll` saw these words first; `first` is that poll from which on it may have been the same in other words.
    """

    members: list
    poll: int
    first: int


def _may_be(old, new):
    return isinstance(new, Row) and new.may_be(old)


@dataclass
class _Reading:
    """What a reader takes a delete to be about at first sight, and whether that is another row than the application meant."""

    row: Row | None
    is_mistaken: bool


@dataclass
class Meaning:
    """The tables as they are, and what the polls so far can have shown of them."""

    rows: dict = field(default_factory=dict)
    log: dict = field(default_factory=dict)
    writes: int = 0
    polls: int = 0
    # By Content: the rows that ever bore it.
    bearers: dict = field(default_factory=lambda: defaultdict(list))
    # By Id: the row that was there last.
    last: dict = field(default_factory=dict)
    # By file: the number of polls at its last change.
    changed: dict = field(default_factory=dict)
    _seen_rows: dict = field(default_factory=dict)
    _seen_log: dict = field(default_factory=dict)
    _last_seen: dict = field(default_factory=dict)
    _sights: dict = field(default_factory=dict)
    _log_sights: dict = field(default_factory=dict)
    _readings: dict = field(default_factory=dict)

    # What the application does

    def write(self, row):
        """A row is there from now on; what was there under its Id is not."""
        self.touch(self.rows.get(row.id), row)
        self.rows[row.id] = self.last[row.id] = row
        self.bearers[row.content].append(row)

    def drop(self, row_id):
        self.touch(self.rows.pop(row_id))

    def log_delete(self, delete):
        self.log[delete.id] = delete
        self.touch(*delete.covers)

    def unlog(self, delete_id):
        self.touch(*self.log.pop(delete_id).covers)

    def touch(self, *rows):
        for row in rows:
            if row is not None:
                self.changed[row.content.file] = self.polls

    def next_write(self):
        self.writes += 1
        return self.writes

    def covered_by(self, named):
        """All rows that a delete which names this one is about, if it is written now; of those that are gone by now, too."""
        if named is None:
            return frozenset()
        number, born = named.content.number, named.born
        older = (
            row
            for content, rows in self.bearers.items()
            if content.file == named.content.file and content.number <= number
            for row in rows
            if content.number < number or row.born <= born
        )
        return frozenset({named, *older})

    # What lives

    def live_rows(self):
        covered = set().union(*(delete.covers for delete in self.log.values()))
        return [row for row in self.rows.values() if row not in covered]

    def live(self):
        """Live contents, each with the live rows that bear it."""
        found = defaultdict(list)
        for row in self.live_rows():
            found[row.content].append(row)
        return found

    def deletes_of(self, content):
        """The deletes in force that are about a row which bore this."""
        bearers = set(self.bearers[content])
        return [delete for delete in self.log.values() if delete.covers & bearers]

    # What can be told

    def note_poll(self):
        """A whole poll has read both tables as they are now."""
        self.polls += 1
        before = self._seen_rows
        for row_id, row in self.rows.items():
            old = before.get(row_id)
            self._sights[row] = self._continue(self._sights, old, row)
        old_log = self._seen_log
        for delete_id, delete in self.log.items():
            old = old_log.get(delete_id)
            self._log_sights[delete] = self._continue(self._log_sights, old, delete)
            if self._log_sights[delete].poll == self.polls:
                self._readings[delete] = self._read(delete)
            elif delete is not old:
                self._readings[delete] = self._readings[old]
        self._seen_rows, self._seen_log = dict(self.rows), dict(self.log)
        self._last_seen |= self.rows

    def _continue(self, sights, old, new):
        """The sight that `new` belongs to: that of what was there at the last poll, where the words are the same."""
        if old is None or (old.words != new.words and not _may_be(old, new)):
            return _Sight(members=[new], poll=self.polls, first=self.polls)
        sight = sights[old]
        if old.words != new.words:
            return _Sight(members=[*sight.members, new], poll=self.polls, first=sight.first)
        if new is not old:
            sight.members.append(new)
        return sight

    def _read(self, delete):
        """What a delete is about to who sees it now for the first time: the row that is there, else the one that was seen last."""
        now, before = self.rows.get(delete.file_id), self._last_seen.get(delete.file_id)
        if now is not None and before is not None and before.words != now.words and not before.may_be(now):
            return _Reading(row=None, is_mistaken=False)  # its Id means something else since the last poll: whoever reads is warned
        row = now if now is not None else before
        if row is None:
            return _Reading(row=None, is_mistaken=False)  # nothing that was ever seen: what comes later came later
        return _Reading(row=row, is_mistaken=delete.named is None or delete.named not in self._sight(row).members)

    def _sight(self, row):
        return self._sights.get(row) or _Sight(members=[row], poll=self.polls + 1, first=self.polls + 1)

    def is_ambiguous(self, content):
        """Whether nobody can tell from the tables, and from what they were at each poll, that this was not deleted."""
        live = self.live().get(content)
        doubtful = (any(self.why_ambiguous(row, delete) for delete in self.log.values()) for row in live or self.bearers[content])
        return all(doubtful) if live else any(doubtful)

    def why_ambiguous(self, row, delete):
        """Why nobody can tell that `delete`, which is not about `row`, is not; None: it can be told.

        This is the one place that excuses the kit. Each reason says what would have to be in the tables for it to be told.
        """
        if row in delete.covers:
            return None
        if delete.deleted_at is not None and row.created_at is not None and row.created_at > delete.deleted_at:
            return None  # the dates tell
        if self._stands_for_covered(row, delete):
            return "the same words stood under the same Id (of the row or of the delete) at every poll, about something else"
        reading = self._readings.get(delete) or self._read(delete)
        if reading.is_mistaken and self._goes_with(row, reading.row):
            return "the row that the delete names came and went between two polls, and its Id is another's that is no news"
        if delete.named is not None and row.content.file == delete.named.content.file and self._order_is_hidden(row, delete):
            return "the row was written after its file was deleted, but was seen no later than the row that the delete names"
        return None

    def may_count_as_live(self, row):
        """Whether a reader may take a deleted row for a live one: then it may take it for its file's newest, too."""
        return not any(self._is_plainly_about(delete, row) for delete in self.log.values())

    def _is_plainly_about(self, delete, row):
        reading = self._readings.get(delete) or self._read(delete)
        if row not in delete.covers or reading.row is None or reading.is_mistaken or delete.named is None:
            return False
        dates = (delete.deleted_at, delete.named.created_at) if row is not delete.named else (delete.deleted_at,)
        if any(row.created_at is not None and date is not None and row.created_at > date for date in dates):
            return False
        return row in self._sight(delete.named).members or self._looks_older(row, delete.named, surely=True)

    def _stands_for_covered(self, row, delete):
        sight = self._log_sights.get(delete)
        return any(then.covers & set(self._sight(row).members) for then in (sight.members if sight else [delete]))

    def _goes_with(self, row, named):
        """Whether a reader who takes `named` for what was deleted takes `row` for deleted with it."""
        if row in self._sight(named).members:
            return True
        return row.content.file == named.content.file and self._looks_older(row, named)

    def _order_is_hidden(self, row, delete):
        later = row.born > (delete.born if row.content.number < delete.named.content.number else delete.named.born)
        return later and delete.named in self._sights and self._looks_older(row, delete.named)

    def _looks_older(self, row, named, *, surely=False):
        """Whether `row`, by version, Id and the poll that saw it first, is no later than `named` and of no higher version.

        `surely`: whoever takes one row for another that it may be says so, too.
        """
        one, other = self._sight(row), self._sight(named)
        seen, seen_named = (one.poll, other.first) if surely else (one.first, other.poll)
        if row.content.number == named.content.number:
            return seen < seen_named
        ids_tell = isinstance(row.id, int) and row.id > named.id
        return row.content.number < named.content.number and (seen < seen_named or (seen == seen_named and not ids_tell))

    def is_told_apart(self, content):
        """Whether the rows tell that the copy with these bytes is what lives, or that nothing speaks of it that was deleted.

        A row without a hash is one of whatever its number brings: where such a one is deleted, so may be all that it may have
        brought. And a row that is written after a delete brings the same bytes only where its hash can be compared.
        """
        rows = self.live().get(content, ())
        deletes = self.deletes_of(content)
        if not rows:
            covered = set().union(*(delete.covers for delete in self.log.values()))
            return not any(row.proof == "first_seen" and row.content.is_number_of(content) for row in covered)
        if not deletes or any(row.proof == "sha256" for row in rows):
            return True
        deleted = [row for delete in deletes for row in delete.covers if row.content == content]
        return any(row.proof == "md5" for row in rows) and not any(row.proof == "sha256" for row in deleted)

    def is_in_question(self, content):
        """Whether each of its live rows bears an Id that a delete named before there was such a row: a person has to say."""
        return all(
            any(
                delete.file_id == row.id and row not in delete.covers and self._names_nothing(delete)
                for delete in self.log.values()
            )
            for row in self.live().get(content, ())
        )

    def _names_nothing(self, delete):
        return (self._readings.get(delete) or self._read(delete)).row is None

    def stand_ins(self, content):
        """What else a reader may take for this, since its rows have no hash: all that ever bore its number; nothing, if one has.

        But for what was seen to be deleted before any row was seen that has no hash, bore this number and is not deleted with it.
        """
        rows = self.live().get(content, ())
        if any(row.proof != "first_seen" for row in rows):
            return []
        of_number = [other for other in self.bearers if other.is_number_of(content)]
        deleted = self._deleted_before(max((self._sight(row).first for row in rows), default=0))
        silent = (row for other in of_number for row in self.bearers[other] if row.proof == "first_seen" and row not in deleted)
        deleted = self._deleted_before(min((self._sight(row).first for row in silent), default=0))
        return [other for other in of_number if other != content and not deleted.issuperset(self.bearers[other])]

    def _deleted_before(self, poll):
        """What the deletes are about that this poll saw, or an earlier one, and that are still there."""
        seen = (delete for delete, sight in self._log_sights.items() if self.log.get(delete.id) is delete and sight.poll <= poll)
        return set().union(*(delete.covers for delete in seen))

    def proof_of(self, content):
        """The most that a row ever said of these bytes."""
        return min((row.proof for row in self.bearers[content]), key=PROOFS.index)

    def grace_began(self, content):
        """The earliest instant from which a grace of this content may run; None where no delete speaks of it."""
        starts = [self._began(delete) for delete in self.deletes_of(content)]
        starts += [
            self._began(delete)
            for delete in self.log.values()
            if any(self.why_ambiguous(row, delete) for row in self.bearers[content])
        ]
        return min(starts, default=None)

    def _began(self, delete):
        sight = self._log_sights.get(delete)
        return min(each.at for each in (sight.members if sight else [delete]))

    def files(self) -> Iterator[tuple]:
        """Each file of which is certain what lives, with its live contents, newest first."""
        by_file = defaultdict(list)
        live = self.live()
        for content in live:
            by_file[content.file].append(content)
        for file, contents in by_file.items():
            contents.sort(key=lambda content: -content.number)
            deleted = [
                row
                for row in self.rows.values()
                if row.content.file == file and row.content not in live and row.content.number >= contents[0].number
            ]
            if not any(map(self.is_ambiguous, contents)) and not any(map(self.may_count_as_live, deleted)):
                yield file, contents
