"""`mbactor tree --live`: the running tree of a file, refreshed until Ctrl-C.

On a terminal one table is redrawn in place; anywhere else snapshots follow one another, as text or as JSON lines.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from mbactor.cli.link import Link, connect
from mbactor.cli.table import Size, drawn
from mbactor.durations import text_of
from mbactor.errors import MbactorError
from mbactor.kernel.settings import environment
from mbactor.supervisor.operate.control import Snapshot
from mbactor.supervisor.operate.sockets import folders
from mbactor.supervisor.tree import walked

PATIENCE = 3.0
"""Seconds after which a system that does not answer is said not to."""
AGAIN = 1.0
"""Seconds after which it is said again."""
PLAIN_WIDTH = 200
"""Columns of what is printed elsewhere than on a terminal: enough for every field."""


@dataclass(frozen=True, slots=True)
class View:
    """How to look: `every` so many seconds, or `once`; `whole` leaves no row out; `json` prints what was answered."""

    every: float = 1.0
    once: bool = False
    whole: bool = False
    json: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    line: bytes
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer for so many seconds."""

    pid: int
    seconds: float

    def __str__(self) -> str:
        return f"no answer for {self.seconds:g}s: process {self.pid} is stopped, or something blocks its event loop"


def show(file: Path, pid: int | None, view: View) -> int:
    """Show the running tree of a file; the exit code: 1 when it does not run, or stops."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # which restores the terminal
    try:
        with connect(file, pid, folders(environment())) as link:
            _show(polled(link, view), view)
    except KeyboardInterrupt:
        return 0
    except MbactorError as error:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {error.message}", err=True)
        return 1
    return 0


def polled(link: Link, view: View) -> Iterator[Answer | Silence]:
    """The answers one after another, and what silence there is between them. With `once`, silence is an error, and a
    process below that has not answered yet has a second for it.
    """
    silent, patient = 0.0, view.once
    while True:
        patience = AGAIN if silent else PATIENCE
        line = link.ask({"get": "tree"}, patience)
        if line is None:
            silent += patience
            if view.once:
                raise MbactorError(str(Silence(link.pid, silent)))
            yield Silence(link.pid, silent)
            continue
        silent = 0.0
        answer = Answer(line, _parsed(line))
        if patient and any(node.silent is not None for _, node in walked(answer.snapshot.tree)):
            patient = False
            link.rest(AGAIN)
            continue
        yield answer
        if view.once:
            return
        link.rest(view.every)


def _parsed(line: bytes) -> Snapshot:
    try:
        return msgspec.json.decode(line, type=Snapshot)
    except msgspec.MsgspecError as error:
        told = line[:200].decode(errors="replace")
        raise MbactorError(
            f"the running system answers in another way than this version expects: {error}: {told}"
        ) from None


def _show(answers: Iterator[Answer | Silence], view: View) -> None:
    console = Console(highlight=False)
    terminal = console.is_terminal and not console.is_dumb_terminal
    if terminal and not (view.once or view.whole or view.json):
        _redraw(console, answers, view)
        return
    if not terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    for answer in answers:
        if isinstance(answer, Silence):
            click.echo(f"{click.style('warning:', fg='yellow')} {answer}", err=True)
        else:
            print(answer.line.decode() if view.json else _text(console, answer.snapshot, view), flush=True)  # noqa: T201


def _text(console: Console, snapshot: Snapshot, view: View) -> str:
    """A whole snapshot, ended by an empty line where another follows."""
    with console.capture() as capture:
        console.print(drawn(snapshot, Size(console.width)))
    text = "\n".join(line.rstrip() for line in capture.get().splitlines())
    return text if view.once else text + "\n"


def _redraw(console: Console, answers: Iterator[Answer | Silence], view: View) -> None:
    """One table in place, on a screen of its own; the last one stays when that is left."""
    last: Snapshot | None = None
    footer = f"every {text_of(view.every)}, Ctrl-C ends"
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            for answer in answers:
                note: Text | None = None
                if isinstance(answer, Silence):
                    note = Text(str(answer), style="bold red", overflow="ellipsis", no_wrap=True)
                else:
                    last = answer.snapshot
                picture: RenderableType = note or ""
                if last is not None:
                    picture = drawn(last, Size(console.width, console.height), note=note, footer=footer)
                live.update(picture, refresh=True)
    finally:
        if last is not None:
            console.print(drawn(last, Size(console.width, console.height)))
