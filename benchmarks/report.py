"""Results as a table for people and as JSON lines for programs, and the change since another run."""

from __future__ import annotations

import json
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
    return json.dumps({**line, **more, **about})


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


def write(results: Sequence[Result], *, as_json: bool, former: Mapping[Key, Former] | None) -> None:
    """Print one event loop's results."""
    if as_json:
        for result in results:
            extra = {} if former is None else {"change": change(result, former)}
            print(json.dumps(json.loads(to_json(result)) | extra), flush=True)
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table_of(results, former))
    console.print(circumstances(results[0]), highlight=False)
    for note in notes(results, former):
        console.print(note, highlight=False)
    console.print()


def table_of(results: Sequence[Result], former: Mapping[Key, Former] | None) -> Table:
    table = Table(title=f"{results[0].benchmark} on {results[0].loop}", title_justify="left")
    shown = [name for name in ("p50_ms", "p95_ms", "p99_ms") if any(name in result.more for result in results)]
    table.add_column("case")
    for heading in ("value", "unit", "floor", "ratio", "spread", *(name.replace("_", " ") for name in shown)):
        table.add_column(heading, justify="left" if heading == "unit" else "right")
    if former is not None:
        table.add_column("change", justify="right")
    for result in results:
        row = [result.case, number(result.value), result.unit, number(result.floor), f"{result.ratio:.3g}"]
        row += [f"{result.spread:.0%}", *(number(result.more.get(name)) for name in shown)]
        if former is not None:
            row.append(_coloured(change(result, former), result.better))
        table.add_row(*row)
    return table


def circumstances(result: Result) -> str:
    about = result.machine
    return (
        f"{about['machine']}; {about['os']}; {about['python']}; mbactor {about['mbactor']}; loop {result.loop};"
        f" median of {result.passes} {'pass' if result.passes == 1 else 'passes'}"
    )


def notes(results: Sequence[Result], former: Mapping[Key, Former] | None) -> list[str]:
    """What the floors are, what else is known, and what makes a comparison doubtful."""
    floors: dict[str, list[str]] = {}
    for result in results:
        floors.setdefault(result.floor_is, []).append(result.case)
    found = [
        f"floor of {', '.join(cases)}: {floor}" if len(floors) > 1 else f"floor: {floor}"
        for floor, cases in floors.items()
    ]
    found.append("ratio: the median over the passes, each with the floor's pass that followed it")
    found += [
        f"{result.case}: {result.more['ratio_to_linear']:.2f} of the linear flow, a step"
        for result in results
        if "ratio_to_linear" in result.more
    ]
    database = results[0].more.get("database")
    if isinstance(database, Mapping):
        found.append("database: " + ", ".join(f"{name} {value}" for name, value in database.items()))
    if results[0].quick:
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
