"""Readers of the page that stop reading: they are not waited for."""

import socket
import threading
from contextlib import closing

import pytest
from flask import Flask, Response
from waitress import wasyncore

from cbk.page import server as module
from cbk.settings import Settings
from local_servers import free_port

MEGABYTE = b"x" * 1_000_000
MEGABYTES = 64  # more than Waitress and the kernel take in


@pytest.fixture
def page(monkeypatch):
    """The port of a server with one long answer, and an event that is set once an answer has ended, however that was."""
    monkeypatch.setattr(module, "STALLED_SECONDS", 1.0)
    monkeypatch.setattr(module, "STALLED_LOOK_SECONDS", 1)
    app, ended = Flask("long"), threading.Event()

    @app.get("/long")
    def long():
        response = Response(MEGABYTE for _ in range(MEGABYTES))
        response.call_on_close(ended.set)
        return response

    port = free_port()
    server = module.make_server(app, Settings(source_url="sqlite:////none.db", page_port=port))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield port, ended
    wasyncore.close_all(server._map)
    thread.join(30)
    server.task_dispatcher.shutdown()


def ask(port):
    asked = socket.create_connection(("127.0.0.1", port), timeout=60)
    asked.sendall(b"GET /long HTTP/1.0\r\nHost: localhost\r\n\r\n")
    return asked


def test_answer_that_nobody_reads_on_ends_and_frees_its_slot(page):
    port, ended = page
    with closing(ask(port)) as stalled:
        assert stalled.recv(100)
        assert ended.wait(60)
