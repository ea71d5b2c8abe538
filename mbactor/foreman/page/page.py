"""The page itself: what the flow is and how it stands, its timeline, and its steps."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Sequence

from mbactor.foreman.model.outcome import FlowSummary, StepRecord
from mbactor.foreman.model.status import is_terminal
from mbactor.foreman.page.style import STYLE
from mbactor.foreman.page.table import table
from mbactor.foreman.page.text import moment, safe
from mbactor.foreman.page.timeline import timeline
from mbactor.foreman.render import duration_text, with_subflows

POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def history_page(flow: FlowSummary, steps: Sequence[StepRecord], now: dt.datetime) -> str:
    """The history of a flow as HTML; `now` is where what still runs ends in it."""
    return "\n".join(_lines(flow, steps, now)) + "\n"


def _lines(flow: FlowSummary, steps: Sequence[StepRecord], now: dt.datetime) -> Iterator[str]:
    name = flow.workflow_name or flow.workflow
    ids = {step.step_key: f"s{number}" for number, step in enumerate(with_subflows(steps))}
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{safe(name)} {safe(_correlation(flow.flow_key))}</title><style>{STYLE}</style></head><body>"
    yield f'<h1>{safe(name)} <span class="badge {flow.status}">{flow.status}</span></h1>'
    yield f'<div class="dim mono">{safe(flow.workflow)}</div>'
    yield f'<dl class="facts">{"".join(_facts(flow, steps, now))}</dl>'
    if flow.error:
        yield f'<div class="error">{safe(flow.error)}</div>'
    if flow.cancel_reason:
        yield f'<div class="error">cancelled: {safe(flow.cancel_reason)}</div>'
    if steps:
        yield "<h2>Timeline</h2>"
        yield from timeline(steps, ids, now)
        yield "<h2>Steps</h2>"
        yield from table(steps, ids)
    else:
        yield '<p class="dim">No step yet.</p>'
    yield f"<footer>As of {moment(now)}. Times are those of the database.</footer></body></html>"


def _correlation(flow_key: str) -> str:
    return flow_key.rpartition("-")[0]


def _facts(flow: FlowSummary, steps: Sequence[StepRecord], now: dt.datetime) -> Iterator[str]:
    yield _fact("flow", f"<code>{safe(flow.flow_key)}</code>")
    if flow.thread_key not in {"", flow.flow_key}:
        yield _fact("thread", f"<code>{safe(flow.thread_key)}</code>")
    if flow.started_at is not None:
        end = flow.updated_at if is_terminal(flow.status) and flow.updated_at is not None else now
        yield _fact("started", moment(flow.started_at))
        length = duration_text(max(0.0, (end - flow.started_at).total_seconds()))
        yield _fact("took" if is_terminal(flow.status) else "age", length)
    counts = Counter(step.status for step in with_subflows(steps))
    told = ", ".join(f"{number} {status}" for status, number in counts.most_common())
    yield _fact("steps", f"{sum(counts.values())}" + (f' <span class="dim">({told})</span>' if told else ""))
    ended = (step for step in with_subflows(steps) if step.subflow is None and step.duration is not None)
    busy = sum(max(0.0, (step.duration or 0.0) - step.waited_for_answer) for step in ended)
    if busy:
        yield _fact("work", duration_text(busy))
    if flow.priority != 100:
        yield _fact("priority", str(flow.priority))
    if flow.fairness_key:
        yield _fact("fairness key", safe(flow.fairness_key))
    if flow.concurrency_key:
        waits = f", {flow.places_taken} taken" if flow.queued else ""
        more = f' <span class="dim">(at most {flow.concurrency_limit} at once{waits})</span>'
        yield _fact("concurrency key", safe(flow.concurrency_key) + more)


def _fact(name: str, value: str) -> str:
    return f"<div><dt>{name}</dt><dd>{value}</dd></div>"
