"""The worst day on 2,000 files, one of them of 2 GiB: everything comes back, by each of the ways there are. Minutes of work."""

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections import Counter
from hashlib import sha256

import pytest

from tests.functional.test_restore_to_s3 import require_equal
from tests.in_process_site import InProcessSite
from tests.origin import Origin

pytestmark = [pytest.mark.nightly, pytest.mark.xdist_group("restore-day")]

GIB = 1024**3
# No backslash: the S3 server of the tests takes it for a slash. The disk's own tests have it.
SPECIAL = {
    "empty": b"",
    "noextension": b"no extension",
    "cars/id-1/thumbnail.png": b"png",
    "cars/id-1/thumbnail.jpg": b"jpg: its copy cannot lie where that of the png does",
    "cars/id-1/THUMBNAIL.png": b"capitals",
    "Straße/日本語/😀 (1).txt": "Grüße".encode(),
    "quotes/'single' \"double\" $HOME `x`.txt": b"a shell must not stumble",
    "-rf.txt": b"begins like an option",
    "archive.tar.gz": b"two extensions",
    ".hidden": b"dot",
}
LARGE = "large/two-gib.bin"


def contents():
    files = SPECIAL | {
        f"many/{number % 40}/{number}.bin": b"%d " % number * (number % 501) for number in range(2000 - len(SPECIAL) - 1)
    }
    block = os.urandom(GIB // 4)
    return files | {LARGE: block + bytes(GIB) + block[::-1] + b"the end" + block + block}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """The same files in a folder, as `<bucket>/<key>`."""
    folder = tmp_path_factory.mktemp("originals")
    for key, content in contents().items():
        path = folder / "car-erp" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def site(originals, tmp_path_factory):
    """A kit that has a copy of each file, whose origin is gone."""
    with Origin() as origin:
        folder = tmp_path_factory.mktemp("site")
        site = InProcessSite(folder, origin, catalog_url=f"sqlite:///{folder}/backups/.cbk/catalog.db")
        for path in sorted(originals.rglob("*")):
            if path.is_file():
                site.upload(str(path.relative_to(originals / "car-erp")), path.read_bytes())
        site.work()
    assert Counter(site.states().values()) == {"stored": 2000}
    yield site
    site.close()
    shutil.rmtree(folder)


def digests_of(folder):
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                digest = sha256()
                while block := stream.read(1 << 20):
                    digest.update(block)
            found[str(path.relative_to(folder))] = digest.hexdigest()
    return found


def cbk(site, *arguments, **environment):
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("CBK_", "AWS_"))}
    command = [sys.executable, "-m", "cbk.cli", *map(str, arguments)]
    done = subprocess.run(command, env=plain | site.environment | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return done.stdout


def listed(site):
    items = [json.loads(line) for line in cbk(site, "ls", "--json").splitlines()]
    return {(item["key"], item["version"]): item for item in items if item["state"] == "stored"}


def test_restore_to_a_folder_is_byte_equal(site, originals, tmp_path):
    cbk(site, "restore", "--to", tmp_path / "out")
    assert digests_of(tmp_path / "out") == digests_of(originals)
    shutil.rmtree(tmp_path / "out")


def test_restore_to_a_bucket_is_confirmed_by_rclone(site, originals, s3, tmp_path):
    bucket = f"new-{uuid.uuid4().hex}"
    s3.create_bucket(bucket)
    credentials = {
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_ENDPOINT_URL": s3.endpoint,
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
    }
    cbk(site, "restore", "--to", f"s3://{bucket}", **credentials)
    require_equal(s3, originals / "car-erp", bucket)


def test_shell_script_on_the_disk_gives_the_same_tree(site, originals, tmp_path):
    script = site.root / ".cbk" / "restore.sh"
    plain = ["env", "-i", "PATH=/usr/bin:/bin", "sh", str(script), str(site.root), str(tmp_path / "out")]
    done = subprocess.run(plain, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    restored = digests_of(tmp_path / "out")
    assert restored.pop("SHA256SUMS")
    assert restored == digests_of(originals)
    shutil.rmtree(tmp_path / "out")


def test_rebuilt_catalog_lists_the_same(site):
    before = listed(site)
    site.context.close()
    for path in (site.root / ".cbk").glob("catalog.db*"):
        path.unlink()
    cbk(site, "init", "--on-system-disk")
    cbk(site, "rebuild")
    after = listed(site)
    assert len(after) == 2000
    # The scrub reads rebuilt copies first: they were not verified by this catalog yet.
    unlike = {"verified_at"}
    assert {name: {k: v for k, v in item.items() if k not in unlike} for name, item in after.items()} == {
        name: {k: v for k, v in item.items() if k not in unlike} for name, item in before.items()
    }


def test_every_copy_verifies(site):
    summary = json.loads(cbk(site, "verify", "--json").splitlines()[-1])
    assert (summary["outcome"], summary["copies"]) == ("verified", 2000), summary
