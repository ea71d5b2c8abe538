"""What of an actor runs at once: one message by default, more where it says so, and one of a key in order."""

from __future__ import annotations

import asyncio
import random
from collections import Counter as Tally
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from mbactor import (
    Actor,
    ActorCrashed,
    ActorRef,
    ActorSystem,
    BudgetSpent,
    Exit,
    MbactorError,
    Response,
    child,
    endpoint,
)
from mbactor.errors import DeclarationError
from mbactor.foreman import END, Flows, Foreman, Graph, task, workflow


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


class Witness:
    """Sees what begins and ends in an actor, and how much of it goes on at once."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.ended: list[Any] = []
        self.running: Tally[Any] = Tally()
        self.peak = 0
        self.peaks: Tally[Any] = Tally()
        """For each group, the most that went on at once."""

    async def sees(self, what: Any, seconds: float, group: Any = None) -> None:
        self.begun.append(what)
        self.running[group] += 1
        self.peak = max(self.peak, self.running.total())
        self.peaks[group] = max(self.peaks[group], self.running[group])
        try:
            await asyncio.sleep(seconds)
        finally:
            self.running[group] -= 1
            self.ended.append(what)


class Watched(Actor):
    """Its methods are seen by a witness, which outlives the incarnations."""

    def __init__(self, witness: Witness) -> None:
        self.witness = witness

    async def work(self, what: Any, seconds: float, group: Any = None) -> None:
        await self.witness.sees(what, seconds, group)


async def an_actor(system: ActorSystem, cls: type[Any], **options: Any) -> tuple[ActorRef[Any], Witness]:
    witness = Witness()
    return await system.spawn(child(cls, args={"witness": witness}, **options)), witness


def now() -> float:
    return asyncio.get_running_loop().time()


async def took(work: Awaitable[Any]) -> float:
    """How many seconds it took."""
    began = now()
    await work
    return round(now() - began, 2)


# --- serial by default ---------------------------------------------------------------------------------------------


class Serial(Watched):
    host = "serial.example"

    @endpoint
    async def first(self, what: str = "first") -> None:
        await self.work(what, 1)

    @endpoint
    async def second(self, what: str = "second") -> None:
        await self.work(what, 1)

    @endpoint
    async def set_timers(self) -> None:
        self.send_every(1.5, Serial.second, "ticks")
        self.send_after(0.5, Serial.first, "rings")

    @endpoint
    async def pipe(self) -> None:
        self.pipe_to_self(asyncio.sleep(0.5, "piped"), Serial.first)

    @endpoint
    async def watch_another(self, ref: ActorRef[Any]) -> None:
        self.watch(ref)

    async def on_exit(self, ref: ActorRef[Any], exit: Exit) -> None:
        await self.work("notice", 1)

    async def on_receive_timeout(self) -> None:
        await self.work("idle", 1)

    @endpoint
    async def wait_for_idleness(self) -> None:
        self.set_receive_timeout("100ms")


async def test_asks_tells_timers_and_notices_of_an_actor_run_one_at_a_time(mbactor: ActorSystem) -> None:
    serial, witness = await an_actor(mbactor, Serial)
    other, _ = await an_actor(mbactor, Clinic, restart="temporary")
    await serial.ask(Serial.watch_another, other)
    await serial.ask(Serial.set_timers)
    await serial.ask(Serial.pipe)
    await serial.ask(Serial.wait_for_idleness)
    asks = [asyncio.ensure_future(serial.ask(one)) for one in (Serial.first, Serial.second) * 3]
    for _ in range(3):
        serial.tell(Serial.first, "told")
    asks.append(asyncio.ensure_future(mbactor.ask(Serial.first, "by class")))
    await other.stop()
    await asyncio.gather(*asks)
    await asyncio.sleep(30)
    assert set(witness.begun) == {"first", "second", "told", "by class", "ticks", "rings", "piped", "notice", "idle"}
    assert witness.peak == 1


async def test_a_serial_actor_handles_messages_of_a_sender_in_the_order_they_were_sent(mbactor: ActorSystem) -> None:
    serial, witness = await an_actor(mbactor, Serial)
    sent = [f"message {number}" for number in range(18)]
    asks: list[Any] = []
    for number, what in enumerate(sent):
        method = Serial.first if number % 2 else Serial.second
        if number % 3:
            serial.tell(method, what)
        else:
            asks.append(serial.ask(method, what))
    await asyncio.gather(*asks)
    await asyncio.sleep(5)
    assert witness.begun == witness.ended == sent


async def test_two_actors_of_a_class_run_beside_each_other(mbactor: ActorSystem) -> None:
    one, _ = await an_actor(mbactor, Serial, id="one")
    two, _ = await an_actor(mbactor, Serial, id="two")
    assert await took(asyncio.gather(one.ask(Serial.first), two.ask(Serial.first))) == 1


# --- what passes beside the gate ---------------------------------------------------------------------------------------


class Steps(Watched):
    host = "steps.example"

    @endpoint
    async def busy(self) -> None:
        await self.work("busy", 60, "gate")

    @endpoint
    async def busy_as_well(self) -> None:
        await self.work("busy too", 1, "gate")

    @task
    async def begin(self) -> dict[str, list[int]]:
        return {"items": list(range(150))}

    @task
    async def beside(self, item: int) -> None:
        await self.work("beside", 1, "task")

    @task(serial=True)
    async def in_line(self, item: int = 0) -> None:
        await self.work("in line", 1, "gate")

    @task
    async def gather(self) -> None: ...

    @workflow
    def fan(self) -> Graph:
        graph = Graph("Fan")
        graph.add_transition_for_each(Steps.begin, Steps.beside, for_each="items", as_="item")
        graph.add_transition(Steps.beside, Steps.gather)
        graph.set_fan_in(Steps.gather)
        graph.add_transition(Steps.gather, END)
        return graph

    @workflow
    def line(self) -> Graph:
        graph = Graph("Line")
        graph.add_transition(Steps.in_line, END)
        return graph


@pytest.fixture
async def flows(mbactor: ActorSystem) -> Flows:
    await mbactor.spawn(Foreman, database="sqlite://", workers=1)
    return Flows(mbactor)


async def test_tasks_and_workflows_pass_beside_a_busy_actor_sixty_four_at_once(
    mbactor: ActorSystem, flows: Flows
) -> None:
    steps, witness = await an_actor(mbactor, Steps)
    steps.tell(Steps.busy)
    await asyncio.sleep(1)
    outcome = await flows.run(Steps.fan)
    assert outcome.status == "completed", outcome.error
    assert witness.begun.count("beside") == 150
    assert witness.peaks["task"] == 64
    assert witness.running["gate"] == 1, "the actor is busy still"


async def test_a_serial_task_passes_the_gate(mbactor: ActorSystem, flows: Flows) -> None:
    steps, witness = await an_actor(mbactor, Steps)
    steps.tell(Steps.busy_as_well)
    runs = [asyncio.ensure_future(flows.run(Steps.line)) for _ in range(4)]
    steps.tell(Steps.busy_as_well)
    for run in runs:
        assert (await run).status == "completed"
    assert witness.begun.count("in line") == 4
    assert witness.peaks["gate"] == 1


class Clinic(Watched):
    """One endpoint that others pass."""

    host = "clinic.example"

    @endpoint(concurrency=3)
    async def treat(self, what: int) -> None:
        await self.work(what, 1, "treat")

    @endpoint(concurrency=1)
    async def operate(self) -> None:
        await self.work("operate", 1, "operate")

    @endpoint
    async def register(self) -> None:
        await self.work("register", 1, "register")


async def test_an_endpoint_with_concurrency_runs_so_many_at_once_beside_the_others(mbactor: ActorSystem) -> None:
    clinic, witness = await an_actor(mbactor, Clinic)
    asks = [clinic.ask(Clinic.treat, number) for number in range(9)]
    asks += [clinic.ask(Clinic.register) for _ in range(3)]
    asks += [clinic.ask(Clinic.operate) for _ in range(2)]
    assert await took(asyncio.gather(*asks)) == 3
    assert witness.peaks == {"treat": 3, "register": 1, "operate": 1}
    assert [what for what in witness.begun if isinstance(what, int)] == list(range(9)), "each begins in its turn"


async def test_tells_of_an_endpoint_with_concurrency_interleave_too(mbactor: ActorSystem) -> None:
    clinic, witness = await an_actor(mbactor, Clinic)
    for number in range(6):
        assert clinic.tell(Clinic.treat, number)
    await asyncio.sleep(2.5)
    assert (witness.begun, witness.peak, witness.running.total()) == (list(range(6)), 3, 0)


class Crowd(Watched):
    """Its endpoints share four places; one has two of its own."""

    concurrency = 4

    @endpoint
    async def one(self) -> None:
        await self.work("one", 1, "shared")

    @endpoint
    async def other(self) -> None:
        await self.work("other", 1, "shared")

    @endpoint(concurrency=2)
    async def apart(self) -> None:
        await self.work("apart", 1, "apart")


async def test_the_concurrency_of_a_class_is_shared_by_the_endpoints_without_one(mbactor: ActorSystem) -> None:
    crowd, witness = await an_actor(mbactor, Crowd)
    asks = [crowd.ask(one) for _ in range(4) for one in (Crowd.one, Crowd.other, Crowd.apart)]
    assert await took(asyncio.gather(*asks)) == 2
    assert witness.peaks == {"shared": 4, "apart": 2}


class LargerCrowd(Crowd):
    concurrency = 8


async def test_a_subclass_has_the_concurrency_that_it_declares(mbactor: ActorSystem) -> None:
    crowd, witness = await an_actor(mbactor, LargerCrowd)
    await asyncio.gather(*(crowd.ask(Crowd.one) for _ in range(20)))
    assert witness.peak == 8


# --- one of a key at a time -----------------------------------------------------------------------------------------


class Orders(Watched):
    host = "orders.example"

    @endpoint(concurrency=8, key="order_id")
    async def place(self, order_id: Any, number: int = 0, seconds: float = 1.0) -> None:
        await self.work((order_id, number), seconds, str(order_id))

    @endpoint(concurrency=8, key="order_id")
    async def fail(self, order_id: str, number: int = 0) -> None:
        await self.work((order_id, number), 1, order_id)
        raise ValueError(order_id)

    @endpoint
    async def read(self) -> None:
        await self.work("read", 0)


async def test_messages_of_a_key_run_one_at_a_time_in_order_and_others_pass(mbactor: ActorSystem) -> None:
    orders, witness = await an_actor(mbactor, Orders)
    asks = [orders.ask(Orders.place, "a", number) for number in range(4)]
    asks += [orders.ask(Orders.place, f"b{number}", number, 0.5) for number in range(5)]
    await asyncio.sleep(0.7)
    assert sorted(one for one in witness.ended if one[0] != "a") == [(f"b{number}", number) for number in range(5)]
    assert await took(asyncio.gather(*asks)) == pytest.approx(3.3)
    assert set(witness.peaks.values()) == {1}
    assert [number for key, number in witness.begun if key == "a"] == [0, 1, 2, 3]
    assert witness.peak == 6


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_comes_in_whatever_order_a_key_is_in_flight_once_and_no_place_is_idle(
    mbactor: ActorSystem, seed: int
) -> None:
    chance = random.Random(seed)
    orders, witness = await an_actor(mbactor, Orders)
    sent: list[tuple[str, int]] = []
    asks: list[Any] = []
    for number in range(120):
        key = f"k{chance.randrange(12)}"
        sent.append((key, number))
        seconds = chance.choice([0.0, 0.1, 0.7])
        if chance.random() < 0.5:
            orders.tell(Orders.place, key, number, seconds)
        else:
            asks.append(asyncio.ensure_future(orders.ask(Orders.place, key, number, seconds)))
            await asyncio.sleep(chance.choice([0, 0, 0.02]))
    await asyncio.gather(*asks)
    while len(witness.ended) < len(sent):
        await asyncio.sleep(1)
    assert set(witness.peaks.values()) == {1}
    assert witness.peak == 8
    for key in {key for key, _ in sent}:
        expected = [number for one, number in sent if one == key]
        assert [number for one, number in witness.begun if one == key] == expected


class Ledger(Watched):
    concurrency = 6

    @endpoint(key="account")
    async def pay(self, account: str) -> None:
        await self.work("pay", 1, account)

    @endpoint(key="account")
    async def receive(self, amount: int, account: str) -> None:
        await self.work("receive", 1, account)

    @endpoint(key="owner")
    async def rename(self, owner: str) -> None:
        await self.work("rename", 1, f"owner {owner}")

    @endpoint
    async def read(self) -> None:
        await self.work("read", 1, "read")


async def test_two_endpoints_with_the_same_key_share_the_order_within_the_concurrency_of_the_class(
    mbactor: ActorSystem,
) -> None:
    ledger, witness = await an_actor(mbactor, Ledger)
    both = [ledger.ask(Ledger.pay, "a"), ledger.ask(Ledger.receive, 5, account="a"), ledger.ask(Ledger.pay, "b")]
    assert await took(asyncio.gather(*both)) == 2
    assert witness.peaks == {"a": 1, "b": 1}


async def test_keys_of_different_parameters_and_messages_without_a_key_do_not_wait_for_each_other(
    mbactor: ActorSystem,
) -> None:
    ledger, witness = await an_actor(mbactor, Ledger)
    asks = [ledger.ask(Ledger.pay, "a"), ledger.ask(Ledger.rename, "a")] + [ledger.ask(Ledger.read) for _ in range(4)]
    assert await took(asyncio.gather(*asks)) == 1
    assert witness.peaks == {"a": 1, "owner a": 1, "read": 4}


@pytest.mark.parametrize("key", [["a", 1], {"a": [1]}, None, 7, 2**80, "ä"])
async def test_any_value_may_be_a_key(mbactor: ActorSystem, key: Any) -> None:
    orders, witness = await an_actor(mbactor, Orders)
    assert await took(asyncio.gather(*(orders.ask(Orders.place, key, number) for number in range(3)))) == 3
    assert witness.peak == 1


class Defaults(Watched):
    @endpoint(concurrency=8, key="shelf")
    async def put(self, what: int, shelf: str = "main") -> None:
        await self.work(what, 1, shelf)


async def test_an_argument_left_out_is_the_key_that_its_default_is(mbactor: ActorSystem) -> None:
    shelves, witness = await an_actor(mbactor, Defaults)
    asks = [shelves.ask(Defaults.put, 1), shelves.ask(Defaults.put, 2, "main"), shelves.ask(Defaults.put, 3, "other")]
    await asyncio.gather(*asks)
    assert witness.peaks == {"main": 1, "other": 1}


async def test_a_message_that_comes_as_bytes_has_its_key_too(mbactor: ActorSystem) -> None:
    orders, witness = await an_actor(mbactor, Orders)
    url = "https://orders.example/place"
    requests: list[Awaitable[Response]] = [
        mbactor.request("POST", url, {"order_id": "a", "number": number}) for number in range(2)
    ]
    requests += [mbactor.request("GET", f"{url}?order_id=a&number=2")]
    asked = asyncio.ensure_future(orders.ask(Orders.place, "a", 3))
    for response in await asyncio.gather(*requests):
        assert response.status == 200
    await asked
    assert witness.peak == 1
    assert [number for _, number in witness.begun] == [0, 1, 2, 3]


# --- keys are released, however a message ends --------------------------------------------------------------------------


async def test_a_key_is_released_by_a_crash(mbactor: ActorSystem) -> None:
    orders, witness = await an_actor(mbactor, Orders)
    asks = [asyncio.ensure_future(orders.ask(Orders.fail, "a", number)) for number in range(3)]
    for ask in asks:
        with pytest.raises(ActorCrashed, match="ValueError: a"):
            await ask
    assert [number for _, number in witness.begun] == [0, 1, 2]
    assert witness.peak == 1


async def test_a_key_is_released_by_an_answer_that_is_an_error(mbactor: ActorSystem) -> None:
    refusing, witness = await an_actor(mbactor, Refusing)
    asks = [asyncio.ensure_future(refusing.ask(Refusing.refuse, "a")) for _ in range(2)]
    for ask in asks:
        with pytest.raises(MbactorError, match="no"):
            await ask
    assert witness.peak == 1


class Refusing(Watched):
    @endpoint(concurrency=8, key="key")
    async def refuse(self, key: str) -> None:
        await self.work("refuse", 1, key)
        raise MbactorError("no", status=409)


async def test_a_key_is_released_when_its_message_is_cancelled_at_the_deadline(mbactor: ActorSystem) -> None:
    orders, witness = await an_actor(mbactor, Orders)
    began = now()
    late = asyncio.ensure_future(_within(0.5, orders, "a", 1, 3600.0))
    await asyncio.sleep(0.1)
    next_one = asyncio.ensure_future(orders.ask(Orders.place, "a", 2))
    with pytest.raises(TimeoutError):
        await late
    await next_one
    assert now() - began == pytest.approx(1.5, abs=0.01)
    assert (witness.ended, witness.peak) == ([("a", 1), ("a", 2)], 1)


async def test_a_message_of_a_key_that_expires_in_line_lets_the_next_of_the_key_pass(mbactor: ActorSystem) -> None:
    orders, witness = await an_actor(mbactor, Orders)
    first = asyncio.ensure_future(orders.ask(Orders.place, "a", 1, 2.0))
    await asyncio.sleep(0.01)
    expires = asyncio.ensure_future(_within(1, orders, "a", 2, 1.0))
    await asyncio.sleep(0.01)
    third = asyncio.ensure_future(orders.ask(Orders.place, "a", 3))
    with pytest.raises(TimeoutError):
        await expires
    await asyncio.gather(first, third)
    assert witness.begun == [("a", 1), ("a", 3)]


async def _within(limit: float, orders: ActorRef[Orders], key: str, number: int, seconds: float) -> None:
    with anyio.fail_after(limit):
        await orders.ask(Orders.place, key, number, seconds)


async def test_a_cancelled_ask_in_line_lets_the_next_of_its_key_pass(mbactor: ActorSystem) -> None:
    orders, witness = await an_actor(mbactor, Orders)
    asks = [asyncio.ensure_future(orders.ask(Orders.place, "a", number)) for number in range(4)]
    await asyncio.sleep(0.1)
    asks[1].cancel()
    asks[2].cancel()
    await asyncio.gather(asks[0], asks[3])
    assert witness.begun == [("a", 0), ("a", 3)]


class Patient(Watched):
    """Stashes what comes before it is ready."""

    def __init__(self, witness: Witness) -> None:
        super().__init__(witness)
        self.ready = False

    @endpoint(concurrency=8, key="key")
    async def serve(self, key: str, number: int) -> None:
        if not self.ready:
            self.stash()
        await self.work((key, number), 1, key)

    @endpoint
    async def begin(self) -> int:
        self.ready = True
        return self.unstash_all()


async def test_a_key_is_released_by_a_stash_and_its_order_is_kept(mbactor: ActorSystem) -> None:
    patient, witness = await an_actor(mbactor, Patient)
    asks = [asyncio.ensure_future(patient.ask(Patient.serve, key, number)) for number in range(3) for key in "ab"]
    await asyncio.sleep(1)
    assert await patient.ask(Patient.begin) == 6
    await asyncio.gather(*asks)
    assert [number for key, number in witness.begun if key == "a"] == [0, 1, 2]
    assert (witness.peaks, witness.peak) == ({"a": 1, "b": 1}, 2)


class Brittle(Watched):
    concurrency = 8
    on_error = "restart"

    @endpoint(key="key")
    async def serve(self, key: str, number: int) -> None:
        await self.work((key, number), 1, key)

    @endpoint
    async def boom(self) -> None:
        raise ValueError("boom")


async def test_keys_are_released_by_a_restart_and_what_waited_is_handled_in_order(mbactor: ActorSystem) -> None:
    brittle, witness = await an_actor(mbactor, Brittle)
    cut = [asyncio.ensure_future(brittle.ask(Brittle.serve, key, 0)) for key in "abc"]
    await asyncio.sleep(0.5)
    behind = [asyncio.ensure_future(brittle.ask(Brittle.serve, key, number)) for number in (1, 2) for key in "abc"]
    await asyncio.sleep(0)
    with pytest.raises(ActorCrashed, match="boom"):
        await brittle.ask(Brittle.boom)
    for ask in cut:
        with pytest.raises(ActorCrashed):
            await ask
    await asyncio.gather(*behind)
    assert set(witness.peaks.values()) == {1}
    for one in "abc":
        assert [number for key, number in witness.begun if key == one] == [0, 1, 2]


class Stubborn(Watched):
    concurrency = 8
    on_error = "restart"

    @endpoint(key="key")
    async def hold_on(self, key: str) -> None:
        try:
            await self.work("held", 3600)
        except asyncio.CancelledError:
            await self.work("swallowed", 0.4)

    @endpoint(key="key")
    async def serve(self, key: str) -> None:
        await self.work("served", 1, key)

    @endpoint
    async def boom(self) -> None:
        raise ValueError("boom")


async def test_a_message_that_swallows_its_cancellation_releases_no_key_of_the_next_incarnation(
    mbactor: ActorSystem,
) -> None:
    stubborn, witness = await an_actor(mbactor, Stubborn)
    stubborn.tell(Stubborn.hold_on, "a")
    await asyncio.sleep(0.1)
    asks = [asyncio.ensure_future(stubborn.ask(Stubborn.serve, "a")) for _ in range(2)]
    with pytest.raises(ActorCrashed):
        await stubborn.ask(Stubborn.boom)
    await asyncio.gather(*asks)
    assert witness.begun == ["held", "swallowed", "served", "served"]
    assert witness.peaks["a"] == 1


# --- what cannot be ---------------------------------------------------------------------------------------------------


def _key_is_no_parameter() -> type[Actor]:
    class Orders(Actor):
        @endpoint(concurrency=8, key="oder_id")
        async def place(self, order_id: str, count: int) -> None: ...

    return Orders


def _key_on_a_serial_endpoint() -> type[Actor]:
    class Orders(Actor):
        @endpoint(key="order_id")
        async def place(self, order_id: str) -> None: ...

    return Orders


def _key_on_an_endpoint_with_one_place() -> type[Actor]:
    class Orders(Actor):
        @endpoint(concurrency=1, key="order_id")
        async def place(self, order_id: str) -> None: ...

    return Orders


def _key_without_parameters() -> type[Actor]:
    class Orders(Actor):
        concurrency = 4

        @endpoint(key="order_id")
        async def place(self) -> None: ...

    return Orders


def _concurrency_of_none() -> type[Actor]:
    class Orders(Actor):
        @endpoint(concurrency=0)
        async def place(self, order_id: str) -> None: ...

    return Orders


def _concurrency_that_is_no_number() -> type[Actor]:
    class Orders(Actor):
        @endpoint(concurrency="8")  # type: ignore[call-overload, untyped-decorator]
        async def place(self, order_id: str) -> None: ...

    return Orders


def _key_that_is_no_name() -> type[Actor]:
    class Orders(Actor):
        @endpoint(concurrency=8, key=1)  # type: ignore[call-overload, untyped-decorator]
        async def place(self, order_id: str) -> None: ...

    return Orders


def _class_concurrency_of_none() -> type[Actor]:
    class Orders(Actor):
        concurrency = 0

        @endpoint
        async def place(self, order_id: str) -> None: ...

    return Orders


def _class_concurrency_that_is_true() -> type[Actor]:
    class Orders(Actor):
        concurrency = True

        @endpoint
        async def place(self, order_id: str) -> None: ...

    return Orders


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (_key_is_no_parameter, r"Orders\.place: key 'oder_id' is no parameter of it; it has order_id, count"),
        (_key_without_parameters, r"Orders\.place: key 'order_id' is no parameter of it; it has none"),
        (
            _key_on_a_serial_endpoint,
            r"Orders\.place: key 'order_id' says nothing while its messages run one at a time;.*concurrency above 1",
        ),
        (
            _key_on_an_endpoint_with_one_place,
            r"Orders\.place: key 'order_id' says nothing while its messages run one at a time;.*concurrency above 1",
        ),
        (_key_that_is_no_name, r"Orders\.place: key 1: the name of a parameter expected"),
        (_concurrency_of_none, r"Orders\.place: concurrency 0: a whole number >= 1 expected"),
        (_concurrency_that_is_no_number, r"Orders\.place: concurrency '8': a whole number >= 1 expected"),
        (_class_concurrency_of_none, r"Orders\.concurrency = 0: a whole number >= 1 expected"),
        (_class_concurrency_that_is_true, r"Orders\.concurrency = True: a whole number >= 1 expected"),
    ],
)
async def test_a_declaration_that_cannot_be_says_where_what_and_why(
    mbactor: ActorSystem, declare: Callable[[], type[Actor]], message: str
) -> None:
    with pytest.raises(DeclarationError, match=message):
        await mbactor.spawn(declare())


async def test_the_budget_of_a_call_runs_while_it_waits_behind_its_key(mbactor: ActorSystem) -> None:
    orders, witness = await an_actor(mbactor, Orders)
    orders.tell(Orders.place, "a", 1, 100.0)
    began = now()
    with pytest.raises(BudgetSpent):
        await orders.ask(Orders.place, "a", 2)
    assert now() - began == pytest.approx(20, abs=0.01)
    assert witness.begun == [("a", 1)]


class Napping(Serial):
    @endpoint
    async def ask_soon(self, ended: ActorRef[Any]) -> None:
        self.spawn_task(self._ask_and_watch(ended))

    async def _ask_and_watch(self, ended: ActorRef[Any]) -> None:
        await asyncio.sleep(60)
        began, ask = now(), self.ref.ask(Serial.first)
        self.watch(ended)
        try:
            await ask
        except BudgetSpent:
            self.witness.ended.append(now() - began)

    async def on_exit(self, ref: ActorRef[Any], exit: Exit) -> None:
        await self.work("notice", 100)


async def test_the_budget_of_an_ask_runs_while_a_notice_passes_it(mbactor: ActorSystem) -> None:
    napping, witness = await an_actor(mbactor, Napping)
    other, _ = await an_actor(mbactor, Clinic, restart="temporary")
    await other.stop()
    await napping.ask(Napping.ask_soon, other)
    await asyncio.sleep(200)
    assert witness.begun == ["notice"]
    assert witness.ended[0] == pytest.approx(20, abs=0.01)


class Forgetful(Patient):
    @endpoint(concurrency=1)
    async def serve_late(self, number: int) -> None:
        if not self.ready:
            self.stash()
        await self.work(number, 100)

    @endpoint
    async def ask_soon(self) -> None:
        self.spawn_task(self._ask_and_unstash())

    async def _ask_and_unstash(self) -> None:
        await asyncio.sleep(60)
        self.ready = True
        began, ask = now(), self.ref.ask(Forgetful.serve_late, 2)
        self.unstash_all()
        try:
            await ask
        except BudgetSpent:
            self.witness.ended.append(now() - began)


async def test_the_budget_of_an_ask_runs_while_what_was_stashed_passes_it(mbactor: ActorSystem) -> None:
    forgetful, witness = await an_actor(mbactor, Forgetful)
    forgetful.tell(Forgetful.serve_late, 1)
    await forgetful.ask(Forgetful.ask_soon)
    await asyncio.sleep(200)
    assert witness.begun == [1]
    assert witness.ended[0] == pytest.approx(20, abs=0.01)
