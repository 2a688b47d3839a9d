"""scripts/demo, run as a newcomer runs it, only with fewer files."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from local_servers import wait_until

DEMO = Path(__file__).resolve().parents[2] / "scripts/demo.py"
FILES = 12


@pytest.fixture
def temporary():
    """The folder for the demo's temporary files, which PostgreSQL, running as `nobody`, may enter."""
    folder = Path(tempfile.mkdtemp(prefix="cbk-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def start_demo(temporary, tmp_path):
    """A function that starts the demo from a folder that is not the repository's; its output goes to tmp_path / "output"."""
    started = []

    def start(*arguments):
        with (tmp_path / "output").open("w") as output:
            demo = subprocess.Popen(
                [sys.executable, DEMO, f"--files={FILES}", *arguments],
                cwd=tmp_path,
                env=os.environ | {"TMPDIR": str(temporary)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        started.append(demo)
        return demo

    yield start
    for demo in started:
        demo.kill()
        demo.wait()


def test_demo_protects_every_sample_and_cleans_up(start_demo, temporary, tmp_path):
    demo = start_demo()
    code = demo.wait(180)
    output = (tmp_path / "output").read_text()
    assert code == 0, output
    assert f"from nothing to {FILES} protected files" in output
    assert "everything is protected" in output
    assert "thumbnail/v1.gzip" in output
    assert list(temporary.iterdir()) == []


def test_demo_that_is_kept_shows_flower_until_it_is_interrupted(start_demo, temporary, tmp_path):
    demo = start_demo("--keep")

    def output():
        assert demo.poll() is None, (tmp_path / "output").read_text()
        return (tmp_path / "output").read_text()

    wait_until(lambda: "up until ^C" in output(), 180, lambda: f"the demo to be up; it said:\n{output()}")
    address = re.search(r"Flower: (http://127\.0\.0\.1:\d+)", output())[1]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(address, timeout=10)
    demo.send_signal(signal.SIGINT)
    assert demo.wait(120) == 130
    assert list(temporary.iterdir()) == []
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=10)
