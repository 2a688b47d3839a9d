"""The page over a socket, from within a test's own process."""

import threading
from contextlib import contextmanager

import waitress
from waitress import wasyncore

from cbk.page.app import make_page
from cbk.page.auth import Credentials
from cbk.page.workers import WorkerCounts

PAIR = ("admin", "page-password")


@contextmanager
def served(context, workers=dict):
    """Serve the page of a kit; gives its address. `workers` is what the workers say."""
    worker_counts = WorkerCounts(workers)
    worker_counts.look()
    server = waitress.create_server(make_page(context, Credentials(":".join(PAIR)), worker_counts), host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.effective_port}"
    finally:
        # Browsers keep their connections open: the loop ends when there is none.
        wasyncore.close_all(server._map)
        thread.join(30)
        server.task_dispatcher.shutdown()
