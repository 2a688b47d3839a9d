"""Reading copies again: whose they are, what lies on the disk bit for bit, and nothing left in the page cache."""

import ctypes
import hashlib
import json
import mmap
import os
import random
from datetime import UTC, datetime

import pytest

from cbk.edges.archive import archive as module
from cbk.edges.archive.archive import Archive
from cbk.errors import CopyMissing, CopySwapped, RootMissing
from cbk.model import CopyHeader
from tests.disk import publish

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LOCATION = "car-erp/cars/id-1/thumbnail/v1.gzip"
MEDIA = random.Random(3).randbytes(12_000_000)
OURS = ("s3", "cars/id-1/thumbnail.png", 1)


@pytest.fixture
def archive(tmp_path):
    return Archive.create(tmp_path / "backups", now=NOW)


@pytest.fixture
def written(archive):
    header = CopyHeader(
        storage="s3",
        path="cars/id-1/",
        name="thumbnail.png",
        version=1,
        sha256=hashlib.sha256(MEDIA).hexdigest(),
        size=0,
    )
    with archive.incoming("1-1", header) as part:
        part.write(MEDIA)
        part.finish()
        part.flush()
        written = part.read_back()
        publish(archive, part, LOCATION)
    return written


def cached_pages(path):
    """How many pages of a file are in the page cache (mincore(2)); -1 where the file system keeps none apart from it."""
    pages = -(-path.stat().st_size // mmap.PAGESIZE)
    vector = (ctypes.c_ubyte * pages)()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        start = ctypes.c_char.from_buffer(view)
        address = ctypes.addressof(start)
        failed = ctypes.CDLL(None).mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(view)), vector)
        del start
    assert failed == 0
    return sum(page & 1 for page in vector)


def test_check_accepts_the_copy_that_its_header_says_it_is(archive, written):
    assert archive.check(LOCATION, sha256=written.sha256, of=OURS) == written


@pytest.mark.parametrize("other", [("azure", *OURS[1:]), ("s3", "cars/id-1/thumbnail.jpg", 1), (*OURS[:2], 2)])
def test_check_names_the_copy_of_something_else_with_the_same_bytes(archive, written, other):
    with pytest.raises(CopySwapped, match=r"v1.gzip: is the copy of s3/cars/id-1/thumbnail.png v1"):
        archive.check(LOCATION, sha256=written.sha256, of=other)


def test_digest_is_that_of_the_file_itself(archive, written):
    assert archive.digest(LOCATION) == (written.stored_sha256, written.stored_size)
    (archive.root / LOCATION).write_bytes(b"rotten")
    assert archive.digest(LOCATION) == (hashlib.sha256(b"rotten").hexdigest(), 6)


def test_digest_of_a_copy_that_is_not_there_says_so_but_not_for_a_disk_that_is_not(archive, written, tmp_path):
    with pytest.raises(CopyMissing):
        archive.digest("car-erp/other/v1.gzip")
    archive.root.rename(tmp_path / "unmounted")
    with pytest.raises(RootMissing):
        archive.digest(LOCATION)


@pytest.mark.parametrize(
    "read", [lambda a, w, **o: a.check(LOCATION, sha256=w.sha256, **o), lambda a, _w, **o: a.digest(LOCATION, **o)]
)
def test_reading_tells_how_much_it_read_and_ends_where_the_listener_raises(archive, written, read):
    counts = []
    read(archive, written, on_read=counts.append)
    assert sum(counts) == written.stored_size
    assert max(counts) <= 262_144

    def stop(_count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(archive, written, on_read=stop)


@pytest.mark.parametrize(
    "read",
    [
        lambda a, w, **o: a.check(LOCATION, sha256=w.sha256, **o),
        lambda a, _w, **o: a.digest(LOCATION, **o),
        lambda a, _w, **_o: sum(map(len, a.open_copy(LOCATION))),
    ],
    ids=["check", "digest", "open_copy"],
)
def test_reading_asks_the_disk_and_leaves_nothing_in_the_page_cache(archive, written, read, monkeypatch):
    monkeypatch.setattr(module, "_DROP_EVERY_BYTES", 1_000_000)
    path = archive.root / LOCATION
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached_pages(path):
        pytest.skip("this file system lives in memory")
    path.read_bytes()
    whole = cached_pages(path)
    assert whole >= written.stored_size // mmap.PAGESIZE
    seen = []
    read(archive, written, on_read=lambda _count: seen.append(cached_pages(path)))
    assert cached_pages(path) == 0
    assert max(seen, default=0) < 0.8 * whole  # nor is all of it there at any time, whatever the disk reads ahead


def test_evidence_lies_beside_what_is_in_quarantine(archive, written):
    for number in (1, 2):
        if number == 2:
            (archive.root / LOCATION).parent.mkdir(parents=True, exist_ok=True)
            (archive.root / LOCATION).write_bytes(b"rotten")
        quarantined = archive.quarantine(LOCATION)
        archive.describe(quarantined, {"key": "ünï\udcff", "number": number})
        assert json.loads((archive.root / f"{quarantined.removesuffix('.gzip')}.json").read_text()) == {
            "key": "ünï\udcff",
            "number": number,
        }
    assert len(list((archive.root / ".cbk/quarantine").iterdir())) == 4
