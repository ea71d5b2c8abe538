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

from mbactor.cli.flows.columns import Column, table_of
from mbactor.cli.flows.printing import PLAIN_WIDTH
from mbactor.cli.table import short
from mbactor.foreman.model.outcome import FlowSummary, ShardInfo, StepRecord, Subflow
from mbactor.foreman.model.schedule import Schedule
from mbactor.foreman.render import answer_text, duration_text
from mbactor.supervisor.tree import one_line

STYLES = {
    "completed": "green", "running": "blue", "pending": "dim", "created": "dim", "failed": "bold red",
    "cancelled": "magenta", "interrupted": "yellow",
}  # fmt: skip
BAR = 16


def flows_table(
    flows: Sequence[FlowSummary], now: dt.datetime, *, bars: bool = False, width: int = PLAIN_WIDTH
) -> Table:
    """A row for each flow. With `bars`, how far each has come is drawn as well."""
    columns = [
        Column("FLOW", [Text(flow.flow_key) for flow in flows]),
        Column("STATUS", [_status(flow.status) for flow in flows]),
        Column("WORKFLOW", [_plain(flow.workflow_name or flow.workflow) for flow in flows], stretch=3),
        Column("AT", [_plain(flow.task) for flow in flows], stretch=3, least=6, rank=3),
        Column("STEPS", [Text(f"{flow.steps_done}/{flow.steps}") for flow in flows], right=True, rank=1),
        *([Column("", [_bar(flow) for flow in flows], least=BAR, rank=2)] if bars and flows else []),
        Column("AGE", [_ago(flow.created_at, now) for flow in flows], right=True, rank=6),
        Column("SINCE", [_ago(flow.updated_at, now) for flow in flows], right=True, rank=4),
        Column("CONCURRENCY", [_plain(flow.concurrency_key) for flow in flows], stretch=2, rank=5),
        Column("WHY", [_why(flow) for flow in flows], stretch=5, least=12),
    ]
    return table_of(columns, width)


def _status(status: str) -> Text:
    return Text(status, style=STYLES.get(status, ""))


def _plain(text: str) -> Text:
    return Text(one_line(text))


def _bar(flow: FlowSummary) -> RenderableType:
    colour = STYLES[flow.status].removeprefix("bold ")
    return ProgressBar(max(1, flow.steps), flow.steps_done, BAR, False, "bright_black", colour, colour)


def _ago(at: dt.datetime | None, now: dt.datetime) -> Text:
    return Text("" if at is None else short(seconds_between(at, now)), style="dim")


def _why(flow: FlowSummary) -> Text:
    text = flow.error or flow.cancel_reason or not_begun(flow)
    return Text(one_line(text), style="dim" if flow.status == "created" else "")


def not_begun(flow: FlowSummary) -> str:
    """Why a flow that was created has not begun."""
    if flow.queued:
        return f"queued, {places_text(flow)}"
    return "not started" if flow.status == "created" and not flow.subflow else ""


def places_text(flow: FlowSummary) -> str:
    """Of the places of its concurrency key, how many are taken."""
    taken = f"{flow.places_taken} of {flow.concurrency_limit} taken"
    return taken if flow.places_taken >= flow.concurrency_limit else f"{taken}, and others are before it"


def shards_table(shards: Sequence[ShardInfo], *, width: int = PLAIN_WIDTH) -> Table:
    """A row for each shard."""
    columns = [
        Column("SHARD", [Text(str(one.shard)) for one in shards], right=True),
        Column("STATE", [Text(one.state) for one in shards]),
        Column("OPEN FLOWS", [Text("" if one.error else str(one.flows)) for one in shards], right=True),
        Column("STEPS", [Text("" if one.error else str(one.steps)) for one in shards], right=True),
        Column("LATENCY", [Text("" if one.error else short(one.latency_ms / 1000)) for one in shards], right=True),
        Column("", [Text(one_line(one.error or ""), style="red") for one in shards], stretch=1),
    ]
    return table_of(columns, width)


# --- schedules ----------------------------------------------------------------------------------------------------


def schedules_table(
    schedules: Sequence[tuple[Schedule, Sequence[dt.datetime]]], now: dt.datetime, *, width: int = PLAIN_WIDTH
) -> Table:
    """A row for each schedule, with its next ticks, in its own time zone."""
    columns = [
        Column("NAME", [_plain(one.name) for one, _ in schedules]),
        Column("CRON", [_plain(one.cron) for one, _ in schedules], rank=1),
        Column("NEXT", [_ticks(one, ticks) for one, ticks in schedules]),
        Column("IN", [Text("\n").join(_until(tick, now) for tick in ticks) for _, ticks in schedules], right=True),
        Column("LAST FLOW", [Text(one.last_flow or "") for one, _ in schedules]),
        Column("STATUS", [_status(one.last_status or "") for one, _ in schedules], rank=2),
        Column("WORKFLOW", [_plain(one.workflow) for one, _ in schedules], stretch=1, rank=3),
    ]
    return table_of(columns, width)


def _ticks(schedule: Schedule, ticks: Sequence[dt.datetime]) -> Text:
    if not ticks:
        return Text("paused", style="yellow") if schedule.paused else Text("never again", style="dim")
    zone = dt.UTC if schedule.timezone == "UTC" else ZoneInfo(schedule.timezone)
    form = "%Y-%m-%d %H:%M %Z" if all(tick.second == 0 for tick in ticks) else "%Y-%m-%d %H:%M:%S %Z"
    return Text("\n".join(tick.astimezone(zone).strftime(form) for tick in ticks))


def _until(tick: dt.datetime, now: dt.datetime) -> Text:
    left = (tick - now).total_seconds()
    return Text(short(left), style="dim") if left >= 0 else Text(f"{short(-left)} late", style="red")


# --- steps ------------------------------------------------------------------------------------------------------


def history_table(steps: Sequence[StepRecord], *, width: int = PLAIN_WIDTH) -> Table:
    """A row for each step, those of called flows below the step that called."""
    rows = list(_below(steps, ""))
    found = [step for _, step in rows]
    columns = [
        Column("STEP", [Text(step.step_key) for step in found]),
        Column("NODE", [Text(indent + one_line(step.node)) for indent, step in rows], stretch=4, least=10),
        Column("STATUS", [_status(step.status) for step in found]),
        Column("RUNS", [_runs(step) for step in found], right=True),
        Column("STARTED", [_started(step) for step in found], rank=2),
        Column("WAITED", [_length(_waited(step), "dim") for step in found], right=True, rank=3),
        Column("TOOK", [_length(step.duration) for step in found], right=True, rank=1),
        Column("", [_remark(step) for step in found], stretch=6, least=12),
    ]
    return table_of(columns, width)


def _below(steps: Sequence[StepRecord], indent: str) -> Iterator[tuple[str, StepRecord]]:
    for step in steps:
        yield indent, step
        if step.subflow is not None:
            yield from _below(step.subflow.steps, indent + "  ")


def _runs(step: StepRecord) -> Text:
    text = Text(str(step.runs or ""), style="" if step.runs > 1 else "dim")
    return text.append(f", {step.lost} lost", style="yellow") if step.lost else text


def _started(step: StepRecord) -> Text:
    return Text("" if step.started_at is None else f"{step.started_at:%H:%M:%S.%f}"[:-3])


def _due(due: dt.datetime, created: dt.datetime | None) -> str:
    """Short, so that a narrow terminal has it whole: the day only where it is another."""
    same_day = created is not None and due - created < dt.timedelta(days=1)
    return f"due {due:%H:%M:%S}" if same_day else f"due {due:%Y-%m-%d %H:%M}"


def _waited(step: StepRecord) -> float | None:
    if step.created_at is None or step.started_at is None:
        return None
    return seconds_between(step.created_at, step.started_at)


def _length(seconds: float | None, style: str = "") -> Text:
    return Text("" if seconds is None else duration_text(seconds), style=style)


def seconds_between(begin: dt.datetime, end: dt.datetime) -> float:
    """How long that is; never less than nothing, though clocks may differ."""
    return max(0.0, (end - begin).total_seconds())


def _remark(step: StepRecord) -> Text:
    if step.error is not None:
        text = step.error if isinstance(step.error, str) else str(step.error.get("error", ""))
        if step.status == "completed":
            return Text(f"handled: {one_line(text)}", style="yellow")  # by an error transition
        return Text(one_line(text), style="red" if step.status == "failed" else "yellow")
    if step.cancel_reason:
        return Text(one_line(step.cancel_reason), style="dim")
    if step.waited_for_answer:
        return Text(answer_text(step), style="dim")
    if step.due_at is not None:
        return Text(_due(step.due_at, step.created_at), style="yellow")
    if step.subflow is not None:
        return Text(called_text(step.subflow), style="dim")
    if step.reducers:
        return Text(", ".join(f"{one_line(field)}: {how}" for field, how in step.reducers.items()), style="dim")
    return Text()


def called_text(child: Subflow) -> str:
    """Which flow a step called, and where its steps are."""
    more = f"; for more, `history {child.flow_key}`" if child.cut else ""
    return f"called {one_line(child.workflow_name or child.workflow)}{more}"
