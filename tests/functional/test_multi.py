"""`celery multi`, as docs/flower.md shows it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs/flower.md"


@pytest.mark.nightly
def test_workers_start_and_stop_together_and_write_their_logs(site):
    start, _, stop = [line for line in re.findall(r"^celery .*$", DOCUMENT.read_text(), re.MULTILINE) if "flower" not in line]

    def run(line):
        _, *words = shlex.split(line)
        subprocess.run([sys.executable, "-m", "celery", *words], env=site.env, cwd=site.folder, check=True, timeout=120)

    site.upload("a.txt", b"x")
    try:
        run(start)
        site.beat()
        site.wait_protected(1)
    finally:
        run(stop)
    logs = {path.name: path.read_text() for path in site.folder.glob("celery?.log")}
    assert sorted(logs) == ["celery1.log", "celery2.log", "celery3.log"]
    assert "cbk.poll polled" in logs["celery1.log"]
    assert "cbk.backup stored" in logs["celery2.log"] + logs["celery3.log"]
    assert not list(site.folder.glob("*.pid"))
