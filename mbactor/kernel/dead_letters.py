"""Messages that could not be delivered: kept for a while, told to whoever observes."""

from __future__ import annotations

import datetime as dt
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mbactor import clock, observe


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One undelivered message: where to, which method with which arguments, who sent it, and why it failed."""

    address: str
    method: str
    arguments: dict[str, Any] | None
    sender: str | None
    reason: str
    at: dt.datetime


class DeadLetters:
    """The last dead letters (1,000 by default), oldest first, and `total` of all there ever were."""

    def __init__(self, keep: int = 1000) -> None:
        self._kept: deque[DeadLetter] = deque(maxlen=keep)
        self.total = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(tuple(self._kept))

    def add(self, address: str, method: str, arguments: dict[str, Any] | None, sender: str | None, reason: str) -> None:
        self.total += 1
        self._kept.append(DeadLetter(address, method, arguments, sender, reason, clock.utcnow()))
        observe.emit("message.dead", address=address, method=method, sender=sender, reason=reason)
