"""What hands a lone flow on by itself: it does what a batch does, and nothing where that would not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from mbactor import seams
from mbactor.foreman.store.hand_on import handed_on
from mbactor.foreman.store.open import open_store
from mbactor.foreman.store.operations import (
    Arrival,
    BreakBefore,
    Claim,
    Create,
    Created,
    FlowEnd,
    Lease,
    NewStep,
    Operation,
    Settle,
    Settled,
)
from mbactor.foreman.store.postgres import PostgresStore
from mbactor.foreman.store.sqlite import SqliteStore
from mbactor.foreman.store.store import Store, StoreTrouble
from tests.foreman.postgres import opened

pytestmark = pytest.mark.anyio

LEASE = Lease("w", 60)


def new(priority: int = 100, **entry: Any) -> Create:
    return Create(
        "f" * 16, "url", "name", "hash", b"{}", NewStep("start", "0" * 16, 1, priority, state=b"{}", **entry),
        priority=priority,
    )  # fmt: skip


async def begun(store: Store, count: int) -> list[Created]:
    """New flows whose first steps are leased."""
    made = await store.commit([new(lease=LEASE) for _ in range(count)])
    return [one for one in made.results if isinstance(one, Created)]


def outcome(one: Created, lease_number: int = 1, **fields: Any) -> Settle:
    following = NewStep("next", "1" * 16, 2, 100, chain=1, lease=LEASE)
    return Settle(
        one.step_id, one.flow_id, lease_number, "completed", b"{}", **{"successors": (following,), **fields}
    )  # fmt: skip


async def written(store: Store, one: Created) -> list[dict[str, Any]]:
    """The steps of a flow by their columns; ids and times as far as they are alike in every flow."""
    rows = [msgspec.structs.asdict(row) for row in await store.steps(one.flow_id)]
    ids = {row["id"]: number for number, row in enumerate(rows)}
    begins = rows[-1]["created_at"]
    for row in rows:
        for name in ("id", "predecessor_id", "successor_id"):
            row[name] = ids.get(row[name])
        for name in ("not_before", "lease_expires", "started_at", "updated_at", "created_at"):
            row[name] = round(row[name] - begins, 3) if row is rows[-1] or name == "updated_at" else None
        del row["flow_id"]
    return rows


async def listened(store: Store) -> Callable[[], bool]:
    """Whether what was said to the database since one asked last was the short way."""
    said: list[str] = []
    if isinstance(store, SqliteStore):
        store._writer._conn.set_trace_callback(said.append)
    else:
        assert isinstance(store, PostgresStore)
        async with store._connection() as connection:
            connection.add_query_logger(lambda record: said.append(record.query))

    def short() -> bool:
        heard = [*said]
        said.clear()
        return any("mbactor_hand_on" in one for one in heard) or (heard[0], len(heard)) == ("BEGIN IMMEDIATE", 5)

    return short


async def test_alone_an_outcome_writes_what_it_writes_among_others(database: str) -> None:
    store = await open_store(database)
    following = NewStep(
        "next", "1" * 16, 2, 7, state=b"{}", added=b'{"a":1}', chain=3, spawn_id=4, ordinal=5, cohort_id=6,
        lease=Lease("v", 30), fairness_key="k",
    )  # fmt: skip
    kinds: list[dict[str, Any]] = [{}, {"successors": (following,), "attempt": 3, "payloads": b"[]"}]
    for fields in kinds:
        flows = await begun(store, 3)
        is_short = await listened(store)
        alone = await store.commit([outcome(flows[0], **fields)])
        await asyncio.sleep(0)  # a driver may tell of a query a turn later
        assert is_short()
        among = await store.commit([outcome(one, **fields) for one in flows[1:]])
        await asyncio.sleep(0)
        assert not is_short()
        rows = [await written(store, one) for one in flows]
        assert rows[0] == rows[1] == rows[2]
        (one,) = alone.results
        assert isinstance(one, Settled)
        assert isinstance(among.results[0], Settled)
        assert [row.step for row in one.inserted] == [row.step for row in among.results[0].inserted]
        steps = await store.steps(flows[0].flow_id)
        assert (steps[1].id, steps[1].flow_id) == (one.inserted[0].step_id, one.inserted[0].flow_id)
        assert steps[0].updated_at == steps[1].created_at == one.now
    await store.close()


async def test_where_its_lease_is_lost_it_lands_nowhere(database: str) -> None:
    store = await open_store(database)
    (flow,) = await begun(store, 1)
    before = await written(store, flow)
    (lost,) = (await store.commit([outcome(flow, lease_number=2)])).results
    assert isinstance(lost, Settled)
    assert not lost.landed
    assert await written(store, flow) == before
    await store.commit([outcome(flow)])
    (late,) = (await store.commit([outcome(flow)])).results
    assert isinstance(late, Settled)
    assert not late.landed
    assert len(await store.steps(flow.flow_id)) == 2
    await store.close()


async def test_before_a_breakpoint_of_its_tree_nothing_is_handed_on(database: str) -> None:
    store = await open_store(database)
    (flow,) = await begun(store, 1)
    await store.commit([BreakBefore(flow.flow_id, "f" * 16, "next", on=True)])
    (settled,) = (await store.commit([outcome(flow)])).results
    assert isinstance(settled, Settled)
    assert settled.inserted[0].step.lease is None
    assert [row.status for row in await store.steps(flow.flow_id)] == ["completed", "pending"]
    await store.close()


async def test_it_tells_the_best_priority_that_is_due(database: str) -> None:
    store = await open_store(database)
    flows = await begun(store, 4)
    found = []
    for flow, others in zip(flows, ([], [new(7, delay=60.0)], [new(80), new(90)], [new(7)]), strict=True):
        if others:
            await store.commit(others)
        found.append((await store.commit([outcome(flow)])).best_due)
    assert found == [None, None, 80, 7]
    await store.close()


async def test_it_waits_for_who_changes_a_flow_of_its_tree(url: str) -> None:
    store = await opened(url)
    root, child = await begun(store, 2)
    async with store._connection() as connection:
        await connection.execute("UPDATE mbactor_flow SET root_id = $1 WHERE id = $2", root.flow_id, child.flow_id)
        await connection.execute("BEGIN")
        await connection.execute("SELECT FROM mbactor_flow WHERE id = $1 FOR UPDATE", root.flow_id)
        settling = asyncio.create_task(store.commit([outcome(child)]))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND transactionid IS NOT NULL"
        while not await connection.fetchval(waiting):
            assert not settling.done()
        await connection.execute("UPDATE mbactor_step SET lease_number = 2 WHERE id = $1", child.step_id)
        await connection.execute("COMMIT")
    (settled,) = (await settling).results
    assert isinstance(settled, Settled)
    assert not settled.landed
    await store.close()


async def test_one_that_was_not_answered_is_looked_up_and_not_repeated(url: str) -> None:
    store = await opened(url)
    flow, second = await begun(store, 2)

    async def lost(**_: Any) -> None:
        raise ConnectionResetError("the answer was lost")

    with seams.armed("foreman.commit.after", lost):
        (settled,) = (await store.commit([outcome(flow)])).results
    assert settled == Settled(landed=False)
    with seams.armed("foreman.commit.before", lost), pytest.raises(StoreTrouble, match="the answer was lost"):
        await store.commit([outcome(second)])
    assert [len(await store.steps(one.flow_id)) for one in (flow, second)] == [2, 1]
    await store.close()


FOLLOWING = NewStep("next", "1" * 16, 2, 100, lease=LEASE)
KEPT: list[dict[str, Any]] = [
    {},
    {"lease": LEASE, "rate": "1/s url"},
    {"lease": LEASE, "waits": True},
    {"lease": LEASE, "delay": 1.0},
    {"lease": LEASE, "due_at": 1.0},
]
OTHERS: list[Operation] = [
    new(),
    Claim(LEASE, 1),
    Settle(1, 1, 1, "failed", None, successors=(FOLLOWING,)),
    Settle(1, 1, 1, "completed", None, state=b"{}", successors=(FOLLOWING,)),
    Settle(1, 1, 1, "completed", None, error=b"{}", successors=(FOLLOWING,)),
    Settle(1, 1, 1, "completed", None, parks=b"[]", successors=(FOLLOWING,)),
    Settle(1, 1, 1, "completed", None, successors=(FOLLOWING, FOLLOWING)),
    Settle(1, 1, 1, "completed", None, successors=(FOLLOWING,), cohort_size=1),
    Settle(1, 1, 1, "completed", None, arrival=Arrival(1, 1)),
    Settle(1, 1, 1, "completed", None, end=FlowEnd("completed")),
    *(Settle(1, 1, 1, "completed", None, successors=(NewStep("next", "1" * 16, 2, 100, **fields),)) for fields in KEPT),
]


@pytest.mark.parametrize("one", OTHERS, ids=lambda one: type(one).__name__)
def test_whatever_is_anything_else_goes_another_way(one: Operation) -> None:
    assert handed_on([one]) is None
    plain = Settle(1, 1, 1, "completed", None, successors=(FOLLOWING,))
    assert handed_on([plain]) is not None
    assert handed_on([plain, plain]) is None
