"""Watching: an actor is told once, before its other messages, when one that it watches has ended for good."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from mbactor import (
    Actor,
    ActorRef,
    ActorStopped,
    ActorSystem,
    Backoff,
    DynamicSupervisor,
    Exit,
    Supervisor,
    child,
    endpoint,
)


@pytest.fixture(
    autouse=True,
    params=[
        pytest.param("handed over", marks=pytest.mark.mbactor(serialize_local=False)),
        pytest.param("serialized", marks=pytest.mark.mbactor(serialize_local=True)),
    ],
)
def values(request: pytest.FixtureRequest) -> Any:
    """Each rule holds however values pass between actors."""
    return request.param


class Worker(Actor):
    """What is watched."""

    @endpoint
    async def crash(self) -> None:
        raise ValueError("boom")

    @endpoint
    async def end(self) -> None:
        self.stop()

    @endpoint
    async def id_(self) -> str:
        return self.id


class Boss(Actor):
    """Watches."""

    def __init__(self, diary: list[Any], from_start: ActorRef[Any] | None = None) -> None:
        self.diary = diary
        self.from_start = from_start

    async def on_start(self) -> None:
        if self.from_start is not None:
            self.watch(self.from_start)

    async def on_exit(self, ref: ActorRef[Any], exit: Exit) -> None:
        self.diary.append((ref.id, exit.kind))

    @endpoint
    async def see(self, ref: ActorRef[Any]) -> None:
        self.watch(ref)

    @endpoint
    async def look_away(self, ref: ActorRef[Any]) -> None:
        self.unwatch(ref)

    @endpoint
    async def stop_and_look_away(self, ref: ActorRef[Any]) -> None:
        await ref.stop()
        await asyncio.sleep(1)
        self.unwatch(ref)

    @endpoint
    async def note(self, what: int) -> int:
        self.diary.append(what)
        return what

    @endpoint
    async def work(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @endpoint
    async def crash(self) -> None:
        raise ValueError("boom")

    @endpoint
    async def watch_itself(self) -> None:
        self.watch(self.ref)


async def a_boss(system: ActorSystem) -> tuple[ActorRef[Boss], list[Any]]:
    diary: list[Any] = []
    return await system.spawn(Boss, diary), diary


async def soon() -> None:
    """Let everything that is ready run."""
    await asyncio.sleep(0.1)


async def test_an_actor_that_was_stopped_is_told_as_shutdown(mbactor: ActorSystem) -> None:
    boss, diary = await a_boss(mbactor)
    worker = await mbactor.spawn(Worker)
    await boss.ask(Boss.see, worker)
    await worker.stop()
    await soon()
    assert diary == [(worker.id, "shutdown")]


async def test_an_actor_that_was_killed_is_told_as_killed(mbactor: ActorSystem) -> None:
    boss, diary = await a_boss(mbactor)
    worker = await mbactor.spawn(Worker)
    await boss.ask(Boss.see, worker)
    await worker.kill()
    await soon()
    assert diary == [(worker.id, "killed")]


async def test_a_temporary_actor_that_crashed_is_told_as_failed(mbactor: ActorSystem) -> None:
    boss, diary = await a_boss(mbactor)
    worker = await mbactor.spawn(child(Worker, restart="temporary"))
    await boss.ask(Boss.see, worker)
    worker.tell(Worker.crash)
    await soon()
    assert diary == [(worker.id, "failed")]


async def test_a_transient_actor_that_ended_itself_is_told_as_normal(mbactor: ActorSystem) -> None:
    boss, diary = await a_boss(mbactor)
    worker = await mbactor.spawn(child(Worker, restart="transient"))
    await boss.ask(Boss.see, worker)
    await worker.ask(Worker.end)
    await soon()
    assert diary == [(worker.id, "normal")]


async def test_an_actor_whose_supervisor_gave_up_is_told(mbactor: ActorSystem) -> None:
    boss, diary = await a_boss(mbactor)

    class Bad(Worker):
        async def on_start(self) -> None:
            if type(self).broken:
                raise ValueError("broken")

        broken = False

    keeper = child(Bad, backoff=Backoff("100ms", "100ms"))
    supervisor = await mbactor.spawn(child(Supervisor, args={"children": [keeper]}, restart="temporary"))
    bad: ActorRef[Bad] = supervisor.which_children()[0].ref
    await boss.ask(Boss.see, bad)
    Bad.broken = True
    bad.tell(Worker.crash)
    await asyncio.sleep(60)
    assert diary == [(bad.id, "gave_up")]


async def test_an_actor_that_ended_before_is_told_at_once(mbactor: ActorSystem) -> None:
    boss, diary = await a_boss(mbactor)
    worker = await mbactor.spawn(Worker)
    await worker.stop()
    await boss.ask(Boss.see, worker)
    await soon()
    assert diary == [(worker.id, "shutdown")]


async def test_each_watcher_is_told_once(mbactor: ActorSystem) -> None:
    (boss, diary), (other, others) = await a_boss(mbactor), await a_boss(mbactor)
    worker = await mbactor.spawn(Worker)
    for _ in range(2):
        await boss.ask(Boss.see, worker)
        await other.ask(Boss.see, worker)
    await worker.stop()
    await soon()
    assert diary == others == [(worker.id, "shutdown")]


async def test_of_many_watched_actors_each_is_told_in_the_order_of_its_end(mbactor: ActorSystem) -> None:
    boss, diary = await a_boss(mbactor)
    workers = [await mbactor.spawn(Worker) for _ in range(5)]
    for worker in workers:
        await boss.ask(Boss.see, worker)
    for worker in reversed(workers):
        await worker.stop()
    await soon()
    assert diary == [(worker.id, "shutdown") for worker in reversed(workers)]


async def test_a_restart_of_a_watched_actor_is_not_told_and_its_end_is(mbactor: ActorSystem) -> None:
    boss, diary = await a_boss(mbactor)
    worker = await mbactor.spawn(Worker)
    await boss.ask(Boss.see, worker)
    before = await worker.ask(Worker.id_)
    worker.tell(Worker.crash)
    await asyncio.sleep(10)
    assert await worker.ask(Worker.id_) != before
    assert diary == []
    await worker.stop()
    await soon()
    assert diary == [(worker.id, "shutdown")]


async def test_a_watch_ends_with_the_incarnation_that_made_it(mbactor: ActorSystem) -> None:
    boss, diary = await a_boss(mbactor)
    worker = await mbactor.spawn(Worker)
    await boss.ask(Boss.see, worker)
    boss.tell(Boss.crash)
    await asyncio.sleep(10)
    assert await boss.ask(Boss.note, 1) == 1
    await worker.stop()
    await soon()
    assert diary == [1]


async def test_a_watcher_that_watches_in_on_start_watches_after_a_restart_too(mbactor: ActorSystem) -> None:
    diary: list[Any] = []
    worker = await mbactor.spawn(Worker)
    boss = await mbactor.spawn(Boss, diary, from_start=worker)
    boss.tell(Boss.crash)
    await asyncio.sleep(10)
    await worker.stop()
    await soon()
    assert diary == [(worker.id, "shutdown")]


async def test_one_who_looks_away_is_told_nothing(mbactor: ActorSystem) -> None:
    boss, diary = await a_boss(mbactor)
    other, others = await a_boss(mbactor)
    worker = await mbactor.spawn(Worker)
    await boss.ask(Boss.see, worker)
    await other.ask(Boss.see, worker)
    await boss.ask(Boss.look_away, worker)
    await worker.stop()
    await soon()
    assert diary == []
    assert others == [(worker.id, "shutdown")]


async def test_looking_away_takes_back_a_notice_that_waits(mbactor: ActorSystem) -> None:
    boss, diary = await a_boss(mbactor)
    worker = await mbactor.spawn(Worker)
    await boss.ask(Boss.see, worker)
    await boss.ask(Boss.stop_and_look_away, worker)
    await soon()
    assert diary == []
    await boss.ask(Boss.see, worker)
    await soon()
    assert diary == [(worker.id, "shutdown")]


async def test_looking_away_takes_back_the_notice_of_that_one_only(mbactor: ActorSystem) -> None:
    boss, diary = await a_boss(mbactor)
    workers = [await mbactor.spawn(Worker) for _ in range(3)]
    for worker in workers:
        await boss.ask(Boss.see, worker)
    boss.tell(Boss.note, 0)
    boss.tell(Boss.work, 5)
    await soon()
    for worker in (workers[2], workers[0]):
        await worker.stop()
    await boss.ask(Boss.stop_and_look_away, workers[1])
    await soon()
    assert diary == [0, (workers[2].id, "shutdown"), (workers[0].id, "shutdown")]


async def test_one_that_has_ended_and_is_watched_again_is_told_again(mbactor: ActorSystem) -> None:
    boss, diary = await a_boss(mbactor)
    worker = await mbactor.spawn(Worker)
    await boss.ask(Boss.see, worker)
    await worker.stop()
    for _ in range(2):
        await boss.ask(Boss.see, worker)
        await soon()
    assert diary == [(worker.id, "shutdown")] * 3


async def test_who_watches_many_that_end_keeps_none_of_them(mbactor: ActorSystem) -> None:
    boss, diary = await a_boss(mbactor)
    ended: list[weakref.ref[Any]] = []
    for _ in range(20):
        worker = await mbactor.spawn(Worker)
        await boss.ask(Boss.see, worker)
        await worker.stop()
        ended.append(weakref.ref(worker.cell))
        del worker
    await boss.ask(Boss.note, 0)
    await soon()
    gc.collect()
    assert len(diary) == 21
    assert sum(cell() is not None for cell in ended) <= 1  # the one the worker at rest has handled last


async def test_looking_away_from_what_was_never_watched_does_nothing(mbactor: ActorSystem) -> None:
    boss, diary = await a_boss(mbactor)
    worker = await mbactor.spawn(Worker)
    await boss.ask(Boss.look_away, worker)
    await worker.stop()
    await soon()
    assert diary == []


async def test_the_notice_comes_before_queued_messages(mbactor: ActorSystem) -> None:
    boss, diary = await a_boss(mbactor)
    worker = await mbactor.spawn(Worker)
    await boss.ask(Boss.see, worker)
    boss.tell(Boss.work, 5)
    for number in range(3):
        boss.tell(Boss.note, number)
    await soon()
    await worker.stop()
    await boss.ask(Boss.note, 3)
    assert diary == [(worker.id, "shutdown"), 0, 1, 2, 3]


async def test_a_notice_that_waits_when_its_watcher_restarts_is_not_for_the_next_incarnation(
    mbactor: ActorSystem,
) -> None:
    diary: list[Any] = []

    class Late(Boss):
        @endpoint
        async def crash_late(self) -> None:
            await asyncio.sleep(5)
            raise ValueError("boom")

    boss = await mbactor.spawn(Late, diary)
    worker = await mbactor.spawn(Worker)
    await boss.ask(Boss.see, worker)
    boss.tell(Late.crash_late)
    await soon()
    await worker.stop()
    await asyncio.sleep(20)
    await boss.ask(Boss.note, 1)
    assert diary == [1]


async def test_a_watch_of_the_next_incarnation_is_not_answered_by_a_notice_for_the_one_before(
    mbactor: ActorSystem,
) -> None:
    diary: list[Any] = []

    class Late(Boss):
        @endpoint
        async def crash_late(self) -> None:
            await asyncio.sleep(5)
            raise ValueError("boom")

    worker = await mbactor.spawn(Worker)
    boss = await mbactor.spawn(Late, diary, from_start=worker)
    boss.tell(Late.crash_late)
    await soon()
    await worker.stop()
    await asyncio.sleep(20)
    assert diary == [(worker.id, "shutdown")]


async def test_the_ref_in_a_notice_is_the_ended_actor(mbactor: ActorSystem) -> None:
    got: list[ActorRef[Any]] = []

    class Keeper(Actor):
        @endpoint
        async def see(self, ref: ActorRef[Any]) -> None:
            self.watch(ref)

        async def on_exit(self, ref: ActorRef[Any], exit: Exit) -> None:
            got.append(ref)

    keeper = await mbactor.spawn(Keeper)
    worker = await mbactor.spawn(Worker)
    await keeper.ask(Keeper.see, worker)
    await worker.stop()
    await soon()
    assert got == [worker]
    with pytest.raises(ActorStopped):
        await got[0].ask(Worker.id_)


async def test_an_actor_that_ends_is_told_nothing_of_its_own_end(mbactor: ActorSystem) -> None:
    boss, diary = await a_boss(mbactor)
    await boss.ask(Boss.watch_itself)
    await boss.stop()
    await soon()
    assert diary == []


async def test_children_of_a_dynamic_supervisor_are_watched_alike(mbactor: ActorSystem) -> None:
    boss, diary = await a_boss(mbactor)
    pool = await mbactor.spawn(DynamicSupervisor)
    worker = await pool.start_child(child(Worker, id="one", restart="temporary"))
    await boss.ask(Boss.see, worker)
    await pool.terminate_child("one")
    await soon()
    assert diary == [("one", "shutdown")]
