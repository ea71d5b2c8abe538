"""What is asked of the host about a workflow's graph when flows are created at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from mbactor.errors import FlowNotFound
from mbactor.foreman.graphs import Graphs
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.store.operations import Create, Operation
from mbactor.seams import armed
from tests.foreman.world import a_world, ok

pytestmark = pytest.mark.anyio


class Asked:
    """A host that answers when the test lets it, and counts the questions."""

    def __init__(self) -> None:
        self.questions = 0
        self.go = asyncio.Event()
        self.error: Exception | None = None

    async def load_graph(self, workflow: str, baggage: Mapping[str, Any]) -> Graph:
        self.questions += 1
        await self.go.wait()
        if self.error is not None:
            raise self.error
        graph = Graph(workflow)
        graph.add_transition("start", END)
        return graph

    async def execute_task(self, task_url: str, flow: Flow, time_budget: float) -> None:
        raise NotImplementedError


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_creations_at_the_same_moment_share_one_question() -> None:
    async with a_world(workers=0) as world:
        host = Asked()
        graphs = Graphs(world.store, host)
        asking = [asyncio.ensure_future(graphs.load("wf", {})) for _ in range(5)]
        told_apart = [asyncio.ensure_future(graphs.load("wf", {"tenant": number})) for number in range(2)]
        await turns()
        assert host.questions == 1 + 2
        host.go.set()
        assert len({frozen.hash for frozen in await asyncio.gather(*asking, *told_apart)}) == 1
        await graphs.load("wf", {})
        assert host.questions == 1 + 2 + 1, "a later creation takes the graph that the workflow has by then"


async def test_an_error_is_told_to_all_who_asked() -> None:
    async with a_world(workers=0) as world:
        host = Asked()
        host.error = FlowNotFound("no workflow wf")
        graphs = Graphs(world.store, host)
        asking = [asyncio.ensure_future(graphs.load("wf", {})) for _ in range(3)]
        await turns()
        host.go.set()
        results = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(result) for result in results] == [FlowNotFound] * 3
        assert host.questions == 1


async def test_whoever_asked_first_may_go_away() -> None:
    async with a_world(workers=0) as world:
        host = Asked()
        graphs = Graphs(world.store, host)
        first, *others = [asyncio.ensure_future(graphs.load("wf", {})) for _ in range(4)]
        await turns()
        others.pop().cancel()
        first.cancel()
        await turns()
        host.go.set()
        assert len(await asyncio.gather(*others)) == 2
        assert first.cancelled()
        assert host.questions == 1


async def test_flows_that_are_created_at_the_same_moment_are_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []

    async def note(operations: Sequence[Operation], **_: Any) -> None:
        created = sum(isinstance(one, Create) for one in operations)
        if created:
            batches.append(created)

    async with a_world(workers=0) as world:
        graph = Graph("line")
        graph.add_transition_chain("one", "two", END)
        await world.graph(graph, one=ok, two=ok)
        load_graph = world.host.load_graph

        async def ask_an_actor(workflow: str, baggage: Mapping[str, Any]) -> Graph:
            await turns()
            return await load_graph(workflow, baggage)

        monkeypatch.setattr(world.host, "load_graph", ask_an_actor)
        await world.engine.create("line")
        with armed("foreman.write.before", note):
            await asyncio.gather(*(world.engine.create("line") for _ in range(16)))
        assert batches == [16], "one that comes before the others has a commit of its own"
