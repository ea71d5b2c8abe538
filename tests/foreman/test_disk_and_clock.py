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
from mbactor.foreman.sweep import sweep
from tests.foreman.world import World, a_world, ok

pytestmark = pytest.mark.anyio
Small = tuple[str, Callable[[World], Any], Callable[[World], Any]]
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


@pytest.mark.parametrize("kind", ["memory", "file"])
async def test_a_clock_that_is_set_back_delays_what_waits_and_nothing_else(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall(monkeypatch)
    go = asyncio.Event()

    async def task(flow: Flow) -> None:
        if flow.get("slow"):
            await go.wait()

    async with a_world(
        "sqlite://" if kind == "memory" else f"sqlite:///{tmp_path}/flows.db", workers=0, lease=0.3, poll_interval=0.02
    ) as world:
        await world.graph(line("task", "next"), task=task, next=ok)
        waits = await world.engine.create("line")
        world.work()
        await asyncio.sleep(0)
        wall.ahead = -3600.0
        runs = await world.engine.create("line", {"slow": True})
        assert (await world.run("line")).status == "completed", "what is new does not care"
        wall.ahead = -7200.0
        go.set()
        assert (await asyncio.wait_for(world.engine.wait(runs), 60)).status == "completed", "nor does what runs"
        wall.ahead = 0.0
        assert (await asyncio.wait_for(world.engine.wait(waits), 60)).status == "completed"
        assert await sweep(world.engine) == 0
        assert len(world.host.ran) == 6


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
