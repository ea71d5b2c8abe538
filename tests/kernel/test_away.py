"""A replica that is full, or in a long backoff, leaves its queue groups to another, of whichever process, that has room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mbactor import (
    Actor,
    ActorRef,
    ActorSystem,
    Backoff,
    Mailbox,
    MbactorError,
    Supervisor,
    Unavailable,
    child,
    endpoint,
    observe,
)
from mbactor.errors import ActorCrashed, ActorRestarting, MailboxFull, NoSuchActor
from mbactor.kernel.presence import Presence
from mbactor.testing import Recorder
from mbactor.transport import LocalBus, peers
from tests.kernel.conftest import Start
from tests.kernel.desk import PATIENCE, Bell, until
from tests.kernel.desk import Desk as Plain
from tests.nats import nats_server

pytestmark = pytest.mark.anyio

MANY = 200
ROOM = 8


class Desk(Plain):
    @endpoint(queue="every")
    async def each(self) -> str:
        return self.name

    @endpoint(manual=True)
    async def extra(self) -> str:
        return self.name

    @endpoint
    async def open_extra(self, on: bool) -> None:
        (self.activate if on else self.deactivate)(Desk.extra)


class Office(Supervisor):
    """Of one desk."""


@pytest.fixture
async def desks(start: Start) -> AsyncIterator[Desks]:
    """After the systems, and gone before them."""
    made = Desks()
    yield made
    await made.let_go()


class Told(Recorder):
    wants_spans = False


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is taken for gone because a machine is slow."""
    monkeypatch.setattr(peers, "WITHIN", PATIENCE)


@pytest.fixture
async def told() -> AsyncIterator[Told]:
    recorder = Told(asyncio.get_running_loop())
    with observe.observing(recorder):
        yield recorder


class Desks:
    """Desks of several systems, what they have heard, and what keeps them."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []
        self.go_on = asyncio.Event()
        self.held: list[Any] = []
        self.offices: dict[str, Office] = {}

    async def fill(self, ref: ActorRef[Desk]) -> None:
        """More than it can take: the last of it is refused."""
        self.held.append(ref.ask(Desk.hold))
        await until(lambda: not ref.cell.statistics().depth)
        self.held += [ref.ask(Desk.hold) for _ in range(ROOM)]
        with pytest.raises(MailboxFull):
            await ref.ask(Desk.hold)

    async def let_go(self) -> None:
        self.go_on.set()
        await asyncio.gather(*self.held, return_exceptions=True)

    async def add(self, system: ActorSystem, name: str) -> ActorRef[Desk]:
        """One that is away for an hour when it falls."""
        args = {"name": name, "heard": self.heard, "go_on": self.go_on}
        desk = child(Desk, id=name, args=args, backoff=Backoff("1h", "1h"), mailbox=Mailbox(capacity=ROOM))
        office = await system.spawn(child(Office, id=f"office-{name}", args={"children": (desk,)}))
        assert isinstance(office, Office)
        self.offices[name] = office
        await system.node.remote.flush()
        [row] = office.which_children()
        assert isinstance(row.ref, ActorRef)
        return row.ref


def presence(ref: ActorRef[Desk]) -> Presence:
    served = ref.cell.served
    assert served is not None
    return served.presence


def presence_of(was: Presence) -> tuple[Any, Any]:
    return was._timer, was.away


async def fall(ref: ActorRef[Desk]) -> None:
    with pytest.raises(ActorCrashed):
        await ref.ask(Desk.fall)
    await until(lambda: not ref.cell.takes("where"))


async def left(told: Told, ref: ActorRef[Desk], reason: str) -> None:
    """Until it has left, and the others know it."""
    found = await told.wait_for("actor.left", within=PATIENCE, actor=ref.cell.address)
    assert found.fields["reason"] == reason
    assert found.fields["methods"] == ["fall", "hold", "note", "open_extra", "rung", "where"]
    await ref.cell.node.remote.flush()


def dead(*systems: ActorSystem) -> list[str]:
    return [f"{letter.method}: {letter.reason}" for system in systems for letter in system.dead_letters]


async def all_is_heard_by(name: str, desks: Desks, *systems: ActorSystem) -> None:
    """What any of the systems tells, publishes and asks is heard there, and nothing is lost."""

    def heard(many: int) -> bool:
        return len(desks.heard) == many or bool(dead(*systems))

    for system in systems:
        desks.heard.clear()
        for n in range(MANY):
            system.tell(Desk.note, n)
            system.publish(Bell.on_rung, n)
            await asyncio.sleep(0)
            if n % 2:  # no faster than what a mailbox can hold
                await until(partial(heard, 2 * n + 2))
        assert dead(*systems) == []
        assert sorted(desks.heard) == sorted((name, n) for n in range(MANY) for _ in range(2))
        assert {await system.ask(Desk.where) for _ in range(ROOM)} == {name}
        assert (await system.request("POST", "https://desk.example/where")).json() == name


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("reason", ["full", "restarting"])
async def test_what_one_cannot_take_another_process_has_until_it_is_back(
    start: Start, desks: Desks, told: Told, reason: str
) -> None:
    asks, one, two = await start(), await start(), await start()
    bad, _ = await desks.add(one, "bad"), await desks.add(two, "good")
    if reason == "full":
        await desks.fill(bad)
        await left(told, bad, reason)
        await all_is_heard_by("good", desks, asks, one, two)
        await desks.let_go()
    else:
        await fall(bad)
        await left(told, bad, reason)
        await all_is_heard_by("good", desks, asks, one, two)
        await desks.offices["bad"].renew_child("bad")
    back = await told.wait_for("actor.back", within=PATIENCE, actor=bad.cell.address)
    assert back.fields["reason"] == "room"
    await one.node.remote.flush()
    assert presence(bad)._timer is None
    assert {await asks.ask(Desk.where) for _ in range(100)} == {"bad", "good"}
    assert dead(asks, one, two) == []


@pytest.mark.usefixtures("patient")
async def test_one_in_a_backoff_of_an_hour_is_not_told_what_another_process_can_take(
    start: Start, desks: Desks, told: Told
) -> None:
    asks, one, two = await start(), await start(), await start()
    bad, _ = await desks.add(one, "bad"), await desks.add(two, "good")
    await fall(bad)
    await left(told, bad, "restarting")
    await all_is_heard_by("good", desks, asks, one, two)
    # It is still told what is for it, and asked what is for each.
    with pytest.raises(ActorRestarting):
        await asks.node.remote.ask("desk.example", bad.cell.replica, Desk.where, (), {})
    replies = [reply.error or reply.value async for reply in asks.ask_all(Desk.each)]
    assert sorted(str(type(one)) for one in replies) == sorted([str(ActorRestarting), str(str)])
    assert [reply.value async for reply in asks.ask_all(Desk.where)] == ["good"]


@pytest.mark.parametrize("reason", ["full", "restarting"])
async def test_alone_it_stays_and_says_why_it_takes_nothing(
    start: Start, desks: Desks, told: Told, reason: str
) -> None:
    asks, one = await start(), await start()
    bad = await desks.add(one, "bad")
    await (desks.fill(bad) if reason == "full" else fall(bad))
    for _ in range(2):
        assert not presence(bad).away
        for system in (asks, one):
            with pytest.raises(MailboxFull if reason == "full" else ActorRestarting):
                await system.ask(Desk.where)
        await until(lambda: not presence(bad)._groups.asking)
    assert told.find("actor.left") == []
    # As soon as there is another, it leaves.
    await desks.add(asks, "good")
    async with asyncio.timeout(PATIENCE):
        while not told.find("actor.left"):
            bad.tell(Desk.note, 1)
            await asyncio.sleep(0.01)


async def test_two_that_cannot_take_messages_do_not_both_leave(start: Start, desks: Desks, told: Told) -> None:
    asks, systems = await start(), [await start() for _ in range(2)]
    refs = [await desks.add(system, system.name) for system in systems]
    await asyncio.gather(*(fall(ref) for ref in refs))
    for _ in range(2):
        for ref in refs:
            ref.tell(Desk.note, 1)
        await until(lambda: not any(presence(ref)._groups.asking for ref in refs))
        assert not all(presence(ref).away for ref in refs)
        with pytest.raises(ActorRestarting):
            await asks.ask(Desk.where)


@pytest.mark.usefixtures("patient")
async def test_where_the_only_other_ends_whoever_asks_is_told_that_it_is_away_and_it_is_there_again(
    start: Start, desks: Desks, told: Told
) -> None:
    asks, one, two = await start(), await start(), await start()
    bad, good = await desks.add(one, "bad"), await desks.add(two, "good")
    await fall(bad)
    await left(told, bad, "restarting")
    await good.stop()
    await two.node.remote.flush()
    asked = await asyncio.gather(*(asks.ask(Desk.where) for _ in range(50)), return_exceptions=True)
    assert {(type(error), error.status) for error in asked if isinstance(error, MbactorError)} <= {
        (ActorRestarting, 503),
        (Unavailable, 503),
    }
    back = await told.wait_for("actor.back", within=PATIENCE, actor=bad.cell.address)
    assert back.fields["reason"] == "alone"
    assert not presence(bad).away
    with pytest.raises(ActorRestarting):
        await asks.ask(Desk.where)
    with pytest.raises(NoSuchActor):
        await asks.request("POST", "https://desk.example/elsewhere")


async def test_it_is_there_again_where_the_only_other_has_ended_and_nobody_asks(
    start: Start, desks: Desks, told: Told
) -> None:
    one, two = await start(), await start()
    bad, good = await desks.add(one, "bad"), await desks.add(two, "good")
    await desks.fill(bad)
    await left(told, bad, "full")
    await good.stop()
    back = await told.wait_for("actor.back", within=PATIENCE, actor=bad.cell.address)
    assert back.fields["reason"] == "alone"
    await desks.let_go()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("how", ["stop", "kill", "leave"])
async def test_nothing_is_left_of_one_that_ends_while_it_is_away(
    start: Start, desks: Desks, told: Told, how: str
) -> None:
    one, two = await start(), await start()

    def subscribed() -> int:
        bus: Any = one.node.remote.bus
        if isinstance(bus, LocalBus):
            return sum(map(len, bus._exact.values())) + len(bus._wild)
        return len(bus._client.subscribed())

    await desks.add(two, "good")
    before = subscribed()
    bad = await desks.add(one, "bad")
    await fall(bad)
    await left(told, bad, "restarting")
    was = presence(bad)
    assert was._timer is not None
    if how == "leave":
        await one.node.leave()
        assert was._timer is None
        with pytest.raises(ActorRestarting):
            await bad.ask(Desk.where)
        assert not was._groups.asking
    await (bad.kill() if how == "kill" else bad.stop())
    assert presence_of(was) == (None, frozenset())
    assert subscribed() == before
    assert await two.ask(Desk.where) == "good"


@pytest.mark.usefixtures("patient")
async def test_what_is_switched_off_and_on_while_it_is_away(start: Start, desks: Desks, told: Told) -> None:
    asks, one, two = await start(), await start(), await start()
    bad, good = await desks.add(one, "bad"), await desks.add(two, "good")
    for ref in (bad, good):
        await ref.ask(Desk.open_extra, on=True)
        await ref.cell.node.remote.flush()
    await desks.fill(bad)
    await told.wait_for("actor.left", within=PATIENCE)
    route = bad.cell.routes.by_name["extra"]
    assert "extra" in presence(bad).away
    bad.cell.deactivate(route)
    assert "extra" not in presence(bad).away
    await one.node.remote.flush()
    assert await asks.ask(Desk.extra) == "good"
    await good.ask(Desk.open_extra, on=False)
    await two.node.remote.flush()
    with pytest.raises(NoSuchActor):
        await asks.ask(Desk.extra)
    assert {await asks.ask(Desk.where) for _ in range(ROOM)} == {"good"}
    bad.cell.activate(route)
    await one.node.remote.flush()
    with pytest.raises(MailboxFull):
        await two.ask(Desk.extra)
    await desks.let_go()
    await until(lambda: not presence(bad).away)
    assert await asks.ask(Desk.extra) == "bad"


@pytest.mark.usefixtures("patient")
async def test_of_several_in_a_process_the_one_that_cannot_leaves_its_share_to_the_others(
    start: Start, desks: Desks, told: Told
) -> None:
    asks, one = await start(), await start()
    bad, _ = await desks.add(one, "bad"), await desks.add(one, "good")
    await fall(bad)
    await left(told, bad, "restarting")
    await all_is_heard_by("good", desks, asks, one)


@pytest.mark.usefixtures("patient")
async def test_the_nearest_that_cannot_leaves_it_to_one_farther_away(start: Start, desks: Desks, told: Told) -> None:
    asks, one, two = await start(locality="eu-a"), await start(locality="eu-a"), await start(locality="us-a")
    bad, _ = await desks.add(one, "bad"), await desks.add(two, "good")
    async with asyncio.timeout(PATIENCE):
        while [await asks.ask(Desk.where) for _ in range(10)] != ["bad"] * 10:
            """It is learning who is near."""
    await desks.fill(bad)
    await left(told, bad, "full")
    await all_is_heard_by("good", desks, asks, one)
    # Who insists on the place is not told that nobody is there.
    near = asks.node.remote.ask("loc-eu-a.desk.example".partition(".")[2], "loc-eu-a", Desk.where, (), {})
    with pytest.raises(Unavailable) as refused:
        await near
    assert refused.value.status == 503
    await desks.let_go()


@pytest.mark.parametrize("server_ends", [1, 3])
async def test_a_lost_broker_neither_brings_it_back_for_good_nor_loses_it(
    tmp_path: Path, told: Told, server_ends: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "WITHIN", 10.0)
    with nats_server(tmp_path) as server:
        async with (
            ActorSystem("asks", server.url, watchdog=None) as asks,
            ActorSystem("one", server.url, watchdog=None) as one,
            ActorSystem("two", server.url, watchdog=None) as two,
        ):
            desks, systems = Desks(), (asks, one, two)
            bad, _ = await desks.add(one, "bad"), await desks.add(two, "good")
            await fall(bad)
            await left(told, bad, "restarting")
            for _ in range(server_ends):
                server.kill()
                await until(lambda: all(system.node.unready() for system in systems))
                server.start()
                await until(lambda: not any(system.node.unready() for system in systems))
            async with asyncio.timeout(PATIENCE):
                while not (presence(bad).away and not presence(bad)._groups.asking):
                    bad.tell(Desk.note, 1)
                    await asyncio.sleep(0.01)
            for system in systems:
                await system.node.remote.flush()
            await all_is_heard_by("good", desks, asks, two)
            assert told.find("bus.forgot") == []


LONG = 1024 - len("plane.safe.443.*.long_example._.*.")


async def test_an_address_as_long_as_one_may_be_is_left_to_others_too(told: Told) -> None:
    class Long(Actor):
        host = "long.example"

        @endpoint(path="/" + "a" * LONG)
        async def where(self) -> str:
            return self.ref.cell.id

        @endpoint
        async def fall(self) -> None:
            raise RuntimeError("fell")

    bus = LocalBus()
    async with (
        ActorSystem("x", bus, "plane", watchdog=None) as one,
        ActorSystem("y", bus, "plane", watchdog=None) as two,
    ):
        bad = await one.spawn(child(Long, id="bad", backoff=Backoff("1h", "1h")))
        good = await two.spawn(child(Long, id="good"))
        with pytest.raises(ActorCrashed):
            await bad.ask(Long.fall)
        await told.wait_for("actor.left", within=PATIENCE, methods=["fall", "where"])
        assert await two.ask(Long.where) == "good"
        await good.stop()
        back = await told.wait_for("actor.back", within="2m")
        assert back.fields["reason"] == "alone"


RULES = """
authorization {{ users = [ {{user: shop, password: p, permissions: {{
    subscribe: {{allow: ["plane.>"], deny: [{unheard}]}}
    publish: {{allow: ["plane.>", "$SYS.REQ.USER.INFO"], deny: [{unsaid}]}}
}}}} ] }}
"""


@pytest.mark.parametrize(
    ("unheard", "unsaid"), [('"plane.*.*.*.desk_example.peers.>"', ""), ("", '"plane.*.*.*.desk_example.peers.>"')]
)
async def test_where_the_broker_does_not_let_it_ask_it_stays(
    tmp_path: Path, told: Told, unheard: str, unsaid: str
) -> None:
    with nats_server(tmp_path, RULES.format(unheard=unheard, unsaid=unsaid)) as server:
        url = server.url.replace("//", "//shop:p@")
        async with ActorSystem("one", url, "plane") as one, ActorSystem("two", url, "plane") as two:
            desks = Desks()
            bad, _ = await desks.add(one, "bad"), await desks.add(two, "good")
            await fall(bad)
            await until(lambda: not presence(bad)._groups.asking)
            assert told.find("actor.left") == []
            with pytest.raises(ActorRestarting):
                await bad.ask(Desk.where)


NO_MORE_THAN_EVENTS = """
authorization { users = [ {user: shop, password: p, permissions: {
    subscribe: {allow: ["plane.*.*.*.desk_example.>", "plane.*.*.*.bell_example._.*.on-rung", "plane.reply.>"]}
    publish: {allow: ["plane.>", "$SYS.REQ.USER.INFO", "$SYS.REQ.ACCOUNT.PING.CONNZ"]}
}}, {user: all, password: p} ] }
"""


async def test_one_that_may_hear_the_events_of_another_host_and_no_more_leaves_them_without_a_complaint(
    tmp_path: Path, told: Told
) -> None:
    with nats_server(tmp_path, NO_MORE_THAN_EVENTS) as server:
        shop, every = (server.url.replace("//", f"//{user}:p@") for user in ("shop", "all"))
        async with (
            ActorSystem("one", shop, "plane") as one,
            ActorSystem("two", shop, "plane") as two,
            ActorSystem("asks", every, "plane") as asks,
        ):
            desks = Desks()
            bad, _ = await desks.add(one, "bad"), await desks.add(two, "good")
            with pytest.raises(ActorCrashed):
                await asks.node.remote.ask("desk.example", bad.cell.replica, Desk.fall, (), {})
            await left(told, bad, "restarting")
            for n in range(ROOM):
                asks.publish(Bell.on_rung, n)
            await until(lambda: len(desks.heard) == ROOM)
            assert desks.heard == [("good", n) for n in range(ROOM)]
            await one.node.remote.flush()
            subjects = [event.fields["reason"] for event in told.find("bus.refused")]
            assert [subject for subject in subjects if "bell_example" in subject] == []
