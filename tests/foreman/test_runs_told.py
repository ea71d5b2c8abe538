"""What a history says of how often each task was started, and of runs that were lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mbactor import Actor
from mbactor.errors import NoSuchActor
from mbactor.foreman import task
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.outcome import StepRecord
from mbactor.foreman.sweep import sweep
from tests.foreman.world import World, a_world, ok

pytestmark = pytest.mark.anyio


class Rated(Actor):
    host = "rated.example"

    @task(rate="20/s")
    async def rated(self) -> None: ...


def absent_once(world: World) -> Any:
    def task(_: Flow) -> None:
        if "refused" not in seen:
            seen.append("refused")
            world.host.ran.pop()
            raise NoSuchActor("absent")

    seen: list[str] = []
    return task


def asks(flow: Flow) -> None:
    flow["answers"] = [flow.interrupt("one?"), flow.interrupt("two?")]


def calls(flow: Flow) -> None:
    flow.subgraph("inner", {})


def tries(flow: Flow) -> None:
    if flow.attempt < 2:
        flow.retry()


async def by_node(world: World, key: str) -> dict[str, StepRecord]:
    return {step.node: step for step in await world.engine.history(key)}


async def test_each_start_of_a_task_is_counted_and_nothing_else(database: str) -> None:
    """Not what was put off: by a breakpoint, by a rate, or because nobody was there."""
    async with a_world(database, poll_interval=0.02) as world:
        graph = Graph("all")
        graph.add_transition_chain("absent", "asks", "calls", "tries", "stops", Rated.rated, END)
        graph.set_time_budget("absent", 0.4)
        inner = Graph("inner")
        inner.add_transition("deep", END)
        world.host.graphs["inner"] = inner
        tasks = {"absent": absent_once(world), "asks": asks, "calls": calls, "tries": tries, "stops": ok, "deep": ok}
        await world.graph(graph, **tasks)
        world.host.tasks[Rated.rated.url] = ok
        keys = [await world.engine.create("all", start=False) for _ in range(2)]
        for key in keys:
            await world.engine.recovery.break_before(key, "stops")
            await world.engine.start(key)
        for key in keys:
            for _ in range(2):
                await world.engine.wait(key)
                await world.engine.resume(key)
            await world.engine.wait(key)
        for key in keys:
            await world.engine.recovery.resume_break(key)
        for key in keys:
            assert (await world.engine.wait(key)).status == "completed"
        expected = {"absent": 1, "asks": 3, "calls": 2, "tries": 3, "stops": 1, "rated": 1}
        for key in keys:
            steps = await by_node(world, key)
            assert {node: step.runs for node, step in steps.items()} == expected
            assert (steps["tries"].attempt, {step.lost for step in steps.values()}) == (2, {0})
        assert len(world.host.ran) == 2 * (sum(expected.values()) + 1)
        asked = (await by_node(world, keys[1]))["asks"]
        await world.engine.recovery.restart_from(asked.step_key)
        await world.engine.wait(keys[1])
        assert (await by_node(world, keys[1]))["asks"].runs == 1


async def test_the_wait_for_an_answer_is_told_and_none_where_nothing_was_asked(database: str) -> None:
    async with a_world(database, poll_interval=0.02) as world:
        graph = Graph("all")
        graph.add_transition_chain("before", "asks", "calls", "tries", END)
        inner = Graph("inner")
        inner.add_transition("deep", END)
        world.host.graphs["inner"] = inner
        key = await world.engine.create(
            await world.graph(graph, before=ok, asks=asks, calls=calls, tries=tries, deep=ok)
        )
        for _ in range(2):
            await world.engine.wait(key)
            assert (await by_node(world, key))["asks"].status == "interrupted"
            await asyncio.sleep(0.05)
            await world.engine.resume(key)
        assert (await world.engine.wait(key)).status == "completed"
        steps = await by_node(world, key)
        waited = {node: step.waited_for_answer for node, step in steps.items()}
        assert [node for node, seconds in waited.items() if seconds] == ["asks"]
        assert 0.1 <= waited["asks"] <= (steps["asks"].duration or 0)


async def test_a_run_that_was_lost_is_told_and_uses_no_attempt(database: str) -> None:
    async with a_world(database, workers=0, poll_interval=0.02) as world:
        begun = asyncio.Event()

        async def hangs(_: Flow) -> None:
            if begun.is_set():
                raise ValueError("this time it fails")
            begun.set()
            await asyncio.Event().wait()

        graph = Graph("one")
        graph.add_transition("hangs", END)
        world.work("dead")
        key = await world.engine.create(await world.graph(graph, hangs=hangs))
        await begun.wait()
        world.kill()
        await world.sql("UPDATE mbactor_step SET lease_expires = 1 WHERE status = 'running'")
        await sweep(world.engine)
        (waits,) = await world.engine.history(key)
        assert (waits.status, waits.runs, waits.lost) == ("pending", 1, 1)
        world.work("heir")
        assert (await world.engine.wait(key)).status == "failed"
        (step,) = await world.engine.history(key)
        assert (step.attempt, step.runs, step.lost) == (0, 2, 1)
        assert isinstance(step.error, dict)
        assert step.error["at"]["run"] == 2
        fork = await world.engine.recovery.fork(step.step_key)
        await world.engine.wait(fork)
        (again,) = await world.engine.history(fork)
        assert (again.runs, again.lost) == (1, 0)


async def test_what_a_stopping_worker_breaks_off_is_lost_and_what_it_never_began_is_not(database: str) -> None:
    async with a_world(database, workers=0, poll_interval=0.02) as world:
        begun = asyncio.Event()

        async def slow(_: Flow) -> None:
            begun.set()
            await asyncio.Event().wait()

        graph = Graph("one")
        graph.add_transition("slow", END)
        worker = world.work("stops")
        key = await world.engine.create(await world.graph(graph, slow=slow))
        await begun.wait()
        await worker.drain(within=0.01)
        (step,) = await world.engine.history(key)
        assert (step.status, step.runs, step.lost) == ("pending", 1, 1)
