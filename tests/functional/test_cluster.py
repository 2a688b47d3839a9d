"""The main job on real parts: rows in PostgreSQL, an HTTP origin, Valkey, real worker and beat processes."""

import subprocess


def test_upload_becomes_a_verified_copy_at_the_documented_path(site):
    site.upload("cars/id-1/thumbnail.png", b"png bytes")
    site.worker()
    site.beat()
    site.wait_protected(1)
    assert site.copies() == {"car-erp/cars/id-1/thumbnail/v1.gzip"}
    copy = site.root / "car-erp/cars/id-1/thumbnail/v1.gzip"
    with copy.open("rb") as stream:
        assert subprocess.run(["zcat"], stdin=stream, capture_output=True, check=True).stdout == b"png bytes"
