"""What a page of rows adds to what is known: files, places, versions, contradictions."""

from datetime import UTC, datetime

from cbk.model import AcceptedRow, Proof
from cbk.rules.intake.intake import KnownVersion, candidate_place_keys, plan_intake
from cbk.rules.intake.layout import place_key, variant_of

A, B = "aa" * 32, "bb" * 32
M, N = "11" * 16, "22" * 16
FILE = ("s3", "cars/a.png")


def row(key="cars/a.png", number=1, *, storage="s3", sha256=A, source_id=None, **more):
    values = {"source_id": source_id or f"{storage}/{key}-{number}", "link": "https://h/x", **more}
    return AcceptedRow(storage=storage, key=key, number=number, sha256=sha256, **values)


def plan(*rows, known=None, taken=(), buckets=None):
    buckets = buckets or {}
    return plan_intake(rows, known=known or {}, taken=set(taken), bucket_of=lambda storage: buckets.get(storage, storage))


def places_of(planned):
    return {(file.storage, file.key): file.place for file in planned.files}


def test_new_row_adds_its_file_and_its_version():
    planned = plan(row(content_type="image/png"), buckets={"s3": "car-erp"})
    [file], [version] = planned.files, planned.versions
    assert (file.storage, file.key, file.bucket, file.place) == ("s3", "cars/a.png", "car-erp", "car-erp/cars/a")
    assert (version.number, version.source_id, version.sha256, version.content_type) == (1, "s3/cars/a.png-1", A, "image/png")
    assert planned.contradictions == []


def test_link_is_kept_as_a_digest_and_the_time_it_dies():
    link = "https://h/x?X-Amz-Date=20260101T000000Z&X-Amz-Expires=600&X-Amz-Signature=DEADBEEFSECRET"
    planned = plan(row(link=link))
    [version] = planned.versions
    assert version.link_expires_at == datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
    assert version.link_digest != plan(row(link=link + "2")).versions[0].link_digest
    assert "DEADBEEFSECRET" not in repr(planned)


def test_several_versions_of_a_new_file_share_its_place():
    planned = plan(row(number=1), row(number=2, sha256=B))
    assert len(planned.files) == 1
    assert [version.number for version in planned.versions] == [1, 2]


def test_version_of_a_known_file_adds_no_file():
    planned = plan(
        row(number=2, sha256=B), known={("s3", "cars/a.png"): [KnownVersion(number=1, sha256=A, live_rows=frozenset({"1"}))]}
    )
    assert planned.files == []
    assert [version.number for version in planned.versions] == [2]


def test_row_that_says_what_is_known_adds_nothing():
    planned = plan(
        row(source_id="twin"), known={("s3", "cars/a.png"): [KnownVersion(number=1, sha256=A, live_rows=frozenset({"1"}))]}
    )
    assert (planned.files, planned.versions, planned.contradictions) == ([], [], [])
    assert [each.row.source_id for each in planned.rows] == ["twin"]


def test_same_version_with_another_hash_is_declined_with_both_hashes_and_what_to_do():
    planned = plan(
        row(sha256=B, source_id="9"), known={("s3", "cars/a.png"): [KnownVersion(number=1, sha256=A, live_rows=frozenset({"4"}))]}
    )
    [contradiction] = planned.contradictions
    declined = contradiction.declined
    assert planned.versions == []
    assert (declined.source_id, declined.storage, declined.key, declined.version) == ("9", "s3", "cars/a.png", "1")
    assert declined.reason == (
        "version 1 is known with another Hash (aaaaaaaaaaaa, from row 4), not bbbbbbbbbbbb: new content needs a higher Version"
    )


def test_contradiction_within_one_page_goes_to_the_first_row():
    planned = plan(row(source_id="first"), row(sha256=B, source_id="second"))
    assert [version.source_id for version in planned.versions] == ["first"]
    assert [each.row.source_id for each in planned.contradictions] == ["second"]


def test_same_version_with_another_hash_is_another_version_once_no_row_of_the_first_is_there():
    known = {("s3", "cars/a.png"): [KnownVersion(number=1, sha256=A)]}
    planned = plan(row(sha256=B, source_id="9"), known=known)
    assert planned.contradictions == []
    assert [(version.number, version.sha256, version.variant) for version in planned.versions] == [(1, B, B[:32])]


def test_another_version_of_a_number_gets_the_documented_name_where_it_is_free():
    known = {("s3", "cars/a.png"): [KnownVersion(number=1, sha256=A, has_plain_name=False)]}
    assert [version.variant for version in plan(row(sha256=B), known=known).versions] == [""]


def test_row_contradicts_no_version_that_only_it_itself_brought():
    known = {("s3", "cars/a.png"): [KnownVersion(number=1, sha256=A, live_rows=frozenset({"9"}))]}
    assert plan(row(sha256=B, source_id="9"), known=known).contradictions == []


def test_first_come_gets_the_documented_place_and_the_next_keeps_its_extension():
    planned = plan(row("cars/a.png"), row("cars/a.jpg"))
    assert places_of(planned) == {("s3", "cars/a.png"): "s3/cars/a", ("s3", "cars/a.jpg"): "s3/cars/a.jpg"}


def test_order_of_the_rows_decides_who_is_first():
    planned = plan(row("cars/a.jpg"), row("cars/a.png"))
    assert places_of(planned) == {("s3", "cars/a.jpg"): "s3/cars/a", ("s3", "cars/a.png"): "s3/cars/a.png"}


def test_place_of_a_file_that_is_known_is_not_given_away():
    planned = plan(row("cars/a.jpg"), taken={place_key("s3/cars/a")})
    assert places_of(planned) == {("s3", "cars/a.jpg"): "s3/cars/a.jpg"}


def test_names_that_differ_only_in_case_get_places_that_any_disk_tells_apart():
    planned = plan(row("Cars/A.png"), row("cars/a.png"))
    first, second = planned.files
    assert first.place_key != second.place_key
    assert second.place == "s3/cars/a.png"


def test_same_key_of_two_storages_that_share_a_bucket_gets_two_places():
    buckets = {"s3": "shared", "azure": "shared"}
    planned = plan(row(storage="s3"), row(storage="azure"), row("cars/a.jpg", storage="azure"), buckets=buckets)
    assert len({file.place_key for file in planned.files}) == 3
    assert [file.place for file in planned.files][:2] == ["shared/cars/a", "shared/cars/a.png"]


def test_third_storage_of_the_same_key_in_a_shared_bucket_gets_a_place_with_a_hash():
    buckets = dict.fromkeys(("s3", "azure", "gcs"), "shared")
    *_, third = plan(row(storage="s3"), row(storage="azure"), row(storage="gcs"), buckets=buckets).files
    assert third.place.startswith("shared/cars/a.png~")


def test_candidates_name_every_place_that_a_plan_may_give():
    rows = [row("cars/a.png"), row("cars/a.jpg"), row("CARS/A.PNG"), row("cars/a.png", storage="azure")]
    buckets = {"s3": "shared", "azure": "shared"}
    planned = plan(*rows, buckets=buckets)
    assert {file.place_key for file in planned.files} <= candidate_place_keys(rows, buckets.__getitem__)


def known(*versions):
    return {FILE: list(versions)}


def first_seen(**more):
    """A version of a row without a hash, whose copy is here."""
    return KnownVersion(**{"number": 1, "sha256": A, "md5": M, "proof": Proof.FIRST_SEEN, "was_stored": True} | more)


def test_row_without_a_hash_brings_a_version_of_which_no_hash_is_known():
    [version] = plan(row(sha256="")).versions
    assert (version.sha256, version.md5, version.proof) == ("", "", Proof.FIRST_SEEN)


def test_rows_of_one_page_that_say_more_and_less_of_a_version_bring_one_that_all_of_them_prove():
    planned = plan(row(sha256="", source_id="1"), row(sha256="", md5=M, source_id="2"), row(sha256=A, source_id="3"))
    assert [(version.sha256, version.md5, version.proof) for version in planned.versions] == [(A, M, Proof.SHA256)]
    assert [(each.row.source_id, each.sha256) for each in planned.rows] == [("1", A), ("2", A), ("3", A)]


def test_hash_that_comes_later_is_of_the_version_that_has_no_copy_yet():
    unknown = KnownVersion(number=1, sha256="", live_rows=frozenset({"1"}), proof=Proof.FIRST_SEEN)
    planned = plan(row(sha256=A, source_id="1"), known=known(unknown))
    assert planned.versions == []
    assert [(claim.content[3], claim.sha256, claim.proof) for claim in planned.claims] == [("", A, Proof.SHA256)]


def test_hash_that_another_row_replaces_before_there_is_a_copy_counts_no_more():
    unknown = KnownVersion(number=1, sha256="", md5=M, proof=Proof.MD5)
    assert [(claim.md5, claim.proof) for claim in plan(row(sha256="", md5=N), known=known(unknown)).claims] == [(N, Proof.MD5)]


def test_two_rows_with_different_md5s_contradict_one_another():
    unknown = KnownVersion(number=1, sha256="", md5=M, proof=Proof.MD5, live_rows=frozenset({"4"}))
    [contradiction] = plan(row(sha256="", md5=N, source_id="9"), known=known(unknown)).contradictions
    assert contradiction.declined.reason == (
        f"version 1 is known with another Hash (MD5 {M[:12]}, from row 4), not MD5 {N[:12]}: new content needs a higher Version"
    )


def test_hash_that_is_one_of_the_copys_proves_it():
    for said, proof in ((row(sha256=A), Proof.SHA256), (row(sha256="", md5=M), Proof.MD5)):
        planned = plan(said, known=known(first_seen(live_rows=frozenset({"1"}))))
        assert (planned.versions, planned.contradictions) == ([], [])
        assert [(claim.content[3], claim.sha256, claim.proof) for claim in planned.claims] == [(A, A, proof)]


def test_hash_that_is_not_the_copys_is_of_another_version_with_a_name_of_its_own():
    for said in (row(sha256=B), row(sha256="", md5=N)):
        planned = plan(said, known=known(first_seen()))
        assert [version.variant for version in planned.versions] == [variant_of(said.sha256)]
        assert planned.claims == []


def test_hash_that_is_not_the_copys_contradicts_its_live_row():
    for said in (row(sha256=B), row(sha256="", md5=N)):
        planned = plan(said, known=known(first_seen(live_rows=frozenset({"4"}))))
        assert len(planned.contradictions) == 1


def test_md5_contradicts_a_live_row_with_which_it_cannot_be_compared():
    sha_alone = KnownVersion(number=1, sha256=A, live_rows=frozenset({"4"}))
    [contradiction] = plan(row(sha256="", md5=M), known=known(sha_alone)).contradictions
    assert "which it cannot be compared with" in contradiction.declined.reason


def test_row_without_a_hash_speaks_of_the_version_of_which_rows_are_there():
    planned = plan(row(sha256=""), known=known(first_seen(sha256=B), KnownVersion(number=1, sha256=A, live_rows=frozenset({"4"}))))
    assert (planned.versions, planned.contradictions, planned.claims) == ([], [], [])
    assert [each.sha256 for each in planned.rows] == [A]


def test_row_without_a_hash_that_is_written_again_under_another_id_speaks_of_the_copy_that_is_here():
    assert [each.sha256 for each in plan(row(sha256="", source_id="new"), known=known(first_seen())).rows] == [A]


def test_row_without_a_hash_is_not_taken_for_a_deleted_version():
    planned = plan(row(sha256=""), known=known(first_seen(deleted=True)))
    assert [(version.sha256, version.variant) for version in planned.versions] == [("", variant_of(""))]
