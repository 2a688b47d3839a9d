"""Sample files as an application keeps them, the awkward ones among them, always the same bytes."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

KIB = 1024
PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff\xe0"


@dataclass(frozen=True, slots=True)
class Sample:
    """A file: `path` + `name` is its key, `versions` are its contents from the first to the newest."""

    path: str
    name: str
    versions: tuple[bytes, ...]
    content_type: str = "application/octet-stream"

    @property
    def key(self) -> str:
        return self.path + self.name


def samples(count: int) -> list[Sample]:
    """`count` files: first the awkward ones, then photos under names that are UUIDs."""
    chance = random.Random(1)
    awkward = list(_awkward(chance))
    return (awkward + [_picture(chance, number) for number in range(max(0, count - len(awkward)))])[:count]


def _awkward(chance: random.Random) -> Iterator[Sample]:
    yield Sample("cars/id-1/", "thumbnail.png", (PNG + chance.randbytes(9 * KIB),), "image/png")
    # Its documented folder is the one that the file above has already.
    yield Sample("cars/id-1/", "thumbnail.jpg", (JPEG + chance.randbytes(7 * KIB),), "image/jpeg")
    # The bucket keeps no versions: the link of the first version returns the bytes of the second.
    replaced = (PNG + chance.randbytes(5 * KIB), PNG + chance.randbytes(6 * KIB))
    yield Sample("cars/", "1ff7f0ca-5e9b-4f0e-9d51-6c0f3f8f2a11.png", replaced, "image/png")
    yield Sample("invoices/2026/", "Rechnung Müller & Söhne.pdf", (b"%PDF-1.7\n" + chance.randbytes(30 * KIB),), "application/pdf")
    yield Sample("写真/", "東京 ☕ 2026.jpg", (JPEG + chance.randbytes(12 * KIB),), "image/jpeg")
    yield Sample("notes/", "empty.txt", (b"",), "text/plain")
    yield Sample("notes/", "README", (b"a name without an extension\n",), "text/plain")
    yield Sample("exports/", "mileage.csv", (_table(chance),), "text/csv")
    yield Sample("videos/", "tour.mp4", (chance.randbytes(3 * KIB * KIB),), "video/mp4")


def _table(chance: random.Random) -> bytes:
    """Text, which compresses well."""
    lines = (f"2026-10-{1 + row % 31:02};car-{row % 40:03};{chance.randrange(900)} km\n" for row in range(20_000))
    return b"day;car;distance\n" + "".join(lines).encode()


def _picture(chance: random.Random, number: int) -> Sample:
    name = uuid.uuid5(uuid.NAMESPACE_OID, f"picture {number}")
    return Sample("photos/", f"{name}.jpg", (JPEG + chance.randbytes(chance.randrange(4 * KIB, 40 * KIB)),), "image/jpeg")
