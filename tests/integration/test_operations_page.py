"""What docs/operations.md tells a person to type when something large is at hand, typed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cbk.jobs.retention.holds import list_holds, place_hold

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text()
CATALOG = ".cbk/catalog.db"


@pytest.fixture
def stored(make_site, tmp_path):
    """A site with its catalog on the backup disk, as the default has it, and one stored file."""
    site = make_site(catalog_url=f"sqlite:///{tmp_path}/backups/{CATALOG}")
    site.upload("cars/a.txt", b"a")
    site.work()
    return site


def commands(section, command):
    """The lines of a section's code that begin with this command."""
    text = re.split(r"^## ", PAGE.split(f"\n## {section}\n")[1], flags=re.MULTILINE)[0]
    return [
        line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines() if line.startswith(command)
    ]


def run(site, line, **places):
    """Type a line, with the folders of this site in the place of the page's."""
    for place, folder in {"/backups": site.root, **places}.items():
        line = line.replace(place, str(folder))
    environment = site.environment | {"PATH": "/usr/bin:/bin"}
    words = f"{sys.executable} -m cbk.cli" + line.removeprefix("cbk") if line.startswith("cbk ") else line
    return subprocess.run(["sh", "-c", words], env=environment, capture_output=True, text=True, check=False, cwd=site.folder)


def test_disk_that_was_copied_takes_the_place_of_the_old_one(stored, tmp_path):
    stored.context.close()
    (tmp_path / "new").mkdir()
    (copying,) = commands("Moving to another disk", "cp")
    done = run(stored, copying, **{"/mnt/new": tmp_path / "new"})
    assert (done.returncode, done.stderr) == (0, "")
    stored.root.rename(tmp_path / "old")
    (tmp_path / "new").rename(stored.root)
    (status,) = (run(stored, line) for line in commands("Moving to another disk", "cbk status"))
    (verify,) = (run(stored, line) for line in commands("Moving to another disk", "cbk verify"))
    assert "1 of 1 file" in status.stdout
    assert (verify.returncode, verify.stderr) == (0, "")


def test_way_back_to_a_former_catalog_keeps_what_came_since(stored):
    stored.context.close()
    (stored.root / f"{CATALOG}.0001").write_bytes((stored.root / CATALOG).read_bytes())
    stored.upload("cars/b.txt", b"b")
    stored.work()
    place_hold(stored.context, "cars/b.txt", is_prefix=False, storage=None, until=None, reason="court")
    stored.context.close()
    for line in [*commands("Upgrading", "rm"), *commands("Upgrading", "cp"), *commands("Upgrading", "cbk rebuild")]:
        done = run(stored, line)
        assert (done.returncode, done.stderr) == (0, "")
    stored.reopen()
    assert stored.states() == {("cars/a.txt", 1): "stored", ("cars/b.txt", 1): "stored"}
    assert [placed.hold.key for placed in list_holds(stored.context)] == ["cars/b.txt"]


def test_everything_can_be_held_before_the_workers_start_again(stored):
    (line,) = re.findall(r"`(cbk hold --prefix '')`", PAGE)
    assert run(stored, line).returncode == 0
    assert [(placed.hold.key, placed.files) for placed in list_holds(stored.context)] == [("", 1)]
    (line,) = re.findall(r"`(cbk release --prefix '')`", PAGE)
    assert run(stored, line).returncode == 0
    assert list_holds(stored.context) == []
