"""Files that an earlier release called otherwise get the key that their rows have.

Such a release dropped more slashes than one: `/cars//x.png` was `cars/x.png` to it. Only a row says which key a file has, so this
is done as rows are read. The file keeps its place on the disk, and its copies stay as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from cbk.jobs.context import Context
from cbk.model import AcceptedRow, DeclinedRow, SourceRow
from cbk.rules.intake.intake import FileName, KnownVersion
from cbk.rules.intake.layout import former_key, object_key
from cbk.rules.intake.rows import name_of, read_row

# Forgotten, so that the journal is written anew: it names files.
_JOURNAL_WRITTEN = "journal.written"


def former_name(row: SourceRow) -> FileName | None:
    """What an earlier release called the row's file, if that was something else and the row's own name makes sense."""
    if not isinstance(row.name, str) or not isinstance(row.path, str | None):
        return None
    former = former_key(row.path or "", row.name)
    if former in {"", object_key(row.path or "", row.name)}:
        return None
    name = name_of(row)
    return None if name is None else (name[0], former)


def rename_files(context: Context, rows: Iterable[SourceRow]) -> None:
    """Rename the files that the catalog still calls as an earlier release did, if these rows are theirs.

    If rows of several keys were taken for one file, it keeps the key that it has, if that is a row's; the others' files are new.
    Raises SourceError or CatalogError.
    """
    read = {row.id: row for row in rows}
    formers = {name for row in read.values() if (name := former_name(row)) is not None}
    if not formers:
        return
    names = {name for row in read.values() if (name := name_of(row)) is not None}
    known = context.catalog.names.files_named(formers | names)
    news = {former for row in read.values() if (former := former_name(row)) in known and name_of(row) not in known}
    wanted = {former: known[former] for former in news if former is not None}
    renamed = _new_keys(context, _claims(context, wanted, read)) if wanted else {}
    if renamed:
        context.catalog.names.rename(renamed)
        context.catalog.facts.set(**{_JOURNAL_WRITTEN: None})


def _claims(
    context: Context, wanted: Mapping[FileName, int], read: Mapping[str, SourceRow]
) -> dict[FileName, list[AcceptedRow | DeclinedRow]]:
    """The rows that were taken for each of these files, or would have been, or are its own."""
    of_files = context.catalog.rows.of_files(wanted.values())
    present = {entry.source_id for entries in of_files.values() for entry in entries if entry.present}
    others = context.source.rows(sorted(present - read.keys())) if present - read.keys() else {}
    claims: dict[FileName, list[AcceptedRow | DeclinedRow]] = defaultdict(list)
    for row in (*read.values(), *others.values()):
        claimed = former_name(row) or name_of(row)
        if claimed in wanted and claimed is not None:
            claims[claimed].append(read_row(row))
    return claims


def _new_keys(context: Context, claims: Mapping[FileName, Iterable[AcceptedRow | DeclinedRow]]) -> dict[FileName, str]:
    """The key that each file gets; none for those of which a row has the key that they have, or none has brought a version."""
    accepted = {name: [row for row in rows if isinstance(row, AcceptedRow)] for name, rows in claims.items()}
    numbers = {row.number for rows in accepted.values() for row in rows}
    versions = context.catalog.intake.known_versions(accepted, numbers)
    renamed = {}
    for name, rows in accepted.items():
        brought = [row for row in rows if any(_has_brought(row, version) for version in versions.get(name, ()))]
        if brought and all(row.key != name[1] for row in claims[name]):
            renamed[name] = max(brought, key=lambda row: (row.number, row.key)).key
    return renamed


def _has_brought(row: AcceptedRow, version: KnownVersion) -> bool:
    # After a rebuild, no row has brought any version.
    is_its_row = row.source_id in version.live_rows or not version.live_rows
    return row.sha256 != "" and (row.number, row.sha256) == (version.number, version.sha256) and is_its_row
