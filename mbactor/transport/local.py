"""The bus within one process: the same bytes, queue groups and no-responder rule as the broker's."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import lru_cache

from mbactor.errors import MessageTooLarge, Unavailable
from mbactor.transport.bus import Delivery, Failure, Receive, check_pattern, matches
from mbactor.transport.permissions import Permissions


class LocalBus:
    """Delivers on the loop, in publishing order, never from within `publish`. Loses nothing until closed, which
    it is by the last of those that connected: several systems may share one.
    """

    tells_all = True
    round_trip = 0.0

    def __init__(self, max_payload: int = 1024 * 1024 * 1024) -> None:
        self.max_payload = max_payload
        self._exact: dict[str, list[_Subscription]] = {}
        self._wild: list[_Subscription] = []
        self._turns: dict[tuple[str, str], int] = {}
        self._out: deque[tuple[str, bytes, str | None, Failure | None]] = deque()
        self._reserved: list[_Reservation] = []
        self._scheduled = False
        self._users = 0
        self._closed = False

    async def connect(self) -> None:
        self._users += 1
        self._closed = False

    def publish(self, subject: str, data: bytes, *, reply: str | None = None) -> None:
        if self._closed:
            raise Unavailable("the bus is closed")
        if len(data) > self.max_payload:
            raise MessageTooLarge(len(data), self.max_payload)
        self._put(subject, data, reply, None)

    def publish_alone(self, subject: str, data: bytes, reply: str | None) -> bool:  # noqa: ARG002 - all leaves later
        return False

    def subscribe(self, subject: str, receive: Receive, *, queue: str | None = None) -> _Subscription:
        made = _Subscription(self, subject, check_pattern(subject), receive, queue)
        self._group(made).append(made)
        return made

    def reserve(self, subject: str) -> _Reservation:
        """Whoever served a subject will be back: until the reservation is released, requests that find nobody there
        are refused.
        """
        made = _Reservation(self._reserved, check_pattern(subject))
        self._reserved.append(made)
        return made

    def fail(self, reply: str, failure: Failure) -> None:
        """Tell whoever waits for an answer that there will be none."""
        if not self._closed:
            self._put(reply, b"", None, failure)

    def receivers(self, subject: str) -> int | None:
        """None where somebody is to come back who would get it."""
        tokens = _tokens(subject)
        if any(matches(one.tokens, tokens) for one in self._reserved):
            return None
        found = [*self._exact.get(subject, ()), *(s for s in self._wild if matches(s.tokens, tokens))]
        return sum(s.queue is None for s in found) + len({s.queue for s in found if s.queue is not None})

    def when_back(self, tell: Callable[[], None]) -> None:
        """Never: what is cut stays so."""

    def when_permitted(self, reply: str, tell: Callable[[Permissions | None], None]) -> None:
        """Nobody restricts it."""

    def when_cut(self, tell: Callable[[], None]) -> None:
        """Never: there is nothing between."""

    def watch(self, subject: str) -> None:
        """There is nothing between."""

    def unready(self) -> str | None:
        return "the bus is closed" if self._closed else None

    def when_turn_ends(self, work: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(work)

    def waiting(self) -> int:
        """Nothing: all leaves with the next turn of the loop."""
        return 0

    async def flush(self) -> None:
        while self._out:  # noqa: ASYNC110 - what is published meanwhile is waited for too
            await asyncio.sleep(0)

    async def close(self) -> None:
        await self.flush()
        self._users = max(0, self._users - 1)
        if self._users:
            return
        self._closed = True
        self._exact.clear()
        self._wild.clear()

    def _group(self, subscription: _Subscription) -> list[_Subscription]:
        if subscription.wild:
            return self._wild
        return self._exact.setdefault(subscription.subject, [])

    def _drop(self, subscription: _Subscription) -> None:
        group = self._group(subscription)
        if subscription in group:
            group.remove(subscription)
            self._turns.pop((subscription.subject, subscription.queue or ""), None)
        if not group and not subscription.wild:
            del self._exact[subscription.subject]

    def _put(self, subject: str, data: bytes, reply: str | None, failure: Failure | None) -> None:
        self._out.append((subject, data, reply, failure))
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        for _ in range(len(self._out)):
            subject, data, reply, failure = self._out.popleft()
            chosen = self._choose(subject)
            if not chosen and reply is not None:
                failure = self._why_nobody(subject)
                for subscription in self._choose(reply):
                    subscription.receive(Delivery(reply, b"", None, failure))
            for subscription in chosen:
                if subscription.active:
                    subscription.receive(Delivery(subject, data, reply, failure))

    def _why_nobody(self, subject: str) -> Failure:
        tokens = _tokens(subject)
        return "refused" if any(matches(one.tokens, tokens) for one in self._reserved) else "no_responders"

    def _choose(self, subject: str) -> list[_Subscription]:
        """Every subscriber without a queue, and one of each queue in turn."""
        tokens = _tokens(subject)
        found = [*self._exact.get(subject, ()), *(s for s in self._wild if matches(s.tokens, tokens))]
        chosen = [s for s in found if s.queue is None]
        queues: dict[str, list[_Subscription]] = {}
        for subscription in found:
            if subscription.queue is not None:
                queues.setdefault(subscription.queue, []).append(subscription)
        for queue, members in queues.items():
            chosen.append(members[0] if len(members) == 1 else self._next(queue, members))
        return chosen

    def _next(self, queue: str, members: list[_Subscription]) -> _Subscription:
        # By what they subscribe to: each message may have a subject of its own, and is to be no turn of its own.
        key = members[0].subject, queue
        turn = self._turns[key] = self._turns.get(key, -1) + 1
        return members[turn % len(members)]


class _Subscription:
    __slots__ = ("_bus", "active", "queue", "receive", "subject", "tokens", "wild")
    refused: str | None = None

    def __init__(
        self, bus: LocalBus, subject: str, tokens: tuple[str, ...], receive: Receive, queue: str | None
    ) -> None:
        self._bus = bus
        self.subject = subject
        self.tokens = tokens
        self.receive = receive
        self.queue = queue
        self.wild = "*" in tokens or tokens[-1] == ">"
        self.active = True

    def unsubscribe(self) -> None:
        if self.active:
            self.active = False
            self._bus._drop(self)  # noqa: SLF001 - the two halves of one bus


class _Reservation:
    __slots__ = ("_all", "tokens")

    def __init__(self, all: list[_Reservation], tokens: tuple[str, ...]) -> None:
        self._all = all
        self.tokens = tokens

    def release(self) -> None:
        if self in self._all:
            self._all.remove(self)


@lru_cache(maxsize=4096)
def _tokens(subject: str) -> tuple[str, ...]:
    return tuple(subject.split("."))
