"""The status as metrics in Prometheus's text format; docs/metrics.md is their contract."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from importlib.metadata import version

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cbk.errors import ArchiveError, CatalogError, CbkError
from cbk.jobs.status.overview import Overview
from cbk.jobs.status.status import Disk, Status
from cbk.model import VersionState
from cbk.rules.status.health import Kind
from cbk.rules.text.display import as_text

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


# Nothing that goes on: it is counted, by cbk_bad_copies_total.
_EVENTS = frozenset({Kind.CORRUPT})


def render(overview: Overview | CbkError, workers: Mapping[str, int] | None) -> bytes:
    """All metrics. Instead of an overview there may be why there is none: of what is not known, nothing is said."""
    told = _of(overview) if isinstance(overview, Overview) else _of_error(overview)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fixed([*_about(is_known=isinstance(overview, Overview)), *told, *_of_workers(workers)]))
    return generate_latest(registry)


class _Fixed(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def _gauge(name: str, help_text: str, value: float | None) -> Iterator[Metric]:
    """One number; what is not known is left out."""
    if value is not None:
        yield GaugeMetricFamily(f"cbk_{name}", help_text, value=float(value))


def _gauges(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Iterator[Metric]:
    family = GaugeMetricFamily(f"cbk_{name}", help_text, labels=[label])
    for label_value, value in values.items():
        family.add_metric([label_value], float(value))
    yield family


def _about(*, is_known: bool) -> Iterator[Metric]:
    family = GaugeMetricFamily("cbk_info", "The release that answers.", labels=["version"])
    family.add_metric([version("cloud-backup-kit")], 1)
    yield family
    yield from _gauge("known", "Whether the disk and the catalog could be asked: 0 means that nothing is known.", is_known)


def _problems(kinds: Mapping[Kind, bool]) -> Iterator[Metric]:
    values = {kind.value: is_there for kind, is_there in kinds.items()}
    yield from _gauges("problem", "Whether a problem of this kind keeps the answer from being green.", "kind", values)


def _of_error(error: CbkError) -> Iterator[Metric]:
    """Where the disk or the catalog cannot be asked, only that problem is known."""
    kinds = {Kind.DISK_MISSING: isinstance(error, ArchiveError), Kind.CATALOG: isinstance(error, CatalogError)}
    yield from _problems({kind: True for kind, is_there in kinds.items() if is_there})


def _of(overview: Overview) -> Iterator[Metric]:
    yield from _of_files(overview)
    yield from _of_copies(overview)
    yield from _of_removals(overview)
    yield from _of_buckets(overview)
    yield from _of_dumps(overview.status)
    yield from _of_disk(overview.status.disk)
    yield from _of_mirrors(overview)
    present = {problem.kind for problem in overview.status.problems}
    yield from _problems({kind: kind in present for kind in Kind if kind not in _EVENTS})


def _of_mirrors(overview: Overview) -> Iterator[Metric]:
    best = {mirror.name: mirror.best for mirror in overview.status.mirrors}
    known = {name: disk for name, disk in best.items() if disk is not None and disk.counted_at is not None}
    if not best:
        return
    now = overview.status.counts.now
    yield from _gauges("mirror_known", "Whether a mirror has ever been counted.", "mirror", {name: name in known for name in best})
    held = {name: disk.held for name, disk in known.items()}
    yield from _gauges("mirror_copies", "Stored versions that a mirror has, of several disks the best.", "mirror", held)
    missing = {name: disk.missing for name, disk in known.items()}
    yield from _gauges(
        "mirror_missing_copies", "Stored versions that a mirror lacks, of several disks the best.", "mirror", missing
    )
    ages = {name: _seconds(now - disk.missing_since) if disk.missing_since else 0 for name, disk in known.items()}
    yield from _gauges("mirror_lag_seconds", "How long the oldest copy that a mirror lacks has been stored.", "mirror", ages)
    counted = {name: _seconds(now - disk.counted_at) for name, disk in known.items() if disk.counted_at}
    yield from _gauges("mirror_pass_age_seconds", "Time since the last pass counted a mirror.", "mirror", counted)


def _of_files(overview: Overview) -> Iterator[Metric]:
    taken, counts = overview.status, overview.status.counts
    yield from _gauge("protected", "Whether everything is protected.", taken.is_protected)
    states = {state.value: counts.by_state.get(state, 0) for state in VersionState}
    yield from _gauges("files", "Files that are not deleted, by the state of their newest version.", "state", states)
    ages = {state.value: _seconds(counts.now - seen) for state, seen in counts.oldest_by_state.items()}
    yield from _gauges("oldest_file_age_seconds", "How long the oldest file in a state has been known.", "state", ages)
    yield from _gauge("unprotected_files", "Files whose newest version is not stored.", counts.files - counts.protected)
    proofs = {proof.value: count for proof, count in counts.by_proof.items()}
    yield from _gauges("protected_files", "Files whose newest version is stored, by what proves its bytes.", "proof", proofs)
    yield from _gauge("declined_rows", "Rows that make no sense.", counts.declined_rows)
    yield from _gauge("lag_seconds", "How long the oldest unprotected file has been known; 0 without one.", _seconds(taken.lag))
    behind = _age(taken.protected_until, counts.now)
    yield from _gauge("behind_seconds", "Every row that was seen longer ago than this is protected.", behind)
    yield from _gauge("poll_age_seconds", "Time since the application's tables were last read.", _age(taken.polled_at, counts.now))
    yield from _gauge("rows_to_refresh", "Rows that need another link.", taken.refresh.count)
    yield from _gauge("paused", "Whether a person has paused fetching.", taken.ordered.paused_until is not None)
    yield from _gauge("bandwidth_limit_bytes", "Bytes per second that all workers fetch at the most.", taken.ordered.bandwidth)
    at_work = sum(len(versions) for _, versions in overview.at_work)
    yield from _gauge("versions_at_work", "Versions that a worker is fetching.", at_work)


def _of_copies(overview: Overview) -> Iterator[Metric]:
    taken, counts = overview.status, overview.status.counts
    yield from _gauge("copies", "Stored versions.", counts.copies)
    yield from _gauge("object_bytes", "Bytes of the objects that are stored.", counts.size)
    yield from _gauge("stored_bytes", "Bytes of their copies on the disk.", counts.stored_size)
    verify_age = _age(taken.verification.oldest_at, counts.now)
    yield from _gauge("verify_age_seconds", "Every copy was read from the disk within this time.", verify_age)
    yield from _gauge("overdue_copies", "Copies that were not read again in time.", taken.verification.overdue)
    yield CounterMetricFamily("cbk_bad_copies", "Copies that were found bad.", value=taken.verification.found)
    if taken.drill:
        yield from _gauge("drill_age_seconds", "Time since the last drill.", _age(taken.drill.at, counts.now))
        yield from _gauge("drill_passed", "Whether the last drill passed.", taken.drill.passed)


def _of_removals(overview: Overview) -> Iterator[Metric]:
    retention = overview.status.retention
    yield from _gauge("deleted_files", "Deleted files whose grace runs.", overview.status.counts.deleted_files)
    yield from _gauge("removals", "Deletes and replaced copies that wait to be pruned.", retention.removals)
    yield from _gauge("removals_braked", "Those that a brake holds.", retention.braked)
    yield from _gauge("brakes", "Mass deletions that wait for a person.", len(retention.brakes))
    yield from _gauge("holds", "Holds in force.", retention.holds)


def _of_buckets(overview: Overview) -> Iterator[Metric]:
    buckets = {as_text(bucket.bucket): bucket for bucket in overview.status.buckets}
    for name, help_text, attribute in (
        ("bucket_files", "Files of the bucket.", "files"),
        ("bucket_protected_files", "Those whose newest version is stored.", "protected"),
        ("bucket_copies", "Stored versions of the bucket.", "copies"),
        ("bucket_object_bytes", "Bytes of the bucket's objects that are stored.", "size"),
        ("bucket_stored_bytes", "Bytes of their copies on the disk.", "stored_size"),
    ):
        values = {label: getattr(bucket, attribute) for label, bucket in buckets.items()}
        yield from _gauges(name, help_text, "bucket", values)


def _of_dumps(taken: Status) -> Iterator[Metric]:
    now = taken.counts.now
    with_one = {standing.name: standing for standing in taken.dumps if standing.newest is not None}
    newest = {name: standing.newest for name, standing in with_one.items() if standing.newest}
    ages = {name: _seconds(now - version.taken_at) for name, version in newest.items()}
    yield from _gauges("dump_age_seconds", "Time since the newest good dump was taken.", "dump", ages)
    sizes = {name: version.size for name, version in newest.items()}
    yield from _gauges("dump_bytes", "Bytes of the newest good dump.", "dump", sizes)
    stored = {standing.name: standing.stored_size for standing in taken.dumps}
    yield from _gauges("dump_stored_bytes", "Bytes of all its versions on the disk.", "dump", stored)
    failing = {standing.name: standing.attempts for standing in taken.dumps}
    yield from _gauges("dump_failures", "Tries that failed in a row.", "dump", failing)
    drilled = {name: each.drilled for name, each in with_one.items() if each.drilled}
    drill_ages = {name: _age(each.drilled_at, now) or 0.0 for name, each in drilled.items()}
    yield from _gauges("dump_drill_age_seconds", "Time since a dump was restored for a test.", "dump", drill_ages)
    passed = {name: each.drill_problem == "" for name, each in drilled.items()}
    yield from _gauges("dump_drill_passed", "Whether that passed.", "dump", passed)


def _of_disk(disk: Disk) -> Iterator[Metric]:
    yield from _gauge("disk_free_bytes", "Bytes that are free on the backup disk.", disk.usage.free)
    yield from _gauge("disk_size_bytes", "Bytes that it has.", disk.usage.total)
    yield from _gauge("disk_kept_free_bytes", "Bytes that stay free: below that, nothing new is fetched.", disk.kept_free)
    yield from _gauge("disk_read_only", "Whether it is mounted read-only.", disk.usage.read_only)
    full_in = None if disk.days_left is None else _seconds(timedelta(days=disk.days_left))
    yield from _gauge("disk_full_in_seconds", "Time until it is full at the rate of the last 30 days.", full_in)


def _of_workers(workers: Mapping[str, int] | None) -> Iterator[Metric]:
    if workers is not None:
        yield from _gauge("workers", "Workers that answer.", len(workers))
        yield from _gauge("tasks_at_work", "Tasks that they are at.", sum(workers.values()))


def _age(instant: datetime | None, now: datetime) -> float | None:
    return None if instant is None else max(_seconds(now - instant), 0.0)


def _seconds(span: timedelta) -> float:
    return round(span.total_seconds(), 3)
