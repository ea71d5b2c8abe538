"""How long flows are kept: what the sweeper marks by age, and the removal of what was marked.

    marked, removed = await keep(engine)

From the mark on nobody lists, resumes or repeats a flow. What was marked is removed soon after, in batches, so that
other writes come in between.
"""

from __future__ import annotations

from mbactor import observe
from mbactor.foreman.engine import Engine
from mbactor.foreman.store.operations import Purge, Reap
from mbactor.foreman.store.rows import FlowFilter
from mbactor.seams import checkpoint

AT_ONCE = 256
"""Flows to a transaction of the sweeper's: others wait for it."""


async def keep(engine: Engine) -> tuple[int, int]:
    """Mark what ended longer ago than the engine's `retention`, remove what is marked; how many of each."""
    old = Purge(FlowFilter(older_than=engine.retention, limit=AT_ONCE), ended=True)
    marked = await _in_batches(engine, old) if engine.retention else 0
    if marked:
        observe.emit("flow.purged", count=marked)
    await checkpoint("foreman.reap.before", marked=marked)
    return marked, await _in_batches(engine, Reap(AT_ONCE))


async def _in_batches(engine: Engine, one: Purge | Reap) -> int:
    total = 0
    while True:
        count = await engine.committer.commit(one)
        total += count
        if count < AT_ONCE:
            return total
