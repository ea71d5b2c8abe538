"""Whatever is done to a bus in whatever order: a request is delivered, or its asker is told, and nothing comes twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from mbactor.errors import Unavailable
from mbactor.transport import Bus, Delivery, LocalBus, nats_client
from mbactor.transport.nats import NatsBus
from tests.nats import NatsServer, nats_server
from tests.transport.test_nats import until

SUBJECTS = ("m.a", "m.b", "m.c")


class Receiver:
    """A subscriber: what it got, and what it must have got unless its connection was lost."""

    def __init__(self, machine: Schedules, subject: str, queue: str | None) -> None:
        self.machine = machine
        self.subject = subject
        self.queue = queue
        self.got: list[int] = []
        self.subscription = machine.there.subscribe(subject, self.receive, queue=queue)

    def receive(self, delivery: Delivery) -> None:
        assert delivery.subject == self.subject
        self.got.append(int(delivery.data))
        with suppress(Unavailable):
            self.machine.there.publish(delivery.reply or "", delivery.data)


class Schedules(RuleBasedStateMachine):
    """One publishes and the other receives; `cuttable` where there is a connection that can be lost."""

    make: ClassVar[Any]
    cuttable: ClassVar[bool]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.sent: list[int] = []
        self.answered: list[int] = []
        self.failed: list[int] = []
        self.told: set[int] = set()
        """Those that were without an answer when a connection was lost, or was there again: the server may have sent what
        came between to one that it did not know to be lost.
        """
        self.away: set[Bus] = set()
        self.receivers: list[Receiver] = []
        self.ended: list[Receiver] = []
        self.run(self.begin())

    def run(self, work: Any) -> None:
        self.loop.run_until_complete(asyncio.wait_for(work, 60))

    async def begin(self) -> None:
        self.here, self.there = type(self).make()
        for bus in {self.here, self.there}:
            await bus.connect()
            bus.when_cut(partial(self.cut, bus))
            bus.when_back(partial(self.back, bus))
        self.here.subscribe("inbox.*", self.answer)
        await self.here.flush()

    def cut(self, bus: Bus) -> None:
        self.away.add(bus)
        self.told |= {*self.sent} - {*self.answered} - {*self.failed}

    def back(self, bus: Bus) -> None:
        self.away.discard(bus)
        self.told |= {*self.sent} - {*self.answered} - {*self.failed}

    def answer(self, delivery: Delivery) -> None:
        number = int(delivery.subject.rpartition(".")[2])
        if delivery.failure is None:
            self.answered.append(number)
        else:
            assert delivery.failure == "no_responders"
            self.failed.append(number)

    @rule(subject=st.sampled_from(SUBJECTS), count=st.integers(1, 20))
    def send(self, subject: str, count: int) -> None:
        async def work() -> None:
            for _ in range(count):
                number = len(self.sent)
                with suppress(Unavailable):
                    self.here.publish(subject, b"%d" % number, reply=f"inbox.{number}")
                    self.sent.append(number)

        self.run(work())

    @rule(subject=st.sampled_from(SUBJECTS), queue=st.none() | st.sampled_from(["q", "r"]))
    def subscribe(self, subject: str, queue: str | None) -> None:
        async def work() -> None:
            self.receivers.append(Receiver(self, subject, queue))

        self.run(work())

    @rule(choice=st.integers(0, 10))
    def unsubscribe(self, choice: int) -> None:
        async def work() -> None:
            if self.cuttable and self.here._client.up:
                self.send_now()
                self.here._client._write()
                time.sleep(0.002)  # noqa: ASYNC251 - the server has sent it on, and this loop has not read it
            receiver = self.receivers.pop(choice % len(self.receivers))
            receiver.subscription.unsubscribe()
            self.ended.append(receiver)

        if self.receivers:
            self.run(work())

    @rule()
    def turn(self) -> None:
        self.run(asyncio.sleep(0))

    @rule()
    def settle(self) -> None:
        self.run(self.settled())
        self.run(self.settled())
        self.check()

    @rule(which=st.sampled_from(["here", "there"]))
    def drop(self, which: str) -> None:
        async def work() -> None:
            getattr(self, which)._client._transport.abort()

        if self.cuttable:
            self.run(work())

    @rule()
    def drain(self) -> None:
        """The receiving side ends in good order and begins anew: nothing is lost by that."""

        async def work() -> None:
            await self.settled()
            before = {*self.told}
            self.send_now()
            await self.there.close()
            self.ended += self.receivers
            self.receivers = []
            await self.there.connect()
            await self.settled()
            assert self.told == before

        if self.cuttable:
            self.run(work())

    def send_now(self) -> None:
        for subject in SUBJECTS:
            number = len(self.sent)
            self.here.publish(subject, b"%d" % number, reply=f"inbox.{number}")
            self.sent.append(number)

    async def settled(self) -> None:
        """Until both are connected and all that was on its way has come, as far as it will."""
        while True:
            if self.cuttable:
                await until(lambda: not self.away and all(bus._client.up for bus in (self.here, self.there)))
            with suppress(Unavailable):  # a connection was lost, and that is known only now
                for bus in (self.here, self.there, self.here):
                    await bus.flush()
                return

    def teardown(self) -> None:
        try:
            self.run(self.settled())
            self.run(self.settled())
            self.check()
        finally:
            self.run(self.here.close())
            self.run(self.there.close())
            self.loop.close()

    def check(self) -> None:
        everyone = [*self.receivers, *self.ended]
        delivered = {number for receiver in everyone for number in receiver.got}
        lost = {*self.sent} - delivered - {*self.failed} - self.told
        assert not lost, f"nobody was told of {sorted(lost)}"
        assert delivered - {*self.answered} <= self.told, "an answer was lost"
        assert not delivered & {*self.failed}, "delivered, and told that it was not"
        assert len(self.failed) == len({*self.failed}), "told twice that nobody was there"
        for receiver in everyone:
            assert receiver.got == sorted({*receiver.got}), f"twice, or in another order: {receiver.got}"
        for subject in SUBJECTS:
            for queue in ("q", "r"):
                of_queue = [n for one in everyone if (one.subject, one.queue) == (subject, queue) for n in one.got]
                assert len(of_queue) == len({*of_queue}), f"a queue got a message twice: {of_queue}"


def check_schedules(make: Callable[[], tuple[Bus, Bus]], examples: int, *, cuttable: bool) -> None:
    machine = type("Schedules", (Schedules,), {"make": staticmethod(make), "cuttable": cuttable})
    few = settings(
        max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    run_state_machine_as_test(machine, settings=few)


def test_schedules_of_a_bus_within_a_process() -> None:
    def make() -> tuple[Bus, Bus]:
        bus = LocalBus()
        return bus, bus

    check_schedules(make, 25, cuttable=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


def test_schedules_of_two_connections_to_a_broker(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_client, "FIRST_PAUSE", 0.002)
    check_schedules(lambda: (NatsBus(server.url), NatsBus(server.url)), 30, cuttable=True)
