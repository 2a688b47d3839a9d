"""The catalog: the kit's own database."""

from cbk.edges.catalog.catalog import Catalog
from cbk.edges.catalog.folders import FolderEntry, FolderListing, Place
from cbk.edges.catalog.intake import RefusedRow, RowChanges
from cbk.edges.catalog.leases import Leases
from cbk.edges.catalog.removals import NewDelete, Planned, Verdict
from cbk.edges.catalog.reports import BucketCounts, Counts, Unprotected
from cbk.edges.catalog.rows import PresentRow, Restated
from cbk.edges.catalog.verification import Scope, Standing
from cbk.edges.catalog.work_queue import LeaseRenewer, uptime

__all__ = [
    "BucketCounts",
    "Catalog",
    "Counts",
    "FolderEntry",
    "FolderListing",
    "LeaseRenewer",
    "Leases",
    "NewDelete",
    "Place",
    "Planned",
    "PresentRow",
    "RefusedRow",
    "Restated",
    "RowChanges",
    "Scope",
    "Standing",
    "Unprotected",
    "Verdict",
    "uptime",
]
