"""A scale of time on which short work stays visible beside long waits (pure).

    scale = scale_of([(0.0, 0.2), (86400.0, 86400.3)])      # two pieces of work with a day between them
    scale.at(86400.1)                                       # where that is, from 0 to 1
    scale.cuts                                              # the day, drawn as a short piece

Where nothing happens for long, the scale is cut: that piece has a small width of its own, whatever its length.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LONG = 0.25
"""A wait is cut from this part of all work on."""
SHOWN = 0.08
"""How much of all work a cut is as wide as."""
FEWEST_WIDE = 1.0
"""The work of a history in which none has a length."""
TICKS = 8
NANOSECOND = 1e-9
"""No clock tells less apart."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Moments in seconds, and the places of them from 0 to 1; straight in between."""

    moments: tuple[float, ...]
    places: tuple[float, ...]
    cuts: tuple[tuple[float, float], ...]

    def at(self, moment: float) -> float:
        """The place of a moment; one outside is at an end."""
        if moment <= self.moments[0]:
            return 0.0
        if moment >= self.moments[-1]:
            return 1.0
        index = bisect_right(self.moments, moment) - 1
        before, after = self.moments[index], self.moments[index + 1]
        part = (moment - before) / (after - before)
        return self.places[index] + part * (self.places[index + 1] - self.places[index])

    def ticks(self) -> list[tuple[int, float, float]]:
        """Marks on the scale, far enough from each other: in which piece between cuts, how many round seconds after its
        beginning, and the moment. None stands at a cut.
        """
        shown = self.moments[-1] - self.moments[0] - sum(after - before for before, after in self.cuts)
        step = _round_above(max(shown, NANOSECOND) / TICKS)
        found: list[tuple[int, float, float]] = []
        last = -1.0
        for piece, (low, high) in enumerate(self._drawn()):
            for number in range(1 if piece else 0, int((high - low) / step) + 1):
                place = self.at(low + number * step)
                if place - last >= 0.5 / TICKS:
                    found.append((piece, number * step, low + number * step))
                    last = place
        return found

    def _drawn(self) -> Iterable[tuple[float, float]]:
        edges = [self.moments[0], *(edge for cut in self.cuts for edge in cut), self.moments[-1]]
        return zip(edges[::2], edges[1::2], strict=True)


def scale_of(work: Sequence[tuple[float, float]]) -> Scale:
    """The scale for pieces of work, each from one moment to another."""
    busy = list(_joined(work)) or [(0.0, 0.0)]
    total = sum(end - begin for begin, end in busy) or FEWEST_WIDE
    moments, widths, cuts = [busy[0][0]], [0.0], []
    for index, (begin, end) in enumerate(busy):
        if index:
            before = moments[-1]
            wait = begin - before
            cut = wait > LONG * total
            moments.append(begin)
            widths.append(widths[-1] + (SHOWN * total if cut else wait))
            cuts += [(before, begin)] if cut else []
        if end > begin:
            moments.append(end)
            widths.append(widths[-1] + end - begin)
    if len(moments) == 1:
        return Scale((moments[0], moments[0] + FEWEST_WIDE), (0.0, 1.0), ())
    return Scale(tuple(moments), tuple(width / widths[-1] for width in widths), tuple(cuts))


def _joined(work: Sequence[tuple[float, float]]) -> Iterable[tuple[float, float]]:
    """The pieces of time in which there was any work, in order."""
    edge: tuple[float, float] | None = None
    for begin, end in sorted(work):
        if edge is not None and begin <= edge[1]:
            edge = (edge[0], max(edge[1], end))
            continue
        if edge is not None:
            yield edge
        edge = (begin, max(begin, end))
    if edge is not None:
        yield edge


def _round_above(value: float) -> float:
    """The next of 1, 2, 5, 10, ... seconds, minutes' and hours' quarters from a minute on."""
    for step in (60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400):
        if 20 < value <= step:
            return float(step)
    magnitude = 10.0 ** math.floor(math.log10(value))
    return next(factor * magnitude for factor in (1, 2, 5, 10) if value <= factor * magnitude * (1 + 1e-9))
