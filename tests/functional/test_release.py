"""`scripts/release` on a repository of its own: what it changes, and what keeps it from changing anything."""

import subprocess
import tarfile
from datetime import date

import pytest

import release as module
from release import ReleaseError, dated, main, release, with_version

TODAY = date(2026, 11, 30)
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- One thing.\n\n## [0.1.0] - 2026-01-01\n\n- The first.\n"
PROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "cloud-backup-kit"
version = "0.1.0"
requires-python = ">=3.11"

[tool.hatch.build.targets.wheel]
packages = ["cbk"]
"""


def git(folder, *arguments):
    settings = ["-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *settings, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def repository(tmp_path, monkeypatch):
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "x")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "x@example.com")
    folder = tmp_path / "repository"
    (folder / "cbk").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "CHANGELOG.md").write_text(CHANGELOG)
    (folder / ".gitignore").write_text("/dist/\n")
    for name in ("__init__.py", "py.typed"):
        (folder / "cbk" / name).write_text("")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "x")
    return folder


def test_release_sets_the_version_dates_the_changelog_builds_and_tags(repository):
    assert main(["0.2.0"], root=repository) == 0
    assert git(repository, "status", "--porcelain") == ""
    assert 'version = "0.2.0"' in git(repository, "show", "v0.2.0:pyproject.toml")
    assert "## [0.2.0] - " in git(repository, "show", "v0.2.0:CHANGELOG.md")
    assert "- One thing.\n" in git(repository, "for-each-ref", "--format=%(contents)", "refs/tags/v0.2.0")
    wheel, sdist = "cloud_backup_kit-0.2.0-py3-none-any.whl", "cloud_backup_kit-0.2.0.tar.gz"
    assert sorted(file.name for file in (repository / "dist").iterdir()) == [wheel, sdist]
    with tarfile.open(repository / "dist" / sdist) as archive:
        assert "## [0.2.0]" in archive.extractfile("cloud_backup_kit-0.2.0/CHANGELOG.md").read().decode()


def test_dry_run_builds_and_changes_nothing(repository, capsys):
    assert main(["0.2.0", "--dry-run"], root=repository) == 0
    assert "cloud_backup_kit-0.2.0.tar.gz" in capsys.readouterr().out
    assert git(repository, "status", "--porcelain", "--ignored") == ""
    assert git(repository, "tag") == ""


def test_release_of_a_tree_with_changes_that_are_not_committed_is_refused(repository, capsys):
    (repository / "cbk/new.py").write_text("")
    assert main(["0.2.0"], root=repository) == 1
    assert "something is not committed\nHINT: " in capsys.readouterr().err


def test_release_under_a_tag_that_is_there_is_refused(repository):
    git(repository, "tag", "v0.2.0")
    with pytest.raises(ReleaseError, match=r"tag v0\.2\.0 already"):
        release(repository, "0.2.0", today=TODAY, dry_run=True)


def test_build_that_fails_changes_nothing(repository, monkeypatch):
    monkeypatch.setattr(module.sys, "executable", "/bin/false")
    with pytest.raises(ReleaseError, match="build failed"):
        release(repository, "0.2.0", today=TODAY, dry_run=False)
    assert git(repository, "status", "--porcelain") == ""


@pytest.mark.parametrize("version", ["0.1.0", "0.0.9", "1", "v1.0.0", "1.0.0rc1", ""])
def test_version_that_is_no_later_one_is_refused(version):
    with pytest.raises(ReleaseError):
        with_version(PROJECT, version)


@pytest.mark.parametrize("version", ["0.1.1", "0.10.0", "1.0.0"])
def test_later_version_takes_the_place_of_the_former(version):
    assert with_version(PROJECT, version) == PROJECT.replace("0.1.0", version)


def test_dated_changelog_begins_with_nothing_unreleased():
    text, notes = dated(CHANGELOG, "0.2.0", TODAY)
    assert text == CHANGELOG.replace("[Unreleased]\n", "[Unreleased]\n\n## [0.2.0] - 2026-11-30\n", 1)
    assert notes == "### Added\n\n- One thing.\n"


@pytest.mark.parametrize("text", ["# Changelog\n", "## [Unreleased]\n\n## [0.1.0] - 2026-01-01\n\n- x\n", "## [Unreleased]\n"])
def test_changelog_without_news_is_refused(text):
    with pytest.raises(ReleaseError, match=r"\[Unreleased\]"):
        dated(text, "0.2.0", TODAY)
