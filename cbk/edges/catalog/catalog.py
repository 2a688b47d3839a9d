"""The kit's memory: which files there are, which versions are stored, who works on what."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from cbk.edges.catalog.brakes import Brakes
from cbk.edges.catalog.database import Database
from cbk.edges.catalog.engine import catalog_errors, open_engine
from cbk.edges.catalog.holds import Holds
from cbk.edges.catalog.intake import Intake
from cbk.edges.catalog.leases import Facts, Leases
from cbk.edges.catalog.rebuilding import Rebuilding
from cbk.edges.catalog.removals import Removals
from cbk.edges.catalog.report import Report
from cbk.edges.catalog.samples import Samples
from cbk.edges.catalog.selection import Selection
from cbk.edges.catalog.verification import Verification
from cbk.edges.catalog.work import Work
from cbk.errors import CatalogOutdated

MIGRATIONS = Path(__file__).parent / "migrations"


class Catalog:
    """The catalog at `url`, a SQLAlchemy URL. `holder` names this process in leases. Nothing is connected before it is needed."""

    def __init__(self, url: str, *, holder: str, pool_size: int = 10, timeout_seconds: float = 10.0) -> None:
        self.engine = open_engine(url, pool_size=pool_size, timeout_seconds=timeout_seconds)
        self.database = Database(self.engine)
        self.intake = Intake(self.database)
        self.work = Work(self.database, holder)
        self.removals = Removals(self.database)
        self.brakes = Brakes(self.database)
        self.holds = Holds(self.database)
        self.rebuilding = Rebuilding(self.database)
        self.leases = Leases(self.database, holder)
        self.facts = Facts(self.database)
        self.report = Report(self.database)
        self.samples = Samples(self.database)
        self.verification = Verification(self.database, holder)
        self.selection = Selection(self.database)

    def upgrade(self) -> bool:
        """Make or migrate the tables; True where anything changed. Raises CatalogUnavailable."""
        # Seven megabytes that a worker never needs.
        from alembic import command  # noqa: PLC0415
        from alembic.config import Config  # noqa: PLC0415

        before = self._revision()
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        with catalog_errors(), self.engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        return before != self._head()

    def require_current(self) -> None:
        """Raise CatalogOutdated unless the tables are those of this release."""
        current = self._revision()
        if current != self._head():
            raise CatalogOutdated(
                f"the catalog is at revision {current or 'none'}, this release needs {self._head()}", hint="run `cbk init`"
            )

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def _revision(self) -> str | None:
        from alembic.runtime.migration import MigrationContext  # noqa: PLC0415 - as in `upgrade`

        with catalog_errors(), self.engine.connect().execution_options(reading=True) as connection:
            return MigrationContext.configure(connection).get_current_revision()

    def _head(self) -> str | None:
        from alembic.script import ScriptDirectory  # noqa: PLC0415 - as in `upgrade`

        return ScriptDirectory(str(MIGRATIONS)).get_current_head()

    @property
    def is_shared(self) -> bool:
        """Whether several machines can work with this catalog."""
        return self.engine.dialect.name != "sqlite"

    @property
    def exists(self) -> bool:
        """Whether there is a database to ask; SQLite would make one by being asked."""
        return self.is_shared or Path(self.engine.url.database or "").is_file()

    @property
    def place(self) -> str:
        """Where it is, without any password."""
        return sa.make_url(self.engine.url).render_as_string(hide_password=True)
