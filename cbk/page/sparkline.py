"""Lines of numbers over time, as an SVG's points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

WIDTH, HEIGHT = 600, 80
# More points than that are not told apart.
POINTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """`points` is an SVG polyline's, within `WIDTH` by `HEIGHT`; between `first` and `last`; `lowest` and `highest` value."""

    points: str
    first: datetime
    last: datetime
    lowest: float
    highest: float


def draw(values: Sequence[tuple[datetime, float]], *, from_zero: bool = False) -> Line | None:
    """The line through values in the order of time; None where there are fewer than two instants.

    Of values that would be on one point, the highest is shown: a lag that was high for an hour is not lost. `from_zero`: the lower
    edge is 0, not the lowest value.
    """
    if len(values) < 2 or values[-1][0] <= values[0][0]:
        return None
    first, span = values[0][0], values[-1][0] - values[0][0]
    columns: dict[int, float] = {}
    for at, value in values:
        column = round((at - first) / span * (POINTS - 1))
        columns[column] = max(value, columns.get(column, value))
    lowest, highest = min(columns.values()), max(columns.values())
    bottom = min(0.0, lowest) if from_zero else lowest
    height = (highest - bottom) or 1.0
    points = " ".join(
        f"{column / (POINTS - 1) * WIDTH:.1f},{HEIGHT - 1 - (value - bottom) / height * (HEIGHT - 2):.1f}"
        for column, value in sorted(columns.items())
    )
    return Line(points=points, first=first, last=values[-1][0], lowest=lowest, highest=highest)
