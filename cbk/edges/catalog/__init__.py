"""The catalog: the kit's own database."""

from cbk.edges.catalog.backup.work_queue import LeaseRenewer, uptime
from cbk.edges.catalog.catalog import Catalog
from cbk.edges.catalog.database.leases import Leases
from cbk.edges.catalog.intake.intake import RefusedRow, RowChanges
from cbk.edges.catalog.intake.rows import PresentRow, Restated
from cbk.edges.catalog.retention.removals import NewDelete, Planned, Verdict
from cbk.edges.catalog.status.folders import FolderEntry, FolderListing, Place
from cbk.edges.catalog.status.reports import BucketCounts, Counts, Unprotected
from cbk.edges.catalog.verification import Scope, Standing

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
