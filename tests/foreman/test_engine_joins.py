"""Fan-ins that do not wait for every branch, and fan-outs that begin only some of them at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from mbactor.foreman.keys import Key, parse_key
from mbactor.foreman.loader import Loader
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.join import Join
from mbactor.foreman.model.state import overrides_of
from mbactor.foreman.store.rows import Material
from tests.foreman.test_engine_shapes import each, fan
from tests.foreman.world import World, a_world, ok

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with a_world(database, poll_interval=0.05) as made:
        yield made


def bounded() -> Graph:
    """A for-each with one branch at a time."""
    graph = Graph("bounded")
    graph.add_transition_for_each("start", "branch", for_each="items", max_parallel=1)
    graph.add_transition("branch", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    return graph


class Gates:
    """Branches by number that say when they are there, and go on or fail when they are told to."""

    def __init__(self) -> None:
        self.began: list[int] = []
        self.cancelled: list[int] = []
        self.under_way = 0
        self.most = 0
        self._open: dict[int, asyncio.Event] = {}

    def gate(self, number: int) -> asyncio.Event:
        return self._open.setdefault(number, asyncio.Event())

    def open(self, *numbers: int) -> None:
        for number in numbers:
            self.gate(number).set()

    async def branch(self, flow: Flow) -> None:
        number = flow["item"]
        self.began.append(number)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.gate(number).wait()
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        finally:
            self.under_way -= 1
        flow["list_done"] = [number]
        if number in flow.get("bad", []):
            raise ValueError(f"branch {number} is bad")

    async def begun(self, world: World, count: int) -> None:
        async def there() -> bool:
            return len(self.began) >= count

        await world.until(there)


async def race(world: World, join: Join, items: list[int], *, bad: list[int] | None = None) -> tuple[str, Gates]:
    """A for-each under way, all its branches begun."""
    graph = each("race")
    graph.set_fan_in("join", join=join)
    gates = Gates()
    await world.graph(graph, start=ok, branch=gates.branch, join=ok)
    key = await world.engine.create("race", {"items": items, "bad": bad or []})
    await gates.begun(world, len(items))
    return key, gates


async def statuses(world: World, key: str, node: str = "branch") -> list[tuple[str, str | None]]:
    return [(one.status, one.cancel_reason) for one in await world.engine.history(key) if one.node == node]


async def test_any_goes_on_with_the_first_branch_and_cancels_the_others(world: World) -> None:
    key, gates = await race(world, Join.ANY, [0, 1, 2])
    gates.open(1)
    outcome = await world.engine.wait(key)
    assert outcome.status == "completed"
    assert outcome.state["list_done"] == [1]
    lost = ("cancelled", "its fan-in went on without this branch")
    assert await statuses(world, key) == [lost, ("completed", None), lost]

    async def told() -> bool:
        return sorted(gates.cancelled) == [0, 2]

    await world.until(told)


async def test_any_goes_on_though_branches_failed_before_and_fails_when_all_have(world: World) -> None:
    key, gates = await race(world, Join.ANY, [0, 1], bad=[0])
    gates.open(0)

    async def failed() -> bool:
        return ("failed", None) in await statuses(world, key)

    await world.until(failed)
    assert (await world.engine.snapshot(key)).status == "running"
    gates.open(1)
    assert (await world.engine.wait(key)).state["list_done"] == [1]

    key, gates = await race(world, Join.ANY, [0, 1], bad=[0, 1])
    gates.open(0, 1)
    outcome = await world.engine.wait(key)
    assert outcome.status == "failed"
    assert "is bad" in str(outcome.failure)


async def test_n_of_m_goes_on_with_the_nth_and_fails_once_so_many_cannot_complete(world: World) -> None:
    key, gates = await race(world, Join.at_least(2), [0, 1, 2, 3])
    gates.open(3, 1)
    assert (await world.engine.wait(key)).state["list_done"] == [1, 3]

    key, gates = await race(world, Join.at_least(2), [0, 1, 2], bad=[0, 2])
    gates.open(0, 2)
    outcome = await world.engine.wait(key)
    assert outcome.status == "failed"
    assert (await statuses(world, key))[1] == ("cancelled", "another branch failed, and its fan-in cannot go on")


async def test_the_first_error_ends_a_cohort_at_once(world: World) -> None:
    key, gates = await race(world, Join.FIRST_ERROR, [0, 1, 2], bad=[1])
    gates.open(0)

    async def one_arrived() -> bool:
        return ("completed", None) in await statuses(world, key)

    await world.until(one_arrived)
    gates.open(1)
    outcome = await world.engine.wait(key)
    assert outcome.status == "failed"
    assert "branch 1 is bad" in str(outcome.failure)
    assert [status for status, _ in await statuses(world, key)] == ["completed", "failed", "cancelled"]
    assert "join" not in world.host.ran

    key, gates = await race(world, Join.FIRST_ERROR, [0, 1])
    gates.open(0, 1)
    assert (await world.engine.wait(key)).state["list_done"] == [0, 1]


@pytest.mark.parametrize(("join", "items"), [(Join.at_least(3), [1, 2]), (Join.ANY, [])])
async def test_a_fan_out_with_fewer_branches_than_its_fan_in_needs_fails_and_says_so(
    world: World, join: Join, items: list[int]
) -> None:
    graph = each("few")
    graph.set_fan_in("join", join=join)
    await world.graph(graph, start=ok, branch=ok, join=ok)
    outcome = await world.run("few", {"items": items})
    assert outcome.status == "failed"
    assert "fan-in 'join' needs" in str(outcome.failure)
    assert world.host.ran == ["start"]


async def test_what_a_loser_did_before_is_not_merged(world: World) -> None:
    """Earlier steps of its branch, of a nested cohort, a flow it called, and a question it asked: all end with it."""
    child = Graph("child")
    child.add_transition("child_work", END)
    graph = Graph("deep")
    graph.add_transition_fan_out("start", "fast", "first", "outer", "caller", "asker")
    graph.add_transition_chain("first", "second", "join")
    graph.add_transition_fan_out("outer", "inner_a", "inner_b")
    for inner in ("inner_a", "inner_b"):
        graph.add_transition(inner, "inner_join")
    graph.set_fan_in("inner_join")
    for last in ("inner_join", "caller", "asker", "fast"):
        graph.add_transition(last, "join")
    graph.add_subgraph("caller", "child")
    graph.set_fan_in("join", join=Join.ANY)
    graph.add_transition("join", END)
    gate, never = asyncio.Event(), asyncio.Event()

    def writes(name: str) -> Callable[[Flow], None]:
        return lambda flow: flow.update({"list_done": [name]})

    async def fast(flow: Flow) -> None:
        await gate.wait()
        flow["list_done"] = ["fast"]

    async def stuck(_: Flow) -> None:
        await never.wait()

    await world.graph(child, child_work=stuck)
    await world.graph(
        graph, start=ok, fast=fast, first=writes("first"), second=stuck, outer=writes("outer"),
        inner_a=writes("inner_a"), inner_b=stuck, inner_join=ok, asker=lambda flow: flow.interrupt(), join=ok,
    )  # fmt: skip
    key = await world.engine.create("deep", {"list_done": ["start"]})

    async def all_there() -> bool:
        return {"second", "inner_b", "child_work", "asker"} <= set(world.host.ran) and bool(
            await world.sql("SELECT 1 FROM mbactor_flow WHERE status = 'interrupted' AND root_id IS NULL")
        )

    await world.until(all_there)
    gate.set()

    async def ended() -> bool:
        return (await world.engine.snapshot(key)).status == "completed"

    await world.until(ended)
    assert (await world.engine.snapshot(key)).state == {"list_done": ["start", "fast"]}
    assert [row[0] for row in await world.sql("SELECT status FROM mbactor_flow ORDER BY id")] == [
        "completed", "cancelled",
    ]  # fmt: skip


async def test_an_inner_first_error_fails_its_branch_and_the_outer_any_goes_on(world: World) -> None:
    graph = Graph("nested")
    graph.add_transition_fan_out("start", "outer", "other")
    graph.add_transition_fan_out("outer", "bad", "slow")
    graph.add_transition("bad", "inner_join")
    graph.add_transition("slow", "inner_join")
    graph.set_fan_in("inner_join", join=Join.FIRST_ERROR)
    graph.add_transition("inner_join", "join")
    graph.add_transition("other", "join")
    graph.set_fan_in("join", join=Join.ANY)
    graph.add_transition("join", END)
    gate = asyncio.Event()

    def bad(_: Flow) -> None:
        raise ValueError("no")

    async def slow(_: Flow) -> None:
        await asyncio.Event().wait()

    async def other(flow: Flow) -> None:
        await gate.wait()
        flow["other"] = True

    await world.graph(graph, start=ok, outer=lambda flow: flow.update(outer=1), bad=bad, slow=slow, other=other,
                      inner_join=ok, join=ok)  # fmt: skip
    key = await world.engine.create("nested")

    async def inner_over() -> bool:
        return [status for status, _ in await statuses(world, key, "slow")] == ["cancelled"]

    await world.until(inner_over)
    assert (await world.engine.snapshot(key)).status == "running"
    gate.set()
    outcome = await world.engine.wait(key)
    assert (outcome.status, outcome.state) == ("completed", {"other": True})


async def test_a_late_result_of_a_loser_that_would_not_end_is_refused(world: World) -> None:
    gate, late = asyncio.Event(), asyncio.Event()

    async def stubborn(flow: Flow) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            flow["stubborn"] = True
            late.set()

    async def fast(_: Flow) -> None:
        await gate.wait()

    graph = fan("fan", "stubborn", "fast")
    graph.set_fan_in("join", join=Join.ANY)
    await world.graph(graph, start=ok, stubborn=stubborn, fast=fast, join=ok)
    key = await world.engine.create("fan")

    async def both() -> bool:
        return {"stubborn", "fast"} <= set(world.host.ran)

    await world.until(both)
    gate.set()
    outcome = await world.engine.wait(key)
    await late.wait()
    assert outcome.state == {}
    assert [status for status, _ in await statuses(world, key, "stubborn")] == ["cancelled"]


async def test_exactly_one_of_many_that_arrive_at_once_fires_an_any(world: World) -> None:
    world.work("another")
    key, gates = await race(world, Join.at_least(3), list(range(24)))
    gates.open(*range(24))
    outcome = await world.engine.wait(key)
    assert outcome.status == "completed"
    assert len(outcome.state["list_done"]) >= 3
    done = [status for status, _ in await statuses(world, key)].count("completed")
    assert len(outcome.state["list_done"]) == done
    assert world.host.ran.count("join") == 1


async def test_max_parallel_bounds_the_branches_under_way_and_begins_them_in_order(world: World) -> None:
    graph = Graph("bounded")
    graph.add_transition_for_each("start", "branch", for_each="items", max_parallel=2)
    graph.add_transition_chain("branch", "after", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    gates = Gates()
    await world.graph(graph, start=ok, branch=gates.branch, after=ok, join=ok)
    key = await world.engine.create("bounded", {"items": [0, 1, 2, 3, 4]})
    await gates.begun(world, 2)
    assert [status for status, _ in await statuses(world, key)] == ["running"] * 2 + ["created"] * 3
    gates.open(1)
    await gates.begun(world, 3)
    assert gates.began[-1] == 2
    gates.open(0, 2, 3, 4)
    outcome = await world.engine.wait(key)
    assert outcome.state["list_done"] == [0, 1, 2, 3, 4]
    assert gates.most == 2
    assert gates.began[2:] == [2, 3, 4]


async def test_a_failed_branch_makes_room_too_and_a_cancelled_flow_ends_those_that_wait(world: World) -> None:
    gates = Gates()
    await world.graph(bounded(), start=ok, branch=gates.branch, join=ok)
    key = await world.engine.create("bounded", {"items": [0, 1, 2], "bad": [0]})
    gates.open(0)
    await gates.begun(world, 2)
    await world.engine.cancel(key)
    assert [status for status, _ in await statuses(world, key)] == ["failed", "cancelled", "cancelled"]


async def test_any_with_max_parallel_ends_those_that_never_began(world: World) -> None:
    graph = bounded()
    graph.set_fan_in("join", join=Join.ANY)
    await world.graph(graph, start=ok, branch=lambda flow: flow.update(got=flow["item"]), join=ok)
    outcome = await world.run("bounded", {"items": [0, 1, 2]})
    assert outcome.state["got"] == 0
    assert world.host.ran == ["start", "branch", "join"]


async def test_a_branch_released_by_a_worker_that_died_is_not_lost(world: World) -> None:
    gates = Gates()
    await world.graph(bounded(), start=ok, branch=gates.branch, join=ok)
    key = await world.engine.create("bounded", {"items": [0, 1]})
    await gates.begun(world, 1)
    gates.open(0)
    await gates.begun(world, 2)
    world.kill()
    world.work("worker-0")
    gates.open(1)
    assert (await world.engine.wait(key)).state["list_done"] == [0, 1]


async def test_a_first_error_that_is_recovered_lets_the_branches_go_on_that_it_ended(world: World) -> None:
    graph = bounded()
    graph.set_fan_in("join", join=Join.FIRST_ERROR)
    broken = [True]

    def branch(flow: Flow) -> None:
        if flow["item"] == 0 and broken[0]:
            raise ValueError("no")
        flow["list_done"] = [flow["item"]]

    await world.graph(graph, start=ok, branch=branch, join=ok)
    key = await world.engine.create("bounded", {"items": [0, 1, 2]})
    assert (await world.engine.wait(key)).status == "failed"
    never = ("cancelled", "another branch failed before this one began, and its fan-in cannot go on")
    assert await statuses(world, key) == [("failed", None), never, never]
    broken[0] = False
    await world.engine.recovery.recover(key)
    outcome = await world.engine.wait(key)
    assert (outcome.status, outcome.state["list_done"]) == ("completed", [0, 1, 2])


async def test_what_a_fan_in_went_on_without_is_not_recovered_but_runs_when_the_race_is_run_again(world: World) -> None:
    key, gates = await race(world, Join.at_least(2), [0, 1, 2, 3], bad=[0])
    gates.open(0)

    async def failed() -> bool:
        return ("failed", None) in await statuses(world, key)

    await world.until(failed)
    world.host.tasks["join"] = lambda flow: flow["missing"]
    gates.open(1, 2)
    assert (await world.engine.wait(key)).status == "failed"
    world.host.tasks["join"] = ok
    await world.engine.recovery.recover(key)
    assert (await world.engine.wait(key)).state["list_done"] == [1, 2]
    assert world.host.ran.count("branch") == 4

    first = next(one for one in await world.engine.history(key) if one.node == "branch" and one.status == "completed")
    gates.open(3)
    await world.engine.recovery.restart_from(first.step_key)
    outcome = await world.engine.wait(key)
    assert outcome.status == "completed"
    assert 2 in outcome.state["list_done"]


async def test_recovered_branches_find_no_more_room_than_new_ones(world: World) -> None:
    gates = Gates()
    gates.open(0, 1, 2)
    await world.graph(bounded(), start=ok, branch=gates.branch, join=ok)
    key = await world.engine.create("bounded", {"items": [0, 1, 2], "bad": [0, 1, 2]})
    assert (await world.engine.wait(key)).status == "failed"
    await world.engine.recovery.recover(key, overrides_of({"bad": []}))
    assert (await world.engine.wait(key)).state["list_done"] == [0, 1, 2]
    assert gates.began == [0, 1, 2, 0, 1, 2]
    assert gates.most == 1


async def test_a_branch_that_is_restarted_waits_until_another_makes_room(world: World) -> None:
    gates = Gates()
    await world.graph(bounded(), start=ok, branch=gates.branch, join=ok)
    key = await world.engine.create("bounded", {"items": [0, 1, 2]})
    gates.open(0)
    await gates.begun(world, 2)
    (first, *_) = [one for one in await world.engine.history(key) if one.node == "branch"]
    await world.engine.recovery.restart_from(first.step_key)
    assert [status for status, _ in await statuses(world, key)] == ["created", "running", "created"]
    gates.open(1, 2)
    assert (await world.engine.wait(key)).state["list_done"] == [0, 1, 2]
    assert gates.began == [0, 1, 0, 2]
    assert gates.most == 1


@pytest.mark.parametrize("how", ["recover", "fork"])
async def test_all_that_runs_again_within_a_branch_waits_for_its_room(world: World, how: str) -> None:
    """A branch fans out itself, and each of its own calls a workflow."""
    inner = Graph("inner")
    inner.add_transition("deep", END)
    graph = Graph("bounded")
    graph.add_transition_for_each("start", "branch", for_each="items", max_parallel=1)
    graph.add_transition_for_each("branch", "call", for_each="items", as_="part", max_parallel=1)
    graph.add_subgraph("call", "inner")
    graph.add_transition("call", "met")
    graph.set_fan_in("met")
    graph.add_transition("met", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    under_way: list[tuple[int, int]] = []
    broken = [True]

    async def deep(flow: Flow) -> None:
        under_way.append((flow["item"], flow["part"]))
        assert len(under_way) == 1
        await asyncio.sleep(0.01)
        under_way.clear()
        if broken[0]:
            raise ValueError("no")
        flow["list_done"] = [10 * flow["item"] + flow["part"]]

    await world.graph(inner, deep=deep)
    await world.graph(graph, start=ok, branch=ok, met=ok, join=ok)
    key = await world.engine.create("bounded", {"items": [0, 1]})
    assert (await world.engine.wait(key)).status == "failed"
    broken[0] = False
    if how == "recover":
        await world.engine.recovery.recover(key)
    else:
        (start, *_) = [one for one in await world.engine.history(key) if one.node == "start"]
        key = await world.engine.recovery.fork(start.step_key)
    outcome = await asyncio.wait_for(world.engine.wait(key), 60)
    assert (outcome.status, outcome.state["list_done"]) == ("completed", [0, 1, 10, 11])
    assert world.host.ran.count("deep") == 8


async def test_a_step_of_a_flow_that_a_branch_called_waits_for_the_room_of_the_branch(world: World) -> None:
    inner = Graph("inner")
    inner.add_transition("deep", END)
    graph = Graph("bounded")
    graph.add_transition_for_each("start", "call", for_each="items", max_parallel=1)
    graph.add_subgraph("call", "inner")
    graph.add_transition("call", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    gates = Gates()
    await world.graph(inner, deep=gates.branch)
    await world.graph(graph, start=ok, join=ok)
    key = await world.engine.create("bounded", {"items": [0, 1]})
    gates.open(0)
    await gates.begun(world, 2)
    ((id, token),) = await world.sql("SELECT id, token FROM mbactor_step WHERE node = 'deep' AND status = 'completed'")
    await world.engine.recovery.restart_from(str(Key(1, id, token)))
    assert await world.sql("SELECT status FROM mbactor_step WHERE id = ?", id) == [("created",)]
    await world.check()
    gates.open(1)
    assert (await asyncio.wait_for(world.engine.wait(key), 60)).state["list_done"] == [0, 1]
    assert (gates.began, gates.most) == ([0, 1, 0], 1)


async def test_inputs_that_are_asked_for_at_the_same_moment_are_read_together(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await world.graph(bounded(), start=ok, branch=ok, join=ok)
    flows = [parse_key((await world.run(name, {"items": [1]})).flow_key) for _ in range(2)]
    ids = [row.id for key in flows for row in await world.store.steps(key.id)]
    materials, asked = world.store.materials, list[list[int]]()

    async def noted(step_ids: Sequence[int]) -> dict[int, Material]:
        asked.append(list(step_ids))
        return await materials(step_ids)

    monkeypatch.setattr(world.store, "materials", noted)
    loader = Loader(world.store, world.engine.graphs)
    reads = [asyncio.create_task(loader.material(step_id)) for step_id in (*ids, ids[0], 999)]
    await asyncio.sleep(0)
    reads[1].cancel()
    found = await asyncio.gather(*reads, return_exceptions=True)
    assert asked == [[*ids, ids[0], 999]]
    assert isinstance(found[1], asyncio.CancelledError)
    assert [isinstance(one, Material) for one in found[2:]] == [True] * 5 + [False]
    assert found[0] == found[-2] == (await materials([ids[0]]))[ids[0]]
    loader.close()
