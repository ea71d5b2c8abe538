"""A disk that is full, and a clock that somebody sets: nothing is lost, and all goes on afterwards."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mbactor import clock, observe
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.outcome import FlowOptions
from mbactor.foreman.store.operations import Claim, Lease
from mbactor.foreman.sweep import sweep, sweep_regularly
from tests.foreman.world import World, a_world, ok

pytestmark = pytest.mark.anyio
Small = tuple[str, Callable[[World], Any], Callable[[World], Any]]
TIMES = ("not_before", "created_at", "updated_at", "started_at", "lease_expires")
BIG = "x" * 50_000


def line(*nodes: str) -> Graph:
    graph = Graph("line")
    graph.add_transition_chain(*nodes, END)
    return graph


class Troubles:
    """What the Foreman says about its database."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_event(self, name: str, fields: Any) -> None:
        if name == "foreman.trouble":
            self.told.append(fields["error"])

    def on_start(self, span: observe.Span) -> None: ...
    def on_end(self, span: observe.Span) -> None: ...


@pytest.fixture(params=["limit", "disk"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Small]:
    """A database, what leaves it little room, and what gives it more: SQLite's own limit, or a real disk where one may be
    mounted.
    """
    if request.param == "limit":

        async def less(world: World) -> None:
            await world.sql("PRAGMA max_page_count = 400")

        async def more(world: World) -> None:
            await world.sql("PRAGMA max_page_count = 100000")

        yield f"sqlite:///{tmp_path}/flows.db", less, more
        return
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(tmp_path)]
    if os.getuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no disk may be mounted here")

    async def as_it_is(_: World) -> None: ...

    async def larger(_: World) -> None:
        subprocess.run(["mount", "-o", "remount,size=64m", str(tmp_path)], check=True)  # noqa: ASYNC221

    try:
        yield f"sqlite:///{tmp_path}/flows.db", as_it_is, larger
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


async def test_on_a_full_disk_nothing_acknowledged_is_lost_and_all_goes_on_when_there_is_room(
    small: Small,
) -> None:
    url, less, more = small
    troubles = Troubles()

    def task(flow: Flow) -> None:
        flow["copy"] = flow["big"]

    with observe.observing(troubles):
        async with a_world(url, poll_interval=0.05) as world:
            await world.graph(line("task", "next"), task=task, next=ok)
            await less(world)
            keys: list[str] = []
            creating = asyncio.create_task(_create(world, keys))
            async with asyncio.timeout(60):
                while not troubles.told:
                    await asyncio.sleep(0.002)
            acknowledged = len(keys)
            assert acknowledged > 0
            assert not creating.done()
            await more(world)
            await creating
            outcomes = [await asyncio.wait_for(world.engine.wait(key), 60) for key in keys]
            assert all(outcome.state == {"big": BIG, "copy": BIG} for outcome in outcomes)
            assert await world.sql("SELECT count(*) FROM mbactor_flow") == [(60,)]
            assert sorted(world.host.ran) == ["next"] * 60 + ["task"] * 60, "no task ran again"
            assert await world.sql("PRAGMA integrity_check") == [("ok",)]
    assert any("full" in text or "disk" in text for text in troubles.told), troubles.told[0]


async def _create(world: World, keys: list[str]) -> None:
    while len(keys) < 60:
        keys.append(await world.engine.create("line", {"big": BIG}))


class Wall:
    """A clock on the wall, which people set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        real = clock.unix
        monkeypatch.setattr(clock, "unix", lambda: real() + self.ahead)


@pytest.fixture(params=["memory", "file"])
def sqlite(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path}/flows.db"


async def test_what_was_due_is_due_though_the_clock_is_set_back_and_what_sleeps_sleeps_on(
    sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    go = asyncio.Event()

    async def task(flow: Flow) -> None:
        if flow.get("slow"):
            await go.wait()

    async with a_world(sqlite, workers=0, lease=0.3, poll_interval=0.02) as world:
        await world.graph(line("task", "next"), task=task, next=ok)
        world.work(slots=1)
        runs = await world.engine.create("line", {"slow": True})
        await world.until(lambda: _ran(world, "task", 1))
        waits = await world.engine.create("line")
        sleeps = await world.engine.create("line", None, FlowOptions(start_at=3600.0))
        wall.ahead = -7200.0
        new = await world.engine.create("line")
        later = await world.engine.create("line", None, FlowOptions(start_at=3600.0))
        go.set()
        sweeping = asyncio.create_task(sweep_regularly(world.engine, 0.02))
        for key, why in ((runs, "what runs goes on"), (waits, "what was due is due"), (new, "so is what is new")):
            assert (await asyncio.wait_for(world.engine.wait(key), 60)).status == "completed", why
        for key in (sleeps, later):
            assert [step.status for step in await world.engine.history(key)] == ["pending"]
        wall.ahead = 3601.0
        for key in (sleeps, later):
            assert (await asyncio.wait_for(world.engine.wait(key), 60)).status == "completed"
        sweeping.cancel()
        assert len(world.host.ran) == 10


async def test_what_waits_for_room_as_the_clock_is_set_back_follows(
    sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    go = asyncio.Event()
    graph = Graph("wide")
    graph.add_transition_for_each("spread", "branch", for_each="items", max_parallel=2)
    graph.add_transition_chain("branch", "join", END)
    graph.set_fan_in("join")

    async def branch(_: Flow) -> None:
        await go.wait()

    async with a_world(sqlite, poll_interval=0.02) as world:
        await world.graph(graph, spread=ok, branch=branch, join=ok)
        key = await world.engine.create("wide", {"items": [1, 2, 3, 4]})
        await world.until(lambda: _ran(world, "branch", 2))
        wall.ahead = -3600.0
        go.set()
        async with asyncio.timeout(60):
            while (await world.engine.poll(key, 0.05)).status != "completed":
                await sweep(world.engine)
        assert sorted(world.host.ran) == ["branch"] * 4 + ["join", "spread"]


async def _ran(world: World, task: str, count: int) -> bool:
    return world.host.ran.count(task) == count


async def test_a_lease_of_a_process_that_died_ends_though_the_clock_was_set_back_since(
    database: str,
) -> None:
    """So is what was due then: nobody who works now has seen the clock as it was."""
    async with a_world(database, workers=0, lease=0.3, poll_interval=0.02) as world:
        await world.graph(line("task", "next"), task=ok, next=ok)
        keys = [await world.engine.create("line") for _ in range(2)]
        await world.engine.committer.commit(Claim(Lease("nobody", 0.3), 1))
        ahead = ", ".join(f"{name} = {name} + 3600" for name in TIMES)
        await world.sql(f"UPDATE mbactor_step SET {ahead} RETURNING id")
        world.work()
        sweeping = asyncio.create_task(sweep_regularly(world.engine))
        outcomes = [await asyncio.wait_for(world.engine.wait(key), 60) for key in keys]
        assert [outcome.status for outcome in outcomes] == ["completed"] * 2
        assert len(world.host.ran) == 4
        sweeping.cancel()


async def test_the_clock_of_a_process_does_not_matter_where_the_database_has_its_own(
    mbactor_postgres_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    async with a_world(mbactor_postgres_server.fresh(), lease=0.5, poll_interval=0.02) as world:
        await world.graph(line("task", "next"), task=ok, next=ok)
        for ahead in (3600.0, -3600.0):
            wall.ahead = ahead
            assert (await asyncio.wait_for(world.run("line"), 60)).status == "completed"
            assert await sweep(world.engine) == 0
        assert len(world.host.ran) == 4
