"""One object: the copy that lies in its place already, or its download, hashed on the way where its row does not say all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack

from cbk.edges import host
from cbk.edges.archive.archive import IncomingCopy
from cbk.errors import CopyCorrupt, CopyMissing, DiskFailed, HashMismatch, NotTheObject
from cbk.jobs.backup.throttle import Throttle
from cbk.jobs.context import Context
from cbk.model import AcceptedRow, Claim, CopyHeader, Fetched, Version, Written
from cbk.rules.backup.gzip_format import UNTOLD_MD5, UNTOLD_SHA256
from cbk.rules.backup.hashes import Hashes, agree, expected_hashes, mismatch_of, proof_of, stronger
from cbk.rules.intake.layout import location_of, split_key

# A copy that the disk could not read in so many attempts is not waited for any longer.
UNREADABLE_ATTEMPTS = 3


class HashingSink:
    """Passes the bytes of an object on to a part, and hashes them on the way."""

    def __init__(self, part: IncomingCopy) -> None:
        self._part = part
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)

    @property
    def hashes(self) -> Hashes:
        """Of all that came so far."""
        return Hashes(sha256=self._sha256.hexdigest(), md5=self._md5.hexdigest())

    def expect(self, size: int) -> None:
        """As `IncomingCopy.expect`."""
        self._part.expect(size)

    def write(self, data: memoryview) -> None:
        """As `IncomingCopy.write`."""
        self._part.write(data)
        self._sha256.update(data)
        self._md5.update(data)


def adopt(context: Context, version: Version, tick: Callable[[], None]) -> Written | None:
    """The copy that lies there already: a worker died between publishing and recording, or it could not be read for a while.

    A bad one is put aside, and so is one that the disk fails to read again and again.
    """
    archive, location = context.archive, location_of(version)
    if archive.is_free(location):
        return None
    named = None if version.sha256 else (version.storage, version.key, version.number)
    try:
        return archive.adopt(location, sha256=version.sha256, md5=version.md5, of=named, tick=tick)
    except CopyMissing:
        return None
    except CopyCorrupt:
        archive.quarantine(location)
        return None
    except DiskFailed:
        if version.attempts < UNREADABLE_ATTEMPTS:
            raise  # a disk that was away for a moment gives it the next time
        archive.quarantine(location)
        return None


class ObjectDownload:
    """The download of one version's object by its row. `keep` has what is to be closed, with the part, whatever becomes of it."""

    def __init__(self, context: Context, claim: Claim, row: AcceptedRow, keep: ExitStack, tick: Callable[[int], None]) -> None:
        self._context = context
        self._claim = claim
        self._row = row
        self._keep = keep
        self._tick = tick
        self._expected = expected_hashes(claim.version, row)
        self.came = Hashes()

    def run(self) -> IncomingCopy:
        """The part with all of it, to be flushed and read back, which compares its SHA-256. Raises HashMismatch, DownloadError."""
        version = self._claim.version
        part, fetched = self._fetch()
        wrong = mismatch_of(version, self._expected, self.came)
        if wrong is not None and fetched.sha256 is None:
            raise wrong
        if wrong is not None:
            # It came in a coding, and is not the row's object so: its origin packs what it sends, or the row means the
            # plain bytes.
            self._keep.close()
            try:
                part, _ = self._fetch(unpack=True)
            except NotTheObject:
                raise wrong from None
            if mismatch_of(version, self._expected, self.came) is not None:
                raise wrong
        self._refuse_newer_bytes()
        return part

    def _fetch(self, *, unpack: bool = False) -> tuple[IncomingCopy, Fetched]:
        version = self._claim.version
        name = f"{version.id}-{self._claim.fence}.part"
        part = self._keep.enter_context(self._context.archive.incoming(name, self._header()))
        # Where the row says the SHA-256 alone, it is compared when the copy is read back: each byte is hashed once.
        sink = None if self._expected.sha256 and not self._expected.md5 else HashingSink(part)
        throttle = Throttle(self._context, self._tick)
        fetched = self._context.downloader.fetch(
            self._row.link,
            sink or part,
            tick=throttle.tick,
            piece=throttle.piece,
            now=host.now,
            unpack=unpack,
            describe=part.describe,
        )
        self._tick(0)
        self.came = sink.hashes if sink else Hashes(sha256=fetched.sha256 or "")
        if sink:
            part.seal(self.came.sha256, self.came.md5)
        part.finish()
        return part, fetched

    def _refuse_newer_bytes(self) -> None:
        """Of a row without a hash nobody can tell that its link gives the bytes of a newer version by now, but by these bytes."""
        version = self._claim.version
        if version.sha256 or self._expected != Hashes() or version.newest:
            return
        for other in self._context.catalog.work.versions_of_file(version.file_id):
            if other.number > version.number and agree(Hashes(sha256=other.sha256, md5=other.md5), self.came):
                message = f"the object has SHA-256 {self.came.sha256}, which are the bytes of v{other.number}"
                raise HashMismatch(message, expected="", actual=self.came.sha256, actual_md5=self.came.md5)

    def _header(self) -> CopyHeader:
        version, row, expected = self._claim.version, self._row, self._expected
        path, name = split_key(version.key)
        return CopyHeader(
            storage=version.storage,
            path=path,
            name=name,
            version=version.number,
            sha256=expected.sha256 or UNTOLD_SHA256,
            size=0,  # known when the last byte has come
            content_type=row.content_type,
            source_id=version.source_id,
            proof=stronger(version.proof, proof_of(Hashes(sha256=row.sha256, md5=row.md5))),
            md5="" if expected.sha256 and not expected.md5 else UNTOLD_MD5,
        )
