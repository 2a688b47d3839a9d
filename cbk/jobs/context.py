"""The open kit: its settings and its edges, put together once per process and handed to every job."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil
from pathlib import Path
from threading import BoundedSemaphore
from typing import Protocol
from uuid import uuid4

from cbk.edges.archive.archive import Archive
from cbk.edges.catalog import Catalog, Planned
from cbk.edges.download import Downloader
from cbk.edges.notify.heartbeat import Heartbeat
from cbk.edges.notify.notifier import Notifier
from cbk.edges.redis.rate_limiter import RateLimiter
from cbk.edges.source import Source
from cbk.model import Version
from cbk.rules.backup.links import AllowedHosts
from cbk.rules.backup.overrides import RuntimeOverrides
from cbk.settings import Settings

DEFAULT_CONCURRENCY = 8
# Storing takes a fraction of the time that downloading does, even from nearby.
DOWNLOADS_PER_STORING = 4


class Publisher(Protocol):
    """Carries work to the workers; what it forgets is sent again."""

    def send_backups(self, batches: Iterable[Sequence[Version]]) -> None:
        """Send one backup task for each batch of versions. Raises BrokerUnavailable; some may have been sent then."""

    def send_prunes(self, planned: Iterable[Planned], now: datetime) -> None:
        """Send one prune task for each removal, to run when it is due. Raises BrokerUnavailable; some may have been sent then."""

    def send_mirrors(self, names: Iterable[str]) -> None:
        """Send one mirror task for each of these mirrors. Raises BrokerUnavailable; some may have been sent then."""

    def waiting_backups(self) -> set[str]:
        """Row ids of the backup tasks that no worker has taken yet. Raises BrokerUnavailable."""


@dataclass(slots=True, kw_only=True)
class Context:
    """What jobs work with."""

    settings: Settings
    source: Source
    catalog: Catalog
    archive: Archive
    downloader: Downloader
    notifier: Notifier
    heartbeat: Heartbeat
    rate_limiter: RateLimiter
    # A download at a time for each, in all of this process; what came is stored without one (`jobs/backup/backup.py`).
    slots: BoundedSemaphore
    # When this process last noted that it is at work (`jobs/status/workers.py`), on a clock that only goes forward.
    noted_at_work: float = float("-inf")
    # When it last noted how it sees the disk (`jobs/backup/disk_space.py`), on the same clock, and whether that was read-only.
    noted_disk: tuple[float, bool | None] = (float("-inf"), None)
    # What a person ordered, as this process saw it last (`jobs/backup/overrides.py`), and when, on the same clock.
    overrides: RuntimeOverrides | None = None
    overrides_read_at: float = float("-inf")
    _identity: str | None = None

    def close(self) -> None:
        """Close every connection."""
        self.source.close()
        self.catalog.close()

    def require_disk(self) -> None:
        """Raise RootMissing unless the disk that belongs to this catalog is mounted."""
        if self._identity is None:
            self._identity = self.catalog.facts.get("identity")
        self.archive.require(self._identity)


def downloads(settings: Settings) -> int:
    """How many downloads a worker has at a time. Workers beside each other share by default what one alone has."""
    return settings.concurrency or ceil(DEFAULT_CONCURRENCY / settings.workers)


def threads(settings: Settings) -> int:
    """How many threads it has for that: while so many downloads go on, some store what came, and one does something else.

    A pass of a mirror may take hours: each has a thread of its own.
    """
    return downloads(settings) + 1 + ceil(downloads(settings) / DOWNLOADS_PER_STORING) + len(settings.mirrors)


def _lies_on(catalog: str, root: Path) -> bool:
    """Whether a catalog is a file below the backup root."""
    if not catalog.startswith("sqlite"):
        return False
    path = Path(catalog.partition("://")[2].partition("?")[0][1:])
    return path.absolute().is_relative_to(root.absolute())


def open_context(settings: Settings) -> Context:
    """Put the kit together. Nothing is connected yet: this may happen before a fork, or where a part is away."""
    holder = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
    connect_timeout = settings.connect_timeout.total_seconds()
    archive = Archive(settings.backup_root)
    return Context(
        settings=settings,
        source=Source(
            settings.source,
            statement_timeout_seconds=settings.statement_timeout.total_seconds(),
            connect_timeout_seconds=connect_timeout,
            tls=settings.tls,
        ),
        catalog=Catalog(
            settings.catalog,
            holder=holder,
            pool_size=threads(settings) + 1,
            timeout_seconds=connect_timeout,
            tls=settings.tls,
            # A catalog that lies on the backup disk is not looked for where that is not mounted.
            require_place=archive.identity if _lies_on(settings.catalog, settings.backup_root) else None,
        ),
        archive=archive,
        downloader=Downloader(
            AllowedHosts.parse(settings.allowed_hosts),
            connect_timeout_seconds=connect_timeout,
            read_timeout_seconds=settings.read_timeout.total_seconds(),
            max_file_bytes=settings.max_file_size or None,
            ca_bundle=str(settings.ca_bundle) if settings.ca_bundle else None,
            max_per_host=settings.host_concurrency or None,
        ),
        notifier=Notifier(settings.notify_urls),
        heartbeat=Heartbeat(settings.heartbeat),
        rate_limiter=RateLimiter(settings.broker, holder=holder),
        slots=BoundedSemaphore(downloads(settings)),
    )
