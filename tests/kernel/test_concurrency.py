"""How many messages of an actor run at once: serial by default, several by declaration, one of a key."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from mbactor import Actor, ActorCrashed, ActorRef, ActorSystem, BudgetSpent, child, endpoint
from mbactor.errors import DeclarationError


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


class Desk(Actor):
    """Writes down when each message begins and ends: `a(` and `a)`."""

    def __init__(self, diary: list[str]) -> None:
        self.diary = diary

    async def write(self, what: str, seconds: float) -> str:
        self.diary.append(f"{what}(")
        await asyncio.sleep(seconds)
        self.diary.append(f"{what})")
        return what

    @endpoint
    async def serial(self, what: str, seconds: float = 1) -> str:
        return await self.write(what, seconds)

    @endpoint(concurrency=2)
    async def pair(self, what: str, seconds: float = 1) -> str:
        return await self.write(what, seconds)

    @endpoint(concurrency=1)
    async def other(self, what: str, seconds: float = 1) -> str:
        return await self.write(what, seconds)

    @endpoint(concurrency=8, key="order")
    async def handle(self, order: int, what: str, seconds: float = 1) -> str:
        return await self.write(what, seconds)

    @endpoint(concurrency=8, key="order")
    async def crash(self, order: int, seconds: float = 1) -> None:
        await asyncio.sleep(seconds)
        raise ValueError("boom")

    @endpoint(concurrency=8, key="order")
    async def once_stashed(self, order: int, what: str) -> str:
        if "opened" not in self.diary:
            self.diary.append("stashed")
            self.stash()
        return await self.write(what, 1)

    @endpoint
    async def open(self) -> int:
        self.diary.append("opened")
        return self.unstash_all()


class Crowd(Desk):
    concurrency = 3


class Keyed(Actor):
    """Two endpoints of one gate, with keys of the same name and of another."""

    concurrency = 8

    def __init__(self, diary: list[str]) -> None:
        self.diary = diary

    @endpoint(key="order")
    async def put(self, order: int, what: str) -> None:
        await Desk.write(self, what, 1)  # type: ignore[arg-type]

    @endpoint(key="order")
    async def take(self, what: str, order: int) -> None:
        await Desk.write(self, what, 1)  # type: ignore[arg-type]

    @endpoint(key="user")
    async def greet(self, user: int, what: str) -> None:
        await Desk.write(self, what, 1)  # type: ignore[arg-type]

    @endpoint
    async def free(self, what: str) -> None:
        await Desk.write(self, what, 1)  # type: ignore[arg-type]


async def a_desk(system: ActorSystem, cls: Any = Desk) -> tuple[ActorRef[Any], list[str]]:
    diary: list[str] = []
    return await system.spawn(child(cls, args={"diary": diary})), diary


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_an_actor_runs_one_message_after_the_other(mbactor: ActorSystem) -> None:
    desk, diary = await a_desk(mbactor)
    assert await asyncio.gather(*(desk.ask(Desk.serial, what) for what in "abc")) == ["a", "b", "c"]
    assert diary == ["a(", "a)", "b(", "b)", "c(", "c)"]
    assert now() == pytest.approx(3)


@pytest.mark.parametrize("beside", [Desk.pair, Desk.other])
async def test_endpoints_with_a_concurrency_pass_beside_the_gate(mbactor: ActorSystem, beside: Any) -> None:
    desk, diary = await a_desk(mbactor)
    await asyncio.gather(desk.ask(Desk.serial, "a", 3), desk.ask(beside, "b", 1))
    assert sorted(diary[:2]) == ["a(", "b("]
    assert diary[2:] == ["b)", "a)"]


async def test_an_endpoint_runs_as_many_of_its_messages_at_once_as_it_says(mbactor: ActorSystem) -> None:
    desk, diary = await a_desk(mbactor)
    await asyncio.gather(*(desk.ask(Desk.pair, what) for what in "abcd"))
    assert sorted(diary[:2]) == ["a(", "b("]
    assert set(diary[2:6]) == {"a)", "b)", "c(", "d("}
    assert now() == pytest.approx(2)


async def test_a_concurrency_of_one_is_a_gate_of_its_own(mbactor: ActorSystem) -> None:
    desk, diary = await a_desk(mbactor)
    await asyncio.gather(*(desk.ask(Desk.other, what) for what in "ab"))
    assert diary == ["a(", "a)", "b(", "b)"]


async def test_the_concurrency_of_a_class_is_shared_by_its_endpoints(mbactor: ActorSystem) -> None:
    crowd, diary = await a_desk(mbactor, Crowd)
    asks = [*(crowd.ask(Desk.serial, what) for what in "abcd"), crowd.ask(Desk.pair, "e")]
    await asyncio.gather(*asks)
    assert sorted(diary[:4]) == ["a(", "b(", "c(", "e("]
    assert now() == pytest.approx(2)


# --- keys ----------------------------------------------------------------------------------------------------------


async def test_of_a_key_one_is_in_flight_in_order_and_others_pass(mbactor: ActorSystem) -> None:
    desk, diary = await a_desk(mbactor)
    await asyncio.gather(
        desk.ask(Desk.handle, 1, "a", 2), desk.ask(Desk.handle, 1, "b"), desk.ask(Desk.handle, 1, "c"),
        desk.ask(Desk.handle, 2, "x"),
    )  # fmt: skip
    assert sorted(diary[:2]) == ["a(", "x("]
    assert diary[2:] == ["x)", "a)", "b(", "b)", "c(", "c)"]


async def test_endpoints_of_a_concurrent_class_share_keys_of_the_same_name(mbactor: ActorSystem) -> None:
    keyed, diary = await a_desk(mbactor, Keyed)
    await asyncio.gather(
        keyed.ask(Keyed.put, 1, "a"), keyed.ask(Keyed.take, "b", 1), keyed.ask(Keyed.greet, 1, "c"),
        keyed.ask(Keyed.free, "d"),
    )  # fmt: skip
    assert sorted(diary[:3]) == ["a(", "c(", "d("]
    assert diary.index("a)") < diary.index("b(")
    assert now() == pytest.approx(2)


async def test_a_key_is_free_again_after_a_crash_and_a_restart(mbactor: ActorSystem) -> None:
    desk, diary = await a_desk(mbactor)
    crashes = asyncio.ensure_future(desk.ask(Desk.crash, 1))
    await asyncio.sleep(0)
    with pytest.raises(ActorCrashed):
        await crashes
    assert await asyncio.gather(*(desk.ask(Desk.handle, 1, what) for what in "ab")) == ["a", "b"]
    assert diary == ["a(", "a)", "b(", "b)"]


async def test_what_waited_for_a_key_runs_after_the_restart_in_order(mbactor: ActorSystem) -> None:
    desk, diary = await a_desk(mbactor)
    crashes = desk.ask(Desk.crash, 1)
    waiting = [desk.ask(Desk.handle, 1, what) for what in "ab"]
    await asyncio.gather(crashes, return_exceptions=True)
    assert await asyncio.gather(*waiting) == ["a", "b"]
    assert diary == ["a(", "a)", "b(", "b)"]


async def test_a_key_is_free_again_when_a_deadline_has_cut_its_message(mbactor: ActorSystem) -> None:
    desk, diary = await a_desk(mbactor)
    with pytest.raises(BudgetSpent), anyio.fail_after(0.5):
        await desk.ask(Desk.handle, 1, "a", 5)
    assert await desk.ask(Desk.handle, 1, "b") == "b"
    assert now() == pytest.approx(1.5, abs=0.01)
    assert diary == ["a(", "b(", "b)"]


async def test_a_key_is_free_again_when_its_message_is_stashed(mbactor: ActorSystem) -> None:
    desk, diary = await a_desk(mbactor)
    stashed = desk.ask(Desk.once_stashed, 1, "a")
    await asyncio.sleep(0.1)
    assert diary == ["stashed"]
    assert await desk.ask(Desk.handle, 1, "b") == "b"
    assert await desk.ask(Desk.open) == 1
    assert await stashed == "a"
    assert await desk.ask(Desk.once_stashed, 1, "c") == "c"


# --- declarations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, True, "2"])
def test_a_concurrency_is_a_whole_number_above_zero(concurrency: Any) -> None:
    with pytest.raises(DeclarationError, match=rf"run: concurrency {concurrency!r}: a whole number >= 1 expected"):

        @endpoint(concurrency=concurrency)
        async def run(self: Any) -> None: ...


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, True, "2"])
async def test_so_is_that_of_a_class(mbactor: ActorSystem, concurrency: Any) -> None:
    wrong: Any = type("Wrong", (Actor,), {"concurrency": concurrency})
    with pytest.raises(DeclarationError, match=rf"Wrong.concurrency = {concurrency!r}: a whole number >= 1 expected"):
        await mbactor.spawn(wrong)


async def test_a_key_is_a_parameter(mbactor: ActorSystem) -> None:
    class Wrong(Actor):
        @endpoint(concurrency=2, key="oder")
        async def handle(self, order: int, what: str) -> None: ...

    with pytest.raises(DeclarationError, match=r"Wrong.handle: key 'oder' is no parameter of it; it has order, what"):
        await mbactor.spawn(Wrong)


async def test_a_key_needs_a_concurrency(mbactor: ActorSystem) -> None:
    class Wrong(Actor):
        @endpoint(key="order")
        async def handle(self, order: int) -> None: ...

    with pytest.raises(DeclarationError, match=r"Wrong.handle: key 'order' says nothing while .* concurrency above 1"):
        await mbactor.spawn(Wrong)
