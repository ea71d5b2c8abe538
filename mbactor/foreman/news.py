"""What the Foremen of one database tell each other, so that none has to wait for its poll.

    engine.news.heralds.append(Herald(send).tell)      # what is told goes out by `send`
    engine.heard(news)                                 # what another one told

There is something to tell where a batch leaves work due and nobody here is free to take it, where a flow stopped that
somebody elsewhere may wait for, and where one was cancelled whose tasks may run elsewhere. News is only ever a hint:
what is lost of it, the poll finds. A herald says at once what it is told first, and what comes within the next moments
in one message, so that a busy Foreman costs the others a few messages a second.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Container
from contextlib import suppress

import msgspec

from mbactor import observe
from mbactor.errors import MbactorError
from mbactor.foreman.store.operations import Committed
from mbactor.foreman.store.store import Store

GAP = 0.02
"""Seconds between two messages of a herald."""
MOST_TOLD = 180
"""Flows of each kind that a message names: PostgreSQL lets it have 8000 bytes. Where more stopped it says so."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


class News(msgspec.Struct, frozen=True, array_like=True):
    """What happened, and in which engine."""

    engine: str
    shard: int
    due: bool = False
    """Work is due that its engine has nobody free for."""
    stopped: tuple[int, ...] = ()
    """The flows that came to rest."""
    many: bool = False
    """More came to rest than are named."""
    cancelled: tuple[int, ...] = ()
    """The flows of whose tasks all or some are to end."""


def both(one: News, other: News) -> News:
    """Two pieces of news of one engine as one."""
    stopped, cancelled = {*one.stopped, *other.stopped}, {*one.cancelled, *other.cancelled}
    return News(
        one.engine,
        one.shard,
        one.due or other.due,
        tuple(sorted(stopped)[:MOST_TOLD]),
        one.many or other.many or len(stopped) > MOST_TOLD,
        tuple(sorted(cancelled)[:MOST_TOLD]),
    )


class Exchange:
    """Makes news of what an engine commits, for all that are to hear of it."""

    def __init__(self, engine: str, shard: int) -> None:
        self.heralds: list[Callable[[News], None]] = []
        self._engine = engine
        self._shard = shard

    def landed(self, committed: Committed, *, free: bool, own: Container[int], waited: Container[int]) -> None:
        """Tell of a batch. A flow of one's `own` that is `waited` for here, nobody waits for elsewhere."""
        due = committed.best_due is not None and not free
        stopped = [one for one in committed.stopped if not (one.flow_id in own and one.flow_id in waited)]
        if due or stopped or committed.given_up:
            ids = tuple(one.flow_id for one in stopped)
            cancelled = {one.flow_id for one in stopped if one.status == "cancelled"} | {*committed.given_up.values()}
            told = News(self._engine, self._shard, due, ids, cancelled=tuple(cancelled))
            news = both(told, News(self._engine, self._shard))
            for tell in self.heralds:
                tell(news)

    def anything(self) -> News:
        """What to tell where nothing could be told for a while."""
        return News(self._engine, self._shard, due=True, many=True)


class Herald:
    """Sends news of one engine, the first at once and never more than one message in `GAP` seconds."""

    def __init__(self, send: Callable[[News], Awaitable[None]]) -> None:
        self._send = send
        self._news: News | None = None
        self._sending: asyncio.Task[None] | None = None

    def tell(self, news: News) -> None:
        """Have it sent. Returns at once; an error of the sending is reported, and the news is lost."""
        self._news = news if self._news is None else both(self._news, news)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all(), name="herald", context=contextvars.Context())

    async def _send_all(self) -> None:
        try:
            while self._news is not None:
                news, self._news = self._news, None
                await self._send(news)
                await asyncio.sleep(GAP)
        except MbactorError as error:
            observe.emit("foreman.trouble", error=f"news were not sent: {error}")
        finally:
            self._sending = None

    async def close(self) -> None:
        """Send no more."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])


async def exchange(store: Store, news: Exchange, heard: Callable[[News], None], missed: Callable[[], None]) -> None:
    """Tell and hear news by way of the database, until cancelled: PostgreSQL passes them on (LISTEN, NOTIFY).

    A connection of its own hears them. While it is broken nothing is told or heard: when it is there, all look for what
    there may have been meanwhile (`missed`).
    """

    def hear(text: str) -> None:
        with suppress(msgspec.MsgspecError):  # anybody may tell something there
            heard(msgspec.json.decode(text, type=News))

    pause = FIRST_PAUSE
    while True:
        try:
            async with store.listening(hear) as line:
                missed()
                pause = FIRST_PAUSE

                async def send(one: News) -> None:
                    await line.notify(msgspec.json.encode(one).decode())

                herald = Herald(send)
                herald.tell(news.anything())
                news.heralds.append(herald.tell)
                try:
                    await line.lost.wait()
                finally:
                    news.heralds.remove(herald.tell)
                    await herald.close()
        except MbactorError as error:
            observe.emit("foreman.trouble", error=f"news cannot be heard: {error}")
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
