"""The table of a page: each step, how it ended, and at a fan-in which reducers met which values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mbactor.foreman.model.outcome import StepRecord
from mbactor.foreman.page.text import error_of, safe, time_of_day
from mbactor.foreman.render import answer_text, due_text, duration_text, with_subflows


def table(steps: Sequence[StepRecord], ids: Mapping[str, str]) -> Iterator[str]:
    """The rows, those of called flows below the step that called."""
    nodes = {step.step_key: step.node for step in with_subflows(steps)}
    yield '<div class="scroll"><table><tr><th>step</th><th>status</th><th class="num">runs</th>'
    yield '<th class="num">started</th><th class="num">waited</th><th class="num">took</th><th>more</th></tr>'
    yield from _rows(steps, ids, nodes, 0)
    yield "</table></div>"


def _rows(steps: Sequence[StepRecord], ids: Mapping[str, str], nodes: Mapping[str, str], depth: int) -> Iterator[str]:
    for step in steps:
        waited = None
        if step.created_at is not None and step.started_at is not None:
            waited = max(0.0, (step.started_at - step.created_at).total_seconds())
        lost = f", {step.lost} lost" if step.lost else ""
        numbers = (f"{step.runs or ''}{lost}", time_of_day(step.started_at), _length(waited), _length(step.duration))
        yield f'<tr id="{ids[step.step_key]}"><td class="node" style="--in:{depth}">{_named(step)}</td>'
        yield f'<td class="{step.status}"><span class="state">{step.status}</span></td>'
        yield "".join(f'<td class="num">{number}</td>' for number in numbers)
        yield f'<td class="more">{"".join(_more(step, nodes))}</td></tr>'
        if step.subflow is not None:
            yield from _rows(step.subflow.steps, ids, nodes, depth + 1)


def _named(step: StepRecord) -> str:
    more = f"<code>{safe(step.step_key)}</code><code>{safe(step.task)}</code>"
    return f"<details><summary>{safe(step.node)}</summary>{more}</details>"


def _length(seconds: float | None) -> str:
    return "" if seconds is None else duration_text(seconds)


def _more(step: StepRecord, nodes: Mapping[str, str]) -> Iterator[str]:
    text, hint, trace = error_of(step.error)
    if text:
        handled = ' <span class="dim">(handled by an error transition)</span>' if step.status == "completed" else ""
        yield f'<div class="fault">{safe(text)}{handled}</div>'
    if step.cancel_reason:
        yield f'<div class="dim">{safe(step.cancel_reason)}</div>'
    if hint:
        yield f'<div class="dim">{safe(hint)}</div>'
    if trace:
        yield f"<details><summary>traceback</summary><pre>{safe(trace)}</pre></details>"
    if step.waited_for_answer:
        yield f'<div class="dim">{answer_text(step)}</div>'
    if step.due_at is not None:
        yield f'<div class="dim">{due_text(step.due_at)}</div>'
    if step.subflow is not None:
        name = safe(step.subflow.workflow_name or step.subflow.workflow)
        cut = ", whose history is its own" if step.subflow.cut else ""
        yield f"<div>called {name}, <code>{safe(step.subflow.flow_key)}</code>{cut}</div>"
    for field, chosen in step.reducers.items():
        winner = step.winners.get(field)
        taken = f", from <b>{safe(nodes.get(winner, '?'))}</b>" if winner is not None else ""
        yield f'<div><code>{safe(field)}</code> <span class="dim">by {safe(chosen)}{taken}</span></div>'
