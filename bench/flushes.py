"""How often a disk is asked to flush its cache for each copy, by how many copies are stored together: `python -m bench.flushes`.

On a real disk a flush takes milliseconds, and most of the time that a small file costs. Needs root: the disk is a file system in an
image, whose loop device counts.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from cbk.edges.archive import archive as archives
from cbk.edges.archive.archive import Archive, IncomingCopy
from cbk.model import CopyHeader
from tests.faults.disks import KINDS, LoopDisk

FLUSHES = 15  # the column of /sys/block/DEVICE/stat (Documentation/block/stat.rst)
SIZE_BYTES = 20_000
TOGETHER = 32


def store(archive: Archive, names: list[str], *, batch: int) -> None:
    """Store one file under each name, so many at a time, in the steps of a backup."""
    for start in range(0, len(names), batch):
        parts: list[tuple[IncomingCopy, str]] = []
        for name in names[start : start + batch]:
            content = random.Random(name).randbytes(SIZE_BYTES)
            header = CopyHeader(
                storage="s3", path="cars/", name=name, version=1, sha256=hashlib.sha256(content).hexdigest(), size=len(content)
            )
            part = IncomingCopy(str(archive.root), name, header)
            part.write(content)
            part.finish()
            parts.append((part, f"car-erp/cars/{len(name)}/{name}/v1.gzip"))
        archive.flush([part for part, _ in parts])
        with archive.publishing() as publication:
            for part, location in parts:
                part.flush()
                part.read_back()
                publication.put(part, location)


def count(archive: Archive, files: int, batch: int, *, together: bool = True) -> float:
    """Flushes per file; `together`: by flushing the file system, where that is possible."""
    archives._SYNCFS_TELLS = together  # noqa: SLF001 - as on an older Linux
    device = archive.root.stat().st_dev
    statistics = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    os.sync()
    before = int(statistics.read_text().split()[FLUSHES])
    store(archive, [f"{batch}-{together}-{number}.png" for number in range(files)], batch=batch)
    return (int(statistics.read_text().split()[FLUSHES]) - before) / files


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.flushes", description=__doc__.split(":")[0])
    parser.add_argument("--files", type=int, default=640)
    files = parser.parse_args().files
    print("| file system | one at a time | 32 together, each file and folder flushed | 32 together, the file system flushed |")
    print("|---|--:|--:|--:|")
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder, LoopDisk(kind, Path(folder) / "backups") as disk:
            archive = Archive.create(disk.mount_point, now=datetime.now(UTC))
            single = count(archive, files, 1)
            each = count(archive, files, TOGETHER, together=False)
            print(f"| {kind} | {single:.2f} | {each:.2f} | {count(archive, files, TOGETHER):.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
