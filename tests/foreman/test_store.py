"""The SQLite store: opening, durability, schema, and one hop a batch."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import aiosqlite
import msgspec
import pytest

from mbactor import offload
from mbactor.errors import InvalidSpec
from mbactor.foreman.store import schema
from mbactor.foreman.store.join import ARRIVE
from mbactor.foreman.store.open import open_store
from mbactor.foreman.store.operations import (
    Cancel,
    Claim,
    Claimed,
    Create,
    Created,
    FlowEnd,
    Lease,
    NewStep,
    Settle,
    Settled,
)
from mbactor.foreman.store.rows import FlowRow, StepRow
from mbactor.foreman.store.settle import _COMPLETE_WHOLE, _SETTLE, COMPLETE
from mbactor.foreman.store.sql import SqlStore
from mbactor.foreman.store.sqlite import MOST_AT_ONCE, SqliteStore, run_in_driver
from mbactor.foreman.store.sqlite_db import update_text
from mbactor.foreman.store.store import Store, StoreTrouble, Unstorable
from mbactor.foreman.store.transaction import _STOP
from mbactor.testing.stores import check_store
from tests.foreman.world import sql_of

pytestmark = pytest.mark.anyio


def new(priority: int = 100, **fields: Any) -> Create:
    entry = NewStep("start", "0" * 16, 1, priority, state=b"{}", **fields)
    return Create("f" * 16, "url", "name", "hash", b"{}", entry, priority=priority)


@pytest.mark.parametrize("url", ["", "flows.db", "mongodb://x", "sqlite:/x.db", "sqlite://host/x.db", "sqlite:///"])
async def test_a_url_of_another_kind_is_refused_with_what_was_expected(url: str) -> None:
    with pytest.raises(InvalidSpec, match="expected sqlite:///relative"):
        await open_store(url)


async def test_a_path_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="nowhere"):
        await open_store(f"sqlite:///{tmp_path}/nowhere/flows.db")
    with pytest.raises(InvalidSpec, match=tmp_path.name):
        await open_store(f"sqlite:///{tmp_path}")
    text = tmp_path / "text.db"
    text.write_text("this is no database, and long enough to be told from an empty one" * 20)
    with pytest.raises(InvalidSpec, match=r"text\.db"):
        await open_store(f"sqlite:///{text}")


async def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "flows.db"
    await (await open_store(f"sqlite:///{path}")).close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE mbactor_meta SET value = 99 WHERE name = 'schema_version'")
    db.close()
    with pytest.raises(InvalidSpec, match="version 99"):
        await open_store(f"sqlite:///{path}")


async def test_tables_that_say_nothing_of_themselves_are_left_alone(shared_database: str) -> None:
    store = await open_store(shared_database)
    assert isinstance(store, SqlStore)
    await sql_of(store, "DELETE FROM mbactor_meta RETURNING name")
    await store.close()
    with pytest.raises(InvalidSpec, match="mbactor_meta without schema_version and shard: it was not restored whole"):
        await open_store(shared_database)


async def test_a_commit_is_synced_to_disk_in_wal_mode(tmp_path: Path) -> None:
    store = await _open(f"sqlite:///{tmp_path}/flows.db")

    def settings(db: sqlite3.Connection) -> list[Any]:
        return [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "busy_timeout")]

    assert await run_in_driver(store._writer, settings) == ["wal", 2, 5000]
    assert store._writer is not store._reader
    await store.close()


async def test_a_database_in_memory_has_one_connection_for_everything() -> None:
    store = await _open("sqlite://")
    assert store._writer is store._reader
    (created,) = (await store.commit([new()])).results
    assert isinstance(created, Created)
    assert await store.flow(created.flow_id) is not None
    await store.close()
    with pytest.raises(StoreTrouble, match="closed"):
        await store.flow(1)


async def test_several_processes_may_create_and_open_one_file_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/flows.db"
    stores = await asyncio.gather(*(open_store(url) for _ in range(8)))
    results = await asyncio.gather(*(store.commit([new()]) for store in stores))
    assert len({result.results[0].flow_id for result in results if isinstance(result.results[0], Created)}) == 8
    for store in stores:
        await store.close()


async def test_a_file_keeps_what_was_committed_and_opens_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/flows.db"
    store = await open_store(url)
    await store.commit([new()])
    await store.close()
    store = await open_store(url)
    row = await store.flow(1)
    assert row is not None
    assert row.token == "f" * 16
    await store.close()
    assert stat.S_ISREG((tmp_path / "flows.db").stat().st_mode)


async def test_rows_have_the_columns_that_the_schema_documents() -> None:
    assert FlowRow.__struct_fields__ == schema.FLOW_COLUMNS
    assert StepRow.__struct_fields__ == schema.STEP_COLUMNS
    store = await _open("sqlite://")

    def columns(db: sqlite3.Connection) -> list[tuple[str, ...]]:
        return [
            tuple(row[1] for row in db.execute(f"PRAGMA table_info({name})"))
            for name in ("mbactor_flow", "mbactor_step")
        ]

    assert await run_in_driver(store._writer, columns) == [schema.FLOW_COLUMNS, schema.STEP_COLUMNS]

    def views(db: sqlite3.Connection) -> int:
        return len(db.execute("SELECT * FROM mbactor_step_view, mbactor_flow_view").fetchall())

    assert await run_in_driver(store._writer, views) == 0
    await store.close()


async def test_any_number_of_statements_is_one_hop_and_counts_as_work_that_is_out() -> None:
    connection = aiosqlite.connect(":memory:")
    await connection
    hops = []
    original = connection._execute

    async def counted(*args: Any, **kwargs: Any) -> Any:
        hops.append(offload.outstanding())
        return await original(*args, **kwargs)  # type: ignore[no-untyped-call]

    connection._execute = counted  # type: ignore[method-assign]

    def many(db: sqlite3.Connection, count: int) -> int:
        return sum(db.execute("SELECT ?", (n,)).fetchone()[0] for n in range(count))

    assert await run_in_driver(connection, many, 10) == 45
    assert hops == [1]
    assert offload.outstanding() == 0
    connection._execute = original  # type: ignore[method-assign]
    await connection.close()


async def test_offload_runs_a_function_in_a_thread_and_counts_it_until_it_returns() -> None:
    entered, go = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def work(a: int, *, b: int) -> int:
        loop.call_soon_threadsafe(entered.set)
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result()
        return a + b

    running = asyncio.create_task(offload.run(work, 1, b=2))
    await entered.wait()
    assert offload.outstanding() == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert offload.outstanding() == 1
    go.set()
    while offload.outstanding():
        await asyncio.sleep(0.001)


async def test_two_claims_never_get_the_same_step(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/flows.db"
    stores = [await open_store(url) for _ in range(2)]
    await stores[0].commit([new() for _ in range(100)])
    claims = [Claim(Lease(f"w{n}", 10), 30) for n in range(4)]
    results = await asyncio.gather(*(stores[n % 2].commit([claim]) for n, claim in enumerate(claims)))
    ids = [step.id for result in results for step in cast("Claimed", result.results[0]).steps]
    assert len(ids) == len(set(ids)) == 100
    for store in stores:
        await store.close()


async def test_a_claim_takes_the_best_priority_and_then_the_oldest_and_tells_when_the_next_is_due() -> None:
    store = await _open("sqlite://")
    await store.commit([new(200), new(100), new(100), new(50, delay=60.0)])
    claimed = await _claim(store, 2)
    assert [step.id for step in claimed.steps] == [2, 3]
    assert [step.lease_number for step in claimed.steps] == [1, 1]
    assert claimed.next_due == 0
    claimed = await _claim(store, 2)
    assert [step.id for step in claimed.steps] == [1]
    assert claimed.next_due is not None
    assert 59 < claimed.next_due <= 60
    await store.close()


async def test_a_claim_walks_an_index_and_no_table() -> None:
    store = await _open("sqlite://")

    def plan(db: sqlite3.Connection) -> str:
        query = """SELECT id FROM mbactor_step WHERE status = 'pending' AND priority = 100 AND not_before <= 5
            ORDER BY not_before, id LIMIT 10"""
        return " ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}"))

    text = await run_in_driver(store._writer, plan)
    assert "mbactor_step_pending" in text
    assert "SCAN" not in text
    assert "TEMP B-TREE" not in text
    await store.close()


async def test_an_outcome_with_a_lost_lease_lands_nowhere_and_spoils_nothing_beside_it() -> None:
    store = await _open("sqlite://")
    await store.commit([new(), new()])
    first, second = (await _claim(store, 2)).steps
    successor = NewStep("next", "1" * 16, 2, 100)
    good = Settle(first.id, first.flow_id, first.lease_number, "completed", None, successors=(successor,))
    stale = Settle(second.id, second.flow_id, second.lease_number + 1, "completed", None, successors=(successor,))
    one, two = (await store.commit([stale, good])).results
    assert isinstance(one, Settled)
    assert isinstance(two, Settled)
    assert (one.landed, two.landed) == (False, True)
    assert [step.node for step in await store.steps(first.flow_id)] == ["start", "next"]
    assert [step.node for step in await store.steps(second.flow_id)] == ["start"]
    (again,) = (await store.commit([good])).results
    assert isinstance(again, Settled)
    assert not again.landed
    await store.close()


@pytest.mark.parametrize("snapshot", [None, b'{"x":1}'])
async def test_however_many_outcomes_there_are_each_lands_but_one_that_lost_its_lease(
    tmp_path: Path, snapshot: bytes | None
) -> None:
    store = await _open(f"sqlite:///{tmp_path}/flows.db")
    for count in (*range(1, 34), 47, 48, 95, 96, 127, 129, 191, 200):
        for lost in (None, count // 2):
            await store.commit([new() for _ in range(count)])
            steps = (await _claim(store, count)).steps
            batch = [
                Settle(
                    step.id, step.flow_id, step.lease_number + (index == lost), "completed", b'{"n":%d}' % step.id,
                    state=snapshot, end=FlowEnd("completed", b"{}"),
                )
                for index, step in enumerate(steps)
            ]  # fmt: skip
            settled = (await store.commit(batch)).results
            assert [isinstance(one, Settled) and one.landed for one in settled] == [
                index != lost for index in range(count)
            ]
            if lost is not None:
                await store.commit([Cancel(steps[lost].flow_id, "f" * 16)])
    rows = await sql_of(
        store, "SELECT count(*) FROM mbactor_step WHERE CAST(changes AS TEXT) <> '{\"n\":' || id || '}'"
    )
    assert rows == [(0,)]
    await store.close()


@pytest.mark.parametrize("count", [200, 300])
async def test_of_many_outcomes_at_once_each_that_lost_its_lease_lands_nowhere(tmp_path: Path, count: int) -> None:
    # The event loop writes a small batch to a file; a larger one, and all in memory, is the driver's.
    store = await _open(f"sqlite:///{tmp_path}/flows.db" if count <= MOST_AT_ONCE else "sqlite://")
    await store.commit([new() for _ in range(count)])
    steps = (await _claim(store, count)).steps
    assert len(steps) == count
    late = {steps[number].id for number in (0, 7, 128, count - 1)}
    batch = [
        Settle(
            step.id, step.flow_id, step.lease_number + (step.id in late), "completed", b'{"n":%d}' % step.id,
            successors=(NewStep("next", "1" * 16, 2, 100),) if step.id % 3 else (),
            end=None if step.id % 3 else FlowEnd("completed", b"{}"),
        )
        for step in steps
    ]  # fmt: skip
    committed = await store.commit(batch)
    for step, settled in zip(steps, committed.results, strict=True):
        assert isinstance(settled, Settled)
        assert settled.landed == (step.id not in late)
        rows = await store.steps(step.flow_id)
        assert [row.status for row in rows][:1] == ["running" if step.id in late else "completed"]
        assert rows[0].changes == (None if step.id in late else b'{"n":%d}' % step.id)
        assert [row.id for row in rows[1:]] == [one.step_id for one in settled.inserted]
        assert len(rows) == (2 if step.id % 3 and step.id not in late else 1)
    assert {one.flow_id for one in committed.stopped} == {
        step.flow_id for step in steps if step.id % 3 == 0 and step.id not in late
    }
    assert {one.workflow for one in committed.stopped} == {"url"}
    await store.close()


@pytest.mark.parametrize("where", ["", "/{}/flows.db"])
async def test_of_many_flows_at_once_those_whose_key_is_taken_are_found_again(tmp_path: Path, where: str) -> None:
    store = await _open(f"sqlite://{where.format(tmp_path)}")
    keyed = [msgspec.structs.replace(new(), idempotency_key=f"key {number}") for number in range(201)]
    first = (await store.commit(keyed[50:60])).results
    (*found,) = (await store.commit(keyed)).results
    assert [one.existed for one in found if isinstance(one, Created)] == [50 <= number < 60 for number in range(201)]
    assert [one.flow_id for one in found[50:60] if isinstance(one, Created)] == [
        one.flow_id for one in first if isinstance(one, Created)
    ]
    assert len({one.flow_id for one in found if isinstance(one, Created)}) == 201
    await store.close()


@pytest.mark.parametrize("where", ["", "/{}/flows.db"])
async def test_a_batch_in_which_all_is_found_is_written_once(tmp_path: Path, where: str) -> None:
    store = await _open(f"sqlite://{where.format(tmp_path)}")
    said: list[str] = []
    store._writer._conn.set_trace_callback(said.append)
    for count in (1, 2, 3, 7, 200, 255):
        await store.commit([new() for _ in range(count)])
        steps = (await _claim(store, count)).steps
        ended = FlowEnd("completed", b"{}")
        await store.commit(
            [Settle(one.id, one.flow_id, one.lease_number, "completed", None, end=ended) for one in steps]
        )
    assert said.count("COMMIT") == said.count("BEGIN IMMEDIATE") == 18
    assert "ROLLBACK" not in said
    await store.close()


async def test_the_loop_goes_on_while_somebody_else_writes_to_the_file(tmp_path: Path) -> None:
    store = await _open(f"sqlite:///{tmp_path}/flows.db")
    with closing(sqlite3.connect(tmp_path / "flows.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writing = asyncio.ensure_future(store.commit([new()]))
        while not offload.outstanding():
            await asyncio.sleep(0)  # it has gone to the driver's thread, which waits
        other.execute("COMMIT")
    (created,) = (await writing).results
    assert isinstance(created, Created)
    assert await store.flow(created.flow_id) is not None
    await store.close()


async def test_a_value_that_a_file_does_not_take_is_refused_and_nothing_of_its_batch_stays(tmp_path: Path) -> None:
    store = await _open(f"sqlite:///{tmp_path}/flows.db")
    with pytest.raises(Unstorable):
        await store.commit([new(), new(priority=1 << 70)])
    assert await store.standing() == (0, 0)
    (created,) = (await store.commit([new()])).results
    assert isinstance(created, Created)
    await store.close()


async def test_a_statement_for_many_rows_seeks_each_by_its_id() -> None:
    store = await _open("sqlite://")

    def plan(db: sqlite3.Connection, query: str) -> list[str]:
        return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}", [None] * query.count("?"))]

    for update in (COMPLETE, _COMPLETE_WHOLE, _SETTLE, _STOP, ARRIVE):
        steps = await run_in_driver(store._writer, plan, update_text(update, 8))
        assert f"SEARCH {update.table} USING INTEGER PRIMARY KEY (rowid=?)" in steps
        assert f"SCAN {update.table}" not in steps
    await store.close()


async def test_every_database_keeps_the_contract_of_a_store(databases: Callable[[], str]) -> None:
    await check_store(lambda: open_store(databases()))


async def _open(url: str) -> SqliteStore:
    return cast("SqliteStore", await open_store(url))


async def _claim(store: Store, limit: int) -> Claimed:
    (claimed,) = (await store.commit([Claim(Lease("w", 10), limit)])).results
    assert isinstance(claimed, Claimed)
    return claimed


def test_a_driver_is_imported_where_the_loop_does_not_stand_still_for_it() -> None:
    program = """
import asyncio, sys, threading
from mbactor.foreman.store.open import open_store

class Seen:
    def find_spec(self, name, *_):
        if name in {"aiosqlite", "mbactor.foreman.store.sqlite"}:
            print(name, threading.current_thread() is threading.main_thread())

async def main():
    sys.meta_path.insert(0, Seen())
    await (await open_store("sqlite://")).close()

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["mbactor.foreman.store.sqlite False", "aiosqlite False"]
