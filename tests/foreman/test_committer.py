"""Group commit: what joins a batch, when its callers go on, and what happens when the database will not write."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from mbactor import observe
from mbactor.errors import Unavailable
from mbactor.foreman.committer import WORTHWHILE, Committer
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.store.operations import Changed, Committed, Create, Lease, NewStep, Operation, Recover, Settle
from mbactor.foreman.store.sql import SqlStore
from mbactor.foreman.store.sqlite import SqliteStore, run_in_driver
from mbactor.foreman.store.store import Doubted, StoreTrouble, Unstorable, go_on_asking
from mbactor.testing import Recorder
from tests.foreman.world import World, a_world, ok

pytestmark = pytest.mark.anyio


class Slowed:
    """A store whose commits wait for the test, and whose trouble the test decides."""

    shard = 1
    identity: int
    graph: Any
    flow: Any
    flows: Any
    statuses: Any
    step: Any
    progress: Any
    places: Any
    tokens: Any
    steps: Any
    materials: Any
    cohort: Any
    interrupted: Any
    called: Any
    callers: Any
    keyed: Any
    latest_of_thread: Any
    schedules: Any
    fingerprint: Any
    listening: Any
    roll: Any
    standing: Any
    close: Any

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self.batches: list[list[Operation]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.trouble = 0
        self.after = asyncio.Event()
        self.after.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, batch: Sequence[Operation], doubted: Doubted = go_on_asking) -> Committed:
        self.batches.append(list(batch))
        await self.go.wait()
        if self.trouble:
            self.trouble -= 1
            raise StoreTrouble("the database is locked")
        committed = await self._store.commit(batch, doubted)
        if any(isinstance(one, Settle) for one in batch):
            await self.after.wait()
        return committed


def landed(_: Committed) -> None:
    """Nobody waits."""


def new(name: str = "wf", lease: Lease | None = None) -> Create:
    entry = NewStep("start", "0" * 16, 1, 100, state=b"{}", lease=lease)
    return Create("f" * 16, "url", name, "hash", b"{}", entry)


async def test_what_arrives_while_the_writer_is_busy_joins_the_next_batch() -> None:
    async with a_world(workers=0) as world:
        store = Slowed(world.store)
        committer = Committer(store, landed)
        store.go.clear()
        first = asyncio.ensure_future(committer.commit(new()))
        await world.until(lambda: _count(store, 1))
        others = [asyncio.ensure_future(committer.commit(new())) for _ in range(50)]
        await asyncio.sleep(0)
        store.go.set()
        created = await asyncio.gather(first, *others)
        assert [len(batch) for batch in store.batches] == [1, 50]
        assert len({one.flow_id for one in created}) == 51


async def _count(store: Slowed, batches: int) -> bool:
    return len(store.batches) == batches


async def test_a_batch_has_at_most_1024_operations() -> None:
    async with a_world(workers=0) as world:
        store = Slowed(world.store)
        committer = Committer(store, landed)
        await asyncio.gather(*(committer.commit(new()) for _ in range(2_500)))
        assert max(len(batch) for batch in store.batches) == 1_024
        assert len(store.batches) == 3


async def test_commit_each_gives_every_operation_its_own_transaction() -> None:
    async with a_world(workers=0) as world:
        store = Slowed(world.store)
        committer = Committer(store, landed, commit_each=True)
        await asyncio.gather(*(committer.commit(new()) for _ in range(10)))
        assert [len(batch) for batch in store.batches] == [1] * 10


def outcome() -> Settle:
    """Of a step that there is none of: it lands nowhere."""
    return Settle(1, 1, 1, "completed", None)


@pytest.mark.parametrize(("running", "sizes"), [(0, [64, 64, 64, 8]), (150, [75, 75, 50]), (200, [100, 100])])
async def test_a_batch_takes_half_of_the_outcomes_of_what_is_under_way(running: int, sizes: list[int]) -> None:
    async with a_world(workers=0) as world:
        store = Slowed(world.store)
        committer = Committer(store, landed, running=lambda: running)
        operations: list[Any] = [outcome() for _ in range(200)]
        await asyncio.gather(*(committer.commit(one) for one in operations))
        assert [len(batch) for batch in store.batches] == sizes


async def test_while_the_database_writes_the_other_half_of_the_steps_runs() -> None:
    async with a_world(workers=0) as world:
        store = Slowed(world.store)
        slowed: Any = store
        async with _over(slowed) as halved:
            graph = Graph("line")
            graph.add_transition_chain("first", "second", "third", END)
            await halved.graph(graph, first=ok, second=ok, third=ok)
            keys = await asyncio.gather(*(halved.engine.create("line") for _ in range(200)))
            outcomes = await asyncio.gather(*map(halved.engine.wait, keys))
            assert {one.status for one in outcomes} == {"completed"}
            sizes = [sum(isinstance(one, Settle) for one in batch) for batch in store.batches]
            assert sum(sizes) == 600
            assert WORTHWHILE < max(sizes) <= 100


async def test_more_than_the_queue_holds_waits_for_room_and_lands() -> None:
    async with a_world(workers=0) as world:
        store = Slowed(world.store)
        committer = Committer(store, landed)
        results = await asyncio.gather(*(committer.commit(Recover()) for _ in range(20_000)))
        assert len(results) == 20_000


async def test_callers_and_waiters_go_on_only_after_the_commit() -> None:
    async with a_world(workers=0) as world:
        store = Slowed(world.store)
        slowed: Any = store
        engine_world = World(slowed)
        graph = Graph("line")
        graph.add_transition_chain("task", END)
        await engine_world.graph(graph, task=ok)
        worker = engine_world.work()
        await asyncio.sleep(0)
        key = await engine_world.engine.create("line")
        store.after.clear()
        waiting = asyncio.ensure_future(engine_world.engine.wait(key))
        await world.until(lambda: _ended(world))
        # The transaction is durable, and the writer has not been told yet.
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiting.done()
        store.after.set()
        assert (await waiting).status == "completed"
        await worker.drain()
        for task in engine_world._running:
            await asyncio.gather(task, return_exceptions=True)
        await engine_world.engine.close()


async def _ended(world: World) -> bool:
    return bool(await world.sql("SELECT 1 FROM mbactor_flow WHERE status = 'completed'"))


async def test_trouble_repeats_the_write_and_says_so() -> None:
    async with a_world(workers=0) as world:
        store = Slowed(world.store)
        store.trouble = 2
        with observe.observing(recorder := Recorder(asyncio.get_running_loop())):
            created = await Committer(store, landed).commit(new())
        assert created.flow_id == 1
        assert [event.name for event in recorder.events] == ["foreman.trouble", "foreman.trouble", "foreman.back"]
        assert recorder.events[-1].fields == {"shard": 1}


async def test_trouble_never_repeats_the_task() -> None:
    async with a_world(workers=0) as world:
        store = Slowed(world.store)
        slowed: Any = store
        async with _over(slowed) as troubled:
            graph = Graph("line")
            graph.add_transition_chain("task", END)

            def task(_: Flow) -> None:
                store.trouble = 2

            await troubled.graph(graph, task=task)
            assert (await troubled.run("line")).status == "completed"
            assert troubled.host.ran == ["task"]


class _over:  # noqa: N801 - reads as a word
    """A world over a store that another world owns."""

    def __init__(self, store: Any) -> None:
        self.world = World(store)

    async def __aenter__(self) -> World:
        self.world.work()
        await asyncio.sleep(0)
        return self.world

    async def __aexit__(self, *_: object) -> None:
        for dispatcher in self.world.dispatchers:
            await dispatcher.drain()
        await asyncio.gather(*self.world._running, return_exceptions=True)
        await self.world.engine.close()


async def test_what_can_never_be_written_fails_alone() -> None:
    async with a_world(workers=0) as world:
        committer = Committer(world.store, landed)
        poison = new(name="half a pair: \ud800")
        operations = [new() for _ in range(20)]
        results = await asyncio.gather(
            *(committer.commit(one) for one in (*operations[:7], poison, *operations[7:])), return_exceptions=True
        )
        assert [type(result) for result in results].count(Unstorable) == 1
        assert isinstance(results[7], Unstorable)
        assert "\ud800" not in str(results[7])
        assert await world.sql("SELECT count(*) FROM mbactor_flow") == [(20,)]


async def test_a_poison_outcome_fails_its_step_and_the_task_is_not_repeated() -> None:
    async with a_world() as world:
        graph = Graph("line")
        graph.add_transition_chain("task", "after", END)
        await world.graph(graph, task=lambda flow: flow.__setitem__("big", "x" * flow["size"]), after=ok)
        assert isinstance(world.store, SqliteStore)
        await run_in_driver(world.store._writer, lambda db: db.setlimit(0, 200_000))
        keys = [await world.engine.create("line", {"size": 300_000 if n == 5 else 10}) for n in range(10)]
        outcomes = [await world.engine.wait(key) for key in keys]
        assert [outcome.status for outcome in outcomes].count("completed") == 9
        assert outcomes[5].status == "failed"
        assert "refuses a value" in str(outcomes[5].failure)
        assert outcomes[5].state == {"size": 300_000}
        assert world.host.ran.count("task") == 10


async def test_an_operation_that_its_caller_gave_up_is_not_written() -> None:
    async with a_world(workers=0) as world:
        store = Slowed(world.store)
        committer = Committer(store, landed)
        store.go.clear()
        first = asyncio.ensure_future(committer.commit(new()))
        await world.until(lambda: _count(store, 1))
        second = asyncio.ensure_future(committer.commit(new()))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        store.go.set()
        await first
        await committer.close()
        assert await world.sql("SELECT count(*) FROM mbactor_flow") == [(1,)]


async def test_a_step_leased_for_a_caller_that_went_away_is_given_back_at_once() -> None:
    async with a_world(workers=0) as world:
        store = Slowed(world.store)
        committer = Committer(store, landed)
        store.go.clear()
        lost = asyncio.ensure_future(committer.commit(new(lease=Lease("gone", 10))))
        await world.until(lambda: _count(store, 1))
        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)
        store.go.set()
        await committer.commit(Recover())
        await committer.close()
        assert await world.sql("SELECT status, worker FROM mbactor_step") == [("pending", None)]


async def test_close_writes_what_was_handed_in_and_refuses_more() -> None:
    async with a_world(workers=0) as world:
        committer = Committer(world.store, landed)
        waiting = [asyncio.ensure_future(committer.commit(new())) for _ in range(5)]
        await asyncio.sleep(0)
        await committer.close()
        await committer.close()
        assert len([await one for one in waiting]) == 5
        with pytest.raises(Unavailable):
            await committer.commit(new())


async def test_a_writer_that_rests_goes_on_with_the_next_and_ends_at_close() -> None:
    async with a_world(workers=0) as world:
        before = asyncio.all_tasks()
        committer = Committer(world.store, landed)
        for _ in range(3):
            await committer.commit(new())
        assert [task.get_name() for task in asyncio.all_tasks() - before] == ["committer"]
        await committer.close()
        assert asyncio.all_tasks() == before
        unused = Committer(world.store, landed)
        await unused.close()


@pytest.mark.parametrize("ended", [True, False])
async def test_what_comes_after_or_as_the_resting_writer_is_cancelled_is_written(ended: bool) -> None:
    async with a_world(workers=0) as world:
        before = asyncio.all_tasks()
        committer = Committer(world.store, landed)
        await committer.commit(new())
        (writer,) = asyncio.all_tasks() - before
        writer.cancel()
        if ended:
            await asyncio.wait([writer])
        late = committer.commit(new())
        await committer.close()
        assert committer.batches == 2
        await late


async def test_a_store_that_breaks_leaves_nobody_waiting() -> None:
    class Broken:
        async def commit(self, batch: Sequence[Operation], doubted: Doubted = go_on_asking) -> Committed:
            raise AssertionError("a fault of the store")

    broken: Any = Broken()
    committer = Committer(broken, landed)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    results = await asyncio.gather(*(committer.commit(new()) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 3
    assert "a fault of the store" in str(results[0])


async def test_results_come_in_the_order_of_the_operations_whatever_their_kinds() -> None:
    async with a_world(workers=0) as world:
        committed = await world.store.commit([Recover(), new(), Recover(), new()])
        assert [type(result).__name__ for result in committed.results] == ["int", "Created", "int", "Created"]
        assert not any(isinstance(result, Changed) for result in committed.results)
