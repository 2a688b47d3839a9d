"""What copies on a disk add to a catalog: each is believed where its header and its location fit, and nothing else is."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cbk.model import CopyHeader
from cbk.rules.admin.rebuild import FoundCopy, KnownFile, PlacedCopy, RebuildProblem, place_copy, plan_rebuild
from cbk.rules.intake.layout import copy_location, place_key, places

NO_CLOCK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine fails no test
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SHA256 = "ab" * 32


def bucket_of(storage):
    return {"s3": "car-erp"}.get(storage, storage)


def found(location, **header):
    values = {"storage": "s3", "path": "cars/", "name": "thumb.png", "version": 1, "sha256": SHA256, "size": 3, "source_id": "7"}
    return FoundCopy(location=location, header=CopyHeader(**values | header), stored_size=300, stored_at=NOW)


def placed(location, **header):
    copy = place_copy(found(location, **header), bucket_of)
    assert isinstance(copy, PlacedCopy)
    return copy


@pytest.mark.parametrize("place", places("car-erp", "cars/thumb.png", "s3"))
def test_copy_is_believed_in_every_place_that_the_layout_has_for_it(place):
    copy = placed(copy_location(place, 1))
    assert (copy.bucket, copy.place, copy.row.key, copy.row.source_id) == ("car-erp", place, "cars/thumb.png", "7")


@pytest.mark.parametrize(
    "location",
    [
        "car-erp/cars/thumb/v2.gzip",
        "car-erp/cars/thumb/v01.gzip",
        "car-erp/cars/Thumb/v1.gzip",
        "car-erp/other/v1.gzip",
        "car-erp/v1.gzip",
        f"car-erp/cars/thumb.png~{'0' * 64}/v1.gzip",
    ],
)
def test_copy_that_lies_elsewhere_is_a_problem(location):
    problem = place_copy(found(location), bucket_of)
    assert problem == RebuildProblem(
        location=location, reason="its header says that it is s3/cars/thumb.png v1, which does not belong there"
    )


def test_folder_of_another_bucket_is_believed_under_its_own_name():
    assert placed("old-name/cars/thumb/v1.gzip").bucket == "old-name"


def test_folder_that_the_bucket_is_spelt_into_is_the_buckets():
    copy = placed("a%2Fb/cars/thumb/v1.gzip", storage="a/b")
    assert copy.bucket == "a/b"


@pytest.mark.parametrize("header", [{"sha256": "zz"}, {"storage": ""}, {"name": "", "path": ""}, {"version": 2**70}])
def test_header_that_makes_no_sense_is_a_problem(header):
    problem = place_copy(found("car-erp/cars/thumb/v1.gzip", **header), bucket_of)
    assert isinstance(problem, RebuildProblem)
    assert problem.reason.startswith("its header makes no sense: ")


texts = st.text(st.characters(), max_size=20)


@NO_CLOCK
@given(
    st.builds(
        CopyHeader,
        storage=texts,
        path=texts,
        name=texts,
        version=st.integers(0, 2**80),
        sha256=st.just(SHA256) | texts,
        size=st.integers(0, 2**63),
        content_type=st.none() | texts,
        source_id=st.none() | texts,
    ),
    st.integers(0, 3),
)
def test_no_header_raises_and_what_is_believed_is_where_the_layout_puts_it(header, candidate):
    candidates = places(bucket_of(header.storage), header.key or "x", header.storage)
    location = copy_location(candidates[candidate % len(candidates)], header.version)
    copy = place_copy(FoundCopy(location=location, header=header, stored_size=1, stored_at=NOW), bucket_of)
    assert isinstance(copy, RebuildProblem) or copy_location(copy.place, copy.row.number) == location


# ---- the plan ----------------------------------------------------------------------------------------------------------------

FIRST = placed("car-erp/cars/thumb/v1.gzip")
SECOND = placed("car-erp/cars/thumb/v2.gzip", version=2)
NAME = ("s3", "cars/thumb.png")
ELSEWHERE = placed("car-erp/cars/thumb.png/v1.gzip")
OTHER_FILE = placed("car-erp/cars/thumb/v3.gzip", name="thumb.jpg", version=3)


def plan(*copies, known=None, owners=None):
    done = plan_rebuild(copies, known=known or {}, owners=owners or {})
    return [file.place for file in done.files], list(done.copies), [problem.location for problem in done.problems], done.known


def test_two_versions_make_one_file():
    assert plan(FIRST, SECOND) == (["car-erp/cars/thumb"], [FIRST, SECOND], [], 0)


def test_version_that_is_known_stays():
    known = {NAME: KnownFile(place="car-erp/cars/thumb", versions={(1, FIRST.row.sha256)})}
    assert plan(FIRST, SECOND, known=known, owners={place_key("car-erp/cars/thumb"): NAME}) == ([], [SECOND], [], 1)


def test_file_keeps_the_place_that_the_catalog_knows():
    known = {NAME: KnownFile(place="car-erp/cars/thumb", versions=set())}
    assert plan(ELSEWHERE, known=known) == ([], [], [ELSEWHERE.found.location], 0)


def test_file_keeps_the_place_of_its_first_copy():
    assert plan(FIRST, ELSEWHERE) == (["car-erp/cars/thumb"], [FIRST], [ELSEWHERE.found.location], 0)


@pytest.mark.parametrize("order", [1, -1])
def test_place_has_one_file(order):
    copies = [FIRST, OTHER_FILE][::order]
    assert plan(*copies) == (["car-erp/cars/thumb"], copies[:1], [copies[1].found.location], 0)


def test_place_that_the_catalog_gave_away_is_taken():
    owners = {place_key("car-erp/cars/THUMB"): ("s3", "cars/THUMB.gif")}
    assert plan(FIRST, owners=owners) == ([], [], [FIRST.found.location], 0)


def test_same_version_twice_is_added_once():
    again = replace(FIRST, found=replace(FIRST.found, stored_size=1))
    assert plan(FIRST, again) == (["car-erp/cars/thumb"], [FIRST], [], 1)
