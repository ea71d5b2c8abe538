"""A plan as lines for people. Pure, but for the colours, which go where no terminal is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from mbactor.supervisor.operate.applying import Plan
from mbactor.supervisor.operate.plan import Act, Step
from mbactor.supervisor.operate.plan_values import Change
from mbactor.supervisor.tree import one_line

_SIGNS: dict[Act, tuple[str, str]] = {
    "start": ("+", "green"),
    "stop": ("-", "red"),
    "restart": ("~", "yellow"),
    "restart branch": ("~", "yellow"),
    "change": ("=", "cyan"),
    "move": ("=", "cyan"),
}
"""What each act is marked with: what has = goes on while it is done."""


def drawn(plan: Plan, pid: int, file: Path) -> list[str]:
    """The whole plan."""
    act = max((len(step.act) for step in plan.steps), default=0)
    place = max((len(_place(step, plan)) for step in plan.steps), default=0)
    lines = (line for step in plan.steps for line in _lines(step, _place(step, plan), act, place))
    return [*heading(plan, pid, file), *lines, *_later(plan)]


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan for programs."""
    steps = [
        {"act": step.act, "path": step.path, "kind": step.kind, "after": step.after, "changes": _changes(step.changes)}
        for step in plan.steps
    ]
    return {"system": plan.system, "steps": steps, "later": _changes(plan.later)}


def _changes(changes: Sequence[Change]) -> list[dict[str, str]]:
    return [{"field": one.field, "old": one.old, "new": one.new} for one in changes]


def heading(plan: Plan, pid: int, file: Path) -> list[str]:
    named = f"{click.style(one_line(plan.system), bold=True)} (pid {pid})"
    if not plan.steps:
        return [f"{named} runs as {file} says; nothing to do"]
    counted = "1 step" if len(plan.steps) == 1 else f"{len(plan.steps)} steps"
    return [f"{named}: {counted} to what {file} says"]


def one_step(step: Step) -> str:
    """A step by what it does and to whom."""
    sign, colour = _SIGNS[step.act]
    return f"{click.style(sign, fg=colour)} {click.style(step.act, fg=colour)} {one_line(step.path)}"


def _lines(step: Step, place: str, act_width: int, place_width: int) -> Iterator[str]:
    sign, colour = _SIGNS[step.act]
    facts = _facts(step)
    first = f"  {click.style(f'{sign} {step.act:<{act_width}}', fg=colour)}  {place:<{place_width}}"
    yield f"{first}  {facts[0]}" if facts else first.rstrip()
    for fact in facts[1:]:
        yield " " * (8 + act_width + place_width) + fact


def _place(step: Step, plan: Plan) -> str:
    return one_line(step.path.removeprefix(f"{plan.system}/"))


def _facts(step: Step) -> list[str]:
    facts = [
        f"{click.style(one.field, dim=True)} {one_line(one.old)} {click.style('->', dim=True)} {one_line(one.new)}"
        for one in step.changes
    ]
    if step.act == "move":
        facts.append("to the front" if step.after is None else f"behind {step.after}")
    return facts


def _later(plan: Plan) -> Iterator[str]:
    for one in plan.later:
        yield f"  {click.style('!', fg='magenta')} {one}: only another start of the process changes this"
