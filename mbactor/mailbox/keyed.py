"""A mailbox queue in which one item of a key is in flight at a time, in order, and others pass meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import TypeVar

from mbactor.mailbox.mailbox import Mailbox
from mbactor.mailbox.queue import Lane, MailboxQueue

T = TypeVar("T")


class KeyedQueue(MailboxQueue[T]):
    """As `MailboxQueue`; an item whose key is in flight is held until `release` of the one before it.

    `key_of` gives an item's key, None where it has none. Items of one key are taken in the order of their offers.
    """

    __slots__ = ("_flying", "_held", "_holds", "_key_of")

    def __init__(
        self,
        bound: Mailbox,
        since: Callable[[T], float],
        admitted: Callable[[T], None] | None = None,
        *,
        key_of: Callable[[T], Hashable | None],
    ) -> None:
        super().__init__(bound, since, admitted)
        self.plain = False
        self._key_of = key_of
        self._flying: set[Hashable] = set()
        self._held: dict[Hashable, deque[T]] = {}
        self._holds = 0

    def __len__(self) -> int:
        return super().__len__() + self._holds

    def offer(self, item: T, lane: Lane = Lane.WORK) -> bool | T:
        depth = len(self.work) + self._holds
        if lane is Lane.WORK and depth >= self.bound.capacity:
            return self._offer_to_full(item)
        answer = super().offer(item, lane)
        if lane is Lane.WORK and depth >= self.highest:
            self.highest = depth + 1
        return answer

    def take(self) -> T | None:
        while (item := super().take()) is not None:
            key = self._key_of(item)
            if key is None:
                return item
            if key not in self._flying:
                self._flying.add(key)
                return item
            self._held.setdefault(key, deque()).append(item)
            self._holds += 1
        return None

    def release(self, item: T) -> bool:
        """The item is done with: the next of its key may be taken, before what came later."""
        return self._freed(self._key_of(item))

    def release_all(self) -> None:
        for key in tuple(self._flying):
            self._freed(key)

    def _freed(self, key: Hashable) -> bool:
        self._flying.discard(key)
        held = self._held.get(key)
        if not held:
            return False
        self.work.appendleft(held.popleft())
        self._holds -= 1
        if not held:
            del self._held[key]
        return True

    def withdraw(self, item: T) -> bool:
        held = self._held.get(self._key_of(item))
        if held is not None and item in held:
            held.remove(item)
            self._holds -= 1
            if not held:
                del self._held[self._key_of(item)]
            return True
        return super().withdraw(item)

    def items(self) -> list[T]:
        return sorted([*(item for held in self._held.values() for item in held), *self.work], key=self._since)

    def drain(self) -> list[T]:
        self._flying.clear()
        held = [item for items in self._held.values() for item in items]
        self._held.clear()
        self._holds = 0
        items = sorted([*held, *self.work], key=self._since)
        self.work.clear()
        self.work.extend(items)
        return super().drain()

    def _evict(self) -> T:
        first = min(self._held.values(), key=lambda held: self._since(held[0]), default=None)
        if first is None or (self.work and self._since(self.work[0]) <= self._since(first[0])):
            return self.work.popleft()
        item = first[0]
        self.withdraw(item)
        return item

    def _oldest(self) -> float | None:
        heads = [held[0] for held in self._held.values()] + ([self.work[0]] if self.work else [])
        return min(map(self._since, heads), default=None)

    def _admit(self) -> None:
        if self._waiting and len(self.work) + self._holds < self.bound.capacity:
            super()._admit()
