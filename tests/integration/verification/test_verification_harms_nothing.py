"""A verification takes no whole copy out of its place, whatever the disk, its mount or another worker does meanwhile."""

import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from cbk.errors import CbkError
from tests.model.copies import read_leftovers

pytestmark = pytest.mark.parametrize("kind", ["sqlite-numbers"])


@pytest.fixture
def flipped(monkeypatch):
    """The paths of copies whose first reading to the end had one wrong bit; the second has none."""
    read, seen = os.read, {}

    def flip(descriptor, count):
        data = read(descriptor, count)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.suffix != ".gzip" or seen.get(path) == "over":
            return data
        if not data:
            seen[path] = "over"
        elif path not in seen:
            seen[path] = "flipped"
            data = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
        return data

    monkeypatch.setattr(os, "read", flip)
    return seen


def test_wrong_bit_in_the_first_reading_of_each_copy_is_the_machine_and_no_copy(tell, flipped):
    story = tell(verify_every="30d")
    for number in range(40):
        story.upload(f"{number}.png")
    story.rounds()
    flipped.clear()

    with suppress(CbkError):
        story.site.verify_all()

    assert flipped
    assert len(story.copies()) == 40
    assert read_leftovers(story.site.root) == []
    assert set(story.site.states().values()) == {"stored"}


def test_bucket_that_is_away_during_a_verification_is_back_by_the_next_poll(tell):
    story = tell()
    for number in range(30):
        story.upload(f"{number}.png")
    story.rounds()
    story.site.context.downloader.are_dead = True
    bucket = story.site.root / "car-erp"
    bucket.rename(story.site.folder / "away")

    with suppress(CbkError):
        story.site.verify_all()
    with suppress(CbkError):
        story.poll()
        story.site.fetch_all()
    if bucket.exists():
        bucket.rmdir()
    (story.site.folder / "away").rename(bucket)
    story.rounds()

    assert set(story.site.states().values()) == {"stored"}
    assert len(story.copies()) == 30


def test_verification_that_slept_past_its_lease_leaves_the_copy_that_another_worker_stored(tell, monkeypatch):
    story = tell()
    story.upload("a.png")
    story.rounds()
    [copy] = story.copies()
    story.damage(copy)
    archive = story.site.context.archive
    quarantine = archive.quarantine

    def asleep(*args, **named):
        monkeypatch.setattr(archive, "quarantine", quarantine)
        other, ours = story.site.open(), story.site.context
        story.let_time_pass(timedelta(minutes=10))
        story.site.context = other
        story.poll()
        story.site.fetch_all()
        story.site.context = ours
        assert story.has("a.png")
        return quarantine(*args, **named)

    monkeypatch.setattr(archive, "quarantine", asleep)
    with suppress(CbkError):
        story.site.verify_all()

    assert story.has("a.png")
