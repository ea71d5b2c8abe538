"""`mbactor flows check-graph`: could the open flows of a workflow go on under the graph that it has now?"""

from __future__ import annotations

from collections.abc import AsyncIterator

import click
import msgspec

from mbactor.cli.flows.database import Where, tell_warning
from mbactor.cli.flows.workflows import told_graph_of, workflow_of
from mbactor.foreman.engine import Engine
from mbactor.foreman.model.compatible import differences
from mbactor.foreman.model.graph import Graph
from mbactor.foreman.model.outcome import FlowSummary
from mbactor.foreman.model.query import FlowQuery
from mbactor.foreman.shards import Shards

COULD_NOT = 1
OPEN = ("running", "interrupted", "created")


class Checked(msgspec.Struct):
    """A flow, and what stands in its way."""

    flow_key: str
    at: list[str]
    problems: list[str]


async def check_graph(shards: Shards, text: str, where: Where, *, json: bool) -> int:
    """Compare and tell; the exit code."""
    workflow = workflow_of(text, where)
    new = await told_graph_of(workflow)
    checked = [one async for one in _checked(shards, workflow.url, new)]
    bad = [one for one in checked if one.problems]
    if json:
        click.echo(msgspec.json.format(msgspec.json.encode(checked), indent=2).decode())
        return COULD_NOT if bad else 0
    for one in bad:
        click.echo(f"{click.style(one.flow_key, bold=True)} at {', '.join(one.at) or 'its end'}")
        for problem in one.problems:
            click.echo(f"  {click.style('-', fg='red')} {problem}")
    counted = f"{len(checked)} open flow{'' if len(checked) == 1 else 's'} of {workflow.url}"
    if bad:
        click.echo(
            f"{counted}: {len(bad)} could not go on under the graph of {text}. They keep the graph they have:"
            " the methods of its nodes have to stay in the code until they have ended"
        )
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
