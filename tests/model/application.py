"""The application at work: each thing that applications do, done to the meaning and to the real tables alike."""

import base64
from datetime import timedelta

from tests.model.meaning import Delete, Meaning, Row
from tests.model.tables import FILES, LOG, earliest, farthest, uuid_of

HOST = "origin.example"
NOWHERE = "nowhere"
HUGE = 9_000_000_000_000_000_000
# What is written where a date should be.
DATES = ("now", "now", "now", "ancient", "farthest", "none")


def link_to(content, *, is_good=True, proof="sha256"):
    """A link that says by itself what it gives; where it is not good, the wrong bytes, or if no hash tells these, nothing."""
    if proof == "first_seen" and not is_good:
        return f"https://{HOST}/{NOWHERE}?X-Amz-Signature=secret"
    given = content.bytes if is_good else b"an error page"
    return f"https://{HOST}/{base64.urlsafe_b64encode(given).decode()}?X-Amz-Signature=secret"


def bytes_behind(link):
    """What a link gives; None: nothing."""
    name = link.rpartition("/")[2].partition("?")[0]
    return None if name == NOWHERE else base64.urlsafe_b64decode(name)


class Application:
    """`meaning` is what it means, `database` where it writes. `now` is its clock."""

    def __init__(self, database, now):
        self.database = database
        self.shape = database.shape
        self.meaning = Meaning()
        self.now = now
        self.dumps = []
        # What was done, for who has to understand it.
        self.told = []
        self._uuids = 0
        self._late = []

    # Writing rows

    def upload(self, content, *, row_id=None, date="now", is_good=True, proof=None):
        """One more row, under an Id that the database gives unless there is one. `proof` is what its Hash is, if that is mixed."""
        with self.database.transaction():
            return self._write(content, row_id, date, is_good=is_good, proof=proof)

    def _write(self, content, row_id=None, date="now", *, is_good=True, proof=None):
        proof = self._proof(proof)
        values, created_at = self._values(content, date, is_good, proof)
        if row_id is None and not self.shape.has_numbers:
            row_id = self._new_uuid()
        row_id = self.database.insert(FILES, values if row_id is None else {"Id": row_id} | values)
        return self._note(row_id, content, created_at, is_good, proof)

    def _proof(self, proof):
        if self.shape.hashes != "mixed":
            return self.shape.hashes
        return proof or "sha256"

    def _values(self, content, date, is_good, proof):
        created_at = self._date(date) if self.shape.created_at else None
        path, _, name = content.key.rpartition("/")
        values = {
            "Name": name,
            "Path": path and f"{path}/",
            "Storage": content.storage,
            "Version": content.number,
            "Hash": Row(None, content, 0, None, proof=proof).hash,
            "SignedDownloadUrl": link_to(content, is_good=is_good, proof=proof),
        }
        if self.shape.created_at:
            values["CreatedAt"] = self.database.instant(created_at)
        return values, created_at

    def _note(self, row_id, content, created_at, is_good, proof):
        row_id = row_id if self.shape.has_numbers else str(row_id)
        row = Row(row_id, content, self.meaning.next_write(), created_at, is_good, proof)
        self.meaning.write(row)
        self.tell(f"write {row}, created at {created_at}{'' if is_good else ', with a link that leads nowhere'}")
        return row

    def tell(self, what):
        self.told.append(f"{self.now():%d %H:%M:%S}  {what}")

    def _new_uuid(self):
        self._uuids += 1
        return uuid_of(self._uuids)

    def change(self, row, content, *, date=None, is_good=True, proof=None):
        """The row says something else from now on, under the same Id. Without a `date` its date stays."""
        proof = self._proof(proof)
        values, created_at = self._values(content, date or "now", is_good, proof)
        if date is None:
            values.pop("CreatedAt", None)
            created_at = row.created_at
        self.database.update(FILES, row.id, values)
        self._note(row.id, content, created_at, is_good, proof)

    def mend_link(self, row):
        self.database.update(FILES, row.id, {"SignedDownloadUrl": link_to(row.content)})
        row.is_good = True
        self.meaning.touch(row)
        self.tell(f"mend the link of {row}")

    def vanish(self, row):
        """A row is removed, and nothing is said of it."""
        self.database.delete(FILES, row.id)
        self.meaning.drop(row.id)
        self.tell(f"remove {row}")

    # Deleting

    def delete(self, row_id, *, drops="nothing", date="now"):
        """Delete the file of the row with this Id. `drops` says which rows go: nothing, named, or all that the delete is about."""
        with self.database.transaction():
            self._delete(row_id, drops, date)

    def _delete(self, row_id, drops="nothing", date="now"):
        named = self.meaning.rows.get(row_id) or self.meaning.last.get(row_id)
        covers = self.meaning.covered_by(named)
        deleted_at = self._date(date) if self.shape.deleted_at else None
        values = {"FileId": row_id}
        if self.shape.deleted_at:
            values["DeletedAt"] = self.database.instant(deleted_at)
        if self.shape.log_id or row_id not in self.meaning.log:
            log_id = self.database.insert(LOG, values)
            log_id = log_id if self.shape.log_id else row_id
            born = self.meaning.next_write()
            self.meaning.log_delete(Delete(log_id, row_id, named, covers, born, self.now(), deleted_at))
        else:
            self._say_again(row_id, named, covers, deleted_at)
            log_id = row_id
        self.tell(f"write {self.meaning.log[log_id]}, which is {named}, deleted at {deleted_at}")
        gone = {"nothing": (), "named": {named}, "all": covers}[drops]
        for row in gone:
            if row is not None and self.meaning.rows.get(row.id) is row:
                self.vanish(row)

    def _say_again(self, row_id, named, covers, deleted_at):
        """A log without an Id of its own has one row for each FileId: it is written over."""
        old = self.meaning.log[row_id]
        if self.shape.deleted_at:
            self.database.update(LOG, row_id, {"DeletedAt": self.database.instant(deleted_at)}, key="FileId")
        old.covers |= covers
        old.named, old.deleted_at = named, deleted_at
        self.meaning.touch(*covers)

    def replace(self, row, content, *, drops="nothing", date="now", row_id=None, proof=None):
        """The delete and the new row in one transaction, by one date."""
        with self.database.transaction():
            self._delete(row.id, drops, date)
            self._write(content, row_id, date, proof=proof)

    def take_back(self, delete):
        self.database.delete(LOG, delete.id, key="Id" if self.shape.log_id else "FileId")
        self.meaning.unlog(delete.id)
        self.tell(f"remove {delete}")

    # The whole of its tables

    def dump(self):
        """Remember both tables as they are."""
        self.tell(f"take dump {len(self.dumps)}")
        self.dumps.append((dict(self.meaning.rows), dict(self.meaning.log)))

    def restore(self, number):
        """Both tables as they were, the next Ids too."""
        self.commit_late()
        self.tell(f"restore dump {number}")
        rows, log = self.dumps[number]
        with self.database.transaction():
            self._empty(FILES)
            self._empty(LOG)
            for row in rows.values():
                self._write_again(row)
            for delete in log.values():
                self._log_again(delete)
            self._number_on()

    def renumber(self, rows, *, log):
        """TRUNCATE RESTART IDENTITY, and these rows, which are all, anew in this order. The log is kept, emptied or mapped."""
        self.commit_late()
        self.tell(f"renumber: {rows}, the log is {log}")
        deletes = list(self.meaning.log.values())
        with self.database.transaction():
            self._empty(FILES)
            new = {}
            for number, old in enumerate(rows, start=1):
                row_id = number if self.shape.has_numbers else self._new_uuid()
                new[old] = Row(row_id, old.content, self.meaning.next_write(), old.created_at, old.is_good, old.proof)
                self._write_again(new[old])
            if log != "kept":
                self._empty(LOG)
            for delete in deletes:
                covers = delete.covers | {new[row] for row in delete.covers if row in new}
                if log == "kept":
                    delete.covers = covers
                elif log == "mapped" and delete.named in new:
                    named = new[delete.named]
                    self._log_again(
                        Delete(
                            delete.id if self.shape.log_id else named.id,
                            named.id,
                            named,
                            covers,
                            delete.born,
                            delete.at,
                            delete.deleted_at,
                        )
                    )
            self._number_on()

    def _empty(self, table):
        self.database.truncate(table)
        if table == FILES:
            for row_id in list(self.meaning.rows):
                self.meaning.drop(row_id)
        else:
            for delete_id in list(self.meaning.log):
                self.meaning.unlog(delete_id)

    def _write_again(self, row):
        values, _ = self._values(row.content, "now", row.is_good, row.proof)
        if self.shape.created_at:
            values["CreatedAt"] = self.database.instant(row.created_at)
        self.database.insert(FILES, {"Id": row.id} | values)
        self.meaning.write(row)

    def _log_again(self, delete):
        values = {"Id": delete.id} if self.shape.log_id else {}
        values["FileId"] = delete.file_id
        if self.shape.deleted_at:
            values["DeletedAt"] = self.database.instant(delete.deleted_at)
        self.database.insert(LOG, values)
        self.meaning.log_delete(delete)

    def _number_on(self):
        if self.shape.has_numbers:
            self.database.number_from(FILES, max(self.meaning.rows, default=0))
        if self.shape.log_id:
            self.database.number_from(LOG, max(self.meaning.log, default=0))

    # Late commits

    def begin_late(self, content, connect, proof=None):
        """Write a row in a transaction of its own that stays open. `connect` opens a second connection."""
        other = connect()
        other.run("BEGIN")
        proof = self._proof(proof)
        values, created_at = self._values(content, "now", True, proof)
        row_id = None if self.shape.has_numbers else self._new_uuid()
        row_id = other.insert(FILES, values if row_id is None else {"Id": row_id} | values)
        self._late.append((other, row_id, content, created_at, proof))

    def commit_late(self):
        """Every transaction that is open ends well."""
        for other, row_id, content, created_at, proof in self._late:
            other.run("COMMIT")
            other.close()
            self._note(row_id, content, created_at, is_good=True, proof=proof)
        self._late.clear()

    @property
    def is_late(self):
        return bool(self._late)

    def free_ids(self):
        """Numbers below the highest Id that no row has: those of removed rows, and of transactions that commit late."""
        if not self.shape.has_numbers:
            return []
        ids = [row_id for row_id in self.meaning.rows if row_id < HUGE]
        taken = {row_id for _, row_id, *_ in self._late} | set(ids)
        return [row_id for row_id in range(max(1, max(ids, default=1) - 8), max(ids, default=1)) if row_id not in taken]

    def skip_ids(self):
        """The database gives the next Ids to transactions that have not committed, or never will."""
        if self.shape.has_numbers and self.meaning.rows:
            highest = max(row_id for row_id in [*self.meaning.last, 1] if row_id < HUGE)
            self.database.number_from(FILES, highest + 3)

    def close(self):
        for other, *_ in self._late:
            other.close()
        self.database.close()

    def _date(self, name):
        now = self.now().replace(microsecond=0)
        return {"now": now, "ancient": earliest(), "farthest": farthest(), "none": None, "before": now - timedelta(days=1)}[name]
