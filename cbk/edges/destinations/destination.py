"""What a place must be able to do for files to be restored to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from cbk.model import RestoreItem


class Destination(Protocol):
    """A place that files are restored to; used by several threads at once.

    `keeps_properties`: what is written there can have the properties of the object that it was.
    """

    keeps_properties: bool

    def may_mistake(self, item: RestoreItem) -> bool:
        """Whether the target may take the file's name for another one's. Such files come last: the others have their names then."""
        ...

    def holds(self, item: RestoreItem) -> bool:
        """Whether the file is there already, with the right bytes: proven by reading it, or by a checksum that the target keeps."""
        ...

    def write(self, item: RestoreItem, chunks: Iterable[bytes]) -> None:
        """Put the file there, whole or not at all: what the iteration of `chunks` raises leaves nothing under the file's name.

        Raises DestinationError.
        """
        ...

    def close(self) -> None:
        """Give back what is open."""
        ...
