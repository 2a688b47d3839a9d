"""Fixtures for stories of one application and one kit, each told to every kind of database and of Ids."""

import uuid

import pytest

from tests.model.story import Story
from tests.model.tables import MariaDB, PostgreSQL, Shape, SQLite, UntypedSQLite
from tests.model.world import fake_time

NO_DATES = {"created_at": False, "deleted_at": False}
at_night = pytest.mark.nightly
KINDS = [
    "sqlite-reused",
    "postgresql-numbers",
    *(pytest.param(kind, marks=at_night) for kind in ("sqlite-uuid", "postgresql-uuid", "mariadb-numbers")),
]
NUMBERS = [
    "sqlite-reused",
    *(pytest.param(kind, marks=at_night) for kind in ("sqlite-numbers", "postgresql-numbers", "mariadb-numbers")),
]
DATES = [NO_DATES, pytest.param({}, marks=at_night)]


@pytest.fixture(scope="module")
def time_stands_still():
    with fake_time() as folder:
        yield folder


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def my_database(mariadb):
    """The URL of a fresh, empty database."""
    name = f"test_{uuid.uuid4().hex}"
    yield mariadb.create_database(name)
    mariadb.execute(f"DROP DATABASE `{name}`")


@pytest.fixture
def make_database(request, tmp_path):
    """A function that makes the application's database of a kind; columns that are not named are there."""

    def make(kind, **columns):
        name, ids = kind.split("-")
        shape = Shape(ids=ids, **columns)
        if name == "sqlite":
            database = SQLite(shape, tmp_path / "app.db")
        elif name == "untyped":
            database = UntypedSQLite(shape, tmp_path / "app.db")
        elif name == "mariadb":
            database = MariaDB(shape, request.getfixturevalue("my_database"))
        else:
            database = PostgreSQL(shape, request.getfixturevalue("postgres").url(request.getfixturevalue("pg_database")))
        database.create()
        return database

    return make


@pytest.fixture
def tell(kind, make_database, tmp_path, time_stands_still):
    """A function that begins a story; `columns` says which optional columns there are not, what else there is are settings."""
    stories = []

    def begin(*, columns=None, **settings):
        stories.append(Story(make_database(kind, **columns or {}), tmp_path, **settings))
        return stories[-1]

    yield begin
    for story in stories:
        story.close()


@pytest.fixture
def story(tell):
    return tell()
