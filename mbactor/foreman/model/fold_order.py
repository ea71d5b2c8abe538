"""In which order a fan-in folds what the branches of a cohort have changed (pure).

[(0, a), (0, after_a), (1, b)] == list(fold_order([b, after_a, a], spawn_id))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar


class Member(Protocol):
    """A step, as far as its place among others goes."""

    @property
    def id(self) -> int: ...

    @property
    def spawn_id(self) -> int | None: ...

    @property
    def ordinal(self) -> int: ...

    @property
    def depth(self) -> int: ...

    @property
    def status(self) -> str: ...

    @property
    def successor_id(self) -> int | None: ...

    @property
    def cohort_id(self) -> int | None: ...

    @property
    def cohort_needed(self) -> int: ...


M = TypeVar("M", bound=Member)


def fold_order(steps: Iterable[M], spawn_id: int, *, arrived_only: bool = False) -> Iterator[tuple[int, M]]:
    """The completed steps of a cohort with the number of their branch: by (ordinal, depth, id), and what a nested
    cohort did after the step that spawned it. Steps of other cohorts may be among those given.

    With `arrived_only` those of branches that have come to their fan-in, for a fan-in that does not wait for all; of
    a nested cohort that has such a fan-in they are the only ones in any case.
    """
    members: dict[int, list[M]] = {}
    arrived: set[tuple[int, int]] = set()
    met: set[int | None] = set()
    choosy: set[int] = set()
    for step in steps:
        met.add(step.cohort_id)
        if step.cohort_needed:
            choosy.add(step.id)
        if step.spawn_id is not None and step.status == "completed":
            members.setdefault(step.spawn_id, []).append(step)
            if step.successor_id is None:
                # What ends a branch has completed and has none after it: the fan-in is inserted by the last to arrive.
                arrived.add((step.spawn_id, step.ordinal))
    picking = (choosy & met) - {spawn_id} | ({spawn_id} if arrived_only else set())

    def below(spawn_id: int, branch: int | None) -> Iterator[tuple[int, M]]:
        for step in sorted(members.get(spawn_id, ()), key=lambda step: (step.ordinal, step.depth, step.id)):
            if spawn_id in picking and (spawn_id, step.ordinal) not in arrived:
                continue
            own = step.ordinal if branch is None else branch
            yield own, step
            yield from below(step.id, own)

    return below(spawn_id, None)
