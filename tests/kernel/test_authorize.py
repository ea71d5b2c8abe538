"""`requires`: who may call an endpoint, judged against the claims of the end user a message acts for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mbactor import Actor, ActorRef, ActorSystem, DeadLetter, Forbidden, Unauthenticated, endpoint
from mbactor.errors import DeclarationError, InvalidExpression
from mbactor.expressions import parse
from mbactor.kernel.authorize import refusal

BUYER = {"roles": ["buyer"], "sub": "ann"}


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


class Shop(Actor):
    """Sells to buyers."""

    host = "shop.example"

    def __init__(self, diary: list[Any] | None = None) -> None:
        self.diary = [] if diary is None else diary

    @endpoint(requires="roles.buyer && !suspended")
    async def place(self, what: str = "tea") -> str:
        self.diary.append(what)
        return what

    @endpoint
    async def look(self) -> str:
        return "open to all"

    @endpoint(requires='sub == "ann"', concurrency=4)
    async def greet(self) -> str:
        return "Ann"


class Front(Actor):
    """Passes on, so far down."""

    @endpoint
    async def place(self, deeper: list[ActorRef[Any]]) -> str:
        if deeper:
            return await deeper[0].ask(Front.place, deeper[1:])
        return await self.ask(Shop.place)

    @endpoint
    async def place_in_task(self) -> str:
        return await asyncio.create_task(self._placed())

    async def _placed(self) -> str:
        return await self.ask(Shop.place)

    @endpoint
    async def tell_place(self) -> bool:
        return self.tell(Shop.place, "told")

    @endpoint
    async def later(self) -> None:
        self.spawn_task(self._told_outcome())

    async def _told_outcome(self) -> None:
        try:
            await self.ask(Shop.place, "in the background")
        except Unauthenticated:
            await self.ask(Shop.look)
            raise


async def a_shop(system: ActorSystem) -> tuple[ActorRef[Shop], list[Any]]:
    diary: list[Any] = []
    return await system.spawn(Shop, diary), diary


async def test_an_ask_that_acts_for_nobody_is_a_401(mbactor: ActorSystem) -> None:
    shop, diary = await a_shop(mbactor)
    with pytest.raises(Unauthenticated) as refused:
        await shop.ask(Shop.place)
    assert refused.value.status == 401
    assert refused.value.taken == "no"
    assert "place" in str(refused.value)
    assert diary == []


@pytest.mark.parametrize("claims", [{}, {"roles": []}, {"roles": ["seller"]}, {**BUYER, "suspended": True}])
async def test_an_ask_for_somebody_who_may_not_is_a_403(mbactor: ActorSystem, claims: dict[str, Any]) -> None:
    shop, diary = await a_shop(mbactor)
    with pytest.raises(Forbidden) as refused, mbactor.acting_for(claims):
        await shop.ask(Shop.place)
    assert refused.value.status == 403
    assert refused.value.taken == "no"
    assert "buyer" in str(refused.value)
    assert diary == []


def test_a_token_that_is_no_text_is_refused_and_not_shown() -> None:
    secret: Any = b"s3cret"
    with (
        pytest.raises(TypeError, match="token: bytes given, a text or None expected"),
        ActorSystem().acting_for({}, secret),
    ):
        pass


async def test_an_ask_for_somebody_who_may_is_handled(mbactor: ActorSystem) -> None:
    shop, diary = await a_shop(mbactor)
    with mbactor.acting_for(BUYER):
        assert await shop.ask(Shop.place, "tea") == "tea"
        assert await mbactor.ask(Shop.place, "milk") == "milk"
        assert await shop.ask(Shop.greet) == "Ann"
    assert diary == ["tea", "milk"]


async def test_an_endpoint_that_requires_nothing_is_open_to_all(mbactor: ActorSystem) -> None:
    shop, _ = await a_shop(mbactor)
    assert await shop.ask(Shop.look) == "open to all"
    with mbactor.acting_for({}):
        assert await shop.ask(Shop.look) == "open to all"


async def test_the_user_ends_with_the_block(mbactor: ActorSystem) -> None:
    shop, _ = await a_shop(mbactor)
    with mbactor.acting_for(BUYER):
        await shop.ask(Shop.place)
    with pytest.raises(Unauthenticated):
        await shop.ask(Shop.place)


async def test_of_nested_blocks_the_inner_user_counts(mbactor: ActorSystem) -> None:
    shop, _ = await a_shop(mbactor)
    with mbactor.acting_for(BUYER):
        with mbactor.acting_for({"sub": "bob"}), pytest.raises(Forbidden):
            await shop.ask(Shop.place)
        assert await shop.ask(Shop.place) == "tea"


async def test_claims_changed_later_do_not_change_who_asks(mbactor: ActorSystem) -> None:
    shop, _ = await a_shop(mbactor)
    claims: dict[str, Any] = {"sub": "ann"}
    with mbactor.acting_for(claims):
        claims["roles"] = ["buyer"]
        with pytest.raises(Forbidden):
            await shop.ask(Shop.place)


@pytest.mark.parametrize("depth", [0, 1, 5])
async def test_the_user_goes_along_a_path_of_asks(mbactor: ActorSystem, depth: int) -> None:
    _, diary = await a_shop(mbactor)
    fronts = [await mbactor.spawn(Front) for _ in range(depth + 1)]
    with mbactor.acting_for(BUYER):
        assert await fronts[0].ask(Front.place, fronts[1:]) == "tea"
    with mbactor.acting_for({"sub": "bob"}), pytest.raises(Forbidden):
        await fronts[0].ask(Front.place, fronts[1:])
    with pytest.raises(Unauthenticated):
        await fronts[0].ask(Front.place, fronts[1:])
    assert diary == ["tea"]


async def test_the_user_goes_along_into_tasks(mbactor: ActorSystem) -> None:
    await a_shop(mbactor)
    front = await mbactor.spawn(Front)
    with mbactor.acting_for(BUYER):
        assert await front.ask(Front.place_in_task) == "tea"


async def test_asks_of_two_users_at_the_same_time_do_not_mix(mbactor: ActorSystem) -> None:
    await a_shop(mbactor)
    fronts = [await mbactor.spawn(Front) for _ in range(2)]
    asked = []
    users: list[dict[str, Any]] = [BUYER, {"sub": "bob"}]
    for claims, front in zip(users, fronts, strict=True):
        with mbactor.acting_for(claims):
            asked.append(front.ask(Front.place, []))
    one, other = await asyncio.gather(*asked, return_exceptions=True)
    assert one == "tea"
    assert isinstance(other, Forbidden)


async def test_a_told_message_acts_for_the_user_too(mbactor: ActorSystem) -> None:
    shop, diary = await a_shop(mbactor)
    front = await mbactor.spawn(Front)
    with mbactor.acting_for(BUYER):
        assert shop.tell(Shop.place, "direct")
        assert await front.ask(Front.tell_place)
    await asyncio.sleep(0.1)
    assert diary == ["direct", "told"]


async def test_a_refused_tell_is_a_dead_letter(mbactor: ActorSystem) -> None:
    shop, diary = await a_shop(mbactor)
    shop.tell(Shop.place, "nobody's")
    with mbactor.acting_for({"sub": "bob"}):
        shop.tell(Shop.place, "bob's")
    await asyncio.sleep(0.1)
    assert diary == []
    letters = list(mbactor.dead_letters)
    assert [(letter.method, letter.arguments) for letter in letters] == [
        ("place", {"what": "nobody's"}),
        ("place", {"what": "bob's"}),
    ]
    assert "buyer" in letters[1].reason


async def test_a_refused_tell_comes_back_to_its_sender(mbactor: ActorSystem) -> None:
    returned: list[tuple[str, str | None]] = []

    class Careful(Actor):
        host = "careful.example"

        @endpoint
        async def tell_place(self) -> bool:
            return self.tell(Shop.place)

        async def on_undelivered(self, letter: DeadLetter) -> None:
            returned.append((letter.method, letter.sender))

    await a_shop(mbactor)
    careful = await mbactor.spawn(Careful)
    await careful.ask(Careful.tell_place)
    await asyncio.sleep(0.1)
    assert returned == [("place", "careful.example/tell-place")]


async def test_who_a_message_acts_for_goes_along_a_tell_to_an_endpoint_that_asks_for_nobody(
    mbactor: ActorSystem,
) -> None:
    class Desk(Actor):
        @endpoint
        async def begin(self, forwarder: ActorRef[Any]) -> None:
            for _ in range(2):  # the second goes a shorter way
                forwarder.tell(Forwarder.forward)

    class Forwarder(Actor):
        @endpoint
        async def forward(self) -> None:
            await self.ask(Shop.place, "what was told")

    diary: list[Any] = []
    await mbactor.spawn(Shop, diary)
    forwarder, desk = await mbactor.spawn(Forwarder), await mbactor.spawn(Desk)
    with mbactor.acting_for(BUYER):
        await desk.ask(Desk.begin, forwarder)
    await asyncio.sleep(0.1)
    assert diary == ["what was told", "what was told"]


async def test_timers_and_piped_results_act_for_nobody(mbactor: ActorSystem) -> None:
    class Late(Actor):
        @endpoint
        async def begin(self) -> None:
            self.send_after(1, Late.guarded, "by timer")
            self.pipe_to_self(asyncio.sleep(1, "piped"), Late.guarded)

        @endpoint(requires="sub")
        async def guarded(self, what: str) -> None: ...

    late = await mbactor.spawn(Late)
    with mbactor.acting_for(BUYER):
        await late.ask(Late.begin)
    await asyncio.sleep(2)
    assert [letter.arguments for letter in mbactor.dead_letters] == [{"what": "by timer"}, {"what": "piped"}]


class Guarded(Actor):
    """Guards every kind of endpoint."""

    @endpoint(requires="sub")
    async def serial(self, what: str) -> str:
        return what

    @endpoint(requires="sub", concurrency=4)
    def aside(self, what: str) -> str:
        return what

    @endpoint(requires="sub", concurrency=4, key="what")
    async def keyed(self, what: str) -> str:
        return what

    @endpoint(requires="sub", thread=True)
    def in_thread(self, what: str) -> str:
        return what


@pytest.mark.parametrize("guarded", [Guarded.serial, Guarded.aside, Guarded.keyed, Guarded.in_thread], ids=repr)
async def test_every_kind_of_endpoint_is_guarded(mbactor: ActorSystem, guarded: Any) -> None:
    ref = await mbactor.spawn(Guarded)
    with pytest.raises(Unauthenticated):
        await ref.ask(guarded, "tea")
    with pytest.raises(Forbidden), mbactor.acting_for({}):
        await ref.ask(guarded, "tea")
    with mbactor.acting_for(BUYER):
        assert await ref.ask(guarded, "tea") == "tea"


async def test_the_user_goes_along_into_a_thread(mbactor: ActorSystem) -> None:
    class Inside(Actor):
        @endpoint(thread=True)
        def place(self) -> str:
            return self.ask(Shop.place).result()

    await a_shop(mbactor)
    inside = await mbactor.spawn(Inside)
    with mbactor.acting_for(BUYER):
        assert await inside.ask(Inside.place) == "tea"
    with pytest.raises(Unauthenticated):
        await inside.ask(Inside.place)


async def test_a_request_by_address_is_judged_before_its_body_is_read(mbactor: ActorSystem) -> None:
    await a_shop(mbactor)
    with pytest.raises(Unauthenticated):
        await mbactor.request("POST", "https://shop.example/place", {"what": 5})
    with mbactor.acting_for(BUYER):
        assert (await mbactor.request("POST", "https://shop.example/place", {"what": "milk"})).json() == "milk"


@pytest.mark.parametrize(
    ("requires", "claims", "expected"),
    [
        ("roles.buyer", None, Unauthenticated),
        ("!suspended", None, Unauthenticated),
        ("!suspended", {}, type(None)),
        ("roles.buyer", {"roles": "buyer"}, Forbidden),
        ("level >= 3", {"level": 3}, type(None)),
        ("level >= 3", {"level": "3"}, Forbidden),
        ("true", {}, type(None)),
    ],
)
def test_a_claim_that_is_missing_is_null(requires: str, claims: Any, expected: type) -> None:
    assert type(refusal(parse(requires), claims, "Shop.place")) is expected


async def test_work_in_the_background_acts_for_nobody(mbactor: ActorSystem) -> None:
    _, diary = await a_shop(mbactor)
    front = await mbactor.spawn(Front)
    with mbactor.acting_for(BUYER):
        await front.ask(Front.later)
    await asyncio.sleep(1)
    assert diary == []


@pytest.mark.parametrize("wrong", ["roles ==", "(roles", "roles &&& x", ""])
def test_a_wrong_expression_is_an_error_where_it_is_declared(wrong: str) -> None:
    with pytest.raises((DeclarationError, InvalidExpression)) as error:

        class Wrong(Actor):
            @endpoint(requires=wrong)
            async def place(self) -> None: ...

    assert "place" in str(error.value)
