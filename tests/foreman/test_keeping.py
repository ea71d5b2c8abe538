"""How long flows are kept: delete, purge, disposable flows, retention, and what may not happen to what is marked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mbactor.errors import BadRequest, FlowConflict, FlowNotFound, MbactorError
from mbactor.foreman.keeping import AT_ONCE, keep
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.model.outcome import FlowOptions
from mbactor.foreman.model.query import FlowQuery
from mbactor.foreman.store.keeping import GRACE
from mbactor.foreman.store.operations import Purge, Resume
from mbactor.foreman.store.rows import FlowFilter
from mbactor.foreman.sweep import sweep_regularly
from mbactor.testing import Recorder
from tests.foreman.world import World, a_world, ok

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with a_world(database) as world:
        await world.graph(line("line", "start"), start=ok)
        await world.graph(line("asks", "ask"), ask=lambda flow: flow.interrupt("?"))
        await world.graph(line("fails", "bad"), bad=bad)
        await world.graph(line("calls", "call"), call=lambda flow: flow.subgraph("asks", {}))
        yield world


def line(name: str, *nodes: str) -> Graph:
    graph = Graph(name)
    graph.add_transition_chain(*nodes, END)
    return graph


def bad(_: Flow) -> None:
    raise MbactorError("bad")


async def at_rest(world: World, workflow: str, **options: Any) -> str:
    key = await world.engine.create(workflow, None, FlowOptions(**options))
    await world.engine.wait(key)
    return key


async def keys(world: World, **filters: Any) -> list[str]:
    return [flow.flow_key for flow in (await world.engine.list(FlowQuery(**filters))).flows]


async def count(world: World, table: str = "mbactor_flow") -> int:
    return int((await world.sql(f"SELECT count(*) FROM {table}"))[0][0])


# --- delete -----------------------------------------------------------------------------------------------------


async def test_what_was_deleted_is_out_of_lists_at_once_and_out_of_the_database_soon(world: World) -> None:
    key = await at_rest(world, "line")
    step = (await world.engine.history(key))[0].step_key
    await world.engine.delete(key)
    assert await keys(world) == []
    for operation in (world.engine.resume, world.engine.cancel):
        with pytest.raises(FlowConflict, match="about to be removed"):
            await operation(key)
    for rerun in (world.engine.recovery.restart, world.engine.recovery.recover, world.engine.recovery.retry):
        with pytest.raises(FlowConflict, match="about to be removed"):
            await rerun(key)
    with pytest.raises(FlowConflict):
        await world.engine.recovery.fork(step)
    with pytest.raises(FlowNotFound):
        await world.engine.recovery.continue_thread(key)
    for look in (world.engine.history, world.engine.summary, world.engine.fingerprint):
        with pytest.raises(FlowNotFound):
            await look(key)
    with pytest.raises(FlowNotFound):
        await world.engine.step(step)
    assert (await world.engine.snapshot(key)).status == "completed"
    assert (await world.engine.wait(key)).status == "completed"
    await world.engine.delete(key)
    assert await keep(world.engine) == (0, 1)
    for read in (world.engine.snapshot, world.engine.wait, world.engine.delete, world.engine.fingerprint):
        with pytest.raises(FlowNotFound):
            await read(key)
    assert await count(world, "mbactor_step") == 0


async def test_a_flow_that_runs_is_not_deleted_and_one_that_waits_is_ended_with_what_it_called(world: World) -> None:
    world.host.tasks["start"] = lambda flow: asyncio.sleep(30)
    running = await world.engine.create("line")
    with pytest.raises(FlowConflict, match="running.*cancel it first"):
        await world.engine.delete(running)
    await world.engine.cancel(running)
    asks = await at_rest(world, "calls")
    child = (await world.engine.history(asks))[0].subflow
    assert child is not None
    with pytest.raises(BadRequest, match="another flow called it"):
        await world.engine.delete(child.flow_key)
    unstarted = await world.engine.create("line", start=False)
    for key in (asks, unstarted):
        await world.engine.delete(key)
        assert (await world.engine.snapshot(key)).status == "cancelled"
    assert (await world.engine.snapshot(child.flow_key)).status == "cancelled"
    for read in (world.engine.history, world.engine.summary, world.engine.fingerprint):
        with pytest.raises(FlowNotFound):
            await read(child.flow_key)
    await world.check()
    assert await keep(world.engine) == (0, 2)
    assert await keys(world, include_subflows=True) == [running]


async def test_an_idempotency_key_is_free_again_when_its_flow_was_deleted(world: World) -> None:
    first = await at_rest(world, "line", idempotency_key="k")
    await world.engine.delete(first)
    second = await at_rest(world, "line", idempotency_key="k")
    assert second != first
    assert await at_rest(world, "line", idempotency_key="k") == second


# --- disposable flows -------------------------------------------------------------------------------------------


async def test_a_disposable_flow_answers_404_everywhere_as_soon_as_it_has_completed(world: World) -> None:
    await world.graph(line("outer", "inner"), inner=lambda flow: flow.subgraph("line", {}))
    key = await world.engine.create("outer", None, FlowOptions(delete_on_completion=True, idempotency_key="once"))
    with pytest.raises(FlowNotFound):
        await world.engine.wait(key)
    assert await count(world) == 2
    ((inner_id, inner_token),) = await world.sql("SELECT id, token FROM mbactor_flow WHERE root_id IS NOT NULL")
    engine = world.engine
    for key_of in (key, f"1-{inner_id}-{inner_token}"):
        for read in (engine.snapshot, engine.wait, engine.history, engine.fingerprint):
            with pytest.raises(FlowNotFound):
                await read(key_of)
    for operation in (engine.resume, engine.cancel, engine.delete, engine.start):
        with pytest.raises(FlowNotFound):
            await operation(key)
    ((step_id, token),) = await world.sql("SELECT id, token FROM mbactor_step WHERE node = 'inner'")
    of_steps: Any
    for of_steps in (engine.step, engine.recovery.fork, engine.recovery.restart_from):
        with pytest.raises(FlowNotFound):
            await of_steps(f"1-{step_id}-{token}")
    of_flows: Any
    for of_flows in (engine.recovery.restart, engine.recovery.recover, engine.recovery.continue_thread):
        with pytest.raises(FlowNotFound):
            await of_flows(key)
    assert await keys(world, include_subflows=True) == []
    # A creation that is repeated finds that it was done.
    assert await engine.create("outer", None, FlowOptions(idempotency_key="once")) == key
    assert await keep(world.engine) == (0, 0)
    await world.sql(f"UPDATE mbactor_flow SET delete_at = delete_at - {GRACE}")
    assert await keep(world.engine) == (0, 1)
    assert await count(world) == await count(world, "mbactor_step") == 0


async def test_a_disposable_flow_that_did_not_complete_stays(world: World) -> None:
    failed = await at_rest(world, "fails", delete_on_completion=True)
    cancelled = await at_rest(world, "asks", delete_on_completion=True)
    await world.engine.cancel(cancelled)
    assert await keep(world.engine) == (0, 0)
    assert await keys(world) == [cancelled, failed]


# --- purge ------------------------------------------------------------------------------------------------------


async def test_purge_takes_what_rests_and_fits_the_filters_oldest_first(world: World) -> None:
    world.host.tasks["hold"] = lambda flow: asyncio.sleep(30)
    await world.graph(line("runs", "hold"))
    first, second = [await at_rest(world, name, priority=7) for name in ("fails", "line")]
    asks = await at_rest(world, "calls", priority=7)
    other = await at_rest(world, "line")
    running = await world.engine.create("runs", None, FlowOptions(priority=7))
    assert await world.engine.purge(FlowQuery(priority=7, older_than=3600.0)) == 0
    assert await world.engine.purge(FlowQuery(priority=7, limit=1)) == 1
    assert await keys(world) == [running, other, asks, second]
    assert (await world.engine.snapshot(first)).status == "failed"
    assert await world.engine.purge(FlowQuery(priority=7, newer_than=3600.0)) == 2
    assert await keys(world) == [running, other]
    assert await world.engine.purge(FlowQuery(status="running")) == 0
    assert await world.engine.purge(FlowQuery(search="runs")) == 0
    assert await world.engine.purge(FlowQuery(thread="2-1-0123456789abcdef")) == 0
    await world.check()
    assert await keep(world.engine) == (0, 3)
    assert await count(world) == 2
    await world.engine.cancel(running)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({}, "at least one of status"),
        ({"shard": 1}, "at least one of status"),
        ({"search": ""}, "at least one of status"),
        ({"status": "failed", "include_subflows": True}, "goes with that one"),
        ({"status": "failed", "cursor": "1.0:1:2"}, "no pages"),
        ({"status": "failed", "limit": 4097}, "1 to 4096"),
    ],
)
async def test_a_purge_that_cannot_be_meant_is_refused(wrong: dict[str, Any], expected: str) -> None:
    async with a_world(workers=0) as world:
        with pytest.raises(BadRequest, match=expected):
            await world.engine.purge(FlowQuery(**wrong))


# --- retention --------------------------------------------------------------------------------------------------


async def test_flows_are_kept_for_as_many_seconds_after_their_end_and_others_for_ever(
    database: str, mbactor_recorder: Recorder
) -> None:
    async with a_world(database, retention=3600.0) as world:
        await world.graph(line("line", "start"), start=ok)
        await world.graph(line("asks", "ask"), ask=lambda flow: flow.interrupt("?"))
        old = [await at_rest(world, "line") for _ in range(3)]
        asks = await at_rest(world, "asks")
        await world.sql("UPDATE mbactor_flow SET created_at = created_at - 9999, updated_at = updated_at - 9999")
        # What was created long ago and ended lately is as young as its end.
        late = await at_rest(world, "line")
        await world.sql("UPDATE mbactor_flow SET created_at = created_at - 9999 WHERE id = 5")
        assert await keep(world.engine) == (3, 3)
        await mbactor_recorder.wait_for("flow.purged", count=3)
        assert await keys(world) == [asks, late] or await keys(world) == [late, asks]
        for key in old:
            with pytest.raises(FlowNotFound):
                await world.engine.snapshot(key)


async def test_more_than_a_batch_is_removed_in_one_sweep_by_the_sweeper() -> None:
    async with a_world(workers=0, retention=1.0) as world:
        await world.graph(line("line", "start"), start=ok)
        await asyncio.gather(*(world.engine.create("line", start=False) for _ in range(AT_ONCE + 3)))
        assert await world.engine.purge(FlowQuery(status="created", limit=4_096)) == AT_ONCE + 3
        sweeper = asyncio.create_task(sweep_regularly(world.engine, 0.01))

        async def all_are_gone() -> bool:
            return await count(world) == 0

        await world.until(all_are_gone)
        sweeper.cancel()


async def test_of_a_resume_and_a_purge_at_once_one_wins_and_the_other_knows(shared_database: str) -> None:
    async with a_world(shared_database) as world, a_world(shared_database, workers=0) as other:
        await world.graph(line("asks", "ask"), ask=lambda flow: flow.update(answer=flow.interrupt("?")))
        resumed = 0
        for _ in range(12):
            key = await at_rest(world, "asks")
            _, flow_id, token = key.split("-")
            purged, changed = await asyncio.gather(
                other.engine.committer.commit(Purge(FlowFilter(status="interrupted"))),
                world.engine.committer.commit(Resume(int(flow_id), token, b"1")),
            )
            assert (purged, changed.done) in {(1, False), (0, True)}
            outcome = await world.engine.wait(key)
            assert outcome.status == ("completed" if changed.done else "cancelled")
            resumed += changed.done
        assert 0 <= resumed <= 12


async def test_a_fork_of_a_flow_that_is_purged_meanwhile_is_whole_or_refused(shared_database: str) -> None:
    async with a_world(shared_database) as world, a_world(shared_database, workers=0) as other:
        await world.graph(line("line", "start", "more"), start=ok, more=ok)
        for _ in range(8):
            key = await at_rest(world, "line")
            step = (await world.engine.history(key))[1].step_key
            purged, forked = await asyncio.gather(
                other.engine.committer.commit(Purge(FlowFilter(status="completed", limit=1))),
                world.engine.recovery.fork(step),
                return_exceptions=True,
            )
            await keep(other.engine)
            assert purged or isinstance(forked, str)
            if isinstance(forked, str):
                assert (await world.engine.wait(forked)).status == "completed"
                await world.engine.delete(forked)
            else:
                assert isinstance(forked, FlowConflict)


# --- fingerprint ------------------------------------------------------------------------------------------------


async def test_a_fingerprint_changes_with_what_happens_in_the_flow_or_below_and_only_then(world: World) -> None:
    key = await at_rest(world, "calls")
    child = (await world.engine.history(key))[0].subflow
    assert child is not None
    first, status = await world.engine.fingerprint(key)
    assert (len(first), status) == (64, "interrupted")
    assert await world.engine.fingerprint(key) == (first, status)
    inner = await world.engine.fingerprint(child.flow_key)
    await world.engine.resume(key, {})
    await world.engine.wait(key)
    second, status = await world.engine.fingerprint(key)
    assert (second != first, status) == (True, "completed")
    assert await world.engine.fingerprint(child.flow_key) != inner
    assert await world.engine.fingerprint(key) == (second, status)
    with pytest.raises(FlowNotFound):
        await world.engine.fingerprint(key[:-1] + ("0" if key[-1] != "0" else "1"))
