"""Where a dump's bytes come from, one class for each way.

All of them look like this:

with open_source(spec, tick=tick, scratch=folder) as source:
for chunk in source.chunks():
...
rows = source.rows()            # of each table, as the dump has them; None where that cannot be told
roles = source.roles()
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from cbk.edges.dump.process import Program, Tick, stream
from cbk.rules.dump.spec import DumpSpec


class DumpSource(Protocol):
    """One dump that is being taken."""

    def chunks(self) -> Iterator[bytes]:
        """The dump. It counts only once the iteration has ended without an error. Raises DumpError."""

    def rows(self) -> dict[str, int] | None:
        """Rows by table, as the dump has them; None where that cannot be told. To be asked after `chunks`."""

    def roles(self) -> Iterator[bytes] | None:
        """The users and rights of the server as SQL, None where they are not kept. It counts as `chunks` does."""


class ProgramSource:
    """Whatever a program writes."""

    def __init__(self, spec: DumpSpec, program: Program, tick: Tick, *, roles: Program | None = None) -> None:
        self._spec = spec
        self._program = program
        self._roles = roles
        self._tick = tick

    def chunks(self) -> Iterator[bytes]:
        """What the program writes."""
        return self._stream(self._program)

    def rows(self) -> dict[str, int] | None:
        """Nobody knows."""
        return None

    def roles(self) -> Iterator[bytes] | None:
        """What the program for roles writes, if there is one."""
        return self._stream(self._roles) if self._roles else None

    def _stream(self, program: Program) -> Iterator[bytes]:
        return stream(
            program,
            tick=self._tick,
            silence_seconds=self._spec.silence.total_seconds(),
            timeout_seconds=self._spec.timeout.total_seconds(),
        )
