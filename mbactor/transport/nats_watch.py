"""Whether a connection to a NATS server that looks good does its work: `Watch`.

    watch = Watch(client, every=5.0, looked=ask_something_else)
    watch.begin("p.reply._.node.node.id-7f3a.watch")
    watch.why                                  # "", or why the connection counts as unready
    await watch.end()

Every so many seconds a message of its own has to come back, and the server is asked how many subscriptions it has of
this connection. A connection that brings nothing is made anew (`bus.deaf`). Where the server has another number of
subscriptions than were made, all are sent to it once more, which changes nothing about those that it has
(`bus.forgot`); where that does not help either, the connection is made anew, and if it has no more then, both are tried
again every minute, as what it refuses is. Until the next look has gone well it is unready. `looked` is called after
each look that went well.

Costs, each time, two messages, and 200 bytes to and 900 from each server of the cluster, however many subscriptions
there are. A user with permissions of its own needs `nats_dispatch.VIEW` to publish to for the second; without, only the
first is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgspec

from mbactor import observe
from mbactor.errors import Unavailable
from mbactor.transport.nats_client import Connection
from mbactor.transport.nats_dispatch import VIEW

AGAIN = 60.0
"""Seconds after which what the server has refused is tried again: what it permits may have changed."""


class Watch:
    """Looks after one connection, through all the times that it is made."""

    def __init__(self, client: Connection, every: float, looked: Callable[[], None]) -> None:
        self._client = client
        self._every = every
        self._looked = looked
        self._wrong = 0
        """Looks in a row at which the server had not all subscriptions, since what it refuses was tried again."""
        self._try_again = 0.0
        """When what the server has refused is tried again."""
        self._view: asyncio.Future[int | None] | None = None
        self._looks: asyncio.Task[None] | None = None
        self.why = ""

    def begin(self, subject: str) -> None:
        """What is published to `subject`, one of those subscribed to, has to come back from now on."""
        self._client.dispatch.watched = subject.encode()
        self._client.dispatch.viewed = self._viewed
        self._looks = asyncio.get_running_loop().create_task(self._look_again_and_again())

    async def end(self) -> None:
        if self._looks is not None:
            self._looks.cancel()
            await asyncio.wait([self._looks])

    async def _look_again_and_again(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._every)
            if self._client.up and (self._client.dispatch.watchable or loop.time() >= self._try_again):
                await self._look()

    async def _look(self) -> None:
        silent = asyncio.get_running_loop().call_later(self._every, self._is_silent)
        try:
            self._try_refused()
            if not await self._hears():
                self.why = f"nothing comes back through {self._client.tried}; the connection is made anew"
                observe.emit("bus.deaf", server=self._client.tried)
                await self._client.renew("nothing came back through it")
            else:
                await self._count()
                self._looked()
        except Unavailable:
            self.why, self._wrong = "", 0  # it was cut meanwhile, and says so
        finally:
            silent.cancel()

    def _is_silent(self) -> None:
        self.why = f"{self._client.tried} has not answered for {self._every:g} s"

    def _try_refused(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._try_again:
            self._try_again = now + AGAIN
            self._wrong = 0
            self._subscribe_again(refused=True)

    def _subscribe_again(self, *, refused: bool) -> None:
        """To what the server has refused, or to all else. Of what it has already, it takes no notice; what it still
        refuses is known after a barrier.
        """
        for one in self._client.dispatch.subscriptions.values():
            if (one.refused is not None) == refused:
                one.refused = None
                self._client.send(one.command())

    async def _hears(self) -> bool:
        """What was published is back before the server answers a barrier that came later; or it may not be published,
        which is no deafness.
        """
        dispatch = self._client.dispatch
        dispatch.heard = False
        self._client.send(b"PUB %s 0\r\n\r\n" % dispatch.watched)
        await self._client.barrier()
        dispatch.watchable = dispatch.watchable or dispatch.heard
        return not dispatch.watchable or dispatch.heard

    async def _count(self) -> None:
        """The server has read all that was sent before the barrier, and counts."""
        client, changes = self._client, self._client.changes
        has, made = await self._seen(), client.dispatch.permitted()
        client.dispatch.forgive()
        if has is None or has == made or changes != client.changes:
            self.why = ""
            self._wrong = 0 if has == made else self._wrong
            return
        self.why = f"{client.tried} has {has} subscriptions of this process, which made {made}"
        self._wrong += 1
        if self._wrong == 1:
            observe.emit("bus.forgot", server=client.tried, has=has, made=made)
            self._subscribe_again(refused=False)
        elif self._wrong == 2:
            await client.renew(f"it has {has} subscriptions of {made}")

    async def _seen(self) -> int | None:
        """How many subscriptions the server says there are; None where it does not say."""
        if self._client.dispatch.watchable and self._client.dispatch.viewable:
            self._view = asyncio.get_running_loop().create_future()
            body = b'{"cid": %d}' % self._client.known_as[1]
            self._client.send(b"PUB %s %s %d\r\n%s\r\n" % (VIEW, self._client.dispatch.watched, len(body), body))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every):
                    return await self._view
        return None

    def _viewed(self, answer: bytes) -> None:
        """Each server of a cluster answers; nothing comes where there will be no answer."""
        found = subscriptions_in(answer, *self._client.known_as) if answer else None
        if self._view is not None and not self._view.done() and not (answer and found is None):
            self._view.set_result(found)


class _Connected(msgspec.Struct):
    cid: int
    subscriptions: int


class _Connections(msgspec.Struct):
    server_id: str
    connections: list[_Connected] = []


class _View(msgspec.Struct):
    data: _Connections | None = None


def subscriptions_in(answer: bytes, server: str, number: int) -> int | None:
    """How many subscriptions a connection has, by what a server answers to `VIEW`; None where it is another server, or
    says something else. Pure.
    """
    try:
        view = msgspec.json.decode(answer, type=_View).data
    except msgspec.MsgspecError:
        return None
    if view is None or view.server_id != server:
        return None
    return next((one.subscriptions for one in view.connections if one.cid == number), None)
