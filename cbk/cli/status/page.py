"""The page in the browser: `page`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import click

from cbk.cli.terminal.context import opened
from cbk.errors import SettingsError


@click.command()
@click.pass_obj
def page(config: Path | None) -> None:
    """Serve a page that shows how things stand, and metrics for Prometheus, until it is stopped. It changes nothing.

    \b
    Example:
      CBK_PAGE_AUTH=admin:choose-another cbk page
    """
    if config is not None:
        os.environ["CBK_CONFIG"] = str(config)  # noqa: TID251 - the app, made when it is imported, reads the same file
    # As in `resync`: the other commands start twice as fast without these.
    from cbk.cluster.app import app  # noqa: PLC0415
    from cbk.cluster.worker.worker_inspect import ask_workers  # noqa: PLC0415
    from cbk.page.app import make_page  # noqa: PLC0415
    from cbk.page.auth import Credentials  # noqa: PLC0415
    from cbk.page.server import serve  # noqa: PLC0415
    from cbk.page.workers import WorkerCounts  # noqa: PLC0415

    def ask() -> Mapping[str, int]:
        return ask_workers(app)

    with opened(config) as context:
        settings = context.settings
        if settings.page_pair is None:
            raise SettingsError(
                ["CBK_PAGE_AUTH: is required for the page (user:password)"],
                hint="such as `CBK_PAGE_AUTH=admin:choose-another cbk page`: it shows names and gives out files",
            )
        token = settings.metrics_token.get_secret_value() if settings.metrics_token else None
        worker_counts = WorkerCounts(ask)
        worker_counts.start()
        address = f"[{settings.page_address}]" if ":" in settings.page_address else settings.page_address
        serve(
            make_page(context, Credentials(settings.page_pair, token), worker_counts),
            settings,
            started=f"the page is at http://{address}:{settings.page_port}",
        )
        worker_counts.stop()
