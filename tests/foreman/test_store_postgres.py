"""The PostgreSQL store: opening, what it says of wrong URLs, broken connections, unanswered commits, several at once."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from functools import partial
from typing import Any

import asyncpg
import msgspec
import pytest

from mbactor import seams
from mbactor.errors import InvalidSpec
from mbactor.foreman.model.flow import Flow
from mbactor.foreman.model.graph import END, Graph
from mbactor.foreman.store.leases import _EXTEND
from mbactor.foreman.store.one_statement import plan_of
from mbactor.foreman.store.open import open_store
from mbactor.foreman.store.operations import (
    Arrival,
    Child,
    Claim,
    Claimed,
    Create,
    Created,
    FlowEnd,
    Lease,
    NewStep,
    Operation,
    Release,
    Settle,
    Settled,
)
from mbactor.foreman.store.postgres_db import PostgresDb
from mbactor.foreman.store.postgres_pool import Connections
from mbactor.foreman.store.postgres_text import shown_url, text_of, update_of
from mbactor.foreman.store.rows import FlowFilter
from mbactor.foreman.store.settle import _SETTLE, COMPLETE
from mbactor.foreman.store.store import StoreTrouble
from mbactor.foreman.sweep import sweep, sweep_regularly
from mbactor.testing.postgres import PostgresServer
from tests.foreman.postgres import opened
from tests.foreman.world import World, a_world, ok

pytestmark = pytest.mark.anyio

PASSWORD = "hunter2"


def new(**fields: Any) -> Create:
    return Create("f" * 16, "url", "name", "hash", b"{}", NewStep("start", "0" * 16, 1, 100, state=b"{}"), **fields)


def line(*nodes: str) -> Graph:
    graph = Graph("line")
    graph.add_transition_chain(*nodes, END)
    return graph


# --- opening --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        f"postgresql://user:{PASSWORD}/x@host/flows",
        f"postgresql://user:12/{PASSWORD}@host/flows",
        f"postgresql://user:{PASSWORD}#x@host/flows",
        f"postgresql://user:12?{PASSWORD}@host/flows",
        f"postgresql://user:{PASSWORD}@host:port/flows",
        f"mysql://user:{PASSWORD}@host/flows",
        f"postgresql+asyncpg://user:{PASSWORD}@host/flows",
    ],
)
async def test_a_url_that_is_none_is_refused_without_showing_what_may_be_a_password(given: str) -> None:
    with pytest.raises(InvalidSpec, match="expected .*postgresql://user:password@host") as refused:
        await open_store(given)
    assert PASSWORD not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_url_is_shown_with_what_tells_it_from_others_and_nothing_secret() -> None:
    given = f"postgresql://ada:{PASSWORD}@db.example:5433/flows?sslpassword={PASSWORD}"
    assert shown_url(given) == "postgresql://ada@db.example:5433/flows"
    given = f"postgresql://ada:{PASSWORD}@[::1]:5433,db.example:5434,other/flows?target_session_attrs=primary"
    assert shown_url(given) == "postgresql://ada@[::1]:5433,db.example:5434,other/flows"


async def test_of_several_servers_one_that_answers_is_used(mbactor_postgres_server: PostgresServer) -> None:
    folder = mbactor_postgres_server.folder
    store = await opened(
        mbactor_postgres_server.fresh().replace(f"host={folder}", f"host={folder}/none,{folder}")
        + "&target_session_attrs=primary"
    )
    assert await store.flow(1) is None
    await store.close()
    with pytest.raises(StoreTrouble, match=r"ada@127\.0\.0\.1:1,127\.0\.0\.1:2/flows does not answer"):
        await open_store(f"postgresql://ada:{PASSWORD}@127.0.0.1:1,127.0.0.1:2/flows")


async def test_what_the_server_refuses_is_told_by_name(mbactor_postgres_server: PostgresServer) -> None:
    base = mbactor_postgres_server.url
    with pytest.raises(InvalidSpec, match='database "nowhere" does not exist'):
        await open_store(base.replace("/postgres?", "/nowhere?"))
    with pytest.raises(InvalidSpec, match='role "nobody" does not exist') as refused:
        await open_store(base.replace("postgres:@", f"nobody:{PASSWORD}@"))
    assert PASSWORD not in str(refused.value)
    with pytest.raises(InvalidSpec, match="schema"):
        await open_store(f"{base}&search_path=nowhere")
    with pytest.raises(StoreTrouble, match=r"ada@127\.0\.0\.1:1/flows does not answer") as silent:
        await open_store(f"postgresql://ada:{PASSWORD}@127.0.0.1:1/flows")
    assert PASSWORD not in str(silent.value)


async def test_several_processes_may_make_the_tables_at_once(url: str) -> None:
    stores = await asyncio.gather(*(opened(url) for _ in range(4)))
    results = await asyncio.gather(*(store.commit([new()]) for store in stores))
    assert len({created.flow_id for (created,) in (r.results for r in results) if isinstance(created, Created)}) == 4
    async with stores[0]._connection() as connection:
        views = "SELECT * FROM mbactor_step_view, mbactor_flow_view"
        assert len(await PostgresDb(connection).rows(views)) == 16
        await connection.execute("UPDATE mbactor_meta SET value = 99 WHERE name = 'schema_version'")
    await asyncio.gather(*(store.close() for store in stores))
    with pytest.raises(InvalidSpec, match="version 99"):
        await open_store(url)


async def test_a_commit_waits_for_the_disk_whatever_the_role_was_given(url: str) -> None:
    store = await opened(f"{url}&synchronous_commit=off")
    async with store._connection() as connection:
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
    await store.close()


def test_places_are_numbered() -> None:
    assert text_of("a = ? AND b IN (<ids>)") == "a = $1 AND b IN (SELECT unnest($2::bigint[]))"


# --- plans ----------------------------------------------------------------------------------------------


async def test_every_statement_of_a_busy_flow_walks_indexes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    statements: dict[str, Any] = {}
    rows, count = PostgresDb.rows, PostgresDb.count

    async def noted_rows(self: PostgresDb, query: str, *values: Any) -> Any:
        statements[text_of(query)] = values
        return await rows(self, query, *values)

    async def noted_count(self: PostgresDb, query: str, *values: Any) -> Any:
        statements[text_of(query)] = values
        return await count(self, query, *values)

    monkeypatch.setattr(PostgresDb, "rows", noted_rows)
    monkeypatch.setattr(PostgresDb, "count", noted_count)
    async with a_world(url, poll_interval=0.02) as world:
        await world.graph(line("a", "b"), a=ok, b=ok)
        await world.run("line")
        await sweep(world.engine)
        async with world.store._connection() as connection:  # type: ignore[attr-defined]
            for text, values in list(statements.items()):
                plan = "\n".join(r[0] for r in await connection.fetch(f"EXPLAIN {text}", *values))
                scanned = re.findall(r"Seq Scan on (mbactor_(?:flow|step))", plan)
                assert not scanned, f"{text}\n{plan}"


async def test_an_outcome_finds_its_row_by_id_however_many_steps_run(url: str) -> None:
    store = await opened(url)
    await store.commit([new() for _ in range(300)])
    await store.commit([Claim(Lease("w", 60), 300)])
    async with store._connection() as connection:
        for statement in (COMPLETE, _SETTLE, _EXTEND):
            plan = "\n".join(r[0] for r in await connection.fetch(f"EXPLAIN {update_of(statement)}", []))
            assert "Nested Loop" in plan, plan
            assert re.search(r"Index Scan using mbactor_step_pkey", plan), plan
            assert "mbactor_step_lease" not in plan, plan
    await store.close()


async def test_the_one_statement_of_a_batch_finds_its_rows_by_id_however_many_steps_run(url: str) -> None:
    store = await opened(url)
    await store.commit([new() for _ in range(300)])
    await store.commit([Claim(Lease("w", 60), 300)])
    end = FlowEnd("completed", b"{}")
    settle = Settle(1, 1, 1, "completed", None, end=end)
    batches: list[tuple[list[Operation], str]] = [([settle, goes_on(2, 2), new()], "unnest"), ([settle], "'1'")]
    for batch, found_by in batches:
        written = await plan_of(batch)
        assert written is not None
        async with store._connection() as connection:
            explained = await connection.fetch(f"EXPLAIN {written.text}", *written.values)
        plan = "\n".join(row[0] for row in explained)
        assert "Seq Scan" not in plan
        for table in ("step", "flow"):
            wanted = rf"Index Scan using mbactor_{table}_pkey.*\n +Index Cond: \(id = .*{found_by}"
            assert re.search(wanted, plan), plan
        assert "mbactor_step_lease" not in plan, plan
    await store.close()


async def test_the_end_of_a_flow_finds_it_by_id_where_few_were_open_when_that_was_planned(url: str) -> None:
    store = await opened(url)
    await store.commit([new() for _ in range(300)])
    await store.commit([Claim(Lease("w", 60), 300)])
    ends = [Settle(number, number, 1, "completed", None, end=FlowEnd("completed", b"{}")) for number in range(1, 301)]
    await store.commit(ends[:297])
    written = await plan_of(ends[297:])
    assert written is not None
    async with store._connection() as connection:
        await connection.execute("ANALYZE mbactor_flow")
        explained = await connection.fetch(f"EXPLAIN {written.text}", *written.values)
    plan = "\n".join(row[0] for row in explained)
    # The index of the flows that are open has all that ever were, until it is tidied up.
    assert "mbactor_flow_status" not in plan, plan
    await store.close()


def goes_on(step_id: int, flow_id: int, lease_number: int = 1) -> Settle:
    successors = (NewStep("next", "1" * 16, 2, 100),)
    return Settle(step_id, flow_id, lease_number, "completed", b"{}", successors=successors)


async def test_what_happens_most_is_one_round_trip(url: str) -> None:
    store = await opened(url)
    created = (await store.commit([new() for _ in range(3)])).results
    (claimed,) = (await store.commit([Claim(Lease("w", 60), 3)])).results
    asked: list[str] = []
    async with store._connection() as connection:
        await connection.fetch("SELECT $1::mbactor_outcome[]", [])  # the driver asks for a type once
        connection.add_query_logger(lambda record: asked.append(record.query))
    ids = [(one.step_id, one.flow_id) for one in created if isinstance(one, Created)]
    end = Settle(*ids[0], 1, "completed", None, end=FlowEnd("completed", b'{"x":1}'))
    committed = await store.commit([end, *(goes_on(*both) for both in ids[1:]), new()])
    await asyncio.sleep(0)  # the driver tells of a query a turn later
    assert len(asked) == 1
    assert committed.best_due == 100
    (stopped,) = committed.stopped
    assert (stopped.flow_id, stopped.token, stopped.workflow) == (ids[0][1], "f" * 16, "url")
    for (_, flow_id), result in zip(ids[1:], committed.results[1:], strict=False):
        assert isinstance(result, Settled)
        rows = await store.steps(flow_id)
        assert [(row.node, row.predecessor_id) for row in rows] == [("start", None), ("next", rows[0].id)]
        assert rows[0].successor_id == rows[1].id == result.inserted[0].step_id
        assert rows[1].created_at == rows[1].not_before == result.now
        assert claimed.now < result.now < claimed.now + 60  # type: ignore[union-attr]
    await store.close()


async def test_the_outcome_of_a_called_flow_is_one_round_trip_and_locks_the_root(url: str) -> None:
    store, other = await asyncio.gather(opened(url), opened(url))
    (created,) = (await store.commit([new()])).results
    await store.commit([Claim(Lease("w", 60), 1)])
    assert isinstance(created, Created)
    root_id = created.flow_id
    inner = NewStep("inner", "2" * 16, 1, 100, state=b"{}")
    child = Child("c" * 16, "called", "called", "hash", b"{}", inner)
    await store.commit([Settle(created.step_id, root_id, 1, "running", None, parks=b"[]", child=child)])
    (claimed,) = (await store.commit([Claim(Lease("w", 60), 1)])).results
    assert isinstance(claimed, Claimed)
    (step,) = claimed.steps
    assert claimed.flows[step.flow_id].root_id == root_id != step.flow_id
    outcome = goes_on(step.id, step.flow_id, step.lease_number)
    known = msgspec.structs.replace(outcome, root_id=root_id)
    async with other._connection() as connection, connection.transaction():
        await connection.execute("SELECT FROM mbactor_flow WHERE id = $1 FOR UPDATE", root_id)
        for one in (known, outcome):
            async with store._connection() as own:
                own._config = own._config._replace(command_timeout=0.2)
            with pytest.raises(StoreTrouble):
                await store.commit([one])
    asked: list[str] = []
    async with store._connection() as own:
        own.add_query_logger(lambda record: asked.append(record.query))
    assert (await store.commit([known])).results[0].landed  # type: ignore[union-attr]
    await asyncio.sleep(0)
    assert len([text for text in asked if "mbactor" in text]) == 1  # the driver asks for types of its own accord
    await asyncio.gather(store.close(), other.close())


@pytest.mark.parametrize("makes_room", [False, True])
async def test_arrivals_at_many_cohorts_cost_no_more_round_trips_than_those_at_one(url: str, makes_room: bool) -> None:
    store = await opened(url)
    lease = Lease("w", 60)
    made = (await store.commit([new() for _ in range(5)])).results
    await store.commit([Claim(lease, 5)])

    def fans_out(one: Any) -> Settle:
        branches = tuple(NewStep("b", "1" * 16, 2, 100, spawn_id=one.step_id, ordinal=n, lease=lease) for n in (0, 1))
        return Settle(one.step_id, one.flow_id, 1, "completed", None, successors=branches, cohort_size=2, depth=1)

    def arrive(spawn: Any, settled: Any) -> list[Operation]:
        fan_in = NewStep("j", "2" * 16, 3, 100, lease=lease)
        arrival = Arrival(spawn.step_id, 2, fan_in=fan_in, makes_room=makes_room)
        branches = [one.step_id for one in settled.inserted]
        return [Settle(one, spawn.flow_id, 1, "completed", None, arrival=arrival) for one in branches]

    cohorts = list(zip(made, (await store.commit([fans_out(one) for one in made])).results, strict=True))
    asked: list[str] = []
    async with store._connection() as connection:
        connection.add_query_logger(lambda record: asked.append(record.query))
    counts: list[int] = []
    for some in (cohorts[:1], cohorts[1:2], cohorts[2:]):
        asked.clear()
        results = (await store.commit([one for cohort in some for one in arrive(*cohort)])).results
        await asyncio.sleep(0)
        counts.append(len(asked))
        fan_ins = [one.step.cohort_id for result in results if isinstance(result, Settled) for one in result.inserted]
        assert fan_ins == [spawn.step_id for spawn, _ in some if isinstance(spawn, Created)]
    assert counts[1:] == ([7, 7] if makes_room else [1, 1])  # with the first the driver asks for types
    await store.close()


async def test_arrivals_of_a_batch_make_the_fan_ins_that_are_due_where_their_cohorts_stand(url: str) -> None:
    store = await opened(url)
    lease = Lease("w", 60)
    (start,) = (await store.commit([new()])).results
    assert isinstance(start, Created)
    await store.commit([Claim(lease, 1)])

    def fans_out(step_id: int, depth: int, around: int | None = None) -> Settle:
        branches = tuple(
            NewStep("b", "1" * 16, depth + 1, 100, spawn_id=step_id, ordinal=n, lease=lease) for n in (0, 1)
        )
        return Settle(
            step_id, start.flow_id, 1, "completed", None, successors=branches, cohort_size=2, depth=depth,
        )  # fmt: skip

    def arrives(step_id: int, spawn_id: int, depth: int, status: str = "completed", **how: Any) -> Settle:
        fan_in = NewStep("j", "2" * 16, depth + 1, 100)
        arrival = Arrival(spawn_id, depth, fan_in=fan_in, makes_room=False, **how)
        return Settle(step_id, start.flow_id, 1, status, None, arrival=arrival)

    async def committed(*batch: Settle) -> list[list[tuple[int | None, int, int, int | None]]]:
        written = await plan_of(batch)
        assert written is not None or any(one.arrival is not None and one.arrival.failed for one in batch)
        results = (await store.commit(batch)).results
        found = [[one.step for one in result.inserted] for result in results if isinstance(result, Settled)]
        return [[(one.cohort_id, one.depth, one.ordinal, one.spawn_id) for one in some] for some in found]

    async def branches(spawn_id: int) -> list[int]:
        return [row.id for row in await store.steps(start.flow_id) if row.spawn_id == spawn_id]

    outer = start.step_id
    await store.commit([fans_out(outer, 1)])
    first, second = await branches(outer)
    await store.commit([fans_out(second, 2)])
    within = await branches(second)
    assert await committed(arrives(first, outer, 2), arrives(within[0], second, 3)) == [[], []]
    assert await committed(arrives(within[1], second, 3)) == [[(second, 4, 1, outer)]]
    (fan_in,) = [row for row in await store.steps(start.flow_id) if row.node == "j"]
    assert (fan_in.cohort_id, fan_in.depth, fan_in.ordinal, fan_in.spawn_id) == (second, 4, 1, outer)
    assert (fan_in.status, fan_in.predecessor_id) == ("pending", within[1])
    (claimed,) = (await store.commit([Claim(lease, 9)])).results
    assert isinstance(claimed, Claimed)
    assert [step.id for step in claimed.steps] == [fan_in.id]
    assert (await store.materials([fan_in.id]))[fan_in.id].cohort == ()
    last = await committed(arrives(fan_in.id, outer, 4))
    assert last == [[(outer, 5, 0, None)]]
    await store.close()


async def test_an_arrival_after_one_that_failed_fails_its_cohort(url: str) -> None:
    store = await opened(url)
    lease = Lease("w", 60)
    (start,) = (await store.commit([new()])).results
    assert isinstance(start, Created)
    await store.commit([Claim(lease, 1)])
    branches = tuple(NewStep("b", "1" * 16, 2, 100, spawn_id=start.step_id, ordinal=n, lease=lease) for n in (0, 1))
    fans_out = Settle(start.step_id, start.flow_id, 1, "completed", None, successors=branches, cohort_size=2, depth=1)
    (settled,) = (await store.commit([fans_out])).results
    assert isinstance(settled, Settled)
    for status, one in zip(("failed", "completed"), settled.inserted, strict=True):
        fan_in = NewStep("j", "2" * 16, 3, 100)
        arrival = Arrival(start.step_id, 2, status == "failed", fan_in, makes_room=False)
        stopped = (await store.commit([Settle(one.step_id, start.flow_id, 1, status, None, arrival=arrival)])).stopped
        assert [one.status for one in stopped] == ([] if status == "failed" else ["failed"])
    assert [row.node for row in await store.steps(start.flow_id)] == ["start", "b", "b"]
    await store.close()


async def test_a_lease_that_is_lost_undoes_nothing_of_its_batch(url: str) -> None:
    store = await opened(url)
    created = [one for one in (await store.commit([new(), new()])).results if isinstance(one, Created)]
    await store.commit([Claim(Lease("w", 60), 2)])
    late, good = (goes_on(one.step_id, one.flow_id, number) for one, number in zip(created, (7, 1), strict=True))
    committed = await store.commit([late, good, new()])
    assert [one.landed for one in committed.results if isinstance(one, Settled)] == [False, True]
    assert [len(await store.steps(one.flow_id)) for one in created] == [1, 2]
    await store.close()


# --- trouble --------------------------------------------------------------------------------------------


async def test_a_broken_connection_is_trouble_and_the_next_one_works(
    url: str, mbactor_postgres_server: PostgresServer
) -> None:
    store = await opened(url)

    async def break_off(**_: Any) -> None:
        await asyncio.to_thread(mbactor_postgres_server.disconnect)

    with seams.armed("foreman.commit.before", break_off), pytest.raises(StoreTrouble):
        await store.commit([new()])
    await break_off()
    assert await store.flow(1) is None
    with seams.armed("foreman.commit.after", break_off):
        (created,) = (await store.commit([new()])).results
    assert isinstance(created, Created)
    assert [row.id for row in await store.flows(FlowFilter())] == [created.flow_id]
    await store.close()


async def test_a_server_that_takes_what_is_written_no_longer_is_left_after_a_failover(url: str) -> None:
    store = await opened(url)
    demoted: set[int] = set()
    ready = asyncio.Barrier(3)

    async def demote() -> None:
        async with store._connection() as connection:
            await ready.wait()
            await connection.execute("SET default_transaction_read_only = on")
            demoted.add(connection.get_server_pid())

    # What is connected stays so, to what is a standby now; what connects anew gets the server that has its place.
    await asyncio.gather(demote(), demote(), demote())
    assert len(demoted) == 3
    async with store._connection() as in_use:
        assert in_use.get_server_pid() in demoted
        with pytest.raises(StoreTrouble, match="read-only"):
            await store.commit([new()])
    (created,) = (await store.commit([new()])).results
    assert isinstance(created, Created)

    async def user() -> int:
        async with store._connection() as connection:
            await ready.wait()
            pid: int = connection.get_server_pid()
        return pid

    assert not demoted & {*await asyncio.gather(user(), user(), user())}
    await store.close()


async def test_a_commit_that_was_not_answered_is_looked_up_and_not_repeated(url: str) -> None:
    store = await opened(url)

    async def lost(**_: Any) -> None:
        raise ConnectionResetError("the answer was lost")

    with seams.armed("foreman.commit.after", lost):
        (created,) = (await store.commit([new()])).results
    assert isinstance(created, Created)
    assert await store.flow(created.flow_id) is not None
    with seams.armed("foreman.commit.before", lost), pytest.raises(StoreTrouble, match="the answer was lost"):
        await store.commit([new()])
    async with store._connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM mbactor_flow") == 1
    await store.close()


async def test_an_outcome_that_was_not_answered_is_looked_up_and_not_repeated(url: str) -> None:
    store = await opened(url)
    created, second = [one for one in (await store.commit([new(), new()])).results if isinstance(one, Created)]
    await store.commit([Claim(Lease("w", 60), 2)])

    async def lost(**_: Any) -> None:
        raise ConnectionResetError("the answer was lost")

    async def never(**_: Any) -> None:
        async with store._connection() as connection:
            await connection.execute("UPDATE mbactor_step SET status = 'running'")
        await lost()

    with seams.armed("foreman.commit.after", lost):
        (settled,) = (await store.commit([goes_on(created.step_id, created.flow_id)])).results
    assert settled == Settled(landed=False)
    assert [row.node for row in await store.steps(created.flow_id)] == ["start", "next"]
    with seams.armed("foreman.commit.after", never), pytest.raises(StoreTrouble, match="the answer was lost"):
        await store.commit([goes_on(second.step_id, second.flow_id)])
    await store.close()


async def test_who_writes_without_an_answer_is_ended_before_anybody_looks(url: str) -> None:
    """Else it could write after the look, and the batch would be written twice."""
    store, other = await asyncio.gather(opened(url), opened(url))
    (created,) = (await store.commit([new()])).results
    await store.commit([Claim(Lease("w", 60), 1)])
    assert isinstance(created, Created)
    async with other._connection() as connection, connection.transaction():
        await connection.execute("SELECT FROM mbactor_flow FOR UPDATE")
        async with store._connection() as own:
            own._config = own._config._replace(command_timeout=0.2)
        # It waits for the lock until nobody waits for it.
        with pytest.raises(StoreTrouble):
            await store.commit([goes_on(created.step_id, created.flow_id)])
    assert [row.node for row in await store.steps(created.flow_id)] == ["start"]
    await asyncio.gather(store.close(), other.close())


async def test_flows_go_on_over_a_crash_of_the_server(url: str, mbactor_postgres_server: PostgresServer) -> None:
    async with a_world(url, workers=2, lease=2.0, poll_interval=0.05) as world:
        runs: Counter[str] = Counter()

        async def task(flow: Flow) -> None:
            runs[flow.step_key] += 1
            await asyncio.sleep(0.02)
            flow["sum_runs"] = flow.get("sum_runs", 0) + 1

        names = [f"n{number}" for number in range(8)]
        await world.graph(line(*names), **dict.fromkeys(names, task))
        sweeping = asyncio.create_task(sweep_regularly(world.engine, 0.2))
        running = [asyncio.create_task(world.run("line")) for _ in range(32)]
        while len(runs) < 64:
            await asyncio.sleep(0.005)
        await asyncio.to_thread(mbactor_postgres_server.restart)
        async with asyncio.timeout(60):
            outcomes = await asyncio.gather(*running)
        assert {(outcome.status, outcome.state["sum_runs"]) for outcome in outcomes} == {("completed", 8)}
        rows = await world.sql("SELECT count(*), count(DISTINCT node) FROM mbactor_step GROUP BY flow_id")
        assert rows == [(8, 8)] * 32
        sweeping.cancel()


async def test_a_connection_is_taken_again_unless_its_user_may_have_left_something_behind(url: str) -> None:
    connections = Connections(
        partial(asyncpg.connect, url), 1, asyncpg.PostgresError, asyncpg.ReadOnlySQLTransactionError
    )

    async def used(query: str = "SELECT 1") -> int:
        async with connections.one() as connection:
            await connection.execute(query)
            pid: int = connection.get_server_pid()
        return pid

    first = await used()
    assert set(await asyncio.gather(used(), used())) == {first}
    with pytest.raises(asyncpg.DivisionByZeroError):
        await used("SELECT 1 / 0")
    assert await used() == first
    cut_off = asyncio.create_task(used("SELECT pg_sleep(60)"))
    waiting = asyncio.create_task(used())
    await asyncio.sleep(0)
    cut_off.cancel()
    second = await waiting
    assert await used("BEGIN") == second != first
    third = await used()
    assert second != third == await used()
    asleep = asyncio.create_task(used("SELECT pg_sleep(60)"))
    waiting = asyncio.create_task(used())
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await connections.close(within=0.01)
    with pytest.raises(asyncpg.PostgresConnectionError):
        await asleep
    with pytest.raises(StoreTrouble, match="closed"):
        await waiting


# --- several at once ------------------------------------------------------------------------------------


async def two(url: str, **options: Any) -> tuple[World, World]:
    stores = await asyncio.gather(opened(url), opened(url))
    return World(stores[0], **options), World(stores[1], **options)


async def test_two_foremen_share_the_work_and_each_step_runs_once(url: str) -> None:
    runs: Counter[str] = Counter()

    async def task(flow: Flow) -> None:
        runs[flow.step_key] += 1
        await asyncio.sleep(0.001)

    graph = Graph("fan")
    graph.add_transition_fan_out("start", "x", "y", "z")
    for name in ("x", "y", "z"):
        graph.add_transition(name, "join")
    graph.set_fan_in("join")
    graph.add_transition("join", END)
    worlds = await two(url, poll_interval=0.02)
    for world in worlds:
        await world.graph(graph, start=task, x=task, y=task, z=task, join=task)
    # Made by one, before either works, so that both have to claim.
    keys = await asyncio.gather(*(worlds[0].engine.create("fan") for _ in range(200)))
    for world in worlds:
        world.work(slots=16)
    outcomes = await asyncio.gather(*(worlds[n % 2].engine.wait(key) for n, key in enumerate(keys)))
    assert {outcome.status for outcome in outcomes} == {"completed"}
    assert len(runs) == 1_000
    assert set(runs.values()) == {1}
    assert min(len(world.host.ran) for world in worlds) > 100
    for world in worlds:
        await world.close()


async def test_the_steps_of_a_dead_foreman_are_taken_over_after_their_lease(url: str) -> None:
    dead, heir = await two(url, lease=0.5, poll_interval=0.02)
    entered, never = asyncio.Event(), asyncio.Event()

    async def stuck(_: Flow) -> None:
        entered.set()
        await never.wait()

    await dead.graph(line("a", "b"), a=ok, b=stuck)
    await heir.graph(line("a", "b"), a=ok, b=ok)
    dead.work()
    key = await dead.engine.create("line")
    await entered.wait()
    dead.kill()
    sweeping = asyncio.create_task(sweep_regularly(heir.engine))
    heir.work()
    async with asyncio.timeout(60):
        assert (await heir.engine.wait(key)).status == "completed"
    assert heir.host.ran == ["b"]
    sweeping.cancel()
    for world in (dead, heir):
        await world.close()


async def test_operations_on_one_flow_take_turns(url: str) -> None:
    """A step that completes while its flow is cancelled leaves no successor behind, whoever comes first."""
    stores = await asyncio.gather(opened(url), opened(url))
    worlds = [World(store, poll_interval=0.02) for store in stores]
    for world in worlds:
        await world.graph(line("a", "b", "c", "d"), a=ok, b=ok, c=ok, d=ok)
    worlds[0].work()
    keys = [await worlds[0].engine.create("line") for _ in range(60)]
    await asyncio.gather(*(worlds[1].engine.cancel(key) for key in keys), return_exceptions=True)
    outcomes = await asyncio.gather(*(worlds[0].engine.wait(key) for key in keys))
    assert {outcome.status for outcome in outcomes} <= {"completed", "cancelled"}
    for world in worlds:
        await world.close()


async def test_batches_over_the_same_flows_in_any_order_do_not_lock_each_other_out(url: str) -> None:
    stores = await asyncio.gather(opened(url), opened(url))
    created = [one for one in (await stores[0].commit([new() for _ in range(40)])).results if isinstance(one, Created)]
    (claimed,) = (await stores[0].commit([Claim(Lease("w", 60), 40)])).results
    assert len(created) == len(claimed.steps) == 40  # type: ignore[union-attr]
    collisions = 0
    for turn in range(10):
        number = turn + 1
        batch = [Settle(one.step_id, one.flow_id, number, "pending", None) for one in created]
        results = await asyncio.gather(
            stores[0].commit(batch), stores[1].commit([Release("w"), *reversed(batch)]), return_exceptions=True
        )
        collisions += sum(isinstance(result, BaseException) for result in results)
        await stores[0].commit([Claim(Lease("w", 60), 40)])
        rows = await stores[0].steps(created[0].flow_id)
        assert rows[0].lease_number == number + 1
    assert collisions == 0
    await asyncio.gather(*(store.close() for store in stores))


async def test_one_idempotency_key_makes_one_flow_whoever_is_first(url: str) -> None:
    stores = await asyncio.gather(opened(url), opened(url))
    batches = [[new(idempotency_key=f"k{number}") for number in range(20)] for _ in stores]
    batches[1].reverse()
    found = await asyncio.gather(*(store.commit(batch) for store, batch in zip(stores, batches, strict=True)))
    ids = [[one.flow_id for one in result.results if isinstance(one, Created)] for result in found]
    assert ids[0] == ids[1][::-1]
    assert len(set(ids[0])) == 20
    await asyncio.gather(*(store.close() for store in stores))


async def test_the_same_outcome_twice_in_a_batch_lands_once(shared_database: str) -> None:
    store = await open_store(shared_database)
    await store.commit([new()])
    (claimed,) = (await store.commit([Claim(Lease("w", 60), 1)])).results
    (step,) = claimed.steps  # type: ignore[union-attr]
    outcome = Settle(
        step.id, step.flow_id, step.lease_number, "completed", None, successors=(NewStep("next", "1" * 16, 2, 100),)
    )
    results = (await store.commit([outcome, outcome])).results
    assert [one.landed for one in results if isinstance(one, Settled)] == [True, False]
    assert [one.node for one in await store.steps(step.flow_id)] == ["start", "next"]
    await store.close()
