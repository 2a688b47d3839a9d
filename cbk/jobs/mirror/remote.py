"""A remote of rclone as the place of a mirror."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from cbk.edges import host
from cbk.edges.archive.archive import Archive
from cbk.edges.catalog.mirror import Arrived
from cbk.edges.mirror import Rclone
from cbk.errors import ArchiveError, CopySwapped, MirrorUnavailable, RootMissing
from cbk.jobs.mirror.places import MARKER, Marker, OnBytes, Sent, Tick, examine
from cbk.rules.mirror import CopyHere, MirrorCopy
from cbk.rules.verification import BAD_IN_A_ROW_LIMIT

Bandwidth = Callable[[], int | None]
# By its path there: the copy, and the hash and size of its gzip file here.
_Good = dict[str, tuple[CopyHere, tuple[str, int]]]


class RemotePlace:
    """A remote of rclone. What is fetched from there comes to a folder in `staging` first."""

    is_remote = True

    def __init__(self, rclone: Rclone, source: Archive, *, staging: Path | None, bandwidth: Bandwidth, read_back: int) -> None:
        self.where = rclone.remote
        self._rclone = rclone
        self._source = source
        self._staging = staging
        self._bandwidth = bandwidth
        self._read_back = read_back

    def marker(self) -> Marker | None:
        """As in `MirrorPlace`."""
        content = self._rclone.read(f".cbk/{MARKER}")
        if content is None:
            self._rclone.compares_by()  # an answer that says nothing is none: this one says whether the remote can be reached
            return None
        return Marker.decode(content, self.where)

    def is_empty(self) -> bool:
        """As in `MirrorPlace`."""
        return next(self._rclone.files(_no_tick), None) is None

    def is_mount(self) -> bool:
        """As in `MirrorPlace`."""
        return True

    def prepare(self, mirror: str) -> Marker:
        """As in `MirrorPlace`."""
        marker = Marker(mirror=mirror, identity=str(uuid4()))
        self._rclone.write(f".cbk/{MARKER}", marker.encode())
        return marker

    def tidy(self) -> None:
        """Nothing that has a name there is unfinished."""

    def send(self, copies: Sequence[CopyHere], bad: AbstractSet[int], *, tick: Tick, on_bytes: OnBytes) -> Sent:
        """As in `MirrorPlace`."""
        here = [copy for copy in copies if copy.target == copy.location]
        sent, others = self._send_from(self._source.root, here, bad, tick, on_bytes)
        renamed = [copy for copy in copies if copy.target != copy.location]
        renamed += [dataclasses.replace(copy, there=copy.other) for copy in others]
        if renamed:
            with tempfile.TemporaryDirectory(prefix="cbk-mirror-", dir=self._staging, ignore_cleanup_errors=True) as folder:
                for copy in renamed:
                    _link(self._source.root / copy.location, Path(folder) / copy.target)
                sent += self._send_from(Path(folder), renamed, bad, tick, on_bytes)[0]
        return sent

    def _send_from(
        self, root: Path, copies: Sequence[CopyHere], bad: AbstractSet[int], tick: Tick, on_bytes: OnBytes
    ) -> tuple[Sent, list[CopyHere]]:
        """Send what lies below `root` at the path that it is to have there; gives also those whose path another's copy has."""
        sent = Sent()
        good: _Good = {}
        for copy in copies:
            tick()
            try:
                good[copy.target] = copy, self._stored(copy, tick)
            except RootMissing:
                raise
            except ArchiveError as error:
                sent.problems.append((copy, error.message))
                sent.doubted.append(copy)
        told = self._transfer(root, good, bad, tick, on_bytes)
        answers = self._rclone.confirm(root, list(good), tick=tick) if good else {}
        taken = []
        for target, (copy, (stored_sha256, stored_size)) in good.items():
            answer = answers.get(target, "")
            if answer == "=":
                sent.arrived.append(Arrived(copy=copy, stored_sha256=stored_sha256, stored_size=stored_size))
            elif answer == "*":
                taken.append(copy)
            else:
                sent.problems.append((copy, told or f"{target} did not arrive at {self.where}"))
        return sent, self._take_as_it_is(taken, sent, tick) if taken else []

    def _stored(self, copy: CopyHere, tick: Tick) -> tuple[str, int]:
        """Hash and size of the gzip file here, which is what was written, or good by its content. Raises ArchiveError."""
        found = self._source.digest(copy.location)
        if found[0] != copy.stored_sha256:
            written = self._source.check(copy.location, sha256=copy.sha256, tick=tick)
            return written.stored_sha256, written.stored_size
        return found

    def _transfer(self, root: Path, good: _Good, bad: AbstractSet[int], tick: Tick, on_bytes: OnBytes) -> str:
        told, before = "", 0

        def progress(count: int, _files: int) -> None:
            nonlocal before
            on_bytes(count - before)
            before = count

        for replaces in (False, True):
            paths = [target for target, (copy, _) in good.items() if (copy.id in bad) is replaces]
            if paths:
                before = 0
                sent = self._rclone.send(
                    root, paths, replace=replaces, bandwidth=self._bandwidth(), tick=tick, on_progress=progress
                )
                told = told or sent.problem
        return told

    def _take_as_it_is(self, copies: Sequence[CopyHere], sent: Sent, tick: Tick) -> list[CopyHere]:
        """Another file is there: a copy of the same object is as good, whatever its gzip looks like. Anything else stays.

        Gives those that may go to another path, since a good copy of something else has theirs.
        """
        others = []
        with self.reading([copy.target for copy in copies], tick=tick, on_bytes=_no_bytes) as archive:
            for copy in copies:
                try:
                    written = archive.check(copy.target, sha256=copy.sha256, tick=tick)
                except ArchiveError as error:
                    if isinstance(error, CopySwapped) and copy.may_give_way:
                        others.append(copy)
                        continue
                    message = f"another file is there already, and no copy of it: {error.message}"
                    sent.problems.append((copy, message))
                else:
                    sha256, size = written.stored_sha256, written.stored_size
                    sent.arrived.append(Arrived(copy=copy, stored_sha256=sha256, stored_size=size))
        return others

    def look(self, copies: Sequence[MirrorCopy], *, tick: Tick, on_bytes: OnBytes) -> Iterator[tuple[MirrorCopy, str]]:
        """As in `MirrorPlace`."""
        same = [copy for copy in copies if self._rclone.compares_by() != "size" and self._is_same_here(copy)]
        answers = self._rclone.confirm(self._source.root, [copy.location for copy in same], tick=tick) if same else {}
        told = {"=": "", "+": "it is not there", "*": "it is another file, by the remote's own hash"}
        rest: list[MirrorCopy] = []
        size = 0
        for copy in copies:
            if answers.get(copy.location) in told:
                yield copy, told[answers[copy.location]]
            elif not rest or size + copy.stored_size <= self._read_back:
                rest.append(copy)
                size += copy.stored_size
        if rest:
            with self.reading([copy.location for copy in rest], tick=tick, on_bytes=on_bytes) as archive:
                for copy in rest:
                    yield copy, examine(archive, copy, tick, _no_bytes)

    def _is_same_here(self, copy: MirrorCopy) -> bool:
        try:
            return self._source.digest(copy.location)[0] == copy.stored_sha256
        except RootMissing:
            raise
        except ArchiveError:
            return False

    @contextmanager
    def reading(self, locations: Sequence[str], *, tick: Tick, on_bytes: OnBytes) -> Iterator[Archive]:
        """As in `MirrorPlace`."""
        with tempfile.TemporaryDirectory(prefix="cbk-mirror-", dir=self._staging, ignore_cleanup_errors=True) as folder:
            yield self.fetch(Path(folder), locations, tick=tick, on_bytes=on_bytes)

    def fetch(self, folder: Path, locations: Sequence[str], *, tick: Tick, on_bytes: OnBytes) -> Archive:
        """As `reading`, to a folder that stays."""
        archive = Archive.create(folder, now=host.now())
        if not locations:
            return archive
        fetched = self._rclone.fetch(folder, locations, bandwidth=self._bandwidth(), tick=tick)
        if fetched.problem:
            raise MirrorUnavailable(f"{self.where}: {fetched.problem}", hint="the next pass tries it again")
        if len(fetched.undecryptable) >= min(len(locations), BAD_IN_A_ROW_LIMIT) > 1 and not fetched.bytes:
            hint = "has rclone's configuration the passwords with which this mirror was made?"
            raise MirrorUnavailable(f"{self.where}: nothing of what lies there can be decrypted", hint=hint)
        for location in fetched.undecryptable:
            # There, and nothing of it to read: a bad copy, not a missing one.
            (folder / location).parent.mkdir(parents=True, exist_ok=True)
            (folder / location).touch()
        on_bytes(fetched.bytes)
        return archive

    def remove(self, locations: Sequence[str], *, tick: Tick) -> None:
        """As in `MirrorPlace`."""
        done = self._rclone.remove(locations, tick=tick)
        if done.problem:
            hint = "may its key delete? if not, set append_only for this mirror"
            raise MirrorUnavailable(f"{self.where}: {done.problem}", hint=hint)

    def locations(self, tick: Tick) -> Iterator[str]:
        """As in `MirrorPlace`."""
        for file in self._rclone.files(tick):
            if not file.path.startswith(".cbk/"):
                yield file.path

    def read_note(self, name: str) -> bytes | None:
        """As in `MirrorPlace`."""
        return self._rclone.read(f".cbk/{name}")

    def write_note(self, name: str, content: bytes) -> None:
        """As in `MirrorPlace`."""
        self._rclone.write(f".cbk/{name}", content)


def _link(path: Path, link: Path) -> None:
    """The same file under another name, without its bytes where the disk can do that."""
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.hardlink_to(path)
    except FileNotFoundError:
        return  # what is missing is told by whoever reads it
    except OSError:
        shutil.copyfile(path, link)


def _no_tick() -> None:
    pass


def _no_bytes(_count: int) -> None:
    pass
