"""Results as a table for people and as JSON lines for programs, and the change since another run."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.harness import Better, Result

Key = tuple[str, str, str]
"""Benchmark, case, loop."""
NOISE = 0.05
"""A change within it gets no colour."""
BASES = {
    "features": "bare",
    "a bad client": "alone",
    "peers": "peer",
    "beside nats-py": "nats-py",
    "beside HTTP/1.1": "HTTP",
    "CPU a request": "nats-py",
    "cores awake": "nats-py",
    "coalescing": "off",
    "open loop": "raw",
    "in one process": "published",
}
"""What the results of a group stand beside, where it is no floor."""
BESIDE = (
    "p50_ms", "p95_ms", "p99_ms", "mean_us", "p50_us", "p99_us", "floor_p50_us", "floor_p99_us",
    "asker_us", "server_us", "taker_us", "floor_asker_us", "floor_server_us", "floor_taker_us",
    "cpu_us", "floor_cpu_us",
)  # fmt: skip
"""What is shown beside a figure, where it was measured: p99 next to the mean."""
NOTES = ("fault", "note")


class Former(msgspec.Struct):
    """What a line of another run's JSON is read for."""

    benchmark: str
    case: str
    value: float
    unit: str
    loop: str = "asyncio"
    machine: str = ""
    quick: bool = False


def to_json(result: Result) -> str:
    """One line. What a case has beside its figure, and the circumstances, are keys of their own."""
    line: dict[str, Any] = asdict(result)
    more, about = line.pop("more"), line.pop("machine")
    return json.dumps({**line, "met": result.met, **more, **about})


def read_former(file: Path) -> dict[Key, Former]:
    """The results of a `--json` output. ValueError says which line is none."""
    found: dict[Key, Former] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                former = msgspec.json.decode(line, type=Former)
            except msgspec.MsgspecError as error:
                raise ValueError(f"line {number} is no result of --json: {error}") from None
            found[former.benchmark, former.case, former.loop] = former
    return found


def change(result: Result, former: Mapping[Key, Former]) -> float | None:
    """The value's change since the former run, as a fraction; None where that has no such case."""
    before = former.get((result.benchmark, result.case, result.loop))
    if before is None or before.unit != result.unit or not before.value:
        return None
    return result.value / before.value - 1


def write(
    results: Sequence[Result],
    *,
    as_json: bool,
    former: Mapping[Key, Former] | None,
    skipped: Sequence[str] = (),
) -> None:
    """Print one event loop's results, and what could not be measured: beside JSON, on stderr."""
    if as_json:
        for result in results:
            extra = {} if former is None else {"change": change(result, former)}
            print(json.dumps(json.loads(to_json(result)) | extra), flush=True)
        for note in skipped:
            print(note, file=sys.stderr, flush=True)
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    for group in dict.fromkeys(result.group for result in results):
        of_group = [result for result in results if result.group == group]
        console.print(table_of(of_group, former))
        for note in notes(of_group):
            console.print(note, highlight=False)
        console.print()
    if results:
        console.print(circumstances(results[0]), highlight=False)
    for note in [*of_the_run(results, former), *skipped]:
        console.print(note, highlight=False)
    console.print()


def table_of(results: Sequence[Result], former: Mapping[Key, Former] | None) -> Table:
    """One group's table; a column that would be empty is left out."""
    first = results[0]
    title = f"{first.benchmark} on {first.loop}" + (f": {first.group}" if first.group else "")
    table = Table(title=title, title_justify="left")
    shown = [name for name in BESIDE if any(name in result.more for result in results)]
    aims = any(result.target for result in results)
    sized = any("size" in result.more for result in results)
    table.add_column("case")
    for heading, there in (("size", sized), ("value", True), ("unit", True), (beside_what(first.group), True)):
        if there:
            table.add_column(heading, justify="left" if heading in {"unit", "size"} else "right")
    for heading in (
        "ratio",
        *(["target"] if aims else []),
        "spread",
        "passes",
        *(_heading(name, first.group) for name in shown),
    ):
        table.add_column(heading, justify="right")
    if former is not None:
        table.add_column("change", justify="right")
    for result in results:
        row = [result.case, *([result.more.get("size", "")] if sized else []), number(result.value), result.unit]
        row += [number(result.floor), number(result.ratio), *([target_of(result)] if aims else [])]
        row += [f"{result.spread:.0%}", str(result.passes), *(number(result.more.get(name)) for name in shown)]
        if former is not None:
            row.append(_coloured(change(result, former), result.better))
        table.add_row(*row)
    return table


def beside_what(group: str) -> str:
    """What the results of a group stand beside."""
    return BASES.get(group, "floor")


def _heading(name: str, group: str) -> str:
    return name.replace("floor", beside_what(group)).replace("_", " ")


def target_of(result: Result) -> str:
    """The target and whether it is met, as the table shows it; empty without one."""
    if result.target is None:
        return ""
    sign, mark = "≥" if result.better == "higher" else "≤", "[green]✓[/]" if result.met else "[red]✗[/]"
    bound = result.target.bound
    return f"{sign} {bound:.2f} {mark}" if bound < 1 else f"{sign} {number(bound)} {mark}"


def circumstances(result: Result) -> str:
    about = result.machine
    ran = f"{about['python']}; mbactor {about['mbactor']}; loop {result.loop}"
    return f"{about['machine']}; {about['os']}; {ran}; {about['busy']}"


def notes(results: Sequence[Result]) -> list[str]:
    """What the floors of a group are, and what its table can't show."""
    floors: dict[str, list[str]] = {}
    for result in results:
        floors.setdefault(result.floor_is, []).append(result.case)
    what = beside_what(results[0].group)
    found = [
        f"{what} of {'; '.join(cases)}: {floor}" if len(floors) > 1 else f"{what}: {floor}"
        for floor, cases in floors.items()
    ]
    found += [f"{result.case}: {note}" for result in results for key in NOTES if (note := result.more.get(key))]
    database = results[0].more.get("database")
    if isinstance(database, Mapping):
        found.append("database: " + ", ".join(f"{name} {value}" for name, value in database.items()))
    return found


def of_the_run(results: Sequence[Result], former: Mapping[Key, Former] | None) -> list[str]:
    """How to read the figures, and what makes them, or a comparison, doubtful."""
    if not results:
        return []
    found = ["value: the median over the passes; ratio: the median of theirs, each with the pass that followed it"]
    fewer = min(result.passes for result in results)
    if any(result.passes != fewer for result in results):
        found.append("passes: fewer where they are slow, so that a run takes minutes")
    missed = [result.case for result in results if result.met is False]
    if missed:
        found.append(f"targets missed: {'; '.join(missed)}")
    if any(result.quick for result in results):
        found.append("a quick run: the figures mean little")
    if former is not None:
        found += _doubts(results, former)
    return found


def _doubts(results: Sequence[Result], former: Mapping[Key, Former]) -> list[str]:
    before = [old for result in results if (old := former.get((result.benchmark, result.case, result.loop)))]
    if not before:
        return ["the former run has none of these cases"]
    doubts = []
    if any(old.machine != results[0].machine["machine"] for old in before):
        doubts.append(f"the former run was on another machine: {before[0].machine or 'unknown'}")
    if any(old.quick != results[0].quick for old in before):
        doubts.append("one of the two runs was a quick one")
    return doubts


def number(value: object) -> str:
    """Three figures that can be told apart: 12,345 or 12.3 or 0.0123."""
    if not isinstance(value, (int, float)):
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _coloured(changed: float | None, better: Better) -> str:
    if changed is None:
        return "new"
    good = (changed > 0) == (better == "higher")
    text = f"{changed:+.1%}"
    return text if abs(changed) <= NOISE else f"[{'green' if good else 'red'}]{text}[/]"
