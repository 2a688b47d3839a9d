"""The kit's memory: which files there are, which versions are stored, who works on what."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cbk.edges.catalog.admin.rebuild import Rebuilding
from cbk.edges.catalog.backup.link_deadlines import Links
from cbk.edges.catalog.backup.pins import Pins
from cbk.edges.catalog.backup.work_queue import Work
from cbk.edges.catalog.database.connection import make_file, open_engine
from cbk.edges.catalog.database.database import Database
from cbk.edges.catalog.database.kept_copies import KeptCopies
from cbk.edges.catalog.database.leases import Facts, Leases
from cbk.edges.catalog.database.migration import migrate, migrating, newest_revision, revision_of
from cbk.edges.catalog.dump import Dumps
from cbk.edges.catalog.intake.intake import Intake
from cbk.edges.catalog.intake.inventory import Inventories
from cbk.edges.catalog.intake.names import FileNames
from cbk.edges.catalog.intake.rows import Rows
from cbk.edges.catalog.mirror import Mirrors
from cbk.edges.catalog.restore import Selection
from cbk.edges.catalog.retention.brakes import Brakes
from cbk.edges.catalog.retention.holds import Holds
from cbk.edges.catalog.retention.pruned_copies import PrunedCopies
from cbk.edges.catalog.retention.removals import Removals
from cbk.edges.catalog.status.folders import Folders
from cbk.edges.catalog.status.reports import Report
from cbk.edges.catalog.status.samples import Samples
from cbk.edges.catalog.status.version_counts import VersionCounts
from cbk.edges.catalog.verification import Verification
from cbk.errors import CatalogOutdated
from cbk.rules.text.database_url import DatabaseTls, parse_database_url


class Catalog:
    """The catalog at `url`, a SQLAlchemy URL. `holder` names this process in leases. Nothing is connected before it is needed."""

    def __init__(
        self,
        url: str,
        *,
        holder: str,
        pool_size: int = 10,
        timeout_seconds: float = 10.0,
        tls: DatabaseTls | None = None,
        require_place: Callable[[], object] | None = None,
    ) -> None:
        self.engine = open_engine(url, pool_size=pool_size, timeout_seconds=timeout_seconds, tls=tls, require_place=require_place)
        self._require_place = require_place
        self.database = Database(self.engine)
        self.intake = Intake(self.database)
        self.names = FileNames(self.database)
        self.work = Work(self.database, holder)
        self.rows = Rows(self.database)
        self.removals = Removals(self.database)
        self.pins = Pins(self.database)
        self.pruned_copies = PrunedCopies(self.database)
        self.brakes = Brakes(self.database)
        self.holds = Holds(self.database)
        self.rebuilding = Rebuilding(self.database)
        self.dumps = Dumps(self.database)
        self.leases = Leases(self.database, holder)
        self.facts = Facts(self.database)
        self.links = Links(self.database)
        self.report = Report(self.database)
        self.version_counts = VersionCounts(self.database)
        self.folders = Folders(self.database)
        self.samples = Samples(self.database)
        self.verification = Verification(self.database, holder)
        self.selection = Selection(self.database)
        self.mirrors = Mirrors(self.database, holder, self.dumps)
        self.inventories = Inventories(self.database)
        self.kept_copies = KeptCopies(self.engine)

    def upgrade(self) -> bool:
        """Make or migrate the tables; True where anything changed. Raises CatalogUnavailable."""
        if self.file is not None and not self.exists:
            if self._require_place is not None:
                self._require_place()
            make_file(self.file)
        before = self.revision
        self._refuse_newer(before)
        with migrating(self.engine) as connection:
            migrate(connection, "head")
        return before != newest_revision()

    def try_upgrade(self) -> None:
        """Find out if `upgrade` would succeed, and change nothing. Raises what that raises."""
        self._refuse_newer(self.revision)
        self.kept_copies.try_migration()

    def require_current(self) -> None:
        """Raise CatalogOutdated unless the tables are those of this release."""
        current = self.revision
        if current == newest_revision():
            return
        self._refuse_newer(current)
        if current is None:
            raise CatalogOutdated(
                f"the catalog at {self.place} has no tables",
                hint="`cbk rebuild` fills it from the copies on the disk; on a disk without any, run `cbk init`",
            )
        raise CatalogOutdated(
            f"the catalog is at revision {current}, of an older release: this release needs {newest_revision()}",
            hint="run `cbk init` once the workers are stopped, or `cbk upgrade`, which keeps a copy of the catalog first",
        )

    def _refuse_newer(self, current: str | None) -> None:
        """Raise CatalogOutdated for a catalog that this release cannot know. Its own numbers count up."""
        head = newest_revision()
        if current is not None and head is not None and current > head:
            raise CatalogOutdated(
                f"the catalog is of a newer release (revision {current}, this release knows up to {head})",
                hint="install the newer release again, as on the machine that upgraded the catalog; nothing was changed",
            )

    @property
    def is_current(self) -> bool:
        """Whether the tables are those of this release."""
        return self.revision == newest_revision()

    def now(self) -> datetime:
        """The catalog's clock. Raises CatalogUnavailable."""
        return self.database.now()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @property
    def revision(self) -> str | None:
        """Which migration the tables are at; None where there are none yet."""
        return revision_of(self.engine)

    @property
    def is_shared(self) -> bool:
        """Whether several machines can work with this catalog."""
        return self.engine.dialect.name != "sqlite"

    @property
    def exists(self) -> bool:
        """Whether there is a database to ask; SQLite would make one by being asked."""
        return self.is_shared or Path(self.engine.url.database or "").is_file()

    @property
    def file(self) -> Path | None:
        """The file of a SQLite catalog; None of one on a server."""
        return None if self.is_shared else Path(self.engine.url.database or "")

    @property
    def place(self) -> str:
        """Where it is, without user and password."""
        return parse_database_url(self.engine.url.render_as_string(hide_password=False)).place
