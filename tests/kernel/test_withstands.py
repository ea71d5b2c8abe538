"""What a hostile but legitimate user does to the runtime, and what it makes of that."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from mbactor import Actor, ActorSystem, BudgetSpent, Mailbox, endpoint, offload
from mbactor.errors import DeclarationError, MbactorError, Unavailable
from mbactor.kernel.ref import ActorRef
from mbactor.kernel.routes import routes_of
from mbactor.threads import Threads

PATIENCE = 60.0


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition, in real time."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it did not come true"
        await asyncio.sleep(0.001)


class Quiet(Actor):
    """Counts how often it was told that nothing came."""

    def __init__(self, after: float) -> None:
        self.after = after
        self.rung = 0

    async def on_start(self) -> None:
        self.set_receive_timeout(self.after)

    async def on_receive_timeout(self) -> None:
        self.rung += 1

    @endpoint
    async def often(self) -> int:
        return self.rung

    @endpoint(concurrency=4)
    async def beside(self, seconds: float) -> None:
        await self.sleep(seconds)


@pytest.mark.parametrize("after", [0.0, 1.0])
async def test_a_receive_timeout_rings_once_until_another_message_was_handled(
    mbactor: ActorSystem, after: float
) -> None:
    quiet = await mbactor.spawn(Quiet, after)
    await asyncio.sleep(60)
    assert await quiet.ask(Quiet.often) == 1
    await asyncio.sleep(60)
    assert await quiet.ask(Quiet.often) == 2


async def test_a_receive_timeout_that_is_set_when_it_rings_rings_again(mbactor: ActorSystem) -> None:
    class Insistent(Quiet):
        async def on_receive_timeout(self) -> None:
            self.rung += 1
            self.set_receive_timeout(self.after)

    insistent = await mbactor.spawn(Insistent, 1.0)
    await asyncio.sleep(10.5)
    assert await insistent.ask(Insistent.often) == 10


async def test_a_receive_timeout_does_not_ring_while_an_endpoint_with_a_queue_of_its_own_is_at_work(
    mbactor: ActorSystem,
) -> None:
    quiet = await mbactor.spawn(Quiet, 1.0)
    await quiet.ask(Quiet.beside, 10)
    assert await quiet.ask(Quiet.often) == 0


class Ticking(Actor):
    def __init__(self) -> None:
        self.ticks = 0

    @endpoint
    async def begin(self, period: float) -> None:
        self.send_every(period, Ticking.tick)

    @endpoint
    async def tick(self) -> None:
        self.ticks += 1

    @endpoint
    async def count(self) -> int:
        return self.ticks


@pytest.mark.mbactor(real_time=True)
@pytest.mark.parametrize("period", [5e-324, 1e-300, 1e-16, 1e-6])
async def test_a_timer_of_a_period_below_the_clocks_resolution_goes_on(mbactor: ActorSystem, period: float) -> None:
    ticking = await mbactor.spawn(Ticking)
    await ticking.ask(Ticking.begin, period)
    with anyio.fail_after(PATIENCE):
        while await ticking.ask(Ticking.count) < 5:
            await asyncio.sleep(0)


class Stuck(Actor):
    """Its method has a thread until the event is set."""

    def __init__(self, number: int) -> None:
        self.number = number

    @endpoint(thread=True)
    def wait(self) -> None:
        LET_GO.wait(6 * PATIENCE)

    @endpoint(thread=True)
    def answer(self) -> int:
        return 42


LET_GO = threading.Event()


@pytest.mark.mbactor(real_time=True)
async def test_methods_whose_threads_never_end_keep_no_other_actor_from_having_a_thread(
    mbactor: ActorSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload, "_threads", Threads(2, "few"))
    LET_GO.clear()
    stuck = [await mbactor.spawn(Stuck, number) for number in range(2)]

    async def overrun(ref: ActorRef[Stuck]) -> None:
        with pytest.raises(BudgetSpent), anyio.fail_after(0.05):
            await ref.ask(Stuck.wait)

    try:
        await asyncio.gather(*map(overrun, stuck))
        other = await mbactor.spawn(Stuck, 2)
        with anyio.fail_after(PATIENCE):
            assert await other.ask(Stuck.answer) == 42
    finally:
        LET_GO.set()


@pytest.mark.mbactor(real_time=True)
async def test_an_ask_of_a_thread_fails_as_unavailable_once_the_system_was_stopped(mbactor_loop: Any) -> None:
    async with ActorSystem() as system:
        ref = await system.spawn(Ticking)

    def ask() -> list[MbactorError | None]:
        answers: list[Any] = [ref.ask(Ticking.count), ref.tell_wait(Ticking.tick)]
        return [answer.exception(0) for answer in answers]

    errors = await asyncio.to_thread(ask)
    assert [type(error) for error in errors] == [Unavailable, Unavailable]


class Sink(Actor):
    mailbox = Mailbox(1_000_000)

    @endpoint
    async def take(self, number: int) -> None: ...


@pytest.mark.mbactor(real_time=True)
async def test_what_a_thread_puts_into_a_mailbox_that_has_just_ended_becomes_a_dead_letter(mbactor_loop: Any) -> None:
    async with ActorSystem() as system:
        sink = await system.spawn(Sink)
        await sink.ask(Sink.take, 0)
        way = sink.cell.ways[Sink.take]
        held, ended = threading.Event(), threading.Event()

        def now() -> float:
            if threading.get_ident() != system.node.thread:  # it is about to be put there: the actor ends meanwhile
                held.set()
                ended.wait(PATIENCE)
            return system.node.time()

        way.time = now
        telling = asyncio.create_task(asyncio.to_thread(lambda: sink.tell(Sink.take, number=1)))
        await until(held.is_set)
        await sink.kill()
        ended.set()
        assert await telling
        await until(lambda: len(system.dead_letters) == 1)


def test_an_endpoint_called_host_is_refused_by_name() -> None:
    async def host(self: Any) -> None: ...

    hosting = type("Hosting", (Actor,), {"host": endpoint(host)})
    with pytest.raises(DeclarationError, match=r"Hosting\.host"):
        routes_of(hosting)
