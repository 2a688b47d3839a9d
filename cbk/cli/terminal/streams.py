"""What a command writes to: where that fails, it ends in one line and exit code 1, never in a traceback or Python's 120."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

from cbk.errors import OutputLost

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Output(io.FileIO):
    """A file descriptor to write to. After its first failure it takes everything and keeps nothing.

    Raises OutputLost; SystemExit if whoever read the output has gone, which is no news to them. A `mute` one raises nothing.
    """

    def __init__(self, descriptor: int, *, mute: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._mute = mute
        self._lost = False

    def write(self, data: ReadableBuffer, /) -> int:
        """Write, as a file does."""
        if self._lost:
            return memoryview(data).nbytes
        try:
            return super().write(data) or 0
        except OSError as error:
            self._lost = True
            if self._mute:
                return memoryview(data).nbytes
            if error.errno == errno.EPIPE:
                raise SystemExit(1) from None
            reason = os.strerror(error.errno or 0).lower()
            raise OutputLost(f"the output cannot be written: {reason}", hint="write it to another place") from None


def guard_output() -> None:
    """Have standard output and error fail in order. What a terminal cannot show of a name is shown as escapes."""
    sys.stdout = _guarded(sys.stdout, mute=False)
    sys.stderr = _guarded(sys.stderr, mute=True)


def flush_output() -> None:
    """Write what is still held back. Raises OutputLost, as every write does."""
    if sys.stdout is not None:  # it is None if the descriptor was closed from the start
        sys.stdout.flush()


def _guarded(stream: TextIO, *, mute: bool) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    try:
        descriptor = stream.fileno()
    except io.UnsupportedOperation:  # nothing of the system's, such as what a test reads back
        stream.reconfigure(errors="backslashreplace")
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(descriptor, mute=mute)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
