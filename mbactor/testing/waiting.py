"""Where tasks wait: what is shown when a test does not go on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import FrameType
from typing import Any

_DEPTH = 64
_SHOWN = 4


def where_tasks_wait(loop: asyncio.AbstractEventLoop) -> str:
    """One line for each task of the loop: its name, and the calls it is in, the innermost last."""
    tasks = sorted(asyncio.all_tasks(loop), key=lambda task: (len(task.get_name()), task.get_name()))
    return "\n".join(f"  {where_it_waits(task)}" for task in tasks) or "  (there is no task)"


def where_it_waits(task: asyncio.Task[Any]) -> str:
    """`Task-1: test_orders.py:12 in test_order -> ...`."""
    frames = _frames(task.get_coro())
    calls = [f"{Path(f.f_code.co_filename).name}:{f.f_lineno} in {f.f_code.co_name}" for f in frames]
    if len(calls) > _SHOWN:
        calls = [calls[0], "...", *calls[1 - _SHOWN :]]
    return f"{task.get_name()}: {' -> '.join(calls) or 'has not begun'}"


def _frames(awaited: Any) -> list[FrameType]:
    """The frames of a coroutine and of what it awaits, outermost first."""
    frames: list[FrameType] = []
    for _ in range(_DEPTH):
        for frame_of, next_of in (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await")):
            frame = getattr(awaited, frame_of, None)
            if frame is not None:
                frames.append(frame)
                awaited = getattr(awaited, next_of)
                break
        else:
            return frames
    return frames
