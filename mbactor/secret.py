"""Texts that nobody is to see.

    key = Secret("hunter2")
    repr(key) == "<secret>"
    str(key) == "hunter2"

Errors, specifications, plans and logs show a `Secret` by its `repr`. Whoever uses it has a `str`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Secret(str):
    """A text from `${file:...}`, or of a property with `secret=True`: a `str` for whoever uses it, and hidden where a
    value is shown (`repr`).

    It hides in errors, specifications and data classes that hold it. `str(secret)` is the bare text.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secret>"


def hidden(value: Any) -> Any:
    """The value as it may be printed or sent to whoever prints it: each secret within it as `<secret>`."""
    if isinstance(value, Secret):
        return repr(value)
    if isinstance(value, Mapping):
        return {key: hidden(one) for key, one in value.items()}
    if type(value) in {list, tuple, set, frozenset}:
        return type(value)(map(hidden, value))
    return value
