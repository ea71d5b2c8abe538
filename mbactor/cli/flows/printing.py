"""What commands print: tables as wide as the terminal, or as JSON."""

from __future__ import annotations

from typing import Any

import click
import msgspec
from rich.console import Console, RenderableType

PLAIN_WIDTH = 200
"""Columns of what is printed elsewhere than on a terminal: enough for every field."""


def terminal_width() -> int:
    """How many columns there are to print on."""
    console = Console()
    return console.width if console.is_terminal else PLAIN_WIDTH


def print_rich(what: RenderableType) -> None:
    """Print it, without blanks at the ends of lines."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    with console.capture() as capture:
        console.print(what)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def print_json(value: Any) -> None:
    """Print it as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
