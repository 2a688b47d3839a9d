"""A backup disk with copies on it, as workers leave it, without a catalog or a source."""

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from cbk.edges.archive.archive import Archive
from cbk.edges.archive.disk_tools import plain_tools
from cbk.model import CopyHeader, ObjectProperties
from cbk.rules.backup.gzip_format import Encoder, encode_header
from cbk.rules.intake.layout import copy_location, place_key, places, split_key

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
BUCKETS = {"s3": "car-erp", "r2": "car-erp", "b2": "Größe"}
HASH = "0123456789abcdef" * 4

ORDINARY = [
    "cars/id-1/thumbnail.png",
    "README",
    ".gitignore",
    "archive.tar.gz",
    "a/b/c/d/e/f.bin",
    "Fotos/Straße nach Čáslav.jpeg",
    "写真/👨\u200d👩\u200d👧.png",
    "cars/e\u0301.txt",
    "cars/\u00e9.txt",
    "a b/c  d.txt",
    " lead and trail ",
]
COLLIDING = [
    "cars/thumb.jpg",
    "cars/thumb.png",
    "cars/Thumb.png",
    "cars/thumb",
    "cars",
    "cars/thumb/v1.gzip",
    "v1.gzip",
    "%long/x",
    "cars/thumb/x/y",
    "cars/thumb!x",
    "SHA256SUMS",
]
HOSTILE = [
    "-rf",
    "--help/-x",
    "12:30?*.txt",
    "100% sure.txt",
    "100%25.txt",
    "n\\m.txt",
    "\\0303\\n%s%d.txt",
    "$(touch owned) `id` ${x}; true && false | cat > y < z & 'q' \"dq\" !h [a] {b} ~root #c.txt",
    '","restore_as":"../../owned","restore_else":"x","size":1}',
    "../../etc/passwd",
    "..",
    "a/../b.txt",
    "a/./b.txt",
    "a//b.txt",
    "folder/",
    "nul\0byte.txt",
    "line\nbreak\x1b[31m.txt",
    "ends with a newline\n",
    "\n",
    "tab\tand\rreturn",
    "ends with a return\r",
    "\x7f\x9b",
    "surrogate\ud800.bin",
    "pipe|d",
    "x" * 300 + ".png",
    "ü" * 200,
    "/".join(["deep" * 10] * 60),
    "/".join("d" * 120),
    f"a~{HASH}",
    f"a~{HASH}/b",
    ".cbk/identity",
    ".cbk-part",
]


def publish(archive, part, location):
    """Put one part that was read back under its name, for good."""
    with archive.publishing() as publication:
        publication.put(part, location)


@dataclass(frozen=True)
class File:
    """One version of a file and its bytes."""

    key: str
    content: bytes
    number: int = 1
    storage: str = "s3"
    row: str | None = None
    content_type: str | None = None
    properties: ObjectProperties | None = None

    @property
    def name(self):
        return self.storage, self.key, self.number


def content_of(key):
    return random.Random(key.encode("utf-8", "surrogatepass")).randbytes(10 + 7 * (len(key) % 50))


def corpus(ordinary=0):
    """Versions of files with all names that there are, two storages of one bucket among them, and so many ordinary files."""
    keys = [*ORDINARY, *COLLIDING, *HOSTILE, *(f"cars/{number:04}/photo-{number}.jpg" for number in range(ordinary))]
    files = [File(key, content_of(key), row=str(row), content_type="image/png") for row, key in enumerate(keys, start=1)]
    files += [File("cars/id-1/thumbnail.png", b"v%d" % number, number=number, row=f"v{number}") for number in (2, 9, 10)]
    files += [File("same.txt", b"of s3"), File("same.txt", b"of r2", storage="r2"), File("same.txt", b"of b2", storage="b2")]
    files += [File("empty", b""), File("great.bin", b"\0" * 3_000_000), File("old.txt", b"old", number=2**63 - 1)]
    return files


def make_disk(root, files, now=NOW):
    """Put these copies on a disk, each in its place; gives the disk and the location of each by (storage, key, number)."""
    archive = Archive.create(root, now=now)
    for name, content in plain_tools().items():
        archive.write_note(name, content)
    taken, homes, locations = set(), {}, {}
    for file in files:
        owner = (file.storage, file.key)
        if owner not in homes:
            candidates = places(BUCKETS[file.storage], file.key, file.storage)
            homes[owner] = next(place for place in candidates if place_key(place) not in taken)
            taken.add(place_key(homes[owner]))
        locations[file.name] = copy_location(homes[owner], file.number)
        put(archive, file, locations[file.name])
    return archive, locations


def header_of(file):
    """What the copy of a file says about itself."""
    path, name = split_key(file.key)
    return CopyHeader(
        storage=file.storage,
        path=path,
        name=name,
        version=file.number,
        sha256=sha256(file.content).hexdigest(),
        size=len(file.content),
        content_type=file.content_type,
        source_id=file.row,
        properties=file.properties,
    )


def put(archive, file, location):
    """Store one copy as a worker does."""
    with archive.incoming("made.part", header_of(file)) as part:
        part.write(file.content)
        part.finish()
        part.flush()
        part.read_back()
        publish(archive, part, location)


def drop(root, file, location, header=None):
    """The same bytes, written without the care of a worker: quick, for thousands of copies."""
    encoder = Encoder()
    body = b"".join(encoder.feed(file.content)) + encoder.finish()
    path = root / location
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_header(header or header_of(file)) + body)
    return path


def newest(files):
    """The newest version of each file, by (storage, key)."""
    found = {}
    for file in sorted(files, key=lambda file: file.number):
        found[file.storage, file.key] = file
    return found


def tree(folder):
    """The content of every file below a folder, by its path; names that are no text have surrogates."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if not path.is_dir()}
