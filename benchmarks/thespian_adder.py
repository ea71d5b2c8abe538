"""Thespian's actor: in a module that is imported only where Thespian is, for its processes find a class by name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

TOLD = "add"
ASKED = "add and say"

_library: Any = import_module("thespian.actors")


class Adding(_library.Actor):  # type: ignore[misc]
    """Adds; says the total to who asks."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def receiveMessage(self, message: Any, sender: Any) -> None:  # noqa: N802 - the peer's own name
        if isinstance(message, tuple):
            kind, value = message
            self.total += value
            if kind == ASKED:
                self.send(sender, self.total)
