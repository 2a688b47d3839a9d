"""Dumps of databases: taking them from wherever they are, and putting them into servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cbk.edges.dump.mysql import mysql_source
from cbk.edges.dump.postgresql import postgres_source
from cbk.edges.dump.process import Program, Tick
from cbk.edges.dump.source import DumpSource, ProgramSource
from cbk.edges.dump.sqlite import sqlite_source
from cbk.edges.dump.ssh import ssh_source
from cbk.rules.dump.spec import DumpKind, DumpSpec

__all__ = ["DumpSource", "open_source"]


@contextmanager
def open_source(spec: DumpSpec, *, tick: Tick, scratch: Path) -> Iterator[DumpSource]:
    """The dump that `spec` is about. `tick` is called at least every few seconds; `scratch` is an empty folder of our own.

    Raises DumpError, with what went wrong in one sentence.
    """
    if spec.ssh:
        yield ssh_source(spec, tick=tick, scratch=scratch)
    elif spec.command:
        yield ProgramSource(spec, Program(name=Path(spec.command[0]).name, arguments=spec.command), tick)
    elif spec.kind is DumpKind.SQLITE:
        with sqlite_source(spec, tick=tick, scratch=scratch) as source:
            yield source
    elif spec.kind is DumpKind.MYSQL:
        with mysql_source(spec, tick=tick, scratch=scratch) as mysql:
            yield mysql
    else:
        with postgres_source(spec, tick=tick) as postgres:
            yield postgres
