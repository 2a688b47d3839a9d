"""Content codings: what was stored is what the hash is of, whatever a provider makes of it on the way.

Each origin has the habit of one provider, after its documentation: S3 and Azure send an object as it is stored,
whatever is asked for; Google and R2 inflate one that is stored as gzip (R2 br as well) for who does not accept it; nginx
and content delivery networks pack what is stored plain for who does.
"""

import gzip
import hashlib

import pytest

from cbk.errors import HashMismatch
from cbk.model import VersionState

PLAIN = b"<html>" + b"a line of text, and another one\n" * 3000
GZIP = gzip.compress(PLAIN, mtime=0)
BR = bytes([0x0B, 0x01, 0x80]) + b"abc" + bytes([0x03])  # as the reference encoder has it
BR_PLAIN = b"abc"


def accepted(exchange):
    return {coding.strip() for coding in exchange.request.headers.get("accept-encoding", "").split(",")}


def s3(stored, coding, _plain):
    """S3 and Azure: as it is stored."""

    def answer(exchange):
        exchange.send(200, {"Content-Encoding": coding}, stored)
        return True

    return answer


def google(stored, coding, plain):
    """Google's decompressive transcoding: gzip is inflated for who does not accept it, and then no length is told."""

    def answer(exchange):
        if coding == "gzip" and "gzip" not in accepted(exchange):
            exchange.head(200, {"Transfer-Encoding": "chunked", "Warning": "214 UploadServer gunzipped"})
            exchange.sock.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(plain), plain))
        else:
            exchange.send(200, {"Content-Encoding": coding, "x-goog-stored-content-encoding": coding or "identity"}, stored)
        return True

    return answer


def r2(stored, coding, plain):
    """Cloudflare's R2: gzip and br are inflated for who does not accept them."""

    def answer(exchange):
        if coding in {"gzip", "br"} and coding not in accepted(exchange):
            exchange.send(200, {}, plain)
        else:
            exchange.send(200, {"Content-Encoding": coding}, stored)
        return True

    return answer


def packs_on_the_way(stored, coding, _plain):
    """nginx with gzip on, CloudFront: packs what is stored plain, with another result each time."""
    times = iter(range(100))

    def answer(exchange):
        if coding is None and "gzip" in accepted(exchange):
            packed = gzip.compress(stored, mtime=next(times))
            exchange.head(200, {"Transfer-Encoding": "chunked", "Content-Encoding": "gzip", "ETag": f"W/{exchange.etag}"})
            exchange.sock.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(packed), packed))
        else:
            exchange.send(200, {"Content-Encoding": coding}, stored)
        return True

    return answer


PROVIDERS = [s3, google, r2, packs_on_the_way]
OBJECTS = {"plain": (PLAIN, None, PLAIN), "gzip": (GZIP, "gzip", PLAIN), "br": (BR, "br", BR_PLAIN)}


def backed_up(site, provider, kind, hashed):
    """Back up such an object under this hash; return its version."""
    stored, coding, plain = OBJECTS[kind]
    link = site.origin.put(f"/{provider.__name__}/{kind}", stored, provider(stored, coding, plain))
    row = site.upload(f"{kind}.html", hashed, link=link)
    site.back_up(row)
    return next(version for version in site.versions().values() if version.source_id == row)


@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_object_is_kept_as_it_is_stored(site, provider, kind):
    stored = OBJECTS[kind][0]
    version = backed_up(site, provider, kind, stored)
    assert (version.state, version.size) == (VersionState.STORED, len(stored))


@pytest.mark.parametrize("kind", ["gzip", "br"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_object_whose_row_tells_of_its_plain_bytes_is_kept_plain(site, provider, kind):
    plain = OBJECTS[kind][2]
    version = backed_up(site, provider, kind, plain)
    assert (version.state, version.size) == (VersionState.STORED, len(plain))


@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_object_that_is_neither_is_another_one_by_its_stored_bytes(site, provider, kind):
    with pytest.raises(HashMismatch) as caught:
        backed_up(site, provider, kind, b"something else")
    if provider is not packs_on_the_way:
        assert caught.value.actual == hashlib.sha256(OBJECTS[kind][0]).hexdigest()
    assert not site.parts()


def test_coding_that_nobody_knows_leaves_the_stored_bytes(site):
    link = site.origin.put("/unknown", PLAIN, s3(PLAIN, "x-own", None))
    site.back_up(site.upload("own.bin", PLAIN, link=link))
    link = site.origin.put("/unknown-other", PLAIN, s3(PLAIN, "x-own", None))
    with pytest.raises(HashMismatch):
        site.back_up(site.upload("other.bin", b"something else", link=link))
