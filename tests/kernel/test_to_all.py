"""Messages to all, and to one of each queue: the same within one process and over a broker."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any

import anyio
import pytest

from mbactor import (
    Actor,
    ActorSystem,
    BadRequest,
    BudgetSpent,
    DeclarationError,
    Mailbox,
    MbactorError,
    NoSuchActor,
    Reply,
    child,
    endpoint,
    event,
    sink,
)
from mbactor.kernel.routes import routes_of
from mbactor.transport import LocalBus
from mbactor.transport.ask import TICKS
from mbactor.transport.codec import decode
from mbactor.transport.message import MSGPACK, messages_of
from tests.kernel.conftest import Start
from tests.transport.inbox import Inbox

pytestmark = pytest.mark.anyio


class Stock(Actor):
    host = "stock.example"

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.hung = asyncio.Event()

    @endpoint(queue="every")
    async def level(self, sku: str) -> str:
        if self.name == "broken":
            raise MbactorError(f"no level of {sku}", status=422)
        if self.name == "hangs":
            await self.hung.wait()
        return self.name

    @endpoint
    async def one(self) -> str:
        return self.name

    @endpoint
    async def other(self) -> str:
        return self.name

    @endpoint(queue="audit")
    async def audited(self) -> str:
        return self.name

    @endpoint(queue="every")
    async def all_of_us(self) -> list[str]:
        return [str(reply.error) async for reply in self.ask_all(Stock.all_of_us)]


class Orders(Actor):
    host = "orders.example"

    @event
    async def on_placed(self, order_id: str, total: float = 0.0) -> None: ...

    @event(path="/veto")
    async def on_veto(self, order_id: str) -> bool:
        """Whether somebody is against it."""
        raise NotImplementedError

    @endpoint
    async def place(self, order_id: str) -> bool:
        return self.publish(Orders.on_placed, order_id, total=1.5)

    @endpoint
    async def vetoes(self, order_id: str) -> int:
        return sum([reply.result() async for reply in self.ask_all(Orders.on_veto, order_id)])


class Books(Actor):
    """One of its replicas gets each event."""

    host = "books.example"

    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    @sink(Orders.on_placed)
    async def placed(self, order_id: str, total: float = 0.0) -> None:
        if order_id == "crash":
            raise ValueError(order_id)
        self.seen.append((order_id, total))

    @sink(Orders.on_veto)
    async def veto(self, order_id: str) -> bool:
        return order_id == "bad"


class Ledger(Books):
    """Shares its events with the archive, which is another host."""

    host = "ledger.example"

    @sink(Orders.on_placed, queue="kept")
    async def placed(self, order_id: str, total: float = 0.0) -> None:
        self.seen.append((order_id, type(self).__name__))


class Archive(Ledger):
    host = "archive.example"


class Screens(Books):
    """Each of its replicas gets each event."""

    host = "screens.example"

    @sink(Orders.on_placed, queue="every")
    def placed(self, order_id: str, total: float = 0.0) -> None:  # type: ignore[override]
        self.seen.append((order_id, total))


def window(system: ActorSystem, ticks: int) -> None:
    system.node.remote.to_all._multicast.patience = ticks


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.005)


async def gathered(replies: Any) -> dict[str, Any]:
    return {reply.source: reply.value if reply.error is None else reply.error async for reply in replies}


def stock(name: str) -> Any:
    return child(Stock, id=name, args={"name": name})


async def test_all_answer_and_the_second_time_nobody_waits_for_more_than_the_slowest(start: Start) -> None:
    asks = await start(stock("a"))
    await start(stock("b"), stock("broken"))
    found = await gathered(asks.ask_all(Stock.level, "x"))
    assert sorted(str(one) for one in found.values()) == ["a", "b", "no level of x"]
    assert len(found) == 3
    error = next(one for one in found.values() if isinstance(one, MbactorError))
    assert error.status == 422
    window(asks, 10**6)
    async with asyncio.timeout(60):
        assert (await gathered(asks.ask_all(Stock.level, "y"))).keys() == found.keys()
    window(asks, TICKS)
    await start(stock("new"))
    again = await gathered(asks.ask_all(Stock.level, "x"))
    assert again.keys() > found.keys()
    assert "new" in again.values()
    source = next(one for one, value in again.items() if value == "b")
    assert [await asks.at(source).ask(Stock.one) for _ in range(10)] == ["b"] * 10
    with pytest.raises(BadRequest, match="all at a host are asked"):
        asks.at(source).ask_all(Stock.level, "x")


async def test_one_of_a_queue_answers_for_all_of_it(start: Start) -> None:
    asks = await start(stock("a"), stock("b"))
    await start(stock("c"))
    for operation in (Stock.one, Stock.audited):
        assert len([reply async for reply in asks.ask_all(operation)]) == 1
    assert {await asks.ask(Stock.audited) for _ in range(100)} == {"a", "b", "c"}


async def test_nobody_is_an_empty_iteration_and_a_misfit_an_error(start: Start) -> None:
    asks = await start()
    async with asyncio.timeout(60):
        assert [reply async for reply in asks.ask_all(Stock.level, "x")] == []
        assert asks.publish(Orders.on_placed, "1")
        with pytest.raises(BadRequest, match="has no parameter 'wrong'"):
            await anext(asks.ask_all(Stock.level, wrong=1))  # type: ignore[call-arg]
        with pytest.raises(BadRequest, match="takes 2 arguments, 3 were given"):
            asks.publish(Orders.on_placed, "1", 1.0, 2)  # type: ignore[call-arg]
    wrong: list[Any] = [Stock.level, Books.placed, 5]
    for refused in wrong:
        with pytest.raises(TypeError, match="a reference to an @event expected"):
            asks.publish(refused, "1")
    with pytest.raises(TypeError, match="events are published"):
        await asks.ask(Orders.on_placed, "1")  # type: ignore[arg-type]


async def test_who_has_taken_it_and_does_not_answer_in_time_is_told_of(start: Start) -> None:
    asks = await start(stock("a"), stock("hangs"))
    with anyio.fail_after(2.5):  # noqa: ASYNC100 - what is asked has so much time
        asked = asks.ask_all(Stock.level, "x")
    replies = [reply async for reply in asked]
    assert [one.value for one in replies] == ["a", None]
    assert isinstance(replies[1].error, BudgetSpent)
    assert replies[1].source.endswith(".stock.example")
    with pytest.raises(BudgetSpent):
        replies[1].result()


async def test_one_that_asks_all_of_its_own_kind_waits_for_itself_and_is_told_so(start: Start) -> None:
    asks = await start(stock("a"))
    reply: Reply[list[str]]
    [reply] = [reply async for reply in asks.ask_all(Stock.all_of_us)]
    assert reply.value is not None
    assert "Stock.all_of_us -> Stock.all_of_us" in reply.value[0]


async def test_sinks_of_different_hosts_in_one_queue_share_the_events(start: Start) -> None:
    seen: list[Any] = []
    asks = await start(child(Ledger, args={"seen": seen}), child(Archive, args={"seen": seen}))
    await start(child(Archive, id="another", args={"seen": seen}))
    for number in range(200):
        asks.publish(Orders.on_placed, str(number))
        await asyncio.sleep(0)  # one that leaves at once goes to one of them, as do those of a turn
    await until(lambda: len(seen) >= 200)
    await asks.node.remote.flush()
    assert sorted(order for order, _ in seen) == sorted(map(str, range(200)))
    taken = Counter(who for _, who in seen)
    assert min(taken["Ledger"], taken["Archive"]) > 20, taken


async def test_an_event_reaches_one_of_each_group_and_every_one_where_that_is_said(start: Start) -> None:
    books: list[Any] = []
    screens: list[list[Any]] = [[], [], []]
    one = await start(
        Orders, child(Books, id="b1", args={"seen": books}), child(Screens, id="s1", args={"seen": screens[0]})
    )
    await start(child(Books, id="b2", args={"seen": books}), child(Screens, id="s2", args={"seen": screens[1]}))
    await start(child(Screens, id="s3", args={"seen": screens[2]}))
    assert await one.ask(Orders.place, "1")
    for n in range(2, 20):
        assert one.publish(Orders.on_placed, order_id=str(n), total=n)
    told = [("1", 1.5), *((str(n), float(n)) for n in range(2, 20))]
    await until(lambda: len(books) >= 19 and all(len(seen) >= 19 for seen in screens))
    assert sorted(books) == sorted(told)
    assert screens == [told, told, told]
    assert await one.ask(Orders.vetoes, "bad") == 2
    assert await one.ask(Orders.vetoes, "good") == 0
    await one.spawn(child(Books, id="b3", args={"seen": books}))


async def test_who_answers_for_another_host_is_named_by_its_own(start: Start) -> None:
    asks = await start()
    books = await (await start()).spawn(child(Books, args={"seen": []}))
    await books.cell.node.remote.flush()
    [reply] = [reply async for reply in asks.ask_all(Orders.on_veto, "bad")]
    assert (reply.result(), reply.source) == (True, f"{books.cell.replica}.books.example")


class Diary(Actor):
    host = "diary.example"

    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    @sink(Orders.on_placed)
    async def placed(self, order_id: str, total: float = 0.0) -> None:
        self.seen.append(order_id)

    @endpoint
    async def note(self, what: str) -> None:
        self.seen.append(what)


async def test_what_is_told_and_published_in_a_turn_comes_in_this_order(start: Start) -> None:
    seen: list[Any] = []
    tells = await start()
    await start(child(Diary, args={"seen": seen}))
    for _ in range(3):
        tells.tell(Diary.note, "told")
        tells.publish(Orders.on_placed, "published")
        tells.tell(Diary.note, "told again")
    await until(lambda: len(seen) == 9)
    assert seen == ["told", "published", "told again"] * 3


async def test_what_is_going_to_be_served_is_announced_before_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    bus, done = LocalBus(), list[str]()
    subscribe, publish = bus.subscribe, bus.publish

    def subscribing(subject: str, receive: Any, *, queue: str | None = None) -> Any:
        done.append(subject)
        return subscribe(subject, receive, queue=queue)

    def publishing(subject: str, data: bytes, *, reply: str | None = None) -> None:
        done.append(subject)
        publish(subject, data, reply=reply)

    monkeypatch.setattr(bus, "subscribe", subscribing)
    monkeypatch.setattr(bus, "publish", publishing)
    async with ActorSystem(transport=bus, plane="plane") as system:
        reports = await system.spawn(Reports)
        announced = "plane.safe.888.reports_example.all._.post.on-new-subs"
        assert done.index(announced) < done.index("plane.safe.443.*.reports_example._.*.switch")
        done.clear()
        await reports.ask(Reports.switch, on=True)
        query, veto = "plane.safe.443.*.reports_example._.*.query", "plane.safe.417.*.orders_example._.post.veto"
        assert done == [announced, query, announced, veto]


async def test_a_sink_that_crashes_is_charged_for_nobody_was_told(start: Start) -> None:
    seen: list[Any] = []
    system = await start(child(Books, id="books", args={"seen": seen}))
    other = await start()
    other.publish(Orders.on_placed, "crash")
    other.publish(Orders.on_placed, "after")
    await until(lambda: bool(seen))
    [books] = [one for one in system.tree().children if one.id == "books"]
    assert (books.restarts, books.incarnation) == (1, 2)
    assert books.budget is not None
    assert books.budget.spent == 1
    assert seen == [("after", 0.0)]


async def test_whoever_was_cut_off_announces_itself_anew_and_takes_nothing_for_known() -> None:
    bus, heard = LocalBus(), Inbox()
    back: list[Callable[[], None]] = []
    cut: list[Callable[[], None]] = []
    as_a_broker: Any = bus
    as_a_broker.when_back, as_a_broker.when_cut = back.append, cut.append
    async with ActorSystem(transport=bus, plane="plane", watchdog=None) as system:
        await system.spawn(child(Books, id="books", args={"seen": []}))
        await system.spawn(Orders)
        await bus.flush()
        assert [reply async for reply in system.ask_all(Orders.on_veto, "x")]
        responders = system.node.remote.to_all._multicast._responders
        assert len(responders._known) == 1
        for tell in cut:
            tell()
        assert len(responders._known) == 0
        bus.subscribe("plane.*.888.*.all._.post.on-new-subs", heard)
        for tell in back:
            tell()
        told = [decode(messages_of(one.data)[0].body, MSGPACK) for one in await heard.until(2)]
    assert sorted(map(sorted, told)) == [["orders.example"], ["orders.example"]]


# --- queues ---------------------------------------------------------------------------------------------------------


class StockOfOld(Actor):
    """A replica of the same host that lacks what is new."""

    host = "stock.example"

    @endpoint
    async def old(self) -> str:
        return "old"

    @endpoint
    async def ask_new(self) -> str:
        return await self.ask(Stock.one)


async def test_a_rolling_deploy_in_which_some_replicas_lack_an_endpoint_loses_no_call(start: Start) -> None:
    old = await start(StockOfOld, StockOfOld)
    await start(stock("new"))
    third = await start()
    assert await asyncio.gather(*(third.ask(Stock.one) for _ in range(50))) == ["new"] * 50
    assert await asyncio.gather(*(old.ask(Stock.one) for _ in range(50))) == ["new"] * 50
    assert await old.ask(StockOfOld.ask_new) == "new"
    assert (await old.request("POST", "https://stock.example/one")).json() == "new"
    assert await third.ask(StockOfOld.old) == "old"
    await old.spawn(stock("newer"))
    assert {await old.ask(Stock.one) for _ in range(5)} == {"newer"}


class Narrow(Stock):
    host = "narrow.example"
    mailbox = Mailbox(capacity=1)

    @endpoint
    async def hang(self) -> None:
        await self.hung.wait()


async def test_of_those_in_a_process_one_that_is_full_is_given_nothing_while_another_is_not(start: Start) -> None:
    asks, serves = await start(), await start()
    full, free = [await serves.spawn(child(Narrow, id=name, args={"name": name})) for name in ("full", "free")]
    await serves.node.remote.flush()
    held = [full.ask(Narrow.hang)]
    await until(lambda: full.cell.main is not None and full.cell.main.runs_but_for(None))
    held.append(full.ask(Narrow.hang))
    for system in (serves, asks):
        assert {await system.ask(Narrow.one) for _ in range(20)} == {"free"}
    assert (full.statistics().rejected, free.statistics().accepted) == (0, 40)
    assert full.cell.current is not None
    actor: Any = full.cell.current.actor
    actor.hung.set()
    await asyncio.gather(*held)


async def test_what_is_for_every_replica_is_for_the_full_one_too_and_for_no_other_twice(start: Start) -> None:
    asks, serves = await start(), await start()
    full, _ = [await serves.spawn(child(Narrow, id=name, args={"name": name})) for name in ("full", "free")]
    await serves.node.remote.flush()
    held = [full.ask(Narrow.hang)]
    await until(lambda: full.cell.main is not None and full.cell.main.runs_but_for(None))
    held.append(full.ask(Narrow.hang))
    for _ in range(3):
        answers = [reply async for reply in asks.ask_all(Narrow.level, "x")]
        assert sorted(str(reply.value) if reply.error is None else type(reply.error).__name__ for reply in answers) == [
            "MailboxFull",
            "free",
        ]
    assert full.cell.current is not None
    actor: Any = full.cell.current.actor
    actor.hung.set()
    await asyncio.gather(*held)


async def test_who_asks_for_several_methods_in_turn_has_each_of_them_done_by_all_replicas(start: Start) -> None:
    asks = await start(stock("a"), stock("b"))
    answers = Counter[tuple[str, str]]()
    for _ in range(20):
        answers["one", await asks.ask(Stock.one)] += 1
        answers["other", await asks.ask(Stock.other)] += 1
    assert answers == {(method, name): 10 for method in ("one", "other") for name in ("a", "b")}


async def test_each_replica_gets_a_share_wherever_it_runs(start: Start) -> None:
    await start(*(stock(f"a{n}") for n in range(4)))
    await start(stock("b"))
    asks = await start(coalesce=False)
    # One after the other, so that no two travel together: 1,000 draws of one in five, of which 6 standard deviations
    # are 76.
    shares = Counter([await asks.ask(Stock.one) for _ in range(1000)])
    assert {name: abs(share - 200) < 80 for name, share in shares.items()} == dict.fromkeys(
        ("a0", "a1", "a2", "a3", "b"), True
    )


@pytest.mark.parametrize("queue", ["", "a b", "a..b", "*", 5, "ä"])
def test_a_wrong_queue_is_refused(queue: Any) -> None:
    with pytest.raises(DeclarationError, match="a name of letters, digits, hyphens and dots expected, or 'every' for"):

        @endpoint(queue=queue)
        async def go(self: Actor) -> None: ...


# --- what is declared -------------------------------------------------------------------------------------------------


def of_placed(**annotations: Any) -> type[Actor]:
    """A class with a sink of `on_placed` that takes this."""
    taken: Any = sink

    names = ", ".join(f"{name}{' = 0' if default else ''}" for name, (_, default) in annotations.items())
    scope: dict[str, Any] = {}
    exec(f"async def placed(self, {names}): ...", scope)
    placed = scope["placed"]
    placed.__annotations__ = {name: type_ for name, (type_, _) in annotations.items()}
    return type("Wrong", (Actor,), {"host": "wrong.example", "placed": taken(Orders.on_placed)(placed)})


@pytest.mark.parametrize(
    ("annotations", "told"),
    [
        ({"order_id": (str, False)}, "has no parameter 'total', which the event carries"),
        ({"order_id": (int, False), "total": (float, True)}, "takes 'order_id' as <class 'int'>; the event carries"),
        ({"order_id": (str, False), "total": (float, False)}, "has no default for 'total', which the event may leave"),
        (
            {"order_id": (str, False), "more": (str, False), "total": (float, True)},
            "needs 'more', which the event does not carry",
        ),
    ],
)
def test_a_sink_that_does_not_fit_its_event_is_refused(annotations: dict[str, Any], told: str) -> None:
    with pytest.raises(DeclarationError, match=f"Wrong.placed is a sink of Orders.on_placed and {told}"):
        routes_of(of_placed(**annotations))


def test_a_sink_may_take_more_than_the_event_carries() -> None:
    routes_of(of_placed(order_id=(str, False), total=(float, True), more=(int, True)))


def test_what_no_event_or_sink_can_be_is_refused() -> None:
    class Homeless(Actor):
        @sink(Orders.on_placed)
        async def placed(self, order_id: str, total: float = 0.0) -> None: ...

        @event
        async def on_done(self) -> None: ...

    class Twice(Books):
        host = "twice.example"

        @sink(Orders.on_placed)
        async def again(self, order_id: str, total: float = 0.0) -> None: ...

    with pytest.raises(DeclarationError, match="Homeless has no host: its replicas share the events by it"):
        routes_of(Homeless)
    with pytest.raises(DeclarationError, match=r"Twice\.placed and Twice\.again sink the same event"):
        routes_of(Twice)
    with pytest.raises(DeclarationError, match="Homeless has no host, so it cannot be addressed by its class"):
        _ = Homeless.on_done.url
    with pytest.raises(DeclarationError, match="an event is declared by a method whose body is `...`"):

        @event
        async def on_more(self: Actor) -> None:
            self.stop()

    with pytest.raises(TypeError, match="a reference to an @event expected"):
        sink(Orders.place)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"publish\(Orders.on_placed, ...\)"):
        Orders.on_placed("1")


# --- by hand ------------------------------------------------------------------------------------------------------------


class Reports(Actor):
    host = "reports.example"

    def __init__(self, *, ready: bool = False) -> None:
        self.ready = ready
        self.seen: list[str] = []

    async def on_start(self) -> None:
        if self.ready:
            self.activate(Reports.query)

    @endpoint(manual=True)
    async def query(self) -> str:
        return "row"

    @sink(Orders.on_veto, manual=True)
    async def veto(self, order_id: str) -> bool:
        return True

    @endpoint
    async def switch(self, *, on: bool) -> None:
        for feature in (Reports.query, Reports.veto):
            (self.activate if on else self.deactivate)(feature)

    @endpoint
    async def crash(self) -> None:
        raise ValueError

    @endpoint
    async def wrong(self) -> None:
        self.activate(Reports.crash)


async def test_what_is_manual_is_there_while_it_is_active(start: Start) -> None:
    here = await start()
    away = await start()
    ref = await here.spawn(Reports)
    await here.node.remote.flush()

    async def there(*, active: bool) -> None:
        await here.node.remote.flush()
        itself = away.at(f"{ref.cell.replica}.reports.example")
        for asked in (
            here.ask(Reports.query),
            away.ask(Reports.query),
            ref.ask(Reports.query),
            itself.ask(Reports.query),
        ):
            if active:
                assert await asked == "row"
            else:
                with pytest.raises(NoSuchActor):
                    await asked
        answers = [reply.value async for reply in away.ask_all(Orders.on_veto, "x")]
        assert answers == ([True] if active else [])

    await there(active=False)
    await here.ask(Reports.switch, on=True)
    await there(active=True)
    await here.ask(Reports.switch, on=False)
    await there(active=False)
    await here.ask(Reports.switch, on=True)
    with pytest.raises(MbactorError):
        await here.ask(Reports.crash)
    waits = asyncio.ensure_future(away.ask(Reports.query))
    with pytest.raises(NoSuchActor):
        await waits
    await there(active=False)
    with pytest.raises(
        DeclarationError, match=r"a method of Reports that is declared with manual=True expected: query"
    ):
        await here.ask(Reports.wrong)


async def test_what_one_replica_has_switched_off_another_answers_wherever_it_is(start: Start) -> None:
    here, away = await start(), await start()
    one, two = [await here.spawn(child(Reports, id=id)) for id in ("one", "two")]
    far = await away.spawn(child(Reports, id="far"))
    for ref in (one, two, far):
        await ref.ask(Reports.switch, on=True)
    for off, asks in ((one, 20), (two, 20)):
        await off.ask(Reports.switch, on=False)
        for system in (here, away):
            await system.node.remote.flush()
            assert {await system.ask(Reports.query) for _ in range(asks)} == {"row"}
    await far.ask(Reports.switch, on=False)
    with pytest.raises(NoSuchActor):
        await here.ask(Reports.query)


async def test_what_is_switched_on_and_off_under_load_is_answered_or_not_there(start: Start) -> None:
    here, away = await start(), await start()
    refs = [await system.spawn(child(Reports, id="reports")) for system in (here, away)]
    asks, over = await start(), asyncio.Event()
    outcomes = Counter[str]()

    async def load() -> None:
        while not over.is_set():
            for system in (asks, here):
                try:
                    outcomes[await system.ask(Reports.query)] += 1
                except NoSuchActor:
                    outcomes["nobody"] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(load())
        async with asyncio.timeout(60):
            for n in count():
                await refs[n % 2].ask(Reports.switch, on=n // 2 % 2 == 0)
                await here.node.remote.flush()
                if n > 60 and len(outcomes) == 2:
                    break
        over.set()
    assert {*outcomes} == {"row", "nobody"}


async def test_whoever_does_not_serve_it_any_more_is_not_missed(start: Start) -> None:
    here = await start(child(Reports, args={"ready": False}), child(Books, args={"seen": []}))
    away = await start(ack_window=0.3)
    await here.ask(Reports.switch, on=True)
    await here.node.remote.flush()

    async def answers() -> list[bool]:
        return [reply.result() async for reply in away.ask_all(Orders.on_veto, "x")]

    assert sorted(await answers()) == [False, True]
    await here.ask(Reports.switch, on=False)
    await here.node.remote.flush()
    assert await answers() == [False]
    await here.ask(Reports.switch, on=True)
    await here.node.remote.flush()
    assert sorted(await answers()) == [False, True]


async def test_what_is_activated_while_it_starts_is_there_at_once_and_again_after_a_crash(start: Start) -> None:
    await start(child(Reports, id="reports", args={"ready": True}))
    away = await start()
    assert await away.ask(Reports.query) == "row"
    with pytest.raises(MbactorError):
        await away.ask(Reports.crash)
    assert await away.ask(Reports.query) == "row"
