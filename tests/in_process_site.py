"""A kit on one site: the application's tables and the catalog in SQLite, a disk in a folder, and a publisher that collects."""

import json
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa

from cbk.edges.catalog import Catalog
from cbk.edges.catalog.database.schema import facts, removals, versions
from cbk.errors import BrokerUnavailable, CatalogError, DownloadError, LeaseLost
from cbk.jobs.admin.init import initialise
from cbk.jobs.backup.backup import back_up
from cbk.jobs.context import open_context
from cbk.jobs.poll.poll import poll
from cbk.jobs.retention.prune import prune
from cbk.jobs.status.alerts import CatalogOutageAlert, send_alerts
from cbk.model import CopyHeader
from cbk.rules.intake.layout import split_key
from cbk.settings import Settings
from cbk_app import recorder
from cbk_app.schema import DELETE_LOG, FILES
from tests.disk import publish

SIGNATURE = "X-Amz-Signature=DEADBEEFSECRET"


@cache
def _migrated_catalog():
    """The bytes of a catalog with nothing in it: most of what a site costs is the migrations that make one."""
    with TemporaryDirectory() as folder:
        with closing(Catalog(f"sqlite:///{folder}/catalog.db", holder="site")) as catalog:
            catalog.upgrade()
        return Path(folder, "catalog.db").read_bytes()


def claim_row(catalog, row_id, lease):
    """The claim of the version of one row; None where there is nothing to claim."""
    return next(iter(catalog.work.claim([row_id], lease)), None)


def version_of_row(catalog, row_id):
    """The highest version that one row brought; None where it brought none."""
    return catalog.work.versions_of_rows([row_id]).get(row_id)


def store(catalog, claim, written):
    """Record one version as stored; LeaseLost where the claim is not ours any more."""
    if catalog.work.record_stored([(claim, written)]):
        raise LeaseLost("another worker holds it now")


class CollectingPublisher:
    """Keeps the row ids that were sent; `waiting` are those that no worker has taken; `away` is a broker that is."""

    def __init__(self):
        self.sent = []
        self.prunes = []
        self.mirrors = []
        self.waiting = set()
        self.away = False

    def send_backups(self, batches):
        for batch in batches:
            if self.away:
                raise BrokerUnavailable("the messages could not be sent: ConnectionError", hint="is Redis running?")
            self.sent += [version.source_id for version in batch]

    def send_prunes(self, planned, now):
        for each in planned:
            if self.away:
                raise BrokerUnavailable("the messages could not be sent: ConnectionError", hint="is Redis running?")
            self.prunes.append((each.removal, each.removal.due_at - now))

    def send_mirrors(self, names):
        if self.away:
            raise BrokerUnavailable("the messages could not be sent: ConnectionError", hint="is Redis running?")
        self.mirrors += names

    def waiting_backups(self):
        return self.waiting

    def take(self):
        """What was sent since the last time."""
        taken, self.sent = self.sent, []
        return taken


class InProcessSite:
    """Everything of one site, without processes: a test is beat and worker itself."""

    def __init__(self, folder, origin, **settings):
        self.folder = folder
        self.root = folder / "backups"
        self.origin = origin
        self.publisher = CollectingPublisher()
        self.settings = {
            "source_url": f"sqlite:///{folder}/app.db",
            "catalog_url": f"sqlite:///{folder}/catalog.db",
            "backup_root": str(self.root),
            "buckets": {"s3": "car-erp"},
            "allowed_hosts": origin.address,
            "reconcile_interval": "1d",
            **settings,
        }
        self.application = sa.create_engine(self.settings["source_url"])
        self._kits = []
        self.catalog_outage_alert = CatalogOutageAlert()
        self.context = self.open()
        self.prepare()

    def prepare(self):
        """The application's tables, the catalog's and the disk's identity."""
        FILES.metadata.create_all(self.application)
        with self.application.begin() as connection:  # tables may be older than the index, and hold what it would refuse
            connection.exec_driver_sql('DROP INDEX IF EXISTS "ObjectStorageFiles_Version"')
        place = Path(self.context.catalog.engine.url.database)
        if not self.context.catalog.is_shared and place.parent.exists() and not place.exists():
            place.write_bytes(_migrated_catalog())
        list(initialise(self.context))

    def open(self, **settings):
        """The kit of one more process."""
        self._kits.append(open_context(Settings(**self.settings | settings)))
        return self._kits[-1]

    def reopen(self, **settings):
        """Start anew with other settings."""
        self.context = self.open(**settings)

    @property
    def environment(self):
        """The settings as a process gets them."""
        return {
            f"CBK_{name.upper()}": value if isinstance(value, str) else json.dumps(value) for name, value in self.settings.items()
        }

    def close(self):
        for context in self._kits:
            context.close()
        self.application.dispose()

    def require_true_counts(self):
        """What the catalog counts as it goes is what is there. A catalog that a test has lost or damaged says nothing."""
        url = sa.make_url(self.settings["catalog_url"])
        if url.get_backend_name() != "sqlite" or not Path(url.database).exists():
            return
        with suppress(CatalogError), closing(Catalog(self.settings["catalog_url"], holder="test")) as catalog:
            if catalog.is_current:
                assert not catalog.version_counts.audit()

    # The application

    def upload(self, key, content, *answers, version=1, storage="s3", row_id=None, hash_of=None, link=None, served_at=None):
        """Put an object and its row; gives the row's Id. `hash_of` are the bytes that the row speaks of, where it is wrong."""
        served_at = served_at or f"/car-erp/{key}"
        self.origin.put(served_at, content, *answers)
        path, _, name = key.rpartition("/")
        values = {
            "Path": f"{path}/" if path else "",
            "Name": name,
            "Storage": storage,
            "Version": version,
            "Hash": sha256(content if hash_of is None else hash_of).hexdigest(),
            "SignedDownloadUrl": link or self.link(served_at),
        }
        if row_id is not None:
            values["Id"] = row_id
        with self.application.begin() as connection:
            return str(connection.execute(sa.insert(FILES).values(values)).inserted_primary_key[0])

    def link(self, served_at):
        return self.origin.url(served_at, SIGNATURE)

    def change(self, row_id, **columns):
        with self.application.begin() as connection:
            connection.execute(sa.update(FILES).where(FILES.c.Id == int(row_id)).values(columns))

    def refresh(self, row_id, served_at):
        with self.application.begin() as connection:
            recorder.refresh_link(connection, int(row_id), self.link(served_at))

    def row(self, row_id):
        """The row's columns, to put it back."""
        with self.application.begin() as connection:
            return dict(connection.execute(sa.select(FILES).where(FILES.c.Id == int(row_id))).one()._mapping)

    def drop(self, row_id):
        with self.application.begin() as connection:
            connection.execute(sa.delete(FILES).where(FILES.c.Id == int(row_id)))

    def put_back(self, row):
        with self.application.begin() as connection:
            connection.execute(sa.insert(FILES).values(row))

    def delete(self, row_id, *, delete_id=None, deleted_at=None):
        """Note in the delete log that the file of this row was deleted; gives the log row's Id."""
        values = {"FileId": int(row_id)}
        if deleted_at is not None:
            values["DeletedAt"] = deleted_at
        if delete_id is not None:
            values["Id"] = int(delete_id)
        with self.application.begin() as connection:
            return str(connection.execute(sa.insert(DELETE_LOG).values(values)).inserted_primary_key[0])

    def withdraw(self, delete_id):
        with self.application.begin() as connection:
            connection.execute(sa.delete(DELETE_LOG).where(DELETE_LOG.c.Id == int(delete_id)))

    def change_delete(self, delete_id, **columns):
        with self.application.begin() as connection:
            connection.execute(sa.update(DELETE_LOG).where(DELETE_LOG.c.Id == int(delete_id)).values(columns))

    @contextmanager
    def source_away(self):
        """The application's database does not answer."""
        database = self.folder / "app.db"
        self.context.source.close()
        database.rename(self.folder / "away.db")
        database.mkdir()
        try:
            yield
        finally:
            database.rmdir()
            (self.folder / "away.db").rename(database)
            self.context.source.close()

    def break_tables(self):
        DELETE_LOG.drop(self.application)

    # Beat and worker

    def poll(self, pause=lambda _: True):
        """One poll, with a worker that is to stop, so that it does not stay."""
        return poll(self.context, self.publisher, pause=pause)

    def send_alerts(self):
        """One look; gives what came of it."""
        return send_alerts(self.context, self.catalog_outage_alert).outcome

    def back_up(self, row_id):
        return back_up(self.context, row_id)

    def work(self):
        """Poll, and do what was sent; what goes wrong with a download is in the catalog."""
        self.poll()
        for row_id in self.publisher.take():
            with suppress(DownloadError):
                self.back_up(row_id)

    def prune(self, delete_id=None, version_id=None):
        return prune(self.context, self.publisher, delete_id=delete_id, version_id=version_id)

    def let_go(self):
        """Poll, and do the prunes that were sent; gives their summaries."""
        self.poll()
        sent, self.publisher.prunes = self.publisher.prunes, []
        return [self.prune(removal.delete_id, removal.version_id) for removal, _ in sent]

    # What there is

    def removals(self):
        """The catalog's removals by the Id of their delete-log row, or of their version."""
        with self.context.catalog.database.reading() as connection:
            rows = connection.execute(sa.select(removals)).all()
        return {row.delete_id or row.version_id: row for row in rows}

    def versions(self):
        """The catalog's versions by (key, number)."""
        listed = sorted(self.context.catalog.report.versions(), key=lambda version: (version.live, version.id))
        return {(version.key, version.number): version for version in listed}

    def states(self):
        return {name: version.state.value for name, version in self.versions().items()}

    def declined(self):
        """The reasons of declined rows by Id."""
        return {row.source_id: row.reason for row in self.context.catalog.report.declined_rows()}

    def fact(self, name):
        return self.context.catalog.facts.get(name)

    def copies(self):
        """Relative paths of all files on the disk outside `.cbk`."""
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file() and ".cbk" not in path.parts}

    def parts(self):
        return {path.name for path in (self.root / ".cbk" / "incoming").iterdir()}

    def quarantined(self):
        return [path.read_bytes() for path in (self.root / ".cbk" / "quarantine").iterdir()]

    def leave_copy(self, key, content, *, location, version=1, storage="s3"):
        """What a worker leaves that dies right after publishing."""
        path, name = split_key(key)
        header = CopyHeader(storage=storage, path=path, name=name, version=version, sha256=sha256(content).hexdigest(), size=0)
        with self.context.archive.incoming("left.part", header) as part:
            part.write(content)
            part.finish()
            part.flush()
            part.read_back()
            publish(self.context.archive, part, location)

    # Time and other workers

    def pass_time(self, **columns):
        """Move instants of all versions into the past: `due_at`, `lease_until`."""
        with self.context.catalog.database.writing() as connection:
            for column, by in columns.items():
                instant = versions.c[column]
                moved = self.context.catalog.database.later_sql(-by)
                connection.execute(sa.update(versions).where(instant.is_not(None)).values({column: moved}))

    def pass_grace(self, by=timedelta(days=30)):
        """Move what removals wait for into the past, so that all of them are due and none is armed."""
        with self.context.catalog.database.writing() as connection:
            for column in (removals.c.first_seen_at, removals.c.due_at):
                moved = sa.type_coerce(column, sa.BigInteger) - by // timedelta(milliseconds=1)
                connection.execute(sa.update(removals).values({column.name: sa.type_coerce(moved, column.type)}))
            # With time, polls go by that read every row.
            connection.execute(sa.update(removals).values(armed_until=None, poll=-1))

    def expire_leases(self):
        self.pass_time(lease_until=timedelta(minutes=1))

    def pass_backoff(self):
        self.pass_time(due_at=timedelta(minutes=1))

    def forget_fact(self, name):
        with self.context.catalog.database.writing() as connection:
            connection.execute(sa.delete(facts).where(facts.c.name == name))

    @contextmanager
    def rival(self):
        """The catalog as another worker has it open."""
        rival = Catalog(self.settings["catalog_url"], holder="rival")
        try:
            yield rival
        finally:
            rival.close()
