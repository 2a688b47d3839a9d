"""Serving the page until the process is told to stop."""

from __future__ import annotations

import signal
import sys

from flask import Flask
from waitress import create_server

from cbk.errors import SettingsError
from cbk.settings import Settings

THREADS = 8


def serve(app: Flask, settings: Settings, *, started: str) -> None:
    """Serve until SIGTERM or ^C; says `started` on standard error once it listens. Raises SettingsError where it cannot listen."""
    try:
        server = create_server(
            app,
            host=settings.page_address,
            port=settings.page_port,
            threads=THREADS,
            ident=None,
            max_request_body_size=1024,
            channel_timeout=60,
        )
    except (OSError, ValueError) as error:
        where = f"{settings.page_address}:{settings.page_port}"
        raise SettingsError([f"CBK_PAGE_ADDRESS, CBK_PAGE_PORT: cannot listen on {where}: {error}"]) from error
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sys.stderr.write(f"{started}\n")
    server.run()
