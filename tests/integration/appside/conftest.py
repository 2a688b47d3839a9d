"""Databases with the two tables, and a bucket."""

import os
import uuid

import pytest
from sqlalchemy import create_engine, text

from cbk_app.schema import ddl
from cbk_app.stores.s3 import S3Store


def make_tables(engine):
    """Run what `cbk-app schema` prints."""
    with engine.begin() as connection:
        for statement in ddl(engine.dialect.name).split(";"):
            if statement.strip():
                connection.execute(text(statement))


@pytest.fixture(scope="module")
def shared_postgres(postgres):
    """An application's database on PostgreSQL, for a whole module: to make one takes longer than most tests."""
    name = f"app_{uuid.uuid4().hex}"
    postgres.start().create_database(name)
    engine = create_engine(postgres.url(name))
    make_tables(engine)
    yield engine
    engine.dispose()
    postgres.start().execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="module")
def shared_mariadb(mariadb):
    """An application's database on MariaDB, with the settings that a server has by itself."""
    name = f"app_{uuid.uuid4().hex}"
    mariadb.start().create_database(name)
    engine = create_engine(mariadb.url(name).replace("mysql:", "mysql+pymysql:"))
    make_tables(engine)
    yield engine
    engine.dispose()
    mariadb.start().execute(f"DROP DATABASE {name}")


@pytest.fixture
def engine(request, tmp_path):
    """The application's database, with what `cbk-app schema` prints and not a row: PostgreSQL, unless a test asks for others."""
    kind = getattr(request, "param", "postgresql")
    if kind == "sqlite":
        engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}")
        make_tables(engine)
        yield engine
        engine.dispose()
        return
    engine = request.getfixturevalue("shared_mariadb" if kind == "mariadb" else "shared_postgres")
    tables = ('"ObjectStorageFiles"', '"ObjectStorageDeleteLog"')
    emptied = [f"TRUNCATE {table}" for table in tables] if kind == "mariadb" else [f"TRUNCATE {', '.join(tables)} RESTART IDENTITY"]
    with engine.begin() as connection:
        for statement in emptied:
            connection.execute(spelled(engine, statement))
    yield engine


def spelled(engine, sql):
    """The statement with its names quoted as this database does."""
    return text(sql.replace('"', "`") if engine.dialect.name in {"mysql", "mariadb"} else sql)


@pytest.fixture
def rows_of(engine):
    """A function that gives the rows of a table as dicts, but for the column that MySQL's unique index needs."""

    def read(table="ObjectStorageFiles"):
        with engine.connect() as connection:
            rows = connection.execute(spelled(engine, f'SELECT * FROM "{table}" ORDER BY "Id"')).mappings()
            return [{name: value for name, value in row.items() if name != "VersionHash"} for row in rows]

    return read


@pytest.fixture
def environment(monkeypatch, s3, tmp_path):
    """The environment of somebody who uses the S3 server, and nothing of this machine's own."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "CBKAPP_", "AZURE_"))]:
        monkeypatch.delenv(name)
    values = {
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": s3.region,
        "AWS_ENDPOINT_URL": s3.endpoint,
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "NO_PROXY": "127.0.0.1",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


@pytest.fixture
def bucket(s3):
    """The name of a fresh bucket."""
    name = f"app-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(name)
    return name


@pytest.fixture
def store(s3, bucket):
    """The bucket as a store."""
    return S3Store(bucket, client=s3.client())
