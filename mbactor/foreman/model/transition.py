"""The values a graph is made of: nodes and the transitions between them."""

from __future__ import annotations

from typing import Literal

import msgspec

from mbactor.foreman.model.join import Join

END = "END"
"""The end of the flow: a target that is no node."""

TransitionKind = Literal["plain", "when", "switch", "goto", "for_each", "on_error", "on_timeout"]


class Node(msgspec.Struct, frozen=True, gc=False):
    """A place in the graph. Its name is its identity; several nodes may share the URL of one task."""

    name: str
    url: str
    fan_in: bool = False
    time_budget: float | None = None
    """Seconds; None: the flow's."""
    subgraph: bool = False
    """The URL is a workflow's, run as a child flow."""
    inputs: tuple[str, ...] | None = None
    """The fields that go into the child; None: all."""
    outputs: tuple[str, ...] | None = None
    """The fields that come back from it; None: all."""
    join: Join = Join.ALL
    """At a fan-in: which branches it waits for."""
    rate: str = ""
    """How often its task may be started, as `100/s`; empty: as often as it comes."""


class Transition(msgspec.Struct, frozen=True, gc=False):
    """An edge. `when` goes with the kinds when, switch and (from JSON) for_each."""

    source: str
    target: str
    kind: TransitionKind = "plain"
    when: str | None = None
    for_each: str | None = None
    as_: str | None = None
    max_parallel: int | None = None
    """At a for-each: so many branches of the fan-out are under way at once; None: all."""

    @property
    def routes(self) -> bool:
        """Taken in the ordinary course: not on demand, not on failure."""
        return self.kind not in {"goto", "on_error", "on_timeout"}

    @property
    def spawns(self) -> bool:
        """Counts towards a fan-out."""
        return self.kind in {"plain", "when", "for_each"}

    @property
    def branch_fields(self) -> tuple[str, str, str]:
        """The fields that a branch of `for_each` finds in its state: element, index, count."""
        item = self.as_ or "item"
        return item, f"{item}_index", f"{item}_count"

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}"
