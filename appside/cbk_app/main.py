"""The command `cbk-app`, which runs where the application runs.

Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 done but for the items that are listed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

from sqlalchemy.exc import SQLAlchemyError

from cbk_app import relinking
from cbk_app.errors import AppError, AppUsageError
from cbk_app.importing import WORKERS, Importer, Need, Outcome, Survey
from cbk_app.inventory import Inventory, put_inventory, read_s3_inventory
from cbk_app.links import Links, new_secret
from cbk_app.rows import describe, open_database
from cbk_app.schema import DIALECTS, ddl, grants
from cbk_app.stores import open_store
from cbk_app.stores.store import Store

DATABASE = "CBKAPP_DATABASE_URL"
LINKS_URL = "CBKAPP_LINKS_URL"
LINKS_SECRETS = "CBKAPP_LINKS_SECRETS"

SHOWN_FAILURES = 20
DAY_SECONDS = 86_400
_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except AppError as error:
        print(f"{error}", file=sys.stderr)
        if error.hint:
            print(f"HINT: {error.hint}", file=sys.stderr)
        return error.exit_code
    except SQLAlchemyError as error:
        described = describe(error)
        print(f"{described}\nHINT: {described.hint}", file=sys.stderr)
        return described.exit_code
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cbk-app", description="The application's side of Cloud Backup Kit: rows for what is in the bucket.", epilog=__doc__
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_import(commands)
    _add_inventory(commands)
    _add_relink(commands)
    _add_schema(commands)
    secret = commands.add_parser("secret", help=f"print a new secret for {LINKS_SECRETS}")
    secret.set_defaults(run=lambda _: print(new_secret()) or 0)
    return parser


def _command(commands: Any, name: str, summary: str, example: str, run: Callable[[argparse.Namespace], int]) -> Any:
    command = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _add_store(command: Any) -> None:
    command.add_argument("store", metavar="STORE", help="s3://bucket or azure://account/container")
    command.add_argument("--endpoint", metavar="URL", help="an S3 service that is not Amazon's, or another Azure")
    command.add_argument("--prefix", default="", help="only the objects whose key begins like this")
    _add_rows(command)
    command.add_argument("--signed-for", type=_days, metavar="7d", help="links that the storage signs, instead of permanent ones")


def _add_rows(command: Any) -> None:
    command.add_argument("--storage", help="the rows' Storage; as the bucket or container is called unless you say otherwise")
    command.add_argument("--database", metavar="URL", help=f"the application's database, as SQLAlchemy writes it; else {DATABASE}")
    command.add_argument("--links", metavar="URL", help=f"where permanent links are answered; else {LINKS_URL}")
    command.add_argument("--dry-run", action="store_true", help="count, and change nothing")
    command.add_argument("--json", action="store_true", help="one object with what was done")


# import


def _add_import(commands: Any) -> None:
    example = "cbk-app import s3://car-erp --storage s3 --links https://app.example.com/cbk-links"
    command = _command(commands, "import", "write rows for the objects that have none", example, _import)
    _add_store(command)
    command.add_argument("--workers", type=_at_least_one, default=WORKERS, help="how many objects are read at once (%(default)s)")
    command.add_argument("--bandwidth", type=_size, metavar="20M", help="bytes a second that are read at most, by all together")


def _import(options: argparse.Namespace) -> int:
    store, storage = open_store(options.store, endpoint=options.endpoint), _storage(options)
    engine = open_database(_setting(options.database, DATABASE, "--database"))
    link = str if options.dry_run else _link(options, storage, store)
    importer = Importer(
        store,
        engine,
        storage=storage,
        link=link,
        prefix=options.prefix,
        workers=options.workers,
        bytes_per_second=options.bandwidth,
    )
    try:
        progress = Progress(sys.stderr)
        survey = importer.survey(lambda found: progress.show(f"{found.objects:,} objects listed"))
        progress.clear()
        if options.dry_run:
            _say(options, _surveyed(survey), _surveyed_text(survey))
            return 3 if survey.unnameable else 0
        outcome = importer.run(lambda done: progress.show(_progress_text(survey, done, progress.seconds)))
        progress.clear()
    finally:
        engine.dispose()
    done = {**_surveyed(survey), **_done(outcome)}
    _say(options, done, f"{outcome.recorded:,} rows written, {outcome.bytes_read:,} bytes read, {len(outcome.failed):,} failed")
    _print_failures(outcome.failed)
    return 3 if outcome.failed else 0


def _surveyed(survey: Survey) -> dict[str, object]:
    needs = {need.value: count for need, count in survey.needs.items()}
    return {"objects": survey.objects, **needs, "bytes_to_read": survey.bytes}


def _surveyed_text(survey: Survey) -> str:
    needs = survey.needs
    return "\n".join(
        (
            f"{survey.objects:>12,} objects",
            f"{needs[Need.NOTHING]:>12,} have a row",
            f"{needs[Need.ROW]:>12,} have none and would get one",
            f"{needs[Need.LOOK]:>12,} were written after their row and would be looked at",
            f"{needs[Need.DELETED]:>12,} are logged as deleted and would stay so",
            f"{needs[Need.UNNAMEABLE]:>12,} cannot be named by a row",
            f"{survey.bytes:>12,} bytes would be read, unless the storage knows their SHA-256",
        )
    )


def _done(outcome: Outcome) -> dict[str, object]:
    return {
        "recorded": outcome.recorded,
        "unchanged": outcome.unchanged,
        "gone": outcome.gone,
        "hashed_by_store": outcome.by_store,
        "bytes_read": outcome.bytes_read,
        "failed": [{"key": key, "reason": reason} for key, reason in outcome.failed],
    }


def _progress_text(survey: Survey, done: Outcome, seconds: float) -> str:
    finished = done.recorded + done.unchanged + done.gone + len(done.failed)
    rate = finished / seconds if seconds > 0 else 0
    left = f"{(survey.to_read - finished) / rate:,.0f} s left" if rate else "…"
    megabytes = done.bytes_read / 1e6 / seconds if seconds > 0 else 0
    return f"{finished:,} of {survey.to_read:,} objects, {rate:,.0f} a second, {megabytes:,.1f} MB/s, {left}"


# inventory


def _add_inventory(commands: Any) -> None:
    example = "cbk-app inventory s3://car-erp --storage s3 --links https://app.example.com/cbk-links"
    summary = "put a list of what the bucket holds into it, to be backed up with the rest"
    command = _command(commands, "inventory", summary, example, _inventory)
    _add_store(command)
    command.add_argument("--s3-inventory", metavar="s3://bucket/…/manifest.json", help="take Amazon's own list instead of listing")


def _inventory(options: argparse.Namespace) -> int:
    store, storage = open_store(options.store, endpoint=options.endpoint), _storage(options)
    taken_at = datetime.now(UTC)
    if options.s3_inventory:
        taken_at, objects = _amazons_list(options)
    else:
        objects = store.objects(options.prefix)
    if options.dry_run:
        count = sum(1 for _ in objects)
        _say(options, {"objects": count}, f"{count:,} objects would be listed")
        return 0
    engine = open_database(_setting(options.database, DATABASE, "--database"))
    try:
        link = _link(options, storage, store)
        put = put_inventory(store, engine, objects, storage=storage, link=link, taken_at=taken_at, prefix=options.prefix)
    finally:
        engine.dispose()
    _say(options, _put(put), f"an inventory of {put.objects:,} objects was put into the bucket: version {put.recorded.version}")
    return 0


def _amazons_list(options: argparse.Namespace) -> tuple[datetime, Any]:
    bucket, _, key = options.s3_inventory.removeprefix("s3://").partition("/")
    lists: Any = open_store(f"s3://{bucket}", endpoint=options.endpoint)
    with lists.fetch(key) as manifest:
        return read_s3_inventory(manifest.read(), lists.fetch)


def _put(put: Inventory) -> dict[str, object]:
    return {"objects": put.objects, "row": str(put.recorded.id), "version": put.recorded.version}


# relink


def _add_relink(commands: Any) -> None:
    example = "cbk-app relink --storage s3 --links https://app.example.com/cbk-links"
    summary = "give all rows of a storage permanent links, signed with the first secret"
    command = _command(commands, "relink", summary, example, _relink)
    _add_rows(command)


def _relink(options: argparse.Namespace) -> int:
    if not options.storage:
        raise AppUsageError("which storage?", hint="--storage s3")
    engine = open_database(_setting(options.database, DATABASE, "--database"))
    progress = Progress(sys.stderr)
    try:
        done = relinking.relink(
            engine,
            options.storage,
            _links(options).for_storage(options.storage),
            dry_run=options.dry_run,
            report=lambda rows: progress.show(f"{rows:,} rows"),
        )
    finally:
        engine.dispose()
    progress.clear()
    _say(options, {"rows": done.rows, "changed": done.changed}, f"{done.changed:,} of {done.rows:,} rows have another link now")
    return 0


# schema


def _add_schema(commands: Any) -> None:
    summary = "print both tables, and the user that may only read them"
    command = _command(commands, "schema", summary, "cbk-app schema postgresql | psql app", _schema)
    command.add_argument("dialect", choices=DIALECTS)
    command.add_argument("--user", default="cbk_reader", help="the restricted user's name (%(default)s)")


def _schema(options: argparse.Namespace) -> int:
    print(ddl(options.dialect))
    print(grants(options.dialect, user=options.user), end="")
    return 0


# What they share


def _storage(options: argparse.Namespace) -> str:
    return str(options.storage or options.store.rstrip("/").rpartition("/")[2])


def _setting(option: str | None, name: str, flag: str) -> str:
    value = option or os.environ.get(name)
    if not value:
        raise AppUsageError(f"{name} is not set", hint=f"or give {flag}")
    return value


def _secrets() -> list[str]:
    # Never an option: what stands on a command line can be seen by everybody on the machine.
    return [secret for secret in _setting(None, LINKS_SECRETS, "one: `cbk-app secret` makes it").split(",") if secret]


def _links(options: argparse.Namespace) -> Links:
    return Links(_setting(options.links, LINKS_URL, "--links"), secrets=_secrets())


def _link(options: argparse.Namespace, storage: str, store: Store) -> Callable[[str], str]:
    if options.signed_for:
        return lambda key: store.sign(key, options.signed_for * DAY_SECONDS)
    return _links(options).for_storage(storage)


def _days(text: str) -> int:
    number = text.removesuffix("d")
    if not number.isdigit() or not int(number):
        raise argparse.ArgumentTypeError("a number of days, such as 7d")
    return int(number)


def _at_least_one(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError("a number from 1 on")
    return int(text)


def _size(text: str) -> float:
    number, unit = (text[:-1], text[-1].lower()) if text[-1:].isalpha() else (text, "")
    try:
        size = float(number) * (_UNITS[unit] if unit else 1)
    except (KeyError, ValueError):
        size = 0
    if size <= 0:
        raise argparse.ArgumentTypeError("bytes a second, such as 20M")
    return size


def _say(options: argparse.Namespace, facts: dict[str, object], text: str) -> None:
    print(json.dumps(facts) if options.json else text)


def _print_failures(failed: list[tuple[str, str]]) -> None:
    for key, reason in failed[:SHOWN_FAILURES]:
        print(f"{key!r}: {reason}", file=sys.stderr)
    if len(failed) > SHOWN_FAILURES:
        print(f"and {len(failed) - SHOWN_FAILURES:,} more; --json has them all", file=sys.stderr)


class Progress:
    """One line on a terminal, and nothing elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began = self._shown = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def show(self, text: str) -> None:
        """Show this line in place of the last one, at most five times a second."""
        if self._stream.isatty() and time.monotonic() - self._shown > 0.2:
            self._shown = time.monotonic()
            print(f"\r\033[K{text}", end="", file=self._stream, flush=True)

    def clear(self) -> None:
        """Leave nothing of the line, and count seconds from now."""
        self._began = time.monotonic()
        if self._stream.isatty():
            print("\r\033[K", end="", file=self._stream, flush=True)
