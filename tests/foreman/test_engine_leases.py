"""Leases: what happens to the steps of workers that die, hang, or come back from the dead."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mbactor import observe, seams
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.losing import MOST, OFTEN, pause_after
from mbactor.foreman.store.operations import Release
from mbactor.foreman.sweep import sweep, sweep_regularly
from tests.foreman.world import World, a_world, ok

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]


def line(*nodes: str) -> Graph:
    graph = Graph("line")
    graph.add_transition_chain(*nodes, END)
    return graph


class Gate:
    """Arms a seam for one worker: it stops there until it is let go on."""

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, *, worker: str = "", **_: Any) -> None:
        if worker.startswith(self.worker):
            self.reached.set()
            await self.open.wait()


async def expire(world: World) -> None:
    """Move every lease into the past, as if the time had gone by."""
    await world.sql("UPDATE mbactor_step SET lease_expires = 1 WHERE status = 'running'")
    assert await sweep(world.engine) == 1


@pytest.mark.parametrize("zombie_first", [True, False])
async def test_a_step_whose_lease_is_over_runs_elsewhere_and_the_late_result_is_refused(
    database: str, zombie_first: bool
) -> None:
    async with a_world(database, workers=0, poll_interval=0.02) as world:
        runs: list[str] = []

        async def task(flow: Flow) -> None:
            flow["by"] = asyncio.current_task() and len(runs)
            runs.append(flow.step_key)

        await world.graph(line("task", "after"), task=task, after=ok)
        zombie = Gate("zombie")
        heir = Gate("heir")
        world.work("zombie", slots=1)
        await asyncio.sleep(0)

        async def stop_there(**fields: Any) -> None:
            await zombie(**fields)
            await heir(**fields)

        with seams.armed("foreman.settle.before", stop_there):
            key = await world.engine.create("line")
            await zombie.reached.wait()
            heir_worker = world.work("heir", slots=4)
            await expire(world)
            await heir.reached.wait()
            (zombie if zombie_first else heir).open.set()
            if zombie_first:
                await world.until(lambda: _gone(world))
            else:
                await world.engine.wait(key)
            (heir if zombie_first else zombie).open.set()
            outcome = await world.engine.wait(key)
            await world.until(lambda: _idle(heir_worker))
    assert outcome.state == {"by": 1}
    assert len(runs) == 2
    assert len(set(runs)) == 1


async def _both(landed: list[bool]) -> bool:
    return len(landed) == 2


async def _gone(world: World) -> bool:
    zombie = world.dispatchers[0]
    return zombie.running == 0


async def _idle(dispatcher: Any) -> bool:
    return bool(dispatcher.running == 0)


async def test_a_result_that_comes_between_recovery_and_the_next_claim_is_refused(database: str) -> None:
    async with a_world(database, workers=0) as world:
        await world.graph(line("task"), task=ok)
        zombie = Gate("zombie")
        world.work("zombie", slots=1)
        await asyncio.sleep(0)
        with seams.armed("foreman.settle.before", zombie):
            key = await world.engine.create("line")
            await zombie.reached.wait()
            await expire(world)
            landed: list[bool] = []

            async def note(*, landed: bool, into: list[bool] = landed, **_: Any) -> None:
                into.append(landed)

            with seams.armed("foreman.settle.after", note):
                zombie.open.set()
                assert (await world.engine.wait(key)).status == "completed"
                await world.until(lambda: _both(landed))
    assert landed == [False, True]


async def test_leases_that_hold_are_left_alone_by_a_sweep(database: str) -> None:
    async with a_world(database) as world:
        entered, go = asyncio.Event(), asyncio.Event()

        async def task(_: Flow) -> None:
            entered.set()
            await go.wait()

        await world.graph(line("task"), task=task)
        key = await world.engine.create("line")
        await entered.wait()
        assert await sweep(world.engine) == 0
        go.set()
        assert (await world.engine.wait(key)).status == "completed"


async def test_a_step_that_is_lost_again_and_again_waits_longer_each_time_and_is_told_of(database: str) -> None:
    assert [pause_after(lost) for lost in (1, OFTEN - 1, OFTEN, OFTEN + 1, MOST - 1, MOST, 99)] == [
        0.0, 0.0, 5.0, 20.0, 300.0, 300.0, 300.0,
    ]  # fmt: skip
    async with a_world(database, workers=0, poll_interval=0.02) as world:
        told: list[int] = []

        class Listener:
            def on_event(self, name: str, fields: Any) -> None:
                if name == "step.lost":
                    told.append(fields["lost"])

            def on_start(self, span: observe.Span) -> None: ...
            def on_end(self, span: observe.Span) -> None: ...

        async def due_in() -> float:
            ((now, due),) = await world.sql("SELECT updated_at, not_before FROM mbactor_step")
            return max(0.0, float(due) - float(now))

        entered = asyncio.Event()

        async def task(_: Flow) -> None:
            entered.set()
            await asyncio.Event().wait()

        await world.graph(line("task"), task=task)
        key = await world.engine.create("line")
        pauses: list[float] = []
        with observe.observing(Listener()):
            for number in range(1, OFTEN + 2):
                entered.clear()
                world.work(f"worker-{number}")
                await entered.wait()
                world.kill(number - 1)
                if number % 2:
                    await expire(world)
                else:
                    await world.engine.committer.commit(Release(f"worker-{number}@{world.engine.name}"))
                pauses.append(await due_in())
                await world.sql("UPDATE mbactor_step SET not_before = 0")
        assert pauses == [pytest.approx(pause_after(lost), abs=0.01) for lost in range(1, OFTEN + 2)]
        assert told == [OFTEN]
        await world.engine.cancel(key)


async def test_a_long_task_keeps_its_lease_by_the_heartbeat_of_its_worker(database: str) -> None:
    async with a_world(database, lease=0.15) as world:
        recovered: list[int] = []

        class Listener:
            def on_event(self, name: str, fields: Any) -> None:
                if name == "step.recovered":
                    recovered.append(fields["count"])

            def on_start(self, span: observe.Span) -> None: ...
            def on_end(self, span: observe.Span) -> None: ...

        with observe.observing(Listener()):
            sweeping = asyncio.create_task(sweep_regularly(world.engine, 0.02))
            await world.graph(line("task"), task=lambda _: asyncio.sleep(0.5))
            for _ in range(10):  # a busy machine may stand still for longer than the lease, but not each time
                recovered.clear()
                world.host.ran.clear()
                assert (await world.run("line")).status == "completed"
                if not recovered:
                    break
            sweeping.cancel()
        assert recovered == []
        assert world.host.ran == ["task"]


async def test_a_worker_that_lost_its_step_ends_the_task(database: str) -> None:
    async with a_world(database, workers=0, lease=0.15, poll_interval=3600) as world:
        entered, cancelled = asyncio.Event(), asyncio.Event()

        async def task(_: Flow) -> None:
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        await world.graph(line("task"), task=task)
        world.work("one")
        await asyncio.sleep(0)
        key = await world.engine.create("line")
        await entered.wait()
        # As another process would do it: this engine is not told.
        await world.sql("UPDATE mbactor_step SET status = 'cancelled'")
        await world.sql("UPDATE mbactor_flow SET status = 'cancelled'")
        async with asyncio.timeout(60):
            await cancelled.wait()
        assert (await world.engine.snapshot(key)).status == "cancelled"


async def test_release_gives_back_at_once_what_a_crashed_worker_held(database: str) -> None:
    async with a_world(database, workers=0) as world:
        entered = asyncio.Event()

        async def task(_: Flow) -> None:
            if not entered.is_set():
                entered.set()
                await asyncio.Event().wait()

        await world.graph(line("task"), task=task)
        crashed = world.work("one")
        await asyncio.sleep(0)
        key = await world.engine.create("line")
        await entered.wait()
        world.kill()
        await world.until(lambda: _idle(crashed))
        assert await world.sql("SELECT status FROM mbactor_step") == [("running",)]
        assert await crashed.release() == 1
        world.work("two")
        assert (await world.engine.wait(key)).status == "completed"


async def test_a_worker_begins_by_giving_back_what_its_predecessor_of_that_name_held(database: str) -> None:
    async with a_world(database, workers=0) as world:
        entered = asyncio.Event()

        async def task(_: Flow) -> None:
            if not entered.is_set():
                entered.set()
                await asyncio.Event().wait()

        await world.graph(line("task"), task=task)
        crashed = world.work("one")
        await asyncio.sleep(0)
        key = await world.engine.create("line")
        await entered.wait()
        world.kill()
        await world.until(lambda: _idle(crashed))
        world.work("one")
        assert (await world.engine.wait(key)).status == "completed"


async def test_drain_lets_running_tasks_end_and_gives_back_the_rest(database: str) -> None:
    async with a_world(database, workers=0) as world:
        entered, go = asyncio.Event(), asyncio.Event()

        async def task(_: Flow) -> None:
            entered.set()
            await go.wait()

        await world.graph(line("task", "after"), task=task, after=ok)
        one = world.work("one")
        await asyncio.sleep(0)
        await world.engine.create("line")
        await entered.wait()
        draining = asyncio.create_task(one.drain(5))
        await asyncio.sleep(0)
        go.set()
        await draining
        rows = await world.sql("SELECT node, status, worker FROM mbactor_step ORDER BY id")
        assert [row[:2] for row in rows] == [("task", "completed"), ("after", "pending")]
        assert one.free == 0


async def test_drain_gives_back_what_a_claim_on_its_way_brings_in(database: str) -> None:
    async with a_world(database, workers=0, poll_interval=0.01) as world:
        await world.graph(line("task"), task=ok)
        keys = [await world.engine.create("line") for _ in range(20)]
        one = world.work("one")
        while one.free == 0:
            await asyncio.sleep(0)
        draining = asyncio.create_task(one.drain(5))
        await draining
        rows = await world.sql("SELECT DISTINCT status FROM mbactor_step WHERE status <> 'completed'")
        assert rows in ([("pending",)], [])
        world.work("two")
        for key in keys:
            assert (await world.engine.wait(key)).status == "completed"
        assert world.host.ran == ["task"] * 20


async def test_drain_ends_what_overruns_its_limit_and_gives_it_back(database: str) -> None:
    async with a_world(database, workers=0) as world:
        entered = asyncio.Event()

        async def task(_: Flow) -> None:
            entered.set()
            await asyncio.Event().wait()

        await world.graph(line("task"), task=task)
        one = world.work("one")
        await asyncio.sleep(0)
        await world.engine.create("line")
        await entered.wait()
        await one.drain(0.01)
        assert await world.sql("SELECT status, worker, attempt FROM mbactor_step") == [("pending", None, 0)]


async def test_a_flow_that_another_process_ends_wakes_those_who_wait_here(shared_database: str) -> None:
    url = shared_database
    async with a_world(url, workers=0, poll_interval=0.02) as here, a_world(url, poll_interval=0.02) as there:
        for world in (here, there):
            await world.graph(line("task"), task=ok)
        assert (await here.run("line")).status == "completed"
        assert (here.host.ran, there.host.ran) == ([], ["task"])


CHILD = """
import asyncio, sys
sys.path.insert(0, {root!r})
from mbactor.foreman.sweep import sweep_regularly
from tests.foreman.test_engine_leases import a_world, crash_graph

async def main():
    settings = dict(lease=0.5, poll_interval=0.05, default_time_budget=3600)  # what stands still does so to the end
    async with a_world({url!r}, workers=2, **settings) as world:
        await crash_graph(world, pause=0.002, halts=True)
        for number in range(200):
            key = await world.engine.create("crash", {{"number": number}})
            print(key, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def crash_graph(world: World, pause: float, *, halts: bool = False) -> None:
    """Eight steps, with a fan-out in the middle, where every eighth flow stands still if it `halts`."""
    graph = Graph("crash")
    graph.add_transition_chain("a", "b", "spread")
    graph.add_transition_fan_out("spread", "x", "y", "z")
    for name in ("x", "y", "z"):
        graph.add_transition(name, "join")
    graph.set_fan_in("join")
    graph.add_transition_chain("join", "last", END)

    async def task(flow: Flow) -> None:
        await asyncio.sleep(pause)
        flow["sum_steps"] = 1

    async def branch(flow: Flow) -> None:
        await task(flow)
        if halts and flow["number"] % 8 == 0:
            await asyncio.Event().wait()
        flow["list_keys"] = [flow.step_key]

    await world.graph(graph, a=task, b=task, spread=ok, join=ok, last=ok, x=branch, y=branch, z=branch)


@pytest.mark.slow
async def test_every_acknowledged_flow_of_a_killed_process_ends_once(shared_database: str) -> None:
    url = shared_database
    child = subprocess.Popen(  # noqa: ASYNC220 - started once, and killed
        [sys.executable, "-c", CHILD.format(root=str(ROOT), url=url)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    keys = [await asyncio.to_thread(child.stdout.readline) for _ in range(200)]
    os.kill(child.pid, signal.SIGKILL)
    keys += child.stdout.readlines()
    child.stdout.close()
    child.wait()
    async with a_world(url, workers=2, lease=0.5, poll_interval=0.05) as world:
        interrupted = await world.sql("SELECT count(*) FROM mbactor_flow WHERE status = 'running'")
        assert interrupted[0][0] > 0, "the process was to be killed in the middle"
        await crash_graph(world, pause=0)
        sweeping = asyncio.create_task(sweep_regularly(world.engine, 0.1))
        async with asyncio.timeout(60):
            outcomes = await asyncio.gather(*(world.engine.wait(key.strip()) for key in keys if key.endswith("\n")))
        sweeping.cancel()
        assert len(outcomes) >= 200
        for outcome in outcomes:
            assert outcome.status == "completed"
            assert outcome.state["sum_steps"] == 4
            assert len(set(outcome.state["list_keys"])) == 3
        rows = await world.sql("SELECT count(*), count(DISTINCT node) FROM mbactor_step GROUP BY flow_id")
        assert set(rows) == {(8, 8)}
    assert json.loads(json.dumps(outcomes[0].state))
