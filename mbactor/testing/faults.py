"""Faults at the named seams of the runtime (`mbactor.seams.SEAMS`).

    with faults.failing("foreman.settle.before", OSError("disk full"), at=2):
        ...                                                     # the second passage raises
    with faults.holding("foreman.execute.before", node="charge") as held:
        await held.reached()                                    # the step stands still there
        held.release()
    with faults.killing("foreman.settle.after", at=3):          # the third passage ends this process, by SIGKILL
        ...

`at` counts passages from 1, `times` says how many of them from there on are hit (None: all). Further keywords are
fields of the passage: only those that fit are counted.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mbactor import seams
from mbactor.durations import Duration, seconds, text_of


class Passages:
    """Counts the passages of a seam: `passed` were there that fit, `hit` of them met the fault."""

    def __init__(self, at: int, times: int | None, fields: Mapping[str, Any]) -> None:
        if at < 1 or (times is not None and times < 1):
            raise ValueError(f"at={at}, times={times}: whole numbers from 1 on were expected")
        self.passed = 0
        self.hit = 0
        self._at = at
        self._times = times
        self._fields = fields

    def counts(self, fields: Mapping[str, Any]) -> bool:
        """Count a passage; whether it meets the fault."""
        unknown = self._fields.keys() - fields.keys()
        if unknown:
            raise KeyError(f"the seam has no field {min(unknown)!r}; it has {', '.join(fields) or 'none'}")
        if any(fields[name] != value for name, value in self._fields.items()):
            return False
        self.passed += 1
        if self.passed < self._at or (self._times is not None and self.hit >= self._times):
            return False
        self.hit += 1
        return True


class Held(Passages):
    """A seam at which passages are held until `release`."""

    def __init__(self, at: int, times: int | None, fields: Mapping[str, Any]) -> None:
        super().__init__(at, times, fields)
        self._reached = asyncio.Event()
        self._released = asyncio.Event()

    async def reached(self, within: Duration = "10s") -> None:
        """Returns once somebody is held. AssertionError when nobody comes within the time."""
        try:
            async with asyncio.timeout(seconds(within)):
                await self._reached.wait()
        except TimeoutError:
            raise AssertionError(
                f"nobody reached the seam within {text_of(seconds(within))}; {self.passed} passages were counted"
            ) from None

    def release(self) -> None:
        """Let go who is held, and hold nobody from now on."""
        self._released.set()

    async def hold(self) -> None:
        self._reached.set()
        await self._released.wait()


@contextmanager
def failing(
    seam: str, error: BaseException | type[BaseException], *, at: int = 1, times: int | None = 1, **fields: Any
) -> Iterator[Passages]:
    """Raise an error at a seam."""

    async def fail() -> None:
        raise error

    with _armed(seam, Passages(at, times, fields), fail) as passages:
        yield passages


@contextmanager
def holding(seam: str, *, at: int = 1, times: int | None = 1, **fields: Any) -> Iterator[Held]:
    """Hold whoever passes a seam. What is still held at the end of the block is released."""
    held = Held(at, times, fields)
    with _armed(seam, held, held.hold):
        try:
            yield held
        finally:
            held.release()


@contextmanager
def killing(seam: str, *, at: int = 1, **fields: Any) -> Iterator[Passages]:
    """End this process at a seam by SIGKILL: nothing is cleaned up. For a process that the test has started."""

    async def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with _armed(seam, Passages(at, 1, fields), kill) as passages:
        yield passages


@contextmanager
def _armed(seam: str, passages: Passages, strike: Callable[[], Awaitable[None]]) -> Iterator[Passages]:
    async def fault(**fields: Any) -> None:
        if passages.counts(fields):
            await strike()

    with seams.armed(seam, fault):
        yield passages
