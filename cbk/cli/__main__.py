"""The `cbk` command, also as `python -m cbk.cli`. It loads little itself, so that ^C ends it quietly from the first moment on."""

from __future__ import annotations

import os
import signal

EXIT_INTERRUPTED = 130


def run() -> None:
    """Load the command and run it."""
    is_interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_interruptible:
        signal.signal(signal.SIGINT, _end_at_once)  # an import that is interrupted half-way can raise anything
    from cbk.cli.main import main  # noqa: PLC0415 - a second's worth of modules, during which there is nothing to clean up

    if is_interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    finally:
        if is_interruptible:
            signal.signal(signal.SIGINT, _end_at_once)  # from here on only Python itself is cleaned up


def _end_at_once(*_signal: object) -> None:
    os._exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    run()
