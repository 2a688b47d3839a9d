"""What scripts/demo runs: an application's database and bucket, the kit beside them, and what would be left without the cloud.

Everything is real and on loopback: PostgreSQL, an S3 server, Valkey, `celery worker`, `celery beat` and Flower, each a process of
its own, in a temporary folder that goes when the demo ends.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.tree import Tree
from sqlalchemy import create_engine

from cbk_app.recorder import Recorder
from cbk_app.schema import ddl, grants
from local_servers import LOOPBACK, S3, Postgres, Server, Valkey, free_port, wait_until
from sample_files import Sample, samples

STORAGE = "s3"
BUCKET = "car-erp"
READER = "cbk_reader"
LINK_SECONDS = 3600
PATIENCE_SECONDS = 100.0
FLOWER_START_SECONDS = 20.0
UPLOADS_AT_ONCE = 8
LINES_PER_FOLDER = 10

console = Console(highlight=False, soft_wrap=True)


class DemoFailed(Exception):
    """Something did not go as it should; the message says what."""


class KitProcess(Server):
    """`celery -A cbk worker`, `beat` or `flower`, ended with the demo however that ends."""

    def __init__(self, folder: Path, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        super().__init__(folder)
        self._variables = environment

    def command(self) -> list[str]:
        return [command("celery"), "-A", "cbk", self.name]

    def is_ready(self) -> bool:
        return True

    def _environment(self) -> dict[str, str]:
        return dict(self._variables)


@dataclass(frozen=True, slots=True)
class Kit:
    """The kit as the demo runs it: its environment, and its folder of copies."""

    environment: Mapping[str, str]
    root: Path

    def run(self, *arguments: str) -> int:
        """Run a `cbk` command for the reader to see; return its exit code."""
        console.print(f"\n[bold]$ cbk {shlex.join(arguments)}[/]")
        return subprocess.run([command("cbk"), *arguments], env=self.environment, check=False).returncode

    def status(self) -> dict[str, Any]:
        """What `cbk status --json` says. Raises DemoFailed where it cannot say anything."""
        done = subprocess.run(
            [command("cbk"), "status", "--json"], env=self.environment, capture_output=True, text=True, check=False
        )
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise DemoFailed(f"cbk status ended with {done.returncode}: {done.stderr.strip()}") from None


def main() -> int:
    """Exit code 0: every sample file is protected; 1: not so; 130: interrupted."""
    options = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with ExitStack() as stack:
            demonstrate(stack, options)
    except DemoFailed as failure:
        console.print(f"[bold red]{escape(str(failure))}[/]")
        return 1
    except KeyboardInterrupt:
        console.print("\ninterrupted; everything is cleaned up")
        return 130
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description="Sample files in, verified copies out, on real servers on this machine."
    )
    parser.add_argument("--keep", action="store_true", help="stay up until ^C, to look around in Flower and on the disk")
    parser.add_argument("--files", type=int, default=60, metavar="N", help="how many sample files (default: %(default)s)")
    return parser.parse_args()


def demonstrate(stack: ExitStack, options: argparse.Namespace) -> None:
    began = time.monotonic()
    folder = stack.enter_context(temporary_folder())
    say("starting PostgreSQL, an S3 server and Valkey")
    valkey, postgres, s3 = start_servers(stack, folder)
    wanted = samples(options.files)
    say(f"the application uploads {len(wanted)} files and writes a row for each version")
    fill_application(postgres, s3, wanted)
    kit = make_kit(folder, valkey, postgres, s3)
    for arguments in (["init", "--on-system-disk"], ["doctor"]):
        if kit.run(*arguments) != 0:
            raise DemoFailed(f"cbk {arguments[0]} found something wrong")
    processes = start_kit(stack, folder, kit)
    wait_for_copies(kit, processes, len(wanted))
    show_result(kit, wanted)
    say(f"from nothing to {len(wanted)} protected files in {time.monotonic() - began:.0f} s")
    if options.keep:
        stay_up(folder, kit)
    console.print(f"{flower_line(kit)}, gone now; [bold]scripts/demo --keep[/] stays up")


def say(text: str) -> None:
    console.print(f"[bold cyan]==[/] {escape(text)}")


def command(name: str) -> str:
    """The path of an installed command."""
    return str(Path(sysconfig.get_path("scripts")) / name)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that PostgreSQL, which runs as another user where we are root, may enter."""
    folder = Path(tempfile.mkdtemp(prefix="cbk-demo-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start_servers(stack: ExitStack, folder: Path) -> tuple[Valkey, Postgres, S3]:
    servers = Valkey(folder), Postgres(folder), S3(folder)
    for server in servers:
        stack.callback(server.stop)
    with ThreadPoolExecutor() as at_once:
        list(at_once.map(lambda server: server.start(), servers))
    return servers


def fill_application(postgres: Postgres, s3: S3, wanted: list[Sample]) -> None:
    """Do what an application does: keep the object, sign a link, and write the row; for the kit, a user that may only read."""
    postgres.create_database("app")
    postgres.execute(ddl("postgresql") + grants("postgresql", READER), "app")
    s3.create_bucket(BUCKET)
    client = s3.client()

    def upload(sample: Sample) -> str:
        for content in sample.versions:
            client.put_object(Bucket=BUCKET, Key=sample.key, Body=content, ContentType=sample.content_type)
        return str(
            client.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": sample.key}, ExpiresIn=LINK_SECONDS)
        )

    with ThreadPoolExecutor(UPLOADS_AT_ONCE) as at_once:
        links = list(at_once.map(upload, wanted))
    engine, recorder = create_engine(postgres.url("app")), Recorder(storage=STORAGE)
    with engine.begin() as connection:
        for sample, link in zip(wanted, links, strict=True):
            for number, content in enumerate(sample.versions, start=1):
                recorder.record_upload(
                    connection, sample.path + sample.name, content, version=number, link=link, content_type=sample.content_type
                )
    engine.dispose()


def make_kit(folder: Path, valkey: Valkey, postgres: Postgres, s3: S3) -> Kit:
    root = folder / "backups"
    root.mkdir()
    settings = {
        "CBK_SOURCE_URL": postgres.url("app", user=READER),
        "CBK_BROKER_URL": valkey.url,
        "CBK_BACKUP_ROOT": str(root),
        "CBK_BUCKETS": json.dumps({STORAGE: BUCKET}),
        "CBK_ALLOWED_HOSTS": f"{LOOPBACK}:{s3.port}",
        "CBK_POLL_INTERVAL": "2s",
        "CBK_FLOWER_AUTH": f"demo:{secrets.token_hex(4)}",
        "CBK_FLOWER_PORT": str(free_port()),
    }
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("CBK_", "CELERY_", "FLOWER_"))}
    return Kit(plain | settings, root)


def start_kit(stack: ExitStack, folder: Path, kit: Kit) -> list[KitProcess]:
    """Start worker, beat and Flower, and say where Flower is."""
    processes = [KitProcess(folder, name, kit.environment) for name in ("worker", "beat", "flower")]
    say("starting celery -A cbk worker, celery -A cbk beat and celery -A cbk flower")
    for process in processes:
        stack.callback(process.stop)
        process.start()
    console.print(flower_line(kit))
    return processes


def flower_line(kit: Kit) -> str:
    user, password = kit.environment["CBK_FLOWER_AUTH"].split(":")
    return f"   Flower: http://{LOOPBACK}:{kit.environment['CBK_FLOWER_PORT']} (user {user}, password {password})"


def wait_for_copies(kit: Kit, processes: list[KitProcess], expected: int) -> None:
    """Show how far it is until all is protected; raise DemoFailed where a process ends or time runs out."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    columns = (TextColumn("   {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("protected files", total=expected)
        shown = -1
        while True:
            status = kit.status()
            progress.update(task, completed=status["protected_files"])
            if not console.is_terminal and status["protected_files"] != shown:
                shown = status["protected_files"]
                console.print(f"   {shown} of {expected} files protected")
            if status["protected"] and status["files"] == expected:
                return
            refuse_to_wait(kit, processes, deadline)


def refuse_to_wait(kit: Kit, processes: list[KitProcess], deadline: float) -> None:
    for process in processes:
        if not process.is_running:
            raise DemoFailed(f"{process.name} ended; its log ends:\n{process.log_tail()}")
    if time.monotonic() > deadline:
        kit.run("status")
        raise DemoFailed(
            f"not everything is protected after {PATIENCE_SECONDS:.0f} s; the worker's log ends:\n{processes[0].log_tail()}"
        )


def show_result(kit: Kit, wanted: list[Sample]) -> None:
    """What is on the disk, that a plain tool reads it, and what the kit says."""
    console.print()
    console.print(tree_of(kit.root))
    check_with_zcat(kit.root, next(sample for sample in wanted if sample.content_type == "text/csv"))
    if kit.run("status") != 0:
        raise DemoFailed("not everything is protected")


def tree_of(root: Path) -> Tree:
    """The folder as a tree, without what is in the kit's own `.cbk`, which changes while one looks."""
    tree = Tree(f"[bold]{escape(str(root))}[/]")
    if (root / ".cbk").exists():
        tree.add("[blue].cbk/[/]  [dim]the disk's identity, the catalog, a README that needs no kit[/]")
    grow(tree, [path for path in sorted(root.iterdir()) if path.name != ".cbk"], root)
    return tree


def grow(tree: Tree, paths: list[Path], folder: Path) -> None:
    """Add `paths`, which are in `folder`: one that leads to a single file as a line, of which the last ones are only counted."""
    lines = 0
    for path in paths:
        end = only_thing_in(path)
        label = escape(str(end.relative_to(folder)))
        if end.is_dir():
            grow(tree.add(f"[blue]{label}/[/]"), sorted(end.iterdir()), end)
            continue
        lines += 1
        if lines <= LINES_PER_FOLDER:
            tree.add(f"{label}  [dim]{end.stat().st_size:,} bytes[/]")
    if lines > LINES_PER_FOLDER:
        tree.add(f"[dim]and {lines - LINES_PER_FOLDER} more like these[/]")


def only_thing_in(path: Path) -> Path:
    """Go down as long as there is nothing but one thing in a folder."""
    while path.is_dir() and len(inside := list(path.iterdir())) == 1:
        (path,) = inside
    return path


def check_with_zcat(root: Path, sample: Sample) -> None:
    """Read a copy as somebody would who has the disk and no kit; raise DemoFailed where the bytes are others."""
    copy = root / BUCKET / sample.path / Path(sample.name).stem / f"v{len(sample.versions)}.gzip"
    console.print(f"\n[bold]$ zcat {shlex.quote(str(copy))} | sha256sum[/]")
    content = subprocess.run(["zcat", copy], capture_output=True, check=True).stdout
    digest = hashlib.sha256(content).hexdigest()
    if content != sample.versions[-1]:
        raise DemoFailed(f"{digest} is not the hash of what was uploaded")
    console.print(f"{digest}  - the hash in its row; {len(content):,} bytes in {copy.stat().st_size:,}")


def stay_up(folder: Path, kit: Kit) -> None:
    """Wait for ^C, with the settings in a file for another terminal."""
    settings = folder / "environment"
    lines = [f"export {name}={shlex.quote(value)}" for name, value in kit.environment.items() if name.startswith("CBK_")]
    settings.touch(mode=0o600)
    settings.write_text("\n".join([*lines, f"PATH={shlex.quote(sysconfig.get_path('scripts'))}:$PATH"]) + "\n")
    wait_for_flower(kit)
    console.print(flower_line(kit))
    console.print(f"   another terminal: [bold]. {settings}[/] and then cbk ls, cbk status, celery -A cbk call cbk.poll")
    say("up until ^C")
    while True:
        signal.pause()


def wait_for_flower(kit: Kit) -> None:
    address = f"http://{LOOPBACK}:{kit.environment['CBK_FLOWER_PORT']}/healthcheck"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def answers() -> bool:
        try:
            with direct.open(address, timeout=2):
                return True
        except OSError:
            return False

    wait_until(answers, FLOWER_START_SECONDS, "Flower to answer")


if __name__ == "__main__":
    sys.exit(main())
