"""What the benchmarks measure with: the files, the order of turns, the watch over processes, the origin at a distance."""

import asyncio
import subprocess
import sys
import zlib
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from bench import transfers
from bench.corpus import CORPORA, File, make_corpus
from bench.place import MANY_FILES, Place
from bench.results import Run
from bench.static import Connection, Files
from bench.transfers import Options, copy_corpus, copy_from_afar, in_turn
from bench.watch import Watch

MB = 1000 * 1000
ROOT = Path(__file__).parents[2]


def content(file):
    return b"".join(file.chunks())


# The files


@pytest.mark.parametrize("name", CORPORA)
def test_files_have_keys_of_their_own_and_are_the_same_each_time(name):
    files = CORPORA[name](0.02)
    assert files == CORPORA[name](0.02)
    assert max(Counter(file.key for file in files).values()) == 1


def test_small_files_are_small_and_every_other_one_compresses():
    files = CORPORA["small"](0.01)
    assert all(4096 <= file.size <= 36864 for file in files)
    assert [file.kind for file in files[:4]] == ["text", "random", "text", "random"]


@pytest.mark.parametrize(("kind", "least", "most"), [("random", 0.99, 1.01), ("text", 0.05, 0.4), ("mixed", 0.4, 0.8)])
def test_file_compresses_as_its_kind_says(kind, least, most):
    made = content(File("a", 3 * 1024 * 1024, kind, 7))
    assert len(made) == 3 * 1024 * 1024
    assert least < len(zlib.compress(made)) / len(made) < most


def test_corpus_on_the_disk_is_what_its_hashes_say(tmp_path):
    corpus = make_corpus("few", tmp_path, 0.001)
    assert [(tmp_path / "few" / file.key).read_bytes() for file in corpus.files] == [content(file) for file in corpus.files]


# The turns


def test_who_begins_moves_on_with_each_round():
    turns = {name: lambda round_, name=name: Run("case", name, round_, 1, 1, 1.0, {}) for name in "abc"}
    assert "".join(run.contender for run in in_turn(turns, 4)) == "abc" + "bca" + "cab" + "abc"


class Everywhere:
    """A place that has all origins, and nothing in them."""

    def origin(self, *_origin):
        return None

    def application(self, _origin):
        return ""


@pytest.fixture
def contenders(monkeypatch):
    """Who has a turn in a case, where each turn costs nothing."""

    def a_turn(*_arguments, contender="us", **_options):
        return contender

    monkeypatch.setattr(transfers, "back_up", a_turn)
    monkeypatch.setattr(transfers, "run_peer", lambda _place, _origin, name, _case, _round: name)
    return lambda case, **options: set(case(Everywhere(), Options(rounds=1, **options)))


@pytest.mark.parametrize(("corpus", "expected"), [("small", True), ("medium", True), ("large", False)])
def test_one_worker_takes_part_where_there_are_files_for_all_its_downloads(contenders, corpus, expected):
    assert ("us, one worker" in contenders(partial(copy_corpus, corpus=corpus))) is expected


def test_rclone_takes_part_at_a_distance(contenders):
    assert contenders(copy_from_afar) == {"us", "us, without delay", "rclone-compress", "rclone-copy"}


def test_fetching_by_links_takes_part_at_a_distance_where_it_is_named(contenders):
    assert contenders(copy_from_afar, only=("rclone-copyurl",)) == {"rclone-copyurl"}


@pytest.mark.parametrize(("files", "stays"), [(MANY_FILES - 1, False), (MANY_FILES, True)])
def test_many_copies_stay_until_the_end(tmp_path, files, stays):
    folder = tmp_path / "copied"
    folder.mkdir()
    Place(tmp_path, ExitStack(), 1.0).done_with(folder, files)
    assert folder.exists() is stays


# The watch

BUSY = "import time\nwhile time.process_time() < 0.4: pass"
PARENT = (
    f"import subprocess, sys; sys.stdin.readline(); subprocess.run([sys.executable, '-c', {BUSY!r}]); print(); sys.stdin.readline()"
)
LARGE = "import sys; sys.stdin.readline(); held = b'x' * 80_000_000; print(len(held), flush=True); del held; sys.stdin.readline()"


def watched(program):
    """What is measured between the program's first line of input and its line of output."""
    command = [sys.executable, "-u", "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        watch = Watch({"it": process.pid})
        with watch.watching():
            process.stdin.write(b"\n")
            process.stdin.flush()
            process.stdout.readline()
        process.stdin.close()
    return watch.usage["it"]


def test_watch_counts_the_processor_time_of_children_that_have_ended():
    assert watched(PARENT).cpu >= 0.35  # the clock of /proc ticks a hundred times a second


def test_watch_sees_memory_at_its_peak():
    assert watched(LARGE).memory >= 80 * MB


# The origin


@pytest.fixture
def files(tmp_path):
    (tmp_path / "cars").mkdir()
    (tmp_path / "cars" / "a b.csv").write_bytes(b"content")
    (tmp_path / "cars" / "large").write_bytes(bytes(1024 * 1024 + 1))
    return Files(tmp_path)


def test_origin_answers_with_the_length_whatever_the_signature(files):
    head, body = files.find(b"/cars/a%20b.csv?X-Amz-Signature=1")
    assert b" 200 " in head
    assert b"Content-Length: 7\r\n" in head
    assert body == b"content"


def test_origin_lists_a_folder_as_links(files):
    assert b'href="a%20b.csv"' in files.find(b"/cars/")[1]


def test_origin_sends_a_large_file_from_the_disk(files, tmp_path):
    head, body = files.find(b"/cars/large")
    assert body == tmp_path / "cars" / "large"
    assert b"Content-Length: 1048577\r\n" in head


@pytest.mark.parametrize("target", [b"/cars/nothing", b"/../../etc/passwd"])
def test_origin_has_nothing_but_its_folder(files, target):
    assert b" 404 " in files.find(target)[0]


class Transport:
    def __init__(self):
        self.written = []

    def is_closing(self):
        return False

    def write(self, data):
        self.written.append(data)


def waits_before(files, delay, requests):
    """The seconds that an origin at a distance waits before each answer over one connection."""

    async def ask():
        loop, waits = asyncio.get_running_loop(), []
        loop.call_later = lambda seconds, *_: waits.append(seconds)
        connection = Connection(files, delay)
        connection.connection_made(Transport())
        for _ in range(requests):
            connection.data_received(b"GET /cars/a%20b.csv HTTP/1.1\r\n\r\n")
        return waits

    return asyncio.run(ask())


def test_distance_is_a_round_trip_for_the_connection_and_one_for_each_request(files):
    assert waits_before(files, 0.04, 3) == [0.08, 0.04, 0.04]


def test_head_is_answered_without_a_body(files):
    transport, connection = Transport(), Connection(files, 0)
    connection.connection_made(transport)
    connection.data_received(b"HEAD /cars/a%20b.csv HTTP/1.1\r\n\r\n")
    assert b"".join(transport.written).endswith(b"\r\n\r\n")


# The kit without what keeps copies safe

UNSAFE = """
import tempfile
from pathlib import Path
from bench import unsafe
from cbk.edges.catalog.database.database import Database
from cbk.edges.catalog.database.connection import make_file, open_engine

unsafe.let_nothing_be_flushed()
with tempfile.TemporaryDirectory() as folder:
    make_file(Path(folder) / "catalog.db")
    database = Database(open_engine(f"sqlite:///{folder}/catalog.db", pool_size=1, timeout_seconds=1))
    for durable in (False, True):
        with database.writing(durable=durable) as connection:
            print(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())
"""


def test_unsafe_kit_has_a_catalog_that_is_never_flushed():
    told = subprocess.run([sys.executable, "-c", UNSAFE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["0", "0"]  # OFF
