"""Makes a release; see scripts/release. All is built from what git holds, in a folder of its own, before anything changes here."""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from datetime import UTC, date, datetime
from pathlib import Path

UNRELEASED = "## [Unreleased]"
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_PROJECT_VERSION = re.compile(r'^version = "([^"]+)"$', re.MULTILINE)


class ReleaseError(Exception):
    """What keeps the release from being made, and what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def main(arguments: list[str] | None = None, *, root: Path | None = None) -> int:
    """Returns the exit code: 0 done, 1 failed, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="scripts/release", description="Makes a release of what is committed.")
    parser.add_argument("version", help="the new version, such as 1.2.0")
    parser.add_argument("--dry-run", action="store_true", help="build it elsewhere, show what would change, and change nothing")
    options = parser.parse_args(arguments)
    root = root or Path(__file__).resolve().parents[1]
    try:
        release(root, options.version, today=datetime.now(UTC).date(), dry_run=options.dry_run)
    except ReleaseError as error:
        print(f"{error}\nHINT: {error.hint}", file=sys.stderr)
        return 1
    return 0


def release(root: Path, version: str, *, today: date, dry_run: bool) -> None:
    """Make the release `version` of the repository `root`. Raises ReleaseError before anything is changed."""
    if git(root, "status", "--porcelain"):
        raise ReleaseError("something is not committed", "commit it, or put it aside: git stash --include-untracked")
    if git(root, "tag", "--list", f"v{version}"):
        raise ReleaseError(f"there is a tag v{version} already", "name the next version")
    project, changelog = root / "pyproject.toml", root / "CHANGELOG.md"
    new_project = with_version(project.read_text(), version)
    new_changelog, notes = dated(changelog.read_text(), version, today)
    with tempfile.TemporaryDirectory() as folder:
        built = build(root, Path(folder), {project.name: new_project, changelog.name: new_changelog}, version)
        print(f"{version} of {today}: {', '.join(file.name for file in built)}")
        if dry_run:
            print(f"would commit pyproject.toml and CHANGELOG.md, and tag v{version} with these notes:\n\n{notes}")
            return
        project.write_text(new_project)
        changelog.write_text(new_changelog)
        (root / "dist").mkdir(exist_ok=True)
        for file in built:
            shutil.copy(file, root / "dist")
    git(root, "commit", "--quiet", "--message", f"Release {version}", "--", project.name, changelog.name)
    git(root, "tag", "--annotate", f"v{version}", "--cleanup=verbatim", "--message", f"Cloud Backup Kit {version}\n\n{notes}")
    print(f"tagged v{version}; the files are in dist/. Send it: git push --follow-tags, then upload them")


def with_version(project: str, version: str) -> str:
    """The text of pyproject.toml with this version. Raises ReleaseError unless it is a later one."""
    found = _PROJECT_VERSION.search(project)
    if found is None:
        raise ReleaseError("pyproject.toml names no version", 'it has a line: version = "1.0.0"')
    if _numbers(version) <= _numbers(found[1]):
        raise ReleaseError(f"{version} is not later than {found[1]}", "versions follow https://semver.org")
    return project[: found.start(1)] + version + project[found.end(1) :]


def dated(changelog: str, version: str, today: date) -> tuple[str, str]:
    """The changelog with what was unreleased under this version and date, and these notes.

    Raises ReleaseError if there are none.
    """
    head, heading, rest = changelog.partition(f"{UNRELEASED}\n")
    notes, following, former = rest.partition("\n## [")
    if not heading or not notes.strip():
        raise ReleaseError("the changelog has nothing under [Unreleased]", "say there what users notice of this release")
    return f"{head}{heading}\n## [{version}] - {today.isoformat()}\n{notes}{following}{former}", notes.strip() + "\n"


def build(root: Path, folder: Path, changed: dict[str, str], version: str) -> list[Path]:
    """Wheel and sdist of what git holds, with the changed files, built in `folder`. Raises ReleaseError if they are not whole."""
    source = folder / "source"
    packed = subprocess.run(["git", "archive", "HEAD"], cwd=root, check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(source, filter="data")
    for name, text in changed.items():
        (source / name).write_text(text)
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder / "dist")]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError("the build failed", done.stderr.strip()[-2000:])
    built = sorted((folder / "dist").iterdir())
    names = [name for file in built if file.suffix == ".whl" for name in zipfile.ZipFile(file).namelist()]
    if len(built) != 2 or any(version not in file.name for file in built) or "cbk/py.typed" not in names:
        raise ReleaseError(f"the build made {[file.name for file in built]}", "a wheel and an sdist of this version are missing")
    return built


def git(root: Path, *arguments: str) -> str:
    """What git says. Raises ReleaseError with its words if it fails."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"git {arguments[0]} failed", done.stderr.strip())
    return done.stdout


def _numbers(version: str) -> tuple[int, ...]:
    found = _VERSION.fullmatch(version)
    if found is None:
        raise ReleaseError(f"{version!r} is no version", "three numbers: 1.2.0")
    return tuple(map(int, found.groups()))


if __name__ == "__main__":
    sys.exit(main())
