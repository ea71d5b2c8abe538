"""`mbactor flows check-graph`: could the open flows of a workflow go on under the graph that the code has now?

And for `mbactor check`: can that graph run at all?
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from mbactor.cli.flows.database import tell_warning
from mbactor.errors import BadRequest, InvalidExpression, InvalidGraph, error_told
from mbactor.foreman.engine import Engine
from mbactor.foreman.features import WorkflowReference
from mbactor.foreman.model.compatible import differences
from mbactor.foreman.model.graph import Graph, GraphWarning
from mbactor.foreman.model.outcome import FlowSummary
from mbactor.foreman.model.query import FlowQuery
from mbactor.foreman.shards import Shards
from mbactor.supervisor.topology.classes import import_class, look_in

COULD_NOT = 1
OPEN = ("running", "interrupted", "created")


class Checked(msgspec.Struct):
    """A flow, and what stands in its way."""

    flow_key: str
    at: list[str]
    problems: list[str]


def reference_of(text: str) -> WorkflowReference:
    """The workflow at `module:Class.workflow`; BadRequest says why there is none."""
    where, dot, name = text.rpartition(".")
    if not dot or ":" not in where:
        raise BadRequest(f"{text!r} given, module:Class.workflow expected, such as shop.credit:Credit.approval")
    look_in(Path.cwd())
    try:
        cls = import_class(where)
    except ValueError as error:
        raise BadRequest(str(error)) from None
    found = getattr(cls, name, None)
    if not isinstance(found, WorkflowReference):
        known = [known for known in dir(cls) if isinstance(getattr(cls, known, None), WorkflowReference)]
        raise BadRequest(f"{where} has no workflow {name!r}; it has {', '.join(known) or 'none'}")
    return found


async def graph_of(reference: WorkflowReference) -> Graph:
    """The graph that the code has now. The method is called on an object whose constructor did not run."""
    try:
        made = reference.feature.function(object.__new__(reference.owner))
        graph: Any = await made if inspect.isawaitable(made) else made
    except Exception as error:
        raise BadRequest(
            f"{reference!r} does not tell its graph without a running actor: {error_told(error)}"
        ) from error
    if not isinstance(graph, Graph):
        raise BadRequest(f"{reference!r} returned {type(graph).__name__}; a workflow returns a Graph")
    graph.validate()
    return graph


async def told_graph_of(reference: WorkflowReference) -> Graph:
    """The same; what is doubtful about it is told as a warning."""
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always", GraphWarning)
        graph = await graph_of(reference)
    for doubt in doubts:
        if issubclass(doubt.category, GraphWarning):
            tell_warning(str(doubt.message))
    return graph


async def judge_graphs(classes: Mapping[str, type]) -> tuple[list[str], list[str]]:
    """What is wrong, and what is doubtful, with the workflows of classes that a file names.

    One that needs a running actor to tell its graph is passed over: it is judged when a flow is created.
    """
    wrong, doubtful = [], []
    for where, cls in classes.items():
        for name in dir(cls):
            found = getattr(cls, name, None)
            if not isinstance(found, WorkflowReference):
                continue
            doubts: list[warnings.WarningMessage] = []
            try:
                with warnings.catch_warnings(record=True) as doubts:
                    warnings.simplefilter("always", GraphWarning)
                    await graph_of(found)
            except BadRequest as error:
                if isinstance(error.__cause__, InvalidGraph | InvalidExpression):
                    wrong.append(f"{where}.{name}: {error.__cause__.message}")
                continue
            except InvalidGraph as error:
                wrong.append(f"{where}.{name}: {error.message}")
            doubtful += [f"{where}.{name}: {one.message}" for one in doubts if issubclass(one.category, GraphWarning)]
    return wrong, doubtful


async def check_graph(shards: Shards, text: str, *, json: bool) -> int:
    """Compare and tell; the exit code."""
    reference = reference_of(text)
    new = await told_graph_of(reference)
    checked = [one async for one in _checked(shards, reference.url, new)]
    bad = [one for one in checked if one.problems]
    if json:
        click.echo(msgspec.json.format(msgspec.json.encode(checked), indent=2).decode())
        return COULD_NOT if bad else 0
    for one in bad:
        click.echo(f"{click.style(one.flow_key, bold=True)} at {', '.join(one.at) or 'its end'}")
        for problem in one.problems:
            click.echo(f"  {click.style('-', fg='red')} {problem}")
    counted = f"{len(checked)} open flow{'' if len(checked) == 1 else 's'} of {reference.url}"
    if bad:
        click.echo(f"{counted}: {len(bad)} could not go on under the graph of {text}; they keep the graph they have")
        return COULD_NOT
    click.echo(f"{counted}: all could go on under the graph of {text}")
    return 0


async def _checked(shards: Shards, workflow: str, new: Graph) -> AsyncIterator[Checked]:
    known: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    async for flow in _open_flows(shards, workflow):
        engine = shards.of(flow.flow_key)
        graph_hash, old = await engine.graph_of(flow.flow_key)
        at = await _nodes_at(engine, flow, old)
        place = (graph_hash, tuple(at))
        if place not in known:
            known[place] = differences(old, new, at)
        yield Checked(flow.flow_key, at, known[place])


async def _nodes_at(engine: Engine, flow: FlowSummary, old: Graph) -> list[str]:
    if flow.task:
        return [flow.task]
    steps = await engine.history(flow.flow_key)
    found = {step.node for step in steps if step.status in {"created", "pending", "running", "interrupted"}}
    return [node.name for node in old.nodes if node.name in found]


async def _open_flows(shards: Shards, workflow: str) -> AsyncIterator[FlowSummary]:
    for status in OPEN:
        query = FlowQuery(status=status, workflow=workflow, include_subflows=True, limit=500)
        while True:
            page = await shards.list(query)
            for note in page.notes:
                tell_warning(note)
            for flow in page.flows:
                yield flow
            if not page.next_cursor:
                break
            query = msgspec.structs.replace(query, cursor=page.next_cursor)
