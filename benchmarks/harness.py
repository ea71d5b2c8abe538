"""How a figure is measured: a case and its floor in turn, several times, the median of each and of their ratio.

A pass of the case is followed by a pass of its floor, so that a slow second of the machine hits both and their ratio
hardly moves; one pass of each comes first and does not count. What is measured is a plain mapping from names to
numbers, for one pass often gives more than one figure.
"""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import random
import statistics
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import mbactor

SEED = 20_240_229
Measured = Mapping[str, float]
Pass = Callable[[], Awaitable[Measured]]
Better = Literal["higher", "lower"]


class InvalidRun(Exception):
    """Something went wrong while it ran, so that its figures say nothing. The message says what."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A number to report: `of` names it in what a pass measured; `beside` is shown with it."""

    case: str
    unit: str
    of: str = "rate"
    better: Better = "higher"
    beside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """A figure of a case, that of its floor, and the circumstances.

    `ratio` is the median of the passes' own ratios; `spread` is (highest - lowest) / median of the values.
    """

    benchmark: str
    case: str
    value: float
    unit: str
    floor: float
    floor_is: str
    ratio: float
    better: Better
    spread: float
    passes: int
    quick: bool
    loop: str
    machine: Mapping[str, str]
    more: Mapping[str, Any] = field(default_factory=dict)


class Bench:
    """One benchmark on one event loop: what its module measures with."""

    def __init__(self, name: str, loop: str, *, quick: bool, machine: Mapping[str, str]) -> None:
        self.name = name
        self.loop = loop
        self.quick = quick
        self.machine = machine
        self.random = random.Random(SEED)
        self.passes = 2 if quick else 9

    def size(self, full: int, quick: int) -> int:
        """How many of something, by whether this is a quick run."""
        return quick if self.quick else full

    def progress(self, text: str) -> None:
        """What runs now, on one line of a terminal; "" clears it."""
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\033[K{text}")
            sys.stderr.flush()

    async def compare(
        self,
        figures: Sequence[Figure],
        case: Pass,
        floor: Pass,
        *,
        floor_is: str,
        passes: int | None = None,
        warm: bool = True,
        more: Mapping[str, Any] | None = None,
    ) -> list[Result]:
        """Measure case and floor in turn; a result for each figure."""
        count = passes or self.passes
        cases: list[Measured] = []
        floors: list[Measured] = []
        for number in range(0 if warm else 1, count + 1):
            self.progress(f"{self.name} on {self.loop}: {figures[0].case}, pass {number} of {count}")
            measured, least = await _apart(case), await _apart(floor)
            if number:
                cases.append(measured)
                floors.append(least)
        return [self._result(figure, cases, floors, floor_is, more or {}) for figure in figures]

    def _result(
        self,
        figure: Figure,
        cases: Sequence[Measured],
        floors: Sequence[Measured],
        floor_is: str,
        more: Mapping[str, Any],
    ) -> Result:
        values = [each[figure.of] for each in cases]
        value, floor = statistics.median(values), median_of(floors, figure.of)
        ratio = statistics.median(value / least[figure.of] for value, least in zip(values, floors, strict=True))
        beside = {name: median_of(cases, name) for name in figure.beside}
        beside |= {f"floor_{name}": median_of(floors, name) for name in figure.beside}
        return Result(
            self.name, figure.case, value, figure.unit, floor, floor_is, ratio, figure.better,
            (max(values) - min(values)) / value, len(cases), self.quick, self.loop, self.machine, {**beside, **more},
        )  # fmt: skip


async def _apart(measure: Pass) -> Measured:
    """A pass that does not pay for the garbage, or for the loose ends, of the one before."""
    await asyncio.sleep(0)
    gc.collect()
    return await measure()


def median_of(passes: Sequence[Measured], name: str) -> float:
    return statistics.median(each[name] for each in passes)


def percentiles(seconds: Sequence[float], unit: Literal["us", "ms"]) -> dict[str, float]:
    """p50, p95 and p99 of durations, as `p50_us` or `p50_ms` and so on."""
    scale = 1e6 if unit == "us" else 1e3
    ordered = sorted(seconds)
    return {f"p{p}_{unit}": scale * ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 95, 99)}


def event_loops() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loops there are, by name, and how one is made."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if find_spec("uvloop") is not None:
        import uvloop  # pyright: ignore[reportMissingImports]

        loops["uvloop"] = uvloop.new_event_loop
    return loops


def machine() -> dict[str, str]:
    """What the figures depend on and do not show."""
    return {
        "machine": f"{_cpu()}, {os.cpu_count()} cores",
        "os": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "mbactor": mbactor.__version__,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
