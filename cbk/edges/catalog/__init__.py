"""The catalog: the kit's own database."""

from cbk.edges.catalog.catalog import Catalog
from cbk.edges.catalog.folders import Entry, Listing, Place
from cbk.edges.catalog.leases import Leases
from cbk.edges.catalog.removals import BRAKE_HELD, NewDelete, Planned, Verdict
from cbk.edges.catalog.report import BucketCounts, Counts, Unprotected
from cbk.edges.catalog.verification import Scope, Standing
from cbk.edges.catalog.work import Keeper, uptime

__all__ = [
    "BRAKE_HELD",
    "BucketCounts",
    "Catalog",
    "Counts",
    "Entry",
    "Keeper",
    "Leases",
    "Listing",
    "NewDelete",
    "Place",
    "Planned",
    "Scope",
    "Standing",
    "Unprotected",
    "Verdict",
    "uptime",
]
