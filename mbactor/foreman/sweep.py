"""Recovery of leases that nobody extends any more: the steps of workers that died or hang.

    await sweep(engine)                 # once, at the start
    await sweep_regularly(engine)       # for as long as it runs

Only leases that are over are taken back: several processes may share a database, and what another one holds is
its own. A step comes back with the attempt it had.
"""

from __future__ import annotations

import asyncio

from mbactor import observe
from mbactor.foreman.engine import Engine
from mbactor.foreman.keeping import keep
from mbactor.foreman.store.operations import Recover
from mbactor.seams import checkpoint


async def sweep(engine: Engine, *, first: bool = False) -> int:
    """Make every step due again whose lease is over; how many those were. Before the `first` the database's clock may
    have been set back, and nobody knows.
    """
    count = await engine.committer.commit(Recover(set_back=first or engine.set_back))
    if count:
        observe.emit("step.recovered", count=count)
    await checkpoint("foreman.sweep.after", count=count)
    return count


async def sweep_regularly(engine: Engine, interval: float | None = None) -> None:
    """Sweep at once and then every `interval` seconds (a quarter of the lease by default), until cancelled; and remove
    what need not be kept.
    """
    first = True
    while True:
        await sweep(engine, first=first)
        first = False
        await keep(engine)
        await asyncio.sleep(engine.lease / 4 if interval is None else interval)
