"""Histories as Mermaid text (pure). All text of authors is escaped, as in the diagrams of graphs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import quote

from mbactor.foreman.model.diagram import Direction, escape, head
from mbactor.foreman.model.outcome import StepRecord
from mbactor.foreman.model.status import IN_FLIGHT, STEP_STATUSES, TERMINAL

_STATUS_STYLES = {
    "completed": "fill:#e8f5e9,stroke:#2e7d32,color:#1b3d1e",
    "running": "fill:#e3f2fd,stroke:#1565c0,color:#0d2f57,stroke-dasharray:4 3",
    "pending": "fill:#fafafa,stroke:#9e9e9e,color:#424242",
    "created": "fill:#fafafa,stroke:#bdbdbd,color:#616161",
    "failed": "fill:#ffebee,stroke:#c62828,color:#5c1212",
    "cancelled": "fill:#eceff1,stroke:#607d8b,color:#37474f",
    "interrupted": "fill:#fff8e1,stroke:#f9a825,color:#5d4203",
}


def history_mermaid(
    steps: Sequence[StepRecord],
    *,
    title: str | None = None,
    direction: Direction = "TD",
    link: str | None = None,
) -> str:
    """The steps of a flow, child flows inside the steps that ran them, with durations and waits.

    An empty history is an empty chart. `link` makes each step a link to `?<link>=<its step key>`.
    """
    return "\n".join(_HistoryChart(steps).lines(title, direction, link)) + "\n"


class _HistoryChart:
    def __init__(self, steps: Sequence[StepRecord]) -> None:
        self.steps = steps
        self.all = {step.step_key: step for step in with_subflows(steps)}
        self.ids = {key: f"s{index}" for index, key in enumerate(self.all)}

    def lines(self, title: str | None, direction: Direction, link: str | None) -> Iterator[str]:
        yield from head(title, f"flowchart {direction}")
        for status in STEP_STATUSES:
            yield f"    classDef {status} {_STATUS_STYLES[status]}"
        yield "    classDef term fill:#f4f4f4,stroke:#888,color:#333"
        if self.steps:
            yield "    _start(( )):::term"
            yield from self.boxes(self.steps, "    ")
            yield from self.arrows()
        if link is not None:
            for key, id in self.ids.items():
                yield f'    click {id} "?{quote(link, safe="")}={quote(key, safe="")}"'

    def boxes(self, steps: Sequence[StepRecord], indent: str) -> Iterator[str]:
        for predecessor, siblings in _cohorts(steps):
            if predecessor is None or len(siblings) < 2:
                for step in siblings:
                    yield from self.box(step, indent)
                continue
            group = f"fo_{self.ids[predecessor]}"
            yield f'{indent}subgraph {group} [" "]'
            for step in siblings:
                yield from self.box(step, indent + "    ")
            yield f"{indent}end"
            yield f"{indent}style {group} fill:none,stroke:none"

    def box(self, step: StepRecord, indent: str) -> Iterator[str]:
        id, label = self.ids[step.step_key], escape(step.node)
        if step.status in TERMINAL and step.duration is not None:
            label += f"\\n{duration_text(max(0.0, step.duration - _time_in_child(step)))}"
        yield f'{indent}{id}["{label}"]:::{step.status}'
        if step.subflow is not None and step.subflow.steps:
            yield f'{indent}subgraph {id}_sg ["{escape(step.subflow.workflow_name or step.subflow.workflow)}"]'
            yield from self.boxes(step.subflow.steps, indent + "    ")
            yield f"{indent}end"

    def arrows(self) -> Iterator[str]:
        heads, tails = _ends_of(self.steps)
        for first in heads:
            yield f"    _start --> {self.ids[first.step_key]}"
        for (source, target), gap in self.edges(self.steps).items():
            ids = f"{self.ids[source]} -->", self.ids[target]
            yield f'    {ids[0]}|"{duration_text(gap)}"| {ids[1]}' if gap is not None else f"    {ids[0]} {ids[1]}"
        if tails and not any(step.status in IN_FLIGHT for step in self.all.values()):
            yield "    _end(( )):::term"
            for tail in tails:
                yield from (f"    {self.ids[exit.step_key]} --> _end" for exit in _exits_of(tail))

    def edges(self, steps: Sequence[StepRecord]) -> dict[tuple[str, str], float | None]:
        """Every edge once, with how long its target waited; None where that is not known."""
        found: dict[tuple[str, str], float | None] = {}
        for step in steps:
            if step.predecessor in self.all:
                self.connect(found, self.all[step.predecessor], step)
            if step.successor in self.all:
                self.connect(found, step, self.all[step.successor])
            if step.subflow is not None:
                for head in _ends_of(step.subflow.steps)[0]:
                    found[step.step_key, head.step_key] = _gap(head.created_at, head.started_at)
                found |= self.edges(step.subflow.steps)
        return found

    def connect(self, found: dict[tuple[str, str], float | None], source: StepRecord, target: StepRecord) -> None:
        for exit in _exits_of(source):
            found.setdefault((exit.step_key, target.step_key), _gap(exit.ended_at, target.started_at))


def with_subflows(steps: Iterable[StepRecord]) -> Iterator[StepRecord]:
    """Every step, those of a called flow behind the step that called it."""
    for step in steps:
        yield step
        if step.subflow is not None:
            yield from with_subflows(step.subflow.steps)


def _cohorts(steps: Sequence[StepRecord]) -> Iterable[tuple[str | None, list[StepRecord]]]:
    """The steps by their predecessor among them, in the order of first appearance."""
    keys = {step.step_key for step in steps}
    groups: dict[str | None, list[StepRecord]] = {}
    for step in steps:
        groups.setdefault(step.predecessor if step.predecessor in keys else None, []).append(step)
    return groups.items()


def _ends_of(steps: Sequence[StepRecord]) -> tuple[list[StepRecord], list[StepRecord]]:
    """The steps that no other leads to, and those that lead to no other."""
    keys = {step.step_key for step in steps}
    led_to = {step.successor for step in steps}
    leading = {step.predecessor for step in steps}
    heads = [step for step in steps if step.predecessor not in keys and step.step_key not in led_to]
    tails = [step for step in steps if step.successor not in keys and step.step_key not in leading]
    return heads, tails


def _exits_of(step: StepRecord) -> list[StepRecord]:
    """Where the arrows out of a step begin: at the ends of its child flow, if it ran one."""
    if step.subflow is None or not step.subflow.steps:
        return [step]
    return [exit for tail in _ends_of(step.subflow.steps)[1] for exit in _exits_of(tail)]


def _time_in_child(step: StepRecord) -> float:
    inner = list(with_subflows(step.subflow.steps)) if step.subflow is not None else []
    starts = [each.started_at for each in inner if each.started_at is not None]
    ends = [each.ended_at for each in inner if each.ended_at is not None]
    return (max(ends) - min(starts)).total_seconds() if starts and ends else 0.0


def _gap(before: dt.datetime | None, after: dt.datetime | None) -> float | None:
    return None if before is None or after is None else max(0.0, (after - before).total_seconds())


def duration_text(seconds: float) -> str:
    """`250ms`, `1.23s`, `2m 5s`, `3h 10m`, `1d 4h`."""
    if seconds < 1:
        return f"{int(seconds * 1000)}ms"
    if seconds < 60:
        return f"{min(seconds, 59.9):.3g}s"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def answer_text(step: StepRecord) -> str:
    """`waited 2d 4h for an answer`."""
    return f"waited {duration_text(step.waited_for_answer)} for an answer"


def due_text(due: dt.datetime) -> str:
    """`due 2026-11-28 01:22:29 UTC`."""
    return f"due {due.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
