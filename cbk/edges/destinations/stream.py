"""Restoring one file to a stream, such as standard output."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import BinaryIO

from cbk.errors import DestinationUnavailable
from cbk.model import RestoreItem


class StreamDestination:
    """`stream`, which stays open. What was written before something went wrong cannot be taken back."""

    keeps_properties = False

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def may_mistake(self, item: RestoreItem) -> bool:  # noqa: ARG002 - the protocol's signature
        """Never: it has no names."""
        return False

    def holds(self, item: RestoreItem) -> bool:  # noqa: ARG002 - the protocol's signature
        """Never: nothing is known of what is at the other end."""
        return False

    def write(self, item: RestoreItem, chunks: Iterable[bytes]) -> None:  # noqa: ARG002 - as above
        """Write the bytes as they come. Raises DestinationUnavailable; BrokenPipeError where nobody reads any more."""
        for chunk in chunks:
            try:
                self._stream.write(chunk)
                self._stream.flush()
            except BrokenPipeError:
                raise
            except OSError as exc:
                reason = os.strerror(exc.errno or 0).lower()
                raise DestinationUnavailable(
                    f"the output cannot be written: {reason}", hint="what came out is not the file"
                ) from exc

    def close(self) -> None:
        """Nothing to do: the stream is somebody else's."""
