"""A batch of operations as one transaction.

Outcomes first, then new flows, then operations on flows, then leases, claims last: within a batch any order is right,
since every caller is still waiting, and in this order what a batch makes due can be claimed by the same batch. Inserts
are gathered and written at once; arrivals at one cohort are added up before its row is touched.

Where several batches are written at once (PostgreSQL), nobody may wait for a lock of somebody who waits for one of his:
each takes its locks in this order. The roots of the trees that it names, by id (`Db.begin`); what belongs to them;
graphs by hash and idempotency keys by text, which only their first writer locks; then the roots that `purge` and `reap`
find, and last the steps of others that `recover` and `claim` find, and for neither do they ever wait; then the rows of
rates, by text, and those of concurrency keys, by text.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mbactor.foreman.store import (
    breakpoints,
    flows,
    forks,
    keeping,
    leases,
    recovery,
    roll,
    scheduled,
)
from mbactor.foreman.store.dialect import Db
from mbactor.foreman.store.operations import (
    AddShard,
    BreakBefore,
    Cancel,
    Claim,
    Committed,
    ContinueThread,
    Create,
    Delete,
    DropSchedule,
    Enrol,
    Extend,
    Fork,
    Operation,
    PauseSchedule,
    Purge,
    PutSchedule,
    Reap,
    Recover,
    Release,
    Result,
    Resume,
    ResumeBreak,
    Rewind,
    Settle,
    Start,
    Tick,
)
from mbactor.foreman.store.queueing import admit
from mbactor.foreman.store.rates import close_up
from mbactor.foreman.store.settle import settle_all
from mbactor.foreman.store.transaction import Transaction

_ONE_BY_ONE: tuple[tuple[type[Operation], Callable[[Transaction, Any], Awaitable[Result]]], ...] = (
    (Start, flows.start),
    (Resume, flows.resume),
    (Cancel, flows.cancel),
    (Delete, keeping.delete),
    (Rewind, recovery.rewind_flow),
    (Fork, forks.fork),
    (ContinueThread, forks.continue_thread),
    (BreakBefore, breakpoints.break_before),
    (ResumeBreak, breakpoints.resume_break),
    (Purge, keeping.purge),
    (Reap, keeping.reap),
    (PutSchedule, scheduled.put),
    (DropSchedule, scheduled.drop),
    (PauseSchedule, scheduled.pause),
    (Tick, scheduled.tick),
    (Extend, leases.extend),
    (Release, leases.release),
    (Recover, leases.recover),
    (Enrol, roll.enrol),
    (AddShard, roll.add),
    (Claim, leases.claim),
)
"""What applies each kind of operation, in the order in which the kinds are applied."""


async def apply_batch(db: Db, batch: Sequence[Operation]) -> Committed:
    """Apply the batch within the transaction that is open. Whoever opened it commits, or undoes all on an error."""
    tx = Transaction(db, await db.begin(batch, sum(map(_steps_of, batch)), sum(map(_flows_of, batch))))
    outcomes = _of_kind(batch, Settle)
    new = _of_kind(batch, Create)
    graphs = {one.graph_hash: one.graph for one in new.values()}
    graphs |= {one.child.graph_hash: one.child.graph for one in outcomes.values() if one.child is not None}
    await flows.insert_graphs(tx, graphs)
    results: dict[int, Result] = {}
    if outcomes:
        results.update(zip(outcomes, await settle_all(tx, list(outcomes.values())), strict=True))
    if new:
        results.update(zip(new, await flows.create_all(tx, list(new.values())), strict=True))
    for kind, act in _ONE_BY_ONE if len(results) < len(batch) else ():
        mine = _of_kind(batch, kind)
        if mine:
            await tx.flush()
        for index, one in mine.items():
            results[index] = await act(tx, one)
    await tx.flush()
    if _of_kind(batch, Recover):
        await close_up(tx)
    if tx.keys:
        await admit(tx, tx.keys)
    in_order = [results[index] for index in range(len(batch))]
    return Committed(in_order, tuple(tx.stopped), await tx.best_due(), tx.given_up)


def _of_kind(batch: Sequence[Operation], kind: type[Any]) -> dict[int, Any]:
    return {index: one for index, one in enumerate(batch) if isinstance(one, kind)}


def _steps_of(one: Operation) -> int:
    """How many steps the operation may insert at most."""
    if isinstance(one, Settle):
        return len(one.successors) + (one.arrival is not None) + (one.child is not None)
    return one.steps if isinstance(one, Fork) else isinstance(one, Create | ContinueThread | Tick)


def _flows_of(one: Operation) -> int:
    """How many flows the operation may insert at most."""
    if isinstance(one, Settle):
        return one.child is not None
    return one.flows if isinstance(one, Fork) else isinstance(one, Create | ContinueThread | Tick)


def writes_what_it_brings(one: Operation) -> bool:
    """Whether an operation changes no rows but those that it names or brings, and reads none for that."""
    if isinstance(one, Create):
        return one.concurrency_key is None
    if not isinstance(one, Settle) or one.child is not None or one.status == "interrupted":
        return False
    if one.end is not None and one.end.delete:
        return False
    return one.arrival is None or not (one.arrival.failed or one.arrival.makes_room)
