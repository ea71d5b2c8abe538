"""The public API as type checkers see it: `assert_type` is checked by mypy and pyright, and holds at run time."""

from __future__ import annotations

from typing import assert_type

import pytest

from mbactor import Actor, ActorRef, ActorSystem, MailboxStatistics, Supervisor, child, endpoint
from mbactor.foreman import Flow, FlowOutcome, Flows, Graph, StepRecord, task, workflow
from mbactor.foreman.features import TaskReference, WorkflowReference
from mbactor.kernel.ref import Answer
from mbactor.supervisor import ChildSpec

pytestmark = pytest.mark.anyio


class Counter(Actor):
    host = "typed.example"

    def __init__(self, start: int = 0) -> None:
        self.total = start

    @endpoint
    async def add(self, by: int = 1) -> int:
        self.total += by
        return self.total

    @endpoint(method="GET")
    async def name(self) -> str:
        return "counter"

    @endpoint
    def read(self) -> int:
        return self.total

    @task
    async def step(self, flow: Flow) -> None: ...

    @workflow
    def flow(self) -> Graph:
        return Graph("Typed")

    async def use(self) -> None:
        assert_type(await self.ask(Counter.add, by=1), int)
        assert_type(self.tell(Counter.add, 1), bool)
        assert_type(await self.at("other.example").ask(Counter.name), str)
        self.ask(Counter.add, by="x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Sub(Counter):
    host = "sub.example"


async def use_a_system(system: ActorSystem) -> None:
    counter = await system.spawn(Counter, start=1)
    assert_type(counter, ActorRef[Counter])
    assert_type(counter.ask(Counter.add, by=5), Answer[int])
    assert_type(await counter.ask(Counter.add), int)
    assert_type(await counter.ask(Counter.name), str)
    assert_type(await counter.ask(Counter.read), int)
    assert_type(counter.tell(Counter.add, 1), bool)
    assert_type(counter.statistics(), MailboxStatistics)
    assert_type(await system.ask(Counter.add, by=1), int)
    await system.spawn(Counter, start="x")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    counter.ask(Counter.add, to=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    sub = await system.spawn(Sub)
    assert_type(await sub.ask(Counter.add), int)
    supervisor = await system.spawn(Supervisor, children=[child(Counter)])
    assert_type(supervisor, Supervisor)


async def use_an_instance(counter: Counter) -> None:
    assert_type(await counter.add(1), int)


async def use_flows(system: ActorSystem) -> None:
    flows = Flows(system)
    assert_type(Counter.step, TaskReference)
    assert_type(Counter.flow, WorkflowReference)
    assert_type(await flows.create(Counter.flow, {"a": 1}), str)
    assert_type(await flows.run(Counter.flow), FlowOutcome)
    await flows.run(Counter.step)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(await flows.history("key"), list[StepRecord])


def use_specs() -> None:
    assert_type(child(Counter, args={"start": 1}, restart="transient"), ChildSpec)


async def test_what_is_asserted_for_types_holds_at_run_time() -> None:
    counter = Counter()
    assert await counter.add(2) == 2
    assert counter.read() == 2
    use_specs()
    async with ActorSystem() as system:
        ref = await system.spawn(Counter, start=1)
        assert isinstance(ref, ActorRef)
        assert await ref.ask(Counter.add, by=5) == 6
