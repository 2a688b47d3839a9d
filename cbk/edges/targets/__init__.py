"""Where files are restored to: a folder, a stream, or object storage. One module per kind."""

from __future__ import annotations

from pathlib import Path

from cbk.edges.targets.folder import FolderTarget
from cbk.edges.targets.paths import WantedPaths
from cbk.edges.targets.stream import StreamTarget
from cbk.edges.targets.target import Target
from cbk.errors import UsageError

__all__ = ["FolderTarget", "StreamTarget", "Target", "WantedPaths", "open_target"]


def open_target(url: str, *, overwrite: bool = False) -> Target:
    """The target that `url` names: the path of a folder, `s3://bucket/prefix`, or `azure://account/container/prefix`.

    What is there is replaced only with `overwrite`. Nothing is connected or made yet. Raises UsageError where there is no such kind
    of target, or it is not installed.
    """
    scheme, is_url, _ = url.partition("://")
    if not url:
        raise UsageError("the target has no name", hint="such as --to /mnt/new")
    if not is_url:
        return FolderTarget(Path(url), overwrite=overwrite)
    if scheme in {"s3", "azure"}:
        return _object_storage(scheme, url, overwrite=overwrite)
    raise UsageError(f"nothing can be restored to {scheme}://", hint="name a folder, or object storage: s3:// or azure://")


def _object_storage(scheme: str, url: str, *, overwrite: bool) -> Target:
    try:
        if scheme == "s3":
            from cbk.edges.targets.s3 import S3Target  # noqa: PLC0415 - an extra, and slow to import

            return S3Target(url, overwrite=overwrite)
        from cbk.edges.targets.azure import AzureTarget  # noqa: PLC0415 - as above

        return AzureTarget(url, overwrite=overwrite)
    except ModuleNotFoundError as exc:
        hint = f"pip install 'cloud-backup-kit[{scheme}]'"
        raise UsageError(f"restoring to {scheme}:// needs a package that is not installed: {exc.name}", hint=hint) from exc
