"""The topology files that commands are given, and how their mistakes are told.

    topology = load(Path("shop.yaml"), overlays)

`-` is stdin for the commands that only read: its errors name `<stdin>`, and what it names by relative paths is looked
for in the working directory. Where a running process is found by its file, or reads the file itself, it is refused.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mbactor.kernel.settings import environment

if TYPE_CHECKING:
    from mbactor.supervisor.topology import Topology
    from mbactor.supervisor.tree import TreeNode

STDIN = Path("<stdin>")


class _Path(click.Path):
    def __init__(self, *, stdin: bool = False) -> None:
        super().__init__(path_type=Path)
        self._stdin = stdin

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value != "-":
            return super().convert(value, param, ctx)
        if not self._stdin:
            self.fail("'-' given, the path of a file expected: stdin is read by check, render, tree and schema", param)
        return STDIN


PATH = _Path()
PATH_OR_STDIN = _Path(stdin=True)


def load(file: Path, overlays: tuple[Path, ...] = ()) -> Topology:
    """The topology of a file and its overlays; every mistake on stderr and exit code 2 where it has any."""
    from mbactor.errors import MbactorError
    from mbactor.supervisor.topology import load as load_topology

    try:
        return load_topology(file, environment(), overlays, content=_read() if file == STDIN else None)
    except MbactorError as error:
        _refuse(file, getattr(error, "problems", None) or [error.message])


def declared(topology: Topology) -> TreeNode:
    """The tree that a topology declares; exit code 2 where a supervisor of it cannot be made."""
    from mbactor.errors import MbactorError
    from mbactor.supervisor.tree import tree_of_spec

    try:
        return tree_of_spec(topology.supervisor, topology.name)
    except MbactorError as error:
        where = place_of(topology.places, str(error.fields.get("child", "")))
        _refuse(topology.file, [f"{where or topology.file}: {error.message}"])


def place_of(places: Mapping[tuple[str, ...], str], path: str) -> str:
    """Where a child stands, or the one that makes it in code; empty where neither is known."""
    from mbactor.supervisor.topology.children import nearest

    found = nearest(places, tuple(path.split("/")))
    return places[found] if found else ""


def _refuse(file: Path, problems: Sequence[str]) -> NoReturn:
    for problem in problems:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {_bold_place(problem)}", err=True)
    click.echo(f"{file}: {counted(len(problems), 'mistake')}, nothing was started", err=True)
    sys.exit(2)


def _read() -> bytes:
    """All of stdin, so far as it may be a topology. Python has none where it was closed."""
    from mbactor.supervisor.topology.reading import MOST_READ

    stdin: Any = sys.stdin
    return b"" if stdin is None else stdin.buffer.read(MOST_READ + 1)


def _bold_place(problem: str) -> str:
    place = re.match(r".+?:\d+:\d+(?=: )", problem)
    return problem if place is None else click.style(place[0], bold=True) + problem[place.end() :]


def counted(number: int, what: str) -> str:
    """So many of something."""
    return f"1 {what}" if number == 1 else f"{number} {what}s"
