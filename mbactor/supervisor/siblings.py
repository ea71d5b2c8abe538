"""`Siblings`: all the children that a supervisor remembers, in the order in which they start.

    after = before.with_changed({"orders": replace(orders, status="running")})

A value: nothing that happens later shows in it. One of which a few children are changed shares the rest with the one
before, so a change costs little more among ten thousand children than among ten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mbactor.supervisor.state import ChildState

BLOCK = 64
"""Children that are copied where one of them changes."""


class Siblings:  # noqa: PLW1641 - specifications have no hash either
    """Kept in blocks, of which a change copies one; where each child stands is shared by all that differ in nothing
    but what their children are at.
    """

    __slots__ = ("_blocks", "places")

    def __init__(self, blocks: tuple[tuple[ChildState, ...], ...], places: Mapping[str, int]) -> None:
        self._blocks = blocks
        self.places = places
        """Where each stands, by its id."""

    @classmethod
    def of(cls, children: Iterable[ChildState]) -> Siblings:
        """These, in this order."""
        every = tuple(children)
        blocks = tuple(every[at : at + BLOCK] for at in range(0, len(every), BLOCK))
        return cls(blocks, {child.spec.id: place for place, child in enumerate(every)})

    def find(self, id: str) -> ChildState | None:
        place = self.places.get(id)
        return None if place is None else self._blocks[place // BLOCK][place % BLOCK]

    def with_changed(self, changed: Mapping[str, ChildState]) -> Siblings:
        """The same with these in the places of what they were before. All must be here."""
        blocks = list(self._blocks)
        for id, child in changed.items():
            number, place = divmod(self.places[id], BLOCK)
            block = list(blocks[number])
            block[place] = child
            blocks[number] = tuple(block)
        return Siblings(tuple(blocks), self.places)

    def __iter__(self) -> Iterator[ChildState]:
        return chain.from_iterable(self._blocks)

    def __len__(self) -> int:
        return len(self.places)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Siblings) and other._blocks == self._blocks

    def __repr__(self) -> str:
        return f"Siblings({list(self)!r})"


NOBODY = Siblings((), {})
"""No children."""
