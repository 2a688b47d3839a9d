"""What proves a copy: its row's SHA-256, its MD5, or no more than that it came first; and rows that say more later."""

import base64
import gzip
import hashlib
import json

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from cbk.cli.main import cli
from cbk.edges.catalog.database.schema import versions
from cbk.errors import HashMismatch
from cbk.jobs.admin.rebuild import rebuild
from cbk.jobs.poll.resync import resync
from cbk.jobs.status.overview import gather_overview
from cbk.jobs.status.status import gather_status, status_object
from cbk.model import Proof
from cbk.page.metrics import render
from cbk.rules.intake.layout import variant_of
from tests.integration.test_codings import google

KEY = "cars/a.png"
CONTENT, OTHER = b"content", b"other bytes"


def md5_of(content):
    return base64.b64encode(hashlib.md5(content).digest()).decode()


def sha_of(content):
    return hashlib.sha256(content).hexdigest()


def upload(site, said, content=CONTENT, **more):
    """Put an object whose row has this Hash."""
    row_id = site.upload(more.pop("key", KEY), content, **more)
    site.change(row_id, Hash=said)
    return row_id


def work(site):
    """As a site does for long enough."""
    site.pass_backoff()
    site.work()


def only(site):
    [version] = site.context.catalog.report.versions()
    return version


@pytest.fixture
def of_each(site):
    """A site with a copy that is proved by SHA-256, one by MD5, and one as first seen."""
    upload(site, sha_of(b"1"), b"1", key="sha.txt")
    upload(site, md5_of(b"2"), b"2", key="md5.txt")
    upload(site, None, b"3", key="none.txt")
    site.work()
    return site


def test_copy_of_a_row_with_an_md5_is_stored_and_pinned_by_a_sha256_of_its_own(site):
    upload(site, md5_of(CONTENT))
    site.work()
    version = only(site)
    assert (version.state, version.sha256, version.proof) == ("stored", sha_of(CONTENT), Proof.MD5)


def test_copy_of_a_row_without_a_hash_is_stored_as_first_seen(site):
    upload(site, None)
    site.work()
    version = only(site)
    assert (version.state, version.sha256, version.proof) == ("stored", sha_of(CONTENT), Proof.FIRST_SEEN)


def test_byte_that_is_flipped_at_the_origin_of_a_row_with_an_md5_is_a_mismatch(site):
    upload(site, md5_of(CONTENT), b"c0ntent")
    site.work()
    version = only(site)
    assert version.state == "mismatch"
    assert version.reason.startswith(f"the object has MD5 {hashlib.md5(b'c0ntent').hexdigest()}, but its row says")
    assert (site.copies(), site.parts()) == (set(), set())


def test_header_of_a_copy_says_how_it_was_proved(of_each):
    inspect = of_each.context.archive.inspect
    found = {name: inspect(f"car-erp/{name}/v1.gzip") for name in ("sha", "md5", "none")}
    assert {name: header.proof for name, header in found.items()} == {
        "sha": Proof.SHA256,
        "md5": Proof.MD5,
        "none": Proof.FIRST_SEEN,
    }
    assert (found["none"].sha256, found["none"].md5) == (sha_of(b"3"), hashlib.md5(b"3").hexdigest())


def test_status_keeps_the_three_apart_and_first_seen_does_not_count_as_proved(of_each):
    told = status_object(gather_status(of_each.context))
    assert told["proofs"] == {"sha256": 1, "md5": 1, "first_seen": 1}
    assert (told["protected_files"], told["proved_files"]) == (3, 2)


def test_status_and_ls_say_it_to_a_person(of_each, monkeypatch):
    for name, value in of_each.environment.items():
        monkeypatch.setenv(name, value)
    run = CliRunner().invoke
    assert "1 by SHA-256, 1 by MD5, and 1 not at all: as first seen" in run(cli, ["status"]).output
    listed = [json.loads(line) for line in run(cli, ["ls", "--json"]).output.splitlines()]
    assert {item["key"]: item["proof"] for item in listed} == {"sha.txt": "sha256", "md5.txt": "md5", "none.txt": "first_seen"}


@pytest.mark.parametrize(
    ("key", "proof", "said"),
    [
        ("sha.txt", "sha256", "stored: car-erp/sha/"),
        ("md5.txt", "md5", "stored, by MD5: car-erp/md5/"),
        ("none.txt", "first_seen", "stored, as first seen: "),
    ],
)
def test_history_says_how_each_version_is_proved(of_each, monkeypatch, key, proof, said):
    for name, value in of_each.environment.items():
        monkeypatch.setenv(name, value)
    run = CliRunner().invoke
    assert json.loads(run(cli, ["history", "--json", key]).output)["proof"] == proof
    assert said in run(cli, ["history", key]).output.splitlines()[0]


def test_metrics_keep_the_three_apart(of_each):
    lines = render(gather_overview(of_each.context), None).decode().splitlines()
    assert [line for line in lines if line.startswith("cbk_protected_files{")] == [
        'cbk_protected_files{proof="sha256"} 1.0',
        'cbk_protected_files{proof="md5"} 1.0',
        'cbk_protected_files{proof="first_seen"} 1.0',
    ]


@pytest.mark.parametrize("with_source", [True, False])
def test_rebuild_keeps_the_strength_of_each_proof(of_each, with_source):
    before = {name: (version.proof, version.sha256, version.md5) for name, version in of_each.versions().items()}
    of_each.context.catalog.close()
    for path in of_each.folder.glob("catalog.db*"):
        path.unlink()
    of_each.reopen()
    if with_source:
        rebuild(of_each.context, tell=print, advance=lambda _: None)
    else:
        with of_each.source_away():
            rebuild(of_each.context, tell=print, advance=lambda _: None)
    of_each.work()
    assert {name: (version.proof, version.sha256, version.md5) for name, version in of_each.versions().items()} == before
    assert set(of_each.states().values()) == {"stored"}


def test_other_bytes_of_a_row_without_a_hash_are_loud_and_no_copy(site):
    upload(site, None)
    site.work()
    (site.root / "car-erp/cars/a/v1.gzip").unlink()
    site.origin.put(f"/car-erp/{KEY}", OTHER)
    resync(site.context, site.publisher, storage="s3", key=KEY)
    [row_id] = site.publisher.take()
    with pytest.raises(HashMismatch, match=f"SHA-256 {sha_of(OTHER)}, but when it was first seen it was {sha_of(CONTENT)}"):
        site.back_up(row_id)
    assert only(site).state == "mismatch"
    assert site.copies() == set()


@pytest.mark.parametrize("first", [None, md5_of(CONTENT)])
def test_sha256_that_is_written_later_proves_the_copy_that_is_here(site, first):
    row_id = upload(site, first)
    site.work()
    site.change(row_id, Hash=sha_of(CONTENT))
    work(site)
    assert (only(site).proof, only(site).state) == (Proof.SHA256, "stored")
    assert site.origin.count(f"/car-erp/{KEY}") == 1


def test_hash_that_is_written_later_leaves_a_delete_that_covers_its_row_as_it_is(site):
    row_id = upload(site, None)
    site.work()
    site.delete(row_id)
    site.work()
    site.change(row_id, Hash=sha_of(CONTENT))
    work(site)
    assert (only(site).deleted, only(site).live) == (True, False)


def test_sha256_of_other_bytes_that_is_written_later_is_another_version_beside_the_copy(site):
    row_id = upload(site, None)
    site.work()
    site.change(row_id, Hash=sha_of(OTHER))
    site.origin.put(f"/car-erp/{KEY}", OTHER)
    work(site)
    assert site.copies() == {"car-erp/cars/a/v1.gzip", f"car-erp/cars/a/v1-{variant_of(sha_of(OTHER))}.gzip"}


def test_hash_that_is_taken_away_takes_nothing_from_the_copy(site):
    row_id = upload(site, sha_of(CONTENT))
    site.work()
    site.change(row_id, Hash=None)
    work(site)
    assert (only(site).state, only(site).proof, only(site).live) == ("stored", Proof.SHA256, True)
    assert site.origin.count(f"/car-erp/{KEY}") == 1


def test_md5_in_place_of_a_sha256_turns_out_to_be_of_the_same_copy(site):
    row_id = upload(site, sha_of(CONTENT))
    site.work()
    site.change(row_id, Hash=md5_of(CONTENT))
    work(site)
    work(site)
    assert (only(site).state, only(site).proof, only(site).live) == ("stored", Proof.SHA256, True)
    assert site.copies() == {"car-erp/cars/a/v1.gzip"}
    assert site.origin.count(f"/car-erp/{KEY}") == 2


def test_hash_that_is_written_before_the_object_comes_is_what_it_has_to_have(site):
    row_id = upload(site, None)
    site.poll()
    site.change(row_id, Hash=sha_of(OTHER))
    work(site)
    assert only(site).state == "mismatch"


def test_hash_that_comes_during_a_download_ends_what_was_claimed(site):
    row_id = upload(site, None)
    site.poll()
    [claim] = site.context.catalog.work.claim([row_id], site.context.settings.lease)
    site.change(row_id, Hash=sha_of(OTHER))
    site.poll()
    assert site.context.catalog.work.renew([claim], site.context.settings.lease) == [claim]


def test_file_without_a_hash_that_is_deleted_and_written_again_is_not_taken_for_its_old_copy(site):
    row_id = upload(site, None)
    site.work()
    site.delete(row_id)
    site.work()
    upload(site, None, OTHER)
    site.work()
    assert [version.sha256 for version in site.context.catalog.report.versions(key=KEY) if version.live] == [sha_of(OTHER)]
    assert site.copies() == {"car-erp/cars/a/v1.gzip", f"car-erp/cars/a/v1-{variant_of(sha_of(OTHER))}.gzip"}


def test_file_without_a_hash_that_is_deleted_and_written_again_with_the_same_bytes_has_its_copy_already(site):
    row_id = upload(site, None)
    site.work()
    site.delete(row_id)
    site.work()
    upload(site, None)
    site.work()
    assert (only(site).state, only(site).live) == ("stored", True)
    assert site.copies() == {"car-erp/cars/a/v1.gzip"}


def test_second_row_with_another_md5_is_declined_beside_the_first(site):
    upload(site, md5_of(CONTENT))
    second = upload(site, md5_of(OTHER), key=KEY)
    site.work()
    assert "is known with another Hash (MD5" in site.declined()[second]


def test_older_version_without_a_hash_whose_link_gives_the_newer_bytes_is_superseded(make_site):
    site = make_site(keep_versions=2)
    upload(site, None, version=1)
    upload(site, None, OTHER, version=2)
    work(site)
    work(site)
    assert site.states() == {(KEY, 1): "superseded", (KEY, 2): "stored"}


@pytest.mark.parametrize(("said", "proof"), [(md5_of(CONTENT), Proof.MD5), (None, Proof.FIRST_SEEN)])
def test_copy_that_a_worker_left_when_it_died_is_adopted(site, said, proof):
    upload(site, said)
    site.work()
    with site.context.catalog.database.writing() as connection:
        lost = {"state": "pending", "sha256": "", "md5": "", "stored_at": None, "due_at": site.context.catalog.database.now_sql}
        connection.execute(sa.update(versions).values(lost))
    site.work()
    assert (only(site).state, only(site).sha256, only(site).proof) == ("stored", sha_of(CONTENT), proof)
    assert site.origin.count(f"/car-erp/{KEY}") == 1


def test_copy_in_its_place_whose_md5_is_another_is_put_aside(site):
    upload(site, md5_of(CONTENT))
    site.leave_copy(KEY, OTHER, location="car-erp/cars/a/v1.gzip")
    site.work()
    assert (only(site).sha256, len(site.quarantined())) == (sha_of(CONTENT), 1)


def test_md5_of_the_plain_bytes_of_an_object_that_is_sent_packed_is_enough(site):
    packed = gzip.compress(CONTENT)
    row_id = site.upload(KEY, CONTENT, google(packed, "gzip", CONTENT), google(packed, "gzip", CONTENT))
    site.change(row_id, Hash=md5_of(CONTENT))
    site.work()
    assert (only(site).state, only(site).sha256) == ("stored", sha_of(CONTENT))
