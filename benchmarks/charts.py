"""Results as bar charts: which ones there are, and what is on them. `svg.py` draws them.

`floor` shows how near each case comes to its floor, `savina` and `peers` the rates themselves. The event loops
stand side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.harness import Result
from benchmarks.report import number
from benchmarks.svg import Bar, Chart, Panel, Row, draw
from mbactor import clock

FLOOR_GROUPS = {
    "": "",
    "messages": "Beside bare asyncio, doing the same",
    "features": "With a feature, beside the same message without it",
    "restarts": "Restarts, beside bare tasks that raise and are created anew",
    "trees": "Trees, beside as many bare tasks that are created and cancelled",
}
"""The groups whose ratios are shares of a speed, and their headings."""
LEAST = {
    "actors": "Share of the speed of what it stands beside: 1 is as quick, more is better",
    "flows": "Times the speed of one commit a step: 1 is as quick, more is better",
    "supervision": "Share of the speed of bare tasks: 1 is as quick, more is better",
}


def write(results: Sequence[Result], folder: Path) -> list[Path]:
    """Write the charts that there are results for; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, chart in charts_of(results):
        file = folder / f"{results[0].benchmark}-{name}.svg"
        file.write_text(draw(chart), encoding="utf-8")
        written.append(file)
    return written


def charts_of(results: Sequence[Result]) -> list[tuple[str, Chart]]:
    """The charts and their names; none without its results."""
    makers = (("floor", floor_chart), ("savina", savina_chart), ("peers", peers_chart))
    return [(name, chart) for name, make in makers if (chart := make(results)) is not None]


def floor_chart(results: Sequence[Result]) -> Chart | None:
    """Each case's share of its floor's speed, whichever way its figure is read."""
    shown = [result for result in results if result.group in FLOOR_GROUPS]
    if not shown:
        return None
    benchmark = shown[0].benchmark
    panels = [
        Panel(heading, [Row(case, [share_of(r) for r in of if r.case == case]) for case in _cases(of)])
        for group, heading in FLOOR_GROUPS.items()
        if (of := [result for result in shown if result.group == group])
    ]
    return _chart(f"{benchmark.title()}: speed beside the floor", LEAST[benchmark], panels, shown)


def share_of(result: Result) -> Bar:
    """A bar as long as the share of the floor's speed, with the figure beside it and the target on the same scale."""
    bound = result.target.bound if result.target and result.target.of == "ratio" else None
    target = 1 / bound if bound and result.better == "lower" else bound
    amount = number(result.value) + (f" {result.unit}").replace(" 1/s", "/s")
    return Bar(result.loop, share(result), f"{number(share(result))}  ({amount})", target)


def share(result: Result) -> float:
    """The ratio, turned so that more is better."""
    return result.ratio if result.better == "higher" else 1 / result.ratio


def savina_chart(results: Sequence[Result]) -> Chart | None:
    """The rate of each of Savina's benchmarks, and that of bare tasks."""
    shown = [result for result in results if result.group == "Savina"]
    if not shown:
        return None
    panels = []
    for case in _cases(shown):
        of_case = [result for result in shown if result.case == case]
        ours = [Bar(r.loop, r.value, f"{number(r.value)}  ({number(r.ratio)} of bare asyncio)") for r in of_case]
        floors = [Bar(r.loop, r.floor, number(r.floor)) for r in of_case]
        heading = f"{case}: {of_case[0].more['size']}, {of_case[0].unit}"
        panels.append(Panel(heading, [Row("mbactor", ours), Row("bare asyncio", floors)]))
    return _chart("Actors: Savina's benchmarks", "Messages (or actors) a second: more is better", panels, shown)


def peers_chart(results: Sequence[Result]) -> Chart | None:
    """The rates of tells and asks, here and in other libraries. The target is that beside the first of them."""
    shown = [result for result in results if result.group == "peers"]
    if not shown:
        return None
    panels = []
    for kind in _distinct(result.more["kind"] for result in shown):
        of_kind = [result for result in shown if result.more["kind"] == kind]
        first = of_kind[0].more["peer"]
        ours = [
            Bar(r.loop, r.value, number(r.value), r.target.bound * r.floor if r.target else None)
            for r in of_kind
            if r.more["peer"] == first
        ]
        rows = [Row("mbactor", ours)]
        for peer in _distinct(result.more["peer"] for result in of_kind):
            bars = [
                Bar(r.loop, r.floor, f"{number(r.floor)}  (mbactor {number(r.ratio)} times)")
                for r in of_kind
                if r.more["peer"] == peer
            ]
            rows.append(Row(peer, bars))
        panels.append(Panel("tells a second" if kind == "tell" else "asks a second, one at a time", rows))
    aims = [f"; the target is {r.target.bound:g} times {r.more['peer']}" for r in shown if r.target]
    axis = "Messages a second: more is better" + "".join(_distinct(aims))
    return _chart("Actors: beside other libraries", axis, panels, shown)


def _chart(title: str, axis: str, panels: list[Panel], shown: Sequence[Result]) -> Chart:
    about = shown[0].machine
    quick = "a quick run: the figures mean little; " if shown[0].quick else ""
    told = f"{quick}{clock.utcnow():%Y-%m-%d}; {about['machine']}; {about['python']}; mbactor {about['mbactor']}"
    return Chart(title, axis, told, _distinct(result.loop for result in shown), panels)


def _cases(results: Sequence[Result]) -> list[str]:
    return _distinct(result.case for result in results)


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
