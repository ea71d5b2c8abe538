"""A probe has the address and the signatures of a class, keeps what it is sent, and answers by script."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Any

import msgspec
import pytest

from mbactor import (
    Actor,
    ActorCrashed,
    ActorSystem,
    BadRequest,
    BudgetSpent,
    MailboxFull,
    MbactorError,
    endpoint,
    event,
    sink,
)
from mbactor.foreman import END, Flows, Foreman, Graph, task, workflow
from mbactor.mailbox import Mailbox
from mbactor.testing import Probes


class Letter(msgspec.Struct):
    to: str
    pages: int = 1


class Mail(Actor):
    host = "mail.example"
    running = 0

    def __init__(self, server: str) -> None:
        raise AssertionError("nothing of the class's own code runs")

    async def on_start(self) -> None:
        raise AssertionError("nothing of the class's own code runs")

    @endpoint
    async def send(self, letter: Letter, urgent: bool = False) -> str:
        raise AssertionError("nothing of the class's own code runs")

    @endpoint
    def forget(self, to: str) -> None:
        raise AssertionError("nothing of the class's own code runs")


class Shop(Actor):
    @endpoint
    async def sell(self, to: str) -> str:
        self.tell(Mail.forget, to)
        return await self.ask(Mail.send, Letter(to), urgent=True)


class Orders(Actor):
    host = "orders.example"

    @event
    async def on_placed(self, order_id: str) -> None: ...

    @endpoint
    async def place(self, order_id: str) -> bool:
        return self.publish(Orders.on_placed, order_id=order_id)


class Audit(Actor):
    host = "audit.example"

    @sink(Orders.on_placed)
    async def placed(self, order_id: str) -> None:
        raise AssertionError("nothing of the class's own code runs")


class Store(Actor, ABC):
    @endpoint
    @abstractmethod
    async def read(self, key: str) -> str: ...

    @abstractmethod
    def path(self) -> str: ...


class Work(Actor):
    host = "work.example"

    @task
    async def step(self) -> None: ...

    @task(serial=True)
    async def next_step(self) -> None: ...

    @endpoint
    async def start(self, what: str) -> str:
        raise AssertionError("nothing of the class's own code runs")

    @workflow
    def flow(self) -> Graph:
        raise AssertionError("nothing of the class's own code runs")


class Steps(Actor):
    host = "steps.example"

    @workflow
    def first(self) -> Graph:
        graph = Graph("First")
        graph.add_transition(Work.step, END)
        return graph

    @workflow
    def second(self) -> Graph:
        graph = Graph("Second")
        graph.add_transition(Work.next_step, END)
        return graph


async def test_a_probe_is_reached_by_class_and_keeps_what_it_gets(mbactor: ActorSystem, mbactor_probe: Probes) -> None:
    mail = await mbactor_probe(Mail)
    mail.reply(Mail.send, "queued")
    shop = await mbactor.spawn(Shop)
    assert await shop.ask(Shop.sell, "ada") == "queued"
    assert not (await mail.expect(Mail.forget, to="ada")).asked
    sent = await mail.expect(Mail.send, letter=Letter("ada"))
    assert (sent.asked, sent.arguments["urgent"]) == (True, True)
    assert [str(one) for one in mail.received] == [
        "forget(to='ada')",
        "send(letter=Letter(to='ada', pages=1), urgent=True)",
    ]
    await mail.expect_none("1h")


async def test_a_script_is_followed_and_its_last_reply_stays(mbactor: ActorSystem, mbactor_probe: Probes) -> None:
    mail = await mbactor_probe(Mail)

    async def slow(letter: Letter, urgent: bool = False) -> str:
        await asyncio.sleep(5)
        return f"{letter.pages} pages, {urgent}"

    mail.reply(Mail.send, "one", MbactorError("no stamps", status=402), slow, lambda letter, urgent=False: "last")
    assert await mbactor.ask(Mail.send, Letter("a")) == "one"
    with pytest.raises(MbactorError, match="no stamps"):
        await mbactor.ask(Mail.send, Letter("a"))
    assert await mbactor.ask(Mail.send, Letter("a", 3)) == "3 pages, False"
    assert [await mbactor.ask(Mail.send, Letter("a")) for _ in range(2)] == ["last", "last"]
    await mbactor.ask(Mail.forget, "a")


async def test_a_scripted_crash_is_a_crash_and_the_probe_goes_on(mbactor: ActorSystem, mbactor_probe: Probes) -> None:
    mail = await mbactor_probe(Mail)
    mail.reply(Mail.send, ValueError("torn"), "mended")
    with pytest.raises(ActorCrashed, match="torn"):
        await mbactor.ask(Mail.send, Letter("a"))
    assert await mbactor.ask(Mail.send, Letter("a")) == "mended"
    assert len(mail.received) == 2


async def test_a_script_that_hangs_costs_the_asker_its_budget(mbactor: ActorSystem, mbactor_probe: Probes) -> None:
    mail = await mbactor_probe(Mail)

    async def for_ever(letter: Letter, urgent: bool = False) -> str:
        await asyncio.Event().wait()
        return ""

    mail.reply(Mail.send, for_ever)
    began = asyncio.get_running_loop().time()
    with pytest.raises(BudgetSpent):
        await mbactor.ask(Mail.send, Letter("a"))
    assert asyncio.get_running_loop().time() - began == pytest.approx(20, abs=0.01)


async def test_without_a_script_only_a_method_without_a_result_answers(
    mbactor: ActorSystem, mbactor_probe: Probes
) -> None:
    await mbactor_probe(Mail)
    await mbactor.ask(Mail.forget, "a")
    with pytest.raises(MbactorError, match=r"Mail has no reply to send: say probe.reply\(Mail.send, ...\)"):
        await mbactor.ask(Mail.send, Letter("a"))


async def test_wrong_arguments_are_the_same_400_as_with_the_class(mbactor: ActorSystem, mbactor_probe: Probes) -> None:
    mail = await mbactor_probe(Mail)
    wrong: Any = {"letter": {"to": 5}}
    with pytest.raises(BadRequest, match=r"\$.letter.to"):
        await mbactor.ask(Mail.send, **wrong)
    assert not mail.received


async def test_expect_says_what_came_instead(mbactor: ActorSystem, mbactor_probe: Probes) -> None:
    mail = await mbactor_probe(Mail)
    mbactor.tell(Mail.forget, "ada")
    with pytest.raises(AssertionError, match=r"Mail got forget\(to='ada'\), forget\(to='bob'\) was expected"):
        await mail.expect(Mail.forget, to="bob")
    with pytest.raises(AssertionError, match=r"Mail got nothing within 3h, any message\(\) was expected"):
        await mail.expect(within="3h")
    mbactor.tell(Mail.forget, "eve")
    with pytest.raises(AssertionError, match=r"Mail got forget\(to='eve'\), nothing was expected"):
        await mail.expect_none()


async def test_what_never_comes_to_a_probe_is_refused(mbactor: ActorSystem, mbactor_probe: Probes) -> None:
    """It was taken, and lay unused."""

    class Work(Actor):
        host = "work.example"

        @task
        async def verify(self, order: int) -> dict[str, int]:
            return {}

    mail, work = await mbactor_probe(Mail), await mbactor_probe(Work)
    with pytest.raises(TypeError, match=r"reply\(Shop.sell\): an endpoint or a sink of Mail expected"):
        mail.reply(Shop.sell, "sold")
    with pytest.raises(TypeError, match=r"reply\(Work.verify\): an endpoint or a sink of Work expected"):
        work.reply(Work.verify, {})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"expect\(Shop.sell\): an endpoint"):
        await mail.expect(Shop.sell)
    with pytest.raises(TypeError, match=r"fish\(Shop.sell\): an endpoint"):
        await mail.fish(Shop.sell)
    with pytest.raises(TypeError, match=r"reply\('send'\): an endpoint or a sink of Mail expected"):
        mail.reply("send", "sent")  # type: ignore[arg-type]


async def test_fish_passes_what_it_does_not_look_for(mbactor: ActorSystem, mbactor_probe: Probes) -> None:
    mail = await mbactor_probe(Mail)
    for name in ("ada", "bob", "eve"):
        mbactor.tell(Mail.forget, name)
    assert (await mail.fish(Mail.forget, to="bob")).arguments == {"to": "bob"}
    with pytest.raises(AssertionError, match=r"no forget\(to='zoe'\) within 1m; it got forget\(to='eve'\)"):
        await mail.fish(Mail.forget, within="1m", to="zoe")


async def test_a_probe_takes_the_options_of_a_child(mbactor: ActorSystem, mbactor_probe: Probes) -> None:
    mail = await mbactor_probe(Mail, id="small", mailbox=Mailbox(1))
    release = asyncio.Event()

    async def held(letter: Letter, urgent: bool = False) -> str:
        await release.wait()
        return "sent"

    mail.reply(Mail.send, held)
    asks = [asyncio.ensure_future(mbactor.ask(Mail.send, Letter("a")))]
    await mail.expect(Mail.send)
    asks += [asyncio.ensure_future(mbactor.ask(Mail.send, Letter("a"))) for _ in range(2)]
    with pytest.raises(MailboxFull):
        await asks[2]
    release.set()
    assert await asyncio.gather(*asks[:2]) == ["sent", "sent"]
    assert mail.ref.id == "small"


async def test_the_endpoints_of_a_class_with_tasks_are_stood_in_for_and_its_tasks_say_what_to_do(
    mbactor: ActorSystem, mbactor_probe: Probes
) -> None:
    work = await mbactor_probe(Work)
    work.reply(Work.start, "started")
    assert await mbactor.ask(Work.start, "it") == "started"
    await mbactor.spawn(Foreman)
    await mbactor.spawn(Steps)
    for workflow_, task_ in ((Steps.first, "step"), (Steps.second, "next_step")):
        outcome = await Flows(mbactor).run(workflow_)
        assert outcome.status == "failed"
        assert str(outcome.failure).startswith(f"Work.{task_} is a task or a workflow, and a probe stands in for Work")
    with pytest.raises(MbactorError, match=r"Work\.flow is a task or a workflow, and a probe stands in for Work"):
        await Flows(mbactor).create(Work.flow)
    assert [one.method for one in work.received] == ["start"]


async def test_a_probe_of_a_sink_gets_the_events(mbactor: ActorSystem, mbactor_probe: Probes) -> None:
    orders = await mbactor.spawn(Orders)
    audit = await mbactor_probe(Audit)
    assert await orders.ask(Orders.place, "17")
    assert not (await audit.expect(Audit.placed, order_id="17")).asked
    await audit.expect_none()


async def test_a_probe_of_who_publishes_gets_none_of_its_events(mbactor: ActorSystem, mbactor_probe: Probes) -> None:
    real = await mbactor.spawn(Orders)
    orders, audit = await mbactor_probe(Orders), await mbactor_probe(Audit)
    assert await real.ask(Orders.place, "17")
    await audit.expect(Audit.placed)
    await orders.expect_none()


async def test_a_probe_stands_in_for_an_abstract_class(mbactor: ActorSystem, mbactor_probe: Probes) -> None:
    unfinished: Any = Store
    store = await mbactor_probe(unfinished)
    store.reply(Store.read, "seventeen")
    assert await store.ref.ask(Store.read, "17") == "seventeen"
