"""The page: every view gathers, a template shows. Nothing here writes anywhere."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from http import HTTPStatus
from itertools import islice
from pathlib import Path

from flask import Flask, Response, jsonify, render_template, request
from werkzeug.exceptions import HTTPException

from cbk.edges.catalog import Place
from cbk.errors import CbkError, CopyMissing, UsageError
from cbk.jobs.context import Context
from cbk.jobs.restore.one_copy import open_download
from cbk.jobs.status.history import history
from cbk.jobs.status.overview import Overview, gather_overview
from cbk.jobs.status.status import status_object
from cbk.page import metrics
from cbk.page.auth import CHALLENGE, HEADERS, Credentials, is_our_name
from cbk.page.names import content_disposition, from_query
from cbk.page.show import FILTERS, graphs_of
from cbk.page.snapshot import Snapshot
from cbk.page.sparkline import HEIGHT, WIDTH
from cbk.page.workers import WorkerCounts
from cbk.rules.backup.hashes import describe_proofs
from cbk.rules.intake.layout import location_of
from cbk.rules.mirror import describe_mirrors
from cbk.rules.status.health import HINTS

REFRESH_SECONDS = 30
ENTRIES_PER_PAGE = 200
# Of a file; there are rarely more than a few.
VERSIONS_SHOWN = 100
# At the same time: others must find a thread that serves them the page.
DOWNLOADS = 3
# Folders that lead to a folder; a key of 4 KB can have two thousand of them.
CRUMBS = 8
LARGEST_ID = 2**63 - 1

_ID = f"<int(max={LARGEST_ID}):"
_OPEN = frozenset({"/healthz"})


def make_page(context: Context, credentials: Credentials, worker_counts: WorkerCounts) -> Flask:
    """The page as a WSGI application."""
    app = Flask("cbk.page", static_folder=None)
    app.jinja_env.globals.update(refresh_seconds=REFRESH_SECONDS, graph_width=WIDTH, graph_height=HEIGHT, hints=HINTS)
    app.jinja_env.globals.update(describe_proofs=describe_proofs)
    app.jinja_env.filters.update(FILTERS)
    _guard(app, credentials, context.settings.page_names)
    _explain_errors(app)
    _hold_nothing(app, context)
    views = _Views(context, worker_counts)
    style = (Path(__file__).parent / "static" / "style.css").read_text(encoding="utf-8")
    for rule, view in (
        ("/", views.index),
        ("/browse", views.browse),
        (f"/file/{_ID}file_id>", views.file),
        (f"/download/{_ID}version_id>", views.download),
        ("/status.json", views.status),
        ("/metrics", views.metrics),
        ("/healthz", _alive),
        ("/style.css", lambda: Response(style, mimetype="text/css")),
    ):
        app.add_url_rule(rule, rule, view, methods=["GET"], provide_automatic_options=False)
    return app


def _guard(app: Flask, credentials: Credentials, names: frozenset[str]) -> None:
    @app.before_request
    def _refuse() -> Response | None:
        if request.method not in {"GET", "HEAD"}:
            return _plain("the page only shows\n", HTTPStatus.METHOD_NOT_ALLOWED, Allow="GET, HEAD")
        if not is_our_name(request.headers.get("Host"), names):
            return _plain("not a name of this page: CBK_PAGE_HOSTS lists them\n", HTTPStatus.MISDIRECTED_REQUEST)
        if request.headers.get("Sec-Fetch-Site") == "cross-site" and request.headers.get("Sec-Fetch-Mode") != "navigate":
            return _plain("not for other sites\n", HTTPStatus.FORBIDDEN)
        given = request.headers.get("Authorization")
        if request.path in _OPEN or credentials.open_page(given):
            return None
        if request.path == "/metrics" and credentials.open_metrics(given):
            return None
        if given:
            logging.getLogger(__name__).warning("wrong user or password from %s", request.remote_addr)
        return _plain("who are you?\n", HTTPStatus.UNAUTHORIZED, **{"WWW-Authenticate": CHALLENGE})

    @app.after_request
    def _protect(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response


def _hold_nothing(app: Flask, context: Context) -> None:
    @app.teardown_request
    def _close_context(_error: BaseException | None) -> None:
        # An open SQLite file would keep the disk that it is on from being unmounted, for as long as the page runs.
        if not context.catalog.is_shared:
            context.close()


def _explain_errors(app: Flask) -> None:
    @app.errorhandler(CbkError)
    def _explain(error: CbkError) -> tuple[str | Response, HTTPStatus]:
        is_absent = isinstance(error, UsageError | CopyMissing)
        code = HTTPStatus.NOT_FOUND if is_absent else HTTPStatus.SERVICE_UNAVAILABLE
        if request.path.endswith(".json"):
            return jsonify(error=error.message, hint=error.hint), code
        return render_template("problem.html", message=error.message, hint=error.hint), code

    @app.errorhandler(HTTPException)
    def _tell(error: HTTPException) -> tuple[str, int]:
        return render_template("problem.html", message=error.name.lower(), hint=None), error.code or 500


class _Views:
    def __init__(self, context: Context, worker_counts: WorkerCounts) -> None:
        self._context = context
        self._worker_counts = worker_counts
        self._snapshot = Snapshot(lambda: gather_overview(context))
        self._downloads = threading.BoundedSemaphore(DOWNLOADS)

    def index(self) -> Response:
        """How things stand. Where that is not known, the page is red and says why."""
        try:
            overview, error, code = self._snapshot.get(), None, HTTPStatus.OK
        except CbkError as raised:
            overview, error, code = None, raised, HTTPStatus.SERVICE_UNAVAILABLE
        graphs = graphs_of(overview) if overview else []
        mirrors = describe_mirrors(overview.status.mirrors, overview.status.counts.now) if overview else []
        workers = self._worker_counts.latest()
        page = render_template("index.html", overview=overview, error=error, graphs=graphs, workers=workers, mirrors=mirrors)
        return Response(page, code)

    def browse(self) -> str:
        """Buckets, or one folder of a bucket, a page at a time."""
        asked = from_query(request.query_string.decode("ascii", "replace"))
        if "bucket" not in asked:
            return render_template("buckets.html", buckets=self._snapshot.get().status.buckets)
        bucket, folder = asked["bucket"], asked.get("folder", "")
        if folder and not folder.endswith("/"):
            raise UsageError("a folder's name ends in a slash", hint="begin at the bucket")
        start = Place(key=asked["key"], file_id=_number(asked.get("after", "0"))) if "key" in asked else None
        if "jump" in asked:
            start = Place(key=folder + asked["jump"])
        self._context.catalog.require_current()
        listing = self._context.catalog.folders.look_into(bucket, folder, start=start, limit=ENTRIES_PER_PAGE)
        return render_template(
            "browse.html", bucket=bucket, folder=folder, crumbs=_crumbs(folder), listing=listing, is_first=start is None
        )

    def file(self, file_id: int) -> str:
        """One file's versions, and what happened to them."""
        self._context.catalog.require_current()
        newest = self._context.catalog.report.newest_of(file_id)
        if newest is None:
            raise UsageError("the catalog knows no such file", hint="it may have been rebuilt since: find the file again")
        version_histories = list(islice(history(self._context, newest.key, storage=newest.storage), VERSIONS_SHOWN))
        folder = newest.key.rpartition("/")[0]
        return render_template(
            "file.html",
            file=newest,
            folder=f"{folder}/" if folder else "",
            version_histories=version_histories,
            location=location_of,
        )

    def download(self, version_id: int) -> Response:
        """A copy's content, once all of it was read and is right."""
        if not self._downloads.acquire(blocking=False):
            return _plain(
                "others are downloading: try again in a moment\n", HTTPStatus.SERVICE_UNAVAILABLE, **{"Retry-After": "10"}
            )
        try:
            download = open_download(self._context, version_id)
        except BaseException:
            self._downloads.release()
            raise
        response = Response(_streamed(download.content), mimetype="application/octet-stream")
        response.content_length = download.size
        response.headers["Content-Disposition"] = content_disposition(download.version.key)
        response.headers["X-Content-SHA256"] = download.version.sha256
        response.call_on_close(self._downloads.release)
        return response

    def status(self) -> Response:
        """What `cbk status --json` prints."""
        return jsonify(status_object(self._snapshot.get().status))

    def metrics(self) -> Response:
        """What Prometheus reads."""
        overview: Overview | CbkError
        try:
            overview = self._snapshot.get()
        except CbkError as error:
            overview = error
        return Response(metrics.render(overview, self._worker_counts.latest()), content_type=metrics.CONTENT_TYPE)


def _alive() -> Response:
    """Whether this process serves; not how things stand."""
    return _plain("ok\n", HTTPStatus.OK)


def _plain(text: str, code: HTTPStatus, **headers: str) -> Response:
    return Response(text, code, headers, content_type="text/plain; charset=utf-8")


def _streamed(content: Iterator[bytes]) -> Iterator[bytes]:
    """The content; where it breaks off, so does the connection, and the log says why."""
    try:
        yield from content
    except CbkError as error:
        logging.getLogger(__name__).warning("a download was broken off: %s", error.message)
        raise


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and int(text) <= LARGEST_ID else 0


def _crumbs(folder: str) -> list[tuple[str, str]]:
    """The last folders on the way to a folder: what they are called, and their whole names."""
    names = folder.split("/")[:-1]
    return [(f"{name}/", "/".join(names[: depth + 1]) + "/") for depth, name in enumerate(names)][-CRUMBS:]
