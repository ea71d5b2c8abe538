"""Horizontal bar charts as SVG, for a light and a dark page. Knows nothing of benchmarks.

Everything that is drawn has a class, and the colours of the classes are set once for each of the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 860
MARGIN = 24
PLOT_RIGHT = 190
"""Room for the text at the end of the longest bar."""
BAR = 14
GAP = 3
ROW_GAP = 12
CHARACTER = 7.0
"""How wide one is in the 12 px of a label, about."""
STYLE = """
text{font:12px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,'DejaVu Sans',sans-serif;fill:#1f2328}
.title{font-size:17px;font-weight:600}.heading{font-weight:600}.value{stroke:#ffffff;stroke-width:3;paint-order:stroke}.faint{fill:#59636e;font-size:11px}
.page{fill:#ffffff}.grid{stroke:#d1d9e0;stroke-width:1}.axis{stroke:#818b98;stroke-width:1}
.series0{fill:#2f6fd0}.series1{fill:#d97a1c}.series2{fill:#8250df}.series3{fill:#8c959f}
.target{stroke:#1a7f37;stroke-width:2.5}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.value{stroke:#0d1117}.faint{fill:#9198a1}.page{fill:#0d1117}
.grid{stroke:#2d333b}.axis{stroke:#656c76}.series0{fill:#5b9bf8}.series1{fill:#f0a04b}.series2{fill:#a371f7}
.series3{fill:#767f8a}.target{stroke:#3fb950}}
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """A value, the series that gives it its colour, and what is written at its end; `target` is marked by a line."""

    series: str
    value: float
    text: str
    target: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """The bars of one label."""

    label: str
    bars: Sequence[Bar]


@dataclass(frozen=True, slots=True)
class Panel:
    """Rows on one scale."""

    heading: str
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Chart:
    """A title, what the axes count, the circumstances, the names of the series, and the panels from top to bottom."""

    title: str
    axis: str
    circumstances: str
    series: Sequence[str]
    panels: Sequence[Panel]


def draw(chart: Chart) -> str:
    """The chart as an SVG document."""
    labels = [row.label for panel in chart.panels for row in panel.rows]
    left = MARGIN + 12 + CHARACTER * max(map(len, labels))
    parts, y = _head(chart)
    for panel in chart.panels:
        drawn, y = _panel(panel, chart.series, left, y)
        parts += drawn
    parts.append(_text(left, y + 4, chart.axis, "faint"))
    height = y + MARGIN
    about = escape(f"{chart.title}. {chart.axis}. {chart.circumstances}")
    size = f'width="{WIDTH}" height="{height:.0f}"'
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {WIDTH} {height:.0f}" role="img">',
        f"<title>{about}</title><style>{STYLE}</style>",
        f'<rect class="page" {size} rx="6"/>',
        *parts,
        "</svg>\n",
    ])  # fmt: skip


def _head(chart: Chart) -> tuple[list[str], float]:
    """Title, circumstances and legend, and where the panels begin."""
    parts = [_text(MARGIN, 34, chart.title, "title"), _text(MARGIN, 53, chart.circumstances, "faint")]
    x = float(MARGIN)
    for number, name in enumerate(chart.series):
        parts += [_rect(x, 65, 11, 11, number), _text(x + 16, 75, name)]
        x += 16 + CHARACTER * len(name) + 22
    if any(bar.target is not None for panel in chart.panels for row in panel.rows for bar in row.bars):
        parts += [f'<path class="target" d="M{x + 4:.1f} 63v14"/>', _text(x + 12, 75, "target")]
    return parts, 92.0


def _panel(panel: Panel, series: Sequence[str], left: float, y: float) -> tuple[list[str], float]:
    parts: list[str] = []
    if panel.heading:
        parts.append(_text(MARGIN, y + 12, panel.heading, "heading"))
        y += 22
    top, width = y, WIDTH - PLOT_RIGHT - left
    ticks = ticks_to(max(max(bar.value, bar.target or 0.0) for row in panel.rows for bar in row.bars))
    scale = width / ticks[-1]
    bars: list[str] = []
    for row in panel.rows:
        drawn, y = _row(row, series, left, y + ROW_GAP / 2, scale)
        bars += drawn
        y += ROW_GAP / 2
    for tick in ticks:
        x = left + tick * scale
        parts.append(f'<path class="{"grid" if tick else "axis"}" d="M{x:.1f} {top:.1f}V{y:.1f}"/>')
        parts.append(_text(x, y + 14, tick_text(tick), "faint", "middle"))
    return [*parts, *bars], y + 34


def _row(row: Row, series: Sequence[str], left: float, y: float, scale: float) -> tuple[list[str], float]:
    top, bars, texts = y, [], []
    for bar in row.bars:
        length = max(1.0, bar.value * scale)
        bars.append(_rect(left, y, length, BAR, series.index(bar.series)))
        if bar.target is not None:
            bars.append(f'<path class="target" d="M{left + bar.target * scale:.1f} {y - 1.5:.1f}v{BAR + GAP}"/>')
        texts.append(_text(_beside(left, length, bar, scale), y + BAR - 3, bar.text, "value"))
        y += BAR + GAP
    y -= GAP
    return [*bars, *texts, _text(left - 8, (top + y) / 2 + 4, row.label, "", "end")], y


def _beside(left: float, length: float, bar: Bar, scale: float) -> float:
    """Where the text of a bar begins: at its end, or behind the target where it would hide that."""
    begins = left + length + 6
    target = left + (bar.target or 0.0) * scale
    return target + 6 if begins - 6 < target < begins + CHARACTER * len(bar.text) + 6 else begins


def ticks_to(most: float) -> list[float]:
    """Round numbers from 0, about five of them, of which the last is not below `most`."""
    rough = (most or 1.0) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]


def tick_text(tick: float) -> str:
    """12,000 or 2.5M or 0.25."""
    if tick >= 1e6:
        return f"{tick / 1e6:g}M"
    return f"{tick:,.0f}" if tick >= 10 else f"{tick:g}"


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "") -> str:
    more = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(text)}</text>'


def _rect(x: float, y: float, width: float, height: float, series: int) -> str:
    return f'<rect class="series{series}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="2"/>'
