"""The journal of holds and removals: what goes in comes out, and damage costs what it hit and is named."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cbk.model import Hold, RemovalKind
from cbk.rules.retention.journal import JournalRemoval, decode_journal, encode_journal, encode_segments

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOLD = Hold(id=0, key="cars/", is_prefix=True, storage="s3", until=NOW + timedelta(days=9), reason="court", created_at=NOW)
DELETED = JournalRemoval(
    kind=RemovalKind.DELETED,
    first_seen_at=NOW,
    due_at=NOW + timedelta(days=7),
    delete_id="9",
    row_id="4",
    storage="s3",
    key="cars/id-1/thumbnail.png",
    through=2,
    deleted_at="2026-03-01 12:00:00",
    covers=(("17", 2, "ab" * 32),),
)
REPLACED = JournalRemoval(kind=RemovalKind.REPLACED, first_seen_at=NOW, due_at=NOW, storage="s3", key="a", number=1, open=False)
JOURNAL = encode_journal([HOLD], [DELETED, REPLACED], NOW)

texts = st.text(st.characters(), max_size=20)  # lone surrogates among them
instants = st.datetimes(timezones=st.just(UTC))
numbers = st.integers(0, 2**63 - 1)
holds = st.builds(
    Hold,
    id=st.just(0),
    key=texts,
    is_prefix=st.booleans(),
    storage=st.none() | texts,
    until=st.none() | instants,
    reason=texts,
    created_at=instants,
)
removals = st.builds(
    JournalRemoval,
    kind=st.sampled_from(RemovalKind),
    first_seen_at=instants,
    due_at=instants,
    delete_id=st.none() | texts,
    row_id=st.none() | texts,
    storage=st.none() | texts,
    key=st.none() | texts,
    number=st.none() | numbers,
    through=st.none() | numbers,
    sha256=st.none() | texts,
    deleted_at=st.none() | texts,
    covers=st.lists(st.tuples(texts, numbers, texts), max_size=3).map(tuple),
    outcome=texts,
    open=st.booleans(),
)


@given(st.lists(holds, max_size=3), st.lists(removals, max_size=3), instants)
def test_what_goes_in_comes_out(some_holds, some_removals, written_at):
    journal = decode_journal(encode_journal(some_holds, some_removals, written_at))
    assert (journal.holds, journal.removals, journal.written_at, journal.problems) == (some_holds, some_removals, written_at, [])


def test_journal_is_one_object_per_line_that_any_tool_reads():
    first, hold, removal, _ = (json.loads(line) for line in JOURNAL.decode("ascii").splitlines())
    assert first == {"journal": "cbk-retention", "format": 2, "written_at": "2026-03-01T12:00:00+00:00", "holds": 1, "removals": 2}
    assert hold["hold"]["until"] == "2026-03-10T12:00:00+00:00"
    assert removal["removal"]["kind"] == "deleted"
    assert removal["removal"]["through"] == 2


def test_id_of_a_hold_in_the_catalog_is_not_kept():
    held = Hold(id=12, key="a", is_prefix=False, created_at=NOW)
    assert b'"id"' not in encode_journal([held], [], NOW)


@given(st.integers(0, len(JOURNAL) * 8 - 1))
def test_flipped_bit_never_changes_a_hold_or_a_removal_and_is_named(bit):
    damaged = bytearray(JOURNAL)
    damaged[bit // 8] ^= 1 << bit % 8
    journal = decode_journal(bytes(damaged))
    assert set(journal.holds) <= {HOLD}
    assert all(removal in {DELETED, REPLACED} for removal in journal.removals)
    lost = len(journal.holds) + len(journal.removals) < 3
    assert bool(journal.problems) or not lost


def test_damaged_line_costs_that_line_alone():
    journal = decode_journal(JOURNAL.replace(b"cars/id-1", b"cars/id-2"))
    assert (journal.holds, journal.removals) == ([HOLD], [REPLACED])
    assert journal.problems == ["line 3 is damaged", "1 of its 3 holds and removals could not be read"]


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_journal_that_is_cut_short_says_how_much_is_missing(lines):
    journal = decode_journal(b"".join(JOURNAL.splitlines(keepends=True)[:lines]))
    assert any("could not be read" in problem for problem in journal.problems)


def test_damaged_first_line_keeps_the_others():
    journal = decode_journal(b"\0" * 8 + JOURNAL[8:])
    assert (journal.holds, journal.removals, journal.problems) == ([HOLD], [DELETED, REPLACED], ["line 1 is damaged"])


def test_journal_of_a_later_format_is_not_guessed_at():
    journal = decode_journal(JOURNAL.replace(b'"format":2', b'"format":4'))
    assert (journal.holds, journal.removals) == ([], [])
    assert journal.problems == ["it has format 4, this release knows 3: nothing of it was read"]


@pytest.mark.parametrize(
    "change", [{"due_at": "2026-03-01T12:00:00"}, {"through": -1}, {"through": True}, {"kind": "x"}, {"key": 1}]
)
def test_line_whose_values_make_no_sense_is_damaged(change):
    from cbk.rules.retention.journal import _line  # noqa: PLC0415 - the only way to a line that is wrong and has the right sum

    body = json.loads(JOURNAL.splitlines()[2])["removal"] | change
    first = JOURNAL.splitlines()[0]
    assert "line 2 is damaged" in decode_journal(first + b"\n" + _line("removal", body).encode()).problems


@given(st.binary(max_size=200))
def test_no_bytes_whatsoever_raise(content):
    assert decode_journal(content).problems


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b"null\n1\n" + b"9" * 5000, b'{"journal":"other"}'])
def test_what_is_no_journal_is_named(content):
    journal = decode_journal(content)
    assert journal.problems[0] == "line 1 is damaged"
    assert (journal.holds, journal.removals) == ([], [])


# Segments: removals named by their delete's Id. Number 1 was added again without "4", which a person has taken back.


def waiting(*names):
    return [replace(DELETED, delete_id=name) for name in names]


BEFORE = encode_journal([HOLD], [], NOW, segments=[(1, waiting("3", "4", "5")), (2, waiting("8", "9"))])
ADDED = encode_segments([(1, waiting("3", "5")), (4, waiting("16"))])
NAMES = ["3", "5", "8", "9", "16"]


def names(journal):
    return [removal.delete_id for removal in journal.removals]


def test_segment_that_is_added_takes_the_place_of_the_earlier_one():
    journal = decode_journal(BEFORE + ADDED)
    assert (names(journal), journal.holds, journal.problems) == (NAMES, [HOLD], [])


def test_segment_that_is_empty_by_now_counts():
    journal = decode_journal(BEFORE + encode_segments([(1, [])]))
    assert (names(journal), journal.problems) == (["8", "9"], [])


@given(st.integers(0, len(BEFORE + ADDED) * 8 - 1))
def test_flipped_bit_brings_no_removal_back_that_was_taken_back(bit):
    damaged = bytearray(BEFORE + ADDED)
    damaged[bit // 8] ^= 1 << bit % 8
    journal = decode_journal(bytes(damaged))
    assert set(names(journal)) <= set(NAMES)
    assert all(removal in waiting(*NAMES) for removal in journal.removals)
    assert journal.problems or names(journal) == NAMES


@given(st.integers(1, len(ADDED)))
@example(len(ADDED) - ADDED.index(b"\n"))
def test_power_cut_while_segments_are_added_leaves_what_was_there_or_costs_that_segment_and_is_named(cut):
    added = ADDED[:-cut]
    journal = decode_journal(BEFORE + added)
    found = names(journal)
    assert journal.holds == [HOLD]
    assert {"8", "9"} <= set(found)
    if len(added) < ADDED.index(b"\n"):  # not even the line that begins a segment, which counts without its end, too
        assert found == ["3", "4", "5", "8", "9"]
        assert bool(journal.problems) == bool(added)
    else:
        assert "4" not in found
        assert journal.problems or found in (NAMES, NAMES[:-1])
