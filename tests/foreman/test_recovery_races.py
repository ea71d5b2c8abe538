"""Operations of recovery at the same time as others: each pair comes out as if one had come after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import combinations_with_replacement, product
from typing import Any

import pytest

from mbactor import seams
from mbactor.errors import FlowConflict, FlowNotFound
from mbactor.foreman.engine import Engine
from mbactor.foreman.keeping import keep
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.state import overrides_of
from mbactor.foreman.store.postgres import PostgresStore
from mbactor.testing import faults
from tests.foreman.world import World, a_world, ok

pytestmark = pytest.mark.anyio

WHAT_IT_MAKES_OF = {
    "recover": {"failed": "running"},
    "retry": {"failed": "running"},
    "restart": {"failed": "running", "interrupted": "running", "cancelled": "running"},
    "restart_from": {"failed": "running", "interrupted": "running"},
    "fork": {"failed": "failed", "cancelled": "cancelled"},
    "resume": {"interrupted": "running"},
    "cancel": {"interrupted": "cancelled", "running": "cancelled"},
    "delete": {"failed": "deleted", "interrupted": "deleted", "cancelled": "deleted", "deleted": "deleted"},
}
"""Each operation: the status that a flow has to have, and the one that it has then."""


def one_by_one(status: str, *operations: str) -> tuple[bool, ...]:
    """Which of the operations are not refused when they come one after the other."""
    done = []
    for operation in operations:
        then = WHAT_IT_MAKES_OF[operation].get(status)
        done.append(then is not None)
        status = then or status
    return tuple(done)


def line(*nodes: str) -> Graph:
    graph = Graph("line")
    graph.add_transition_chain(*nodes, END)
    return graph


class Stops:
    """A task that fails, or asks, and that does not end when it runs again."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    async def __call__(self, flow: Flow) -> None:
        if flow.flow_key in self._seen or flow["how"] == "forked":
            await asyncio.Event().wait()
        self._seen.add(flow.flow_key)
        if flow["how"] == "failed":
            raise ValueError("broken")
        flow.interrupt({})


async def stopped(world: World, how: str, count: int) -> list[tuple[str, str]]:
    """Flows that have failed or wait for an answer, each with the key of the step that did."""
    keys = await asyncio.gather(*(world.engine.create("line", {"how": how}) for _ in range(count)))
    outcomes = await asyncio.gather(*map(world.engine.wait, keys))
    assert {one.status for one in outcomes} == {how}
    return [(key, (await world.engine.history(key))[0].step_key) for key in keys]


def act(engine: Engine, operation: str, flow: tuple[str, str]) -> Awaitable[Any]:
    key, step_key = flow
    match operation:
        case "restart_from":
            return engine.recovery.restart_from(step_key)
        case "fork":
            # What it makes runs for ever, and is nothing to this flow.
            return engine.recovery.fork(step_key, overrides_of({"how": "forked"}))
        case "resume" | "cancel" | "delete":
            operations: Any = engine
        case _:
            operations = engine.recovery
    found: Awaitable[Any] = getattr(operations, operation)(key)
    return found


def told(results: Iterable[Any]) -> tuple[bool, ...]:
    """Which were not refused; whatever else than a refusal was raised is an error."""
    results = list(results)
    for result in results:
        assert result is None or isinstance(result, str | FlowConflict | FlowNotFound), result
    return tuple(not isinstance(result, Exception) for result in results)


@pytest.mark.parametrize("how", ["failed", "interrupted"])
async def test_of_operations_that_exclude_each_other_the_first_wins(database: str, how: str) -> None:
    pairs = list(product(WHAT_IT_MAKES_OF, repeat=2))
    async with a_world(database) as world:
        await world.graph(line("task"), task=Stops())

        async def in_turn(pair: tuple[str, ...], flow: tuple[str, str]) -> tuple[bool, ...]:
            results = [(await asyncio.gather(act(world.engine, one, flow), return_exceptions=True))[0] for one in pair]
            return told(results)

        flows = await stopped(world, how, len(pairs))
        found = await asyncio.gather(*map(in_turn, pairs, flows))
        for pair, done in zip(pairs, found, strict=True):
            assert done == one_by_one(how, *pair), pair


@pytest.mark.parametrize("how", ["failed", "interrupted"])
async def test_operations_at_once_come_out_as_in_one_order_or_the_other(shared_database: str, how: str) -> None:
    pairs = list(combinations_with_replacement(WHAT_IT_MAKES_OF, 2))
    async with a_world(shared_database) as world, a_world(shared_database, workers=0) as other:
        await world.graph(line("task"), task=Stops())

        async def at_once(pair: tuple[str, str], flow: tuple[str, str]) -> tuple[bool, ...]:
            first, second = act(world.engine, pair[0], flow), act(other.engine, pair[1], flow)
            return told(await asyncio.gather(first, second, return_exceptions=True))

        flows = await stopped(world, how, len(pairs))
        found = await asyncio.gather(*map(at_once, pairs, flows))
        for pair, done in zip(pairs, found, strict=True):
            assert done in {one_by_one(how, *pair), one_by_one(how, *reversed(pair))[::-1]}, pair


async def overtaken(world: World, first: Awaitable[Any], second: Callable[[], Awaitable[Any]]) -> list[Any]:
    """What both bring, where the second comes when the first is about to commit, and waits for it."""
    store = world.store
    assert isinstance(store, PostgresStore)
    with faults.holding("foreman.commit.before") as held:
        ahead = asyncio.ensure_future(first)
        await held.reached()
        behind = asyncio.ensure_future(second())

        async def waits_or_is_through() -> bool:
            waiting = await world.sql("SELECT count(*) FROM pg_locks WHERE NOT granted")
            return waiting[0][0] > 0 or behind.done()

        await world.until(waits_or_is_through)
    return list(await asyncio.gather(ahead, behind, return_exceptions=True))


@pytest.mark.parametrize(
    ("first", "second"),
    [("recover", "recover"), ("recover", "delete"), ("delete", "recover"), ("fork", "delete"), ("delete", "fork"),
     ("restart", "retry"), ("retry", "restart")],
)  # fmt: skip
async def test_who_comes_while_another_commits_finds_what_that_one_made(
    mbactor_postgres_server: Any, first: str, second: str
) -> None:
    url = mbactor_postgres_server.fresh()
    async with a_world(url) as world, a_world(url, workers=0) as other:
        await world.graph(line("task"), task=Stops())
        (flow,) = await stopped(world, "failed", 1)
        world.kill()
        results = await overtaken(world, act(world.engine, first, flow), lambda: act(other.engine, second, flow))
        assert told(results) == one_by_one("failed", first, second)


@pytest.mark.parametrize("anchor", ["kept", "removed"])
async def test_of_two_turns_of_a_thread_at_once_one_is_made(mbactor_postgres_server: Any, anchor: str) -> None:
    url = mbactor_postgres_server.fresh()
    async with a_world(url) as world, a_world(url, workers=0) as other:
        await world.graph(line("task"), task=ok)
        begun = await world.engine.create("line")
        await world.engine.wait(begun)
        key = await world.engine.recovery.continue_thread(begun)
        await world.engine.wait(key)
        if anchor == "removed":
            await world.engine.delete(begun)
            await keep(world.engine)
            assert await world.sql("SELECT count(*) FROM mbactor_flow") == [(1,)]
        world.kill()
        results = await overtaken(
            world, world.engine.recovery.continue_thread(key), lambda: other.engine.recovery.continue_thread(key)
        )
        assert told(results) == (True, False)


@pytest.mark.parametrize("zombie_first", [True, False])
async def test_what_a_run_brings_after_its_flow_was_cancelled_and_restarted_is_refused(
    database: str, zombie_first: bool
) -> None:
    async with a_world(database, workers=0) as world:
        await world.graph(line("task", "next"), task=lambda flow: flow.update(run=flow["n"]), next=ok)
        landed: list[bool] = []
        settled = asyncio.Event()

        async def note(*, node: str, worker: str, **fields: Any) -> None:
            if worker == zombie.lease.worker:
                landed.append(fields["landed"])
                settled.set()

        with seams.armed("foreman.settle.after", note):
            with faults.holding("foreman.settle.before", node="task") as held:
                zombie = world.work("zombie", slots=1)
                key = await world.engine.create("line", {"n": 1})
                await held.reached()
                await world.engine.cancel(key)
                await world.engine.recovery.restart(key, overrides_of({"n": 2}))
                if not zombie_first:
                    world.work("heir")
                    assert (await world.engine.wait(key)).state == {"n": 2, "run": 2}
            await asyncio.wait_for(settled.wait(), 60)
            assert landed[0] is False
            assert (await world.engine.wait(key)).state == {"n": 2, "run": 2}
