"""Mistakes that newcomers make are told where they are made, with what was meant."""

from __future__ import annotations

import re
import subprocess
import sys
import traceback
from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import pytest

from mbactor import (
    Actor,
    ActorCrashed,
    ActorRef,
    ActorStopped,
    ActorSystem,
    BadRequest,
    Deadlock,
    DeclarationError,
    InvalidSpec,
    child,
    endpoint,
)
from mbactor.supervisor.state import StartFailed


class Shop(Actor):
    host = "shop.example"

    @endpoint
    async def sell(self, count: int) -> int:
        if count < 0:
            raise ValueError("nothing to sell")
        return count

    @endpoint
    async def misuse(self, how: str) -> None:
        wrong: Any = "not a ref"
        if how == "watch":
            self.watch(wrong)
        elif how == "register":
            self.refs.register("shop", wrong)
        else:
            self.spawn_task(wrong)


async def test_an_error_shows_the_remote_traceback_as_its_cause(mbactor: ActorSystem) -> None:
    shop = await mbactor.spawn(Shop)
    with pytest.raises(ActorCrashed) as crashed:
        await shop.ask(Shop.sell, -1)
    assert 'raise ValueError("nothing to sell")' in "".join(traceback.format_exception(crashed.value))


@pytest.mark.parametrize(
    ("how", "said"),
    [("watch", "an ActorRef expected"), ("register", "an ActorRef expected"), ("spawn_task", "a coroutine expected")],
)
async def test_what_is_no_ref_and_no_coroutine_is_named(mbactor: ActorSystem, how: str, said: str) -> None:
    shop = await mbactor.spawn(Shop)
    with pytest.raises(ActorCrashed, match=f"TypeError: .*'not a ref'.*{said}"):
        await shop.ask(Shop.misuse, how)


async def test_an_actor_that_gave_up_says_so(mbactor: ActorSystem) -> None:
    shop: ActorRef[Shop] = await mbactor.spawn(child(Shop, restart="temporary"))
    with pytest.raises(ActorCrashed):
        await shop.ask(Shop.sell, -1)
    with pytest.raises(ActorStopped, match=r"has stopped \(failed: ValueError: nothing to sell\)"):
        await shop.ask(Shop.sell, 1)


async def test_an_override_without_its_decorator_is_refused(mbactor: ActorSystem) -> None:
    async def sell(self: Shop, count: int) -> int:
        return count

    with pytest.raises(DeclarationError, match=r"Other\.sell overrides Shop\.sell without its decorator"):
        await mbactor.spawn(type("Other", (Shop,), {"sell": sell}))


async def test_a_hook_that_cannot_take_what_it_is_given_is_refused(mbactor: ActorSystem) -> None:
    async def on_exit(self: Shop, ref: ActorRef[Any]) -> None: ...

    with pytest.raises(DeclarationError, match=r"on_exit is called as self\.on_exit\(ref, exit\)"):
        await mbactor.spawn(type("Other", (Shop,), {"on_exit": on_exit}))


def test_where_nobody_listens_a_crash_is_written_to_stderr() -> None:
    program = (
        "import asyncio\n"
        "from mbactor import Actor, ActorSystem, endpoint\n"
        "class Lost(Actor):\n"
        "    @endpoint\n"
        "    async def boom(self) -> None:\n"
        "        raise ValueError('lost order')\n"
        "async def main():\n"
        "    async with ActorSystem() as system:\n"
        "        lost = await system.spawn(Lost)\n"
        "        lost.tell(Lost.boom)\n"
        "        await asyncio.sleep(0.1)\n"
        "asyncio.run(main())\n"
        # To draw it nicely would take a tenth of a second, in which the loop stands still.
        "import sys\n"
        "print('structlog' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    said, *below = done.stderr.splitlines()
    assert re.fullmatch(r"[\d:.]+ \[error +\] actor crashed +actor=lost method=boom error=ValueError: lost order", said)
    assert below[-1] == "    ValueError: lost order"
    assert done.stdout == "False\n"


def test_a_method_that_is_declared_twice_is_refused() -> None:
    again: Any = endpoint

    async def go(self: Actor) -> None: ...

    with pytest.raises(
        DeclarationError, match=r"go: declared twice; one of @endpoint, @event, @sink, @task and @workflow expected"
    ):
        again(endpoint(go))


def test_arguments_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(
        InvalidSpec, match=r"child 'x': args: \[1\] given, a mapping of argument names to values expected"
    ):
        child(Actor, id="x", args=[1])  # type: ignore[arg-type]


async def test_a_method_called_on_a_ref_is_answered_with_how_it_is_sent(mbactor: ActorSystem) -> None:
    ref: Any = await mbactor.spawn(Shop)
    with pytest.raises(
        AttributeError,
        match=r"an ActorRef has no attribute 'sell'; a message is sent by ask or tell: ref\.ask\(\w+\.sell, \.\.\.\)",
    ):
        ref.sell(1)
    assert not hasattr(ref, "sell")
    with pytest.raises(AttributeError, match="'ActorRef' object has no attribute 'sel'"):
        ref.sel(1)
    assert not hasattr(ref, "__len__")


async def test_arguments_that_a_constructor_does_not_take_are_shown(mbactor: ActorSystem) -> None:
    with pytest.raises(InvalidSpec, match=r"args: Shop\(5, size=4\): too many positional arguments; it takes nothing"):
        await mbactor.spawn(Shop, 5, size=4)  # type: ignore[call-arg]
    with pytest.raises(
        InvalidSpec, match="an Actor or Supervisor class expected; its constructor's arguments are given"
    ):
        await mbactor.spawn(Shop())  # type: ignore[call-overload]
    shop = await mbactor.spawn(Shop)
    with pytest.raises(BadRequest, match=r"^Shop\.sell takes 1 argument, 2 were given$"):
        await shop.ask(Shop.sell, 1, 2)  # type: ignore[call-arg]


async def test_a_method_without_self_is_refused(mbactor: ActorSystem) -> None:
    declare: Any = endpoint

    async def nothing() -> None: ...
    async def shifted(count: int) -> None: ...
    async def other(this) -> None: ...  # type: ignore[no-untyped-def]

    for wrong in (nothing, shifted):
        with pytest.raises(DeclarationError, match=rf"Other\.{wrong.__name__}: `self` is missing"):
            await mbactor.spawn(type("Other", (Actor,), {"go": declare(wrong)}))
    await mbactor.spawn(type("Other", (Actor,), {"other": declare(other)}))


async def test_a_method_without_its_decorator_is_called_by_its_name(mbactor: ActorSystem) -> None:
    class Plain(Actor):
        async def go(self) -> None: ...

    plain = await mbactor.spawn(Plain)
    with pytest.raises(TypeError, match=r"^[\w.<>]+Plain\.go given, a reference to an endpoint expected"):
        await plain.ask(Plain.go)  # type: ignore[arg-type]


async def test_an_actor_that_asks_itself_is_told_of_the_shorter_way(mbactor: ActorSystem) -> None:
    class Inward(Actor):
        host = "inward.example"

        @endpoint
        async def outer(self) -> int:
            return await self.ask(Inward.inner)

        @endpoint
        async def inner(self) -> int:
            return 1

    inward = await mbactor.spawn(Inward)
    with pytest.raises(Deadlock, match=r"Inward\.outer -> Inward\.inner; call the method itself, which needs no ask"):
        await inward.ask(Inward.outer)


async def test_a_method_of_self_is_told_from_its_reference(mbactor: ActorSystem) -> None:
    class Own(Actor):
        @endpoint
        async def later(self) -> None:
            self.send_after("1s", self.go)  # type: ignore[arg-type]

        @endpoint
        async def now(self) -> None:
            await self.ask(self.go)  # type: ignore[arg-type]

        @endpoint
        async def go(self) -> None: ...

    own = await mbactor.spawn(Own)
    for wrong in (Own.later, Own.now):
        with pytest.raises(
            ActorCrashed, match=r"TypeError: self\.go \(which is called, and Own\.go sent\) given, a ref"
        ):
            await own.ask(wrong)


def test_what_cannot_be_a_method_of_messages_is_refused() -> None:
    again: Any = endpoint

    async def several(self: Actor) -> Any:
        yield 1

    def one_by_one(self: Actor) -> Any:
        yield 1

    for generator in (several, one_by_one):
        with pytest.raises(
            DeclarationError, match=f"{generator.__name__}: a generator was given, and a message has one"
        ):
            again(generator)
        with pytest.raises(DeclarationError, match="a message has one answer; return a list, or tell"):
            again(concurrency=2)(generator)
    for wrong in (5, "sell", property(lambda _: 1), classmethod(lambda _: 1), partial(print)):
        with pytest.raises(
            DeclarationError, match="given where a method is declared; a function of the class expected"
        ):
            again(wrong)


class Store(Actor, ABC):
    @endpoint
    @abstractmethod
    async def read(self, key: str) -> str: ...


class Files(Store):
    @endpoint
    async def read(self, key: str) -> str:
        return f"file {key}"


async def test_an_abstract_endpoint_has_to_be_overridden(mbactor: ActorSystem) -> None:
    unfinished: Any = Store
    with pytest.raises(StartFailed, match="Can't instantiate abstract class Store"):
        await mbactor.spawn(unfinished)
    files = await mbactor.spawn(Files)
    assert await files.ask(Store.read, "17") == "file 17"
    assert await files.ask(Files.read, "17") == "file 17"


class Leaving(Actor):
    def __init__(self, where: str = "a message") -> None:
        self.where = where

    async def on_start(self) -> None:
        if self.where == "on_start":
            await self.ref.stop()

    @endpoint
    async def leave(self) -> None:
        await self.ref.stop()


async def test_an_actor_that_waits_for_its_own_end_is_told_what_to_do_instead(mbactor: ActorSystem) -> None:
    leaving = await mbactor.spawn(Leaving)
    said = r"deadlock: Leaving\.leave waits for the end of its own actor; call self\.stop\(\), which waits for nothing$"
    with pytest.raises(Deadlock, match=said):
        await leaving.ask(Leaving.leave)
    with pytest.raises(StartFailed, match=r"on_stop\); do it in a message, which the actor may tell itself$"):
        await mbactor.spawn(Leaving, "on_start")
