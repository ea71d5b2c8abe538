"""Methods that do not end when they are cancelled at their deadline: they do not keep their actor for good."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from mbactor import Actor, ActorStopped, ActorSystem, BudgetSpent, MbactorError, endpoint


def now() -> float:
    return asyncio.get_running_loop().time()


async def within(seconds: float, ask: Callable[[], Awaitable[Any]]) -> Any:
    with anyio.fail_after(seconds):
        return await ask()


class Stubborn(Actor):
    """Goes on when it is cancelled, until it is let go."""

    def __init__(self, let_go: list[bool], said: list[Any]) -> None:
        self.let_go = let_go
        self.said = said

    async def resist(self) -> None:
        while not self.let_go:
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                self.said.append("cancelled") if "cancelled" not in self.said else None
        try:
            self.ref.tell(Stubborn.who)
        except MbactorError as error:
            self.said.append(type(error))

    @endpoint
    async def go_on(self) -> None:
        await self.resist()

    @endpoint
    async def go_on_shielded(self, seconds: float) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(seconds)
                self.said.append("cleaned up")

    @endpoint
    async def who(self) -> str:
        return self.id


class StubbornOfMany(Stubborn):
    """Handles several at once, one of a key."""

    concurrency = 2

    @endpoint(key="key")
    async def keyed(self, key: str, resist: bool = True) -> str:
        if resist:
            await self.resist()
        return key


@pytest.fixture
def impatience(monkeypatch: pytest.MonkeyPatch) -> float:
    """A method that is cancelled again and again keeps the loop busy: a short time of that is enough."""
    monkeypatch.setattr("mbactor.kernel.worker.CLEAN_UP_BUDGET", 0.1)
    return 0.1


async def test_a_method_that_does_not_end_is_left_behind_and_the_next_incarnation_serves(
    mbactor: ActorSystem, impatience: float
) -> None:
    let_go: list[bool] = []
    said: list[Any] = []
    stubborn = await mbactor.spawn(Stubborn, let_go, said)
    before = await stubborn.ask(Stubborn.who)
    with pytest.raises(BudgetSpent):
        await within(2, lambda: stubborn.ask(Stubborn.go_on))
    begun = now()
    assert await stubborn.ask(Stubborn.who) != before
    assert impatience <= now() - begun < 2 * impatience
    assert mbactor.node.abandoned == 1
    let_go.append(True)
    await asyncio.sleep(1)
    assert said == ["cancelled", ActorStopped], "what is left behind sends nothing"


async def test_a_method_that_shields_its_clean_up_is_waited_for(mbactor: ActorSystem, impatience: float) -> None:
    said: list[Any] = []
    stubborn = await mbactor.spawn(Stubborn, [], said)
    before = await stubborn.ask(Stubborn.who)
    with pytest.raises(BudgetSpent):
        await within(2, lambda: stubborn.ask(Stubborn.go_on_shielded, 20 * impatience))
    assert await stubborn.ask(Stubborn.who) == before
    assert said == ["cleaned up"]


async def test_of_an_actor_that_goes_on_one_method_that_does_not_end_frees_its_place_and_its_key(
    mbactor: ActorSystem, impatience: float
) -> None:
    let_go: list[bool] = []
    many = await mbactor.spawn(StubbornOfMany, let_go, [])
    before = await many.ask(StubbornOfMany.who)
    first = [
        within(2, lambda: many.ask(StubbornOfMany.keyed, "a")),
        within(2, lambda: many.ask(StubbornOfMany.keyed, "b")),
    ]
    answers = await asyncio.gather(*first, return_exceptions=True)
    assert [type(answer) for answer in answers] == [BudgetSpent] * 2
    assert await asyncio.gather(*(many.ask(StubbornOfMany.keyed, key, resist=False) for key in "ab")) == ["a", "b"]
    assert await many.ask(StubbornOfMany.who) == before
    assert mbactor.node.abandoned == 2
    let_go.append(True)
    await asyncio.sleep(1)
