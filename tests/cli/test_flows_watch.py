"""What `mbactor flows watch` shows: the flows that are open, those that have just ended, and how far each has come."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable

import pytest
from rich.console import Console

from mbactor.cli.flows.watch import View, pages, picture
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.outcome import FlowPage, FlowSummary
from mbactor.foreman.model.query import FlowQuery
from mbactor.foreman.shards import Member, Shards
from mbactor.testing.postgres import PostgresServer
from tests.foreman.world import a_world, ok

pytestmark = pytest.mark.anyio
AT = dt.datetime(2026, 5, 1, 12, 0, tzinfo=dt.UTC)


async def test_a_flow_that_ends_is_shown_a_little_longer_and_one_that_is_removed_is_not() -> None:
    async with a_world() as world:
        graph = Graph("asks")
        graph.add_transition("ask", END)
        await world.graph(graph, ask=lambda flow: flow.interrupt("?"))
        keys = [await world.engine.create("asks") for _ in range(3)]
        for key in keys:
            await world.engine.wait(key)
        seen = pages(Shards([Member(1, engine=world.engine)]), View(every=0.01))
        assert {flow.flow_key for flow in (await anext(seen)).flows} == set(keys)
        await world.engine.cancel(keys[0])
        assert {flow.flow_key: flow.status for flow in (await anext(seen)).flows}[keys[0]] == "cancelled"
        await world.engine.delete(keys[1])
        shown = {flow.flow_key: flow.status for flow in (await anext(seen)).flows}
        assert shown == {keys[0]: "cancelled", keys[2]: "interrupted"}
        only = pages(Shards([Member(1, engine=world.engine)]), View(query=FlowQuery(status="failed"), once=True))
        assert [page.flows async for page in only] == [[]]


async def test_what_was_seen_last_stays_in_sight_while_the_database_is_away() -> None:
    server = PostgresServer()
    try:
        async with a_world(server.fresh(), workers=0) as world:
            graph = Graph("line")
            graph.add_transition("first", END)
            key = await world.engine.create(await world.graph(graph, first=ok))
            shards = Shards([Member(1, engine=world.engine)])
            seen = pages(shards, View(every=0.01))
            named = pages(shards, View(keys=[key], every=0.01))
            for shown in (seen, named):
                assert [flow.flow_key for flow in (await anext(shown)).flows] == [key]
            server._control("stop", "-m", "immediate")
            for shown in (seen, named):
                page = await until(shown, lambda page: bool(page.notes))
                assert [flow.flow_key for flow in page.flows] == [key]
                assert "database" in page.notes[0]
            server._server.ensure_postgres_running()
            await until(seen, lambda page: not page.notes)
            await until(named, lambda page: not page.notes)
    finally:
        server.close()


async def until(shown: AsyncIterator[FlowPage], condition: Callable[[FlowPage], bool]) -> FlowPage:
    async with asyncio.timeout(60):
        async for page in shown:
            if condition(page):
                return page
    raise AssertionError("it ended")


def flow(number: int, done: int, known: int) -> FlowSummary:
    return FlowSummary(
        flow_key=f"1-{number}-0123456789abcdef", status="running", workflow_name="Order", steps_done=done, steps=known,
        created_at=AT, updated_at=AT, task="pay",
    )  # fmt: skip


@pytest.mark.parametrize("width", [60, 80, 160])
def test_bars_tell_how_far_each_has_come_and_keys_are_whole_on_any_terminal(width: int) -> None:
    page = FlowPage([flow(1, 0, 4), flow(2, 2, 4), *(flow(n, 4, 4) for n in range(3, 30))], notes=["shard 2 is away"])
    console = Console(width=width, height=12, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(picture(page, View(every=2.0), console))
    lines = captured.get().splitlines()
    assert lines[0].startswith("shard 2 is away")
    rows = [line for line in lines if line.startswith("1-")]
    assert [row.split()[0] for row in rows] == [one.flow_key for one in page.flows[: len(rows)]]
    assert len(lines) <= 12
    assert any("more  29 flows, every 2s, Ctrl-C ends" in line for line in lines)
    if width >= 80:
        bars = [row.count("━") for row in rows]
        assert 0 == bars[0] < bars[1] < bars[2] == bars[3]
        assert "2/4" in rows[1]
