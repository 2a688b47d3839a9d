"""A site with mirrors: folders, and remotes of rclone that are folders."""

from contextlib import suppress
from datetime import timedelta

import pytest
import sqlalchemy as sa

from cbk.edges.catalog.database.schema import mirror_copies, mirror_disks
from cbk.errors import MirrorError
from cbk.jobs.mirror.run import run_pass
from tests.integration.mirror.remotes import crypt_over, rclone, write_config


class MirroredSite:
    """A site and its mirror `there`: a test is the worker itself."""

    name = "there"

    def __init__(self, site, place, kind, config=None):
        self.kind = kind
        self.site = site
        self.place = place
        self.config = config

    @property
    def context(self):
        return self.site.context

    def run(self, **options):
        """One pass by a worker; by a person, where `by_person` is said."""
        return run_pass(self.context, self.name, pause=lambda _seconds: False, **options)

    def try_to_run(self, **options):
        with suppress(MirrorError):
            self.run(**options)

    def standing(self):
        """The ledger's disks."""
        return self.context.catalog.mirrors.disks(self.name)

    def ledger(self):
        """The ledger's copies that are there, by location."""
        with self.context.catalog.database.reading() as connection:
            rows = connection.execute(sa.select(mirror_copies).where(mirror_copies.c.removed_at.is_(None))).all()
        return {row.location: row for row in rows}

    def lies_at(self, location):
        """The file that is this copy there, whatever it is called."""
        if self.kind != "crypt":
            return self.place / location
        named = rclone("cryptdecode", "--reverse", "secret:", location, config=self.config)
        return self.place / named.rstrip("\n").rpartition("\t")[2].strip()

    def pass_time(self, by):
        """Let graces on the mirror, and what was copied there, be older."""
        milliseconds = by // timedelta(milliseconds=1)
        with self.context.catalog.database.writing() as connection:
            for column in (mirror_copies.c.gone_at, mirror_copies.c.copied_at, mirror_copies.c.verified_at):
                moved = sa.type_coerce(sa.type_coerce(column, sa.BigInteger) - milliseconds, column.type)
                connection.execute(sa.update(mirror_copies).values({column.name: moved}))

    def absence(self, by):
        """Let the disks have been away for longer."""
        milliseconds = by // timedelta(milliseconds=1)
        with self.context.catalog.database.writing() as connection:
            moved = sa.type_coerce(
                sa.type_coerce(mirror_disks.c.seen_at, sa.BigInteger) - milliseconds, mirror_disks.c.seen_at.type
            )
            connection.execute(sa.update(mirror_disks).values(seen_at=moved))


def copies_in(folder):
    """Relative paths of all files in a folder outside `.cbk`."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".cbk" not in path.parts}


@pytest.fixture(params=["folder", "remote", "crypt"])
def kind(request):
    return request.param


@pytest.fixture
def make_mirrored(make_site, tmp_path, kind):
    """A function that makes a site with one mirror, whose settings may be added to."""

    def make(mirror=None, **settings):
        place = tmp_path / "mirror"
        place.mkdir(exist_ok=True)
        config = None
        if kind == "folder":
            where = {"path": str(place)}
        else:
            base = {"base": {"type": "alias", "remote": str(place)}}
            config = write_config(tmp_path / "rclone.conf", **base, secret=crypt_over("base:"))
            where = {"remote": "secret:" if kind == "crypt" else "base:", "config": str(config)}
        site = make_site(mirrors={"there": where | (mirror or {})}, **settings)
        return MirroredSite(site, place, kind, config)

    return make


@pytest.fixture
def mirrored(make_mirrored):
    return make_mirrored()
