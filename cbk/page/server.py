"""Serving the page until the process is told to stop."""

from __future__ import annotations

import signal
import sys
from typing import Any

from flask import Flask
from waitress import create_server
from waitress.server import BaseWSGIServer

from cbk.errors import SettingsError
from cbk.settings import Settings

THREADS = 8
# Whoever takes nothing of an answer for so long is not waited for.
STALLED_SECONDS = 60.0
STALLED_LOOK_SECONDS = 10


def serve(app: Flask, settings: Settings, *, started: str) -> None:
    """Serve until SIGTERM or ^C; says `started` on standard error once it listens. Raises SettingsError where it cannot listen."""
    server = make_server(app, settings)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sys.stderr.write(f"{started}\n")
    server.run()


def make_server(app: Flask, settings: Settings) -> Any:
    """A server that listens; its `run` serves. Raises SettingsError where it cannot listen."""
    parts: dict[int, Any] = {}
    try:
        server = create_server(
            app,
            map=parts,
            host=settings.page_address,
            port=settings.page_port,
            threads=THREADS,
            ident=None,
            max_request_body_size=1024,
            channel_timeout=60,
            cleanup_interval=STALLED_LOOK_SECONDS,
        )
    except (OSError, ValueError) as error:
        where = f"{settings.page_address}:{settings.page_port}"
        raise SettingsError([f"CBK_PAGE_ADDRESS, CBK_PAGE_PORT: cannot listen on {where}: {error}"]) from error
    for part in [part for part in parts.values() if isinstance(part, BaseWSGIServer)]:
        _drop_stalled_readers(part)
    return server


def _drop_stalled_readers(server: Any) -> None:
    """Waitress itself waits without an end for whoever reads an answer, and each of them keeps a thread, and a download's slot."""
    maintain = server.maintenance

    def maintain_all(now: float) -> None:
        maintain(now)
        for channel in server.active_channels.values():
            if channel.total_outbufs_len and now - channel.last_activity > STALLED_SECONDS:
                server.trigger.pull_trigger(channel.handle_close)  # after this turn of the loop, which knows the connection yet

    server.maintenance = maintain_all
