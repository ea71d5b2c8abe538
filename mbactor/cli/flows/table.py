"""Flows, steps, shards and schedules as tables for a terminal. Pure: values in, something that rich can print out.

Keys are printed whole, on one line, however narrow the terminal: they are what the next command needs.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from zoneinfo import ZoneInfo

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mbactor.cli.table import short
from mbactor.foreman.model.outcome import FlowSummary, ShardInfo, StepRecord
from mbactor.foreman.model.schedule import Schedule
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
    keyed = any(flow.concurrency_key for flow in flows)
    if keyed:
        table.add_column("CONCURRENCY", overflow="ellipsis", no_wrap=True, ratio=3, min_width=11)
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
        cells += [_ago(flow.created_at, now), _ago(flow.updated_at, now)]
        cells += [Text(one_line(flow.concurrency_key))] if keyed else []
        cells.append(_why(flow))
        table.add_row(*cells[: len(table.columns)])
    return table


def _detail(flow: FlowSummary) -> str:
    return flow.error or flow.cancel_reason or not_begun(flow)


def _why(flow: FlowSummary) -> Text:
    return Text(one_line(_detail(flow)), style="dim" if flow.status == "created" else "")


def not_begun(flow: FlowSummary) -> str:
    """Why a flow that was created has not begun."""
    if flow.queued:
        return f"waits for a place: {places_text(flow)}"
    return "not started" if flow.status == "created" and not flow.subflow else ""


def places_text(flow: FlowSummary) -> str:
    """Of the places of its concurrency key, how many are taken."""
    taken = f"{flow.places_taken} of {flow.concurrency_limit} taken"
    return taken if flow.places_taken >= flow.concurrency_limit else f"{taken}, and others are before it"


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


def schedules_table(schedules: Sequence[tuple[Schedule, Sequence[dt.datetime]]], now: dt.datetime) -> Table:
    """A row for each schedule, with its next ticks, in its own time zone."""
    table = _table()
    table.add_column("NAME", no_wrap=True)
    table.add_column("CRON", no_wrap=True)
    table.add_column("NEXT", no_wrap=True)
    table.add_column("IN", no_wrap=True, justify="right")
    _key_column(table, "LAST FLOW", (one.last_flow or "" for one, _ in schedules))
    table.add_column("STATUS", no_wrap=True)
    table.add_column("WORKFLOW", overflow="ellipsis", no_wrap=True, ratio=3, min_width=8)
    for one, ticks in schedules:
        zone = ZoneInfo(one.timezone)
        status = one.last_status or ""
        table.add_row(
            Text(one_line(one.name)),
            Text(one_line(one.cron)),
            Text("\n".join(f"{tick.astimezone(zone):%Y-%m-%d %H:%M:%S %Z}" for tick in ticks))
            if ticks
            else _no_tick(one),
            Text("\n").join(_until(tick, now) for tick in ticks),
            one.last_flow or "",
            Text(status, style=STYLES.get(status, "")),
            Text(one_line(one.workflow)),
        )
    return table


def _no_tick(schedule: Schedule) -> Text:
    return Text("paused", style="yellow") if schedule.paused else Text("never again", style="dim")


def _until(tick: dt.datetime, now: dt.datetime) -> Text:
    left = (tick - now).total_seconds()
    return Text(short(left), style="dim") if left >= 0 else Text(f"{short(-left)} late", style="red")


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
            waited = seconds_between(step.created_at, step.started_at)
        cells: list[RenderableType] = [
            step.step_key,
            Text(indent + one_line(step.node)),
            Text(step.status, style=STYLES[step.status]),
            _runs(step),
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


def _runs(step: StepRecord) -> Text:
    text = Text(str(step.runs or ""), style="" if step.runs > 1 else "dim")
    return text.append(f", {step.lost} lost", style="yellow") if step.lost else text


def _remark(step: StepRecord) -> Text | None:
    if step.error is not None:
        text = step.error if isinstance(step.error, str) else str(step.error.get("error", ""))
        return Text(one_line(text), style="red" if step.status == "failed" else "yellow")
    if step.subflow is not None:
        return Text(f"called {one_line(step.subflow.workflow_name or step.subflow.workflow)}", style="dim")
    if step.reducers:
        return Text(", ".join(f"{one_line(field)}: {how}" for field, how in step.reducers.items()), style="dim")
    return None


def seconds_between(begin: dt.datetime, end: dt.datetime) -> float:
    """How long that is; never less than nothing, though clocks may differ."""
    return max(0.0, (end - begin).total_seconds())
