"""A cancelled flow cancels its tasks, also where they run in another process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from mbactor import Actor, ActorSystem
from mbactor.foreman import END, Flow, Flows, Foreman, Graph, task, workflow
from tests.nats import NatsServer, nats_server

pytestmark = pytest.mark.anyio

heard: list[str] = []


class Slow(Actor):
    host = "slow.example"

    @task
    async def first(self, flow: Flow) -> None:
        flow["n"] = 1

    @task
    async def wait(self) -> None:
        heard.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            heard.append("ended")

    @workflow
    def slow(self) -> Graph:
        graph = Graph("Slow")
        graph.add_transition_chain(Slow.first, Slow.wait, END)
        return graph


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("pause", [0.0, 0.4], ids=["before it is acknowledged", "after"])
async def test_a_task_in_another_process_is_cancelled_with_its_flow(
    nats: NatsServer, pause: float, replicas: int
) -> None:
    heard.clear()
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(
            ActorSystem("foreman", transport=nats.url, plane=f"p{replicas}{pause:.0f}{int(10 * pause)}")
        )
        for number in range(replicas):
            name = f"tasks-{number}"
            other = ActorSystem(name, transport=nats.url, plane=f"p{replicas}{pause:.0f}{int(10 * pause)}")
            await (await stack.enter_async_context(other)).spawn(Slow)
        await system.spawn(Foreman)
        flows = Flows(system)
        flow_key = await flows.create(Slow.slow)
        async with asyncio.timeout(20):
            while heard != ["begun"]:
                await asyncio.sleep(0.01)
            await asyncio.sleep(pause)
            await flows.cancel(flow_key)
            while heard != ["begun", "ended"]:
                await asyncio.sleep(0.01)
        assert (await flows.wait(flow_key)).status == "cancelled"


async def test_a_task_that_is_handed_over_as_bytes_is_cancelled_with_its_flow() -> None:
    heard.clear()
    async with ActorSystem(serialize_local=True) as system:
        await system.spawn(Slow)
        await system.spawn(Foreman)
        flows = Flows(system)
        flow_key = await flows.create(Slow.slow)
        async with asyncio.timeout(20):
            while heard != ["begun"]:
                await asyncio.sleep(0.01)
            await flows.cancel(flow_key)
            while heard != ["begun", "ended"]:
                await asyncio.sleep(0.01)
