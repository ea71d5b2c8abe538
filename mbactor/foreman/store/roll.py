"""The roll of the shards, in SQL. The database of shard 1 keeps it for all of them."""

from __future__ import annotations

from mbactor.foreman.store.dialect import Db, Insert, Update
from mbactor.foreman.store.operations import AddShard, Enrol
from mbactor.foreman.store.transaction import Transaction

_ADD = Insert("mbactor_shard", ("shard", "state"), once=True)
_NEW = Insert("mbactor_shard", ("shard", "state"), once=True, returning="shard")
_CHANGE = Update("mbactor_shard", "state = :state", "shard = :shard", ("state", "shard"))

_STANDING = """SELECT
    (SELECT count(*) FROM mbactor_flow WHERE status IN ('created', 'running', 'interrupted')),
    (SELECT count(*) FROM mbactor_step WHERE status = 'pending'),
    (SELECT count(*) FROM mbactor_step WHERE status = 'running')"""


async def enrol(tx: Transaction, one: Enrol) -> dict[int, str]:
    """Write the states; the roll as it is then."""
    states = sorted(one.states.items())
    if states and one.changing:
        await tx.db.update(_CHANGE, [(state, number) for number, state in states])
    elif states:
        await tx.db.insert(_ADD, states)
    return await roll(tx.db)


async def add(tx: Transaction, one: AddShard) -> dict[int, str]:
    """Put it on the roll; the roll as it is then, empty where somebody else has the number."""
    return await roll(tx.db) if await tx.db.insert(_NEW, [(one.number, "active")]) else {}


async def roll(db: Db) -> dict[int, str]:
    """The shards by number, each with its state."""
    return dict(await db.rows("SELECT shard, state FROM mbactor_shard ORDER BY shard"))


async def standing(db: Db) -> tuple[int, int]:
    """How many flows are open, and how many steps wait or run. One pass over the table of flows."""
    ((flows, pending, running),) = await db.rows(_STANDING)
    return flows, pending + running
