"""The time budget of an ask: where it comes from, what limits it, and what happens when it is spent."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from mbactor import Actor, ActorRef, ActorSystem, BudgetSpent, DeclarationError, endpoint
from mbactor.kernel import budget
from mbactor.kernel.context import current
from mbactor.testing.loop import VirtualTimeLoop
from mbactor.transport import LocalBus


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


@pytest.fixture(autouse=True, params=["anyio known", "anyio asked"])
def scopes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rule holds where this anyio does not keep its scopes where they are looked for."""
    if request.param == "anyio asked":
        monkeypatch.setattr(budget, "_states", None)


def now() -> float:
    return asyncio.get_running_loop().time()


class Clock(Actor):
    """Tells what its callers left it."""

    host = "clock.example"
    concurrency = 50

    @endpoint
    async def left(self) -> float:
        call = current.get()
        assert call is not None
        return call.deadline - now()

    @endpoint
    async def sleep_on(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def _directly(ask: Callable[[], Awaitable[float]]) -> float:
    return await ask()


async def _by_gather(ask: Callable[[], Awaitable[float]]) -> float:
    return max(await asyncio.gather(ask(), ask()))


async def _by_create_task(ask: Callable[[], Awaitable[float]]) -> float:
    return await asyncio.create_task(_directly(ask))


async def _by_task_group(ask: Callable[[], Awaitable[float]]) -> float:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_directly(ask))
    return task.result()


async def _by_anyio_group(ask: Callable[[], Awaitable[float]]) -> float:
    got: list[float] = []

    async def work() -> None:
        got.append(await ask())

    async with anyio.create_task_group() as group:
        group.start_soon(work)
    return got[0]


async def _by_wait_for(ask: Callable[[], Awaitable[float]]) -> float:
    return await asyncio.wait_for(_directly(ask), 100)


async def _by_shield(ask: Callable[[], Awaitable[float]]) -> float:
    return await asyncio.shield(asyncio.ensure_future(ask()))


async def _in_finally(ask: Callable[[], Awaitable[float]]) -> float:
    got = 0.0
    try:
        await asyncio.sleep(0)
    finally:
        got = await ask()
    return got


WAYS = {
    way.__name__.strip("_"): way
    for way in (
        _directly, _by_gather, _by_create_task, _by_task_group, _by_anyio_group, _by_wait_for, _by_shield, _in_finally
    )
}  # fmt: skip


Ask = Callable[[], Awaitable[float]]


def _own_shield(own: float | None) -> anyio.CancelScope:
    return anyio.CancelScope(shield=True, deadline=math.inf if own is None else anyio.current_time() + own)


async def _noted(ask: Ask, after: float, into: list[float]) -> None:
    await asyncio.sleep(after)
    into.append(await ask())


async def _group_in_shield(ask: Ask, own: float | None, after: float) -> float:
    got: list[float] = []
    with _own_shield(own):
        async with anyio.create_task_group() as group:
            group.start_soon(_noted, ask, after, got)
    return got[0]


async def _shield_in_group(ask: Ask, own: float | None, after: float) -> float:
    got: list[float] = []

    async def work() -> None:
        with _own_shield(own):
            await _noted(ask, after, got)

    async with anyio.create_task_group() as group:
        group.start_soon(work)
    return got[0]


async def _groups_in_shield(ask: Ask, own: float | None, after: float) -> float:
    got: list[float] = []

    async def work() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(_noted, ask, after, got)

    with _own_shield(own):
        async with anyio.create_task_group() as group:
            group.start_soon(work)
    return got[0]


async def _timeout_in_shield(ask: Ask, own: float | None, after: float) -> float:
    got: list[float] = []
    with anyio.CancelScope(shield=True), anyio.fail_after(own):
        await _noted(ask, after, got)
    return got[0]


async def _by_asyncio_shield(ask: Ask, own: float | None, after: float) -> float:
    got: list[float] = []
    with anyio.fail_after(own):
        await asyncio.shield(asyncio.create_task(_noted(ask, after, got)))
    return got[0]


async def _group_in_task(ask: Ask, own: float | None, after: float) -> float:
    got: list[float] = []

    async def work() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(_noted, ask, after, got)

    with anyio.fail_after(own):
        await asyncio.gather(work(), work())
    return max(got)


async def _group(ask: Ask, own: float | None, after: float) -> float:
    got: list[float] = []
    async with anyio.create_task_group() as group:
        group.start_soon(_noted, ask, after, got)
    return got[0]


SHAPES = {
    shape.__name__.strip("_"): shape
    for shape in (
        _group_in_shield, _shield_in_group, _groups_in_shield, _timeout_in_shield, _by_asyncio_shield, _group_in_task,
        _group,
    )
}  # fmt: skip


class Asker(Actor):
    """Asks in all the ways there are."""

    def __init__(self, diary: list[Any] | None = None) -> None:
        self.diary = [] if diary is None else diary

    @endpoint
    async def left(self, way: str = "directly", after: float = 0) -> float:
        await asyncio.sleep(after)
        return await WAYS[way](lambda: self.ask(Clock.left))

    @endpoint
    async def left_within(self, seconds: float) -> float:
        with anyio.fail_after(seconds):
            return await self.ask(Clock.left)

    @endpoint
    async def chain(self, down: list[ActorRef[Any]]) -> list[float]:
        call = current.get()
        assert call is not None
        first, rest = down[:1], down[1:]
        return [call.deadline, *(await first[0].ask(Asker.chain, rest) if first else [])]

    @endpoint
    async def left_shielded(self, own: float | None = None) -> float:
        left = 0.0
        with anyio.CancelScope(shield=True, deadline=math.inf if own is None else anyio.current_time() + own):
            left = await self.ask(Clock.left)
        return left  # noqa: RET504 - the scope might have ended it

    @endpoint
    async def left_in(self, shape: str, own: float | None = None, after: float = 0) -> float:
        return await SHAPES[shape](lambda: self.ask(Clock.left), own, after)

    @endpoint
    async def note_left_in_finally(self, shape: str, own: float | None = None) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            self.diary.append(await SHAPES[shape](lambda: self.ask(Clock.left), own, 0))

    @endpoint
    async def note_after_a_shield(self, seconds: float) -> None:
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(seconds)
            self.diary.append(("shielded part ended", now()))
        await asyncio.sleep(0)
        self.diary.append("reached what is not shielded")

    @endpoint
    async def wait_locally(self, seconds: float) -> str:
        try:
            async with asyncio.timeout(seconds):
                await self.ask(Clock.sleep_on, 1000)
        except TimeoutError:
            self.diary.append(now())
        return "went on"

    @endpoint
    async def left_in_timeout(self, seconds: float) -> float:
        async with asyncio.timeout(seconds):
            return await self.ask(Clock.left)

    @endpoint
    async def sleep_on(self, seconds: float) -> None:
        call = current.get()
        assert call is not None
        self.diary.append(("due", call.deadline))
        try:
            await asyncio.sleep(seconds)
        finally:
            self.diary.append(("finally", now()))

    @endpoint
    async def clean_up(self, own: float | None = None) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            with anyio.CancelScope(shield=True, deadline=math.inf if own is None else anyio.current_time() + own):
                self.diary.append(await self.ask(Clock.left))

    @endpoint
    async def clean_up_without_shield(self) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            try:
                await self.ask(Clock.left)
            except BaseException as error:
                self.diary.append(type(error))
                raise

    @endpoint
    async def swallow(self) -> str:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            self.diary.append("swallowed")
        return "never mind"

    @endpoint
    async def note(self) -> str:
        self.diary.append("noted")
        return self.id


async def an_asker(system: ActorSystem) -> tuple[ActorRef[Asker], list[Any]]:
    diary: list[Any] = []
    await system.spawn(Clock)
    return await system.spawn(Asker, diary), diary


async def within(seconds: float, ask: Callable[[], Awaitable[Any]]) -> Any:
    with anyio.fail_after(seconds):
        return await ask()


def about(seconds: float) -> Any:
    return pytest.approx(seconds, abs=0.025)


# --- where it comes from ----------------------------------------------------------------------------------------------


async def test_where_nothing_limits_it_an_ask_has_20_seconds(mbactor: ActorSystem) -> None:
    asker, _ = await an_asker(mbactor)
    assert await asker.ask(Asker.left) == about(20)


async def test_no_ask_has_more_than_15_minutes(mbactor: ActorSystem) -> None:
    asker, _ = await an_asker(mbactor)
    assert await within(10_000, lambda: asker.ask(Asker.left)) == about(900)


async def test_a_scope_may_give_more_than_20_seconds(mbactor: ActorSystem) -> None:
    asker, _ = await an_asker(mbactor)
    assert await within(100, lambda: asker.ask(Asker.left)) == about(100)


@pytest.mark.parametrize("way", WAYS)
async def test_the_scope_around_an_ask_limits_it_and_all_that_follows(mbactor: ActorSystem, way: str) -> None:
    asker, _ = await an_asker(mbactor)
    assert await within(3, lambda: asker.ask(Asker.left, way)) == about(3)


@pytest.mark.parametrize("way", WAYS)
async def test_what_was_spent_before_an_ask_is_gone(mbactor: ActorSystem, way: str) -> None:
    asker, _ = await an_asker(mbactor)
    assert await within(10, lambda: asker.ask(Asker.left, way, after=4)) == about(6)


async def test_of_scope_and_message_the_smaller_counts(mbactor: ActorSystem) -> None:
    asker, _ = await an_asker(mbactor)
    assert await within(8, lambda: asker.ask(Asker.left_within, 3)) == about(3)
    assert await within(3, lambda: asker.ask(Asker.left_within, 8)) == about(3)
    assert await asker.ask(Asker.left_within, 600) == about(20)


async def test_of_nested_scopes_the_smallest_counts(mbactor: ActorSystem) -> None:
    asker, _ = await an_asker(mbactor)
    assert await within(9, lambda: within(4, lambda: asker.ask(Asker.left))) == about(4)
    assert await within(4, lambda: within(9, lambda: asker.ask(Asker.left))) == about(4)


@pytest.mark.parametrize("limit", [None, 0.5, 7.0, 5000.0])
async def test_a_deadline_is_never_later_further_down_a_path_of_ten(mbactor: ActorSystem, limit: float | None) -> None:
    chain = [await mbactor.spawn(Asker) for _ in range(11)]
    begun, given = now(), 20.0 if limit is None else min(limit, 900.0)
    if limit is None:
        deadlines = await chain[0].ask(Asker.chain, chain[1:])
    else:
        deadlines = await within(limit, lambda: chain[0].ask(Asker.chain, chain[1:]))
    assert len(deadlines) == 11
    assert deadlines[0] == about(begun + given)
    assert deadlines == sorted(deadlines, reverse=True)
    assert deadlines[-1] == about(deadlines[0])


async def test_an_ask_after_the_deadline_is_not_sent(mbactor: ActorSystem) -> None:
    asker, diary = await an_asker(mbactor)
    sent: Any = None
    with anyio.CancelScope(deadline=anyio.current_time() - 1):  # noqa: ASYNC100 - read when it is sent
        sent = asker.ask(Asker.note)
    with pytest.raises(BudgetSpent) as caught:
        await sent
    assert (diary, caught.value.taken) == ([], "no")


class Brief(Clock):
    """Gives no ask more than three seconds."""

    host = "brief.example"

    def __init__(self) -> None:
        self.told = asyncio.Event()

    @endpoint(budget="3s")
    async def left(self) -> float:
        return await super().left()

    @endpoint(budget="3s")
    async def left_below(self) -> float:
        return await self.ask(Clock.left)

    @endpoint(budget=3, concurrency=1)
    async def sleep_on(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.told.set()

    @endpoint(budget="3s")
    async def open(self, name: str) -> float:
        return await super().left()


async def test_an_endpoint_may_give_less_than_its_asker_and_what_it_asks_has_no_more(mbactor: ActorSystem) -> None:
    await mbactor.spawn(Clock)
    brief = await mbactor.spawn(Brief)
    for _ in range(3):  # the first ask of an endpoint takes another way than those that follow
        assert await brief.ask(Brief.left) == about(3)
        assert await mbactor.ask(Brief.left) == about(3)
        assert await brief.ask(Brief.left_below) == about(3)
        assert await within(2, lambda: brief.ask(Brief.left)) == about(2)
        assert await within(100, lambda: brief.ask(Brief.left)) == about(3)
        assert float((await mbactor.request("POST", "https://brief.example/left")).body) == about(3)
    [reply] = [reply async for reply in mbactor.ask_all(Brief.left)]
    assert reply.result() == about(3)


async def test_the_budget_of_an_endpoint_holds_for_who_asks_over_the_bus(mbactor: ActorSystem) -> None:
    bus = LocalBus()
    async with ActorSystem("asks", bus) as asks, ActorSystem("serves", bus) as serves:
        await serves.spawn(Brief)
        for _ in range(3):
            assert await asks.ask(Brief.left) == about(3)
            assert float((await asks.request("POST", "https://brief.example/left")).body) == about(3)
        begun = now()
        with pytest.raises(BudgetSpent):
            await asks.ask(Brief.sleep_on, 1000.0)
        assert now() == about(begun + 3)


async def test_the_budget_of_an_endpoint_begins_with_the_arrival_and_is_for_asks_only(mbactor: ActorSystem) -> None:
    brief = await mbactor.spawn(Brief)
    assert brief.tell(Brief.sleep_on, 10.0)
    begun = now()
    with pytest.raises(BudgetSpent):
        await brief.ask(Brief.sleep_on, 0.0)
    assert now() == about(begun + 3)
    await asyncio.sleep(8)
    assert brief.cell.current is not None
    actor: Any = brief.cell.current.actor
    assert actor.told.is_set()


@pytest.mark.parametrize("given", [0, "0s", -1, "soon", "16m", 901, True, object()])
def test_a_budget_that_no_ask_can_have_is_refused(given: Any) -> None:
    with pytest.raises(DeclarationError, match=r"wrong: budget"):

        @endpoint(budget=given)
        async def wrong(self: Any) -> None: ...


async def test_what_is_on_the_way_over_a_bus_is_gone_from_the_budget(mbactor: ActorSystem) -> None:
    bus = LocalBus()
    bus.round_trip = 4.0
    async with ActorSystem("asks", bus) as asks, ActorSystem("serves", bus) as serves:
        clock = await serves.spawn(Clock)
        assert await asks.ask(Clock.left) == about(16)
        assert float((await asks.request("POST", "https://clock.example/left")).body) == about(16)
        assert [reply.result() async for reply in asks.ask_all(Clock.left)] == [about(16)]
        assert await serves.ask(Clock.left) == about(20)
        asked: list[Callable[[], Awaitable[Any]]] = [
            lambda: asks.ask(Clock.left),
            lambda: asks.request("POST", "https://clock.example/left"),
            lambda: anext(asks.ask_all(Clock.left)),
        ]
        for ask in asked:
            with pytest.raises(BudgetSpent, match="was not sent") as caught:
                await within(3, ask)
            assert caught.value.taken == "no"
        # One that finds nobody is sent again a moment later, with what it has left by then.
        await clock.stop()
        again = asyncio.ensure_future(asks.ask(Clock.left))
        await asyncio.sleep(0.001)
        await serves.spawn(Clock)
        assert await again == pytest.approx(16, abs=0.1)


async def test_a_told_message_begins_a_budget_of_its_own(mbactor: ActorSystem) -> None:
    diary: list[Any] = []

    class Told(Actor):
        @endpoint
        async def go(self) -> None:
            diary.append(await self.ask(Clock.left))

        @endpoint
        async def pass_on(self) -> None:
            self.ref.tell(Told.go)

    await mbactor.spawn(Clock)
    told = await mbactor.spawn(Told)
    await within(2, lambda: told.ask(Told.pass_on))
    await asyncio.sleep(1)
    assert diary == [about(20)]


# --- asyncio's own timeouts -------------------------------------------------------------------------------------------


async def test_a_timeout_of_asyncio_cuts_only_the_local_wait(mbactor: ActorSystem) -> None:
    asker, diary = await an_asker(mbactor)
    begun = now()
    assert await asker.ask(Asker.left_in_timeout, 3) == about(20)
    assert await asker.ask(Asker.wait_locally, 3) == "went on"
    assert diary == [about(begun + 3)]


async def test_wait_for_cuts_only_the_local_wait(mbactor: ActorSystem) -> None:
    asker, _ = await an_asker(mbactor)
    begun = now()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asker.ask(Asker.sleep_on, 1000), 3)
    assert now() == about(begun + 3)


async def test_a_method_goes_on_when_its_asker_has_given_up_waiting(mbactor: ActorSystem) -> None:
    asker, diary = await an_asker(mbactor)
    begun, late = now(), mbactor.late_replies
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asker.ask(Asker.sleep_on, 10), 3)
    await asyncio.sleep(10)
    assert diary == [("due", about(begun + 20)), ("finally", about(begun + 10))]
    assert mbactor.late_replies == late + 1


# --- when it is spent -------------------------------------------------------------------------------------------------


async def test_a_method_is_cancelled_exactly_at_its_deadline_and_its_finally_runs(mbactor: ActorSystem) -> None:
    asker, diary = await an_asker(mbactor)
    begun = now()
    with pytest.raises(BudgetSpent):
        await within(2, lambda: asker.ask(Asker.sleep_on, 1000))
    assert now() == about(begun + 2)
    await asyncio.sleep(0.01)
    (_, due), (_, ended) = diary
    assert due == about(begun + 2)
    assert ended == pytest.approx(due, abs=0.001)


async def test_where_nothing_limits_it_a_method_is_cancelled_after_20_seconds(mbactor: ActorSystem) -> None:
    asker, diary = await an_asker(mbactor)
    begun = now()
    with pytest.raises(BudgetSpent):
        await asker.ask(Asker.sleep_on, 1000)
    await asyncio.sleep(0.01)
    assert diary == [("due", about(begun + 20)), ("finally", pytest.approx(begun + 20, abs=0.001))]


async def test_an_actor_whose_method_was_cancelled_is_the_same_one_and_serves_on(mbactor: ActorSystem) -> None:
    asker, diary = await an_asker(mbactor)
    before = await asker.ask(Asker.note)
    with pytest.raises(BudgetSpent):
        await within(2, lambda: asker.ask(Asker.sleep_on, 1000))
    assert await asker.ask(Asker.note) == before
    assert [entry[0] if isinstance(entry, tuple) else entry for entry in diary] == ["noted", "due", "finally", "noted"]


async def test_a_method_that_swallows_its_cancellation_harms_no_other_message(mbactor: ActorSystem) -> None:
    asker, diary = await an_asker(mbactor)
    begun, late = now(), mbactor.late_replies
    before = await asker.ask(Asker.note)
    with pytest.raises(BudgetSpent):
        await within(2, lambda: asker.ask(Asker.swallow))
    assert now() == about(begun + 2)
    assert await asker.ask(Asker.note) == before
    assert diary == ["noted", "swallowed", "noted"]
    assert mbactor.late_replies == late + 1


async def test_a_told_message_has_no_deadline(mbactor: ActorSystem) -> None:
    asker, diary = await an_asker(mbactor)
    begun = now()
    asker.tell(Asker.sleep_on, 5000)
    await asyncio.sleep(6000)
    assert diary == [("due", math.inf), ("finally", pytest.approx(begun + 5000, abs=0.01))]


# --- shields ------------------------------------------------------------------------------------------------------------


async def test_within_a_shield_without_a_deadline_an_ask_has_5_seconds(mbactor: ActorSystem) -> None:
    asker, _ = await an_asker(mbactor)
    assert await within(3, lambda: asker.ask(Asker.left_shielded)) == about(5)


@pytest.mark.parametrize("own", [1.0, 10.0])
async def test_the_own_deadline_of_a_shield_counts(mbactor: ActorSystem, own: float) -> None:
    asker, _ = await an_asker(mbactor)
    assert await within(3, lambda: asker.ask(Asker.left_shielded, own)) == about(own)


@pytest.mark.parametrize("own", [None, 1.0, 10.0])
async def test_a_shielded_clean_up_after_the_deadline_may_ask(mbactor: ActorSystem, own: float | None) -> None:
    asker, diary = await an_asker(mbactor)
    with pytest.raises(BudgetSpent):
        await within(2, lambda: asker.ask(Asker.clean_up, own))
    await asyncio.sleep(0.1)
    assert diary == [about(5 if own is None else own)]


@pytest.mark.parametrize("shape", ["group_in_shield", "shield_in_group", "groups_in_shield", "timeout_in_shield"])
@pytest.mark.parametrize("own", [None, 1.0, 10.0])
async def test_a_shield_counts_for_the_tasks_of_a_group_too(
    mbactor: ActorSystem, shape: str, own: float | None
) -> None:
    asker, _ = await an_asker(mbactor)
    assert await within(3, lambda: asker.ask(Asker.left_in, shape, own)) == about(5 if own is None else own)


@pytest.mark.parametrize("shape", ["group_in_shield", "groups_in_shield", "timeout_in_shield"])
@pytest.mark.parametrize("own", [None, 1.0, 10.0])
async def test_a_shielded_group_may_ask_after_the_deadline(mbactor: ActorSystem, shape: str, own: float | None) -> None:
    asker, diary = await an_asker(mbactor)
    with pytest.raises(BudgetSpent):
        await within(2, lambda: asker.ask(Asker.note_left_in_finally, shape, own))
    await asyncio.sleep(0.1)
    assert diary == [about(5 if own is None else own)]


@pytest.mark.parametrize("shape", ["group_in_task", "group", "by_asyncio_shield"])
@pytest.mark.parametrize("own", [None, 10.0])
async def test_what_is_no_shield_extends_nothing(mbactor: ActorSystem, shape: str, own: float | None) -> None:
    asker, _ = await an_asker(mbactor)
    assert await within(3, lambda: asker.ask(Asker.left_in, shape, own, after=1)) == about(2)


@pytest.mark.parametrize("seconds", [1, 5, 100])
async def test_a_shielded_part_runs_to_its_end_and_what_follows_does_not(mbactor: ActorSystem, seconds: float) -> None:
    asker, diary = await an_asker(mbactor)
    begun = now()
    with pytest.raises(BudgetSpent):
        await within(0.5, lambda: asker.ask(Asker.note_after_a_shield, seconds))
    assert now() == about(begun + 0.5)
    await asyncio.sleep(seconds)
    assert diary == [("shielded part ended", about(begun + seconds))]


async def test_what_asyncio_shields_runs_on_and_its_asks_then_have_5_seconds(mbactor: ActorSystem) -> None:
    await mbactor.spawn(Clock)
    noted: list[float] = []

    class Shielding(Actor):
        @endpoint
        async def go(self) -> None:
            await asyncio.shield(asyncio.create_task(_noted(lambda: self.ask(Clock.left), 4, noted)))

    shielding = await mbactor.spawn(Shielding)
    with pytest.raises(BudgetSpent):
        await within(3, lambda: shielding.ask(Shielding.go))
    await asyncio.sleep(2)
    assert noted == [about(5)]


async def test_a_clean_up_without_a_shield_asks_in_vain(mbactor: ActorSystem) -> None:
    asker, diary = await an_asker(mbactor)
    with pytest.raises(BudgetSpent):
        await within(2, lambda: asker.ask(Asker.clean_up_without_shield))
    await asyncio.sleep(0.1)
    assert diary
    assert diary[0] in {BudgetSpent, asyncio.CancelledError}
    assert await asker.ask(Asker.note)


# --- what it costs ---------------------------------------------------------------------------------------------------------


async def test_a_thousand_asks_with_deadlines_leave_at_most_one_timer_to_an_actor(mbactor: ActorSystem) -> None:
    asker, _ = await an_asker(mbactor)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    asker.tell(Asker.note)  # without a deadline
    await asyncio.sleep(0.01)
    before = len(loop._scheduled)
    for _ in range(1000):
        with anyio.fail_after(30):
            await asker.ask(Asker.note)
    assert len([timer for timer in loop._scheduled if not timer.cancelled()]) <= before + 1


async def test_a_thousand_asks_that_wait_leave_at_most_one_timer_to_an_actor(mbactor: ActorSystem) -> None:
    asker, _ = await an_asker(mbactor)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    assert asker.tell(Asker.sleep_on, 25)
    await asyncio.sleep(0.01)
    before = len(loop._scheduled)
    sent = []
    for number in range(1000):
        with anyio.CancelScope(deadline=anyio.current_time() + 10 + number / 1000):  # noqa: ASYNC100
            sent.append(asker.ask(Asker.note))
    assert len([timer for timer in loop._scheduled if not timer.cancelled()]) <= before + 1
    begun = now()
    outcomes = await asyncio.gather(*sent, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {BudgetSpent}
    assert now() == pytest.approx(begun + 11, abs=0.1)


async def test_a_worker_keeps_its_scope_until_a_method_is_cancelled(mbactor: ActorSystem) -> None:
    asker, _ = await an_asker(mbactor)

    def scopes() -> set[int]:
        main = asker.cell.main
        assert main is not None
        return {id(worker.scope) for worker in main.workers}

    await asker.ask(Asker.note)
    before = scopes()
    assert len(before) == 1
    for _ in range(200):
        with anyio.fail_after(30):
            await asker.ask(Asker.note)
        assert await within(3, lambda: asker.ask(Asker.left_shielded)) == about(5)
    assert scopes() == before
    with pytest.raises(BudgetSpent):
        await within(2, lambda: asker.ask(Asker.sleep_on, 1000))
    await asker.ask(Asker.note)
    assert len(scopes()) == 1


async def test_an_ask_that_no_task_makes_has_20_seconds(mbactor: ActorSystem) -> None:
    clock = await mbactor.spawn(Clock)
    asked: list[Awaitable[float]] = []
    asyncio.get_running_loop().call_soon(lambda: asked.append(clock.ask(Clock.left)))
    await asyncio.sleep(0.01)
    assert await asked[0] == about(20)
