"""One flow, or one step, as a card for a terminal. Pure: values in, something that rich can print out."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mbactor.cli.flows.table import STYLES, called_text, not_begun, places_text, seconds_between
from mbactor.cli.table import short
from mbactor.foreman.model.outcome import FlowOutcome, FlowSummary, StepRecord, WireError
from mbactor.foreman.model.status import is_terminal
from mbactor.foreman.render import due_text, duration_text
from mbactor.supervisor.tree import one_line


def flow_card(flow: FlowSummary, outcome: FlowOutcome, now: dt.datetime, where: str = "") -> RenderableType:
    """All that there is to say of a flow, its state last. `where`: the options that name its database."""
    title = Text(one_line(flow.workflow_name or flow.workflow), style="bold")
    title.append(f"  {flow.status}", style=STYLES[flow.status])
    facts = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in (*_facts(flow, now, _place_of(outcome.error)), *_hint(outcome.error)):
        if value:
            facts.add_row(name, Text(value))
    parts: list[RenderableType] = [title, facts, *_questions(flow, outcome, where)]
    if outcome.state:
        parts += [Text("\nstate", style="dim"), json_text(outcome.state)]
    return Group(*parts)


def _place_of(error: WireError) -> str:
    """The node of the error that ended a flow, of which several steps may have failed."""
    place = error.get("at") if isinstance(error, dict) else None
    return str(place.get("node") or "") if isinstance(place, dict) else ""


def _facts(flow: FlowSummary, now: dt.datetime, place: str) -> Iterator[tuple[str, str]]:
    yield "flow", flow.flow_key
    yield "workflow", flow.workflow
    yield "thread", "" if flow.thread_key == flow.flow_key else flow.thread_key
    yield "failed at" if flow.status == "failed" else "at", flow.task or place
    yield "steps", f"{flow.steps_done} of {flow.steps} done"
    yield "created", _moment(flow.created_at, now)
    if flow.started_at is not None and is_terminal(flow.status) and flow.updated_at is not None:
        took = duration_text(seconds_between(flow.started_at, flow.updated_at))
        yield "ended", f"{_moment(flow.updated_at, now)}, after {took}"
    else:
        yield f"{flow.status} since", "" if flow.status == "created" else _moment(flow.updated_at, now)
    yield "priority", "" if flow.priority == 100 else str(flow.priority)
    yield "fairness key", flow.fairness_key
    yield from _place(flow)
    yield "pauses before", ", ".join(flow.breakpoints)
    yield "error", flow.error
    yield "reason", flow.cancel_reason or ""
    yield "trace", flow.trace_id


def _place(flow: FlowSummary) -> Iterator[tuple[str, str]]:
    if flow.concurrency_key:
        yield "concurrency key", f"{flow.concurrency_key}, at most {flow.concurrency_limit} at once"
    if not flow.queued:
        return
    yield "waits for a place", places_text(flow)
    more = flow.places_taken - len(flow.waits_for)
    yield "taken by", "\n".join([*flow.waits_for, *([f"and {more} more"] if more > 0 else [])])


def _hint(error: WireError) -> Iterator[tuple[str, str]]:
    if isinstance(error, dict) and error.get("hint"):
        yield "hint", str(error["hint"])


def _questions(flow: FlowSummary, outcome: FlowOutcome, where: str) -> Iterator[RenderableType]:
    if not flow.queued and not_begun(flow):
        yield Text("\nwaits to be started", style="yellow")
        yield Text(f"  mbactor flows start {flow.flow_key}{where}", style="dim")
    if flow.status == "failed" and not flow.subflow:
        yield Text("\nwhat failed runs again by", style="yellow")
        yield Text(f"  mbactor flows recover {flow.flow_key}{where}", style="dim")
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
    return f"{at.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC ({short(seconds_between(at, now))} ago)"


def runs_text(step: StepRecord) -> str:
    """How often the task of a step was started, and what became of that."""
    lost = f", of which {step.lost} {'was' if step.lost == 1 else 'were'} lost: the process ended or stood still"
    return f"started {step.runs} times{lost if step.lost else ''}"


def step_card(step: StepRecord) -> RenderableType:
    """A step with its state, what it changed, and its questions."""
    title = Text(one_line(step.node), style="bold")
    title.append(f"  {step.status}", style=STYLES[step.status])
    parts: list[RenderableType] = [title, Text(step.step_key), Text(step.task, style="dim")]
    if step.runs > 1:
        parts.append(Text(runs_text(step)))
    if step.cancel_reason:
        parts.append(Text(one_line(step.cancel_reason)))
    if step.due_at is not None:
        parts.append(Text(due_text(step.due_at), style="yellow"))
    if step.error is not None:
        error = step.error if isinstance(step.error, dict) else {"error": step.error}
        parts += [Text(f"\n{error.get('error', '')}", style="red")]
        hint, trace = str(error.get("hint") or ""), str(error.get("trace") or "").rstrip("\n")
        # That it is found here need not be said here.
        hint = "" if trace and "--step" in hint else hint
        parts += [Text(text, style="dim") for text in (hint, trace) if text]
    if step.subflow is not None:
        parts.append(Text(called_text(step.subflow)))
    for field, chosen in step.reducers.items():
        winner = step.winners.get(field)
        parts.append(Text(f"{one_line(field)}: {chosen}{f', that of step {winner}' if winner else ''}"))
    for name, value in (("state", step.state), ("changes", step.changes), ("interrupts", step.interrupts)):
        if value:
            parts += [Text(f"\n{name}", style="dim"), json_text(value)]
    return Group(*parts)
