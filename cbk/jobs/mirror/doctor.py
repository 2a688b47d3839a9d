"""What `cbk doctor` says of mirrors: whether each place can be reached, is what the ledger knows, and may be written, or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cbk.edges import host
from cbk.errors import CbkError
from cbk.jobs.admin.findings import DoctorFinding, fail, ok, warn
from cbk.jobs.context import Context
from cbk.jobs.mirror.places import MirrorPlace
from cbk.jobs.mirror.remote import RemotePlace
from cbk.jobs.mirror.run import places_of
from cbk.rules.mirror import MirrorDisk
from cbk.settings import Mirror

_PART = "mirrors"
PROBE = "doctor.txt"
_PROBE_TEXT = b"Written by `cbk doctor`, to see whether the key of this mirror can delete. It could not: as it should be.\n"
_APPEND_ONLY = "a key that cannot delete, or object lock: docs/mirror.md has both for each provider"


def look_at_mirrors(context: Context) -> Iterator[DoctorFinding]:
    """Each mirror that is configured; nothing where there is none."""
    for name, mirror in sorted(context.settings.mirrors.items()):
        known = context.catalog.mirrors.disks(name)
        found = [finding for place in places_of(context, mirror) for finding in _look_at(name, mirror, place, known)]
        # Of disks in rotation one is here, and the others are away, as they should be.
        away = [finding for finding in found if finding.hint]
        is_rotated = len(mirror.folders) > 1 and len(away) < len(found)
        yield from (finding for finding in found if not (is_rotated and finding in away))


def _look_at(name: str, mirror: Mirror, place: MirrorPlace, known: list[MirrorDisk]) -> Iterator[DoctorFinding]:
    if mirror.config is not None and (problem := _config_problem(mirror.config)):
        yield problem
    try:
        marker = place.marker()
    except CbkError as error:
        hint = error.hint or "plug it in, or see what `rclone lsd` says of the remote"
        yield fail(_PART, f"mirror {name}: {error.message}", hint)
        return
    disk = next((disk for disk in known if marker is not None and disk.identity == marker.identity), None)
    if disk is None:
        what = f"a disk of the mirror {marker.mirror} that the ledger does not know" if marker else "no disk of this mirror"
        begins = f"`cbk mirror {name} --init` makes it one" if known or marker else f"`cbk mirror {name}` begins"
        yield warn(_PART, f"mirror {name}: {place.where} is {what}", begins)
        return
    if not place.is_remote and not host.is_writable(Path(place.where)):
        hint = "who owns it, is it mounted read-only, and does the workers' unit name it in ReadWritePaths?"
        yield fail(_PART, f"mirror {name}: {place.where} is not writable", hint)
        return
    yield ok(_PART, f"mirror {name}: disk {disk.label} is at {place.where}")
    if mirror.append_only and isinstance(place, RemotePlace):
        yield _look_at_key(name, place)


def _look_at_key(name: str, place: RemotePlace) -> DoctorFinding:
    """Whether whoever holds this machine could remove what is there: tried on a file of the kit's own."""
    place.write_note(PROBE, _PROBE_TEXT)
    try:
        place.remove([f".cbk/{PROBE}"], tick=lambda: None)
    except CbkError:
        return ok(_PART, f"mirror {name}: its key cannot delete")
    if place.read_note(PROBE) is not None:
        return ok(_PART, f"mirror {name}: its key cannot delete")
    message = f"mirror {name} is append_only, and what lies there can be removed from view with its key"
    return warn(_PART, message, f"unless the provider keeps what is removed: {_APPEND_ONLY}")


def _config_problem(config: Path) -> DoctorFinding | None:
    try:
        mode = config.stat().st_mode
    except OSError as error:
        return fail(_PART, f"rclone's configuration {config} cannot be read: {error.strerror}", "see docs/mirror.md")
    if mode & 0o007:
        return warn(_PART, f"every user of this machine may read {config}", f"chown root:cbk {config} && chmod 640 {config}")
    return None
