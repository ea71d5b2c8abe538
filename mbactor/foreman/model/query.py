"""Which flows `list` and `purge` are about.

    FlowQuery(status="failed", workflow="https://credit.example:428/approval", newer_than=3600)

Everything that is given has to hold. BadRequest (400) names what cannot be, and what was expected.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from mbactor.errors import BadRequest, did_you_mean
from mbactor.foreman.model.outcome import LARGEST
from mbactor.foreman.model.paging import position_of
from mbactor.foreman.model.state import is_storable
from mbactor.foreman.model.status import FLOW_STATUSES

MOST_LISTED = 10_000
MOST_PURGED = 4_096

_TEXTS = ("workflow", "thread", "task", "fairness_key", "concurrency_key", "search")


class FlowQuery(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The filters of a list, and which of its pages."""

    status: str | None = None
    workflow: str | None = None
    """The URL that the flow was created with."""
    thread: str | None = None
    """The key of any flow of the thread."""
    task: str | None = None
    """The node that the flow is at, or has failed at."""
    fairness_key: str | None = None
    concurrency_key: str | None = None
    """That of their options; empty: those without one."""
    priority: int | None = None
    older_than: float | None = None
    """Seconds for which its status has not changed."""
    newer_than: float | None = None
    """Seconds within which its status has changed."""
    search: str | None = None
    """Text within the workflow's URL or name, the node, the error, the reason of a cancel or the key, in any case."""
    include_subflows: bool = False
    shard: int | None = None
    limit: int = 100
    cursor: str = ""

    def __post_init__(self) -> None:
        if self.status is not None and self.status not in FLOW_STATUSES:
            hint = did_you_mean(self.status, FLOW_STATUSES)
            raise BadRequest(f"status={self.status!r}: expected one of {', '.join(FLOW_STATUSES)}{hint}")
        for name in _TEXTS:
            _check_text(name, getattr(self, name))
        for name in ("older_than", "newer_than"):
            _check_age(name, getattr(self, name))
        _check_number("priority", self.priority, 0, LARGEST)
        _check_number("shard", self.shard, 1, LARGEST)
        _check_number("limit", self.limit, 1, MOST_LISTED)
        position_of(self.cursor)

    @property
    def narrows(self) -> bool:
        """Whether it says anything about which flows are meant."""
        given = (self.status, self.workflow, self.thread, self.task, self.fairness_key, self.concurrency_key,
                 self.priority, self.older_than, self.newer_than, self.search)  # fmt: skip
        return any(value not in {None, ""} for value in given)


def check_purge(query: FlowQuery) -> None:
    """BadRequest where a purge by it cannot be meant."""
    if not query.narrows:
        raise BadRequest(
            "purge without a filter would remove every flow that rests; give at least one of status, workflow, thread,"
            " task, fairness_key, concurrency_key, priority, older_than, newer_than, search (older_than=0 is all of"
            " them)"
        )
    if query.include_subflows:
        raise BadRequest("include_subflows: a flow that another called goes with that one; purge the one that called")
    if query.cursor:
        raise BadRequest("cursor: purge has no pages; call it again until it returns 0")
    if query.limit > MOST_PURGED:
        raise BadRequest(f"limit={query.limit}: expected 1 to {MOST_PURGED} for a purge; call it again for more")


def _check_text(name: str, value: Any) -> None:
    if value is not None and not (isinstance(value, str) and is_storable(value)):
        raise BadRequest(f"{name}={value!r}: expected a text without NUL")


def _check_age(name: str, value: Any) -> None:
    if value is not None and not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
        raise BadRequest(f"{name}={value!r}: expected a duration such as 1h, 0 or more")


def _check_number(name: str, value: Any, least: int, most: int) -> None:
    if value is None:
        return
    if type(value) is not int or not least <= value <= most:
        expected = f"{least} or more" if most == LARGEST else f"{least} to {most}"
        raise BadRequest(f"{name}={value!r}: expected a whole number, {expected}")
