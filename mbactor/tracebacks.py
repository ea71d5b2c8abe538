"""Tracebacks that are noted at once and written out only where somebody reads them.

    noted = note(error)        # a few microseconds; no frame is kept alive
    print(noted)               # what `traceback.format_exception` would have said, without what leads to the actor

An error that crosses to its asker takes its traceback along. Writing that out opens source files, which takes longer
than all else that a crash costs, and most are never read.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from types import TracebackType

_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"
_HEAD = "Traceback (most recent call last):\n"
_DEPTH = 20
"""Causes of causes that are followed."""

_OURS = ("mbactor.kernel.", "mbactor.supervisor.")

Frames = list[tuple[str, int, str, None]]


class NotedTrace:
    """The traceback of an exception and of those before it; `str()` writes it out."""

    __slots__ = ("_parts", "_text")

    def __init__(self, parts: list[tuple[str, Frames, str]]) -> None:
        self._parts = parts
        self._text: str | None = None

    def __str__(self) -> str:
        if self._text is None:
            self._text = "".join(_written(*part) for part in self._parts)
            self._parts = []
        return self._text


def note(error: BaseException, text_of: Callable[[BaseException], str]) -> NotedTrace | str:
    """What the traceback says. As text at once for what has more to say than frames: groups and syntax errors."""
    parts: list[tuple[str, Frames, str]] = []
    here: BaseException | None = error
    joined = ""
    while here is not None and len(parts) < _DEPTH:
        if isinstance(here, BaseExceptionGroup | SyntaxError):
            return "".join(traceback.format_exception(error))
        parts.append((joined, _frames(here), _last_line(here, text_of)))
        if here.__cause__ is not None:
            here, joined = here.__cause__, _CAUSE
        elif here.__context__ is not None and not here.__suppress_context__:
            here, joined = here.__context__, _CONTEXT
        else:
            here = None
    # The oldest comes first; what joins it to the next stands before that one.
    joins = [*(part[0] for part in parts[1:]), ""]
    return NotedTrace([(join, frames, last) for join, (_, frames, last) in zip(joins, parts, strict=True)][::-1])


def begin_of(trace: TracebackType | None) -> TracebackType | None:
    """Where a traceback begins to say something: what leads to an actor's code is the same for every failure."""
    while trace is not None and trace.tb_next is not None:
        if not str(trace.tb_frame.f_globals.get("__name__", "")).startswith(_OURS):
            break
        trace = trace.tb_next
    return trace


def _frames(error: BaseException) -> Frames:
    frames: Frames = []
    at = begin_of(error.__traceback__)
    while at is not None:
        code = at.tb_frame.f_code
        frames.append((code.co_filename, at.tb_lineno, code.co_name, None))
        at = at.tb_next
    return frames


def _last_line(error: BaseException, text_of: Callable[[BaseException], str]) -> str:
    cls, text = type(error), text_of(error)
    name = cls.__qualname__ if cls.__module__ in {"builtins", "__main__"} else f"{cls.__module__}.{cls.__qualname__}"
    notes = getattr(error, "__notes__", None)
    after = "".join(f"{one}\n" for one in notes) if isinstance(notes, list) else ""
    return (f"{name}: {text}\n" if text else f"{name}\n") + after


def _written(join: str, frames: Frames, last: str) -> str:
    head = _HEAD + "".join(traceback.StackSummary.from_list(list(frames)).format()) if frames else ""
    return f"{join}{head}{last}"
