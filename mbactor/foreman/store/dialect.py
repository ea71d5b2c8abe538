"""What the store's statements need of a database: one small protocol, and all in which two databases differ.

    async def best(db: Db) -> list[tuple[Any, ...]]:
        return await db.rows("SELECT id FROM mbactor_step WHERE flow_id IN (<ids>)", [1, 2])

The statements of `settle`, `flows`, `leases` and `reads` are written once, as coroutines over a `Db`. SQLite runs such
a coroutine to its end in the driver's thread, where no await ever waits; PostgreSQL runs it on the event loop. The
text is common SQL with `?` for values and these words, which each database replaces by its own:

* `<ids>`, `<texts>`: a subquery over one value, a list of integers or of texts;
* `<greatest>`, `<least>`: the functions of the larger and of the smaller of two values;
* `<position>`: the function of where in a text another is found, 0 where it is not;
* `<lower>`: the function of a text in lower case;
* `<now>`: the database's time in Unix seconds;
* `<error text>`: the text of a flow's error;
* `<skip locked>`: the end of a SELECT that locks the rows it finds, passing over those that others have.

What a batch does to many rows alike is an `Update` or an `Insert`: SQLite runs it as a few statements of many values
each, PostgreSQL as one over arrays. Types of their values are those of the schema's columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from mbactor.foreman.store.operations import Operation

Row = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Update:
    """An UPDATE of many rows of one table: `:name` in its text is a value that each row brings.

    `values` names them in order, each a column of the table.
    No two rows may name the same row of the table. What it returns are numbers and texts. `assumed`: a condition on
    that which nearly always holds, and without which the batch has to look at the answer before it goes on.
    """

    table: str
    set: str
    where: str
    values: tuple[str, ...]
    returning: str = ""
    assumed: str = ""


@dataclass(frozen=True, eq=False)
class Insert:
    """An INSERT of many rows into one table. With `once`, a row that a unique index refuses is left out, and the
    `returning` column of the others comes back.
    """

    table: str
    columns: tuple[str, ...]
    once: bool = False
    returning: str = ""


class Begun(msgspec.Struct, frozen=True, gc=False):
    """An open transaction: the database's time in Unix seconds, and the ids it has set aside, rising.

    `breakpoints`: of those flows whose steps the batch settles and whose root has some, the root's.
    """

    now: float
    step_ids: Sequence[int]
    flow_ids: Sequence[int]
    breakpoints: Mapping[int, bytes] = {}


class Db(Protocol):
    """A connection with an open transaction."""

    async def begin(self, batch: Sequence[Operation], steps: int, flows: int) -> Begun:
        """Lock what the batch is about and set ids aside. From here on nobody else changes the flows it names, nor
        any flow of their trees.
        """
        ...

    async def rows(self, query: str, *values: Any) -> list[Row]:
        """What a statement returns. A value may be a list, for `<ids>` and `<texts>`."""
        ...

    async def count(self, statement: str, *values: Any) -> int:
        """How many rows a statement changed."""
        ...

    async def update(self, statement: Update, rows: Sequence[Row]) -> dict[int, Row]:
        """The index of each of `rows` that found its row in the table, with what `returning` names."""
        ...

    async def insert(self, statement: Insert, rows: Sequence[Row]) -> list[Row]:
        """What `returning` names, of the rows that were inserted."""
        ...
