"""Who is claimed next: fairness by key, turns, rates of tasks."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbactor import Actor, ActorSystem
from mbactor.errors import DeclarationError
from mbactor.foreman import END, Flows, Foreman, Graph, task, workflow
from mbactor.foreman.model.ageing import urgency
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.outcome import FlowOptions
from mbactor.foreman.model.rate import AHEAD, STALE, Rate, closed_up, has_gaps, may_start, reserve
from mbactor.foreman.model.shares import MOST_KEYS, Waiting, shares
from mbactor.foreman.store import join, leases
from mbactor.foreman.store.operations import Claim, Claimed, Create, Lease, NewStep
from mbactor.foreman.store.postgres import PostgresStore
from mbactor.foreman.store.postgres_text import text_of as postgres_text
from mbactor.foreman.store.sqlite_db import _text as sqlite_text
from mbactor.foreman.sweep import sweep
from tests.foreman.world import World, a_world, ok

# --- shares, by themselves ---------------------------------------------------------------------------------

weights = st.lists(st.floats(0.01, 1_000.0), min_size=1, max_size=MOST_KEYS)


@given(weights, st.integers(1, 300), st.floats(0.0, 0.999))
def test_all_places_are_given_and_each_key_gets_its_part_up_to_one(
    parts: list[float], places: int, start: float
) -> None:
    found = shares([Waiting(str(n), weight) for n, weight in enumerate(parts)], places, start)
    assert sum(found.values()) in {places, places - 1}
    for number, weight in enumerate(parts):
        exact = weight / sum(parts) * places
        assert exact - 1 - 1e-6 < found.get(str(number), 0) < exact + 1 + 1e-6


@given(weights, st.integers(1, 40))
def test_over_many_claims_the_parts_are_exact(parts: list[float], places: int) -> None:
    waiting = [Waiting(str(n), weight) for n, weight in enumerate(parts)]
    total: Counter[str] = Counter()
    for draw in range(400):
        total.update(shares(waiting, places, (draw + 0.5) / 400))
    for one in waiting:
        expected = one.weight / sum(parts) * places * 400
        assert abs(total[one.key] - expected) <= 0.01 * places * 400 + 2


def test_of_very_many_keys_few_get_places_at_a_time() -> None:
    waiting = [Waiting(str(n)) for n in range(200)]
    found = shares(waiting, 256, 0.3)
    assert len(found) <= MOST_KEYS
    assert sum(found.values()) in {256, 248}


# --- rates, by themselves ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "rate"), [("100/s", 100.0), ("30/m", 0.5), ("7200/h", 2.0), ("0.5/s", 0.5)])
def test_a_rate_is_read(text: str, rate: float) -> None:
    assert Rate.parse(text).per_second == pytest.approx(rate)


@pytest.mark.parametrize("text", ["", "100", "100/w", "0/s", "-1/s", "1e3/s", "fast"])
def test_what_is_no_rate_is_refused_where_it_is_declared(text: str) -> None:
    with pytest.raises(ValueError, match="a rate expected such as '100/s'"):
        Rate.parse(text)
    if text:
        with pytest.raises(DeclarationError, match=r"@task\(rate=...\): '.*' given, a rate expected"):

            class Wrong(Actor):
                @task(rate=text)
                async def t(self) -> None: ...


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0.0, 5.0)), min_size=1, max_size=20), st.floats(0.5, 500.0))
def test_never_more_starts_in_a_second_than_the_rate(claims: list[tuple[int, float]], per_second: float) -> None:
    now, free_from, starts = 100.0, 0.0, []
    for count, pause in claims:
        times, free_from = reserve(free_from, now, count, per_second)
        starts += times
        now += pause
    assert starts == sorted(starts)
    for first, later in pairwise(starts):
        assert later - first >= 1 / per_second - 1e-6


def test_a_start_is_made_at_its_time_and_loses_it_after_an_outage() -> None:
    assert may_start(10.0, 10.0)
    assert may_start(10.0, 10.0 - AHEAD)
    assert not may_start(10.0, 9.0)
    assert not may_start(10.0, 10.0 + STALE + 0.01)
    assert not may_start(None, 10.0)


# --- claims ------------------------------------------------------------------------------------------------


def entry(key: str, weight: float = 1.0, priority: int = 100) -> Create:
    step = NewStep("start", "0" * 16, 1, priority, state=b"{}", fairness_key=key)
    return Create("f" * 16, "url", "n", "h", b"{}", step, priority=priority, fairness_key=key, fairness_weight=weight)


async def claimed(world: World, limit: int) -> Counter[str]:
    (result,) = (await world.store.commit([Claim(Lease("w", 60.0), limit)])).results
    keys = {flow.id: flow.fairness_key for flow in result.flows.values()}  # type: ignore[union-attr]
    return Counter(keys[step.flow_id] for step in result.steps)  # type: ignore[union-attr]


@pytest.mark.anyio
async def test_keys_share_by_their_weights_whatever_they_have_waiting(database: str) -> None:
    async with a_world(database, workers=0) as world:
        await world.store.commit([entry("large") for _ in range(300)])
        await world.store.commit([entry("small", 3.0) for _ in range(40)])
        found = await claimed(world, 40)
        assert found["large"] in {10, 11}
        assert found["small"] in {29, 30}
        assert (await claimed(world, 30)).total() == 30
        await world.store.commit([entry("urgent", 0.1, priority=1)])
        assert (await claimed(world, 5))["urgent"] == 1
        for row in await world.sql("SELECT token, id FROM mbactor_flow"):
            await world.engine.cancel(f"1-{row[1]}-{row[0]}")


@pytest.mark.anyio
async def test_what_one_key_has_too_little_for_goes_to_the_others(database: str) -> None:
    async with a_world(database, workers=0) as world:
        await world.store.commit([entry("a") for _ in range(30)])
        await world.store.commit([entry("b") for _ in range(2)])
        await world.store.commit([entry(f"c{n}") for n in range(50)])
        assert (await claimed(world, 60)).total() == 60
        assert (await claimed(world, 60)).total() == 22
        for row in await world.sql("SELECT token, id FROM mbactor_flow"):
            await world.engine.cancel(f"1-{row[1]}-{row[0]}")


def test_what_has_waited_long_comes_before_what_is_a_little_more_urgent() -> None:
    steps = [(10, 95.0), (12, 70.0), (100, 0.0)]

    def in_order(ageing: float | None) -> list[int]:
        return [one[0] for one in sorted(steps, key=lambda one: urgency(one[0], one[1], 100.0, ageing))]

    assert in_order(10.0) == [12, 10, 100]
    assert in_order(1_000.0) == in_order(None) == [10, 12, 100]
    assert in_order(0.5)[0] == 100


@pytest.mark.anyio
async def test_only_a_step_that_has_waited_itself_comes_before_what_is_more_urgent(database: str) -> None:
    async with a_world(database, workers=0) as world:
        await world.store.commit([entry(f"young-{n}", priority=102) for n in range(10)])
        await world.store.commit([entry("old", priority=102), entry("oldest", priority=110)])
        await world.store.commit([entry(f"urgent-{n}") for n in range(3)])
        for key, seconds in (("old", 3.5), ("oldest", 11.5)):
            await world.sql(
                "UPDATE mbactor_step SET not_before = not_before - ? WHERE fairness_key = ? RETURNING id", seconds, key
            )

        async def claim(limit: int, ageing: float | None) -> list[str]:
            one = Claim(Lease("w", 60.0), limit, ageing)
            (result,) = (await world.store.commit([one])).results
            assert isinstance(result, Claimed)
            return [step.fairness_key.partition("-")[0] for step in result.steps]

        assert await claim(3, 1.0) == ["old", "oldest", "urgent"]
        assert await claim(3, None) == ["urgent", "urgent", "young"]
        assert await claim(20, 1.0) == ["young"] * 9
        for row in await world.sql("SELECT token, id FROM mbactor_flow"):
            await world.engine.cancel(f"1-{row[1]}-{row[0]}")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("query", "values", "index"),
    [
        (leases._ALL_KEYS, (100, 100, 256, 100, 1e12), "step_fair"),
        (leases._KEYS_AFTER, (100, "a", 100, 256, 100, 1e12), "step_fair"),
        (leases._CLAIM_OF_KEY, (100, "a", 1e12, 20, "w", 1e12, 1.0, 1.0), "step_fair"),
        (leases._CLAIM, (100, 1e12, 20, "w", 1e12, 1.0, 1.0), "step_pending"),
        (leases._OLDEST, (100, 1e12, 20), "step_pending"),
        (join._RELEASE, (1.0, 1.0, 7, 7, 3), "step_room"),
    ],
    ids=["keys", "keys behind one", "claim of a key", "claim", "the oldest", "room for branches"],
)
async def test_what_a_claim_or_an_arrival_asks_is_a_seek_in_an_index(
    database: str, query: str, values: tuple[Any, ...], index: str
) -> None:
    async with a_world(database, workers=0) as world:
        if isinstance(world.store, PostgresStore):
            types = ", ".join({"f": "float8", "i": "bigint", "s": "text"}[type(value).__name__[0]] for value in values)
            given = ", ".join(repr(value) for value in values)
            async with world.store._connection() as connection:
                await connection.execute(f"PREPARE asked ({types}) AS {postgres_text(query)}")
                plan = await connection.fetch(f"EXPLAIN EXECUTE asked ({given})")
                await connection.execute("DEALLOCATE asked")
        else:
            plan = await world.sql(f"EXPLAIN QUERY PLAN {sqlite_text(query)}", *values)
        told = "\n".join(str(tuple(row)[-1]) for row in plan)
        assert f"mbactor_{index}" in told, told
        assert not re.search(r"Seq Scan on mbactor_\w+|SCAN (step|flow|mbactor_\w+)\b", told), told


@pytest.mark.anyio
async def test_of_very_many_keys_each_comes_in_its_turn(database: str) -> None:
    async with a_world(database, workers=0) as world:
        await world.store.commit([entry(f"customer-{n:04}") for n in range(600) for _ in range(2)])
        served: Counter[str] = Counter()
        after = ""
        for _ in range(15):
            (result,) = (await world.store.commit([Claim(Lease("w", 60.0), 64, after=after)])).results
            assert isinstance(result, Claimed)
            served.update(result.flows[step.flow_id].fairness_key for step in result.steps)
            after = result.after
        assert sum(key >= "customer-0400" for key in served) > 100
        await world.sql("DELETE FROM mbactor_step RETURNING id")
        await world.sql("DELETE FROM mbactor_flow RETURNING id")


@pytest.mark.anyio
async def test_an_urgent_flow_is_done_within_a_dozen_batches_behind_512_long_ones() -> None:
    async with a_world(workers=0) as world:
        long = Graph("long")
        long.add_transition_goto("a", "a")
        long.add_transition("a", END)

        async def again(flow: Flow) -> None:
            await asyncio.sleep(0)
            flow.goto("a")

        await world.graph(long, a=again)
        urgent = Graph("urgent")
        names = [f"u{n}" for n in range(10)]
        urgent.add_transition_chain(*names, END)
        await world.graph(urgent, **dict.fromkeys(names, ok))
        keys = await asyncio.gather(*(world.engine.create("long") for _ in range(512)))
        world.work(slots=512)

        async def all_are_at_work() -> bool:
            return world.dispatchers[0].running == 512

        await world.until(all_are_at_work)
        before = world.engine.committer.batches
        key = await world.engine.create("urgent", None, FlowOptions(priority=1))
        assert (await world.engine.wait(key)).status == "completed"
        # What a step comes to is handed in while another batch is being written: it takes two batches at most.
        assert world.engine.committer.batches - before <= 2 * len(names) + 8
        world.kill()
        await asyncio.gather(*(world.engine.cancel(one) for one in keys))


# --- rates ---------------------------------------------------------------------------------------------------


def rated(rate: str) -> Graph:
    class Slow(Actor):
        host = "slow.example"

        @task(rate=rate)
        async def send(self) -> None: ...

    graph = Graph("rated")
    graph.add_transition("first", Slow.send)
    graph.add_transition(Slow.send, END)
    assert Graph.from_json(graph.to_json()).node("send").rate == rate
    return graph


@pytest.mark.anyio
async def test_a_task_is_not_started_more_often_than_its_rate_over_several_workers(shared_database: str) -> None:
    started: list[float] = []

    def send(_: Flow) -> None:
        started.append(asyncio.get_running_loop().time())

    graph = rated("20/s")
    tasks: dict[str, Any] = {"first": ok, graph.node("send").url: send}
    async with a_world(shared_database, workers=2, poll_interval=0.05) as one, a_world(shared_database) as two:
        for world in (one, two):
            await world.graph(graph, **tasks)
        keys = await asyncio.gather(*(one.engine.create("rated") for _ in range(20)))
        for key in keys:
            outcome = await one.engine.wait(key)
            assert outcome.status == "completed"
        histories = [await one.engine.history(key) for key in keys]
        assert all(step.attempt == 0 for history in histories for step in history)
    assert len(started) == 20
    sends = [step for history in histories for step in history if step.node == "send"]
    created = min(step.created_at for step in sends if step.created_at is not None)
    begun = sorted(step.started_at for step in sends if step.started_at is not None)
    # None before its time, but for what may come ahead of it; on a busy machine some come later, and then at once.
    for number, at in enumerate(begun):
        assert (at - created).total_seconds() >= number / 20 - 2 * AHEAD


class Post(Actor):
    host = "post.example"

    @task(rate="1/s")
    async def send(self) -> None: ...

    @workflow
    def thrice(self) -> Graph:
        graph = Graph("Thrice")
        for name in ("first", "second"):
            graph.set_endpoint(name, Post.send)
        graph.add_transition_chain("first", "second", Post.send, END)
        return graph


async def test_nodes_that_run_one_task_share_its_rate(mbactor: ActorSystem) -> None:
    await mbactor.spawn(Foreman)
    await mbactor.spawn(Post)
    flows = Flows(mbactor)
    history = await flows.history((await flows.run(Post.thrice)).flow_key)
    started = [step.started_at for step in history if step.started_at is not None]
    assert len(started) == 3
    for earlier, later in pairwise(started):
        assert (later - earlier).total_seconds() >= 1 - 2 * AHEAD


@pytest.mark.anyio
async def test_after_an_outage_what_has_gathered_is_not_started_at_once(database: str) -> None:
    async with a_world(database, workers=0) as world:
        step = NewStep("send", "0" * 16, 1, 100, state=b"{}", rate="10/s https://x")
        await world.store.commit([Create("f" * 16, "url", "n", "h", b"{}", step) for _ in range(30)])
        assert (await claimed(world, 30)).total() == 1
        await world.sql("UPDATE mbactor_step SET slot = slot - 60, not_before = not_before - 60 RETURNING id")
        await world.sql("UPDATE mbactor_rate SET free_from = free_from - 60 RETURNING name")
        assert (await claimed(world, 30)).total() == 1
        for row in await world.sql("SELECT token, id FROM mbactor_flow"):
            await world.engine.cancel(f"1-{row[1]}-{row[0]}")


@given(st.lists(st.integers(1, 60), max_size=30), st.integers(0, 40), st.sampled_from([0.01, 1.0, 20.0, 400.0]))
def test_what_closes_up_keeps_its_order_and_its_rate_and_comes_no_later(
    gaps: list[int], behind: int, rate: float
) -> None:
    now = 1.8e9
    steps = list(accumulate(gaps))
    slots = [now + AHEAD + number / rate for number in steps]
    free_from = now + AHEAD + ((steps[-1] if steps else 0) + behind + 1) / rate
    earlier, then = closed_up(slots, free_from, now, rate)
    assert all(new <= old for new, old in zip([*earlier, then], [*slots, free_from], strict=True))
    every = [now + AHEAD, *earlier, then]
    assert all(after - before >= 0.99 / rate - 1e-6 for before, after in pairwise(every))
    assert then <= now + AHEAD + (len(slots) + 1.01) / rate
    assert not has_gaps(then, now, len(slots), rate)


@pytest.mark.anyio
async def test_times_of_steps_that_were_cancelled_go_to_those_behind_them(database: str) -> None:
    async with a_world(database, workers=0) as world:

        async def create(count: int, priority: int) -> None:
            step = NewStep("send", "0" * 16, 1, priority, state=b"{}", rate="1/s https://x")
            new = Create("f" * 16, "url", "n", "h", b"{}", step, priority=priority)
            await world.store.commit([new] * count)
            await claimed(world, count)

        async def cancel(below: int) -> None:
            query = "SELECT token, id FROM mbactor_flow WHERE status = 'running' ORDER BY id"
            for token, flow_id in [row for row in await world.sql(query) if row[1] <= below]:
                await world.engine.cancel(f"1-{flow_id}-{token}")

        async def waits() -> list[float]:
            ((now,),) = await world.sql("SELECT max(updated_at) FROM mbactor_flow")
            query = "SELECT slot FROM mbactor_step WHERE status = 'pending' ORDER BY id"
            return [slot - now for (slot,) in await world.sql(query)]

        await create(300, 100)
        await create(20, 50)
        before = await waits()
        assert min(before[-20:]) > 200
        await sweep(world.engine)
        assert await waits() == before
        await cancel(300)
        await sweep(world.engine)
        after = await waits()
        assert len(after) == 20
        assert max(after) < 100
        assert all(0.99 < later - sooner < 1.01 for sooner, later in pairwise(after))
        await create(1, 100)
        assert max(latest := await waits()) == latest[-1]
        await cancel(400)
        await sweep(world.engine)
        await create(1, 100)
        assert max(await waits(), default=0.0) < 100
        await cancel(400)


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["retry", "resume", "restart", "fork"])
async def test_a_step_that_runs_again_waits_for_its_rate_again(database: str, how: str) -> None:
    started: list[float] = []

    def send(flow: Flow) -> None:
        started.append(asyncio.get_running_loop().time())
        if how == "retry" and flow.attempt < 5:
            flow.retry()
        for _ in range(5 if how == "resume" else 0):
            flow.interrupt({})

    graph = rated("20/s")
    async with a_world(database, poll_interval=0.05) as world:
        await world.graph(graph, **{"first": ok, graph.node("send").url: send})
        key = await world.engine.create("rated")
        while (await world.engine.wait(key)).status != "completed" or len(started) < 6:
            if how == "resume":
                await world.engine.resume(key)
                continue
            step_key = (await world.engine.history(key))[1].step_key
            if how == "restart":
                await world.engine.recovery.restart_from(step_key)
            elif how == "fork":
                key = await world.engine.recovery.fork(step_key)
    assert len(started) == 6
    assert started[-1] - started[0] >= 5 / 20 - 2 * AHEAD
