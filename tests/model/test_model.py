"""The model of the application, a few steps of it in every run, and thousands at night."""

import pytest

from tests.model.__main__ import on_server
from tests.model.machine import Histories, run
from tests.model.tables import MariaDB, PostgreSQL

# The same histories in every run, so that what fails is what was changed; `scripts/test-model` and the nights take new ones.
SEED = 1


def test_nothing_live_is_lost_and_green_has_every_copy():
    run(Histories, examples=8, steps=25, number=SEED)


@pytest.mark.nightly
def test_nothing_live_is_lost_in_thousands_of_histories():
    run(Histories, examples=1000, steps=50)


@pytest.mark.nightly
def test_nothing_live_is_lost_with_postgresql(postgres, pg_database):
    run(on_server(PostgreSQL, postgres.url(pg_database)), examples=100, steps=50)


@pytest.mark.nightly
def test_nothing_live_is_lost_with_mariadb(mariadb):
    run(on_server(MariaDB, mariadb.create_database("model")), examples=100, steps=50)
