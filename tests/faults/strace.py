"""Faults at single system calls of a process that runs already, with strace(1): an error instead of the call, or a kill at it."""

import functools
import re
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local_servers import wait_until

# What a job asks of a disk. Not every machine has all of them: strace passes over what it does not know behind a question mark.
CALLS = (
    "openat", "mkdirat", "mkdir", "write", "pwrite64", "read", "pread64", "lseek", "ftruncate", "fsync", "fdatasync", "renameat2",
    "renameat", "rename", "linkat", "link", "unlinkat", "unlink", "rmdir", "close", "newfstatat", "fstat", "statfs", "getdents64",
    "flock", "fcntl", "mmap", "sync_file_range", "syncfs",
)  # fmt: skip

# Those after which the disk is another one than before.
CHANGES = frozenset(
    {
        "openat", "mkdirat", "mkdir", "write", "pwrite64", "ftruncate", "fsync", "fdatasync", "renameat2", "renameat", "rename",
        "linkat", "link", "unlinkat", "unlink", "rmdir", "syncfs",
    }
)  # fmt: skip

KILL = "KILL"
CUT = "CUT"

_NAME = re.compile(r"^(\w+)\(")


@dataclass(frozen=True)
class Call:
    """The nth call of its name in its thread since the tracing began, and its line in strace's words."""

    name: str
    nth: int
    line: str


@dataclass(frozen=True)
class Fault:
    """What happens at the nth call of a name: an errno's name, KILL, or CUT, which is a kill before the plug is pulled."""

    name: str
    nth: int
    what: str

    @property
    def is_kill(self):
        return self.what in {KILL, CUT}

    def __str__(self):
        return f"{self.what} at {self.name} {self.nth}"

    @property
    def injection(self):
        return f"{self.name}:{'signal=KILL' if self.is_kill else f'error={self.what}'}:when={self.nth}"


@contextmanager
def traced(pid, logs, *, calls=CALLS, injections=()):
    """Trace a process until it ends: the calls of each thread go to a file in `logs`, with the paths of descriptors."""
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir()
    traced_calls = ",".join(f"?{name}" for name in calls)
    command = ["strace", "-qq", "-ff", "-p", str(pid), "-y", "-s", "0", "-o", f"{logs}/thread", "-e", f"trace={traced_calls}"]
    for injection in injections:
        command += ["-e", f"inject={injection}"]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: _is_traced(pid) or tracer.poll() is not None, 20, "strace to attach", every_seconds=0.002)
        yield tracer
        tracer.wait(20)
    finally:
        tracer.kill()
        said = tracer.communicate()[1]
    assert not said, f"strace: {said}"


def _is_traced(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^TracerPid:\s+(\d+)", status, re.MULTILINE)[1]) != 0


def calls_on(logs, root):
    """The calls in the logs that are about something below `root`, in their order within each thread."""
    found = []
    for log in sorted(logs.iterdir()):
        counts = Counter()
        for line in log.read_text(errors="replace").splitlines():
            if match := _NAME.match(line):
                counts[match[1]] += 1
                if f"{root}/" in line or f"{root}>" in line or f'{root}"' in line:
                    found.append(Call(match[1], counts[match[1]], line))
    return found


def was_injected(fault, logs, root):
    """Whether the fault hit a call on something below `root`."""
    hit = [call for call in calls_on(logs, root) if (call.name, call.nth) == (fault.name, fault.nth)]
    return any(fault.is_kill or call.line.endswith("(INJECTED)") for call in hit)


@functools.cache
def why_not():
    """Why this machine can inject nothing; empty where it can."""
    if shutil.which("strace") is None:
        return "there is no strace (Debian: apt-get install strace)"
    program = "import os, sys; sys.stdin.read(1); os.stat('/nowhere')"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        command = ["strace", "-qq", "-p", str(process.pid), "-o", "/dev/null", "-e", "inject=read:error=EXDEV:when=65535"]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            wait_until(lambda: _is_traced(process.pid) or tracer.poll() is not None, 20, "strace to attach", every_seconds=0.01)
            return tracer.stderr.read().strip() if tracer.poll() is not None else ""
        finally:
            tracer.kill()
            tracer.communicate()
            process.kill()
