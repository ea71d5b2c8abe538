"""Names of actors on one node: registered, looked up, and released when the actor ends for good."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mbactor.errors import NameTaken, NoSuchName
from mbactor.kernel.context import check_not_fenced, current
from mbactor.kernel.ref import ActorRef

if TYPE_CHECKING:
    from mbactor.kernel.cell import Cell


class Names:
    """`system.refs`, and `self.refs` within an actor: refs by name.

        self.refs.register("till", self.ref)
        await self.refs["till"].ask(Till.open)

    A name belongs to one actor of this node at a time; an actor may have several. They survive its restarts and are
    released when it ends for good.
    """

    __slots__ = ("_cells", "_names")

    def __init__(self) -> None:
        self._cells: dict[str, Cell] = {}
        self._names: dict[Cell, set[str]] = {}

    def register(self, name: str, ref: ActorRef[Any]) -> None:
        """Give an actor of this node a name. NameTaken where another has it; ActorStopped where it has ended."""
        given: tuple[Any, Any] = (name, ref)
        if not isinstance(given[0], str) or not isinstance(given[1], ActorRef):
            raise TypeError(f"register{given!r}: a text and an ActorRef expected")
        cell = ref.cell
        check_not_fenced(current.get())
        holder = self._cells.get(name)
        if holder is not None and holder is not cell:
            raise NameTaken(name, holder.address)
        if cell.ended is not None:
            raise cell.stopped()
        self._cells[name] = cell
        self._names.setdefault(cell, set()).add(name)

    def release(self, name: str) -> None:
        """Take a name back. NoSuchName where nobody has it."""
        check_not_fenced(current.get())
        cell = self._cells.pop(name, None)
        if cell is None:
            raise NoSuchName(name)
        self._names[cell].discard(name)

    def get(self, name: str) -> ActorRef[Any] | None:
        """The ref, or None where nobody has the name."""
        cell = self._cells.get(name)
        return None if cell is None else ActorRef(cell)

    def forget(self, cell: Cell) -> None:
        """Release all names of an actor."""
        for name in self._names.pop(cell, ()):
            del self._cells[name]

    def __getitem__(self, name: str) -> ActorRef[Any]:
        cell = self._cells.get(name)
        if cell is None:
            raise NoSuchName(name)
        return ActorRef(cell)

    def __contains__(self, name: object) -> bool:
        return name in self._cells

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._cells))

    def __len__(self) -> int:
        return len(self._cells)
