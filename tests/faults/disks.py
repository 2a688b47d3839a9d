"""Disks whose plug can be pulled: a file system in an image file, mounted through a loop device.

The plug is the file system's own shutdown call. Without a flush of its log it forgets what was not synced, as a power cut does;
what it had handed to the device stays. The device itself is honest here: what it was told to flush is there afterwards.
"""

import ctypes
import fcntl
import functools
import os
import shutil
import struct
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

# EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are the same number, and so are their flags (xfs_fs.h, ext4.h).
_GOING_DOWN = 0x8004587D
_WITHOUT_LOG_FLUSH = 2

KINDS = ("ext4", "xfs")
_MEGABYTES = {"ext4": 256, "xfs": 320}
_BUSY_SECONDS = 20
BALLAST = "ballast"

_CLONE_NEWNS = 0x00020000  # <linux/sched.h>
_MS_REC_SLAVE = 0x4000 | (1 << 19)  # <linux/mount.h>


class LoopDisk:
    """A file system of `kind`, mounted at `mount_point`; the image is a file of that name beside it.

    Every power cycle takes the loop device away and makes a new one, so that no cache of it lives on.
    """

    def __init__(self, kind, mount_point, *, megabytes=None):
        self.kind = kind
        self.mount_point = Path(mount_point)
        self._image = self.mount_point.with_suffix(f".{kind}")
        with self._image.open("wb") as image:
            image.truncate((megabytes or _MEGABYTES[kind]) << 20)
        _run(f"mkfs.{kind}", "-q", self._image)
        self.mount_point.mkdir(parents=True, exist_ok=True)
        self.mount()

    def mount(self, options="rw"):
        _run("mount", "-o", f"loop,{options}", self._image, self.mount_point)

    def remount(self, options):
        _run("mount", "-o", f"remount,{options}", self.mount_point)

    def unmount(self):
        """Waits until the last process that had something open there is gone; the loop device goes along."""
        until = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                return _run("umount", self.mount_point)
            except AssertionError as error:
                if "busy" not in str(error) or time.monotonic() > until:
                    raise
            time.sleep(0.01)

    def pull_plug(self):
        pull_plug(self.mount_point)

    def power_up(self):
        """After the plug was pulled, and whoever worked there was killed: mount it again, which replays the journal."""
        self.unmount()
        self.mount()

    def close(self):
        with suppress(AssertionError):
            _run("umount", "--lazy", self.mount_point)
        self._image.unlink(missing_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class MemoryDisk:
    """A tmpfs: a small disk that is really full when it is."""

    def __init__(self, mount_point, *, megabytes):
        self.mount_point = Path(mount_point)
        self.mount_point.mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", self.mount_point)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with suppress(AssertionError):
            _run("umount", "--lazy", self.mount_point)


def fill(root, *, leave):
    """Somebody else takes the room on a disk, all but about so many bytes; gives the file that does."""
    room = os.statvfs(root)
    ballast = Path(root) / BALLAST
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(room.f_bavail * room.f_frsize - leave, 1))
    return ballast


def pull_plug(mount_point):
    """From now on the file system answers EIO, and what was not synced is gone."""
    descriptor = os.open(mount_point, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, _GOING_DOWN, struct.pack("I", _WITHOUT_LOG_FLUSH))
    finally:
        os.close(descriptor)


@functools.cache
def why_not(kind):
    """Why this machine cannot have a disk of that kind ("tmpfs", or one whose plug can be pulled); empty where it can."""
    if os.geteuid() != 0:
        return "only root may mount"
    if kind in KINDS and shutil.which(f"mkfs.{kind}") is None:
        return f"there is no mkfs.{kind} (Debian: apt-get install {'xfsprogs' if kind == 'xfs' else 'e2fsprogs'})"
    folder = Path(tempfile.mkdtemp(prefix="cbk-probe-"))
    try:
        _keep_mounts_private()
        if kind not in KINDS:
            with MemoryDisk(folder / "disk", megabytes=1):
                return ""
        with LoopDisk(kind, folder / "disk") as disk:
            (disk.mount_point / "lost").write_text("not synced")
            disk.pull_plug()
            disk.power_up()
            return f"the shutdown of {kind} forgets nothing on this kernel" if (disk.mount_point / "lost").exists() else ""
    except (AssertionError, OSError) as error:
        return f"it cannot be mounted, or not be shut down: {error}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _keep_mounts_private():
    """What this thread and its children mount is seen by nobody else from now on, and ends with the last of them."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0 or libc.mount(b"none", b"/", None, _MS_REC_SLAVE, None) != 0:
        raise OSError(ctypes.get_errno(), "mounts cannot be kept private")


def _run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stderr.strip()}"
