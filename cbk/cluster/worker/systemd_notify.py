"""Telling the service manager how this process is: sd_notify(3), a few lines of text to a Unix datagram socket.

A container has no such manager: there the file that CBK_ALIVE_FILE names is touched now and then, and its age is the answer to a
health check that costs nothing.

A worker is ready when it consumes, and alive while its consumer's own loop turns, or while it tries to reach Redis again. A beat is
ready once it began, and alive while it looks at its schedule. Without a service manager that listens, all of this does nothing.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from celery import signals

from cbk.cluster.worker import watchdog

# A look every third of the time after which systemd takes a process for dead: two may come late.
LOOKS_PER_WATCHDOG = 3
# Redis is tried again every 35 seconds at the most: 30 of pause, 5 until a connection is given up.
PATIENCE = timedelta(minutes=2)
TOUCH_EVERY = timedelta(seconds=10)


def tell(*lines: str) -> None:
    """Send `lines` ("READY=1", "WATCHDOG=1", "STATUS=...") to the manager that started this process, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET")  # noqa: TID251 - the manager's way to say where it listens
    if not address:
        return
    if address.startswith("@"):  # an abstract name, unix(7)
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        try:
            manager.sendto("\n".join(lines).encode(), address)
        except OSError:  # whoever does not listen gets nothing: no reason to stop working
            return


def alive_file() -> Path | None:
    """The file that is as old as this process has been silent. None where nobody looks at one."""
    name = os.environ.get("CBK_ALIVE_FILE")  # noqa: TID251 - of this process, as the manager's variables are
    return Path(name) if name else None


def touch_alive_file() -> None:
    """Show that this process is in order, where somebody looks."""
    file = alive_file()
    if file is not None:
        with suppress(OSError):  # whoever looks sees that it grows old
            file.touch()


def watchdog_interval() -> timedelta | None:
    """How often the manager wants to hear from this process. None where it does not ask (sd_watchdog_enabled(3))."""
    asked = os.environ.get("WATCHDOG_USEC", "")  # noqa: TID251 - as above
    of_whom = os.environ.get("WATCHDOG_PID", str(os.getpid()))  # noqa: TID251 - as above
    if not asked.isdecimal() or int(asked) == 0 or of_whom != str(os.getpid()):
        return None
    return timedelta(microseconds=int(asked)) / LOOKS_PER_WATCHDOG


def tell_waiting(reason: str) -> None:
    """Redis is away: this process is in order, has nothing to do, and is neither to be killed for it nor for starting slowly."""
    tell(f"STATUS=waits for Redis: {reason}", "WATCHDOG=1", f"EXTEND_TIMEOUT_USEC={PATIENCE // timedelta(microseconds=1)}")
    touch_alive_file()


@signals.worker_ready.connect
def _consumes(sender: Any, **_ignored: object) -> None:
    tell("READY=1", "STATUS=consumes")
    interval = watchdog_interval()
    if interval is not None:
        # The timer is turned by the loop that takes messages from Redis: where that hangs, nothing is told any more.
        sender.timer.call_repeatedly(interval.total_seconds(), _tell_alive, ())
    if alive_file() is not None:
        touch_alive_file()
        sender.timer.call_repeatedly(TOUCH_EVERY.total_seconds(), _show_alive, ())


def _tell_alive() -> None:
    """Nothing is told by a loop that turns and takes nothing, either."""
    if watchdog.is_consuming():
        tell("WATCHDOG=1", "STATUS=consumes")


def _show_alive() -> None:
    if watchdog.is_consuming():
        touch_alive_file()


@signals.beat_init.connect
def _begins(**_ignored: object) -> None:
    tell("READY=1")
    touch_alive_file()


@signals.worker_shutting_down.connect
def _ends(**_ignored: object) -> None:
    tell("STOPPING=1", "STATUS=ends what is under way")
