"""Where files are restored to: a folder, a stream, or object storage. One module per kind."""

from __future__ import annotations

from pathlib import Path

from cbk.edges.destinations.destination import Destination
from cbk.edges.destinations.folder import FolderDestination
from cbk.edges.destinations.paths import WantedPaths
from cbk.edges.destinations.stream import StreamDestination
from cbk.errors import UsageError

__all__ = ["Destination", "FolderDestination", "StreamDestination", "WantedPaths", "open_destination"]


def open_destination(url: str, *, overwrite: bool = False) -> Destination:
    """The target that `url` names: the path of a folder, `s3://bucket/prefix`, or `azure://account/container/prefix`.

    What is there is replaced only with `overwrite`. Nothing is connected or made yet. Raises UsageError where there is no such kind
    of target, or it is not installed.
    """
    scheme, is_url, _ = url.partition("://")
    if not url:
        raise UsageError("the target has no name", hint="such as --to /mnt/new")
    if not is_url:
        return FolderDestination(Path(url), overwrite=overwrite)
    if scheme in {"s3", "azure"}:
        return _object_storage(scheme, url, overwrite=overwrite)
    raise UsageError(f"nothing can be restored to {scheme}://", hint="name a folder, or object storage: s3:// or azure://")


def _object_storage(scheme: str, url: str, *, overwrite: bool) -> Destination:
    try:
        if scheme == "s3":
            from cbk.edges.destinations.s3 import S3Destination  # noqa: PLC0415 - an extra, and slow to import

            return S3Destination(url, overwrite=overwrite)
        from cbk.edges.destinations.azure import AzureDestination  # noqa: PLC0415 - as above

        return AzureDestination(url, overwrite=overwrite)
    except ModuleNotFoundError as exc:
        hint = f"pip install 'cloud-backup-kit[{scheme}]'"
        raise UsageError(f"restoring to {scheme}:// needs a package that is not installed: {exc.name}", hint=hint) from exc
