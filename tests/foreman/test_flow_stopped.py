"""A flow that names a host for it has the sinks of that host told at each of its stops."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from mbactor import Actor, ActorSystem, BadRequest, child, endpoint, sink
from mbactor.foreman import END, Flow, FlowOptions, FlowOutcome, Flows, Foreman, Graph, task, workflow
from mbactor.testing import Probes
from tests.nats import nats_server

TELL = FlowOptions(notify_on_stop="watcher.example")


class Work(Actor):
    host = "stops.example"

    @task
    async def asks(self, flow: Flow, ask: bool = True, fail: bool = False) -> None:
        if fail:
            raise BadRequest("not this")
        if ask:
            flow["answer"] = flow.interrupt("how many?")

    @task
    async def calls(self, flow: Flow) -> None:
        flow.subgraph(Work.asking, {"ask": False})

    @workflow
    def asking(self) -> Graph:
        graph = Graph("Asking")
        graph.add_transition(Work.asks, END)
        return graph

    @workflow
    def calling(self) -> Graph:
        graph = Graph("Calling")
        graph.add_transition(Work.calls, END)
        return graph


class Watcher(Actor):
    host = "watcher.example"

    @sink(Foreman.on_flow_stopped)
    async def stopped(self, flow_key: str, outcome: FlowOutcome) -> None: ...


class Other(Watcher):
    host = "other.example"


async def test_the_host_that_a_flow_names_is_told_of_each_stop_and_no_other(
    mbactor: ActorSystem, mbactor_probe: Probes
) -> None:
    watcher, other = await mbactor_probe(Watcher), await mbactor_probe(Other)
    await mbactor.spawn(Work)
    await mbactor.spawn(Foreman)
    flows = Flows(mbactor)

    async def told(key: str) -> FlowOutcome:
        outcome = (await watcher.expect(Watcher.stopped, flow_key=key)).arguments["outcome"]
        assert isinstance(outcome, FlowOutcome)
        return outcome

    key = await flows.create(Work.asking, {}, TELL)
    asked = await told(key)
    assert (asked.status, [payload for _, payload in asked.interrupts]) == ("interrupted", ["how many?"])
    await flows.resume(key, 3)
    assert await told(key) == FlowOutcome(flow_key=key, status="completed", state={"answer": 3})
    failed = await told(await flows.create(Work.asking, {"fail": True}, TELL))
    assert (failed.status, str(failed.failure)) == ("failed", "not this")
    key = await flows.create(Work.asking, {}, TELL)
    await told(key)
    await flows.cancel(key, "no longer wanted")
    assert (await told(key)).cancel_reason == "no longer wanted"
    await flows.run(Work.asking, {"ask": False})  # it names nobody
    calling = await flows.create(Work.calling, {}, TELL)
    assert (await told(calling)).status == "completed"
    continued = await flows.continue_thread(calling)
    forked = await flows.fork((await flows.history(calling))[0].step_key)
    for derived in (continued, forked):
        assert (await told(derived)).status == "completed"
    await watcher.expect_none("1m")
    assert list(other.received) == []


async def test_the_completion_of_a_disposable_flow_is_told(mbactor: ActorSystem, mbactor_probe: Probes) -> None:
    watcher = await mbactor_probe(Watcher)
    await mbactor.spawn(Work)
    await mbactor.spawn(Foreman)
    options = FlowOptions(notify_on_stop="watcher.example", delete_on_completion=True)
    key = await Flows(mbactor).create(Work.asking, {"ask": False}, options)
    told = await watcher.expect(Watcher.stopped, flow_key=key)
    assert told.arguments["outcome"].state == {"ask": False}


def test_what_is_no_host_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"notify_on_stop='a host': the host of an actor class expected, such as"):
        FlowOptions(notify_on_stop="a host")


class Keeping(Actor):
    host = "watcher.example"

    def __init__(self) -> None:
        self.seen: list[str] = []

    @sink(Foreman.on_flow_stopped)
    async def stopped(self, flow_key: str, outcome: FlowOutcome) -> None:
        self.seen.append(f"{flow_key} {outcome.status}")

    @endpoint
    async def all(self) -> list[str]:
        return self.seen


@pytest.mark.anyio
async def test_it_is_told_over_a_broker_and_once_of_several_replicas(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with nats_server(tmp_path_factory.mktemp("nats")) as nats:
        async with ActorSystem("one", transport=nats.url) as one, ActorSystem("two", transport=nats.url) as two:
            replicas = [await two.spawn(child(Keeping, id=f"keeping-{n}")) for n in range(2)]
            await one.spawn(Work)
            await one.spawn(Foreman, database=f"sqlite:///{tmp_path}/flows.db")
            keys = [await Flows(one).create(Work.asking, {"ask": False}, TELL) for _ in range(5)]
            seen: list[str] = []
            while len(seen) < len(keys):
                await anyio.sleep(0.02)
                seen = [line for ref in replicas for line in await ref.ask(Keeping.all)]
            assert sorted(seen) == sorted(f"{key} completed" for key in keys)
