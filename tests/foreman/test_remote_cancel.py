"""A cancelled flow cancels its tasks, also where they run in another process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack

import pytest

from mbactor import Actor, ActorSystem
from mbactor.foreman import END, Flow, Flows, Foreman, Graph, task, workflow
from mbactor.transport.ask import Ask
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


async def until(condition: Callable[[], bool]) -> None:
    """Within less than the time budget of a task, which ends it too."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def cancel_once(flows: Flows, begun: Callable[[], bool]) -> None:
    """Cancel a flow whose task has begun, and see that the task ends of it."""
    flow_key = await flows.create(Slow.slow)
    await until(lambda: heard == ["begun"] and begun())
    await flows.cancel(flow_key)
    await until(lambda: heard == ["begun", "ended"])
    assert (await flows.wait(flow_key)).status == "cancelled"


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("acknowledged", [False, True])
async def test_a_task_in_another_process_is_cancelled_with_its_flow(
    nats: NatsServer, acknowledged: bool, replicas: int
) -> None:
    heard.clear()
    plane = f"p{replicas}{acknowledged}"
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(ActorSystem("foreman", transport=nats.url, plane=plane))
        for number in range(replicas):
            other = ActorSystem(f"tasks-{number}", transport=nats.url, plane=plane)
            await (await stack.enter_async_context(other)).spawn(Slow)
        await system.spawn(Foreman, default_time_budget="1h")
        waiting = system.node.remote._requester._waiting

        def is_held() -> bool:
            return any(isinstance(one, Ask) and one.holder for one in waiting.everyone())

        await cancel_once(Flows(system), begun=is_held if acknowledged else lambda: True)


async def test_a_task_that_is_handed_over_as_bytes_is_cancelled_with_its_flow() -> None:
    heard.clear()
    async with ActorSystem(serialize_local=True) as system:
        await system.spawn(Slow)
        await system.spawn(Foreman, default_time_budget="1h")
        await cancel_once(Flows(system), begun=lambda: True)
