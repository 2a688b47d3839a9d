"""Names and their places, kept as data: no later release, and no other Python, may place any of them elsewhere."""

import hashlib
import json
import unicodedata
from pathlib import Path

import pytest

from cbk.rules.intake import unicode14
from cbk.rules.intake.layout import place_key, places, restore_names

KEPT = json.loads((Path(__file__).parents[1] / "data/places.json").read_text())

# Everything that has a case, or is composed of something, lies in these planes; the rest of them are Han, or private.
CODE_POINTS = [*range(0x20000), *range(0x2F800, 0x2FA20), *range(0xE0000, 0xE1000)]


def test_names_are_kept_of_the_version_that_the_layout_means():
    assert KEPT["unicode"] == unicode14.VERSION


@pytest.mark.parametrize("kept", KEPT["names"], ids=lambda kept: ascii(kept["key"])[:60])
def test_name_has_the_places_that_it_always_had(kept):
    found = places(kept["bucket"], kept["key"], kept["storage"])
    assert list(found) == kept["places"]
    assert [place_key(place) for place in found] == kept["place_keys"]
    assert list(restore_names(kept["key"], kept["storage"])) == kept["restored_as"]


def test_every_code_point_is_compared_as_it_always_was():
    digest = hashlib.sha256()
    for code_point in CODE_POINTS:
        name = f"a{chr(code_point)}\u0301"  # a mark behind it, which what is composed takes to itself
        digest.update(place_key(name).encode("utf-8", "surrogatepass") + b"\n")
    assert digest.hexdigest() == KEPT["all_code_points"]


def test_unassigned_code_points_are_those_of_the_version_that_is_named():
    if unicodedata.unidata_version != unicode14.VERSION:
        pytest.skip(f"this Python has Unicode {unicodedata.unidata_version}, and does not know what {unicode14.VERSION} lacked")
    for code_point in range(0x110000):
        is_unassigned = unicodedata.category(chr(code_point)) == "Cn"
        assert (unicode14.UNASSIGNED.fullmatch(chr(code_point)) is not None) is is_unassigned, hex(code_point)


def test_what_a_later_version_knows_the_case_of_is_told_apart_by_every_python():
    # Garay, of Unicode 16.0: a capital and its small letter.
    assert place_key("\U00010d50") != place_key("\U00010d70")


def test_what_a_later_version_composes_is_left_as_it_is_by_every_python():
    # Tulu-Tigalari, of Unicode 16.0: U+11383 is composed of the two others.
    assert place_key("\U00011382\U000113c9") == "\U00011382\U000113c9"
    assert place_key("\U00011383") == "\U00011383"


def test_what_is_around_a_later_code_point_is_compared_as_ever():
    assert place_key("\u00c9\U00010d50E\u0301") == "\u00e9\U00010d50\u00e9"
