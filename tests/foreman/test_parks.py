"""Parks wherever a task may make them, with the outcome that each has, in one process and over the wire alike."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from mbactor import Actor, ActorSystem
from mbactor.errors import FlowConflict
from mbactor.foreman import END, Flow, Flows, Foreman, Graph, task, workflow

pytestmark = pytest.mark.anyio

SWALLOWED = "interrupt() was swallowed"


class Parks(Actor):
    host = "parks.example"

    @task
    async def park(self, flow: Flow, how: str) -> None:
        flow["before"] = True
        await getattr(self, how)(flow)

    @task
    def park_in_thread(self, flow: Flow) -> None:
        flow["got"] = [flow.interrupt(number) for number in range(2)]

    async def straight(self, flow: Flow) -> None:
        flow["got"] = flow.interrupt(0)

    async def three_and_a_child(self, flow: Flow) -> None:
        got: list[Any] = [flow.interrupt(0)]
        got.append(flow.subgraph(Parks.child, {"n": got[0]})["n"])
        got += [flow.interrupt(1), flow.interrupt(2)]
        flow["got"] = got

    async def in_a_task_group(self, flow: Flow) -> None:
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(self._ask(flow))
        flow["got"] = asked.result()

    async def in_an_anyio_group(self, flow: Flow) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self.straight, flow)

    async def two_in_a_task_group(self, flow: Flow) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask(flow))
            group.create_task(self._ask(flow))

    async def in_a_group_with_an_error(self, flow: Flow) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._fails())
            group.create_task(self._ask(flow))

    async def under_suppress(self, flow: Flow) -> None:
        with contextlib.suppress(BaseException):
            flow.interrupt(0)

    async def under_bare_except(self, flow: Flow) -> None:
        try:
            flow.interrupt(0)
        except:  # noqa: E722
            flow["caught"] = True

    async def under_except_exception(self, flow: Flow) -> None:
        try:
            flow["got"] = flow.interrupt(0)
        except Exception:  # noqa: BLE001
            flow["caught"] = True

    async def finally_returns(self, flow: Flow) -> None:
        try:
            flow.interrupt(0)
        finally:
            return  # noqa: B012

    async def finally_raises(self, flow: Flow) -> None:
        try:
            flow.interrupt(0)
        finally:
            await self._fails()

    async def in_a_gather(self, flow: Flow) -> None:
        (flow["got"],) = await asyncio.gather(self._ask(flow))

    async def in_a_gather_that_returns_exceptions(self, flow: Flow) -> None:
        flow["got"] = [str(one) for one in await asyncio.gather(self._ask(flow), return_exceptions=True)]

    async def within_a_timeout(self, flow: Flow) -> None:
        async with asyncio.timeout(60):
            flow["got"] = await self._ask(flow)

    async def in_a_task_that_is_awaited(self, flow: Flow) -> None:
        flow["got"] = await asyncio.create_task(self._ask(flow))

    async def in_a_thread_of_its_own(self, flow: Flow) -> None:
        flow["got"] = await asyncio.to_thread(flow.interrupt, 0)

    async def in_a_task_that_nobody_awaits(self, flow: Flow) -> None:
        background = asyncio.create_task(self._ask(flow))
        await asyncio.wait([background])
        with contextlib.suppress(BaseException):
            background.result()

    async def with_retry(self, flow: Flow) -> None:
        flow["got"] = [*flow.get("got", []), flow.interrupt(flow.attempt)]
        if flow.attempt == 0:
            flow.retry()

    async def of_another_kind(self, flow: Flow) -> None:
        if flow.parks:
            flow.subgraph(Parks.child)
        flow.interrupt(0)

    async def retry_and_park(self, flow: Flow) -> None:
        flow.retry()
        flow.interrupt(0)

    async def _ask(self, flow: Flow) -> Any:
        return flow.interrupt(0)

    async def _fails(self) -> None:
        raise ValueError("an error of its own")

    @task
    async def doubles(self, flow: Flow) -> None:
        flow["n"] = flow["n"] * 2

    @workflow
    def child(self) -> Graph:
        return _one(Parks.doubles)

    @workflow
    def parking(self) -> Graph:
        return _one(Parks.park)

    @workflow
    def threaded(self) -> Graph:
        return _one(Parks.park_in_thread)

    @workflow
    def many(self) -> Graph:
        graph = Graph("many")
        graph.add_transition_for_each("start", Parks.asks, for_each="items")
        graph.set_endpoint("start", Parks.nothing)
        graph.add_subgraph("called", Parks.asking)
        graph.add_transition("start", "called")
        graph.set_endpoint("end", Parks.nothing)
        graph.add_transition(Parks.asks, "end")
        graph.add_transition("called", "end")
        graph.set_fan_in("end")
        graph.add_transition("end", END)
        return graph

    @workflow
    def asking(self) -> Graph:
        return _one(Parks.asks)

    @task
    async def nothing(self) -> None: ...

    @task
    async def asks(self, flow: Flow, item: str = "child") -> None:
        if item == "bad":
            raise ValueError("a bad branch")
        flow["list_got"] = [[item, flow.interrupt(item)]]


def _one(node: Any) -> Graph:
    graph = Graph(f"One{node.node_name}")
    graph.add_transition(node, END)
    return graph


@pytest.fixture(params=[False, True], ids=["handed over", "serialized"])
async def flows(request: pytest.FixtureRequest) -> AsyncIterator[Flows]:
    async with ActorSystem(serialize_local=request.param) as system:
        await system.spawn(Foreman, database="sqlite://", workers=1)
        await system.spawn(Parks)
        yield Flows(system)


async def answered(flows: Flows, key: str) -> tuple[str, int, Any, str]:
    """How it ends when each question is answered by ten more than itself: status, questions, what it got, its error."""
    asked = 0
    while (outcome := await flows.wait(key)).status == "interrupted":
        step_key, question = outcome.interrupts[0]
        assert outcome.state.get("before", True)
        await flows.resume(key, question + 10, step_key)
        asked += 1
    return outcome.status, asked, outcome.state.get("got"), str(outcome.failure or "")


PARKS = [
    ("straight", 1, 10), ("three_and_a_child", 3, [10, 20, 11, 12]), ("in_a_task_group", 1, 10),
    ("in_an_anyio_group", 1, 10), ("under_except_exception", 1, 10), ("in_a_gather", 1, 10),
    ("within_a_timeout", 1, 10), ("in_a_task_that_is_awaited", 1, 10), ("in_a_thread_of_its_own", 1, 10),
    ("with_retry", 2, [10, 11]),
]  # fmt: skip

FAILS = [
    ("in_a_group_with_an_error", 0, "an error of its own"), ("under_suppress", 0, SWALLOWED),
    ("two_in_a_task_group", 0, "second park"),
    ("under_bare_except", 0, SWALLOWED), ("finally_returns", 0, SWALLOWED), ("finally_raises", 0, "an error of its own"),
    ("in_a_gather_that_returns_exceptions", 0, SWALLOWED), ("in_a_task_that_nobody_awaits", 0, SWALLOWED),
    ("of_another_kind", 1, "was interrupt() in an earlier run"),
    ("retry_and_park", 0, "multiple competing control signals"),
]  # fmt: skip


@pytest.mark.parametrize(("how", "asked", "got"), PARKS, ids=[row[0] for row in PARKS])
async def test_a_park_waits_and_the_task_goes_on_with_the_answer(flows: Flows, how: str, asked: int, got: Any) -> None:
    key = await flows.create(Parks.parking, {"how": how})
    assert await answered(flows, key) == ("completed", asked, got, "")


@pytest.mark.parametrize(("how", "asked", "why"), FAILS, ids=[row[0] for row in FAILS])
async def test_a_park_that_cannot_be_one_fails_the_step_and_says_why(
    flows: Flows, how: str, asked: int, why: str
) -> None:
    key = await flows.create(Parks.parking, {"how": how})
    status, questions, _, error = await answered(flows, key)
    assert (status, questions) == ("failed", asked)
    assert why in error


async def test_a_task_in_a_thread_parks_as_often_as_it_likes(flows: Flows) -> None:
    assert await answered(flows, await flows.create(Parks.threaded)) == ("completed", 2, [10, 11], "")


async def _all_asked(flows: Flows, key: str, count: int) -> dict[Any, str]:
    async with asyncio.timeout(60):
        while len(found := (await flows.snapshot(key)).interrupts) < count:
            await asyncio.sleep(0.005)
    return {question: step_key for step_key, question in found}


async def test_questions_of_branches_and_of_a_called_flow_are_answered_in_any_order(flows: Flows) -> None:
    key = await flows.create(Parks.many, {"items": ["a", "b", "c"]})
    asked = await _all_asked(flows, key, 4)
    for question in ("child", "c"):
        await flows.resume(key, question.upper(), asked[question])
        with pytest.raises(FlowConflict):
            await flows.resume(key, "again", asked[question])
    first = (await flows.snapshot(key)).interrupts[0]
    await flows.resume(key, "first")
    (left,) = await _all_asked(flows, key, 1)
    assert left != first[1]
    await flows.resume(key, "last")
    outcome = await flows.wait(key)
    assert outcome.status == "completed"
    got = dict(outcome.state["list_got"])
    assert got == {"child": "CHILD", "c": "C", first[1]: "first", left: "last"}


async def test_a_failed_branch_beside_one_that_asks_fails_the_flow_once_that_is_answered(flows: Flows) -> None:
    key = await flows.create(Parks.many, {"items": ["a", "bad"]})
    await _all_asked(flows, key, 2)
    async with asyncio.timeout(60):
        while "failed" not in {step.status for step in await flows.history(key)}:
            await asyncio.sleep(0.005)
    assert (await flows.snapshot(key)).status == "interrupted"
    await flows.resume(key, 1)
    await flows.resume(key, 2)
    outcome = await flows.wait(key)
    assert (outcome.status, str(outcome.failure)) == ("failed", "ValueError: a bad branch")
