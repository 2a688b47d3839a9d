"""The kit's memory: which files there are, which versions are stored, who works on what."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from cbk.edges.catalog.brakes import Brakes
from cbk.edges.catalog.connection import catalog_errors, make_file, open_engine
from cbk.edges.catalog.database import Database
from cbk.edges.catalog.dumps import Dumps
from cbk.edges.catalog.folders import Folders
from cbk.edges.catalog.holds import Holds
from cbk.edges.catalog.intake import Intake
from cbk.edges.catalog.inventory import Inventories
from cbk.edges.catalog.leases import Facts, Leases
from cbk.edges.catalog.link_deadlines import Links
from cbk.edges.catalog.mirrors import Mirrors
from cbk.edges.catalog.names import FileNames
from cbk.edges.catalog.pruned_copies import PrunedCopies
from cbk.edges.catalog.rebuild import Rebuilding
from cbk.edges.catalog.removals import Removals
from cbk.edges.catalog.reports import Report
from cbk.edges.catalog.restore import Selection
from cbk.edges.catalog.rows import Rows
from cbk.edges.catalog.samples import Samples
from cbk.edges.catalog.verification import Verification
from cbk.edges.catalog.version_counts import VersionCounts
from cbk.edges.catalog.work_queue import Work
from cbk.errors import CatalogOutdated, CatalogUnavailable
from cbk.rules.database_url import DatabaseTls, parse_database_url

MIGRATIONS = Path(__file__).parent / "migrations"


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

    def upgrade(self) -> bool:
        """Make or migrate the tables; True where anything changed. Raises CatalogUnavailable."""
        # Seven megabytes that a worker never needs.
        from alembic import command  # noqa: PLC0415
        from alembic.config import Config  # noqa: PLC0415

        if self.file is not None and not self.exists:
            if self._require_place is not None:
                self._require_place()
            make_file(self.file)
        before = self.revision
        self._refuse_newer(before)
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        # SQLite alters a table by making it anew, which leaves references to it in the air for a moment.
        with (
            catalog_errors(),
            self.engine.connect() as connection,
            self._without_foreign_keys(connection),
            connection.begin(),
        ):
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        return before != _head()

    @contextmanager
    def _without_foreign_keys(self, connection: sa.Connection) -> Iterator[None]:
        if self.is_shared:
            yield
            return
        driver: Any = connection.connection.driver_connection
        driver.execute("PRAGMA foreign_keys=OFF")  # outside of a transaction, or it does nothing
        try:
            yield
            broken = driver.execute("PRAGMA foreign_key_check").fetchall()
            if broken:
                raise CatalogUnavailable(f"the catalog has {len(broken)} broken references after its migration")
        finally:
            driver.execute("PRAGMA foreign_keys=ON")

    def require_current(self) -> None:
        """Raise CatalogOutdated unless the tables are those of this release."""
        current = self.revision
        if current == _head():
            return
        self._refuse_newer(current)
        if current is None:
            raise CatalogOutdated(
                f"the catalog at {self.place} has no tables",
                hint="`cbk rebuild` fills it from the copies on the disk; on a disk without any, run `cbk init`",
            )
        raise CatalogOutdated(
            f"the catalog is at revision {current}, of an older release: this release needs {_head()}",
            hint="run `cbk init` once the workers are stopped, or `cbk upgrade`, which keeps a copy of the catalog first",
        )

    def _refuse_newer(self, current: str | None) -> None:
        """Raise CatalogOutdated for a catalog that this release cannot know. Its own numbers count up."""
        head = _head()
        if current is not None and head is not None and current > head:
            raise CatalogOutdated(
                f"the catalog is of a newer release (revision {current}, this release knows up to {head})",
                hint="install the newer release again, as on the machine that upgraded the catalog; nothing was changed",
            )

    @property
    def is_current(self) -> bool:
        """Whether the tables are those of this release."""
        return self.revision == _head()

    def save_as(self, copy: Path) -> None:
        """Copy a SQLite catalog to a file, whoever writes to it meanwhile; in its place only once all of it is there.

        Raises CatalogUnavailable.
        """
        draft = copy.with_name(f"{copy.name}.new")
        with catalog_errors(), self.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            try:
                draft.unlink(missing_ok=True)
                with closing(sqlite3.connect(draft)) as target:
                    driver.backup(target)
                draft.replace(copy)
            except (OSError, sqlite3.Error) as error:
                raise CatalogUnavailable(
                    f"no copy of the catalog could be made in {copy}: {error}", hint="is there room?"
                ) from error

    def now(self) -> datetime:
        """The catalog's clock. Raises CatalogUnavailable."""
        return self.database.now()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @property
    def revision(self) -> str | None:
        """Which migration the tables are at; None where there are none yet."""
        from alembic.runtime.migration import MigrationContext  # noqa: PLC0415 - as in `upgrade`

        with catalog_errors(), self.engine.connect().execution_options(reading=True) as connection:
            return MigrationContext.configure(connection).get_current_revision()

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


@cache
def _head() -> str | None:
    """The newest migration of this release; to find it, all of them are loaded."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - as in `upgrade`

    return ScriptDirectory(str(MIGRATIONS)).get_current_head()
