"""Programs that dump and restore: each is watched until it has ended, and what it exits with counts.

No shell is between: a pipe would end well although its first part has failed. While a program is silent, `tick` is called, so that
a lease is kept; what `tick` raises ends the program. What is started ends with the block.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import TypeVar

from cbk.errors import DumpBroken, DumpError, ToolMissing

Tick = Callable[[], None]
Explain = Callable[[str], DumpError | None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What is meant where a program says one of these texts, in whatever case."""

    texts: tuple[str, ...]
    error: type[DumpError]
    sentence: str
    hint: str | None = None


def find_meaning(said: str, meanings: Iterable[Meaning], last: str) -> DumpError | None:
    """The error that the first meaning which fits gives, with `last`, the line that says it best; None where none fits."""
    lower = said.lower()
    for meaning in meanings:
        if any(text in lower for text in meaning.texts):
            return meaning.error(f"{meaning.sentence}: {last}" if last else meaning.sentence, hint=meaning.hint)
    return None


CHUNK_BYTES = 256 * 1024
PIPE_BYTES = 1024 * 1024
TICK_SECONDS = 1.0
_SAID_BYTES = 8192
_END_SECONDS = 5.0
_OWN_PREFIX = "CBK_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run. `name` is what a person calls it; `explain` makes an error of what it said, where it knows what that means."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    explain: Explain = lambda _said: None
    # User and group to run as, where root gives itself up for it.
    account: tuple[int, int] | None = None


def environment_for(program: Program) -> dict[str, str]:
    """The environment of this process without the kit's own settings, which hold passwords; messages are in English."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_PREFIX)}  # noqa: TID251 - for another program
    return ours | {"LC_ALL": "C.UTF-8"} | dict(program.environment)


@contextmanager
def running(program: Program, *, stdin: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[bytes]]:
    """The started program, in a group of its own, which has ended when the block has. Raises ToolMissing."""
    user, group = program.account or (None, None)
    try:
        process = subprocess.Popen(  # noqa: S603 - arguments are a list, and no shell reads them
            list(program.arguments),
            env=environment_for(program),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=[] if program.account else None,
            cwd="/",
        )
    except FileNotFoundError:
        raise ToolMissing(
            f"{program.name} is not on this machine", hint=f"install it: {program.arguments[0]} was not found"
        ) from None
    except OSError as error:
        raise ToolMissing(f"{program.name} cannot be run: {os.strerror(error.errno or 0).lower()}") from error
    try:
        yield process
    finally:
        _end(process)


def stream(program: Program, *, tick: Tick, silence_seconds: float, timeout_seconds: float) -> Iterator[bytes]:
    """What the program writes, in chunks. They count only once the iteration has ended without an error.

    Raises DumpBroken if it exits with anything but 0, is silent or takes too long, or what it `explain`s; ToolMissing.
    """
    deadline = monotonic() + timeout_seconds
    with running(program) as process:
        said = _Said(process)
        assert process.stdout is not None
        yield from _read(process.stdout.fileno(), program, tick, silence_seconds, deadline)
        _wait(process, program, tick, min(deadline, monotonic() + silence_seconds))
        raise_for_exit(program, process.returncode, said.text())


def feed(program: Program, chunks: Iterable[bytes], *, tick: Tick, timeout_seconds: float) -> str:
    """Have the program read these chunks to their end; gives the end of what it said. Raises as `stream`."""
    deadline = monotonic() + timeout_seconds
    with running(program, stdin=subprocess.PIPE) as process:
        said, _ = _Said(process), _Drain(process.stdout)
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # why it ended is what it exits with
            _write(process, chunks, program, tick, deadline)
        with suppress(BrokenPipeError):
            process.stdin.close()
        _wait(process, program, tick, deadline)
        raise_for_exit(program, process.returncode, said.text())
        return said.text()


def run(program: Program, *, tick: Tick = lambda: None, timeout_seconds: float = 600.0) -> str:
    """What the program writes, as text. Raises as `stream`."""
    return b"".join(stream(program, tick=tick, silence_seconds=timeout_seconds, timeout_seconds=timeout_seconds)).decode(
        errors="replace"
    )


def beside(work: Callable[[], T], tick: Tick, *, cancel: Callable[[], None] = lambda: None) -> T:
    """What `work` gives, done in a thread of its own while `tick` is called; what that raises has it cancelled."""
    outcome: list[T] = []
    errors: list[BaseException] = []

    def keep() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised below
            errors.append(error)

    thread = threading.Thread(target=keep, name="cbk-dump", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(TICK_SECONDS)
            tick()
    except BaseException:
        cancel()
        thread.join(_END_SECONDS)
        raise
    if errors:
        raise errors[0]
    return outcome[0]


def raise_for_exit(program: Program, code: int, said: str) -> None:
    """Raise what a program's exit code means, with the last thing that it said; 0 means that all went well."""
    if code == 0:
        return
    explained = program.explain(said)
    if explained is not None:
        raise explained
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
    last = last_line(said)
    raise DumpBroken(f"{program.name} {how}" + (f": {last}" if last else ""))


def last_line(said: str) -> str:
    """The last line that says something, for a message: printable, and not too long."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return "".join(sign if sign.isprintable() else " " for sign in lines[-1])[:300] if lines else ""


def _read(source: int, program: Program, tick: Tick, silence_seconds: float, deadline: float) -> Iterator[bytes]:
    with suppress(OSError):  # fewer and larger reads; a user's pipes may have no more room together
        fcntl.fcntl(source, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    poll = select.poll()
    poll.register(source, select.POLLIN)
    heard_at = monotonic()
    while True:
        if poll.poll(TICK_SECONDS * 1000):
            chunk = os.read(source, CHUNK_BYTES)
            if not chunk:
                return
            yield chunk
            heard_at = monotonic()
        elif monotonic() - heard_at > silence_seconds:
            raise DumpBroken(f"{program.name} sent nothing for {silence_seconds:.0f} s")
        _require_time(program, deadline)
        tick()


def _write(process: subprocess.Popen[bytes], chunks: Iterable[bytes], program: Program, tick: Tick, deadline: float) -> None:
    assert process.stdin is not None
    target = process.stdin.fileno()
    os.set_blocking(target, False)
    poll = select.poll()
    poll.register(target, select.POLLOUT)
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            if poll.poll(TICK_SECONDS * 1000):
                with suppress(BlockingIOError):
                    view = view[os.write(target, view) :]
            _require_time(program, deadline)
            tick()


def _wait(process: subprocess.Popen[bytes], program: Program, tick: Tick, deadline: float) -> None:
    while True:
        try:
            process.wait(TICK_SECONDS)
        except subprocess.TimeoutExpired:
            _require_time(program, deadline)
            tick()
        else:
            return


def _require_time(program: Program, deadline: float) -> None:
    if monotonic() > deadline:
        raise DumpBroken(f"{program.name} took longer than it may", hint="raise the dump's timeout, if the database is that large")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the whole group, politely first; what has ended already stays so."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, how)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
            if how == signal.SIGKILL:
                break
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


class _Drain:
    """Reads a pipe in a thread beside, so that nobody waits for room in it, and remembers the end of what came."""

    def __init__(self, pipe: object) -> None:
        self._end = bytearray()
        self._thread = threading.Thread(target=self._run, args=(pipe,), name="cbk-dump-said", daemon=True)
        self._thread.start()

    def text(self) -> str:
        """The end of what was said, once the program has ended; what a child of it that lives on may say is not waited for."""
        self._thread.join(_END_SECONDS)
        return bytes(self._end).decode(errors="replace")

    def _run(self, pipe: object) -> None:
        with suppress(OSError, ValueError):
            while data := os.read(pipe.fileno(), 4096):  # type: ignore[attr-defined]
                self._end += data
                del self._end[:-_SAID_BYTES]


class _Said(_Drain):
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(process.stderr)
