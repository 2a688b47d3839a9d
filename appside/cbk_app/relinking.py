"""Other links for all rows of a storage: permanent ones in place of those that die, or those of a new secret."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine, bindparam, select, update

from cbk_app.contract import object_key
from cbk_app.schema import FILES

PAGE_ROWS = 1000


@dataclass(slots=True)
class Relinked:
    """How many rows there are, and how many of them got another link."""

    rows: int = 0
    changed: int = 0


def relink(
    engine: Engine,
    storage: str,
    link: Callable[[str], str],
    *,
    dry_run: bool = False,
    report: Callable[[int], None] = lambda _: None,
) -> Relinked:
    """Give each row of `storage` the link of its key, a page in a transaction; `report` is told how many rows were read."""
    done = Relinked()
    columns = (FILES.c.Id, FILES.c.Path, FILES.c.Name, FILES.c.SignedDownloadUrl)
    change = update(FILES).where(FILES.c.Id == bindparam("row")).values(SignedDownloadUrl=bindparam("link"))
    last = None
    while True:
        page = select(*columns).where(FILES.c.Storage == storage).order_by(FILES.c.Id).limit(PAGE_ROWS)
        with engine.begin() as connection:
            rows = connection.execute(page if last is None else page.where(FILES.c.Id > last)).all()
            if not rows:
                return done
            fresh = [(row.Id, link(object_key(row.Path, row.Name)), row.SignedDownloadUrl) for row in rows]
            changes = [{"row": row_id, "link": new} for row_id, new, old in fresh if new != old]
            if changes and not dry_run:
                connection.execute(change, changes)
        done.rows += len(rows)
        done.changed += len(changes)
        last = rows[-1].Id
        report(done.rows)
