"""How large a mailbox may grow, and what it says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mbactor.errors import InvalidSpec
from mbactor.mailbox.overflow import OVERFLOWS, Overflow


@dataclass(frozen=True, slots=True)
class Mailbox:
    """The bound of an actor's mailbox.

        class Orders(Actor):
            mailbox = Mailbox(capacity=100, overflow="drop_oldest")

    `capacity` counts waiting messages; the one in hand does not count.
    """

    capacity: int = 1000
    overflow: Overflow = "reject"

    def __post_init__(self) -> None:
        if type(self.capacity) is not int or self.capacity < 1:
            raise InvalidSpec(f"mailbox capacity {self.capacity!r}: expected a whole number of messages, at least 1")
        if self.overflow not in OVERFLOWS:
            raise InvalidSpec(f"mailbox overflow {self.overflow!r}: expected one of {', '.join(OVERFLOWS)}")


@dataclass(frozen=True, slots=True)
class MailboxStatistics:
    """A mailbox at one moment: `depth` waiting now, `highest` depth ever, and how many messages were
    `accepted`, `rejected`, `expired` (their deadline passed while they waited) and `dropped`;
    `oldest_age` is how long the head has waited, in seconds; `waiting` are the senders that wait for room.
    """

    depth: int
    highest: int
    accepted: int
    rejected: int
    expired: int
    dropped: int
    oldest_age: float
    waiting: int = 0

    @staticmethod
    def of(several: Sequence[MailboxStatistics]) -> MailboxStatistics:
        """Several queues as one mailbox; `highest` is that of the fullest."""
        if len(several) == 1:
            return several[0]
        summed = ("depth", "accepted", "rejected", "expired", "dropped", "waiting")
        return MailboxStatistics(
            **{name: sum(getattr(one, name) for one in several) for name in summed},
            highest=max((one.highest for one in several), default=0),
            oldest_age=max((one.oldest_age for one in several), default=0.0),
        )
