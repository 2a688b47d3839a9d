"""How values look on the page: what the templates call by name, and what is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from markupsafe import Markup, escape

from cbk.jobs.status.overview import Overview
from cbk.page.names import to_query
from cbk.page.sparkline import Line, draw
from cbk.rules.backup.bandwidth import describe_limit
from cbk.rules.status.health import describe_age
from cbk.rules.text.display import as_size, as_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A line with its title, and what it says in words: the value now, the lowest and the highest."""

    title: str
    now: str
    lowest: str
    highest: str
    line: Line


def graphs_of(overview: Overview) -> list[Graph]:
    """What is drawn; what there are too few samples of is not."""
    samples, status = overview.samples, overview.status
    instants = [sample.at for sample in samples]

    def graph(title: str, values: list[float], now: float, text: Callable[[float], str]) -> Iterator[Graph]:
        line = draw(list(zip(instants, values, strict=True)), from_zero=title == "Lag")
        if line is not None:
            yield Graph(title=title, now=text(now), lowest=text(line.lowest), highest=text(line.highest), line=line)

    return [
        *graph("Lag", [sample.lag.total_seconds() for sample in samples], status.lag.total_seconds(), _span),
        *graph("Files", [float(sample.files) for sample in samples], status.counts.files, "{:,.0f}".format),
        *graph("On the disk", [float(sample.stored_size) for sample in samples], status.counts.stored_size, _size),
        *graph("Free", [float(sample.free) for sample in samples], status.disk.usage.free, _size),
    ]


def marked(text: str) -> Markup:
    """A hint for people, with what stands between backticks as code."""
    parts = as_text(text).split("`")
    if len(parts) % 2 == 0:
        return escape(as_text(text))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part) for place, part in enumerate(parts)
    )


def _span(seconds: float) -> str:
    return describe_age(timedelta(seconds=seconds))


def _size(count: float) -> str:
    return as_size(int(count))


def _instant(value: datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S} UTC"


def _query(values: dict[str, object]) -> str:
    return to_query(**values)


FILTERS: dict[str, Callable[..., object]] = {
    "age": describe_age,
    "count": "{:,}".format,
    "instant": _instant,
    "limit": describe_limit,
    "marked": marked,
    "query": _query,
    "shown": as_text,
    "size": as_size,
}
