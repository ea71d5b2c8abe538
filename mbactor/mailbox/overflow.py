"""What a full mailbox does with one more message. Pure."""

from __future__ import annotations

from typing import Literal, get_args

Overflow = Literal["reject", "wait", "drop_oldest", "drop_newest"]
"""`reject`: the sender is told (503). `wait`: an ask waits at its sender for room, within its time budget; a tell is
refused, and `tell_wait` waits. `drop_oldest`: the head makes room and becomes a dead letter. `drop_newest`: the message
itself becomes a dead letter; whoever asked is told as with `reject`.
"""

OVERFLOWS: tuple[str, ...] = get_args(Overflow)

Room = Literal["accept", "refuse", "evict"]


def room_for(overflow: Overflow, depth: int, capacity: int) -> Room:
    """Whether one more message is accepted, refused, or accepted after the oldest is evicted."""
    if depth < capacity:
        return "accept"
    return "evict" if overflow == "drop_oldest" else "refuse"
