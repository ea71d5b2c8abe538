"""Actors: messages, spawns, memory, Savina's benchmarks and the peers, each beside the least it could cost."""

from __future__ import annotations

from benchmarks import features, idle, messages, neighbours, peers, savina
from benchmarks.harness import Bench, Result, measure_all

CASES = (
    *messages.CASES,
    *idle.CASES,
    *savina.CASES,
    *features.CASES,
    *neighbours.CASES,
    *peers.CASES,
)
SECONDS = 6.0
"""After so long a case gets no further pass."""


async def measure(bench: Bench) -> list[Result]:
    """All cases that are wanted, on the running event loop."""
    bench.within = SECONDS
    return await measure_all(bench, CASES)
