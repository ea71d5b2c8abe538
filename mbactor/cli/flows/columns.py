"""Tables that fit a terminal: where it is narrow, what matters least goes as a whole, and the rest stays readable.

console.print(table_of([Column("FLOW", keys), Column("WHY", reasons, stretch=2)], console.width))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.console import JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

GAP = 2
"""Blanks between two columns."""


class Column(NamedTuple):
    """A column, a cell for each row. One in which nothing stands is left out."""

    title: str
    cells: Sequence[RenderableType]
    right: bool = False
    stretch: int = 0
    """Its share of the room that is left. Its text may be cut, and that of a column with 0 is whole."""
    least: int = 8
    """Characters that one which stretches has in any case, and one of something else than text always."""
    rank: int = 0
    """Where there is no room, the columns with the highest go first; one with 0 stays."""

    @property
    def natural(self) -> int:
        """How wide it is uncut."""
        return max([len(self.title), *map(self._length, self.cells)])

    @property
    def needed(self) -> int:
        """How wide it has to be."""
        return max(len(self.title), min(self.least, self.natural)) if self.stretch else self.natural

    @property
    def empty(self) -> bool:
        """Whether nothing stands in it."""
        return bool(self.cells) and all(isinstance(cell, Text) and not cell.plain for cell in self.cells)

    def _length(self, cell: RenderableType) -> int:
        return max(line.cell_len for line in cell.split("\n")) if isinstance(cell, Text) else self.least


def table_of(columns: Sequence[Column], width: int) -> Table:
    """The columns as a table that is at most so wide, unless what has to stay is wider."""
    shown = fitting([column for column in columns if not column.empty], width)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim", expand=False)
    for column, wide in zip(shown, widths(shown, width), strict=True):
        justify: JustifyMethod = "right" if column.right else "left"
        table.add_column(
            column.title, no_wrap=True, overflow="ellipsis", justify=justify, min_width=wide, max_width=wide
        )
    for row in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*row)
    return table


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """Those for which there is room."""
    shown = list(columns)
    while _total(column.needed for column in shown) > width:
        last = max(shown, key=lambda column: column.rank)
        if last.rank == 0:
            break
        shown.remove(last)
    return shown


def widths(columns: Sequence[Column], width: int) -> list[int]:
    """How wide each is: those that stretch share what the others leave, none is wider than its text."""
    found = [column.needed for column in columns]
    for _ in range(width - _total(found)):
        short = [n for n, column in enumerate(columns) if column.stretch and found[n] < column.natural]
        if not short:
            break
        found[min(short, key=lambda n: found[n] / columns[n].stretch)] += 1
    return found


def _total(found: Iterator[int] | Sequence[int]) -> int:
    lengths = list(found)
    return sum(lengths) + GAP * max(0, len(lengths) - 1)
