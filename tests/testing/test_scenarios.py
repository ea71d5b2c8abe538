"""What takes hours elsewhere takes no time here: backoffs, budgets, sleeps, retries and leases of the whole runtime."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mbactor import Actor, ActorSystem, Backoff, BudgetSpent, child, clock, endpoint
from mbactor.foreman import END, Flow, Flows, Foreman, Graph, task, workflow
from mbactor.foreman.sweep import sweep
from mbactor.testing import Recorder, VirtualTimeLoop, faults
from tests.foreman.world import a_world


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Each scenario takes seconds of real time, where hours pass; many of them on a machine that is busy."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 60


class Stubborn(Actor):
    """Starts at the sixth attempt."""

    attempts: ClassVar[list[float]] = []

    async def on_start(self) -> None:
        self.attempts.append(asyncio.get_running_loop().time())
        if 1 < len(self.attempts) < 6:
            raise OSError("not yet")

    @endpoint
    async def fail(self) -> None:
        raise OSError("gone")


async def test_a_backoff_of_hours_is_waited_for(mbactor: ActorSystem, mbactor_recorder: Recorder) -> None:
    Stubborn.attempts.clear()
    backoff = Backoff(initial="1h", maximum="8h", jitter=0)
    ref = await mbactor.spawn(child(Stubborn, backoff=backoff))
    ref.tell(Stubborn.fail)
    await mbactor_recorder.wait_for("actor.started", within="5d", incarnation=6)
    waits = [round(later - sooner) for sooner, later in zip(Stubborn.attempts, Stubborn.attempts[1:], strict=False)]
    assert waits == [3600, 7200, 14400, 28800, 28800]


class Slow(Actor):
    host = "slow.example"

    @endpoint
    async def answer(self, after: float) -> str:
        await asyncio.sleep(after)
        return "late"


async def test_an_ask_ends_by_its_budget_to_the_moment(mbactor: ActorSystem) -> None:
    await mbactor.spawn(Slow)
    began = asyncio.get_running_loop().time()
    with pytest.raises(BudgetSpent):
        await mbactor.ask(Slow.answer, after=3600)
    assert asyncio.get_running_loop().time() - began == pytest.approx(20, abs=0.01)
    assert await mbactor.ask(Slow.answer, after=19.9) == "late"


class Journey(Actor):
    host = "journey.example"
    tries: ClassVar[list[float]] = []

    @task
    async def rests(self, flow: Flow) -> None:
        flow["left"] = clock.unix()
        flow.sleep("1h")

    @task
    async def arrives(self) -> dict[str, float]:
        return {"arrived": clock.unix()}

    @task
    async def tries_again(self, flow: Flow) -> None:
        self.tries.append(clock.unix())
        if not flow.retry("1m", multiplier=2, max_interval="10m", give_up_after="1h"):
            raise TimeoutError("gave up")

    @task
    async def asks(self, flow: Flow) -> None:
        flow["answer"] = flow.interrupt({"question": "go on?"})

    @task
    def works_in_a_thread(self) -> dict[str, bool]:
        time.sleep(0.2)
        return {"threaded": threading.current_thread() is not threading.main_thread()}

    @workflow
    def rest(self) -> Graph:
        graph = Graph("Rest")
        graph.add_transition_chain(Journey.rests, Journey.arrives, END)
        return graph

    @workflow
    def persistence(self) -> Graph:
        graph = Graph("Persistence")
        graph.add_transition(Journey.tries_again, END)
        return graph

    @workflow
    def doubt(self) -> Graph:
        graph = Graph("Doubt")
        graph.add_transition_chain(Journey.asks, Journey.arrives, END)
        return graph

    @workflow
    def labour(self) -> Graph:
        graph = Graph("Labour")
        graph.add_transition(Journey.works_in_a_thread, END)
        graph.set_time_budget(Journey.works_in_a_thread, "100ms")
        return graph


@pytest.fixture(params=["memory", "file"])
async def flows(request: pytest.FixtureRequest, mbactor: ActorSystem, tmp_path: Path) -> Flows:
    database = "sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path}/flows.db"
    await mbactor.spawn(Foreman, database=database, workers=1, lease="1m")
    await mbactor.spawn(Journey)
    return Flows(mbactor)


async def stopped(flows: Flows, recorder: Recorder, reference: Any) -> Any:
    """The outcome, however many hours the flow takes: one ask lasts at most 15 minutes."""
    key = await flows.create(reference)
    await recorder.wait_for("flow.stopped", within="10d")
    return await flows.snapshot(key)


async def test_a_flow_sleeps_for_an_hour(flows: Flows, mbactor_recorder: Recorder) -> None:
    outcome = await stopped(flows, mbactor_recorder, Journey.rest)
    assert outcome.status == "completed"
    assert outcome.state["arrived"] - outcome.state["left"] == pytest.approx(3600, abs=1.5)


async def test_a_task_is_retried_until_it_gives_up(flows: Flows, mbactor_recorder: Recorder) -> None:
    Journey.tries.clear()
    outcome = await stopped(flows, mbactor_recorder, Journey.persistence)
    assert outcome.status == "failed"
    assert "gave up" in str(outcome.error)
    waits = [later - sooner for sooner, later in zip(Journey.tries, Journey.tries[1:], strict=False)]
    assert waits[:6] == pytest.approx([60, 120, 240, 480, 600, 600], abs=1.5)
    assert 3000 < Journey.tries[-1] - Journey.tries[0] <= 4300


async def test_an_interrupted_flow_waits_for_its_answer(flows: Flows, mbactor_recorder: Recorder) -> None:
    outcome = await flows.run(Journey.doubt)
    assert outcome.status == "interrupted"
    asked = clock.unix()
    await asyncio.sleep(600)
    await flows.resume(outcome.flow_key, "yes")
    outcome = await flows.wait(outcome.flow_key)
    assert outcome.state["answer"] == "yes"
    assert outcome.state["arrived"] - asked == pytest.approx(600, abs=1.5)


async def test_the_budget_of_a_task_does_not_run_while_its_thread_works(flows: Flows) -> None:
    outcome = await flows.run(Journey.labour)
    assert outcome.state == {"threaded": True}, outcome.error


@pytest.mark.parametrize("where", ["memory", "file"])
async def test_a_lease_of_ten_seconds_expires_in_milliseconds(
    mbactor_loop: VirtualTimeLoop, tmp_path: Path, where: str
) -> None:
    """A worker that is killed leaves its step leased; another has it once the lease is over, and not before."""
    url = "sqlite://" if where == "memory" else f"sqlite:///{tmp_path}/flows.db"
    graph = Graph("One")
    graph.set_endpoint("only", "only")
    graph.add_transition("only", END)
    async with a_world(url, workers=1, lease=10.0) as world:
        name = await world.graph(graph, only=lambda flow: flow.update(at=mbactor_loop.time()))
        with faults.holding("foreman.execute.before") as held:
            key = await world.engine.create(name)
            await held.reached()
            world.kill()
            taken = mbactor_loop.time()
            world.work("second")
            await asyncio.sleep(9)
            assert await sweep(world.engine) == 0
            assert await world.sql("SELECT status FROM mbactor_step") == [("running",)]
            await asyncio.sleep(2)
            assert await sweep(world.engine) == 1
            outcome = await world.engine.wait(key)
        assert outcome.status == "completed"
        assert outcome.state["at"] - taken == pytest.approx(11, abs=1)
