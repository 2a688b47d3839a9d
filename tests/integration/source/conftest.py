"""PostgreSQL and MariaDB with the SELECT-only user of `cbk schema`, and SQLite."""

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
    application.engine.dispose()


@pytest.fixture
def mysql_application(mariadb):
    mariadb.start()
    name = f"app_{uuid.uuid4().hex[:8]}"
    mariadb.create_database(name)
    url = mariadb.url(name, "root", "").replace("mysql", "mysql+pymysql")
    application = Application("mysql", url, mariadb.url(name, name, "pass%20word"))
    application.script(ddl("mysql"))
    application.run('ALTER TABLE "ObjectStorageFiles" DROP INDEX "VersionHash", DROP COLUMN "VersionHash"')
    application.script(grants("mysql", name))
    application.run(f"ALTER USER {name}@'%' IDENTIFIED BY 'pass word' ACCOUNT UNLOCK")
    yield application
    application.run(f"DROP USER {name}@'%'")
    application.run(f"DROP DATABASE {name}")
    application.engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def application(request):
    names = {"sqlite": "sqlite_application", "postgresql": "pg_application", "mariadb": "mysql_application"}
    return request.getfixturevalue(names[request.param])


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
def mysql_source(mysql_application):
    reader = Source(mysql_application.reader_url)
    yield reader
    reader.close()


@pytest.fixture
def sqlite_source(sqlite_application):
    return Source(sqlite_application.reader_url)
