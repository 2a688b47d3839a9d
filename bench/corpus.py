"""The files that everybody copies: always the same bytes, made once for each run and kept on the disk."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

KIB = 1024
MB = 1000 * 1000
FILES_PER_FOLDER = 100
CHUNK_BYTES = 1024 * KIB
# Numbers and words of a log, of which a few are the same in each line: compresses to about a fifth.
LINE = "2026-10-{day:02} car-{car:04} {kind} mileage={mileage} level={level:.3f}\n"
KINDS = ("returned", "handed over", "refuelled", "washed", "inspected")


@dataclass(frozen=True, slots=True)
class File:
    """One file of a corpus: `kind` is text, random or mixed (by turns a chunk of each); `size` in bytes."""

    key: str
    size: int
    kind: str
    seed: int

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, in chunks of up to 1 MiB that are no repetition of one another."""
        chance = random.Random(self.seed)
        for number, start in enumerate(range(0, self.size, CHUNK_BYTES)):
            size = min(CHUNK_BYTES, self.size - start)
            is_text = self.kind == "text" or (self.kind == "mixed" and number % 2 == 0)
            yield _text(chance, size) if is_text else chance.randbytes(size)


def _text(chance: random.Random, size: int) -> bytes:
    """Lines that differ. A large chunk is made of a few blocks in random order, since one in Python takes half a second per MB."""
    block = "".join(
        LINE.format(
            day=chance.randrange(1, 29),
            car=chance.randrange(4000),
            kind=chance.choice(KINDS),
            mileage=chance.randrange(900_000),
            level=chance.random(),
        )
        for _ in range(min(size, 64 * KIB) // 40 + 1)
    ).encode()
    pieces = [block[start : start + 1000] for start in range(0, len(block), 1000)]
    made = bytearray(block)
    while len(made) < size:
        chance.shuffle(pieces)
        made += b"".join(pieces)
    return bytes(made[:size])


@dataclass(frozen=True, slots=True)
class Corpus:
    """A set of files below `folder`, and the SHA-256 of each by its key."""

    name: str
    files: tuple[File, ...]
    folder: Path
    sha256: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def small(scale: float) -> list[File]:
    """10,000 files of 4 to 36 KiB, of which every other one compresses."""
    chance = random.Random(1)
    return [
        File(f"cars/{number // FILES_PER_FOLDER:04}/{_name(number)}", chance.randrange(4 * KIB, 36 * KIB + 1), kind, number)
        for number in range(_count(10_000, scale))
        for kind in [("text", "random")[number % 2]]
    ]


def medium(scale: float) -> list[File]:
    """200 files of 5 MB, of which every other one compresses."""
    return [
        File(f"scans/{number // FILES_PER_FOLDER:04}/{_name(number)}", 5 * MB, ("text", "random")[number % 2], number)
        for number in range(_count(200, scale))
    ]


def large(scale: float) -> list[File]:
    """Three files of 1 GB: one that does not compress, one that does, and a mixture. The scale shrinks each."""
    size = max(int(1000 * MB * scale), CHUNK_BYTES)
    return [File(f"videos/{kind}.bin", size, kind, number) for number, kind in enumerate(("random", "text", "mixed"))]


def few(scale: float) -> list[File]:
    """Two fifths of the small ones: enough that the start and the end of four workers do not count."""
    return small(scale * 2 / 5)


def incompressible(scale: float) -> list[File]:
    """The large one that does not compress."""
    return large(scale)[:1]


def proof(scale: float) -> list[File]:
    """The medium and the large ones."""
    return medium(scale) + large(scale)


CORPORA = {
    "small": small,
    "few": few,
    "medium": medium,
    "large": large,
    "incompressible": incompressible,
    "proof": proof,
}


def make_corpus(name: str, folder: Path, scale: float) -> Corpus:
    """Write the files below `folder`/`name`."""
    files = tuple(CORPORA[name](scale))
    return Corpus(name, files, folder / name, {file.key: _write(file, folder / name / file.key) for file in files})


def _write(file: File, path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("wb") as out:
        for chunk in file.chunks():
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()


def _name(number: int) -> str:
    return f"{hashlib.md5(b'%d' % number, usedforsecurity=False).hexdigest()}.{('csv', 'jpg')[number % 2]}"


def _count(count: int, scale: float) -> int:
    return max(int(count * scale), 1)
