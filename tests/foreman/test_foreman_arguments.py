"""What a Foreman is given reaches what it is for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import anyio
import pytest

from mbactor import Actor, ActorSystem, seams
from mbactor.foreman import END, Flow, FlowOptions, Flows, Foreman, Graph, task, workflow


class Work(Actor):
    host = "work.example"

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.at_once = 0
        self.most_at_once = 0

    @task
    async def works(self, flow: Flow, name: str = "", seconds: float = 0.0) -> None:
        self.begun.append(name)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await anyio.sleep(seconds)
        finally:
            self.at_once -= 1
        flow["begun"], flow["most_at_once"] = self.begun, self.most_at_once

    @workflow
    def work(self) -> Graph:
        graph = Graph("Work")
        graph.add_transition(Work.works, END)
        return graph


async def test_a_run_of_a_task_has_the_budget_of_the_foreman(mbactor: ActorSystem) -> None:
    await mbactor.spawn(Foreman, default_time_budget="3s")
    await mbactor.spawn(Work)
    began = asyncio.get_running_loop().time()
    outcome = await Flows(mbactor).run(Work.work, {"seconds": 15})
    assert outcome.failure is not None
    assert outcome.failure.status == 408
    assert asyncio.get_running_loop().time() - began < 4


async def test_what_a_worker_has_at_once_is_its_slots(mbactor: ActorSystem) -> None:
    await mbactor.spawn(Foreman, workers=2, slots=3)
    await mbactor.spawn(Work)
    outcomes = await asyncio.gather(*(Flows(mbactor).run(Work.work, {"seconds": 1}) for _ in range(20)))
    assert max(outcome.state["most_at_once"] for outcome in outcomes) == 6


@pytest.mark.parametrize(("ageing", "order"), [(None, ["first", "urgent", "old"]), ("1s", ["first", "old", "urgent"])])
async def test_what_has_waited_for_long_comes_first_by_ageing(
    mbactor: ActorSystem, ageing: str | None, order: Sequence[str]
) -> None:
    await mbactor.spawn(Foreman, workers=1, slots=1, ageing=ageing)
    await mbactor.spawn(Work)
    flows = Flows(mbactor)
    await flows.create(Work.work, {"name": "first", "seconds": 12})
    old = await flows.create(Work.work, {"name": "old"}, FlowOptions(priority=105))
    await anyio.sleep(10)
    urgent = await flows.create(Work.work, {"name": "urgent"}, FlowOptions(priority=100))
    begun = [(await flows.wait(key)).state["begun"] for key in (old, urgent)]
    assert max(begun, key=len) == order


@pytest.mark.parametrize("commit_each", [False, True])
async def test_each_outcome_has_a_commit_of_its_own_where_that_is_wanted(
    mbactor: ActorSystem, commit_each: bool
) -> None:
    sizes: list[int] = []

    async def note(operations: Sequence[object]) -> None:
        sizes.append(len(operations))

    await mbactor.spawn(Foreman, commit_each=commit_each)
    await mbactor.spawn(Work)
    with seams.armed("foreman.write.before", note):
        await asyncio.gather(*(Flows(mbactor).run(Work.work) for _ in range(20)))
    assert (max(sizes) == 1) is commit_each


async def test_flows_are_kept_for_the_days_that_are_said(mbactor: ActorSystem) -> None:
    await mbactor.spawn(Foreman, retention_days=60 / 86400)
    await mbactor.spawn(Work)
    flows = Flows(mbactor)
    await flows.run(Work.work)
    await anyio.sleep(50)
    assert len((await flows.list()).flows) == 1
    await anyio.sleep(20)
    assert (await flows.list()).flows == []
