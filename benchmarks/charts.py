"""Results as bar charts: which ones there are, and what is on them. `svg.py` draws them.

`floor` shows how near each case comes to its floor, `savina` and `peers` the rates themselves; the event loops stand
side by side. For the transport the ways of a request do, in charts of each loop: `rates`, `cpu`, the time that a
request takes of each process, and `open`, how long one takes where so many a second are due.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    "SQLite": "SQLite",
    "PostgreSQL": "PostgreSQL",
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
    made = [(name, make(results)) for name, make in makers]
    for loop in _distinct(result.loop for result in results):
        of_loop = [result for result in results if result.loop == loop]
        for name, make in (("rates", rates_chart), ("cpu", cpu_chart), ("open", open_chart)):
            made.append((f"{name}-{loop}", make(of_loop)))
    return [(name, chart) for name, chart in made if chart is not None]


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


def rates_chart(results: Sequence[Result]) -> Chart | None:
    """Requests a second between two processes, by what they are made with. The target is that beside nats-py."""
    shown = [r for r in results if r.unit == "1/s" and r.group.startswith("beside ")]
    if not shown:
        return None
    ways = [shown[0].more["way"], *_distinct(result.more["other"] for result in shown)]
    panels: dict[str, list[Row]] = {}
    for case in _distinct(result.more["request"] for result in shown):
        of_case = [result for result in shown if result.more["request"] == case]
        first = of_case[0]
        aim = first.target.bound * first.floor if first.target else None
        others = [Bar(r.more["other"], r.floor, f"{number(r.floor)}  (mbactor {number(r.ratio)} x)") for r in of_case]
        size, _, row = case.partition(", ")
        panels.setdefault(size, []).append(Row(row, [Bar(ways[0], first.value, number(first.value), aim), *others]))
    axis = "Requests a second, two processes: more is better"
    return _chart(f"Transport: requests a second, {shown[0].loop}", axis, _panels(panels), shown, ways)


def cpu_chart(results: Sequence[Result]) -> Chart | None:
    """Where the CPU time of a request goes: the process that asks, the server, the one that answers."""
    shown = [result for result in results if result.group == "CPU a request"]
    if not shown:
        return None
    sides = ["asker", "server", "taker"]
    panels = {}
    for result in shown:
        rows = []
        for way, prefix, total in (
            (result.more["way"], "", result.value),
            (result.more["other"], "floor_", result.floor),
        ):
            spent = [(side, result.more[f"{prefix}{side}_us"]) for side in sides]
            rows.append(Row(f"{way}: {number(total)} us", [Bar(side, us, number(us)) for side, us in spent]))
        panels[result.more["request"]] = rows
    axis = "CPU time of a request in each process, us: less is better"
    return _chart(f"Transport: CPU time of a request, {shown[0].loop}", axis, _panels(panels), shown, sides)


def open_chart(results: Sequence[Result]) -> Chart | None:
    """How long a request takes where so many a second are due, whatever is still on its way."""
    shown = [result for result in results if result.group == "open loop" and result.unit == "us"]
    if not shown:
        return None
    ways = [shown[0].more["way"], shown[0].more["other"]]
    panels: dict[str, list[Row]] = {}
    for result in shown:
        offered, _, figure = result.case.rpartition(", ")
        bars = [
            Bar(way, us / 1e3, number(us / 1e3)) for way, us in zip(ways, (result.value, result.floor), strict=True)
        ]
        panels.setdefault(offered, []).append(Row(figure, bars))
    axis = "ms from the moment it was due to its answer: less is better"
    return _chart(f"Transport: open loop, {shown[0].loop}", axis, _panels(panels), shown, ways)


def _panels(rows: Mapping[str, list[Row]]) -> list[Panel]:
    return [Panel(heading, of) for heading, of in rows.items()]


def _chart(
    title: str, axis: str, panels: list[Panel], shown: Sequence[Result], series: Sequence[str] | None = None
) -> Chart:
    """A chart whose bars are named by the event loop, or by `series`."""
    about = shown[0].machine
    quick = "a quick run: the figures mean little; " if shown[0].quick else ""
    told = f"{quick}{clock.utcnow():%Y-%m-%d}; {about['machine']}; {about['python']}; mbactor {about['mbactor']}"
    return Chart(title, axis, told, series or _distinct(result.loop for result in shown), panels)


def _cases(results: Sequence[Result]) -> list[str]:
    return _distinct(result.case for result in results)


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
