"""What a mirror's pass with nothing new costs: `python -m bench.mirrors [--copies N]`.

So many small copies are brought to a folder and to an S3 server by rclone, once. Then the night's pass is measured: nothing is
new, and the day's share of all copies is verified (1 of 90). The processor's time is that of the pass and of all that it starts;
the S3 server's is not in it. One further pass, which is not measured, runs under strace(1), which says whether copies were
listed: calls of getdents64(2) for the folder, requests for a list at the S3 server.

Exit code 0: each pass took less than 30 s of the processor, and listed nothing; 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from bench.dumps import timed
from bench.rebuild import make_copies
from cbk.edges.catalog.database.schema import mirror_copies
from cbk.jobs.admin.init import initialise
from cbk.jobs.context import open_context
from cbk.settings import Settings
from local_servers import S3

COPIES = 100_000
TARGET_SECONDS = 30.0
NIGHTS = 90
DAY_MILLISECONDS = 86_400_000


@dataclass(frozen=True, slots=True)
class Site:
    """A backup disk with copies, and one mirror in its settings."""

    folder: Path
    mirrors: dict[str, dict[str, str]]

    def open(self) -> Settings:
        """Its settings, for work in this process."""
        return Settings(**self._settings)

    def run(self, *command: str, through: tuple[str, ...] = ()) -> str:
        """What a command of the kit printed, in a process of its own."""
        others = {name: value for name, value in os.environ.items() if not name.startswith("CBK_")}
        ours = {f"CBK_{name.upper()}": v if isinstance(v, str) else json.dumps(v) for name, v in self._settings.items()}
        cbk = str(Path(sys.executable).with_name("cbk"))
        return subprocess.run([*through, cbk, *command], env=others | ours, check=True, stdout=subprocess.PIPE, text=True).stdout

    @property
    def _settings(self) -> dict[str, object]:
        return {
            "source_url": f"sqlite:///{self.folder}/none.db",
            "backup_root": str(self.folder / "backups"),
            "catalog_url": f"sqlite:///{self.folder}/catalog.db",
            "buckets": {"s3": "car-erp"},
            "mirrors": self.mirrors,
        }


def main() -> int:
    """Measure, and print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=COPIES, help=f"on the backup disk (default: {COPIES:,})")
    copies = parser.parse_args().copies
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cbk-bench-")))
        site = Site(folder, {"folder": _folder(folder), "s3": _s3(stack, folder)})
        with closing(open_context(site.open())) as context:
            list(initialise(context))
        make_copies(folder / "backups", copies)
        site.run("rebuild")
        good = [measure(site, name, copies) for name in site.mirrors]
    return int(not all(good))


def _folder(folder: Path) -> dict[str, str]:
    (folder / "there").mkdir()
    return {"path": str(folder / "there"), "every": "1d"}


def _s3(stack: ExitStack, folder: Path) -> dict[str, str]:
    server = stack.enter_context(S3(folder))
    server.create_bucket("mirror")
    config = folder / "rclone.conf"
    config.write_text(
        f"[s3]\ntype = s3\nprovider = Other\nendpoint = {server.endpoint}\naccess_key_id = {server.access_key}\n"
        f"secret_access_key = {server.secret_key}\nforce_path_style = true\n"
    )
    return {"remote": "s3:mirror", "config": str(config), "every": "1d"}


def measure(site: Site, name: str, copies: int) -> bool:
    """Print what the first pass and a night's pass cost, and say whether the night's keeps to the target."""
    cpu, wall = timed(lambda: site.run("mirror", name, "--init"))
    print(f"{name}: {copies} copies; the first pass {cpu:.1f} s of the processor, {wall:.1f} s", flush=True)
    _spread_over_the_nights(site)
    told: list[str] = []
    cpu, wall = timed(lambda: told.append(site.run("mirror", name, "--json")))
    verified = sum(each["verified"] for each in json.loads(told[0])["disks"])
    listed = _listings(site, name)
    print(f"  a night's pass: {cpu:.1f} s of the processor, {wall:.1f} s, {verified} copies verified, listed: {listed}", flush=True)
    return cpu < TARGET_SECONDS and listed == 0 and verified == -(-copies // NIGHTS)


def _spread_over_the_nights(site: Site) -> None:
    """Let the copies have been verified over the last 90 days, as they are when the mirror is that old."""
    with closing(open_context(site.open())) as context, context.catalog.database.writing() as connection:
        verified_at = mirror_copies.c.verified_at
        earlier = sa.literal_column(f"verified_at - (version_id % {NIGHTS}) * {DAY_MILLISECONDS}")
        connection.execute(sa.update(mirror_copies).values({verified_at: earlier}))


def _listings(site: Site, name: str) -> int | str:
    """How often a further pass listed copies (not its own notes in .cbk/), or why that is not known."""
    if shutil.which("strace") is None:
        return "not known: strace is not here"
    log = Path("/tmp") / f"x{name}"
    site.run("mirror", name, through=("strace", "-f", "-y", "-s", "400", "-e", "trace=getdents64,write", "-o", str(log)))
    there = f"<{site.folder / 'there'}"
    with log.open(errors="replace") as lines:
        return sum(("getdents64(" in line and there in line) or '"GET /mirror?' in line for line in lines if ".cbk" not in line)


if __name__ == "__main__":
    sys.exit(main())
