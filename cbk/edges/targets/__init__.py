"""Where files are restored to: a folder, or object storage. One module per kind."""

from cbk.edges.targets.target import Target

__all__ = ["Target"]
