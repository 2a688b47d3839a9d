"""Places beyond this machine that rclone reaches."""

from cbk.edges.mirror.rclone import Rclone, RemoteFile, Transferred

__all__ = ["Rclone", "RemoteFile", "Transferred"]
