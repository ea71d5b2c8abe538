"""Asks that come over a bus many at a time: each has its own arguments, its own errors, and its place in the mailbox."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from mbactor import Actor, Mailbox, child, endpoint
from mbactor.errors import BadRequest, MailboxFull
from mbactor.kernel.context import current
from tests.kernel.conftest import Start
from tests.kernel.desk import until

pytestmark = pytest.mark.anyio

made_in: list[str | None] = []


class Parcel(msgspec.Struct):
    """A type with code of its own."""

    weight: int

    def __post_init__(self) -> None:
        call = current.get()
        made_in.append(call.route.name if call is not None else None)


class Post(Actor):
    """Notes what it is asked, in order."""

    host = "post.example"

    def __init__(self, go_on: asyncio.Event | None = None) -> None:
        self.noted: list[tuple[int, str, bytes | None]] = []
        self.go_on = go_on or asyncio.Event()

    @endpoint
    async def note(self, number: int, text: str = "none", body: bytes | None = None) -> int:
        self.noted.append((number, text, body))
        return number

    @endpoint
    async def weigh(self, parcel: Parcel) -> int:
        return parcel.weight

    @endpoint
    async def hold(self, number: int) -> int:
        await self.go_on.wait()
        self.noted.append((number, "held", None))
        return number

    @endpoint
    async def all_noted(self) -> list[tuple[int, str, bytes | None]]:
        return self.noted


class Mistaken(Actor):
    """What somebody takes `Post` for."""

    host = "post.example"

    @endpoint
    async def note(self, number: str) -> int:
        raise NotImplementedError


class Silent(Actor):
    """Another."""

    host = "post.example"

    @endpoint
    async def note(self) -> int:
        raise NotImplementedError


async def test_each_of_those_that_come_together_has_its_own_arguments_and_its_own_error(start: Start) -> None:
    serves, asks = await start(), await start()
    post = await serves.spawn(Post)
    await serves.node.remote.flush()
    answers = await asyncio.gather(
        asks.ask(Post.note, 1),
        asks.ask(Mistaken.note, "one"),
        asks.ask(Post.note, 2, text="two"),
        asks.ask(Post.note, 3, body=b"three"),
        asks.ask(Post.note, 2**70),
        asks.ask(Silent.note),
        asks.ask(Post.note, 4, "four", b""),
        return_exceptions=True,
    )
    had = [type(one) if isinstance(one, Exception) else one for one in answers]
    assert had == [1, BadRequest, 2, 3, 2**70, BadRequest, 4]
    noted = [(1, "none", None), (2, "two", None), (3, "none", b"three"), (2**70, "none", None), (4, "four", b"")]
    assert await post.ask(Post.all_noted) == noted


async def test_code_of_a_type_runs_where_the_method_does(start: Start) -> None:
    serves, asks = await start(), await start()
    await serves.spawn(Post)
    await serves.node.remote.flush()
    made_in.clear()
    assert await asyncio.gather(*(asks.ask(Post.weigh, Parcel(n)) for n in range(3))) == [0, 1, 2]
    assert made_in[-3:] == ["Post.weigh"] * 3


async def test_what_is_beyond_the_mailbox_is_refused_and_what_is_within_it_runs_in_order(start: Start) -> None:
    go_on, serves, asks = asyncio.Event(), await start(), await start()
    post = await serves.spawn(child(Post, args={"go_on": go_on}, mailbox=Mailbox(capacity=8)))
    await serves.node.remote.flush()
    first = asks.ask(Post.hold, 0)
    await until(lambda: post.cell.statistics().accepted == 1 and not post.cell.statistics().depth)
    others = [asks.ask(Post.hold, n) for n in range(1, 13)]
    refused = await asyncio.gather(*others[8:], return_exceptions=True)
    assert [type(one) for one in refused] == [MailboxFull] * 4
    go_on.set()
    assert await asyncio.gather(first, *others[:8]) == [*range(9)]
    assert await post.ask(Post.all_noted) == [(n, "held", None) for n in range(9)]
