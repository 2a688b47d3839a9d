"""A catalog holds any file's name, or says why it cannot, whatever its PostgreSQL database was made with."""

import uuid
from contextlib import contextmanager

import pytest

from cbk.edges.catalog import Catalog
from cbk.errors import CatalogUnavailable


@contextmanager
def catalog_in(postgres, encoding):
    name = f"catalog_{uuid.uuid4().hex}"
    postgres.start().execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C'")
    catalog = Catalog(postgres.url(name), holder="one")
    catalog.upgrade()
    yield catalog
    catalog.close()
    postgres.start().execute(f"DROP DATABASE {name} WITH (FORCE)")


def hold(catalog, key):
    catalog.holds.add(key, is_prefix=True, storage=None, until=None, reason="")
    return [hold.key for hold in catalog.holds.all()]


@pytest.mark.parametrize("encoding", ["UTF8", "SQL_ASCII"])
def test_catalog_gives_back_the_name_that_it_was_given(postgres, encoding):
    with catalog_in(postgres, encoding) as catalog:
        catalog.require_current()

        assert hold(catalog, "cars/ü€/") == ["cars/ü€/"]


def test_catalog_that_cannot_hold_a_name_says_so(postgres):
    with catalog_in(postgres, "LATIN1") as catalog:
        with pytest.raises(CatalogUnavailable, match="the catalog's database cannot hold a name") as refused:
            hold(catalog, "cars/ü€/")

        assert "ENCODING 'UTF8'" in refused.value.hint
        assert hold(catalog, "cars/ü/") == ["cars/ü/"]
