"""Take a dump: stream it into the archive, read it back, publish it, record it. Bytes before record.

A dump counts once its tool exited with 0, its format's own end came, and the copy on the disk inflates to the same bytes. Whatever
goes wrong before leaves nothing but a sentence; whoever is killed leaves a file in arrival, which the next dump's sweep removes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic
from uuid import uuid4

from cbk.edges.archive.archive import IncomingCopy
from cbk.edges.dump import DumpSource, open_source
from cbk.edges.filesystem.scratch import scratch_folder, scratch_place
from cbk.errors import CatalogError, CbkError, CopyExists, DiskFull, DumpError, LeaseLost, RootMissing, UsageError
from cbk.jobs.backup.disk_space import check_disk_space, fetch_blocker
from cbk.jobs.backup.throttle import Throttle
from cbk.jobs.context import Context
from cbk.jobs.verification.pacer import Pacer, Pause, alone
from cbk.jobs.verification.reader import Stopped
from cbk.model import CopyHeader, Summary, Written
from cbk.rules.dump.formats import DumpContent, EndCheck, end_check, roles_check
from cbk.rules.dump.records import Dump, TakenDump, dump_header, dump_location, roles_location
from cbk.rules.dump.schedule import Due, decide_due, retry_delay
from cbk.rules.dump.spec import DumpSpec
from cbk.rules.intake.layout import places

DUMP_LEASE = "dump"
PART_PREFIX = "dump-"
# How often the room on the disk is looked at while a dump comes in.
ROOM_EVERY_BYTES = 64 * 1024 * 1024
NUMBER_TRIES = 100

# Told how many bytes of a dump have come.
OnBytes = Callable[[int], None]


def require_spec(context: Context, name: str) -> DumpSpec:
    """What is configured for this dump. Raises UsageError."""
    spec = context.settings.dumps.get(name)
    if spec is None:
        known = ", ".join(sorted(context.settings.dumps)) or "none"
        raise UsageError(f"no dump {name} is configured (there are: {known})", hint="set CBK_DUMPS or [dumps.NAME]: docs/dumps.md")
    return spec


def ensure_dump(context: Context, spec: DumpSpec) -> Dump:
    """The dump in the catalog; a new one gets its place."""
    return context.catalog.dumps.ensure(spec.name, kind=spec.kind, bucket=spec.bucket, places=places(spec.bucket, spec.name))


def decide_dump(spec: DumpSpec, dump: Dump | None, now: datetime) -> Due:
    """Whether this dump is due."""
    return decide_due(
        name=spec.name,
        schedule=spec.schedule,
        jitter=spec.jitter,
        done_slot=dump.done_slot if dump else None,
        retry_at=dump.retry_at if dump else None,
        now=now,
    )


def take_dump(
    context: Context, name: str, *, pause: Pause, if_due: bool = False, on_bytes: OnBytes = lambda _bytes: None
) -> Summary:
    """Take the dump `name`; with `if_due` only where its schedule says so. One at a time, in all of the cluster.

    Raises DumpError, ArchiveError and the like, after noting why for `status` and when it is tried again; UsageError.
    """
    spec = require_spec(context, name)
    context.require_disk()
    due = decide_dump(spec, context.catalog.dumps.get(name), context.catalog.database.now())
    if if_due and not due.now:
        return Summary(outcome="nothing to do", facts={"dump": name, "reason": due.reason, "next": due.at.isoformat()})
    blocker = fetch_blocker(context) if if_due else None
    if blocker is not None:
        return Summary(outcome="put off", facts={"dump": name, "reason": blocker})
    with alone(context, DUMP_LEASE) as leases:
        if leases is None:
            return Summary(outcome="skipped", facts={"dump": name, "reason": "another dump is at work"})
        dump = ensure_dump(context, spec)
        due = decide_dump(spec, dump, context.catalog.database.now())
        if if_due and not due.now:
            return Summary(outcome="nothing to do", facts={"dump": name, "reason": due.reason})
        pacer = Pacer(context, leases, DUMP_LEASE, pause)
        with _noting_failure(context, dump):
            try:
                taken = _Taking(context, spec, dump, pacer, on_bytes).run(due.slot)
            except Stopped:
                return Summary(outcome="stopped", facts={"dump": name, "reason": "the worker is to stop"})
        return Summary(outcome="stored", facts=_facts(name, taken))


def _facts(name: str, taken: TakenDump) -> dict[str, object]:
    facts: dict[str, object] = {"dump": name, "version": taken.number, "size": taken.copy.size}
    facts |= {"stored_size": taken.copy.stored_size, "seconds": round(taken.seconds, 1)}
    return facts | ({} if taken.rows is None else {"tables": len(taken.rows), "rows": sum(taken.rows.values())})


@contextmanager
def _noting_failure(context: Context, dump: Dump) -> Iterator[None]:
    """What goes wrong is noted, and tried again ever less often. What is the kit's own trouble is nobody's failure."""
    try:
        yield
    except (LeaseLost, CatalogError, RootMissing):
        raise
    except Exception as error:
        known = isinstance(error, CbkError)
        problem = error.message if known else f"unexpected {type(error).__name__}; the worker's log has the traceback"  # type: ignore[attr-defined]
        retry_at = context.catalog.database.now() + retry_delay(dump.attempts + 1)
        hint = (error.hint if known else "") or ""  # type: ignore[attr-defined]
        context.catalog.dumps.record_failure(dump, problem=problem, hint=hint, retry_at=retry_at)
        raise


@dataclass(slots=True)
class _Taking:
    """One dump, under the lease."""

    context: Context
    spec: DumpSpec
    dump: Dump
    pacer: Pacer
    on_bytes: OnBytes
    room_asked_at: int = 0

    def run(self, slot: datetime) -> TakenDump:
        """All of it: taken, stored and recorded."""
        context, spec, dump = self.context, self.spec, self.dump
        self._require_room()
        started, taken_at = monotonic(), context.catalog.database.now()
        number = self._free_number()
        with (
            scratch_folder(scratch_place(None)) as scratch,
            open_source(spec, tick=self._tick, scratch=Path(scratch)) as source,
            self._incoming(dump_header(spec, number)) as part,
        ):
            content = self._stream(source.chunks(), part, end_check(spec.kind, spec.end_mark))
            roles = self._roles(source, number)
            rows = self._rows(source)
            copy = self._store(part, dump_location(dump.place, number))
        taken = TakenDump(
            number=number,
            slot=slot,
            taken_at=taken_at,
            seconds=monotonic() - started,
            format=content.format,
            server_version=content.server_version,
            tool_version=content.tool_version,
            rows=rows,
            copy=copy,
            roles=roles,
        )
        self._tick()
        context.catalog.dumps.record_stored(dump, taken)
        return taken

    def _rows(self, source: DumpSource) -> Mapping[str, int] | None:
        """For the drill to compare with. The dump is whole by now: a connection that broke meanwhile takes nothing from it."""
        try:
            return source.rows()
        except DumpError:
            return None

    def _roles(self, source: DumpSource, number: int) -> Written | None:
        """The users and rights, stored before the dump that they belong to is: alone they are nobody's."""
        chunks = source.roles()
        if chunks is None:
            return None
        with self._incoming(dump_header(self.spec, number, roles=True)) as part:
            self._stream(chunks, part, roles_check())
            return self._store(part, roles_location(self.dump.place, number))

    def _stream(self, chunks: Iterable[bytes], part: IncomingCopy, check: EndCheck) -> DumpContent:
        sha256 = hashlib.sha256()
        throttle = Throttle(self.context, lambda _position: self._tick())
        for chunk in chunks:
            check.feed(chunk)
            sha256.update(chunk)
            with self._on_disk():
                part.write(chunk)
            throttle.tick(part.bytes_in)
            self.on_bytes(len(chunk))
            if part.bytes_in - self.room_asked_at >= ROOM_EVERY_BYTES:
                self._require_room()
                self.room_asked_at = part.bytes_in
        content = check.finish()
        part.seal(sha256.hexdigest())
        return content

    def _store(self, part: IncomingCopy, location: str) -> Written:
        with self._on_disk():
            part.finish()
            part.flush()
        written = part.read_back(tick=self._tick)
        self._tick()  # whoever slept through the lease stops here
        with self.context.archive.publishing() as publication:
            publication.put(part, location)
        return written

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        """Names the disk that has no room: a dump has to do with several."""
        try:
            yield
        except DiskFull as error:
            raise DiskFull(f"the backup disk {self.context.archive.root} is full: {error.message}", hint=error.hint) from error

    @contextmanager
    def _incoming(self, header: CopyHeader) -> Iterator[IncomingCopy]:
        name = f"{PART_PREFIX}{self.spec.name}-{header.version}-{uuid4().hex[:8]}.part"
        with self.context.archive.incoming(name, header) as part:
            yield part

    def _free_number(self) -> int:
        """The next number that neither the catalog nor the disk knows: one that was killed before it was recorded left its copy."""
        number = self.context.catalog.dumps.next_number(self.dump.id)
        for candidate in range(number, number + NUMBER_TRIES):
            locations = (dump_location(self.dump.place, candidate), roles_location(self.dump.place, candidate))
            if all(self.context.archive.is_free(location) for location in locations):
                return candidate
        raise CopyExists(f"{self.dump.place} is full of copies that the catalog does not know", hint="`cbk rebuild` takes them in")

    def _require_room(self) -> None:
        problem = check_disk_space(self.context)
        if problem is not None:
            raise DiskFull(problem.message, hint=problem.hint)

    def _tick(self) -> None:
        self.pacer(0)
