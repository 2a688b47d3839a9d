"""PostgreSQL behind a line that stalls, is cut, or is slow: nobody waits for ever, and nobody is needed afterwards."""

import pytest
import sqlalchemy as sa

from cbk.edges.catalog import Catalog
from cbk.edges.source import Source
from cbk.errors import CatalogUnavailable, SourceUnavailable
from tests.faults.proxy import Proxy
from tests.in_process_site import InProcessSite
from tests.origin import Origin


@pytest.fixture
def proxy(postgres):
    with Proxy(postgres.start().port) as proxy:
        yield proxy


@pytest.fixture
def behind(postgres, pg_database, proxy):
    """The database's URL by way of the proxy."""
    return postgres.url(pg_database).replace(str(postgres.port), str(proxy.port))


@pytest.fixture
def ask_source(behind, postgres, pg_database):
    """A function that asks the application's database something."""
    from cbk_app.schema import FILES  # noqa: PLC0415 - only here

    engine = sa.create_engine(postgres.url(pg_database))
    FILES.metadata.create_all(engine)
    engine.dispose()
    source = Source(behind, statement_timeout_seconds=0.3, connect_timeout_seconds=0.2)
    yield lambda: source.row("1")
    source.close()


@pytest.fixture
def ask_catalog(behind, postgres, pg_database):
    """A function that asks the catalog something."""
    made = Catalog(postgres.url(pg_database), holder="setup")
    made.upgrade()
    made.close()
    catalog = Catalog(behind, holder="test", timeout_seconds=0.02)
    yield catalog.work.in_flight
    catalog.close()


@pytest.fixture(params=["source", "catalog"])
def ask(request):
    """Each of the two, and what it raises where it cannot be reached."""
    asked = request.getfixturevalue(f"ask_{request.param}")
    assert not asked()
    return asked, SourceUnavailable if request.param == "source" else CatalogUnavailable


def test_line_that_stalls_ends_the_question_and_the_next_one_after_it_is_answered(ask, proxy):
    asked, error = ask
    proxy.stall()
    with pytest.raises(error):
        asked()
    proxy.go_on()
    assert not asked()


def test_connections_that_were_lost_in_silence_are_made_anew(ask, proxy):
    asked, _ = ask
    proxy.lose()
    assert not asked()


def test_line_that_is_cut_ends_the_question_and_the_next_one_after_it_is_answered(ask, proxy):
    asked, error = ask
    proxy.cut()
    with pytest.raises(error):
        asked()
    proxy.mend()
    assert not asked()


def test_slow_line_is_waited_for(ask, proxy):
    asked, _ = ask
    proxy.slow(0.02, bytes_per_second=100_000)
    assert not asked()


def test_session_that_the_server_ends_is_made_anew(ask, postgres, pg_database):
    asked, _ = ask
    postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{pg_database}'")
    assert not asked()


@pytest.fixture
def site(tmp_path, postgres, pg_database, behind):
    with Origin() as origin:
        site = InProcessSite(tmp_path, origin, catalog_url=postgres.url(pg_database))
        site.reopen(catalog_url=behind)
        yield site
        site.close()


def test_standby_that_answers_in_the_catalogs_place_is_told_and_nothing_is_lost(site, postgres, pg_database):
    row = site.upload("a.txt", b"a")
    postgres.execute(f'ALTER DATABASE "{pg_database}" SET default_transaction_read_only = on')
    postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{pg_database}'")
    with pytest.raises(CatalogUnavailable):
        site.poll()
    with pytest.raises(CatalogUnavailable):
        site.back_up(row)
    assert site.copies() == set()
    postgres.execute(f'ALTER DATABASE "{pg_database}" SET default_transaction_read_only = off')
    postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{pg_database}'")
    site.work()
    assert site.states() == {("a.txt", 1): "stored"}
