"""`manage.py cbk_import`: rows for the files that were saved before the storage was backed up."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from cbk_app.django.sources import engine_of, store_of
from cbk_app.django.storage import backed_up
from cbk_app.importing import WORKERS, Importer


class Command(BaseCommand):
    """Ends with 3 if some files could not be read."""

    help = "Write rows for the files of a storage that have none; safe to repeat, and to interrupt."

    def add_arguments(self, parser: CommandParser) -> None:
        """What may be said."""
        parser.add_argument("--alias", default="default", help="which of STORAGES (default)")
        parser.add_argument("--prefix", default="", help="only the files whose key begins like this")
        parser.add_argument("--workers", type=int, default=WORKERS)
        parser.add_argument("--dry-run", action="store_true", help="count, and change nothing")

    def handle(self, *_arguments: Any, **options: Any) -> None:
        """Import, and say what was done, as JSON."""
        storage = backed_up(options["alias"])
        engine = engine_of(storage.using)
        try:
            importer = Importer(
                store_of(storage),
                engine,
                storage=storage.rows_storage,
                link=storage.links.for_storage(storage.rows_storage),
                prefix=options["prefix"],
                workers=options["workers"],
            )
            if options["dry_run"]:
                survey = importer.survey()
                self.stdout.write(json.dumps({"objects": survey.objects, **{str(need): n for need, n in survey.needs.items()}}))
                return
            outcome = importer.run()
        finally:
            engine.dispose()
        done = {"recorded": outcome.recorded, "unchanged": outcome.unchanged, "failed": len(outcome.failed)}
        self.stdout.write(json.dumps(done))
        for key, reason in outcome.failed:
            self.stderr.write(f"{key!r}: {reason}")
        if outcome.failed:
            raise SystemExit(3)
