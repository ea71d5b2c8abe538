"""How a figure is measured: a case and its floor in turn, several times, the median of each and of their ratio.

A pass of the case is followed by a pass of its floor, so that a slow second of the machine hits both and their ratio
hardly moves; one pass of each comes first and does not count. What is measured is a plain mapping from names to
numbers, for one pass often gives more than one figure. A case that is slow gets fewer passes, not more of the
reader's time: each result says of how many it is the median.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import platform
import random
import statistics
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import mbactor
from mbactor.heap import settle

SEED = 20_240_229
Measured = Mapping[str, float]
Pass = Callable[[], Awaitable[Measured]]
Better = Literal["higher", "lower"]


class InvalidRun(Exception):
    """Something went wrong while it ran, so that its figures say nothing. The message says what."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure has to reach, by its ratio or by its own value."""

    bound: float
    of: Literal["ratio", "value"] = "ratio"


@dataclass(frozen=True, slots=True)
class Figure:
    """A number to report: `of` names it in what a pass measured; `beside` is shown with it."""

    case: str
    unit: str
    of: str = "rate"
    better: Better = "higher"
    beside: tuple[str, ...] = ()
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A figure of a case, that of its floor (or of what else it stands beside), and the circumstances.

    `ratio` is the median of the passes' own ratios; `spread` is (highest - lowest) / median of the values. `group` is
    the table it belongs to.
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
    group: str = ""
    target: Target | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one. Never where `more` tells a fault."""
        if self.target is None:
            return None
        if self.more.get("fault"):
            return False
        reached = self.ratio if self.target.of == "ratio" else self.value
        return reached >= self.target.bound if self.better == "higher" else reached <= self.target.bound


class Bench:
    """One benchmark on one event loop: what its module measures with.

    `only`: run the cases that have one of these texts in their names; all, where it is empty. `full`: the sizes that
    take minutes.
    """

    def __init__(
        self,
        name: str,
        loop: str,
        *,
        quick: bool,
        machine: Mapping[str, str],
        only: Sequence[str] = (),
        full: bool = False,
    ) -> None:
        self.name = name
        self.loop = loop
        self.quick = quick
        self.full = full
        self.machine = machine
        self.only = tuple(text.lower() for text in only)
        self.random = random.Random(SEED)
        self.passes = 2 if quick else 9
        self.within = math.inf
        """Seconds after which a case gets no further pass."""
        self.offered: list[str] = []
        """The names of all cases there are, wanted or not."""
        self.skipped: list[str] = []
        """What could not be measured here, and what to do about it."""

    def size(self, full: int, quick: int) -> int:
        """How many of something, by whether this is a quick run."""
        return quick if self.quick else full

    def wants(self, name: str) -> bool:
        """Whether the case of this name is to be run."""
        self.offered.append(name)
        return not self.only or any(text in name.lower() for text in self.only)

    def progress(self, text: str) -> None:
        """What runs now, on one line of a terminal; "" clears it."""
        progress(f"{self.name} on {self.loop}: {text}" if text else "")

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
        taken = await self.in_turn(figures[0].case, {"case": case, "floor": floor}, passes=passes, warm=warm)
        return [self.result(figure, taken["case"], taken["floor"], floor_is, more or {}) for figure in figures]

    async def in_turn(
        self, title: str, passes_of: Mapping[str, Pass], *, passes: int | None = None, warm: bool = True
    ) -> dict[str, list[Measured]]:
        """Measure several things, one after the other, again and again; what each pass measured."""
        count = passes or self.passes
        taken: dict[str, list[Measured]] = {name: [] for name in passes_of}
        began = perf_counter()
        for number in range(0 if warm else 1, count + 1):
            for name, measure in passes_of.items():
                self.progress(f"{title}, pass {number} of {count}, {name}")
                measured = await _apart(measure)
                if number:
                    taken[name].append(measured)
            if number and perf_counter() - began > self.within:
                break
        return taken

    def result(
        self,
        figure: Figure,
        cases: Sequence[Measured],
        floors: Sequence[Measured],
        floor_is: str,
        more: Mapping[str, Any],
    ) -> Result:
        """A figure from the passes of its case and of its floor, which stand in the order in which they were made."""
        values = [each[figure.of] for each in cases]
        value, floor = statistics.median(values), median_of(floors, figure.of)
        ratio = statistics.median(value / least[figure.of] for value, least in zip(values, floors, strict=True))
        beside = {name: median_of(cases, name) for name in figure.beside}
        beside |= {f"floor_{name}": median_of(floors, name) for name in figure.beside}
        return Result(
            self.name, figure.case, value, figure.unit, floor, floor_is, ratio, figure.better,
            (max(values) - min(values)) / value, len(cases), self.quick, self.loop, self.machine, {**beside, **more},
            target=figure.target,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """A case (or a few that are measured at once), by name, and the table its results belong to."""

    group: str
    name: str
    measure: Callable[[Bench], Awaitable[list[Result]]]


async def measure_all(bench: Bench, cases: Sequence[Case]) -> list[Result]:
    """Run the cases that are wanted, one after the other."""
    results: list[Result] = []
    for case in cases:
        if bench.wants(f"{case.group}: {case.name}"):
            results += [replace(result, group=case.group) for result in await case.measure(bench)]
    return results


def settle_heap() -> None:
    """Clear the garbage away, and keep what is left out of the collector's way, as `mbactor run` does."""
    gc.unfreeze()
    gc.collect()
    settle()


async def _apart(measure: Pass) -> Measured:
    """A pass that does not pay for the garbage, or for the loose ends, of the one before."""
    await asyncio.sleep(0)
    settle_heap()
    return await measure()


def median_of(passes: Sequence[Measured], name: str) -> float:
    return statistics.median(each[name] for each in passes)


def percentiles(seconds: Sequence[float], unit: Literal["us", "ms"]) -> dict[str, float]:
    """p50, p95, p99 and the mean of durations, as `p50_us` or `p50_ms` and so on."""
    scale = 1e6 if unit == "us" else 1e3
    ordered = sorted(seconds)
    found = {f"p{p}_{unit}": scale * ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 95, 99)}
    return {**found, f"mean_{unit}": scale * statistics.fmean(ordered)}


def progress(text: str) -> None:
    """A line of a terminal that the next one replaces; "" clears it."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


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
        "busy": _busy(),
    }


def _busy() -> str:
    """What else the machine had to do when the run began, as far as it says."""
    try:
        return f"load average {os.getloadavg()[0]:.1f} at the start"
    except OSError:
        return "load average unknown"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())
