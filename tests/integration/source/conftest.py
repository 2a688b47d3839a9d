"""PostgreSQL with the SELECT-only user of `cbk schema`, and SQLite.

MySQL and MariaDB cannot be had here as servers; what is sent to them is checked as text in tests/unit/test_source_sql.py.
"""

import uuid

import pytest

from cbk.edges.source import Source
from cbk_app.schema import ddl, grants
from tests.integration.source.application import Application

# Tables may be older than the index, and hold what it would refuse.
_OLDER = 'DROP INDEX "ObjectStorageFiles_Version"'


@pytest.fixture
def sqlite_application(tmp_path):
    path = tmp_path / "app.db"
    application = Application("sqlite", f"sqlite:///{path}", f"sqlite:///{path}")
    application.script(ddl("sqlite"))
    application.script(_OLDER)
    return application


@pytest.fixture
def pg_application(postgres, pg_database):
    user = f"reader_{uuid.uuid4().hex[:8]}"
    application = Application("postgresql", postgres.url(pg_database), postgres.url(pg_database, user, "pass word"))
    application.script(ddl("postgresql"))
    application.script(_OLDER)
    application.script(grants("postgresql", user))
    yield application
    postgres.start()
    application.script(f'DROP OWNED BY "{user}"; DROP ROLE "{user}"')


@pytest.fixture(params=["sqlite", "postgresql"])
def application(request):
    return request.getfixturevalue({"sqlite": "sqlite_application", "postgresql": "pg_application"}[request.param])


@pytest.fixture
def source(application):
    reader = Source(application.reader_url)
    yield reader
    reader.close()


@pytest.fixture
def pg_source(pg_application):
    reader = Source(pg_application.reader_url, connect_timeout_seconds=5)
    yield reader
    reader.close()


@pytest.fixture
def sqlite_source(sqlite_application):
    return Source(sqlite_application.reader_url)
