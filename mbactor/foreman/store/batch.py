"""A batch of operations as one SQLite transaction.

`apply_batch` runs in the driver's thread, in one hop. Outcomes first, then new flows, then operations on flows, then
leases, claims last: within a batch any order is right, since every caller is still waiting, and in this order what a
batch makes due can be claimed by the same batch. Inserts are gathered and written at once; arrivals at one cohort are
added up before its row is touched.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from mbactor.foreman.store import flows, leases
from mbactor.foreman.store.settle import settle_all
from mbactor.foreman.store.store import (
    Cancel,
    Claim,
    Committed,
    Create,
    Delete,
    Extend,
    Operation,
    Recover,
    Release,
    Result,
    Resume,
    Settle,
    Start,
)
from mbactor.foreman.store.transaction import Transaction

_ONE_BY_ONE: tuple[tuple[type[Operation], Callable[[Transaction, Any], Result]], ...] = (
    (Create, flows.create),
    (Start, flows.start),
    (Resume, flows.resume),
    (Cancel, flows.cancel),
    (Delete, flows.delete),
    (Extend, leases.extend),
    (Release, leases.release),
    (Recover, leases.recover),
    (Claim, leases.claim),
)
"""What applies each kind of operation, in the order in which the kinds are applied."""


def apply_batch(db: sqlite3.Connection, batch: Sequence[Operation]) -> Committed:
    """Apply the batch in one transaction; any error leaves nothing of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        committed = _apply(Transaction(db, sum(map(_steps_of, batch))), batch)
        db.execute("COMMIT")
    except BaseException:
        # Some errors (a full disk) have ended the transaction already.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return committed


def _apply(tx: Transaction, batch: Sequence[Operation]) -> Committed:
    results: dict[int, Result] = {}
    outcomes = [(index, one) for index, one in enumerate(batch) if isinstance(one, Settle)]
    if outcomes:
        settled = settle_all(tx, [one for _, one in outcomes])
        results.update((index, result) for (index, _), result in zip(outcomes, settled, strict=True))
    others = [(index, one) for index, one in enumerate(batch) if not isinstance(one, Settle)]
    for kind, act in _ONE_BY_ONE if others else ():
        mine = [(index, one) for index, one in others if isinstance(one, kind)]
        if mine and kind is not Create:
            tx.flush()
        results.update((index, act(tx, one)) for index, one in mine)
    tx.flush()
    return Committed([results[index] for index in range(len(batch))], tuple(tx.stopped), tx.best_due())


def _steps_of(one: Operation) -> int:
    """How many steps the operation may insert at most."""
    if isinstance(one, Settle):
        return len(one.successors) + (one.arrival is not None) + (one.child is not None)
    return isinstance(one, Create)
