"""A whole site for a test: the application's database and objects, and the kit's real processes, which can be killed."""

import json
import os
import subprocess
import sys
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import sqlalchemy as sa
from click.testing import CliRunner

from cbk.cli.main import cli
from cbk.edges.catalog import Catalog
from cbk_app.recorder import Recorder
from cbk_app.schema import ddl, grants
from local_servers import wait_until

READER = "cbk_reader"
REPOSITORY = Path(__file__).parents[2]


class Process:
    """A Celery process of the kit with its log; it and its children end with the test."""

    def __init__(self, command, env, log_path):
        self.log_path = log_path
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd=log_path.parent
            )

    @property
    def pid(self):
        return self._process.pid

    @property
    def log(self):
        return self.log_path.read_text(errors="replace")

    def is_running(self):
        return self._process.poll() is None

    @property
    def exit_code(self):
        """As the process ended; None while it runs."""
        return self._process.poll()

    def kill(self):
        """SIGKILL to the whole group: a power cut for this process."""
        if self.is_running():
            os.killpg(self._process.pid, 9)
        self._process.wait()

    def stop(self, timeout=30):
        self._process.terminate()
        return self._process.wait(timeout)


class Site:
    """Everything of one site below `folder`. `origin` serves the objects."""

    def __init__(self, folder, *, broker_url, postgres, database, origin, **settings):
        self.folder = folder
        self.root = folder / "backups"
        self.origin = origin
        self._postgres = postgres
        self._database = database
        self._owner = sa.create_engine(postgres.url(database))
        self._processes = []
        self._make_tables()
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CBK_", "FLOWER_"))},
            "CBK_SOURCE_URL": postgres.url(database, READER),
            "CBK_BROKER_URL": broker_url,
            "CBK_BACKUP_ROOT": str(self.root),
            "CBK_BUCKETS": '{"s3": "car-erp"}',
            "CBK_POLL_INTERVAL": "1s",
            "CBK_LEASE": "5s",
            "CBK_ALLOWED_HOSTS": origin.url("/").split("/")[2],
            **settings,
        }

    def _make_tables(self):
        self._postgres.execute(f"DROP ROLE IF EXISTS {READER}")
        for statement in (ddl("postgresql"), grants("postgresql", user=READER)):
            self._postgres.execute(statement, self._database)
        # Tables may be older than the index, and hold what it would refuse.
        self._postgres.execute('DROP INDEX "ObjectStorageFiles_Version"', self._database)

    # The application

    def upload(self, key, content, *, version=1, storage="s3", link=None, hash_=None, object_path=None):
        """Put an object and its row; returns the row's Id."""
        path, _, name = key.rpartition("/")
        object_path = object_path or f"/car-erp/{key}"
        self.origin.put(object_path, content)
        if hash_ is not None:  # the recorder would refuse it
            return self._insert([{"path": path, "name": name, "hash": hash_, "link": self.link(object_path)}])
        with self._owner.begin() as connection:
            recorded = Recorder(storage=storage).record_upload(
                connection, key, content, version=version, link=link or self.link(object_path)
            )
            return recorded.id

    def upload_many(self, uploads):
        """Objects and rows in bulk: (key, content, link or None)."""
        rows = []
        for key, content, link in uploads:
            path, _, name = key.rpartition("/")
            if link is None:
                self.origin.put(f"/car-erp/{key}", content)
                link = self.link(f"/car-erp/{key}")  # noqa: PLW2901 - the link that it got
            rows.append({"path": f"{path}/", "name": name, "hash": sha256(content).hexdigest(), "link": link})
        self._insert(rows)

    def _insert(self, rows):
        with self._owner.begin() as connection:
            connection.execute(
                sa.text(
                    'INSERT INTO "ObjectStorageFiles" ("Path", "Name", "Storage", "Version", "Hash", "SignedDownloadUrl") '
                    "VALUES (:path, :name, 's3', 1, :hash, :link)"
                ),
                rows,
            )

    def as_reader(self, statement):
        """Run a statement as the kit's own database user."""
        engine = sa.create_engine(self._postgres.url(self._database, READER))
        try:
            with engine.begin() as connection:
                return connection.execute(sa.text(statement))
        finally:
            engine.dispose()

    def link(self, object_path):
        """A link with a signature that nothing but the table may ever hold."""
        return self.origin.url(object_path, "X-Amz-Signature=DEADBEEFSECRET")

    def sql(self, statement, **parameters):
        with self._owner.begin() as connection:
            return connection.execute(sa.text(statement), parameters)

    # The kit

    @property
    def catalog_url(self):
        return self.env.get("CBK_CATALOG_URL", f"sqlite:///{self.root}/.cbk/catalog.db")

    def cbk(self, *arguments, expect=0):
        done = subprocess.run(
            [sys.executable, "-m", "cbk.cli", *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            cwd=self.folder,
            timeout=120,
            check=False,
        )
        assert expect is None or done.returncode == expect, f"cbk {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def celery(self, *arguments, name=None, host=None):
        """On a `tests.functional.network.Host`, where one is given: the process dies with it, and has its environment."""
        name = name or f"{arguments[0]}-{len(self._processes)}"
        command = [sys.executable, "-m", "celery", "-A", "cbk", *arguments]
        if host is None:
            process = Process(command, self.env, self.folder / f"{name}.log")
        else:
            process = Process([*host.enter, *command], self.env | host.env, self.folder / f"{name}.log")
            host.processes.append(process)
        self._processes.append(process)
        return process

    def worker(self, name=None, host=None, **options):
        extra = [f"--{option.replace('_', '-')}={value}" for option, value in options.items()]
        node = f"w{len(self._processes)}@localhost"
        return self.celery("worker", "-n", node, "--without-gossip", "--without-mingle", *extra, name=name, host=host)

    def beat(self, host=None):
        return self.celery("beat", host=host)

    def init(self):
        """What `cbk init` does, without the second that a process of its own takes to start."""
        ours = {name: None for name in os.environ if name.startswith("CBK_")} | self.env
        done = CliRunner(env=ours).invoke(cli, ["init", "--on-system-disk"], catch_exceptions=False)
        assert done.exit_code == 0, done.output

    def listed(self):
        """What `cbk ls --json` says, by (key, version)."""
        items = [json.loads(line) for line in self.cbk("ls", "--json").stdout.splitlines()]
        return {(item["key"], item["version"]): item for item in items}

    def states(self):
        """The states by (key, version), of declined rows as well; from the catalog itself, so that they may be waited for."""
        with self.catalog() as catalog:
            found = {(version.key, version.number): version.state.value for version in catalog.report.versions()}
            return found | {(row.key, row.version): "declined" for row in catalog.report.declined_rows()}

    def catalog(self):
        """The catalog, opened as one more process would."""
        return closing(Catalog(self.catalog_url, holder="test"))

    def catalog_removals(self):
        """How many removals are open."""
        with self.catalog() as catalog:
            return catalog.removals.count_open()[0]

    def status(self):
        return json.loads(self.cbk("status", "--json", expect=None).stdout)

    def wait_protected(self, files, timeout_seconds=120):
        """Wait until so many files are protected and nothing is wrong."""

        def explain():
            return f"{files} protected files; status is {json.dumps(self.status(), indent=1)}\n{self.logs()[-3000:]}"

        # The catalog is looked at directly while waiting: a command each time would take the processor from the workers.
        with self.catalog() as catalog:
            wait_until(lambda: catalog.report.counts().protected >= files, timeout_seconds, explain, every_seconds=0.5)
        wait_until(lambda: (status := self.status()).get("protected") and status["files"] == files, 60, explain, every_seconds=0.5)

    @property
    def processes(self):
        """All that were started."""
        return tuple(self._processes)

    def logs(self):
        return "".join(process.log for process in self._processes)

    def copies(self):
        """Relative paths of all files on the disk outside `.cbk`, while some of them may go."""
        found = set()
        for folder, folders, names in os.walk(self.root):
            if ".cbk" in folders:
                folders.remove(".cbk")
            found.update(str((Path(folder) / name).relative_to(self.root)) for name in names)
        return found

    def parts(self):
        return list((self.root / ".cbk" / "incoming").iterdir())

    def close(self):
        for process in self._processes:
            process.kill()
        self._owner.dispose()
