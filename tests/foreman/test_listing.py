"""Lists of flows: filters, search, and pages in one order over any number of shards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbactor.errors import BadRequest, FlowNotFound, MbactorError
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.outcome import FlowOptions, FlowSummary
from mbactor.foreman.model.paging import Listed, Position, bound, merged, position_of
from mbactor.foreman.model.query import FlowQuery
from mbactor.foreman.store.listing import conditions, page_query
from mbactor.foreman.store.postgres import PostgresStore
from mbactor.foreman.store.postgres_text import text_of
from mbactor.foreman.store.rows import FlowFilter
from mbactor.foreman.store.sqlite_db import _text
from tests.foreman.world import World, a_world, ok

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with a_world(database) as world:
        yield world


def line(name: str, *nodes: str) -> Graph:
    graph = Graph(name)
    graph.add_transition_chain(*nodes, END)
    return graph


async def keys(world: World, **filters: Any) -> list[str]:
    return [flow.flow_key for flow in (await world.engine.list(FlowQuery(**filters))).flows]


async def ended(world: World, workflow: str, state: Any = None, **options: Any) -> str:
    key = await world.engine.create(workflow, state, FlowOptions(**options))
    await world.engine.wait(key)
    return key


def fails(flow: Flow) -> None:
    raise MbactorError(flow["text"], secret="in a field")


async def test_every_filter_finds_what_it_says_and_all_together_their_common_part(world: World) -> None:
    await world.graph(line("a", "start"), start=ok)
    await world.graph(line("b", "bad"), bad=fails)
    await world.graph(line("c", "ask", "more"), ask=lambda flow: flow.interrupt("?"), more=ok)
    await world.graph(line("d", "call"), call=lambda flow: flow.subgraph("a", {}))
    done = await ended(world, "a", priority=7, fairness_key="k")
    failed = await ended(world, "b", {"text": "x"}, priority=7)
    asks = await ended(world, "c", thread_key=done)
    calls = await ended(world, "d", fairness_key="k")
    created = await world.engine.create("a", options=FlowOptions(concurrency_key="c"), start=False)
    assert await keys(world) == [created, calls, asks, failed, done]
    for filters, expected in (
        ({"status": "failed"}, [failed]),
        ({"status": "created"}, [created]),
        ({"workflow": "a"}, [created, done]),
        ({"thread": done}, [asks, done]),
        ({"thread": asks}, [asks, done]),
        ({"thread": failed}, [failed]),
        ({"thread": "2-1-0123456789abcdef"}, []),
        ({"task": "ask"}, [asks]),
        ({"task": "bad"}, [failed]),
        ({"task": "start"}, [created]),
        ({"fairness_key": "k"}, [calls, done]),
        ({"fairness_key": ""}, [created, asks, failed]),
        ({"concurrency_key": "c"}, [created]),
        ({"concurrency_key": "c", "status": "failed"}, []),
        ({"concurrency_key": "c", "workflow": "a"}, [created]),
        ({"concurrency_key": ""}, [calls, asks, failed, done]),
        ({"priority": 7}, [failed, done]),
        ({"priority": 100}, [created, calls, asks]),
        ({"older_than": 3600}, []),
        ({"newer_than": 3600}, [created, calls, asks, failed, done]),
        ({"newer_than": 3600, "older_than": 0}, [created, calls, asks, failed, done]),
        ({"shard": 2}, []),
        ({"shard": 1, "status": "failed", "workflow": "b", "priority": 7, "search": "x"}, [failed]),
        ({"status": "failed", "workflow": "a"}, []),
    ):
        assert await keys(world, **filters) == expected, filters
    inner = (await world.engine.list(FlowQuery(workflow="a", include_subflows=True))).flows[1]
    assert (inner.subflow, inner.status) == (True, "completed")
    for unknown in (done[:-1] + ("0" if done[-1] != "0" else "1"), "1-99-0123456789abcdef"):
        with pytest.raises(FlowNotFound):
            await keys(world, thread=unknown)


async def test_a_flow_that_changed_lately_is_found_however_old_it_is(world: World) -> None:
    await world.graph(line("a", "ask"), ask=lambda flow: flow.interrupt("?"))
    first, second, third = [await ended(world, "a") for _ in range(3)]
    await world.sql("UPDATE mbactor_flow SET created_at = created_at - 9000, updated_at = updated_at - 8000")
    await world.engine.resume(first)
    await world.engine.wait(first)
    last = await ended(world, "a")
    assert await keys(world, newer_than=3600) == [last, first]
    assert await keys(world, newer_than=3600, limit=1) == [last]
    page = await world.engine.list(FlowQuery(newer_than=3600, limit=1))
    assert await keys(world, newer_than=3600, limit=1, cursor=page.next_cursor) == [first]
    assert await keys(world, older_than=3600) == [third, second]
    assert await keys(world, older_than=8500) == []


async def test_a_summary_says_where_the_flow_is_and_how_far_it_has_come(world: World) -> None:
    wide = Graph("wide")
    wide.add_transition_fan_out("split", "left", "right")
    wide.add_transition("left", "join")
    wide.add_transition("right", "join")
    wide.set_fan_in("join")
    wide.add_transition("join", END)
    ask = {name: (lambda flow: flow.interrupt("?")) for name in ("left", "right")}
    await world.graph(wide, split=ok, join=ok, **ask)
    await world.graph(line("b", "fine", "bad"), fine=ok, bad=fails)
    key = await ended(world, "wide")

    async def both_wait() -> bool:
        return len((await world.engine.snapshot(key)).interrupts) == 2

    await world.until(both_wait)
    await ended(world, "b", {"text": "no"})
    failed, two = (await world.engine.list(FlowQuery())).flows
    assert (failed.task, failed.steps_done, failed.steps, failed.error) == ("bad", 2, 2, "no")
    assert (two.task, two.steps_done, two.steps) == ("", 1, 3)
    await world.engine.resume(key, {})

    async def one_is_left() -> bool:
        return await keys(world, task="right") == [key]

    await world.until(one_is_left)


async def test_search_finds_text_in_any_case_and_takes_no_character_for_another(world: World) -> None:
    world.host.graphs["https://wide.example/x"] = line("Wide Name", "worse")
    world.host.tasks["worse"] = fails
    state = {"text": "50%_off, the reason 'x' \\ of it", "payload": "50x2off"}
    failed = await ended(world, "https://wide.example/x", state)
    # None of the words has the digits of a token only, which might have it by chance.
    await world.graph(line("other", "ask"), ask=lambda flow: flow.interrupt("payload"))
    stopped = await ended(world, "other", state)
    await world.engine.cancel(stopped, "Stop it, \u00c4RGER im B\u00fcro")
    for needle in ("50%_OFF", "WIDE n", "wide.example", "the reason", "worse", "\\", "'X'", failed, failed[3:9]):
        assert await keys(world, search=needle) == [failed], needle
    for needle in ("stop", "OTHER", stopped, "\u00e4rger", "B\u00dcRO"):
        assert await keys(world, search=needle) == [stopped], needle
    assert await keys(world, search="") == [stopped, failed]
    for absent in ("payload", "50x2off", "in a field", "50%%off", "50%xoff", "Traceback", "ask"):
        assert await keys(world, search=absent) == [], absent


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"status": "done"}, "expected one of created, running, interrupted"),
        ({"status": "complete"}, "did you mean 'completed'"),
        ({"limit": 0}, "whole number, 1 to 10000"),
        ({"limit": 10_001}, "1 to 10000"),
        ({"limit": "7"}, "1 to 10000"),
        ({"cursor": "x"}, "the next_cursor of a page before"),
        ({"cursor": "nan:1:2"}, "next_cursor"),
        ({"cursor": "1.0:1:99999999999999999999"}, "next_cursor"),
        ({"cursor": "1.00:1:2"}, "next_cursor"),
        ({"older_than": -1.0}, "a duration such as 1h"),
        ({"newer_than": float("nan")}, "a duration such as 1h"),
        ({"search": "a\0b"}, "without NUL"),
        ({"task": "\ud800"}, "without NUL"),
        ({"priority": -1}, "0 or more"),
        ({"shard": 0}, "1 or more"),
    ],
)
def test_what_no_list_can_be_about_is_refused_by_name(wrong: dict[str, Any], expected: str) -> None:
    with pytest.raises(BadRequest, match=expected) as refused:
        FlowQuery(**wrong)
    assert next(iter(wrong)) in str(refused.value)


# --- pages ----------------------------------------------------------------------------------------------------

positions = st.builds(
    Position, st.sampled_from([1.0, 1.5, 2.0, 1795738867.123457]), st.integers(1, 4), st.integers(1, 50)
)


def listed(position: Position) -> Listed:
    return Listed(position, FlowSummary(flow_key=f"{position.shard}-{position.id}-x", status="running"))


@given(positions)
def test_a_cursor_is_read_as_it_was_written(position: Position) -> None:
    assert position_of(str(position)) == position


@given(st.lists(positions, max_size=30, unique_by=lambda one: one[1:]), st.integers(1, 7), st.data())
@settings(max_examples=50)
def test_pages_put_together_are_all_flows_in_one_order_whatever_shards_they_are_in(
    flows: list[Position], limit: int, data: st.DataObject
) -> None:
    # Whole shards may be away while some pages are read: the others' flows come once each, and in order, all the same.
    shards = {one.shard for one in flows}
    cursor, seen, ever_away = "", [], set[int]()
    for _ in range(len(flows) + 1):
        away = data.draw(st.sets(st.sampled_from(sorted(shards)), max_size=1)) if shards else set[int]()
        ever_away |= away
        position = position_of(cursor)
        found = {
            shard: [
                listed(one)
                for one in sorted(flows, reverse=True)
                if one.shard == shard and (position is None or (one.created_at, one.id) < bound(position, shard))
            ][: limit + 1]
            for shard in shards - away
        }
        page = merged(found, dict.fromkeys(away, "away"), limit)
        assert len(page.flows) <= limit
        assert len(page.notes) == len(away)
        seen += [flow.flow_key for flow in page.flows]
        cursor = page.next_cursor
        if not cursor:
            break
    assert not cursor
    assert len(seen) == len(set(seen))
    place = {listed(one).flow.flow_key: one for one in flows}
    assert seen == sorted(seen, key=place.__getitem__, reverse=True)
    assert {key for key, one in place.items() if one.shard not in ever_away} <= set(seen)


async def test_pages_of_a_shard_are_whole_while_flows_are_created(world: World) -> None:
    await world.graph(line("a", "start"), start=ok)
    before = await asyncio.gather(*(world.engine.create("a") for _ in range(23)))
    seen, cursor = [], ""
    while True:
        page = await world.engine.list(FlowQuery(limit=5, cursor=cursor))
        seen += [flow.flow_key for flow in page.flows]
        await world.engine.create("a")
        cursor = page.next_cursor
        if not cursor:
            break
    assert sorted(seen) == sorted(before)
    assert [len(page.flows), page.notes] == [3, []]


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({"status": "failed"}, "flow_status"),
        ({"workflow": "w"}, "flow_workflow"),
        ({"fairness_key": "k"}, "flow_fairness"),
        ({"concurrency_key": "c3", "status": "completed"}, "flow_concurrency"),
        ({"priority": 3}, "flow_priority"),
        ({"thread_id": 3}, "flow_thread"),
        ({"node": "n", "status": "failed"}, "flow_status"),
        ({"node": "n", "status": "running"}, "step_lease"),
    ],
)
async def test_paging_by_a_filter_goes_by_its_index(filters: dict[str, Any], index: str, database: str) -> None:
    async with a_world(database, workers=0) as world:
        query, values = page_query(conditions(FlowFilter(before=(9e9, 5), **filters)))
        if isinstance(world.store, PostgresStore):
            await world.sql(MANY)
            await world.sql("ANALYZE mbactor_flow")
            types = ", ".join({"f": "float8", "i": "bigint", "s": "text"}[type(value).__name__[0]] for value in values)
            given = ", ".join(repr(value) for value in values)
            async with world.store._connection() as connection:
                await connection.execute(f"PREPARE page ({types}, bigint) AS {text_of(query)}")
                plan = await connection.fetch(f"EXPLAIN EXECUTE page ({given}, 100)")
                await connection.execute("DEALLOCATE page")
            await world.sql("DELETE FROM mbactor_flow")
        else:
            plan = await world.sql(f"EXPLAIN QUERY PLAN {_text(query)}", *values, 100)
        told = "\n".join(str(tuple(row)[-1]) for row in plan)
        assert f"mbactor_{index}" in told, told
        assert "Seq Scan" not in told
        assert "SCAN flow\n" not in f"{told}\n"
        if index.startswith("flow") and index != "flow_thread":
            assert "Sort" not in told, told
            assert "TEMP B-TREE" not in told, told


MANY = """INSERT INTO mbactor_flow (id, token, status, workflow, name, graph, priority, fairness_key, fairness_weight,
    time_budget, delete_on_completion, created_at, updated_at, thread_id, concurrency_key) SELECT n, 't',
    CASE WHEN n % 10 = 0 THEN 'failed' ELSE 'completed' END, 'w' || n % 7, 'w', 'g', 100 + n % 3 * (n % 2), 'k' || n % 5,
    1, 1, 0, n, n + 1, n - n % 4, CASE WHEN n % 2 = 0 THEN 'c' || n % 30 END FROM generate_series(1, 3000) AS n"""
