"""Somebody with the application's login: whatever can be written into its two tables, to have copies removed that are there.

Nothing here knows the kit. What was lost is told by the bytes on the disk alone.
"""

import random

from tests.model.application import link_to
from tests.model.copies import read_copies
from tests.model.meaning import Content, Row
from tests.model.tables import FILES, LOG, earliest, farthest

GARBAGE = 7
HIGHEST = 2147483647
DEAD_LINK = link_to(Content("s3", "", 1, 0), is_good=False, proof="first_seen")


class Attacker:
    """`tactics` are names of methods, of which each strike does some; `numbers` is a seed that says which, and to what."""

    def __init__(self, database, now, *, files, tactics, size, numbers):
        self.database = database
        self.now = now
        self.size = size
        self.tactics = tactics
        self.random = random.Random(numbers)
        self.originals = [Content("s3", f"{number}.txt", 1, 0) for number in range(files)]
        self.versions = dict.fromkeys((content.key for content in self.originals), 1)
        self.dump = None
        self.flooded = 0
        for content in self.originals:
            self.write(content, date=None)

    def strike(self):
        """What is done at once."""
        with self.database.transaction():
            if self.dump is None:
                self.dump = [self._rows(FILES), self._rows(LOG)]
            for name in self.random.choices(self.tactics, k=self.random.randint(1, 3)):
                getattr(self, name)()

    def lost(self, root):
        """Of how many of the files that were there at the beginning no copy is left, with whatever name."""
        there = {copy.sha256 for copy in read_copies(root)}
        return sum(content.sha256 not in there for content in self.originals)

    # Deletes

    def delete(self):
        for content in self._some():
            self.log(self.id_of(content.key), self._date())

    def delete_with_rows(self):
        self.delete_these(self._some(), self._date())

    def delete_these(self, contents, date=None):
        for content in contents:
            row_id = self.id_of(content.key)
            self.log(row_id, date)
            if row_id is not None:
                self.database.delete(FILES, row_id)

    def delete_all(self):
        for content in self.originals:
            self.log(self.id_of(content.key), self._date())

    def turn_deletes(self):
        """Rows of the log name others from now on."""
        for row in self._sample(self._rows(LOG)):
            self.database.update(LOG, row["Id"], {"FileId": self.id_of(self.random.choice(self.originals).key) or 1})

    def take_deletes_back(self):
        for row in self._rows(LOG):
            self.database.delete(LOG, row["Id"])

    def delete_what_comes(self):
        self.log(max((row["Id"] for row in self._rows(FILES)), default=0) + self.random.randint(1, 5))

    # Other versions

    def replace(self):
        for content in self._some():
            self.versions[content.key] += 1
            self.write(Content("s3", content.key, self.versions[content.key], GARBAGE))

    def replace_by_the_highest(self):
        for content in self._some():
            self.write(Content("s3", content.key, HIGHEST, GARBAGE))

    def replace_in_place(self):
        for content in self._some():
            self.versions[content.key] += 1
            self._change(content.key, Content("s3", content.key, self.versions[content.key], GARBAGE))

    def write_again_with_a_dead_link(self):
        """Rows of the files as they were at first, which nothing can be fetched by."""
        for content in self._some():
            self.write(content, is_good=False)

    def write_again(self):
        for content in self._some():
            self.write(content)

    # Rows that are there

    def other_bytes(self):
        for content in self._some():
            self._change(content.key, Content("s3", content.key, 1, GARBAGE))

    def other_hash(self):
        proof = self.random.choice(["md5", "first_seen", "sha256"])
        for content in self._some():
            self._change(content.key, content, proof=proof, is_good=self.random.random() < 0.5)

    def rename(self):
        for content in self._some():
            other = self.random.choice(self.originals)
            self._change(content.key, Content("s3", other.key, self.random.randint(1, 3), 0))

    def dead_links(self):
        for row in self._sample(self._rows(FILES)):
            self.database.update(
                FILES, row["Id"], {"SignedDownloadUrl": link_to(self.originals[0], is_good=False, proof="first_seen")}
            )

    def dates(self):
        for row in self._sample(self._rows(FILES)):
            self.database.update(FILES, row["Id"], {"CreatedAt": self._date()})
        for row in self._sample(self._rows(LOG)):
            self.database.update(LOG, row["Id"], {"DeletedAt": self._date()})

    def vanish(self):
        for row in self._sample(self._rows(FILES)):
            self.database.delete(FILES, row["Id"])

    # All of it

    def renumber(self):
        rows = self._rows(FILES)
        self.random.shuffle(rows)
        self._put_back(FILES, [row | {"Id": number} for number, row in enumerate(rows, start=1)])

    def restore(self):
        rows, log = self.dump
        self._put_back(FILES, rows)
        if self.random.random() < 0.5:
            self._put_back(LOG, log)

    def flood(self):
        for _ in range(5 * self.size):
            self.flooded += 1
            self.write(Content("s3", f"flood/{self.flooded}", 1, GARBAGE))

    # How

    def _some(self):
        return self._sample(self.originals)

    def _sample(self, things):
        return self.random.sample(things, min(self.random.randint(1, self.size), len(things)))

    def _rows(self, table):
        cursor = self.database.run(f'SELECT * FROM "{table}" ORDER BY "Id"')
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def id_of(self, key):
        path, _, name = key.rpartition("/")
        found = [row["Id"] for row in self._rows(FILES) if (row["Path"], row["Name"]) == (path and f"{path}/", name)]
        return self.random.choice(found) if found else None

    def _values(self, content, proof, is_good):
        path, _, name = content.key.rpartition("/")
        return {
            "Name": name,
            "Path": path and f"{path}/",
            "Storage": content.storage,
            "Version": content.number,
            "Hash": Row(None, content, 0, None, proof=proof).hash,
            "SignedDownloadUrl": link_to(content, is_good=is_good, proof="sha256" if is_good else "first_seen"),
        }

    def write(self, content, *, proof="sha256", is_good=True, date=None):
        self.database.insert(FILES, self._values(content, proof, is_good) | {"CreatedAt": date})

    def _change(self, key, content, *, proof="sha256", is_good=True):
        row_id = self.id_of(key)
        if row_id is not None:
            self.database.update(FILES, row_id, self._values(content, proof, is_good))

    def log(self, row_id, date=None):
        if row_id is not None:
            self.database.insert(LOG, {"FileId": row_id, "DeletedAt": date})

    def _date(self):
        return self.database.instant(self.random.choice([self.now(), self.now(), earliest(), farthest(), None]))

    def _put_back(self, table, rows):
        self.database.truncate(table)
        for row in rows:
            self.database.insert(table, row)
        self.database.number_from(table, max((row["Id"] for row in rows), default=0))


TACTICS = [
    "delete",
    "delete_with_rows",
    "delete_all",
    "turn_deletes",
    "take_deletes_back",
    "delete_what_comes",
    "replace",
    "replace_by_the_highest",
    "replace_in_place",
    "write_again_with_a_dead_link",
    "write_again",
    "other_bytes",
    "other_hash",
    "rename",
    "dead_links",
    "dates",
    "vanish",
    "renumber",
    "restore",
    "flood",
]
