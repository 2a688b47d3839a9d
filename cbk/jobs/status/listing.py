"""Finding versions, and rows that could not become one, by what a person asks for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from cbk.jobs.context import Context
from cbk.model import DeclinedRow, Version, VersionState


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFilter:
    """What is wanted; None wants everything.

    `pattern` is one of `rules.status.glob`. `since` and `until` are about when a version was stored. `refresh`: only what waits for
    another link. `gone`: only what has a copy and no row any more, though nobody deleted it.
    """

    storage: str | None = None
    key: str | None = None
    prefix: str | None = None
    pattern: str | None = None
    bucket: str | None = None
    state: VersionState | None = None
    newest: bool | None = None
    deleted: bool | None = None
    refresh: bool = False
    gone: bool = False
    since: datetime | None = None
    until: datetime | None = None

    @property
    def names_something(self) -> bool:
        """Whether a file, storage or bucket is named, which may be misspelt; of a state or a time, to find none is an answer."""
        return any(name is not None for name in (self.storage, self.key, self.prefix, self.pattern, self.bucket))

    @property
    def covers_declined_rows(self) -> bool:
        """Whether a declined row can be meant: it has no bucket, was never stored, and is no version of a file."""
        nothing_of_a_version = (self.bucket, self.newest, self.since, self.until) == (None, None, None, None)
        return (
            nothing_of_a_version
            and not self.deleted
            and not self.refresh
            and not self.gone
            and self.state in {None, VersionState.DECLINED}
        )


def find(context: Context, filters: VersionFilter) -> Iterator[Version | DeclinedRow]:
    """Versions in the order in which they were first seen, then declined rows; memory stays flat."""
    named = {"storage": filters.storage, "key": filters.key, "prefix": filters.prefix, "pattern": filters.pattern}
    yield from context.catalog.report.versions(
        **named,
        bucket=filters.bucket,
        state=filters.state,
        newest=filters.newest,
        deleted=filters.deleted,
        refresh=filters.refresh,
        gone=filters.gone,
        since=filters.since,
        until=filters.until,
    )
    if filters.covers_declined_rows:
        yield from context.catalog.report.declined_rows(**named)
