"""Flows and steps as tables for a terminal. Pure: values in, something that rich can print out.

Keys are printed whole, on one line, however narrow the terminal: they are what the next command needs.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mbactor.cli.table import short
from mbactor.foreman.model.outcome import FlowOutcome, FlowSummary, ShardInfo, StepRecord, WireError
from mbactor.foreman.model.status import is_terminal
from mbactor.foreman.render import duration_text
from mbactor.supervisor.tree import one_line

STYLES = {
    "completed": "green", "running": "blue", "pending": "dim", "created": "dim", "failed": "bold red",
    "cancelled": "magenta", "interrupted": "yellow",
}  # fmt: skip


def flows_table(flows: Sequence[FlowSummary], now: dt.datetime, *, bars: bool = False) -> Table:
    """A row for each flow. With `bars`, how far each has come is drawn as well."""
    table = _table()
    _key_column(table, "FLOW", (flow.flow_key for flow in flows))
    table.add_column("STATUS", no_wrap=True, min_width=11)
    table.add_column("WORKFLOW", overflow="ellipsis", no_wrap=True, ratio=3, min_width=8)
    table.add_column("AT", overflow="ellipsis", no_wrap=True, ratio=3, min_width=6)
    table.add_column("STEPS", no_wrap=True, justify="right", min_width=5)
    if bars:
        table.add_column("", width=16, no_wrap=True)
    table.add_column("AGE", no_wrap=True, justify="right", min_width=5)
    table.add_column("SINCE", no_wrap=True, justify="right", min_width=5)
    if any(_detail(flow) for flow in flows):
        table.add_column("WHY", overflow="ellipsis", no_wrap=True, ratio=5, min_width=8)
    for flow in flows:
        cells: list[RenderableType] = [
            flow.flow_key,
            Text(flow.status, style=STYLES[flow.status]),
            Text(one_line(flow.workflow_name or flow.workflow)),
            Text(one_line(flow.task)),
            Text(f"{flow.steps_done}/{flow.steps}"),
        ]
        if bars:
            colour = STYLES[flow.status].removeprefix("bold ")
            looks = ("bright_black", colour, colour)
            cells.append(ProgressBar(max(1, flow.steps), flow.steps_done, 16, False, *looks))
        cells += [_ago(flow.created_at, now), _ago(flow.updated_at, now), Text(one_line(_detail(flow)))]
        table.add_row(*cells[: len(table.columns)])
    return table


def _detail(flow: FlowSummary) -> str:
    return flow.error or flow.cancel_reason or ""


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=False)


def _key_column(table: Table, title: str, keys: Iterator[str]) -> None:
    table.add_column(title, no_wrap=True, min_width=max(map(len, keys), default=4))


def _ago(at: dt.datetime | None, now: dt.datetime) -> Text:
    return Text("" if at is None else short(max(0.0, (now - at).total_seconds())), style="dim")


def shards_table(shards: Sequence[ShardInfo]) -> Table:
    """A row for each shard."""
    table = _table()
    for title in ("SHARD", "STATE", "OPEN FLOWS", "STEPS", "LATENCY", ""):
        numeric = title not in {"STATE", ""}
        table.add_column(title, justify="right" if numeric else "left", no_wrap=numeric)
    for one in shards:
        numbers = ["", "", ""] if one.error else [str(one.flows), str(one.steps), short(one.latency_ms / 1000)]
        table.add_row(str(one.shard), one.state, *numbers, Text(one_line(one.error or ""), style="red"))
    return table


# --- one flow ---------------------------------------------------------------------------------------------------


def flow_card(flow: FlowSummary, outcome: FlowOutcome, now: dt.datetime, where: str = "") -> RenderableType:
    """All that there is to say of a flow, its state last. `where`: the options that name its database."""
    title = Text(one_line(flow.workflow_name or flow.workflow), style="bold")
    title.append(f"  {flow.status}", style=STYLES[flow.status])
    facts = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in (*_facts(flow, now), *_hint(outcome.error)):
        facts.add_row(name, Text(value))
    parts: list[RenderableType] = [title, facts, *_questions(flow, outcome, where)]
    if outcome.state:
        parts += [Text("\nstate", style="dim"), json_text(outcome.state)]
    return Group(*parts)


def _facts(flow: FlowSummary, now: dt.datetime) -> Iterator[tuple[str, str]]:
    yield "flow", flow.flow_key
    yield "workflow", flow.workflow
    if flow.thread_key != flow.flow_key:
        yield "thread", flow.thread_key
    if flow.task:
        yield "failed at" if flow.status == "failed" else "at", flow.task
    yield "steps", f"{flow.steps_done} of {flow.steps} done"
    yield "created", _moment(flow.created_at, now)
    if flow.started_at is not None and is_terminal(flow.status) and flow.updated_at is not None:
        took = duration_text(_seconds(flow.started_at, flow.updated_at))
        yield "ended", f"{_moment(flow.updated_at, now)}, after {took}"
    else:
        yield f"{flow.status} since", _moment(flow.updated_at, now)
    if flow.priority != 100:
        yield "priority", str(flow.priority)
    if flow.fairness_key:
        yield "fairness key", flow.fairness_key
    if flow.error:
        yield "error", flow.error
    if flow.cancel_reason:
        yield "reason", flow.cancel_reason
    if flow.trace_id:
        yield "trace", flow.trace_id


def _hint(error: WireError) -> Iterator[tuple[str, str]]:
    if isinstance(error, dict) and error.get("hint"):
        yield "hint", str(error["hint"])


def _questions(flow: FlowSummary, outcome: FlowOutcome, where: str) -> Iterator[RenderableType]:
    for step_key, payload in outcome.interrupts:
        if isinstance(payload, dict) and list(payload) == ["breakpoint"]:
            yield Text(f"\nwaits at a breakpoint before {one_line(str(payload['breakpoint']))}", style="yellow")
            yield Text(f"  mbactor flows resume-break {flow.flow_key}{where}", style="dim")
            continue
        yield Text(f"\nwaits for an answer to {msgspec.json.encode(payload).decode()}", style="yellow")
        yield Text(f"  mbactor flows resume {flow.flow_key} --step {step_key}{where} --data JSON", style="dim")


def json_text(value: Any) -> Text:
    """A value as indented JSON, not cut."""
    return Text(msgspec.json.format(msgspec.json.encode(value), indent=2).decode(), overflow="fold")


def _moment(at: dt.datetime | None, now: dt.datetime) -> str:
    if at is None:
        return ""
    return f"{at.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC ({short(max(0.0, _seconds(at, now)))} ago)"


def _seconds(begin: dt.datetime, end: dt.datetime) -> float:
    return max(0.0, (end - begin).total_seconds())


# --- steps ------------------------------------------------------------------------------------------------------


def history_table(steps: Sequence[StepRecord]) -> Table:
    """A row for each step, those of called flows below the step that called."""
    rows = list(_below(steps, ""))
    table = _table()
    _key_column(table, "STEP", (step.step_key for _, step in rows))
    table.add_column("NODE", no_wrap=True, overflow="ellipsis", ratio=4, min_width=10)
    table.add_column("STATUS", no_wrap=True, min_width=11)
    table.add_column("RUNS", no_wrap=True, justify="right", min_width=4)
    table.add_column("STARTED", no_wrap=True, min_width=12)
    table.add_column("WAITED", no_wrap=True, justify="right", min_width=6)
    table.add_column("TOOK", no_wrap=True, justify="right", min_width=6)
    remarks = [_remark(step) for _, step in rows]
    if any(remarks):
        table.add_column("", no_wrap=True, overflow="ellipsis", ratio=6, min_width=8)
    for (indent, step), remark in zip(rows, remarks, strict=True):
        waited = None
        if step.created_at is not None and step.started_at is not None:
            waited = _seconds(step.created_at, step.started_at)
        cells: list[RenderableType] = [
            step.step_key,
            Text(indent + one_line(step.node)),
            Text(step.status, style=STYLES[step.status]),
            Text(str(step.attempt + 1) if step.started_at is not None else "", style="dim" if not step.attempt else ""),
            Text(f"{step.started_at:%H:%M:%S.%f}"[:-3] if step.started_at is not None else ""),
            Text(duration_text(waited) if waited is not None else "", style="dim"),
            Text(duration_text(step.duration) if step.duration is not None else ""),
            remark or Text(),
        ]
        table.add_row(*cells[: len(table.columns)])
    return table


def _below(steps: Sequence[StepRecord], indent: str) -> Iterator[tuple[str, StepRecord]]:
    for step in steps:
        yield indent, step
        if step.subflow is not None:
            yield from _below(step.subflow.steps, indent + "  ")


def _remark(step: StepRecord) -> Text | None:
    if step.error is not None:
        text = step.error if isinstance(step.error, str) else str(step.error.get("error", ""))
        return Text(one_line(text), style="red" if step.status == "failed" else "yellow")
    if step.subflow is not None:
        return Text(f"called {one_line(step.subflow.workflow_name or step.subflow.workflow)}", style="dim")
    if step.reducers:
        return Text(", ".join(f"{one_line(field)}: {how}" for field, how in step.reducers.items()), style="dim")
    return None


def step_card(step: StepRecord) -> RenderableType:
    """A step with its state, what it changed, and its questions."""
    title = Text(one_line(step.node), style="bold")
    title.append(f"  {step.status}", style=STYLES[step.status])
    parts: list[RenderableType] = [title, Text(step.step_key), Text(step.task, style="dim")]
    if step.error is not None:
        error = step.error if isinstance(step.error, dict) else {"error": step.error}
        parts += [Text(f"\n{error.get('error', '')}", style="red")]
        parts += [Text(str(error[name]), style="dim") for name in ("hint", "trace") if error.get(name)]
    for name, value in (("state", step.state), ("changes", step.changes), ("interrupts", step.interrupts)):
        if value:
            parts += [Text(f"\n{name}", style="dim"), json_text(value)]
    return Group(*parts)
