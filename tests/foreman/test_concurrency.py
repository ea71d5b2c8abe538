"""Concurrency keys: never more flows than the limit, never fewer while others wait, in their order."""

from __future__ import annotations

import asyncio
import random
import secrets
from typing import Any

import pytest

from mbactor.errors import BadRequest, FlowConflict
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.join import Join
from mbactor.foreman.model.outcome import LONGEST_KEY, FlowOptions
from mbactor.foreman.model.query import FlowQuery
from mbactor.foreman.model.state import overrides_of
from mbactor.foreman.sweep import sweep
from tests.foreman.world import World, a_world

pytestmark = pytest.mark.anyio


class Gauge:
    """How many flows are at work."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.order: list[int] = []
        self.go_on = asyncio.Event()

    async def task(self, flow: Flow) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        self.order.append(flow.get("n", 0))
        try:
            await self.go_on.wait()
            if flow.get("fails"):
                raise ValueError("as it was told to")
        finally:
            self.now -= 1


async def workflow_of(world: World, gauge: Gauge) -> str:
    graph = Graph("one")
    graph.add_transition("t", END)
    return await world.graph(graph, t=gauge.task)


def keyed(limit: int, **options: Any) -> FlowOptions:
    return FlowOptions(concurrency_key="k", concurrency_limit=limit, **options)


async def statuses(world: World, keys: list[str]) -> list[str]:
    return [(await world.engine.snapshot(key)).status for key in keys]


async def test_so_many_begin_and_the_others_wait_in_their_order(database: str) -> None:
    async with a_world(database) as world:
        gauge = Gauge()
        workflow = await workflow_of(world, gauge)
        keys = [await world.engine.create(workflow, {"n": n}, keyed(2)) for n in range(6)]
        other = await world.engine.create(workflow, {"n": 9}, FlowOptions(concurrency_key="other"))

        async def three_are_at_work() -> bool:
            return gauge.now == 3

        await world.until(three_are_at_work)
        assert await statuses(world, keys) == ["running"] * 2 + ["created"] * 4
        gauge.go_on.set()
        for key in (*keys, other):
            assert (await world.engine.wait(key)).status == "completed"
        assert [n for n in gauge.order if n != 9] == list(range(6))
        assert gauge.most == 3


async def test_a_place_is_free_again_however_its_flow_ended(database: str) -> None:
    async with a_world(database) as world:
        gauge = Gauge()
        workflow = await workflow_of(world, gauge)
        failing, cancelled, queued, last = [
            await world.engine.create(workflow, {"n": n, "fails": n == 0}, keyed(1)) for n in range(4)
        ]
        gauge.go_on.set()
        assert (await world.engine.wait(failing)).status == "failed"
        await world.engine.wait(cancelled)
        await world.engine.wait(queued)
        assert (await world.engine.wait(last)).status == "completed"
        gauge.go_on.clear()
        first, second, third = [await world.engine.create(workflow, {"n": n}, keyed(1)) for n in range(3)]
        await world.engine.cancel(second)
        await world.engine.delete(second)
        await world.engine.cancel(first)
        gauge.go_on.set()
        assert (await world.engine.wait(third)).status == "completed"


async def test_a_flow_that_is_started_later_queues_then(database: str) -> None:
    async with a_world(database) as world:
        gauge = Gauge()
        workflow = await workflow_of(world, gauge)
        first = await world.engine.create(workflow, {"n": 1}, keyed(1))
        later = await world.engine.create(workflow, {"n": 2}, keyed(1), start=False)
        third = await world.engine.create(workflow, {"n": 3}, keyed(1))
        await world.engine.start(later)
        assert await statuses(world, [first, later, third]) == ["running", "created", "created"]
        with pytest.raises(FlowConflict, match="it is started already, and waits for a place of 'k'"):
            await world.engine.start(later)
        gauge.go_on.set()
        assert [(await world.engine.wait(key)).status for key in (first, later, third)] == ["completed"] * 3
        assert gauge.most == 1


async def test_a_list_says_who_has_the_places_that_a_flow_waits_for(database: str) -> None:
    async with a_world(database) as world:
        gauge = Gauge()
        workflow = await workflow_of(world, gauge)
        keys = [await world.engine.create(workflow, {"n": n}, keyed(2)) for n in range(4)]
        narrow = await world.engine.create(workflow, options=keyed(1))
        later = await world.engine.create(workflow, options=keyed(1), start=False)
        wide = [await world.engine.create(workflow, options=FlowOptions(concurrency_key="w")) for _ in range(2)]
        page = await world.engine.list(FlowQuery(limit=20))
        told = {flow.flow_key: (flow.queued, flow.places_taken, flow.waits_for) for flow in page.flows}
        assert told == {
            **dict.fromkeys((*keys[:2], later, wide[0]), (False, 0, [])),
            **dict.fromkeys((*keys[2:], narrow), (True, 2, keys[:2])),
            wide[1]: (True, 1, wide[:1]),
        }
        assert {(flow.concurrency_key, flow.concurrency_limit) for flow in page.flows} == {("k", 2), ("k", 1), ("w", 1)}
        assert (await world.engine.summary(keys[3])).waits_for == keys[:2]
        assert await world.engine.purge(FlowQuery(concurrency_key="w", status="created")) == 1
        assert [flow.flow_key for flow in (await world.engine.list(FlowQuery(concurrency_key="w"))).flows] == wide[:1]
        gauge.go_on.set()
        await world.engine.start(later)
        for key in (*keys, narrow, later, wide[0]):
            assert (await world.engine.wait(key)).status == "completed"
        assert not any(flow.queued or flow.waits_for for flow in (await world.engine.list(FlowQuery())).flows)


async def test_of_many_that_have_begun_the_first_are_named(database: str) -> None:
    async with a_world(database) as world:
        gauge = Gauge()
        workflow = await workflow_of(world, gauge)
        begun = [await world.engine.create(workflow, options=keyed(9)) for _ in range(9)]
        last = await world.engine.summary(await world.engine.create(workflow, options=keyed(9)))
        assert (last.places_taken, last.waits_for) == (9, begun[:8])


async def test_one_that_was_passed_over_is_started_by_the_sweeper(database: str) -> None:
    async with a_world(database) as world:
        gauge = Gauge()
        workflow = await workflow_of(world, gauge)
        first, second = [await world.engine.create(workflow, {"n": n}, keyed(1)) for n in range(2)]
        # As where somebody else held the second just as the first ended.
        await world.sql("UPDATE mbactor_flow SET concurrency_key = 'x' WHERE id = 2 RETURNING id")
        gauge.go_on.set()
        await world.engine.wait(first)
        await world.sql("UPDATE mbactor_flow SET concurrency_key = 'k' WHERE id = 2 RETURNING id")
        assert await statuses(world, [second]) == ["created"]
        await sweep(world.engine)
        assert (await world.engine.wait(second)).status == "completed"


async def test_under_load_from_several_processes_the_limit_holds_and_all_get_through(shared_database: str) -> None:
    chance = random.Random(7)
    async with a_world(shared_database, poll_interval=0.05) as one, a_world(shared_database, poll_interval=0.05) as two:
        gauge = Gauge()
        gauge.go_on.set()
        names = {await workflow_of(world, gauge) for world in (one, two)}
        assert names == {"one"}
        worlds = [chance.choice((one, two)) for _ in range(60)]
        keys = await asyncio.gather(*(world.engine.create("one", {"n": n}, keyed(3)) for n, world in enumerate(worlds)))
        for world, key in zip(worlds, keys, strict=True):
            if chance.random() < 0.2:
                with_conflict = await asyncio.gather(world.engine.cancel(key), return_exceptions=True)
                assert all(one is None or isinstance(one, FlowConflict) for one in with_conflict)
        ended = [(await world.engine.wait(key)).status for world, key in zip(worlds, keys, strict=True)]
        assert set(ended) <= {"completed", "cancelled"}
        assert gauge.most <= 3


async def test_a_key_may_be_as_long_as_is_said(database: str) -> None:
    key = secrets.token_hex(LONGEST_KEY // 2)  # nothing that a database makes shorter
    options = FlowOptions(concurrency_key=key, idempotency_key=key, fairness_key=key)
    async with a_world(database) as world:
        gauge = Gauge()
        gauge.go_on.set()
        await workflow_of(world, gauge)
        outcome = await world.run("one", options=options)
        assert outcome.status == "completed"
        assert await world.engine.create("one", options=options) == outcome.flow_key


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"concurrency_key": "k", "concurrency_limit": 0}, "concurrency_limit=0 lets no flow begin; at least 1"),
        ({"concurrency_key": ""}, "concurrency_key='': a text expected"),
        ({"concurrency_key": "ä" * 501}, "concurrency_key is 1002 bytes long; at most 1000 can be stored"),
        ({"idempotency_key": "k" * 1001}, "idempotency_key is 1001 bytes long"),
        ({"fairness_key": "k" * 9000}, "fairness_key is 9000 bytes long"),
    ],
)
async def test_what_cannot_be_is_said(options: dict[str, Any], text: str) -> None:
    with pytest.raises(BadRequest, match=text):
        FlowOptions(**options)


async def test_what_runs_again_waits_for_its_place(database: str) -> None:
    """A flow that ended has given up its place: it gets one again as a new flow does, with what it called."""
    async with a_world(database) as world:
        gauge = Gauge()
        graph = Graph("calls")
        graph.add_subgraph("call", await workflow_of(world, gauge))
        graph.add_transition("call", END)
        workflow = await world.graph(graph)
        gauge.go_on.set()
        done = [await world.engine.create(workflow, {"n": n}, keyed(1)) for n in range(3)]
        failed = await world.engine.create(workflow, {"n": 3, "fails": True}, keyed(1))
        assert [(await world.engine.wait(key)).status for key in [*done, failed]] == ["completed"] * 3 + ["failed"]
        gauge.go_on.clear()
        last = await world.engine.create(workflow, {"n": 4}, keyed(1))
        inner = await world.sql("SELECT id, token FROM mbactor_step WHERE node = 't' ORDER BY id")
        step_keys = [f"1-{id}-{token}" for id, token in inner]
        recovery = world.engine.recovery
        await recovery.restart(done[0])
        await recovery.restart_from(step_keys[1])
        await recovery.recover(failed, overrides_of({"fails": None}))
        with pytest.raises(FlowConflict, match="is created; recover is refused"):
            await recovery.recover(failed)
        fork = await recovery.fork(step_keys[2])
        turn = await recovery.continue_thread(done[2])
        for asked in (
            recovery.restart_from(step_keys[1]), recovery.restart(done[0]), recovery.retry(failed),
            world.engine.resume(done[1]), recovery.resume_break(done[1]), world.engine.start(turn),
        ):  # fmt: skip
            with pytest.raises(FlowConflict, match=r"is created; .*is refused: it .*waits for a place of 'k'"):
                await asked
        again = [done[0], done[1], failed, fork, turn]
        assert await statuses(world, [last, *again]) == ["running", *["created"] * 5]
        gauge.go_on.set()
        for key in [last, *again]:
            assert (await world.engine.wait(key)).status == "completed"
        assert gauge.most == 1


@pytest.mark.parametrize("how", ["recover", "fork"])
async def test_branches_that_never_began_wait_for_room_also_when_their_flow_had_to_wait(
    database: str, how: str
) -> None:
    async with a_world(database) as world:
        now, most, broken = 0, 0, True

        async def branch(_: Flow) -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.01)
            now -= 1
            if broken:
                raise ValueError("no")

        graph = Graph("bounded")
        graph.add_transition_for_each("start", "branch", for_each="items", as_="item", max_parallel=1)
        graph.add_transition("branch", "join")
        graph.set_fan_in("join", join=Join.FIRST_ERROR)
        graph.add_transition("join", END)
        await world.graph(graph, start=lambda _: None, branch=branch, join=lambda _: None)
        key = await world.engine.create("bounded", {"items": [0, 1, 2]}, keyed(1))
        assert (await world.engine.wait(key)).status == "failed"
        broken = False
        if how == "recover":
            await world.engine.recovery.recover(key)
        else:
            failed = next(one for one in await world.engine.history(key) if one.status == "failed")
            key = await world.engine.recovery.fork(failed.step_key)
        assert (await world.engine.wait(key)).status == "completed"
        assert most == 1
