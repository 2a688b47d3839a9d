"""How the mirrors stand, by the ledger: nothing is reached, listed or counted for it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from cbk.jobs.context import Context
from cbk.rules.mirror import Elsewhere, MirrorDisk, MirrorStanding, sum_up_elsewhere


def mirror_standings(context: Context, facts: Mapping[str, str]) -> list[MirrorStanding]:
    """Each mirror of the settings with its disks. `facts` are all of the catalog's. Raises CatalogError."""
    if not context.settings.mirrors:
        return []
    disks = context.catalog.mirrors.disks()
    return [
        MirrorStanding(
            name=name,
            disks=[disk for disk in disks if disk.mirror == name],
            every=mirror.every,
            away=mirror.away_after,
            problem=facts.get(f"mirror.{name}.problem", ""),
            passed_at=_instant(facts.get(f"mirror.{name}.passed_at")),
        )
        for name, mirror in sorted(context.settings.mirrors.items())
    ]


def elsewhere_object(mirrors: list[MirrorStanding]) -> dict[str, Any] | None:
    """How much is elsewhere, as JSON; None if there are no mirrors."""
    total = sum_up_elsewhere(mirrors)
    return None if total is None else _elsewhere(total) | {"mirrors": [mirror_object(mirror) for mirror in mirrors]}


def mirror_object(mirror: MirrorStanding) -> dict[str, Any]:
    """One mirror as JSON; docs/commands.md documents the shape."""
    return {"mirror": mirror.name, "problem": mirror.problem or None, "disks": [_disk(disk) for disk in mirror.disks]}


def _elsewhere(total: Elsewhere) -> dict[str, Any]:
    return {
        "places": total.places,
        "copies": total.copies,
        "held": total.held,
        "missing_since": _text(total.missing_since),
        "counted_at": _text(total.counted_at),
    }


def _disk(disk: MirrorDisk) -> dict[str, Any]:
    return {
        "disk": disk.label,
        "uuid": disk.identity,
        "held": disk.held,
        "missing": disk.missing,
        "missing_since": _text(disk.missing_since),
        "bad": disk.bad,
        "braked": disk.braked,
        "unknown": disk.unknown,
        "seen_at": _text(disk.seen_at),
        "counted_at": _text(disk.counted_at),
        "completed_at": _text(disk.completed_at),
    }


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _text(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant else None
