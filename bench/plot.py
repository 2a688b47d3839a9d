"""A bar for each contender in each of the three corpora, as SVG."""

from __future__ import annotations

from html import escape

from bench.results import Run, Spread, spread

SHOWN = {
    "small": ("files_per_second", "small files: files/s"),
    "medium": ("mb_per_second", "files of 5 MB: MB/s"),
    "large": ("mb_per_second", "files of 1 GB: MB/s"),
}
WIDTH, LEFT, RIGHT, BAR, GAP, HEAD = 760, 150, 130, 18, 7, 34
# Readable on white and on black.
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#808890}.t{font-weight:600}"
    ".us{fill:#2f81c7}.it{fill:#9aa4ae}.w{stroke:#59636e;stroke-width:1.5}"
)


def plot(runs: list[Run]) -> str:
    """The bars end at the medians; a line goes from the least to the greatest."""
    parts: list[str] = []
    top = 0.0
    for case, (figure, title) in SHOWN.items():
        names = dict.fromkeys(
            run.contender for run in sorted(runs, key=lambda run: not run.contender.startswith("us")) if run.case == case
        )
        found = {name: spread(runs, case, name, figure) for name in names}
        known = {name: each for name, each in found.items() if each}
        if known:
            parts.append(f'<text class="t" x="0" y="{top + 20:.0f}">{escape(title)}</text>')
            parts += _bars(known, top + HEAD)
            top += HEAD + len(known) * (BAR + GAP) + 12
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {max(top, 1):.0f}" width="{WIDTH}" role="img">'
    return "\n".join([head, f"<style>{STYLE}</style>", *parts, "</svg>"]) + "\n"


def _bars(found: dict[str, Spread], top: float) -> list[str]:
    scale = (WIDTH - LEFT - RIGHT) / max(each.highest for each in found.values())
    lines = []
    for number, (name, each) in enumerate(found.items()):
        y = top + number * (BAR + GAP)
        end, middle = LEFT + each.highest * scale, y + BAR / 2
        kind = "us" if name.startswith("us") else "it"
        lines += [
            f'<text x="0" y="{middle + 4:.1f}">{escape(name)}</text>',
            f'<rect class="{kind}" x="{LEFT}" y="{y:.1f}" width="{each.middle * scale:.1f}" height="{BAR}"/>',
            f'<line class="w" x1="{LEFT + each.lowest * scale:.1f}" y1="{middle:.1f}" x2="{end:.1f}" y2="{middle:.1f}"/>',
            f'<text x="{end + 6:.1f}" y="{middle + 4:.1f}">{each.middle:,.0f}</text>',
        ]
    return lines
