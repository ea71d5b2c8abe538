"""What the branches of a fan-out wrote, from memory where that is what the database has, and read where it may not be."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbactor.errors import FlowConflict
from mbactor.foreman.cohort import LARGEST, Branch, Cohort
from mbactor.foreman.keys import Key
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.join import Join
from mbactor.foreman.model.state import Fields, encode_value, overrides_of
from tests.foreman.test_engine_shapes import each, fan
from tests.foreman.world import Task, World, a_world, compared, ok
from tests.long import usual_or_long

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with a_world(database, poll_interval=0.05) as made:
        yield made


def delta(**fields: Any) -> Fields:
    return {name: encode_value(value) for name, value in fields.items()}


def noted(flow: Flow) -> None:
    flow["list_seen"] = [flow.get("item", "none")]


def nested(items: str = "items", inner: str = "inner") -> Graph:
    graph = Graph("nested")
    graph.add_transition_for_each("start", "middle", for_each=items)
    graph.add_transition_for_each("middle", "branch", for_each=inner, as_="inside")
    graph.add_transition("branch", "meet")
    graph.set_fan_in("meet")
    graph.add_transition("meet", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    return graph


async def test_where_one_worker_ran_all_branches_nothing_is_read(world: World) -> None:
    def begin(flow: Flow) -> None:
        flow["list_seen"] = ["begin"]

    def branch(flow: Flow) -> None:
        flow["list_seen"] = [flow["item"]]
        flow["item"] = "its own"

    await world.graph(each(), start=begin, branch=branch, join=ok)
    with compared(world.store) as folded:
        outcome = await world.run("each", {"items": [1, 2, 3], "list_seen": ["first"]})
    assert outcome.state == {"items": [1, 2, 3], "list_seen": ["first", "begin", 1, 2, 3]}
    assert folded == [("join", True)]


@pytest.mark.parametrize("inner", [[7, 8], []])
async def test_nested_cohorts_are_known_up_to_the_outermost(world: World, inner: list[int]) -> None:
    def branch(flow: Flow) -> None:
        flow["list_seen"] = [[flow["item"], flow["inside"]]]

    def meet(flow: Flow) -> None:
        flow["list_met"] = [flow["item"]]

    await world.graph(nested(), start=ok, middle=noted, branch=branch, meet=meet, join=ok)
    with compared(world.store) as folded:
        outcome = await world.run("nested", {"items": [1, 2], "inner": inner})
    seen = [one for item in (1, 2) for one in (item, *([item, inside] for inside in inner))]
    assert outcome.state == {"items": [1, 2], "inner": inner, "list_seen": seen, "list_met": [1, 2]}
    assert sorted(folded) == [("join", True), ("meet", True), ("meet", True)]


async def test_a_branch_of_several_steps_one_of_them_repeated_is_known(world: World) -> None:
    graph = Graph("steps")
    graph.add_transition_fan_out("start", "one", "other")
    graph.add_transition("one", "after")
    graph.add_transition_goto("after", "one")
    graph.add_transition("after", "join")
    graph.add_transition("other", "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)

    def after(flow: Flow) -> None:
        if flow["sum_turns"] < 3:
            flow.goto("one")

    def one(flow: Flow) -> None:
        flow["sum_turns"] = flow.get("sum_turns", 0) + 1

    await world.graph(graph, start=ok, one=one, after=after, other=ok, join=ok)
    with compared(world.store) as folded:
        assert (await world.run("steps")).state == {"sum_turns": 1 + 2 + 3}
    assert folded == [("join", True)]


@pytest.mark.parametrize("what", ["retries", "parks", "large", "many", "any", "few at once", "next is pending"])
async def test_what_is_not_known_for_certain_is_read(world: World, what: str) -> None:
    def branch(flow: Flow) -> None:
        noted(flow)
        if flow["item"] != 2:
            return
        match what:
            case "retries" if not flow.attempt:
                flow.retry()
            case "parks":
                flow["answer"] = flow.interrupt({})
            case "large":
                flow["text"] = "x" * LARGEST
            case "next is pending":
                flow.sleep(0.01)

    graph = Graph("each")
    limit = 1 if what == "few at once" else None
    graph.add_transition_for_each("start", "branch", for_each="items", max_parallel=limit)
    graph.add_transition_chain("branch", "then", "join", END)
    graph.set_fan_in("join", join=Join.at_least(3) if what == "any" else Join.ALL)
    await world.graph(graph, start=ok, branch=branch, then=ok, join=ok)
    items = [*range(1, 1 + (300 if what == "many" else 3))]
    with compared(world.store) as folded:
        key = await world.engine.create("each", {"items": items})
        outcome = await world.engine.wait(key)
        if what == "parks":
            await world.engine.resume(key, 1)
            outcome = await world.engine.wait(key)
    assert outcome.state["list_seen"] == items
    assert [known for node, known in folded if node == "join"] == [False]


async def test_a_branch_that_another_process_ran_again_is_read(shared_database: str) -> None:
    gate = asyncio.Event()

    async def slow(flow: Flow) -> None:
        await gate.wait()

    def quick(flow: Flow) -> None:
        flow["n"] += 1

    full = Graph("full")
    full.add_transition("slow", END)
    async with a_world(shared_database, workers=0) as world, a_world(shared_database, workers=0) as other:
        for one in (world, other):
            await one.graph(full)
            await one.graph(fan("fan", "quick", "slow"), start=ok, quick=quick, slow=slow, join=ok)
        world.work("first", slots=2)
        with compared(world.store) as folded:
            key = await world.engine.create("fan", {"n": 1})
            query = "SELECT id, token FROM mbactor_step WHERE node = 'quick' AND status = 'completed'"

            async def quick_ended() -> bool:
                return bool(await world.sql(query))

            await world.until(quick_ended)
            ((step_id, token),) = await world.sql(query)
            await world.engine.create("full")  # what is due from now on is for the other
            other.work("other")
            await other.engine.recovery.restart_from(str(Key(1, step_id, token)), overrides_of({"n": 10}))
            await world.until(quick_ended)
            gate.set()
            assert (await world.engine.wait(key)).state == {"n": 11}
        assert folded == [("join", False)]
        (start, *_) = await world.engine.history(key)
        assert (start.node, start.runs, start.lost) == ("start", 1, 0)


@pytest.mark.parametrize("seed", range(usual_or_long(6, 400)))
async def test_whichever_branches_others_run_again_meanwhile_memory_has_what_the_database_has(
    shared_database: str, seed: int
) -> None:
    order = random.Random(seed)

    async def branch(flow: Flow) -> None:
        await asyncio.sleep(order.random() / 50)
        flow["list_seen"] = [[flow["item"], flow["inside"], flow["n"]]]

    tasks: dict[str, Task] = {"start": ok, "middle": noted, "branch": branch, "meet": ok, "join": ok}
    async with a_world(shared_database) as world, a_world(shared_database) as other:
        for one in (world, other):
            await one.graph(nested(), **tasks)
        with compared(world.store) as folded:
            key = await world.engine.create("nested", {"n": 0, "items": [1, 2, 3], "inner": [1, 2, 3, 4]})
            for number in range(1, 7):
                await asyncio.sleep(order.random() / 40)
                query = "SELECT id, token FROM mbactor_step WHERE node = 'branch' AND status = 'completed'"
                ended = await world.sql(query)
                if ended and (await world.engine.snapshot(key)).status == "running":
                    again = str(Key(1, *order.choice(ended)))
                    with suppress(FlowConflict):  # it has ended meanwhile
                        await order.choice([world, other]).engine.recovery.restart_from(
                            again, overrides_of({"n": number})
                        )
            state = (await world.engine.wait(key)).state
        written = await world.sql("SELECT changes FROM mbactor_step WHERE node = 'branch'")
        deltas = [json.loads(row[0])["list_seen"][0] for row in written]
        assert len(deltas) == 12
        assert sorted(one for one in state["list_seen"] if isinstance(one, list)) == sorted(deltas)
        assert [node for node, _ in folded].count("join") >= 1


DELTAS = st.lists(st.dictionaries(st.sampled_from(["a", "b", "item"]), st.integers(0, 9)), max_size=3)


@given(st.lists(DELTAS, max_size=5), st.randoms())
def test_branches_are_in_their_order_whichever_arrives_first(branches: list[list[dict[str, int]]], order: Any) -> None:
    cohort = Cohort("start", delta(kept=1), delta(a=100), branches=len(branches), lease_number=3)
    arriving = list(enumerate(branches))
    order.shuffle(arriving)
    for ordinal, deltas in arriving:
        assert not cohort.is_whole(3)
        branch: Branch | None = Branch(cohort)
        for one in deltas:
            assert branch is not None
            branch = branch.after((delta(**one),), 1)
        assert branch is not None
        cohort.arrived(ordinal, branch)
    assert cohort.is_whole(3)
    assert not cohort.is_whole(4)
    wanted = {"kept": 1, "a": 100}
    for deltas in branches:
        for one in deltas:
            wanted |= {name: value for name, value in one.items() if name != "item"}
    graph = each()
    graph.set_endpoint("start", "start")
    assert cohort.folded(graph) == delta(**wanted)


def test_what_is_written_beyond_what_is_kept_is_forgotten() -> None:
    cohort = Cohort("start", {}, {}, branches=2, lease_number=1)
    branch = Branch(cohort).after((delta(a=1),), LARGEST)
    assert branch is not None
    assert branch.after((delta(a=2),), 1) is None
    cohort.arrived(0, branch)
    cohort.arrived(1, Branch(cohort, size=1))
    assert not cohort.is_whole(1)
