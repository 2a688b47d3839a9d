"""The machine that we run on: its mounts and its clock."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

# adjtimex(2): the return value when the clock is not synchronised, and the size of struct timex with room to spare.
_TIME_ERROR = 5
_TIMEX_BYTES = 512
# ioprio_set(2) has no function in the C library, and a number of its own on each kind of machine.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "armv7l": 314, "armv6l": 314, "i686": 289}
_IOPRIO_WHO_PROCESS = 1
_LOWEST_BEST_EFFORT = (2 << 13) | 7
# What keeps a clock, as /proc/<pid>/comm has it (15 characters): systemd-timesyncd, chrony, ntpd of any kind, ntpd-rs.
_CLOCK_KEEPERS = frozenset({"systemd-timesyn", "chronyd", "ntpd", "openntpd", "ntpsec", "ntp-daemon"})


def now() -> datetime:
    """The machine's clock, UTC."""
    return datetime.now(UTC)  # noqa: TID251 - an edge


def clock_is_synchronised() -> bool | None:
    """What the kernel says of its clock (adjtimex(2), which reads without privilege). None where it cannot be asked."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (AttributeError, OSError):
        return None
    return None if state < 0 else state != _TIME_ERROR


def clock_is_kept() -> bool:
    """Whether a service that this process can see keeps the clock. From within a container, the host's cannot be seen."""
    if Path("/run/systemd/timesync").exists():
        return True
    return any(_read(comm) in _CLOCK_KEEPERS for comm in Path("/proc").glob("[0-9]*/comm"))


def uptime() -> timedelta | None:
    """The time since this machine was booted, suspend included, whatever its clock was set to. None where it is not told."""
    text = _read(Path("/proc/uptime"))
    return timedelta(seconds=float(text.split()[0])) if text else None


def boot_id() -> str | None:
    """A name of its own for each boot of this machine. None where there is none."""
    return _read(Path("/proc/sys/kernel/random/boot_id")) or None


def shares_system_disk(root: Path) -> bool:
    """Whether the folder is on the filesystem of "/", or on another partition of the same disk: most likely the SD card."""
    here, system = root.stat().st_dev, Path("/").stat().st_dev
    return here == system or bool(_disks(here) & _disks(system))


def unmounted_place(root: Path, fstab: Path = Path("/etc/fstab")) -> Path | None:
    """The mount point at or above the folder that fstab(5) names, and where nothing is mounted now; None where there is none."""
    lines = [line.split() for line in _read(fstab).splitlines()]
    places = [Path(_unescaped(fields[1])) for fields in lines if len(fields) > 1 and not fields[0].startswith("#")]
    wanted = [place for place in places if place != Path("/") and place.is_absolute() and root.absolute().is_relative_to(place)]
    return next((place for place in wanted if not os.path.ismount(place)), None)


def is_disk_read_only(root: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether the filesystem that the folder is on takes nothing from anybody on this machine, as after an error of the disk.

    A mount that is read-only by itself, as `:ro` makes one for a container, says nothing of the others.
    Format: proc_pid_mountinfo(5).
    """
    place, options = Path(), ""
    for line in _read(mounts).splitlines():
        mount, _, filesystem = line.partition(" - ")
        point = Path(_unescaped(mount.split(" ")[4]))
        if root.absolute().is_relative_to(point) and len(point.parts) >= len(place.parts):  # the last one lies over the others
            place, options = point, filesystem.split(" ")[-1]
    return "ro" in options.split(",")


def _unescaped(name: str) -> str:
    """A name as fstab(5) and proc(5) write it, with blanks in octal."""
    return name.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def is_on_sd_card(root: Path) -> bool:
    """Whether the folder is on an SD card or built-in flash memory (mmcblk0, mmcblk1 ...)."""
    return any(disk.startswith("mmcblk") for disk in _disks(root.stat().st_dev))


def _disks(device: int) -> frozenset[str]:
    """The disks ("sda", "mmcblk0", "nvme0n1") that a filesystem's device number leads to, through partitions, encryption and RAID.

    None for what has no disk of this machine below it, such as a network share. Format: Documentation/ABI/testing/sysfs-dev.
    """
    return _disks_below(Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))


def _disks_below(entry: Path) -> frozenset[str]:
    if not entry.exists():
        return frozenset()
    place = entry.resolve()
    if (place / "partition").exists():
        return frozenset({place.parent.name})
    below = [_disks_below(slave) for slave in (place / "slaves").glob("*")]
    return frozenset().union(*below) if below else frozenset({place.name})


def usage(folder: Path) -> tuple[int, int]:
    """The free bytes of the filesystem that a folder is on, for whoever is not root, and all of them. Raises OSError."""
    room = shutil.disk_usage(folder)
    return room.free, room.total


def files_left(folder: Path) -> int | None:
    """How many more files the filesystem can hold (inodes) for whoever is not root; None if there is no limit. Raises OSError."""
    room = os.statvfs(folder)
    return room.f_favail if room.f_files else None


def is_writable(root: Path) -> bool:
    """Whether this user may write there, as far as permissions and the mount tell."""
    return os.access(root, os.W_OK | os.X_OK)


def _read(path: Path) -> str:
    """The text of a small file of the kernel's, without the line's end; empty where it cannot be read or has just gone."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def read_gently() -> None:
    """Let everything else on the machine read and write before this thread, where the disk's scheduler knows priorities.

    Best effort, not idle: beside an endless backlog an idle reader would never come to its end. The processor's priority stays: a
    thread that is taken from its core while it holds the interpreter's lock would stop every other thread of its process.
    """
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None, use_errno=True).syscall(number, _IOPRIO_WHO_PROCESS, 0, _LOWEST_BEST_EFFORT)


def name_files_in_utf8() -> None:
    """Have file names be UTF-8 whatever the locale says: where they are not, this process begins again in Python's UTF-8 mode.

    To be called before anything else is done: it does not return then. What is printed stays in the locale's encoding.
    """
    if sys.getfilesystemencoding() == "utf-8":
        return
    environment = {"PYTHONIOENCODING": sys.stdout.encoding} | os.environ  # noqa: TID251 - handed on
    arguments = [os.fsencode(sys.executable), b"-X", b"utf8", *map(_argument, sys.orig_argv[1:])]
    os.execve(sys.executable, arguments, environment)  # noqa: S606 - itself


def _argument(text: str) -> bytes:
    """As bytes: a key is text, but a folder is there under the bytes that were typed."""
    return os.fsencode(text) if os.path.lexists(text) else text.encode("utf-8", "surrogateescape")
