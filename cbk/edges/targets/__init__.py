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
    """The target that `url` names: the path of a folder, or `scheme://...`. What is there is replaced only with `overwrite`.

    Nothing is connected or made yet. Raises UsageError where there is no such kind of target.
    """
    scheme, is_url, _ = url.partition("://")
    if not is_url:
        return FolderTarget(Path(url), overwrite=overwrite)
    raise UsageError(f"nothing can be restored to {scheme}://", hint="name a folder")
