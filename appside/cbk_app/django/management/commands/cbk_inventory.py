"""`manage.py cbk_inventory`: a list of what a storage holds, put into it and backed up with the rest."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from cbk_app.django.sources import engine_of, store_of
from cbk_app.django.storage import backed_up
from cbk_app.inventory import put_inventory


class Command(BaseCommand):
    """To be run once a day."""

    help = "Put a list of what a storage holds into it, as an ordinary file with an ordinary row."

    def add_arguments(self, parser: CommandParser) -> None:
        """What may be said."""
        parser.add_argument("--alias", default="default", help="which of STORAGES (default)")

    def handle(self, *_arguments: Any, **options: Any) -> None:
        """Take the inventory, and say how many files it names, as JSON."""
        storage = backed_up(options["alias"])
        engine, store, taken_at = engine_of(storage.using), store_of(storage), timezone.now()
        link = storage.links.for_storage(storage.rows_storage)
        try:
            put = put_inventory(store, engine, store.objects(), storage=storage.rows_storage, link=link, taken_at=taken_at)
        finally:
            engine.dispose()
        self.stdout.write(json.dumps({"objects": put.objects, "version": put.recorded.version}))
