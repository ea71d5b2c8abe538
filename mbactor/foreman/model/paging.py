"""Pages of flows over any number of shards, in one order: newest first, then by key (pure).

    merged({1: rows_of_shard_1, 2: rows_of_shard_2}, {3: "does not answer"}, limit=100)

A cursor is the position of the last flow of its page in that order, and says nothing of shards: so it stays right when
some come, go or are away meanwhile. Each shard answers with its flows behind that position, one more than are wanted:
then the page, and whether there is another, follow from these alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from mbactor.errors import BadRequest
from mbactor.foreman.model.outcome import FlowPage, FlowSummary

HIGHEST_ID = 2**63 - 1


class Position(NamedTuple):
    """Where a flow stands in the order of lists. Its creation is told by its database's clock, in Unix seconds."""

    created_at: float
    shard: int
    id: int

    def __str__(self) -> str:
        return f"{self.created_at!r}:{self.shard}:{self.id}"


class Listed(msgspec.Struct, frozen=True):
    """A flow of one shard, as it takes part in a merge."""

    position: Position
    flow: FlowSummary


def position_of(cursor: str) -> Position | None:
    """The position that a cursor stands for; None for that of the first page."""
    if cursor == "":
        return None
    try:
        moment, shard, flow_id = str(cursor).split(":")
        found = Position(float(moment), int(shard), int(flow_id))
    except ValueError:
        found = None
    if found is None or not math.isfinite(found.created_at) or str(found) != cursor or not _is_place(found):
        raise BadRequest(f"cursor={cursor!r}: expected the next_cursor of a page before, or nothing")
    return found


def _is_place(position: Position) -> bool:
    return position.shard >= 1 and 0 <= position.id <= HIGHEST_ID


def bound(position: Position, shard: int) -> tuple[float, int]:
    """What (creation, id) of a flow of this shard is below, where the flow is behind the position."""
    if shard < position.shard:
        return position.created_at, HIGHEST_ID
    return position.created_at, position.id if shard == position.shard else 0


def merged(found: Mapping[int, Sequence[Listed]], missing: Mapping[int, str], limit: int) -> FlowPage:
    """One page of what each shard has: its first `limit + 1` flows behind the cursor, or why there are none of it."""
    rows = sorted((row for rows in found.values() for row in rows), key=lambda row: row.position, reverse=True)
    page = rows[:limit]
    more = len(rows) > limit
    notes = [f"shard {shard} is not in this list: {why}" for shard, why in sorted(missing.items())]
    return FlowPage([row.flow for row in page], str(page[-1].position) if more else "", notes)
