"""Endpoints in threads, and messages that come from threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from mbactor import (
    Actor,
    ActorCrashed,
    ActorRef,
    ActorStopped,
    ActorSystem,
    BudgetSpent,
    Deadlock,
    Mailbox,
    MbactorError,
    Supervisor,
    Unavailable,
    child,
    endpoint,
    offload,
)
from mbactor.kernel import worker
from mbactor.kernel.context import current
from mbactor.testing import Recorder
from mbactor.threads import Threads

pytestmark = pytest.mark.mbactor(real_time=True)
colour: ContextVar[str] = ContextVar("colour", default="none")


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


class Switch:
    """Lets threads wait for the test, and the test for them."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.left = threading.Event()
        self.said: list[Any] = []

    def hold(self) -> None:
        self.entered.set()
        assert self.go_on.wait(60)


@pytest.fixture
def switch() -> Iterator[Switch]:
    """No thread stays behind when its test ends."""
    switch = Switch()
    yield switch
    switch.go_on.set()
    if switch.entered.is_set():
        assert switch.left.wait(60)


class Counter(Actor):
    """Others ask it."""

    host = "counter.example"
    concurrency = 20

    def __init__(self) -> None:
        self.total = 0

    @endpoint
    async def add(self, by: int = 1) -> int:
        self.total += by
        return self.total

    @endpoint
    async def left(self) -> float:
        call = current.get()
        assert call is not None
        return call.deadline - asyncio.get_running_loop().time()

    @endpoint
    async def refuse(self) -> None:
        raise MbactorError("not today", status=418)


class Threaded(Actor):
    """Works in threads."""

    host = "threaded.example"

    def __init__(self, switch: Switch | None = None) -> None:
        self.switch = switch or Switch()

    @endpoint(thread=True)
    def name(self) -> str:
        return threading.current_thread().name

    @endpoint
    async def id_(self) -> str:
        return self.id

    @endpoint(thread=True)
    def hold(self) -> str:
        try:
            self.switch.hold()
        finally:
            self.switch.left.set()
        return "held"

    @endpoint(thread=True)
    def hold_and_ask(self) -> None:
        try:
            self.switch.hold()
            for send in (
                lambda: self.ask(Counter.add).result(),
                lambda: self.tell(Counter.add),
                lambda: self.id,
                lambda: self.ref.ask(Threaded.id_).result(),
            ):
                try:
                    self.switch.said.append(send())
                except Exception as error:  # noqa: BLE001 - whatever it is
                    self.switch.said.append(type(error))
        finally:
            self.switch.left.set()

    @endpoint(thread=True)
    def add(self, by: int = 1) -> int:
        return self.ask(Counter.add, by).result()

    @endpoint(thread=True)
    def add_by_ref(self, ref: ActorRef[Any], by: int) -> int:
        return int(ref.ask(Counter.add, by).result())

    @endpoint(thread=True)
    def add_many(self, times: int) -> list[int]:
        asked = [self.ask(Counter.add) for _ in range(times)]
        return sorted(one.result() for one in asked)

    @endpoint(thread=True)
    def left(self) -> float:
        return self.ask(Counter.left).result()

    @endpoint(thread=True)
    def tell_add(self, by: int) -> bool:
        return self.tell(Counter.add, by)

    @endpoint(thread=True)
    def refused(self) -> None:
        self.ask(Counter.refuse).result()

    @endpoint(thread=True)
    def answer_with_error(self) -> None:
        raise MbactorError("no", status=404, what="tea")

    @endpoint(thread=True)
    def crash(self) -> None:
        raise ValueError("boom")

    @endpoint(thread=True)
    def stop_iteration(self) -> None:
        raise StopIteration

    @endpoint(thread=True)
    def own_id(self) -> str:
        return self.id

    @endpoint(thread=True)
    def colour(self) -> str:
        return colour.get()

    @endpoint(thread=True)
    def awaits(self) -> str:
        try:
            self.ask(Counter.add).__await__()
        except RuntimeError as error:
            return str(error)
        return "could be awaited"


async def a_threaded(system: ActorSystem, switch: Switch | None = None) -> ActorRef[Threaded]:
    await system.spawn(Counter)
    return await system.spawn(Threaded, switch)


async def within(seconds: float, ask: Callable[[], Awaitable[Any]]) -> Any:
    with anyio.fail_after(seconds):
        return await ask()


async def overrun(switch: Switch, ask: Callable[[], Awaitable[Any]]) -> None:
    """Ask until the method was in its thread when its time was over: on a busy machine it may never get that far."""
    while not switch.entered.is_set():
        with pytest.raises(BudgetSpent) as error:
            await within(0.2, ask)
        assert error.value.status == 408


async def until(reached: Callable[[], object]) -> None:
    with anyio.fail_after(60):
        while not reached():
            await asyncio.sleep(0.005)


# --- methods in threads -----------------------------------------------------------------------------------------------


async def test_a_threaded_method_runs_in_a_named_thread_that_is_not_the_loops(mbactor: ActorSystem) -> None:
    threaded = await a_threaded(mbactor)
    name = await threaded.ask(Threaded.name)
    assert name != threading.current_thread().name
    assert name.startswith("mbactor")


async def test_other_actors_are_served_while_a_thread_works(mbactor: ActorSystem, switch: Switch) -> None:
    threaded = await a_threaded(mbactor, switch)
    held = asyncio.ensure_future(threaded.ask(Threaded.hold))
    await until(switch.entered.is_set)
    assert [await mbactor.ask(Counter.add) for _ in range(3)] == [1, 2, 3]
    switch.go_on.set()
    assert await held == "held"


async def test_the_actor_itself_serves_nobody_while_its_thread_works(mbactor: ActorSystem, switch: Switch) -> None:
    threaded = await a_threaded(mbactor, switch)
    held = asyncio.ensure_future(threaded.ask(Threaded.hold))
    await until(switch.entered.is_set)
    waiting = asyncio.ensure_future(threaded.ask(Threaded.id_))
    await mbactor.ask(Counter.add)
    assert not waiting.done()
    switch.go_on.set()
    await held
    assert await waiting


async def test_a_thread_waits_for_an_answer_by_result(mbactor: ActorSystem) -> None:
    threaded = await a_threaded(mbactor)
    assert await threaded.ask(Threaded.add, 5) == 5
    assert await threaded.ask(Threaded.add_many, 10) == list(range(6, 16))


async def test_a_thread_asks_through_a_ref(mbactor: ActorSystem) -> None:
    counter = await mbactor.spawn(Counter)
    threaded = await mbactor.spawn(Threaded)
    assert await threaded.ask(Threaded.add_by_ref, counter, 7) == 7


async def test_a_thread_tells(mbactor: ActorSystem) -> None:
    threaded = await a_threaded(mbactor)
    assert await threaded.ask(Threaded.tell_add, 5) is True
    assert await mbactor.ask(Counter.add, 0) == 5


async def test_the_time_budget_goes_along_through_a_thread(mbactor: ActorSystem) -> None:
    threaded = await a_threaded(mbactor)
    assert await within(3, lambda: threaded.ask(Threaded.left)) == pytest.approx(3, abs=0.5)


async def test_an_error_that_a_thread_was_answered_with_goes_on_to_the_asker(mbactor: ActorSystem) -> None:
    threaded = await a_threaded(mbactor)
    before = await threaded.ask(Threaded.id_)
    with pytest.raises(MbactorError) as error:
        await threaded.ask(Threaded.refused)
    assert error.value.status == 418
    assert await threaded.ask(Threaded.id_) == before


async def test_an_error_that_a_thread_answers_with_leaves_the_actor_as_it_is(mbactor: ActorSystem) -> None:
    threaded = await a_threaded(mbactor)
    before = await threaded.ask(Threaded.id_)
    with pytest.raises(MbactorError) as error:
        await threaded.ask(Threaded.answer_with_error)
    assert (error.value.status, error.value.fields) == (404, {"what": "tea"})
    assert await threaded.ask(Threaded.id_) == before


@pytest.mark.parametrize("how", [Threaded.crash, Threaded.stop_iteration])
async def test_an_exception_in_a_thread_is_a_crash(mbactor: ActorSystem, how: Any) -> None:
    threaded = await a_threaded(mbactor)
    before = await threaded.ask(Threaded.id_)
    with pytest.raises(ActorCrashed):
        await threaded.ask(how)
    assert await threaded.ask(Threaded.id_) != before


async def test_a_thread_has_the_identity_of_its_actor(mbactor: ActorSystem) -> None:
    threaded = await a_threaded(mbactor)
    assert await threaded.ask(Threaded.own_id) == await threaded.ask(Threaded.id_)


async def test_a_thread_has_the_context_variables_of_its_actors_start(mbactor: ActorSystem) -> None:
    class Painted(Threaded):
        async def on_start(self) -> None:
            colour.set("red")

    plain, painted = await mbactor.spawn(Threaded), await mbactor.spawn(Painted)
    colour.set("blue")  # whoever asks has its own
    here = await plain.ask(Threaded.colour)
    assert here == "none"
    assert await painted.ask(Threaded.colour) == here


async def test_to_await_an_answer_in_a_thread_says_what_to_do_instead(mbactor: ActorSystem) -> None:
    threaded = await a_threaded(mbactor)
    assert ".result()" in await threaded.ask(Threaded.awaits)


# --- threads that overrun ------------------------------------------------------------------------------------------------


async def test_the_asker_of_an_overrun_has_its_408_at_once_and_the_actor_stays_busy_until_the_thread_ends(
    mbactor: ActorSystem, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "GRACE", 60.0)  # a busy machine may take a second for what follows
    threaded = await a_threaded(mbactor, switch)
    before = await threaded.ask(Threaded.id_)
    await overrun(switch, lambda: threaded.ask(Threaded.hold))
    assert not switch.left.is_set()
    waiting = asyncio.ensure_future(threaded.ask(Threaded.id_))
    await mbactor.ask(Counter.add)
    assert not waiting.done()
    switch.go_on.set()
    assert await waiting == before
    assert switch.left.is_set()


async def test_a_thread_that_goes_on_for_longer_than_a_second_is_left_behind_and_the_next_incarnation_serves(
    mbactor: ActorSystem, switch: Switch, mbactor_recorder: Recorder
) -> None:
    threaded = await a_threaded(mbactor, switch)
    before = await threaded.ask(Threaded.id_)
    begun = time.monotonic()
    await overrun(switch, lambda: threaded.ask(Threaded.hold_and_ask))
    assert await threaded.ask(Threaded.id_) != before
    assert time.monotonic() - begun > 1.1
    assert not switch.left.is_set()
    switch.go_on.set()
    await until(switch.left.is_set)
    asked, told, own_id, asked_itself = switch.said
    assert asked is ActorStopped
    assert told is ActorStopped
    assert own_id is ActorStopped
    assert asked_itself is ActorStopped
    assert await mbactor.ask(Counter.add, 0) == 0
    assert [event.fields["told"] for event in mbactor_recorder.find("actor.crashed")] == [True]
    names = [event.name for event in mbactor_recorder.events]
    assert names.index("actor.abandoned") < names.index("actor.crashed"), "there is no second grace"


async def test_leaving_a_thread_behind_is_not_charged_to_the_restart_budget(
    mbactor: ActorSystem, switch: Switch
) -> None:
    specification = child(Threaded, args={"switch": switch})
    supervisor = await mbactor.spawn(Supervisor, max_restarts=0, children=[specification])
    threaded: ActorRef[Threaded] = supervisor.which_children()[0].ref
    before = await threaded.ask(Threaded.id_)
    await overrun(switch, lambda: threaded.ask(Threaded.hold))
    assert await threaded.ask(Threaded.id_) != before
    assert not switch.left.is_set()
    switch.go_on.set()
    await until(switch.left.is_set)


async def test_a_thread_that_was_left_behind_gives_its_place_to_another(
    mbactor: ActorSystem, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload, "_threads", Threads(1, "only"))
    threaded = await a_threaded(mbactor, switch)
    assert await threaded.ask(Threaded.name) == "only-1"
    await overrun(switch, lambda: threaded.ask(Threaded.hold))
    assert await threaded.ask(Threaded.name) == "only-2"
    assert not switch.left.is_set()
    assert mbactor.abandoned == 1


async def test_an_actor_that_is_stopped_leaves_a_thread_behind_that_does_not_end(
    mbactor: ActorSystem, switch: Switch
) -> None:
    threaded = await a_threaded(mbactor, switch)
    asked = asyncio.ensure_future(threaded.ask(Threaded.hold))
    await until(switch.entered.is_set)
    await threaded.kill()
    with pytest.raises(ActorCrashed):
        await asked
    assert not switch.left.is_set()
    with pytest.raises(ActorStopped):
        await threaded.ask(Threaded.id_)


# --- messages from other threads ----------------------------------------------------------------------------------------------


def in_threads(count: int, work: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


async def joined(threads: list[threading.Thread]) -> None:
    await until(lambda: not any(thread.is_alive() for thread in threads))


class Sum(Actor):
    """Serial, and idle until it is told."""

    def __init__(self) -> None:
        self.total = 0
        self.threads: set[str] = set()

    @endpoint
    async def add(self, by: int = 1) -> int:
        self.total += by
        self.threads.add(threading.current_thread().name)
        return self.total

    @endpoint
    async def seen(self) -> list[str]:
        return sorted(self.threads)


@pytest.mark.parametrize("warm", [False, True])
async def test_four_foreign_threads_wake_an_idle_actor_and_no_message_is_lost(mbactor: ActorSystem, warm: bool) -> None:
    ref = await mbactor.spawn(Sum)
    if warm:
        ref.tell(Sum.add, by=0)
        await ref.ask(Sum.add, 0)
    taken: list[bool] = []

    def work() -> None:
        taken.extend([ref.tell(Sum.add, by=1) for _ in range(200)])

    await joined(in_threads(4, work))
    assert len(taken) == 800
    await until(lambda: ref.statistics().depth == 0)
    assert await ref.ask(Sum.add, 0) == sum(taken)
    assert await ref.ask(Sum.seen) == [threading.current_thread().name]


async def test_in_a_storm_from_four_threads_each_message_is_handled_or_a_dead_letter(mbactor: ActorSystem) -> None:
    ref = await mbactor.spawn(child(Sum, mailbox=Mailbox(capacity=20)))
    ref.tell(Sum.add, by=0)
    await ref.ask(Sum.add, 0)
    taken: list[bool] = []

    def work() -> None:
        taken.extend([ref.tell(Sum.add, by=1) for _ in range(1000)])

    await joined(in_threads(4, work))
    await until(lambda: ref.statistics().depth == 0)
    assert await ref.ask(Sum.add, 0) == sum(taken)
    assert len(taken) == 4000
    assert mbactor.dead_letters.total == taken.count(False)
    assert ref.statistics().accepted == sum(taken) + 3


async def test_one_message_of_a_foreign_thread_wakes_an_actor_that_has_long_been_idle(mbactor: ActorSystem) -> None:
    loop = asyncio.get_running_loop()
    got: asyncio.Future[str] = loop.create_future()

    class Ears(Actor):
        @endpoint
        async def hear(self, what: str) -> None:
            loop.call_soon(got.set_result, what)

    ears = await mbactor.spawn(Ears)
    await asyncio.sleep(0.05)
    threads = in_threads(1, lambda: ears.tell(Ears.hear, what="knock"))
    assert await asyncio.wait_for(got, 60) == "knock"
    await joined(threads)


async def test_a_foreign_thread_asks_and_waits_by_result(mbactor: ActorSystem) -> None:
    ref = await mbactor.spawn(Sum)
    got: list[int] = []

    def work() -> None:
        got.extend([ref.ask(Sum.add, 1).result() for _ in range(25)])

    await joined(in_threads(4, work))
    assert sorted(got) == list(range(1, 101))


async def test_a_foreign_thread_is_answered_with_the_error_of_the_method(mbactor: ActorSystem) -> None:
    counter = await mbactor.spawn(Counter)
    got: list[Any] = []

    def work() -> None:
        try:
            counter.ask(Counter.refuse).result()
        except MbactorError as error:
            got.append(error.status)

    await joined(in_threads(1, work))
    assert got == [418]


class Caller(Actor):
    @endpoint(thread=True)
    def ask_itself(self) -> int:
        return self.ref.ask(Caller.one).result()

    @endpoint
    async def one(self) -> int:
        return 1


async def test_an_ask_from_a_thread_that_waits_for_its_own_actor_is_a_deadlock_at_once(mbactor: ActorSystem) -> None:
    caller = await mbactor.spawn(Caller)
    with pytest.raises(Deadlock, match=r"Caller\.ask_itself -> Caller\.one"):
        await caller.ask(Caller.ask_itself)
    assert await caller.ask(Caller.one) == 1


async def test_an_actor_belongs_to_its_loop_and_says_so_to_another(mbactor: ActorSystem) -> None:
    ref = await mbactor.spawn(Sum)
    sent: list[Callable[[], Any]] = [
        lambda: ref.ask(Sum.add),
        lambda: ref.tell(Sum.add),
        lambda: ref.tell_wait(Sum.add),
        ref.stop,
        ref.kill,
        lambda: mbactor.spawn(Sum),
    ]
    said: list[str] = []

    async def use() -> None:
        for send in sent:
            try:
                await send()
            except Unavailable as error:
                said.append(str(error))
        async with ActorSystem() as other:
            assert await (await other.spawn(Sum)).ask(Sum.add, 3) == 3
            said.append("its own system serves")

    await joined(in_threads(1, lambda: asyncio.run(use())))
    refused = "an actor system belongs to the event loop that started it, and this is another one"
    assert said == [refused] * len(sent) + ["its own system serves"]
    assert await ref.ask(Sum.add) == 1


async def test_a_foreign_thread_may_look_at_a_mailbox(mbactor: ActorSystem) -> None:
    ref = await mbactor.spawn(Sum)
    await ref.ask(Sum.add)
    seen: list[int] = []
    await joined(in_threads(1, lambda: seen.append(ref.statistics().accepted)))
    assert seen == [1]
