"""`Siblings`: all the children that a supervisor remembers, in the order in which they start.

    after = before.with_changed({"orders": replace(orders, status="running")})

A value: nothing that happens later shows in it. One of which a few children are changed shares the rest with the one
before, so a change costs little more among ten thousand children than among ten.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from mbactor.supervisor.state import ChildState

BLOCK = 64
"""Children that are copied where one of them changes."""


class Siblings(Struct, frozen=True, eq=False):  # noqa: PLW1641 - specifications have no hash either
    """Kept in blocks, of which a change copies one; in which each child is, is shared by all that differ in nothing but
    what their children are at.
    """

    _blocks: tuple[dict[str, ChildState], ...]
    places: Mapping[str, int]
    """The block of each, by its id."""

    @classmethod
    def of(cls, children: Iterable[ChildState]) -> Siblings:
        """These, in this order."""
        every = tuple(children)
        blocks = tuple({one.spec.id: one for one in every[at : at + BLOCK]} for at in range(0, len(every), BLOCK))
        return cls(blocks, {child.spec.id: place // BLOCK for place, child in enumerate(every)})

    def find(self, id: str) -> ChildState | None:
        block = self.places.get(id)
        return None if block is None else self._blocks[block][id]

    def with_one(self, id: str, child: ChildState) -> Siblings:
        """The same with this one in the place of what it was before. It must be here."""
        blocks, block = self._blocks, self.places[id]
        changed = {**blocks[block], id: child}
        if len(blocks) == 1:
            return Siblings((changed,), self.places)
        return Siblings((*blocks[:block], changed, *blocks[block + 1 :]), self.places)

    def with_changed(self, changed: Mapping[str, ChildState]) -> Siblings:
        """The same with these in the places of what they were before. All must be here."""
        blocks = list(self._blocks)
        for id, child in changed.items():
            block = self.places[id]
            blocks[block] = {**blocks[block], id: child}
        return Siblings(tuple(blocks), self.places)

    def __iter__(self) -> Iterator[ChildState]:
        return chain.from_iterable(block.values() for block in self._blocks)

    def __len__(self) -> int:
        return len(self.places)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Siblings) and other._blocks == self._blocks

    def __repr__(self) -> str:
        return f"Siblings({list(self)!r})"


NOBODY = Siblings((), {})
"""No children."""
