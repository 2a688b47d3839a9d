"""Makes the virtual environment ready; see scripts/bootstrap, which finds the Python that runs this.

Standard library only, and not even all of that: Debian's python3 has no ensurepip, so pip comes from scripts/vendor
(docs/decisions/001-vendored-pip.md). What is installed is what constraints/*.txt pins, by hash and as wheels: nothing is compiled.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STATE_NAME = "cbk-bootstrap.json"
# Each set holds the ones before it, in the same versions (scripts/lock sees to that).
SETS = ("runtime", "demo", "dev")
# Each of these holds all of those, and not one another.
BEYOND = ("page-tests", "fuzz", "mutants")
# Where packages come from is the user's business; every other PIP_* would change what is done with them.
KEPT_PIP_SETTINGS = re.compile(
    "PIP_(CONFIG_FILE|(EXTRA_)?INDEX_URL|FIND_LINKS|NO_INDEX|TRUSTED_HOST|(CLIENT_)?CERT|PROXY|KEYRING_PROVIDER"
    "|(DEFAULT_)?TIMEOUT|(RESUME_)?RETRIES|(NO_)?CACHE_DIR)"
)
OUR_PIP_SETTINGS = {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore", "PIP_USER": "0"}
MINIMUM_PYTHON = (3, 11)
NARROW = 2**32
WIDER = "install the 64-bit Raspberry Pi OS (any Pi from the 3 on runs it), or another 64-bit Debian"
LARGE_MB = 5
TAIL_LINES = 25


class BootstrapError(Exception):
    """What happened, and what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def main(arguments: list[str]) -> int:
    """`arguments` is one of SETS or BEYOND. Returns the exit code: 0 ready, 1 failed, 2 wrong usage."""
    if len(arguments) != 1 or arguments[0] not in SETS + BEYOND:
        print(f"usage: scripts/bootstrap {'|'.join(SETS + BEYOND)}", file=sys.stderr)
        return 2
    folder = (ROOT / (os.environ.get("CBK_VENV") or ".venv")).resolve()
    if sys.maxsize <= NARROW:  # not what uname says: a 64-bit kernel may run the programs of a 32-bit system
        print(f"this Python is a 32-bit one, and the kit needs 64 bits\nHINT: {WIDER}", file=sys.stderr)
        return 1
    try:
        with one_at_a_time():
            make_ready(folder, arguments[0])
    except BootstrapError as error:
        print(f"{error}\nHINT: {error.hint}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error}\nHINT: {folder} must be writable and have some 700 MB of room", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the next run starts afresh", file=sys.stderr)
        return 130
    print(folder / "bin")
    return 0


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two commands started together install once: the second waits, then finds everything done. The kernel frees the lock."""
    descriptor = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make_ready(folder: Path, wanted: str) -> None:
    """Bring `folder` to where it holds the set `wanted`; a run that was cut short is done again from an empty folder."""
    state = read_state(folder)
    version = python_version(folder)
    if state is not None and not is_sound(state, folder, version):
        discard(folder, state)
        state, version = None, None
    if version is None:
        make_environment(folder)
        state, version = read_state(folder), python_version(folder)
    refuse_unfit_python(folder, version)
    installed = (state or {}).get("installed") or {}
    if installed.get(wanted) == fingerprint(wanted, version):
        return
    note = {"folder": str(folder), "python": version, "made_here": bool(state and state.get("made_here"))}
    write_state(folder, note | {"installed": None})
    install(folder, wanted)
    held = SETS[: SETS.index(wanted) + 1] if wanted in SETS else (*SETS, wanted)
    write_state(folder, note | {"installed": installed | {name: fingerprint(name, version) for name in held}})


def is_sound(state: dict, folder: Path, version: str | None) -> bool:
    """Whether what a former run left can be built upon: it finished, in this very folder, and its Python still runs."""
    finished = state.get("installed") is not None
    return finished and state.get("folder") == str(folder) and version is not None and state.get("python") == version


def discard(folder: Path, state: dict) -> None:
    """Remove an environment that was left half-made, unless somebody else had made it."""
    if not state.get("made_here"):
        raise BootstrapError(
            f"{folder} was left half-installed, and was not made by this script", "remove it, or set CBK_VENV to another"
        )
    shutil.rmtree(folder)


def refuse_unfit_python(folder: Path, version: str | None) -> None:
    """An environment that somebody else made may be of any Python, and a disk may refuse to run one (noexec)."""
    if version is None:
        raise BootstrapError(f"the Python in {folder} does not run", "set CBK_VENV to a folder on a disk that runs programs")
    if tuple(map(int, version.split("."))) < MINIMUM_PYTHON:
        raise BootstrapError(f"{folder} has Python {version}, too old", "remove it, or set CBK_VENV to another")


def read_state(folder: Path) -> dict | None:
    """What a former run wrote down; None where this folder was not made by one, an unsound one where it was cut short."""
    try:
        state = json.loads((folder / STATE_NAME).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return state if isinstance(state, dict) else {}


def write_state(folder: Path, state: dict) -> None:
    """Write down what is there; `installed: None` says that a run is under way, and stays so where it is cut short."""
    draft = folder / f"{STATE_NAME}.new"
    draft.write_text(json.dumps(state, indent=2) + "\n")
    draft.replace(folder / STATE_NAME)


def python_version(folder: Path) -> str | None:
    """The version ("3.11") of the environment's Python; None where there is none that runs."""
    command = [str(folder / "bin/python"), "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def make_environment(folder: Path) -> None:
    """A virtual environment without anything in it; `folder` must not hold what somebody else put there."""
    if folder.exists() and any(folder.iterdir()):
        raise BootstrapError(f"{folder} is in the way: no virtual environment that works", "remove it, or set CBK_VENV to another")
    folder.mkdir(parents=True, exist_ok=True)
    write_state(folder, {"made_here": True, "installed": None})
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)


def fingerprint(wanted: str, version: str) -> str:
    """Changes whenever the set has to be installed anew."""
    digest = hashlib.sha256(version.encode())
    for path in (ROOT / "constraints" / f"{wanted}.txt", ROOT / "pyproject.toml", ROOT / "appside/pyproject.toml"):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def install(folder: Path, wanted: str) -> None:
    """Install the pinned set, then the project itself as a link to this tree."""
    began = time.monotonic()
    pip = [str(folder / "bin/python"), "-I", str(checked_pip() / "pip"), "install", "--progress-bar", "off"]
    constraints = ROOT / "constraints" / f"{wanted}.txt"
    say(f"installing {constraints.relative_to(ROOT)} into {folder}")
    follow([*pip, "--require-hashes", "--only-binary", ":all:", "--requirement", str(constraints)])
    # The application's side has a distribution and a command of its own; the machine that runs the kit needs neither.
    projects = [ROOT] if wanted == "runtime" else [ROOT, ROOT / "appside"]
    follow([*pip, "--no-deps", "--no-build-isolation", *(part for each in projects for part in ("--editable", str(each)))])
    say(f"installed in {time.monotonic() - began:.0f} s")


def checked_pip() -> Path:
    """The vendored pip, after its bytes were compared with SHA256SUMS."""
    digest, name = (ROOT / "scripts/vendor/SHA256SUMS").read_text().split()
    wheel = ROOT / "scripts/vendor" / name
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != digest:
        raise BootstrapError(f"{wheel} is not the file that SHA256SUMS names", "get it anew: git checkout -- scripts/vendor")
    return wheel


def follow(command: list[str]) -> None:
    """Run pip and show how far it is; its own words only where it fails."""
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with subprocess.Popen(
        command,
        env=pip_environment(os.environ),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as pip:
        for line in pip.stdout:
            tail.append(line)
            show_progress(line)
    clear_line()
    if pip.returncode != 0:
        print("".join(tail), end="", file=sys.stderr)
        raise BootstrapError(f"pip ended with {pip.returncode}", "its last lines are above; it needs a way to a package index")


def pip_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for pip: the user's, less what would install elsewhere, otherwise, or from another Python's folders."""
    kept = {
        name: value
        for name, value in environ.items()
        if name not in {"PYTHONPATH", "PYTHONHOME"} and (not name.startswith("PIP_") or KEPT_PIP_SETTINGS.fullmatch(name))
    }
    return kept | OUR_PIP_SETTINGS | {"PYTHONUNBUFFERED": "1"}


def show_progress(line: str) -> None:
    """One line of pip's output: large downloads get a line, everything else passes by on a terminal's last one."""
    large = re.match(r"\s*Downloading (\S+) \(([\d.]+) MB", line)
    if large and float(large[2]) >= LARGE_MB:
        say(f"  {large[1]} ({large[2]} MB)")
    elif sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\033[K{line.strip()[:width]}", end="", file=sys.stderr, flush=True)


def clear_line() -> None:
    """Leave nothing of the passing line."""
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def say(text: str) -> None:
    """A line for the person who waits."""
    clear_line()
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
