"""What a full mailbox does with one more message. Pure."""

from __future__ import annotations

from typing import Literal, get_args

Overflow = Literal["reject", "drop_oldest", "drop_newest"]
"""`reject`: the sender is told (503). `drop_oldest`: the head makes room and becomes a dead letter.
`drop_newest`: the message itself becomes a dead letter; its sender is told as with `reject`.
"""

OVERFLOWS: tuple[str, ...] = get_args(Overflow)

Room = Literal["accept", "refuse", "evict"]


def room_for(overflow: Overflow, depth: int, capacity: int) -> Room:
    """Whether one more message is accepted, refused, or accepted after the oldest is evicted."""
    if depth < capacity:
        return "accept"
    return "evict" if overflow == "drop_oldest" else "refuse"
