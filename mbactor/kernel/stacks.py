"""What the stack of an event loop's thread tells: whether the loop rests, and if not, what it is at.

Read from another thread, so frames are looked at and let go: whoever keeps one keeps its variables alive. All of it
is done within `uncollected()`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

CALLBACK = asyncio.Handle._run.__code__  # noqa: SLF001 - above it is what the loop runs
_ROUND = asyncio.BaseEventLoop._run_once.__code__  # type: ignore[attr-defined]  # noqa: SLF001


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep garbage from being collected while the frames of another thread are read.

    Before Python 3.12 each frame that is asked for may begin a collection. A finalizer that runs in it lets the other
    thread go on, and the frame that was being read is gone: the process crashes, or stands still for ever in
    `sys._current_frames()` (python/cpython#106883, which was ended by the same means).
    """
    if sys.version_info >= (3, 12) or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def at_rest(frame: FrameType, base: CodeType) -> bool:
    """Whether the innermost frame of a loop's thread is that of a loop which waits for something to happen.

    `base` is the function that runs a loop which is written in C.
    """
    if frame.f_code is base:
        return True
    below: FrameType | None = frame
    while below is not None:
        if below.f_code is _ROUND:
            return True
        if below.f_code is CALLBACK:
            return False
        below = below.f_back
    return False


_SHOWN = 6
"""Calls that are told, of a deep stack."""
_INSTALLED = tuple({sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib")})
_LIBRARY = (*{sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")}, "<frozen ")
_OURS = str(Path(__file__).parent.parent) + os.sep


def seen(frame: FrameType | None, base: CodeType) -> tuple[str | None, str]:
    """Where a loop is that does not rest, as `file:line`, and the calls that led there."""
    frames = frames_of(frame, base)
    return place_of(frames), calls_of(frames)


def frames_of(frame: FrameType | None, base: CodeType) -> list[FrameType]:
    """The frames that a loop called, innermost first."""
    found: list[FrameType] = []
    while frame is not None and frame.f_code is not CALLBACK and frame.f_code is not base:
        found.append(frame)
        frame = frame.f_back
    return found


def place_of(frames: Sequence[FrameType]) -> str | None:
    """`file:line` of the innermost frame of the user's own code, as far as that can be told."""
    foreign = [one for one in frames if not _is_library(one)]
    own = [one for one in foreign if not one.f_code.co_filename.startswith(_INSTALLED)]
    if not own and foreign:  # the application is installed too: its package is the one that was called first
        package = _package(foreign[-1])
        own = [one for one in foreign if _package(one) == package]
    nearest = next(iter(own or frames), None)
    return None if nearest is None else f"{nearest.f_code.co_filename}:{nearest.f_lineno}"


def calls_of(frames: Sequence[FrameType]) -> str:
    """`img.py:12 in make -> blur.py:80 in blur`: the calls, the innermost last, without those of the runtime."""
    calls = [
        f"{Path(one.f_code.co_filename).name}:{one.f_lineno} in {one.f_code.co_name}"
        for one in reversed(frames)
        if not one.f_code.co_filename.startswith(_OURS)
    ]
    if len(calls) > _SHOWN:
        calls = [calls[0], "...", *calls[2 - _SHOWN :]]
    return " -> ".join(calls)


def _is_library(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return file.startswith(_OURS) or (file.startswith(_LIBRARY) and not file.startswith(_INSTALLED))


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
