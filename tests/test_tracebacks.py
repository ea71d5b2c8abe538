"""Noted tracebacks say what Python's own would have said."""

from __future__ import annotations

import traceback

import pytest

from mbactor.errors import error_text
from mbactor.tracebacks import NotedTrace, note


def deep(levels: int) -> None:
    if levels:
        deep(levels - 1)
    raise ValueError(f"at the bottom of {levels}")


def plain() -> None:
    deep(3)


def caused() -> None:
    try:
        deep(1)
    except ValueError as error:
        raise KeyError("asked for") from error


def during() -> None:
    try:
        deep(1)
    except ValueError:
        empty: dict[str, int] = {}
        _ = empty["missing"]


def hidden() -> None:
    try:
        deep(0)
    except ValueError:
        raise RuntimeError from None


def noted() -> None:
    error = LookupError("with more to say")
    error.add_note("first")
    error.add_note("second")
    raise error


def grouped() -> None:
    raise ExceptionGroup("several", [ValueError("one"), TypeError("two")])


def unreadable() -> None:
    compile("def :", "<text>", "exec")


@pytest.mark.parametrize("fail", [plain, caused, during, hidden, noted, grouped, unreadable])
def test_it_is_written_out_as_python_would(fail: object) -> None:
    assert callable(fail)
    with pytest.raises(Exception) as raised:
        fail()
    error = raised.value
    written = str(note(error, error_text))
    wanted = "".join(traceback.format_exception(error))

    def without_marks(text: str) -> list[str]:
        return [line for line in text.splitlines() if set(line.strip()) - set("^~") or not line.strip()]

    assert without_marks(written) == without_marks(wanted)


def test_noting_keeps_no_frame_alive_and_writing_twice_is_the_same() -> None:
    with pytest.raises(ValueError) as raised:
        plain()
    trace = note(raised.value, error_text)
    assert isinstance(trace, NotedTrace)
    first = str(trace)
    assert str(trace) == first
