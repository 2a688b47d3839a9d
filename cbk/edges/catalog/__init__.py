"""The catalog: the kit's own database."""

from cbk.edges.catalog.catalog import Catalog
from cbk.edges.catalog.leases import Leases
from cbk.edges.catalog.removals import NewDelete, Planned, Verdict
from cbk.edges.catalog.report import Counts, Unprotected
from cbk.edges.catalog.work import Keeper

__all__ = ["Catalog", "Counts", "Keeper", "Leases", "NewDelete", "Planned", "Unprotected", "Verdict"]
