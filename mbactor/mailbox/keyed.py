"""A mailbox queue in which one item of a key is in flight at a time, in order, and others pass meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from mbactor.mailbox.mailbox import Mailbox
from mbactor.mailbox.queue import Lane, MailboxQueue

T = TypeVar("T")


class KeyedQueue(MailboxQueue[T]):
    """As `MailboxQueue`; an item whose key is in flight is held until `release` of the one before it.

    `key_of` gives an item's key, None where it has none. Items of one key are taken in the order of their offers.
    What is held counts as waiting. Lanes above WORK know no keys.
    """

    __slots__ = ("_flying", "_free", "_held", "_holds", "_key_of")

    def __init__(
        self,
        bound: Mailbox,
        since: Callable[[T], float],
        admitted: Callable[[T], bool] | None = None,
        *,
        key_of: Callable[[T], Hashable | None],
    ) -> None:
        super().__init__(bound, since, admitted)
        self.plain = False
        self._key_of = key_of
        self._flying: dict[Hashable, T] = {}
        """What was taken and not released, by its key."""
        self._held: dict[Hashable, deque[T]] = {}
        """What stands behind that. Each key here is in flight, or among the free ones."""
        self._free: deque[Hashable] = deque()
        """Keys whose turn has come. One may be in flight again: then its next release comes here too."""
        self._holds = 0

    @property
    def empty(self) -> bool:
        return super().empty and not self._holds

    @property
    def _depth(self) -> int:
        return len(self.work) + self._holds

    def offer(self, item: T, lane: Lane = Lane.WORK) -> bool | T:
        if lane is Lane.WORK and self.full:
            return self._offer_to_full(item)
        answer = super().offer(item, lane)
        self.highest = max(self.highest, self._depth)
        return answer

    def pick(self) -> T | None:
        for lane in self._urgent or ():
            if lane:
                return lane.popleft()
        item = self._next_of_free()
        if item is None:
            item = self._next_of_work()
        self._admit()
        return item

    def _next_of_free(self) -> T | None:
        while self._free:
            key = self._free.popleft()
            if key in self._held and key not in self._flying:
                item = self._flying[key] = self._unhold(key)
                return item
        return None

    def _next_of_work(self) -> T | None:
        while self.work:
            item = self.work.popleft()
            key = self._key_of(item)
            if key is None:
                return item
            if key not in self._flying and key not in self._held:
                self._flying[key] = item
                return item
            self._held.setdefault(key, deque()).append(item)
            self._holds += 1
        return None

    def release(self, item: T) -> bool:
        """The item is done with: the next of its key may be taken, before what came later."""
        key = self._key_of(item)
        return key is not None and self._flying.get(key) is item and self._freed(key)

    def in_flight(self, item: T) -> T | None:
        return self._flying.get(self._key_of(item))

    def release_all(self) -> None:
        for key in tuple(self._flying):
            self._freed(key)

    def _freed(self, key: Hashable) -> bool:
        del self._flying[key]
        if key not in self._held:
            return False
        self._free.append(key)
        return True

    def withdraw(self, item: T) -> bool:
        key = self._key_of(item)
        held = self._held.get(key)
        if held is None or item not in held:
            return super().withdraw(item)
        held.remove(item)
        self._holds -= 1
        self.gone += 1
        if not held:
            del self._held[key]
        self._admit()
        return True

    def put_back(self, items: Iterable[T]) -> None:
        again = list(items)
        self.gone -= len(again)
        for item in reversed(again):
            held = self._held.get(self._key_of(item))
            if held is None:
                self.work.appendleft(item)
            else:
                held.appendleft(item)
                self._holds += 1
        self.highest = max(self.highest, self._depth)

    def items(self) -> list[T]:
        return sorted([*(item for held in self._held.values() for item in held), *self.work], key=self._since)

    def _all_work(self) -> list[T]:
        held = [item for items in self._held.values() for item in items]
        self._held.clear()
        self._free.clear()
        self._holds = 0
        return sorted([*held, *super()._all_work()], key=self._since)

    def _evict(self) -> T:
        first = min(self._held, key=lambda key: self._since(self._held[key][0]), default=None)
        if first is None or (self.work and self._since(self.work[0]) < self._since(self._held[first][0])):
            return self.work.popleft()
        return self._unhold(first)

    def _unhold(self, key: Hashable) -> T:
        held = self._held[key]
        item = held.popleft()
        self._holds -= 1
        if not held:
            del self._held[key]
        return item

    def _oldest(self) -> float | None:
        heads = [held[0] for held in self._held.values()] + ([self.work[0]] if self.work else [])
        return min(map(self._since, heads), default=None)
