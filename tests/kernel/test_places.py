"""A replica is reached by its id and by its place, and an asker comes to the nearest."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from mbactor import Actor, ActorRef, ActorSystem, BadRequest, NoSuchActor, NotAcknowledged, child, endpoint
from mbactor.errors import InvalidSpec
from mbactor.transport import Address, locality, subjects
from tests.kernel.conftest import Start

pytestmark = pytest.mark.anyio


class Shop(Actor):
    host = "shop.example"

    def __init__(self, name: str) -> None:
        self.name = name
        self.taken = 0

    @endpoint
    async def who(self) -> str:
        return self.name

    @endpoint
    async def take(self) -> None:
        self.taken += 1

    @endpoint
    async def how_many(self) -> int:
        return self.taken

    @endpoint
    async def ask_it(self, other: ActorRef[Shop]) -> str:
        return await other.ask(Shop.who)


class Desk(Shop):
    host = "desk.example"


def shop(name: str) -> Any:
    return child(Shop, id=name, args={"name": name})


async def test_an_asker_comes_to_the_nearest_and_to_the_others_when_that_is_gone(start: Start) -> None:
    asks = await start(locality="eu-west-b-1")
    anybody = await start()
    await start(shop("us"), locality="us-east")
    nearby = await start(locality="eu-west-b-2")
    near = await nearby.spawn(shop("b2"))
    await nearby.node.remote.flush()
    await start(shop("a1"), locality="eu-west-a-1")
    assert {await anybody.ask(Shop.who) for _ in range(200)} == {"us", "b2", "a1"}

    async def comes_to(name: str) -> None:
        """Each ask goes to a replica drawn among those that are near enough, so it is soon the nearest."""
        for _ in range(1000):
            if await asks.ask(Shop.who) == name:
                break
        assert Counter([await asks.ask(Shop.who) for _ in range(50)]) == {name: 50}

    await comes_to("b2")
    places = {
        place: {await anybody.at(f"loc-{place}.shop.example").ask(Shop.who) for _ in range(40)}
        for place in ("eu", "eu-west", "eu-west-b", "eu-west-b-2", "us")
    }
    assert places == {
        "eu": {"b2", "a1"},
        "eu-west": {"b2", "a1"},
        "eu-west-b": {"b2"},
        "eu-west-b-2": {"b2"},
        "us": {"us"},
    }
    with pytest.raises(NoSuchActor, match="loc-eu-west-b-1.shop.example"):
        await asks.at("loc-eu-west-b-1.shop.example").ask(Shop.who)
    await near.stop()
    await nearby.node.remote.flush()
    await comes_to("a1")


class Far(Actor):
    """Reached at a place, too, by who has a short name."""

    host = "far.example"
    told = 0

    @endpoint(path="/" + "x" * 900)
    async def count(self) -> int:
        Far.told += 1
        return Far.told


async def test_who_has_no_room_for_a_place_in_the_address_goes_on_to_any(start: Start) -> None:
    asks, serves = await start(locality="eu-west"), await start(Far, locality="eu-west")
    rest = len(subjects.request_subject(asks.node.plane, "", Address("far.example", "/" + "x" * 900).at("eu-west")))
    Far.told, asks.node.name = 0, "n" * (1024 - rest + 2)  # without a place there is room for as much as that takes
    await serves.node.remote.flush()
    assert [await asks.ask(Far.count) for _ in range(4)] == [1, 2, 3, 4]
    assert asks.tell(Far.count)
    async with asyncio.timeout(60):
        while Far.told < 5:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("start", ["nats"], indirect=True)
async def test_where_the_nearest_stands_still_who_asks_next_comes_to_the_others(start: Start) -> None:
    asks = await start(locality="eu-west-b-1", ack_window="500ms")
    await start(shop("us"), locality="us-east")
    nearby = await start(locality="eu-west-b-2")
    near = await nearby.spawn(shop("b2"))
    await nearby.node.remote.flush()
    for _ in range(1000):
        if await asks.ask(Shop.who) == "b2":
            break

    remote = (await start()).node.remote
    place = Address.parse("https://shop.example/who").at("eu-west-b")
    remote.bus.subscribe(subjects.endpoint_pattern(asks.node.plane, place), lambda _: None, queue="shop.example")
    await remote.flush()
    await near.stop()
    await nearby.node.remote.flush()
    with pytest.raises(NotAcknowledged, match="loc-eu-west-b.shop.example"):
        await asks.ask(Shop.who)
    assert await asks.ask(Shop.who) == "us"


async def test_what_is_told_comes_to_the_nearest_too_and_to_the_others_when_that_is_gone(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locality, "ASK_AGAIN", 0.0)
    tells = await start(locality="eu-west-b-1")
    anybody = await start()
    far = await (await start(locality="us-east")).spawn(shop("us"))
    nearby = await start(locality="eu-west-b-2")
    near = await nearby.spawn(shop("b2"))
    await nearby.node.remote.flush()

    async def told() -> dict[str, int]:
        return {"us": await far.ask(Shop.how_many), "b2": await near.ask(Shop.how_many)}

    async def tell(system: ActorSystem, count: int) -> dict[str, int]:
        before = await told()
        assert all(system.tell(Shop.take) for _ in range(count))
        after = before
        async with asyncio.timeout(60):
            while sum(after.values()) < sum(before.values()) + count:
                await asyncio.sleep(0.01)
                after = await told()
        return {name: after[name] - before[name] for name in after}

    async with asyncio.timeout(60):
        seen: Counter[str] = Counter()
        while len(+seen) < 2:
            seen.update(await tell(anybody, 1))  # who is nowhere tells any
        while (await tell(tells, 4))["us"]:
            pass  # each asks where it was taken
    assert await tell(tells, 50) == {"us": 0, "b2": 50}

    await near.stop()
    await nearby.node.remote.flush()
    before = await far.ask(Shop.how_many)
    assert all(tells.tell(Shop.take) for _ in range(20))
    async with asyncio.timeout(60):
        while await far.ask(Shop.how_many) < before + 20:
            await asyncio.sleep(0.01)
    assert not tells.dead_letters


async def test_a_replica_that_is_named_is_meant_whatever_is_near(start: Start) -> None:
    asks = await start(child(Desk, args={"name": "desk"}), locality="eu-west")
    far = await start(locality="us-east")
    refs = [await far.spawn(child(Shop, id=f"far{n}", args={"name": f"far{n}"})) for n in range(3)]
    await far.node.remote.flush()
    await start(shop("near"), locality="eu-west")
    for _ in range(100):
        if await asks.ask(Shop.who) == "near":
            break
    for n, ref in enumerate(refs):
        by_id = asks.at(f"{ref.cell.replica}.shop.example")
        assert [await by_id.ask(Shop.who) for _ in range(10)] == [f"far{n}"] * 10
        assert (await asks.request("POST", f"https://{ref.cell.replica}.shop.example/who")).json() == f"far{n}"
    with pytest.raises(NoSuchActor):
        await asks.at("id-0000000000.shop.example").ask(Shop.who)


def test_a_wrong_locality_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="locality: 'EU' given"):
        ActorSystem(locality="EU")


class OldDesk(Desk):
    """The desk, as a process knows it whose code is older."""

    @endpoint
    async def sell(self, count: str) -> int:
        raise NotImplementedError


class NewDesk(Desk):
    @endpoint
    async def sell(self, count: int) -> int:
        if count < 0:
            raise BadRequest("nothing to sell")
        self.taken += 1
        return count


async def test_what_does_not_fit_was_not_taken_and_what_a_method_refuses_was(start: Start) -> None:
    asks, sells = await start(), await start()
    desk = await sells.spawn(child(NewDesk, args={"name": "new"}))
    await sells.node.remote.flush()
    for asked, taken in (
        (asks.ask(OldDesk.sell, "three"), "no"),
        (sells.ask(OldDesk.sell, "three"), "no"),
        (desk.ask(NewDesk.sell, count="three"), "no"),
        (asks.ask(NewDesk.sell, -1), "yes"),
        (desk.ask(NewDesk.sell, -1), "yes"),
    ):
        with pytest.raises(BadRequest) as error:
            await asked
        assert error.value.taken == taken, error.value
    assert await asks.ask(Desk.how_many) == 0
    asks.tell(OldDesk.sell, "three")
    async with asyncio.timeout(60):
        while not sells.dead_letters.total:
            await asyncio.sleep(0.01)
    [letter] = sells.dead_letters
    assert (letter.method, "Expected `int`, got `str`" in letter.reason) == ("sell", True)
