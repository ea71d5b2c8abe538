"""An ask that its own asker keeps from being answered fails at once; one that merely has to wait never does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import anyio
import pytest

from mbactor import (
    Actor,
    ActorCrashed,
    ActorRef,
    ActorSystem,
    BudgetSpent,
    Exit,
    Mailbox,
    MbactorError,
    child,
    endpoint,
)
from mbactor.errors import Deadlock
from mbactor.testing import Recorder
from tests.loops import LOOPS, run

BLINK = 0.2
"""Virtual seconds: much less than any time budget."""


def now() -> float:
    return asyncio.get_running_loop().time()


@contextmanager
def at_once(seconds: float = BLINK) -> Iterator[None]:
    began = now()
    yield
    assert now() - began <= seconds


def fails(cycle: str) -> Any:
    """The ask fails, and the message spells out the cycle: `A.go -> B.go -> A.go`."""
    return pytest.raises(
        Deadlock, match=f"^deadlock: {cycle.replace('.', '[.]').replace('(', '[(]').replace(')', '[)]')};"
    )


# --- actors that ask each other -----------------------------------------------------------------------------------------

Ask = Callable[[], Awaitable[Any]]
Way = Callable[[Actor, Ask], Awaitable[Any]]


class Link(Actor):
    """Asks along a path of names, and keeps what came of it."""

    heard: ClassVar[dict[str, list[Any]]] = {}

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.heard.setdefault(name, [])

    @endpoint
    async def go(self, path: list[str], way: str = "await", after: float = 0.0, then: float = 0.0) -> str:
        """`after` so many seconds ask the next, in a way; it does so `then` seconds later."""
        if after:
            await asyncio.sleep(after)
        if not path:
            return "end"
        try:
            answer: str = await WAYS[way](self, lambda: self.asks(path, then))
        except BaseException as error:
            self.heard[self.name].append(type(error).__name__)
            raise
        self.heard[self.name].append(answer)
        return answer

    def asks(self, path: list[str], after: float = 0.0) -> Any:
        return self.refs[path[0]].ask(Link.go, path[1:], after=after)

    @endpoint
    async def hold(self, seconds: float, path: list[str]) -> str:
        """As `go`, under another name."""
        return await self.go(path, after=seconds)


class A(Link): ...


class B(Link): ...


class C(Link): ...


CLASSES = {"a": A, "b": B, "c": C}


async def actors(system: ActorSystem, *names: str, classes: dict[str, type[Link]] = CLASSES) -> list[ActorRef[Any]]:
    """Actors of the classes A, B, C under the names a, b, c."""
    Link.heard.clear()
    refs: list[ActorRef[Any]] = []
    for name in names:
        ref: ActorRef[Any] = await system.spawn(child(classes[name], args={"name": name}, id=name))
        system.refs.register(name, ref)
        refs.append(ref)
    return refs


async def works_on(*refs: ActorRef[Any]) -> None:
    """They answer, at once."""
    with at_once():
        assert await asyncio.gather(*(ref.ask(Link.go, []) for ref in refs)) == ["end"] * len(refs)
        assert [ref.statistics().depth for ref in refs] == [0] * len(refs)


async def both(*asks: Awaitable[Any]) -> list[str]:
    """How they ended: answers, and the names of errors."""
    done = await asyncio.gather(*asks, return_exceptions=True)
    return [type(one).__name__ if isinstance(one, BaseException) else one for one in done]


# --- ways to wait for an ask --------------------------------------------------------------------------------------------


async def _gather(_: Actor, ask: Ask) -> Any:
    return (await asyncio.gather(ask(), asyncio.sleep(0)))[0]


async def _gather_errors(_: Actor, ask: Ask) -> Any:
    answer, _nothing = await asyncio.gather(ask(), asyncio.sleep(0), return_exceptions=True)
    return _raised(answer)


async def _awaited(ask: Ask) -> Any:
    return await ask()


async def _task(_: Actor, ask: Ask) -> Any:
    begun = asyncio.create_task(_awaited(ask))
    return await begun


async def _task_of_task(_: Actor, ask: Ask) -> Any:
    return await asyncio.create_task(_task(_, ask))


async def _task_group(_: Actor, ask: Ask) -> Any:
    try:
        async with asyncio.TaskGroup() as group:
            begun = group.create_task(_awaited(ask))
            group.create_task(asyncio.sleep(0))
        return begun.result()
    except BaseExceptionGroup as errors:
        raise _leaf(errors) from None


async def _anyio_group(_: Actor, ask: Ask) -> Any:
    answers = []

    async def keep() -> None:
        answers.append(await ask())

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(keep)
            group.start_soon(anyio.sleep, 0)
    except BaseExceptionGroup as errors:
        raise _leaf(errors) from None
    return answers[0]


async def _wait(_: Actor, ask: Ask) -> Any:
    asked = asyncio.ensure_future(ask())
    await asyncio.wait([asked, asyncio.create_task(asyncio.sleep(0))])
    return asked.result()


async def _wait_for_first_of_one(_: Actor, ask: Ask) -> Any:
    done, _none = await asyncio.wait([asyncio.ensure_future(ask())], return_when=asyncio.FIRST_COMPLETED)
    return done.pop().result()


async def _wait_for(_: Actor, ask: Ask) -> Any:
    return await asyncio.wait_for(ask(), 10)


async def _wait_for_task(_: Actor, ask: Ask) -> Any:
    return await asyncio.wait_for(_awaited(ask), 10)


async def _timeout(_: Actor, ask: Ask) -> Any:
    async with asyncio.timeout(10):
        return await ask()


async def _fail_after(_: Actor, ask: Ask) -> Any:
    with anyio.fail_after(10):
        return await ask()


async def _shield(_: Actor, ask: Ask) -> Any:
    return await asyncio.shield(ask())


async def _shielded_scope(_: Actor, ask: Ask) -> Any:
    with anyio.CancelScope(shield=True):
        return await ask()


async def _awaiting_quietly(ask: Ask) -> Any:
    """Background work whose error is no crash."""
    try:
        return await ask()
    except MbactorError as error:
        return _Failed(error)


class _Failed:
    def __init__(self, error: MbactorError) -> None:
        self.error = error


async def _spawned_and_awaited(actor: Actor, ask: Ask) -> Any:
    answer = await actor.spawn_task(_awaiting_quietly(ask))
    return _raised(answer.error if isinstance(answer, _Failed) else answer)


async def _all_together(actor: Actor, ask: Ask) -> Any:
    """Through one in another in a third."""
    inner = asyncio.shield(asyncio.create_task(_gather(actor, ask)))
    return await asyncio.create_task(_task_group(actor, lambda: asyncio.wait_for(inner, 10)))


async def _late(_: Actor, ask: Ask) -> Any:
    asked = ask()
    await asyncio.sleep(0.06)
    return await asked


async def _late_task(_: Actor, ask: Ask) -> Any:
    begun = asyncio.create_task(_awaited(ask))
    await asyncio.sleep(0.06)
    return await begun


async def _in_clean_up(_: Actor, ask: Ask) -> Any:
    try:
        await asyncio.sleep(0)
    finally:
        answer = await ask()
    return answer


async def _async_generator(_: Actor, ask: Ask) -> Any:
    async def answers() -> AsyncIterator[Any]:
        yield await ask()

    return [answer async for answer in answers()].pop()


def _raised(answer: Any) -> Any:
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _leaf(errors: BaseException) -> BaseException:
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return errors


WAITING: dict[str, Way] = {
    "await": lambda _, ask: ask(),
    "gather": _gather,
    "gather with errors": _gather_errors,
    "task": _task,
    "task of a task": _task_of_task,
    "TaskGroup": _task_group,
    "anyio task group": _anyio_group,
    "wait": _wait,
    "wait for the first of one": _wait_for_first_of_one,
    "wait_for": _wait_for,
    "wait_for a task": _wait_for_task,
    "timeout": _timeout,
    "fail_after": _fail_after,
    "shield": _shield,
    "shielded scope": _shielded_scope,
    "spawn_task": _spawned_and_awaited,
    "one in another": _all_together,
    "clean-up": _in_clean_up,
    "async generator": _async_generator,
}
LATE: dict[str, Way] = {"late": _late, "late task": _late_task}
WAYS: dict[str, Way] = {**WAITING, **LATE}


# --- at once ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serialized", [False, True], ids=["handed over", "serialized"])
@pytest.mark.parametrize("loop", LOOPS)
def test_deadlocks_fail_at_once_on_each_kind_of_loop(loop: str, serialized: bool) -> None:
    async def in_each_way() -> None:
        for way in (*WAITING, *LATE):
            async with asyncio.timeout(15), ActorSystem(serialize_local=serialized) as system:  # an ask has 20 s
                refs = await actors(system, "a", "b")
                with pytest.raises(Deadlock, match="A.go -> .*B.go -> A.go"):
                    await refs[0].ask(Link.go, ["b", "a"], way)
                crossing = await both(refs[0].ask(Link.go, ["b"], way), refs[1].ask(Link.go, ["a"], way))
                assert "end" in crossing
                assert await both(*(ref.ask(Link.go, []) for ref in refs)) == ["end"] * 2

    run(in_each_way(), LOOPS[loop])


class Ways(Link):
    host = "ways.example"

    @endpoint
    async def by_class(self) -> Any:
        return await self.ask(Ways.go, [])

    @endpoint
    async def by_host(self) -> Any:
        return await self.at("ways.example").ask(Ways.go, [])

    @endpoint
    async def by_ref(self) -> Any:
        return await self.ref.ask(Ways.go, [])

    @endpoint
    async def by_address(self) -> Any:
        return (await self.request("POST", "https://ways.example/go", {"path": []})).json()


@pytest.mark.parametrize("operation", [Ways.by_class, Ways.by_host, Ways.by_ref, Ways.by_address], ids=repr)
async def test_however_an_ask_is_addressed_it_fails_at_once(mbactor: ActorSystem, operation: Any) -> None:
    ref = await mbactor.spawn(Ways)
    with at_once(), fails(f"Ways.{operation.feature.name} -> Ways.go"):
        await ref.ask(operation)
    await works_on(ref)


async def test_a_message_that_nobody_asked_for_is_told_of_its_deadlock(mbactor: ActorSystem) -> None:
    refs = await actors(mbactor, "a", "b")
    refs[0].tell(Link.go, ["b", "a"])
    await asyncio.sleep(BLINK)
    assert Link.heard == {"a": ["Deadlock"], "b": ["Deadlock"]}
    await works_on(*refs)


class Timed(Link):
    @endpoint
    async def begin(self) -> None:
        self.send_after(1, Timed.go, ["b", "a"])


async def test_a_message_of_a_timer_is_told_of_its_deadlock(mbactor: ActorSystem) -> None:
    refs = await actors(mbactor, "a", "b", classes={"a": Timed, "b": B})
    await refs[0].ask(Timed.begin)
    await asyncio.sleep(1 + BLINK)
    assert Link.heard == {"a": ["Deadlock"], "b": ["Deadlock"]}


class Clinging(Link):
    """Goes on when it is cancelled at its deadline, and asks itself."""

    @endpoint
    async def cling(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask())

    async def _ask(self) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.heard[self.name].append(await _or_error(self.asks(["a"])))


async def test_a_group_that_is_cancelled_again_and_again_waits_all_the_same(mbactor: ActorSystem) -> None:
    [ref] = await actors(mbactor, "a", classes={"a": Clinging})
    with at_once(1 + BLINK), pytest.raises(TimeoutError):
        with anyio.fail_after(1):
            await ref.ask(Clinging.cling)
    await asyncio.sleep(BLINK)
    assert Link.heard["a"] == ["Deadlock"]
    await works_on(ref)


# --- calls that cross ------------------------------------------------------------------------------------------------------


async def test_a_late_wait_that_closes_a_cycle_of_crossing_calls_is_found(mbactor: ActorSystem) -> None:
    refs = await actors(mbactor, "a", "b")
    late = asyncio.ensure_future(refs[0].ask(Link.go, ["b"], "late"))
    other = asyncio.ensure_future(refs[1].ask(Link.go, ["a"]))
    with at_once(0.06 + BLINK):
        assert sorted(await both(late, other)) == ["Deadlock", "end"]
    await works_on(*refs)


async def test_a_hundred_askers_of_a_pair_in_a_cycle_are_all_answered(mbactor: ActorSystem) -> None:
    refs = await actors(mbactor, "a", "b")
    with at_once():
        asks = [ref.ask(Link.go, path) for _ in range(50) for ref, path in ((refs[0], ["b"]), (refs[1], ["a"]))]
        ended = await both(*asks)
    assert set(ended) <= {"end", "Deadlock"}
    assert ended.count("end") >= 50
    await works_on(*refs)


# --- hooks -----------------------------------------------------------------------------------------------------------------


class Starting(Link):
    """Asks along a path while it starts, and while it stops."""

    def __init__(self, name: str, start: list[str] | None = None, stop: list[str] | None = None) -> None:
        super().__init__(name)
        self.start, self.end = start, stop

    async def on_start(self) -> None:
        self.refs.register(self.name, self.ref)
        if self.start is not None:
            await self.heard_of(self.start)

    async def on_stop(self, exit: Exit) -> None:
        if self.end is not None:
            await self.heard_of(self.end)

    async def heard_of(self, path: list[str]) -> None:
        try:
            self.heard[self.name].append(await self.asks(path))
        except MbactorError as error:
            self.heard[self.name].append(str(error).partition(";")[0])


class StartingCrowd(Starting):
    concurrency = 8


class StartingReentrant(Starting):
    reentrant = True


class StartingHeedlessly(Starting):
    async def heard_of(self, path: list[str]) -> None:
        await self.asks(path)


@pytest.mark.parametrize("cls", [Starting, StartingCrowd, StartingReentrant])
@pytest.mark.parametrize(
    ("path", "cycle"),
    [(["s"], "{}.on_start -> {}.go"), (["b", "s"], "{}.on_start -> B.go -> {}.go")],
    ids=["itself", "through another"],
)
async def test_an_ask_from_on_start_that_comes_back_fails_at_once(
    mbactor: ActorSystem, cls: type[Starting], path: list[str], cycle: str
) -> None:
    refs = await actors(mbactor, "b")
    with at_once():
        starting = await mbactor.spawn(cls, "s", start=path)
    assert Link.heard["s"] == ["deadlock: " + cycle.replace("{}", cls.__name__)]
    await works_on(starting, *refs)


@pytest.mark.parametrize("path", [["s"], ["b", "s"]])
async def test_a_start_that_deadlocks_has_failed(mbactor: ActorSystem, path: list[str]) -> None:
    refs = await actors(mbactor, "b")
    with at_once(), pytest.raises(MbactorError, match="deadlock: StartingHeedlessly.on_start -> "):
        await mbactor.spawn(StartingHeedlessly, "s", start=path)
    await works_on(*refs)


@pytest.mark.parametrize("cls", [Starting, StartingCrowd, StartingReentrant])
@pytest.mark.parametrize(
    ("path", "cycle"),
    [(["s"], "{}.on_stop -> {}.go"), (["b", "s"], "{}.on_stop -> B.go -> {}.go")],
    ids=["itself", "through another"],
)
async def test_an_ask_from_on_stop_that_comes_back_fails_at_once(
    mbactor: ActorSystem, cls: type[Starting], path: list[str], cycle: str
) -> None:
    refs = await actors(mbactor, "b")
    starting = await mbactor.spawn(cls, "s", stop=path)
    with at_once():
        await starting.stop()
    assert Link.heard["s"] == ["deadlock: " + cycle.replace("{}", cls.__name__)]
    await works_on(*refs)


async def test_a_deadlock_in_on_stop_is_reported(mbactor: ActorSystem, mbactor_recorder: Recorder) -> None:
    starting = await mbactor.spawn(StartingHeedlessly, "s", stop=["s"])
    with at_once():
        await starting.stop()
    event = await mbactor_recorder.wait_for("actor.stop_failed")
    assert isinstance(event.fields["error"], Deadlock)


async def test_an_ask_to_a_starting_actor_waits_for_its_start_and_is_no_deadlock(mbactor: ActorSystem) -> None:
    """Another actor that starts asks one that asks nobody: each is answered in its turn."""
    refs = await actors(mbactor, "a", "b")
    with at_once():
        starting = await mbactor.spawn(Starting, "s", start=["a", "b"])
    assert Link.heard["s"] == ["end"]
    await works_on(starting, *refs)


# --- keys ------------------------------------------------------------------------------------------------------------------


class Keyed(Link):
    """Places orders, each with those that have to be placed while it is."""

    @endpoint(concurrency=8, key="order")
    async def place(self, order: str, others: list[str], after: float = 0.0) -> str:
        await asyncio.sleep(after)
        return await self.ref.ask(Keyed.place, others[0], others[1:]) if others else "placed"


class ReentrantKeyed(Keyed):
    reentrant = True


async def test_an_ask_that_stands_behind_its_own_key_fails_at_once(mbactor: ActorSystem) -> None:
    [ref] = await actors(mbactor, "a", classes={"a": Keyed})
    with at_once():
        bystanders = [ref.ask(Keyed.place, order, []) for order in "abc"]
        with fails("Keyed.place -> Keyed.place"):
            await ref.ask(Keyed.place, "a", ["a"])
        with fails("Keyed.place -> Keyed.place -> Keyed.place"):
            await ref.ask(Keyed.place, "a", ["b", "a"])
        assert await ref.ask(Keyed.place, "a", ["b", "c"]) == "placed"
        assert await both(*bystanders) == ["placed"] * 3
    await works_on(ref)


async def test_of_two_keys_that_wait_for_each_other_one_fails(mbactor: ActorSystem) -> None:
    [ref] = await actors(mbactor, "a", classes={"a": Keyed})
    with at_once(0.1 + BLINK):
        crossing = (ref.ask(Keyed.place, one, [other], after=0.1) for one, other in ("ab", "ba"))
        assert sorted(await both(*crossing)) == ["Deadlock", "placed"]


async def test_a_key_that_is_merely_in_flight_is_waited_for(mbactor: ActorSystem) -> None:
    [ref] = await actors(mbactor, "a", classes={"a": Keyed})
    with at_once(1 + BLINK):
        asks = (ref.ask(Keyed.place, "a", [], after=1), ref.ask(Keyed.place, "b", ["a"], after=0.1))
        assert await both(*asks) == ["placed", "placed"]


async def test_an_ask_behind_a_key_runs_inside_where_its_actor_is_reentrant(mbactor: ActorSystem) -> None:
    [ref] = await actors(mbactor, "a", classes={"a": ReentrantKeyed})
    with at_once():
        assert await ref.ask(Keyed.place, "a", ["a", "b", "a"]) == "placed"
        assert await both(*(ref.ask(Keyed.place, "a", []) for _ in range(3))) == ["placed"] * 3


# --- a path that merely passed through -----------------------------------------------------------------------------------


async def _first_error_of_two(_: Actor, ask: Ask) -> Any:
    asked = asyncio.ensure_future(ask())
    await asyncio.wait([asked, asyncio.create_task(_fails_soon())], return_when=asyncio.FIRST_EXCEPTION)
    assert not asked.done()
    return "went on"


async def _fails_soon() -> None:
    await asyncio.sleep(0.5)
    raise ValueError


async def _shield_given_up(_: Actor, ask: Ask) -> Any:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(ask()), 0.1)
    await asyncio.sleep(1)
    return "went on"


async def _as_completed(_: Actor, ask: Ask) -> Any:
    for first in asyncio.as_completed([ask(), asyncio.sleep(0.5)]):
        await first
        break
    return "went on"


PASSING: dict[str, Way] = {
    "the first error of two": _first_error_of_two,
    "a shield given up": _shield_given_up,
    "as_completed": _as_completed,
}
WAYS.update(PASSING)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("way", PASSING)
async def test_a_call_that_goes_on_without_its_ask_is_waited_for(mbactor: ActorSystem, way: str) -> None:
    """B asks A, which does not wait for B: B has its answer when A has gone on and ended."""
    refs = await actors(mbactor, "a", "b")
    later = 0.2 if way == "a shield given up" else 0.0
    began = now()
    assert (await refs[0].ask(Link.go, ["b", "a"], way, then=later)).startswith("went on")
    assert now() - began >= 0.49
    with at_once():
        while "b" not in Link.heard or not Link.heard["b"]:
            await asyncio.sleep(0.01)
    assert Link.heard["b"] == ["end"]
    await works_on(*refs)


class Cautious(Link):
    @endpoint
    async def answer_first(self, path: list[str]) -> str:
        """Asks in the background, and answers without waiting for that."""
        self.spawn_task(self.go(path))
        return "answered"

    @endpoint
    async def ask_cautious(self) -> str:
        answer: str = await self.refs["b"].ask(Cautious.answer_first, ["a"])
        await asyncio.sleep(0.5)
        return answer


async def test_background_work_of_who_is_waited_for_is_not_waited_for(mbactor: ActorSystem) -> None:
    refs = await actors(mbactor, "a", "b", classes={"a": Cautious, "b": Cautious})
    assert await refs[0].ask(Cautious.ask_cautious) == "answered"
    await asyncio.sleep(BLINK)
    assert Link.heard["b"] == ["end"]


# --- what is left to the time budget ----------------------------------------------------------------------------------------


class Signal(Link):
    @endpoint
    async def wait_for_another(self) -> str:
        """Waits for something that a task does which nobody can know of."""
        heard: asyncio.Queue[str] = asyncio.Queue()

        async def ask() -> None:
            heard.put_nowait(await _or_error(self.asks(["b", "a"])))

        kept = asyncio.create_task(ask())
        answer = await heard.get()
        await kept
        return answer


async def _or_error(ask: Awaitable[str]) -> str:
    try:
        return await ask
    except MbactorError as error:
        return type(error).__name__


async def test_what_waits_in_a_way_that_asyncio_does_not_show_ends_with_the_time_budget(mbactor: ActorSystem) -> None:
    refs = await actors(mbactor, "a", "b", classes={"a": Signal, "b": B})
    began = now()
    with pytest.raises(BudgetSpent):
        await refs[0].ask(Signal.wait_for_another)
    assert now() - began == pytest.approx(20, abs=0.1)
    await works_on(*refs)


class Pool(Link):
    concurrency = 2


async def test_two_that_take_all_places_of_an_actor_and_want_a_third_end_with_the_time_budget(
    mbactor: ActorSystem,
) -> None:
    refs = await actors(mbactor, "a", "b", "c", classes={**CLASSES, "a": Pool})
    began = now()
    ended = await both(refs[0].ask(Link.go, ["b", "a"], then=0.1), refs[0].ask(Link.go, ["c", "a"], then=0.1))
    assert "BudgetSpent" in ended
    assert now() - began == pytest.approx(20, abs=0.1)
    await works_on(*refs)


class ReentrantPool(Pool):
    reentrant = True


async def test_a_reentrant_actor_all_of_whose_places_are_taken_admits_what_those_wait_for(mbactor: ActorSystem) -> None:
    refs = await actors(mbactor, "a", "b", "c", classes={**CLASSES, "a": ReentrantPool})
    began = now()
    ended = await both(refs[0].ask(Link.go, ["b", "a"], then=0.1), refs[0].ask(Link.go, ["c", "a"], then=0.1))
    assert not any("BudgetSpent" in one or "Deadlock" in one for one in ended), ended
    await refs[0].ask(Link.go, ["a"] * 12)
    assert now() - began < 1
    await works_on(*refs)


class Crowd(Actor):
    """Asks itself for more than it has places for, and goes on without the answers."""

    concurrency = 2
    reentrant = True

    def __init__(self) -> None:
        self.running = self.most = 0

    @endpoint
    async def work(self, others: int = 0) -> int:
        self.running += 1
        self.most = max(self.most, self.running)
        asked = [asyncio.ensure_future(self.ref.ask(Crowd.work)) for _ in range(others)]
        await asyncio.sleep(1)
        self.running -= 1
        return len(asked)

    @endpoint
    async def crowded(self) -> int:
        return self.most


async def test_a_reentrant_actor_admits_beyond_its_places_only_what_is_waited_for(mbactor: ActorSystem) -> None:
    crowd = await mbactor.spawn(Crowd)
    await crowd.ask(Crowd.work, 10)
    await asyncio.sleep(10)
    assert await crowd.ask(Crowd.crowded) == 2


# --- reentrant ---------------------------------------------------------------------------------------------------------------


class Fragile(Link):
    reentrant = True

    @endpoint
    async def boom(self) -> None:
        raise ValueError("boom")

    @endpoint
    async def incarnation(self) -> str:
        return self.id


class Provoking(Link):
    @endpoint
    async def go(self, path: list[str], way: str = "await", after: float = 0.0, then: float = 0.0) -> str:
        if path:
            await self.refs[path[0]].ask(Fragile.boom)
        return "end"


async def test_a_crash_of_an_admitted_call_is_a_crash_of_its_actor(mbactor: ActorSystem) -> None:
    refs = await actors(mbactor, "a", "b", classes={"a": Fragile, "b": Provoking})
    before = await refs[0].ask(Fragile.incarnation)
    with at_once(1), pytest.raises(ActorCrashed):
        await refs[0].ask(Link.go, ["b", "a"])
    assert await refs[0].ask(Fragile.incarnation) != before


class Stashing(Link):
    """Keeps what it is asked while it is not ready."""

    reentrant = True
    ready = False

    @endpoint
    async def keep(self) -> str:
        if not self.ready:
            self.stash()
        return "kept"

    @endpoint
    async def release(self, path: list[str]) -> str:
        answer = await self.go(path)
        self.ready = True
        self.unstash_all()
        return answer


class Keeping(Link):
    @endpoint
    async def ask_stashing(self) -> str:
        answer: str = await self.refs["b"].ask(Stashing.keep)
        return answer


async def test_an_ask_in_a_stash_that_its_asker_keeps_there_is_a_deadlock(mbactor: ActorSystem) -> None:
    """A waits for what B has stashed; what would have B take it out again waits for A."""
    refs = await actors(mbactor, "a", "b", classes={"a": Keeping, "b": Stashing})
    stashed = asyncio.ensure_future(refs[0].ask(Keeping.ask_stashing))
    await asyncio.sleep(1)
    with (
        at_once(),
        pytest.raises(Deadlock, match="Keeping.ask_stashing -> Stashing.keep.*Stashing.release.*Keeping.go"),
    ):
        await refs[1].ask(Stashing.release, ["a"])
    assert not stashed.done()
    assert await refs[1].ask(Stashing.release, []) == "end"
    assert await stashed == "kept"


# --- cost ---------------------------------------------------------------------------------------------------------------------


class Philosopher(Actor):
    def __init__(self, seat: int, table: int) -> None:
        self.neighbour = str((seat + 1) % table)

    @endpoint
    async def eat(self) -> str:
        await asyncio.sleep(0.1)
        answer: str = await self.refs[self.neighbour].ask(Philosopher.fork)
        return answer

    @endpoint
    async def fork(self) -> str:
        return "fork"


async def test_of_a_thousand_that_wait_for_each_other_in_a_ring_one_fails(mbactor: ActorSystem) -> None:
    refs = [await mbactor.spawn(Philosopher, seat, 1000) for seat in range(1000)]
    for seat, ref in enumerate(refs):
        mbactor.refs.register(str(seat), ref)
    with at_once(0.1 + BLINK):
        ended = await both(*(ref.ask(Philosopher.eat) for ref in refs))
    assert sorted(ended) == ["Deadlock", *["fork"] * 999]


class Hub(Actor):
    """Many ask it while it is busy; or it asks many, which ask it back."""

    def __init__(self) -> None:
        self.spokes: list[ActorRef[Spoke]] = []

    @endpoint
    async def spawned(self, spokes: list[ActorRef[Any]]) -> None:
        self.spokes = spokes

    @endpoint
    async def busy(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @endpoint
    async def ask_each(self) -> list[str]:
        hub: ActorRef[Any] = self.ref
        return await asyncio.gather(*(spoke.ask(Spoke.ask_hub, hub) for spoke in self.spokes))

    @endpoint
    async def ping(self) -> str:
        return "pong"


class Spoke(Actor):
    @endpoint
    async def ask_hub(self, hub: ActorRef[Hub]) -> str:
        return await _or_error(hub.ask(Hub.ping))


async def _busy_hub(hub: ActorRef[Hub], spokes: list[ActorRef[Spoke]]) -> list[str]:
    hub.tell(Hub.busy, 1)
    return await asyncio.gather(*(spoke.ask(Spoke.ask_hub, hub) for spoke in spokes))


async def _asking_hub(hub: ActorRef[Hub], spokes: list[ActorRef[Spoke]]) -> list[str]:
    await hub.ask(Hub.spawned, spokes)
    return await hub.ask(Hub.ask_each)


@pytest.mark.parametrize(("load", "answer"), [(_busy_hub, "pong"), (_asking_hub, "Deadlock")])
async def test_a_suspicion_costs_each_of_a_thousand_askers_what_it_costs_each_of_a_hundred(
    mbactor: ActorSystem, load: Any, answer: str
) -> None:
    hub = await mbactor.spawn(child(Hub, mailbox=Mailbox(capacity=2000)))
    spokes = [await mbactor.spawn(Spoke) for _ in range(1000)]

    async def cost(count: int) -> float:
        """Seconds of the loop's own time."""
        began = time.thread_time()
        assert await load(hub, spokes[:count]) == [answer] * count
        return time.thread_time() - began

    await cost(100)
    few = min([await cost(100) for _ in range(3)])
    many = min([await cost(1000) for _ in range(2)])
    assert many < 100 * few
    assert many < 1
