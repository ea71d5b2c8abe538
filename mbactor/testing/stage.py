"""`Stage`: the loop on which a test and its fixtures run, and the check that no task stays behind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from mbactor.durations import Duration
from mbactor.testing.loop import PATIENCE, OutOfPatience, Standstill, VirtualTimeLoop
from mbactor.testing.waiting import where_it_waits

T = TypeVar("T")
_TURNS = 10
"""Rounds of the loop in which a task may still come to its end by itself."""


class Stage:
    """Runs coroutines one after the other on a loop of its own; their tasks live on between them.

    `seed` also seeds the `random` module until `close`, so that jitter is the same in each run.
    """

    def __init__(self, *, seed: int = 0, real_time: bool = False, patience: Duration = PATIENCE) -> None:
        self.seed = seed
        self.real_time = real_time
        make = asyncio.SelectorEventLoop if real_time else lambda: VirtualTimeLoop(seed, patience=patience)
        self._runner = asyncio.Runner(loop_factory=make)
        self._running: asyncio.Task[Any] | None = None
        self._randomness = random.getstate()
        random.seed(seed)
        self.loop: asyncio.AbstractEventLoop = self._runner.get_loop()

    def __str__(self) -> str:
        return f"{'real' if self.real_time else 'virtual'} time, seed {self.seed}"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end. Where nothing can happen any more, the work is cancelled and Standstill raised."""
        try:
            return self._runner.run(self._do(work))
        except (Standstill, OutOfPatience):
            if self._running is not None and not self._running.done():
                self._running.cancel()
                with suppress(Standstill, OutOfPatience):
                    self._runner.run(_ended(self._running))
            raise

    def close(self, *, check: bool = True) -> None:
        """End the loop. AssertionError where tasks are left, with the place where each waits."""
        left: list[str] = []
        try:
            left = self._runner.run(_left())
        finally:
            random.setstate(self._randomness)
            self._runner.close()
        if check and left:
            raise AssertionError("tasks are left after the test:\n" + "\n".join(f"  {one}" for one in left))

    async def _do(self, work: Coroutine[Any, Any, T]) -> T:
        self._running = asyncio.current_task()
        return await work


async def _ended(task: asyncio.Task[Any]) -> None:
    await asyncio.wait([task])


async def _left() -> list[str]:
    """Tasks beside this one that do not end by themselves at once."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    here = asyncio.current_task()
    return sorted(where_it_waits(task) for task in asyncio.all_tasks() if task is not here)
