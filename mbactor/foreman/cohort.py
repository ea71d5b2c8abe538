"""`Cohort`: what the branches of a fan-out wrote, in the memory of the worker that ran them all. Pure.

    cohort = Cohort(node, state, changes, branches=16, lease_number=1)     # of the step that spawned it
    cohort.arrived(ordinal, branch)                                        # each, once its end is durable
    if cohort.is_whole(inserted.spawn_lease):
        state = cohort.folded(graph)                                       # what the fan-in reads

The database has the truth, and this is what a reading of it would find, or it is not whole. For a branch has arrived
here only if each of its steps was handed on from memory by the one before, from the step that spawned it to its end,
and has landed: so these are all its rows, as they were written. Claims, retries, parks, lost leases and restarts break
that chain from hand to hand, and the branch is missing. A row that landed is changed by nothing but a `Rewind`; that
gives the row of the spawning step another lease number in the same transaction, and whoever inserts the fan-in is told
which it has.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import msgspec

from mbactor.foreman.model.graph import Graph
from mbactor.foreman.model.reducers import fold
from mbactor.foreman.model.state import Fields

LARGEST = 64 * 1024
"""Bytes that a branch, and all branches of a cohort together, may have written; beyond that they are read."""


class Branch(msgspec.Struct, frozen=True, gc=False):
    """Where in a cohort a step is: `deltas` is what the steps before it in its branch wrote, of so many bytes."""

    cohort: Cohort
    deltas: tuple[Fields, ...] = ()
    size: int = 0

    def after(self, deltas: tuple[Fields, ...], size: int) -> Branch | None:
        """Where the next step of the branch is, once this was written; None where it is too much to keep."""
        if not deltas:
            return self
        whole = self.size + size
        return Branch(self.cohort, (*self.deltas, *deltas), whole) if whole <= LARGEST else None


class Cohort:
    """A cohort whose fan-in waits for all its branches, of which each was handed to this worker. Costs a reference to
    each delta for as long as a branch of it is under way here.
    """

    __slots__ = ("_around", "_base", "_branches", "_ends", "_lease_number", "_node", "_own", "_size", "weight")

    def __init__(
        self,
        node: str,
        base: Fields,
        own: Fields,
        *,
        branches: int,
        lease_number: int,
        weight: int = 0,
        around: Branch | None = None,
    ) -> None:
        """Of the step that spawned it: its node, its input, what it wrote itself, and under which lease it ended."""
        self._node = node
        self._base = base
        self._own = (own,) if own else ()
        self._branches = branches
        self._lease_number = lease_number
        self._ends: dict[int, tuple[Fields, ...]] = {}
        self.weight = weight
        """Bytes of deltas from the last snapshot to the base."""
        self._around = around
        """Where the fan-in goes on, in the cohort around this one, as far as that is known; still without this one."""
        self._size = 0

    def arrived(self, ordinal: int, end: Branch) -> None:
        """A branch has ended, and that has landed."""
        self._size += end.size
        if self._size <= LARGEST:
            self._ends[ordinal] = end.deltas

    def is_whole(self, lease_number: int) -> bool:
        """Whether all branches are there, as they are in the database: see above."""
        return len(self._ends) == self._branches and lease_number == self._lease_number

    def folded(self, graph: Graph) -> Fields:
        """The input of its fan-in. ReducerError where the branches do not fit together."""
        deltas = without(self._of_branches(), graph.branch_fields_of(self._node))
        return fold(self._base, chain(self._own, deltas), graph)

    def beyond(self) -> Branch | None:
        """Where its fan-in is in the cohort around it, if that is known. In fold order the step that spawned this one
        comes first, and then its branches.
        """
        if self._around is None:
            return None
        return self._around.after((*self._own, *self._of_branches()), self._size + weight_of(self._own))

    def _of_branches(self) -> Iterable[Fields]:
        return (delta for _, end in sorted(self._ends.items()) for delta in end)


def weight_of(deltas: Iterable[Fields]) -> int:
    """Bytes that the deltas take."""
    return sum(len(raw) + len(name) for delta in deltas for name, raw in delta.items())


def without(deltas: Iterable[Fields], own: frozenset[str]) -> Iterable[Fields]:
    """The deltas but for the fields that branches have for themselves."""
    if not own:
        return deltas
    return (
        delta if own.isdisjoint(delta) else {name: raw for name, raw in delta.items() if name not in own}
        for delta in deltas
    )
