"""One actor: what it answers, in which order, within which time."""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import functools
import gc
import re
import time
import warnings
import weakref
from collections.abc import AsyncIterator
from typing import Any, ClassVar, TypedDict, cast

import anyio
import msgspec
import pytest

from mbactor import (
    Actor,
    ActorCrashed,
    ActorStopped,
    ActorSystem,
    BadRequest,
    BudgetSpent,
    Exit,
    Ignore,
    Mailbox,
    MailboxFull,
    MbactorError,
    NoSuchActor,
    child,
    endpoint,
)
from mbactor.errors import CallTooDeep, Deadlock, DeclarationError, MethodNotAllowed
from mbactor.supervisor import SupervisorSpec

pytestmark = pytest.mark.anyio


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Order(TypedDict):
    sku: str
    count: int


class SoldOut(MbactorError):
    status = 409

    def __init__(self, sku: str) -> None:
        super().__init__(f"{sku} is sold out", sku=sku)


class Counter(Actor):
    """Counts."""

    host = "counter.example"

    def __init__(self, start: int = 0) -> None:
        self.total = start
        self.seen: list[Any] = []

    @endpoint
    async def add(self, by: int = 1) -> int:
        self.total += by
        return self.total

    @endpoint
    def read(self) -> int:
        return self.total

    @endpoint
    async def note(self, what: Any) -> None:
        self.seen.append(what)

    @endpoint
    async def noted(self) -> list[Any]:
        return self.seen

    @endpoint
    async def slow_note(self, what: int) -> list[int]:
        before = list(self.seen)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.seen.append(what)
        return before

    @endpoint
    async def move(self, point: Point, by: tuple[int, int]) -> Point:
        return Point(point.x + by[0], point.y + by[1])

    @endpoint
    async def order(self, order: Order) -> Order:
        order["count"] += 1
        return order

    @endpoint
    async def big(self, number: int) -> int:
        return number * number

    @endpoint
    async def sell(self, sku: str) -> None:
        raise SoldOut(sku)

    @endpoint
    async def boom(self) -> None:
        raise ValueError("boom")

    @endpoint
    async def lie(self) -> int:
        return "not a number"  # type: ignore[return-value]

    @endpoint
    async def sleep_long(self) -> None:
        await asyncio.sleep(3600)

    @endpoint
    async def ask_itself(self) -> int:
        return await self.ask(Counter.add)

    @endpoint
    async def left(self, seconds: float) -> float:
        return anyio.current_time() + seconds


@pytest.fixture(params=[False, True], ids=["handed over", "serialized"])
async def system(request: pytest.FixtureRequest) -> AsyncIterator[ActorSystem]:
    async with ActorSystem(serialize_local=request.param) as system:
        yield system


async def test_an_endpoint_is_asked_by_ref_and_by_class(system: ActorSystem) -> None:
    counter = await system.spawn(Counter, start=10)
    assert await counter.ask(Counter.add, by=5) == 15
    assert await counter.ask(Counter.add, 2) == 17
    assert await system.ask(Counter.add) == 18
    assert await counter.ask(Counter.read) == 18


async def test_a_method_is_a_plain_method_on_an_instance() -> None:
    assert await Counter(5).add(1) == 6
    assert Counter(5).read() == 5


async def test_a_tell_returns_at_once_and_is_handled_in_order(system: ActorSystem) -> None:
    counter = await system.spawn(Counter)
    for number in range(50):
        assert counter.tell(Counter.note, number)
    assert await counter.ask(Counter.noted) == list(range(50))


def all_by_name(function: Any) -> Any:
    """A decorator as users write them: what it makes takes anything, by name only."""

    @functools.wraps(function)
    async def wrapper(self: Actor, **kwargs: Any) -> Any:
        return await function(self, **{name: f"{value}!" for name, value in kwargs.items()})

    return wrapper


class Shaped(Actor):
    """Methods that take what they take in all the ways there are."""

    def __init__(self) -> None:
        self.taken: list[Any] = []

    @endpoint
    async def none(self) -> None:
        self.taken.append(())

    @endpoint
    async def one(self, a: str) -> None:
        self.taken.append(a)

    @endpoint
    async def two(self, a: str, b: int) -> None:
        self.taken.append((a, b))

    @endpoint
    async def three(self, a: str, b: int, c: float) -> None:
        self.taken.append((a, b, c))

    @endpoint
    async def four(self, a: str, b: int, c: float, d: bool) -> None:
        self.taken.append((a, b, c, d))

    @endpoint
    async def optional(self, a: str = "-", b: int | None = None) -> None:
        self.taken.append((a, b))

    @endpoint
    async def many(self, a: list[int]) -> None:
        self.taken.append(a)
        a.append(0)

    @endpoint
    async def by_name(self, a: str, *, b: int) -> None:
        self.taken.append((a, b))

    @endpoint
    def plain(self, a: str, b: int) -> None:
        self.taken.append((a, b))

    @endpoint
    def plain_by_name(self, *, b: int) -> None:
        self.taken.append(b)

    @endpoint
    @all_by_name
    async def wrapped(self, a: str, b: str) -> None:
        self.taken.append((a, b))

    @endpoint
    async def all_taken(self) -> list[Any]:
        taken, self.taken = self.taken, []
        return taken


SHAPES: list[tuple[Any, dict[str, Any], Any]] = [
    (Shaped.none, {}, ()),
    (Shaped.one, {"a": "x"}, "x"),
    (Shaped.two, {"b": 1, "a": "x"}, ("x", 1)),
    (Shaped.three, {"c": 0.5, "a": "x", "b": 1}, ("x", 1, 0.5)),
    (Shaped.four, {"d": True, "c": 0.5, "a": "x", "b": 1}, ("x", 1, 0.5, True)),
    (Shaped.optional, {"b": 2}, ("-", 2)),
    (Shaped.optional, {"b": None, "a": "x"}, ("x", None)),
    (Shaped.optional, {}, ("-", None)),
    (Shaped.many, {"a": [1, 2]}, (1, 2, 0)),
    (Shaped.by_name, {"b": 1, "a": "x"}, ("x", 1)),
    (Shaped.plain, {"b": 1, "a": "x"}, ("x", 1)),
    (Shaped.plain_by_name, {"b": 1}, 1),
    (Shaped.wrapped, {"b": "y", "a": "x"}, ("x!", "y!")),
]


@pytest.mark.parametrize(("method", "arguments", "taken"), SHAPES)
async def test_each_argument_reaches_its_own_parameter(
    system: ActorSystem, method: Any, arguments: dict[str, Any], taken: Any
) -> None:
    shaped = await system.spawn(Shaped)
    for _ in range(3):  # the first finds the short way for the others
        assert shaped.tell(method, **arguments)
        await shaped.ask(method, **arguments)
    assert [_plain(one) for one in await shaped.ask(Shaped.all_taken)] == [taken] * 6


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (Shaped.none, {"a": 1}, "has no parameter 'a'"),
    (Shaped.one, {"a": 1}, r"Expected `str`, got `int` - at `\$\.a`"),
    (Shaped.one, {}, "needs `a`"),
    (Shaped.one, {"a": "x", "z": 1}, "has no parameter 'z'"),
    (Shaped.two, {"a": "x"}, "needs `b`"),
    (Shaped.many, {"a": ["x"]}, r"Expected `int`, got `str` - at `\$\.a\[0\]`"),
    (Shaped.by_name, {"a": "x"}, "needs `b`"),
]


@pytest.mark.parametrize(("method", "arguments", "message"), WRONG)
async def test_wrong_arguments_are_refused_as_well_where_right_ones_went_before(
    system: ActorSystem, method: Any, arguments: dict[str, Any], message: str
) -> None:
    shaped = await system.spawn(Shaped)
    right = next(arguments for one, arguments, _ in SHAPES if one is method)
    assert shaped.tell(method, **right)
    await shaped.ask(method, **right)
    for _ in range(2):
        with pytest.raises(BadRequest, match=message):
            shaped.tell(method, **arguments)
        asked = shaped.ask(method, **arguments)  # which tells nobody who does not await it
        with pytest.raises(BadRequest, match=message):
            await asked
    assert len(await shaped.ask(Shaped.all_taken)) == 2


async def test_by_class_each_argument_reaches_its_own_parameter(system: ActorSystem) -> None:
    counter = await system.spawn(Counter)
    for _ in range(3):
        assert system.node.tell(Counter.add, (), {"by": 2})
        assert await system.ask(Counter.add, 3)
        assert await system.ask(Counter.add)
        with pytest.raises(BadRequest, match="Expected `int`"):
            system.node.tell(Counter.add, (), {"by": "x"})
        with pytest.raises(BadRequest, match="Expected `int`"):
            await cast(Any, system).ask(Counter.add, by="x")
    assert await counter.ask(Counter.read) == 18


async def test_arguments_by_position_reach_their_parameters(system: ActorSystem) -> None:
    shaped = await system.spawn(Shaped)
    for _ in range(2):
        assert shaped.tell(Shaped.one, "x")
        assert shaped.tell(Shaped.two, "x", 1)
        assert shaped.tell(Shaped.two, "x", b=2)
        await shaped.ask(Shaped.three, "x", 1, 0.5)
        with pytest.raises(BadRequest, match="takes 1 argument, 2 were given"):
            cast(Any, shaped).tell(Shaped.one, "x", "y")
        with pytest.raises(BadRequest, match="got argument 'a' twice"):
            cast(Any, shaped).tell(Shaped.one, "x", a="y")
    assert [_plain(one) for one in await shaped.ask(Shaped.all_taken)] == ["x", ("x", 1), ("x", 2), ("x", 1, 0.5)] * 2


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


async def test_messages_are_handled_one_at_a_time(system: ActorSystem) -> None:
    counter = await system.spawn(Counter)
    answers = await asyncio.gather(*(counter.ask(Counter.slow_note, n) for n in range(10)))
    assert answers == [list(range(n)) for n in range(10)]


async def test_values_arrive_as_their_annotations_say(system: ActorSystem) -> None:
    counter = await system.spawn(Counter)
    assert await counter.ask(Counter.move, Point(1, 2), (3, 4)) == Point(4, 6)
    mine: Order = {"sku": "a", "count": 1}
    assert await counter.ask(Counter.order, mine) == {"sku": "a", "count": 2}
    assert mine["count"] == 1, "the actor got a copy"


async def test_integers_of_any_size_travel(system: ActorSystem) -> None:
    counter = await system.spawn(Counter)
    assert await counter.ask(Counter.big, 2**100) == 2**200


async def test_a_sender_may_go_on_changing_what_it_sent(system: ActorSystem) -> None:
    counter = await system.spawn(Counter)
    sent = [1]
    counter.tell(Counter.note, sent)
    sent.append(2)
    assert await counter.ask(Counter.noted) == [[1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "x"}, r"^Counter\.add: Expected `int`, got `str` - at `\$\.by`$"),
        ({"by": None}, r"Expected `int`, got `(null|None)` - at `\$\.by`"),
        ({"nope": 1}, r"has no parameter 'nope'; it takes by$"),
        ({"timeout": 3}, r"has no parameter 'timeout'; it takes by; a budget is set around it: `with anyio.fail_after"),
    ],
)
async def test_a_wrong_argument_is_a_400_that_names_it(
    system: ActorSystem, arguments: dict[str, Any], message: str
) -> None:
    counter = await system.spawn(Counter)
    with pytest.raises(BadRequest, match=message) as refused:
        await counter.ask(Counter.add, **arguments)
    assert refused.value.status == 400
    assert await counter.ask(Counter.add) == 1


async def test_a_missing_argument_is_a_400_that_names_it(system: ActorSystem) -> None:
    counter = await system.spawn(Counter)
    with pytest.raises(BadRequest, match=r"Counter\.big needs `number` - at `\$\.number`"):
        await counter.ask(Counter.big)  # type: ignore[call-arg]


async def test_an_error_is_an_answer_with_type_status_fields_and_remote_trace(system: ActorSystem) -> None:
    counter = await system.spawn(Counter, 7)
    with pytest.raises(SoldOut) as answered:
        await counter.ask(Counter.sell, "a-1")
    assert (answered.value.status, answered.value.sku) == (409, "a-1")
    assert "in sell" in (answered.value.remote_trace or "")
    assert await counter.ask(Counter.read) == 7, "the actor went on"


async def test_a_crash_is_a_500_with_the_remote_trace_and_a_new_incarnation(system: ActorSystem) -> None:
    counter = await system.spawn(Counter, start=3)
    await counter.ask(Counter.add)
    with pytest.raises(ActorCrashed, match="ValueError: boom") as crashed:
        await counter.ask(Counter.boom)
    assert crashed.value.status == 500
    assert 'raise ValueError("boom")' in (crashed.value.remote_trace or "")
    assert await counter.ask(Counter.read) == 3


async def test_messages_queued_behind_a_crash_are_answered_in_order(system: ActorSystem) -> None:
    counter = await system.spawn(Counter)
    crash = asyncio.ensure_future(counter.ask(Counter.boom))
    behind = [counter.ask(Counter.add) for _ in range(20)]
    with pytest.raises(ActorCrashed):
        await crash
    assert await asyncio.gather(*behind) == list(range(1, 21))


async def test_a_result_that_does_not_fit_is_an_error_of_the_method(system: ActorSystem) -> None:
    counter = await system.spawn(Counter)
    with pytest.raises(MbactorError, match="Counter.lie .*annotation") as error:
        await counter.ask(Counter.lie)
    assert error.value.status == 500


async def test_an_answer_that_was_not_awaited_is_told_as_that(system: ActorSystem) -> None:
    class Hasty(Actor):
        @endpoint
        async def read(self) -> int:
            answer: Any = self.ask(Counter.read)
            return cast("int", answer)

    await system.spawn(Counter)
    hasty = await system.spawn(Hasty)
    expected = (
        "Hasty.read returned Future, which does not fit its annotation int: it is to be awaited first, `return await"
    )
    with pytest.raises(MbactorError, match=re.escape(expected)):
        await hasty.ask(Hasty.read)


async def test_a_method_is_cancelled_at_the_deadline_of_its_caller(system: ActorSystem) -> None:
    counter = await system.spawn(Counter)
    with pytest.raises(TimeoutError):
        with anyio.fail_after(0.05):
            await counter.ask(Counter.sleep_long)
    assert await counter.ask(Counter.add) == 1


async def test_an_ask_that_waits_too_long_in_the_mailbox_never_reaches_the_method(system: ActorSystem) -> None:
    counter = await system.spawn(Counter)
    first = asyncio.ensure_future(_within(0.1, counter.ask, Counter.sleep_long))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await _within(0.02, counter.ask, Counter.add)
    with pytest.raises(TimeoutError):
        await first
    assert await counter.ask(Counter.read) == 0


async def _within(seconds: float, ask: Any, operation: Any) -> Any:
    with anyio.fail_after(seconds):
        return await ask(operation)


async def test_asking_itself_is_a_deadlock_that_is_told_at_once(system: ActorSystem) -> None:
    await system.spawn(Counter)
    with pytest.raises(Deadlock, match=r"Counter\.ask_itself -> Counter\.add"):
        await system.ask(Counter.ask_itself)


class Hops(Actor):
    host = "hops.example"
    concurrency = 200

    @endpoint
    async def hop(self, left: int) -> int:
        return 1 + await self.ask(Hops.hop, left - 1) if left else 0


async def test_a_chain_of_asks_ends_at_64_calls(system: ActorSystem) -> None:
    await system.spawn(Hops)
    assert await system.ask(Hops.hop, 60) == 60
    with pytest.raises(CallTooDeep, match="the limit is 64"):
        await system.ask(Hops.hop, 100)


class Small(Counter):
    host = "small.example"
    mailbox = Mailbox(capacity=2)


async def test_a_full_mailbox_refuses_at_once(system: ActorSystem) -> None:
    small = await system.spawn(Small)
    asks = [asyncio.ensure_future(small.ask(Counter.add)) for _ in range(5)]
    done = await asyncio.gather(*asks, return_exceptions=True)
    full = [error for error in done if isinstance(error, MailboxFull)]
    assert len(full) == 3
    assert (full[0].status, full[0].taken, full[0].capacity) == (503, "no", 2)
    assert small.statistics().rejected == 3
    for _ in range(2):
        assert small.tell(Counter.add)
    assert small.tell(Counter.add) is False
    assert system.dead_letters.total == 1
    [letter] = system.dead_letters
    assert (letter.method, "full" in letter.reason) == ("add", True)


async def test_nobody_there_is_known_at_once(system: ActorSystem) -> None:
    with pytest.raises(NoSuchActor, match=r"nobody serves https://counter\.example/add") as nobody:
        await system.ask(Counter.add)
    assert (nobody.value.status, nobody.value.taken) == (404, "no")


class Nameless(Actor):
    @endpoint
    async def hello(self) -> str:
        return self.id


async def test_a_class_without_host_is_asked_through_its_ref_only(system: ActorSystem) -> None:
    ref = await system.spawn(Nameless)
    assert (await ref.ask(Nameless.hello)).startswith("id-")
    with pytest.raises(DeclarationError, match="Nameless has no host.*through its ref"):
        await system.ask(Nameless.hello)


class Doubler(Counter):
    host = "doubler.example"

    @endpoint
    async def add(self, by: int = 1) -> int:
        self.total += 2 * by
        return self.total


async def test_an_inherited_operation_addresses_the_class_it_was_taken_from(system: ActorSystem) -> None:
    await system.spawn(Counter)
    doubler = await system.spawn(Doubler)
    assert await system.ask(Doubler.read) == 0
    assert await system.ask(Doubler.add, 2) == 4
    assert await system.ask(Counter.add, 2) == 2
    assert await doubler.ask(Counter.add, 2) == 8, "the instance's own method"


class Pings:
    """Adds an endpoint to the actors that have it among their classes."""

    @endpoint
    async def ping(self) -> str:
        return type(self).__name__


class Pinged(Pings, Counter):
    host = "pinged.example"


class PingedToo(Pinged):
    host = "pinged-too.example"

    @endpoint
    async def ping(self) -> str:
        return f"{await super().ping()}, too"


async def test_an_endpoint_may_come_from_a_class_that_is_no_actor(system: ActorSystem) -> None:
    pinged: Any = Pinged.ping
    assert Pinged.ping is pinged, "there is one reference a class and method, compared by identity"
    await system.spawn(Pinged)
    await system.spawn(PingedToo)
    assert await system.ask(pinged) == "Pinged"
    assert await system.ask(cast("Any", PingedToo.ping)) == "PingedToo, too"
    assert await system.ask(PingedToo.add, 2) == 2


async def test_a_class_that_hides_the_making_of_its_subclasses_is_told(system: ActorSystem) -> None:
    class Hides(Counter):
        def __init_subclass__(cls) -> None:
            """Does not call that of the actors."""

    class Hidden(Hides):
        host = "hidden.example"

    with pytest.raises(DeclarationError, match=r"Hidden\.add refers to a class above: .*super\(\)"):
        await system.spawn(Hidden)


async def test_an_address_is_reached_without_its_class(system: ActorSystem) -> None:
    await system.spawn(Counter)
    response = await system.request("POST", "https://counter.example/add", {"by": 4})
    assert (response.status, response.json()) == (200, 4)
    response = await system.request("GET", "https://counter.example/add?by=3")
    assert response.json() == 7
    with pytest.raises(BadRequest, match="`by`"):
        await system.request("GET", "https://counter.example/add?by=x")
    with pytest.raises(BadRequest, match=r"\$\.by"):
        await system.request("POST", "https://counter.example/add", b'{"by": "x"}')
    with pytest.raises(NoSuchActor, match="nobody serves https://counter.example/nope"):
        await system.request("POST", "https://counter.example/nope")


class Getter(Actor):
    host = "getter.example"

    @endpoint(method="GET", path="/value", port=444)
    async def value(self, when: dt.datetime | None = None) -> str:
        return "none" if when is None else when.isoformat()


async def test_method_path_and_port_are_declared(system: ActorSystem) -> None:
    await system.spawn(Getter)
    assert (await system.request("GET", "https://getter.example:444/value")).json() == "none"
    with pytest.raises(MethodNotAllowed, match="it takes GET"):
        await system.request("POST", "https://getter.example:444/value")
    with pytest.raises(NoSuchActor):
        await system.request("GET", "https://getter.example/value")
    moment = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    assert await system.ask(Getter.value, moment) == moment.isoformat()


SUMMER = dt.timezone(dt.timedelta(hours=2))


class Clock(Actor):
    @endpoint
    async def shown(self, when: dt.datetime, at: dt.time | None = None) -> str:
        return f"{when!r} {at!r}"

    @endpoint
    async def back(self, when: dt.datetime) -> dt.datetime:
        return when.astimezone(SUMMER)


@pytest.mark.parametrize("serialize_local", [False, True])
async def test_a_time_is_the_same_to_a_method_wherever_its_asker_is(serialize_local: bool) -> None:
    """Neither its zone nor its fold travels: they must not come along just because both are in one process."""
    when, arrives = dt.datetime(2026, 7, 1, 12, tzinfo=SUMMER), dt.datetime(2026, 7, 1, 10, tzinfo=dt.UTC)
    async with ActorSystem(serialize_local=serialize_local) as system:
        clock = await system.spawn(Clock)
        assert await clock.ask(Clock.shown, when, dt.time(2, 30, fold=1)) == f"{arrives!r} {dt.time(2, 30)!r}"
        assert await clock.ask(Clock.shown, when=when) == f"{arrives!r} None"
        assert repr(await clock.ask(Clock.back, when)) == repr(arrives)


class Named(Actor):
    @endpoint
    def sell(self, sku: str, *, count: int = 1, gift: bool = False) -> list[Any]:
        return [sku, count, gift]

    @endpoint
    async def report(self, *, since: int) -> int:
        return since


@pytest.mark.parametrize("serialize_local", [False, True])
async def test_what_is_by_name_only_is_not_taken_by_position(serialize_local: bool) -> None:
    async with ActorSystem(serialize_local=serialize_local) as system:
        named = await system.spawn(Named)
        wrong: Any = named
        for _ in range(2):  # the second time by the short way
            assert await named.ask(Named.sell, "tea", count=2) == ["tea", 2, False]
            assert await named.ask(Named.report, since=3) == 3
            said = r"Named\.sell takes 1 argument by position \(count, gift by name\), 2 were given"
            with pytest.raises(BadRequest, match=said):
                await wrong.ask(Named.sell, "tea", 2)
            with pytest.raises(BadRequest, match=r"takes 0 arguments by position \(since by name\), 1 was given"):
                await wrong.ask(Named.report, 3)
            with pytest.raises(BadRequest, match=r"takes 0 arguments by position"):
                wrong.tell(Named.report, 3)


class Setting(Actor):
    @endpoint
    async def put(self, value: str) -> str:
        before = VARIABLE.get()
        VARIABLE.set(value)
        return before

    @endpoint
    async def within(self, value: str) -> str:
        token = VARIABLE.set(value)
        try:
            return await asyncio.create_task(self._seen())
        finally:
            VARIABLE.reset(token)

    async def _seen(self) -> str:
        return VARIABLE.get()


async def test_context_variables_are_those_of_the_start_and_stay_within_the_actor() -> None:
    token = VARIABLE.set("starter's")
    try:
        async with ActorSystem() as system:
            VARIABLE.set("asker's")
            one, other = await system.spawn(Setting), await system.spawn(Setting)
            assert await one.ask(Setting.within, "message's") == "message's"
            assert await one.ask(Setting.put, "one's") == "starter's"
            assert await other.ask(Setting.put, "other's") == "starter's"
            assert VARIABLE.get() == "asker's"
    finally:
        VARIABLE.reset(token)


class Hooked(Actor):
    events: ClassVar[list[str]] = []

    def __init__(self, mood: str = "good") -> None:
        self.mood = mood

    async def on_start(self) -> None:
        if self.mood == "ignore":
            raise Ignore
        if self.mood == "bad":
            raise RuntimeError("no")
        self.events.append(f"start {self.id[:3]}")

    async def on_stop(self, exit: Exit) -> None:
        self.events.append(f"stop {exit.kind}")

    @endpoint
    async def end(self) -> str:
        self.stop()
        return "bye"

    @endpoint
    async def crash(self) -> None:
        raise RuntimeError("x")

    @endpoint
    async def nap(self) -> None:
        await asyncio.sleep(3600)


async def test_hooks_run_around_each_incarnation(system: ActorSystem) -> None:
    Hooked.events.clear()
    ref = await system.spawn(Hooked)
    with pytest.raises(ActorCrashed):
        await ref.ask(Hooked.crash)
    await _until(lambda: Hooked.events.count("start id-") == 2)
    await ref.stop()
    assert Hooked.events == ["start id-", "stop failed", "start id-", "stop shutdown"]


async def _until(condition: Any) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def test_an_actor_that_asks_not_to_be_started_is_left_out_without_an_error(system: ActorSystem) -> None:
    assert await system.spawn(child(Hooked, args={"mood": "ignore"})) is None


async def test_a_failed_start_is_raised_to_who_spawned(system: ActorSystem) -> None:
    with pytest.raises(MbactorError, match="RuntimeError: no"):
        await system.spawn(Hooked, "bad")


async def test_stop_answers_what_waits_and_kill_does_not_wait(system: ActorSystem) -> None:
    Hooked.events.clear()
    ref = await system.spawn(child(Hooked, restart="temporary"))
    running = asyncio.ensure_future(ref.ask(Hooked.nap))
    waiting = asyncio.ensure_future(ref.ask(Hooked.end))
    await _until(lambda: Hooked.events == ["start id-"])
    await asyncio.sleep(0)
    await ref.kill()
    with pytest.raises(ActorCrashed):
        await running
    with pytest.raises(ActorStopped):
        await waiting
    with pytest.raises(ActorStopped):
        await ref.ask(Hooked.end)
    assert Hooked.events == ["start id-"], "on_stop does not run after a kill"


async def test_an_actor_may_end_itself_cleanly(system: ActorSystem) -> None:
    Hooked.events.clear()
    ref = await system.spawn(child(Hooked, restart="transient"))
    assert await ref.ask(Hooked.end) == "bye"
    await _until(lambda: Hooked.events[-1:] == ["stop normal"])
    with pytest.raises(ActorStopped):
        await ref.ask(Hooked.end)


class Background(Actor):
    def __init__(self) -> None:
        self.ticks = 0
        self.cancelled = False

    @endpoint
    async def begin(self, *, fail: bool) -> None:
        self.spawn_task(self._work(fail=fail))

    @endpoint
    async def think_better_of_it(self) -> None:
        self.spawn_task(self._work(fail=True)).cancel()

    async def _work(self, *, fail: bool) -> None:
        if fail:
            raise RuntimeError("in the background")
        await asyncio.sleep(3600)

    @endpoint
    async def incarnation(self) -> str:
        return self.id


async def test_a_failing_background_task_is_a_crash_of_its_actor(system: ActorSystem) -> None:
    ref = await system.spawn(Background)
    first = await ref.ask(Background.incarnation)
    await ref.ask(Background.begin, fail=True)
    async with asyncio.timeout(60):
        while await ref.ask(Background.incarnation) == first:
            await asyncio.sleep(0.005)


async def test_a_running_background_task_ends_with_its_actor(system: ActorSystem) -> None:
    ref = await system.spawn(Background)
    before = asyncio.all_tasks()
    await ref.ask(Background.begin, fail=False)
    await ref.stop()
    left = {task for task in asyncio.all_tasks() - before if not task.done()}
    assert not [task for task in left if "background" in task.get_name()]


async def test_a_background_task_that_is_cancelled_before_it_began_is_no_coroutine_that_was_never_awaited(
    system: ActorSystem,
) -> None:
    ref = await system.spawn(Background)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        await ref.ask(Background.think_better_of_it)
        await ref.stop()
        gc.collect()
    assert [str(one.message) for one in warned] == []


async def test_nothing_is_left_when_a_system_has_stopped() -> None:
    before = asyncio.all_tasks()
    async with ActorSystem() as system:
        refs = [await system.spawn(Counter) for _ in range(20)]
        await asyncio.gather(*(ref.ask(Counter.add) for ref in refs))
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before


async def test_two_local_systems_do_not_see_each_other() -> None:
    async with ActorSystem() as one, ActorSystem() as other:
        await one.spawn(Counter)
        assert await one.ask(Counter.add) == 1
        with pytest.raises(NoSuchActor):
            await other.ask(Counter.add)


async def test_of_two_systems_on_one_bus_the_other_goes_on_when_one_stops() -> None:
    from mbactor.transport import LocalBus

    class Elsewhere(Counter):
        host = "elsewhere.example"

    bus = LocalBus()
    async with ActorSystem("one", transport=bus) as one:
        await one.spawn(Counter, start=1)
        async with ActorSystem("two", transport=bus) as two:
            await two.spawn(Elsewhere)
            assert await two.ask(Counter.add, by=2) == 3
            assert await one.ask(Elsewhere.add) == 1
        with pytest.raises(NoSuchActor):
            await one.ask(Elsewhere.add)
        async with ActorSystem("three", transport=bus) as three:
            assert await three.ask(Counter.add) == 4
    assert bus.unready() == "the bus is closed"


async def test_two_systems_on_one_bus_reach_each_other() -> None:
    from mbactor.transport import LocalBus

    bus = LocalBus()
    async with ActorSystem("one", transport=bus) as one, ActorSystem("two", transport=bus) as two:
        await one.spawn(Counter, start=1)
        assert await two.ask(Counter.add, by=2) == 3
        assert await two.ask(Counter.big, 2**80) == 2**160
        assert (await two.request("POST", "https://counter.example/add", {"by": 1})).json() == 4
        assert two.tell(Counter.add, by=6)
        with pytest.raises(SoldOut) as sold:
            await two.ask(Counter.sell, "b")
        assert sold.value.sku == "b"
        with pytest.raises(ActorCrashed, match="boom"):
            await two.ask(Counter.boom)
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.05):
                await two.ask(Counter.sleep_long)
        with pytest.raises(BadRequest, match=r"\$\.by"):
            await two.ask(Counter.add, by="x")  # type: ignore[arg-type]


async def test_an_unresolvable_annotation_is_named() -> None:
    class Broken(Actor):
        @endpoint
        async def do(self, what: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821
            ...

    async with ActorSystem() as system:
        with pytest.raises(DeclarationError, match=r"Broken\.do: annotation 'Missing' cannot be resolved"):
            await system.spawn(Broken)


async def test_a_type_that_cannot_travel_is_named() -> None:
    class Thing: ...

    class Broken(Actor):
        @endpoint
        async def do(self, what: Thing) -> None: ...

    async with ActorSystem() as system:
        with pytest.raises(DeclarationError, match=r"Broken\.do: parameter 'what' has type Thing, which cannot travel"):
            await system.spawn(Broken)


async def test_who_says_object_is_told_of_any() -> None:
    class Broken(Actor):
        @endpoint
        async def do(self, what: dict[str, object]) -> None: ...

    async with ActorSystem() as system:
        with pytest.raises(
            DeclarationError, match=r"object, within dict\[str, object\], which .*; use Any, where it may be"
        ):
            await system.spawn(Broken)


async def test_the_budget_of_a_call_is_the_smallest_around_it() -> None:
    class Outer(Actor):
        host = "outer.example"

        @endpoint
        async def patient(self) -> str:
            try:
                with anyio.fail_after(60):
                    await self.ask(Counter.sleep_long)
            except BudgetSpent:
                return "spent"
            return "?"

    async with ActorSystem() as system:
        await system.spawn(Counter)
        await system.spawn(Outer)
        begun = anyio.current_time()
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.1):
                await system.ask(Outer.patient)
        assert anyio.current_time() - begun < 5
        assert await system.ask(Counter.add) == 1, "the inner actor was cancelled too"


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Odd(Actor):
    host = "odd.example"

    @endpoint
    async def misbehave(self, how: str) -> Any:
        if how == "unspeakable":
            raise Unspeakable
        if how == "cancelled":
            raise asyncio.CancelledError
        if how == "group":
            raise BaseExceptionGroup("both", [ValueError("one"), asyncio.CancelledError()])
        if how == "fields":
            raise MbactorError("odd", status=418, thing=object(), nested={1: {2}}, text="\ud800")
        if how == "surrogate":
            raise ValueError("\ud800")
        return "fine"


@pytest.mark.parametrize("how", ["unspeakable", "cancelled", "group", "fields", "surrogate"])
async def test_whatever_a_method_raises_its_asker_is_answered_and_the_actor_goes_on(
    system: ActorSystem, how: str
) -> None:
    odd = await system.spawn(Odd)
    with pytest.raises(MbactorError) as raised:
        await odd.ask(Odd.misbehave, how)
    assert raised.value.status == (418 if how == "fields" else 500)
    assert await odd.ask(Odd.misbehave, "fine") == "fine"
    with pytest.raises(MbactorError):
        await system.request("POST", "https://odd.example/misbehave", {"how": how})
    assert (await system.request("POST", "https://odd.example/misbehave", {"how": "fine"})).json() == "fine"


async def test_a_tell_to_nobody_is_a_dead_letter(system: ActorSystem) -> None:
    system.tell(Odd.misbehave, "fine")
    await _until(lambda: system.dead_letters.total == 1)
    [letter] = system.dead_letters
    assert letter.arguments == {"how": "fine"}
    assert "nobody serves" in letter.reason


class Forgetful(MbactorError):
    def __init__(self, order_id: int) -> None:
        self.order_id = order_id


class Rude(Actor):
    host = "rude.example"

    @endpoint
    async def swallow(self) -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return "fallback"
        return "?"

    @endpoint
    async def turn_into_an_error(self) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise ConnectionError("lost") from None

    @endpoint
    async def forget(self) -> None:
        raise Forgetful(7)

    @endpoint
    async def reserved(self) -> None:
        raise MbactorError("odd", fields={"message": 1})

    @endpoint
    async def exits(self) -> None:
        raise GeneratorExit

    @endpoint
    async def pause(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return self.id

    @endpoint
    async def who(self) -> str:
        return VARIABLE.get()


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody's")


async def test_a_cancellation_that_a_method_swallows_does_not_reach_the_next_message(system: ActorSystem) -> None:
    rude = await system.spawn(Rude)
    first = asyncio.ensure_future(_within(0.05, rude.ask, Rude.swallow))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(rude.ask(Rude.pause, 0.01))
    with pytest.raises(TimeoutError):
        await first
    assert await second


async def test_what_follows_a_cancellation_is_neither_a_crash_nor_charged(system: ActorSystem) -> None:
    rude = await system.spawn(child(Rude))
    before = await rude.ask(Rude.pause, 0)
    for _ in range(6):
        with pytest.raises(TimeoutError):
            await _within(0.02, rude.ask, Rude.turn_into_an_error)
    assert await rude.ask(Rude.pause, 0) == before


@pytest.mark.parametrize("method", [Rude.forget, Rude.reserved, Rude.exits])
async def test_an_error_that_hardly_travels_is_answered_and_the_queue_goes_on(system: ActorSystem, method: Any) -> None:
    rude = await system.spawn(Rude)
    failing, waiting = asyncio.ensure_future(rude.ask(method)), rude.ask(Rude.pause, 0)
    with pytest.raises(MbactorError):
        await failing
    assert await waiting


async def test_a_method_does_not_see_the_context_of_whoever_asked_first(system: ActorSystem) -> None:
    rude = await system.spawn(Rude)

    async def ask_as(who: str) -> str:
        VARIABLE.set(who)
        return await rude.ask(Rude.who)

    assert await asyncio.create_task(ask_as("alice")) == "nobody's"
    assert await asyncio.create_task(ask_as("bob")) == "nobody's"


async def test_a_body_nested_too_deep_is_a_400(system: ActorSystem) -> None:
    rude = await system.spawn(Rude)
    before = await rude.ask(Rude.pause, 0)
    with pytest.raises(BadRequest, match="too deeply"):
        await system.request("POST", "https://rude.example/pause", b'{"zzz":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    assert await rude.ask(Rude.pause, 0) == before


async def test_a_message_that_comes_as_a_worker_is_about_to_go_is_not_left_behind(system: ActorSystem) -> None:
    loop = asyncio.get_running_loop()
    rude = await system.spawn(Rude)
    await rude.ask(Rude.pause, 0)
    timer = system.node._linger_timer
    assert timer is not None
    got: list[asyncio.Future[str]] = []
    loop.call_at(timer.when() + 0.99, lambda: got.append(asyncio.ensure_future(rude.ask(Rude.pause, 0))))
    loop.call_at(timer.when() + 0.95, time.sleep, 0.1)
    await _until(lambda: bool(got))
    assert await _within(2, lambda _: got[0], None)


async def test_actors_of_a_tree_that_gave_up_say_so() -> None:
    class Dies(Actor):
        host = "dies.example"

        @endpoint
        async def die(self) -> None:
            await asyncio.sleep(0.01)
            raise ValueError("dead")

    tree = SupervisorSpec(max_restarts=0, children=[child(Dies)])
    async with ActorSystem(tree=tree) as system:
        system.tell(Dies.die)
        queued = asyncio.ensure_future(system.ask(Dies.die))
        assert (await system.wait()).kind == "gave_up"
        with pytest.raises(ActorStopped):
            await queued
        with pytest.raises(NoSuchActor):
            await system.ask(Dies.die)


@pytest.mark.parametrize("failure", [GeneratorExit(), BaseExceptionGroup("g", [GeneratorExit()]), Unspeakable()])
async def test_whatever_on_start_raises_is_a_failed_start(failure: BaseException) -> None:
    class Fails(Actor):
        async def on_start(self) -> None:
            raise failure

    async with ActorSystem() as system:
        with pytest.raises(MbactorError, match="fails"):
            await system.spawn(Fails)


async def test_a_system_that_does_not_run_says_so() -> None:
    system = ActorSystem()
    with pytest.raises(MbactorError, match="not running"):
        await system.ask(Rude.who)
    with pytest.raises(MbactorError, match="not running"):
        system.tell(Rude.who)
    with pytest.raises(MbactorError, match="not running"):
        await system.spawn(Rude)


async def test_stopping_twice_is_stopping_once(system: ActorSystem) -> None:
    rude = await system.spawn(Rude)
    await rude.stop()
    await rude.stop()
    await rude.kill()


@pytest.mark.parametrize(
    ("name", "value"), [("concurrency", 0), ("concurrency", "4"), ("on_error", "x"), ("mailbox", 5)]
)
async def test_a_setting_of_a_class_that_cannot_be_is_named(name: str, value: Any) -> None:
    cls = type("Wrong", (Actor,), {name: value})
    async with ActorSystem() as system:
        with pytest.raises(DeclarationError, match=rf"Wrong\.{name}"):
            await system.spawn(cls)


async def test_a_result_that_does_not_fit_is_an_error_over_bytes_too(system: ActorSystem) -> None:
    await system.spawn(Counter)
    with pytest.raises(MbactorError, match="Counter.lie") as error:
        await system.request("POST", "https://counter.example/lie")
    assert error.value.status == 500


async def test_a_tell_in_hand_at_a_kill_is_a_dead_letter(system: ActorSystem) -> None:
    rude = await system.spawn(Rude)
    rude.tell(Rude.pause, 3600)
    await _until(lambda: rude.statistics().accepted == 1 and rude.statistics().depth == 0)
    await rude.kill()
    assert [letter.method for letter in system.dead_letters] == ["pause"]


async def test_an_ask_that_was_cancelled_while_it_waited_never_runs(system: ActorSystem) -> None:
    counter = await system.spawn(Counter)
    asked = [asyncio.ensure_future(counter.ask(Counter.add)) for _ in range(5)]
    for one in asked:
        one.cancel()
    await asyncio.sleep(0)
    assert await counter.ask(Counter.read) <= 1


@pytest.mark.parametrize(
    ("url", "body"), [("https://[x/ok", None), ("https://a.example/ok", object()), ("https://\ud800/x", 1)]
)
async def test_a_request_that_cannot_be_sent_is_a_400_when_awaited(system: ActorSystem, url: str, body: Any) -> None:
    with pytest.raises(BadRequest):
        await system.request("POST", url, body)


class Brief(Actor):
    """Is there."""

    def __init__(self, made: list[weakref.ref[Any]]) -> None:
        made.append(weakref.ref(self))

    @endpoint
    async def ping(self) -> str:
        return "pong"


async def test_an_actor_that_has_ended_is_gone_without_the_garbage_collector(mbactor: ActorSystem) -> None:
    made: list[weakref.ref[Any]] = []
    ref = await mbactor.spawn(Brief, made)
    assert await ref.ask(Brief.ping) == "pong"
    collecting = gc.isenabled()
    gc.disable()
    try:
        await ref.stop()
        assert [one() for one in made] == [None]
    finally:
        if collecting:
            gc.enable()
