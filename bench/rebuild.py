"""How long `cbk rebuild` takes: `python -m bench.rebuild [COPIES]` makes so many small copies and rebuilds their catalog in SQLite.

The copies are what workers write, on the file system of the temporary folder (TMPDIR); most of them are in the page cache.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cbk.edges.archive.archive import Archive
from tests.disk import NOW, File, drop

COPIES = 100_000
FILES_PER_FOLDER = 100


def main():
    copies = int(sys.argv[1]) if len(sys.argv) > 1 else COPIES
    with tempfile.TemporaryDirectory(prefix="cbk-bench-") as folder:
        root = Path(folder, "backups")
        Archive.create(root, now=NOW)
        make_copies(root, copies)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CBK_")} | {
            "CBK_BACKUP_ROOT": str(root),
            "CBK_SOURCE_URL": f"sqlite:///{folder}/none.db",
            "CBK_BUCKETS": '{"s3": "car-erp"}',
        }
        for what in ("rebuilt", "again, with every copy known"):
            started, worked = time.perf_counter(), cpu_seconds()
            subprocess.run([sys.executable, "-m", "cbk.cli", "rebuild"], env=environment, check=True, stdout=subprocess.DEVNULL)
            seconds, cpu = time.perf_counter() - started, cpu_seconds() - worked
            print(f"{copies} copies {what}: {seconds:.1f} s, {copies / seconds:.0f} copies/s, {cpu:.1f} s of a processor")


def make_copies(root, copies):
    """So many small copies below a disk's root, in the bucket folder car-erp."""
    for number in range(copies):
        place = f"cars/{number // FILES_PER_FOLDER:06}/photo-{number}"
        drop(root, File(f"{place}.jpg", b"%d" % number, row=str(number)), f"car-erp/{place}/v1.gzip")


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
