"""Every store does what a plain model of it does: the same random batches, the same results, the same rows.

The clock is each database's own; time passes by moving all that is written into the past.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from mbactor.foreman.model import rate
from mbactor.foreman.store import leases
from mbactor.foreman.store.open import open_store
from mbactor.foreman.store.operations import Changed, Claimed, Committed, Created, Operation, Result, Rewind, Settled
from mbactor.foreman.store.sql import SqlStore
from mbactor.testing.postgres import PostgresServer
from tests.foreman.store_commands import KINDS, SKIP, STALE, STEP_OF_TIME, Chooser, Command
from tests.foreman.store_model import NEEDED_WAS_CANCELLED, Model
from tests.foreman.store_model_rows import ENDED
from tests.foreman.store_names import Names
from tests.foreman.world import broken_invariants, sql_of
from tests.long import usual_or_long

NUMBERS = st.integers(0, 63)
BATCHES = st.lists(st.builds(Command, st.sampled_from(KINDS), NUMBERS, NUMBERS), min_size=1, max_size=6)
DRAWS = (0.0, 0.5, 0.999)
MOST_ROUNDS = 200
TABLES = ("mbactor_step", "mbactor_flow", "mbactor_graph", "mbactor_schedule", "mbactor_concurrency", "mbactor_rate")

_STEPS = """SELECT id, token, flow_id, node, depth, status, priority, state, added, chain, predecessor_id, spawn_id,
    ordinal, cohort_id, worker, lease_number, successor_id, cohort_size, cohort_arrivals, cohort_failures, cohort_depth,
    attempt, changes, parks, payloads, error, refused_at IS NOT NULL, not_before, lease_expires,
    cohort_needed, cancel_reason, cohort_at_once, CASE WHEN status = 'created' THEN room_id END, room_ordinal, at_breakpoint,
    unused_leases, lost_leases, fairness_key, rate, slot
    FROM mbactor_step ORDER BY id"""
_FLOWS = """SELECT id, token, status, workflow, delete_on_completion, idempotency_key, root_id, caller_id, final_state,
    error, cancel_reason, delete_at, thread_id, forked_from, breakpoints, concurrency_key, queued, fairness_weight
    FROM mbactor_flow ORDER BY id"""
_PAST = (
    """UPDATE mbactor_step SET not_before = not_before - ?, lease_expires = lease_expires - ?,
    refused_at = refused_at - ?, slot = slot - ?, created_at = created_at - ?, started_at = started_at - ?, updated_at = updated_at - ?""",
    """UPDATE mbactor_flow SET created_at = created_at - ?, started_at = started_at - ?, updated_at = updated_at - ?,
    delete_at = delete_at - ?""",
    "UPDATE mbactor_rate SET free_from = free_from - ?",
)


class Subject:
    """A store, with its ids by those of the model."""

    def __init__(self, name: str, store: SqlStore) -> None:
        self.name = name
        self.store = store
        self.names = Names()

    async def sql(self, query: str, *values: Any) -> list[Any]:
        return await sql_of(self.store, query, *values)

    async def empty(self) -> None:
        self.names = Names()
        for table in TABLES:
            await self.sql(f"DELETE FROM {table}")

    async def pass_time(self) -> None:
        for query in _PAST:
            await self.sql(query, *[SKIP] * query.count("?"))

    async def commit(self, batch: list[Operation]) -> Committed:
        return await self.store.commit([self.names.theirs(one) for one in batch])

    async def learn(self, model: Model) -> None:
        """What the rows that are new are called in the model."""
        for table, mine, ids in (
            ("mbactor_step", model.steps, self.names.steps),
            ("mbactor_flow", model.flows, self.names.flows),
        ):
            theirs = {token: number for number, token in await self.sql(f"SELECT id, token FROM {table} ORDER BY id")}
            tokens = self.names.tokens
            known = {tokens.get(row.token, row.token) for row in mine.values()}
            made = [row.token for row in mine.values() if row.token.startswith("fork") and row.token not in tokens]
            tokens.update(zip(made, (token for token in theirs if token not in known), strict=True))
            ids.update({number: theirs[tokens.get(row.token, row.token)] for number, row in mine.items()})
        for name, last_tick in await self.sql("SELECT name, last_tick FROM mbactor_schedule"):
            self.names.ticks[model.schedules[name].last_tick] = last_tick

    async def rows(self) -> dict[str, dict[str, Any]]:
        """Every row in words that all stores have in common: ids as tokens, times as whether they are over."""
        now = time.time()
        steps, flows = await self.sql(_STEPS), await self.sql(_FLOWS)
        mine = {theirs: token for token, theirs in self.names.tokens.items()}
        tokens: dict[Any, Any] = {row[0]: mine.get(row[1], row[1]) for row in steps} | {None: None}
        of_flow: dict[Any, Any] = {row[0]: mine.get(row[1], row[1]) for row in flows} | {None: None}
        schedules = await self.sql("SELECT name, spec, paused, last_tick FROM mbactor_schedule")
        rates = await self.sql("SELECT name, free_from FROM mbactor_rate")
        ticks = {theirs: number for number, theirs in self.names.ticks.items()}
        return {
            tokens[row[0]]: {
                "flow": of_flow[row[2]], "plain": row[3:7], "input": (row[7], row[8], row[9]),
                "before": tokens[row[10]], "spawn": tokens[row[11]], "ordinal": row[12], "cohort": tokens[row[13]],
                "lease": (row[14], row[15], _over(row[28], now)) if row[5] == "running" else None,
                "after": tokens[row[16]], "joined": (*row[17:21], *row[29:32], (tokens[row[32]], row[33]) if row[32] else None, row[34]), "attempt": (row[21], *row[35:37]), "rated": (*row[37:39], None if row[5] in ENDED else _about(row[39], now)), "changes": row[22],
                "parks": _value(row[23]), "asked": _value(row[24]), "error": row[25],
                "due": (row[27] <= now, bool(row[26]), row[14]) if row[5] == "pending" else None,
            }
            for row in steps
        } | {
            of_flow[row[0]]: {
                "flow": (*row[2:4], bool(row[4]), row[5]), "root": of_flow[row[6]], "caller": tokens[row[7]],
                "ended": row[8:11], "marked": _over(row[11], now),
                "from": (of_flow.get(row[12]), tokens.get(row[13])),
                "breaks": sorted(json.loads(row[14] or "[]")), "shares": (row[15], bool(row[16]), row[17]),
            }
            for row in flows
        } | {
            name: {"schedule": (spec, bool(paused), ticks[last_tick])} for name, spec, paused, last_tick in schedules
        } | {name: {"free": _about(free_from, now)} for name, free_from in rates}  # fmt: skip


def model_rows(model: Model) -> dict[str, dict[str, Any]]:
    """The same of the model."""
    tokens = {number: step.token for number, step in model.steps.items()} | {None: None}
    of_flow = {number: flow.token for number, flow in model.flows.items()} | {None: None}
    return {
        one.token: {
            "flow": of_flow[one.flow_id], "plain": (one.node, one.depth, one.status, one.priority),
            "input": (one.state, one.added, one.chain), "before": tokens[one.predecessor_id],
            "spawn": tokens[one.spawn_id], "ordinal": one.ordinal, "cohort": tokens[one.cohort_id],
            "lease": (one.worker, one.lease_number, _over(one.lease_expires, model.now))
            if one.status == "running" else None,
            "after": tokens[one.successor_id],
            "joined": (one.cohort_size, one.cohort_arrivals, one.cohort_failures, one.cohort_depth, one.cohort_needed,
                       one.cancel_reason, one.cohort_at_once,
                       (tokens[one.room[0]], one.room[1]) if one.room and one.status == "created" else None, one.at_breakpoint),
            "attempt": (one.attempt, one.unused_leases, one.lost_leases),
            "rated": (one.fairness_key, one.rate, None if one.status in ENDED else _about(one.slot, model.now)), "changes": one.changes, "parks": _value(one.parks),
            "asked": _value(one.payloads), "error": one.error,
            "due": (one.not_before <= model.now, one.refused, one.worker) if one.status == "pending" else None,
        }
        for one in model.steps.values()
    } | {
        one.token: {
            "flow": (one.status, one.workflow, one.delete_on_completion, one.idempotency_key),
            "root": of_flow[one.root_id], "caller": tokens[one.caller_id],
            "ended": (one.final_state, one.error, one.cancel_reason),
            "marked": _over(one.delete_at, model.now),
            "from": (of_flow.get(one.thread_id), tokens.get(one.forked_from)), "breaks": sorted(one.breakpoints),
            "shares": (one.concurrency_key, one.queued, one.fairness_weight),
        }
        for one in model.flows.values()
    } | {
        name: {"schedule": (one.spec, one.paused, one.last_tick)} for name, one in model.schedules.items()
    } | {name: {"free": _about(free_from, model.now)} for name, free_from in model.rates.items()}  # fmt: skip


def _over(moment: float | None, now: float) -> bool | None:
    return None if moment is None else moment <= now


def _about(moment: float | None, now: float) -> int | None:
    """How far off: all that passes of time by itself is far less than the half of it."""
    return None if moment is None else round((moment - now) / STEP_OF_TIME)


def _value(data: bytes | None) -> Any:
    return None if data is None else json.loads(data)


def told(result: Result, steps: dict[int, int], flows: dict[int, int], tokens: dict[str, str]) -> Any:
    """A result in the ids and tokens of the model, which the others have by those of whose result it is."""
    match result:
        case Created():
            return ("created", flows.get(result.flow_id), _named(result, tokens), result.existed, result.workflow)
        case Settled():
            rows = [
                (one.step.token, steps.get(one.step_id), flows.get(one.flow_id), one.spawn_lease)
                for one in result.inserted
            ]
            return ("settled", result.landed, rows)
        case Claimed():
            due = result.next_due if result.next_due is None else round(result.next_due / (SKIP / 3))
            claimed = [(_named(one, tokens), one.lease_number, one.worker) for one in result.steps]
            return ("claimed", claimed, sorted(_named(flow, tokens) for flow in result.flows.values()), due)
        case Changed():
            changed = [flows.get(flow_id) for flow_id in result.flows]
            return ("changed", result.done, result.status, changed, result.detail, result.called)
        case frozenset():
            return ("held", {steps[step_id] for step_id in result})
        case int():
            return result


def _named(one: Any, tokens: dict[str, str]) -> str:
    token: str = one.token
    return tokens.get(token, token)


def everything(committed: Committed, steps: dict[int, int], flows: dict[int, int], tokens: dict[str, str]) -> Any:
    # A flow that has come and gone within the batch has no name.
    stopped = [
        (flows.get(one.flow_id, 0), one.status, _named(one, tokens), one.final_state) for one in committed.stopped
    ]
    stopped.sort(key=lambda one: one[0])  # the order counts within a flow
    given_up = {steps.get(step_id): flows.get(flow_id) for step_id, flow_id in committed.given_up.items()}
    return [told(one, steps, flows, tokens) for one in committed.results], stopped, committed.best_due, given_up


class Draw:
    """What every store and the model draw alike."""

    value = 0.5

    def random(self) -> float:
        return self.value


class StoreMachine(RuleBasedStateMachine):
    """Batches to the model and to every subject. A test makes a class of it that has subjects."""

    subjects: ClassVar[list[Subject]]
    runner: ClassVar[asyncio.Runner]
    draw: ClassVar[Draw]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.chooser = Chooser(self.model)
        self.agreed = True
        for subject in self.subjects:
            self.runner.run(subject.empty())

    @rule(commands=BATCHES, time_passes=st.sampled_from([False] * 5 + [True]), draw=st.sampled_from(DRAWS))
    def batch(self, commands: list[Command], time_passes: bool, draw: float) -> None:
        self.draw.value = self.model.draw = draw
        if time_passes:
            self._pass_time()
        operations = self.chooser.batch(commands)
        if operations:
            self.runner.run(self._batch(operations))

    def _pass_time(self) -> None:
        self.model.skip(SKIP)
        for subject in self.subjects:
            self.runner.run(subject.pass_time())

    def _end_all(self) -> None:
        """Whatever has been done to a flow, it comes to its end when its steps do."""
        for _ in range(MOST_ROUNDS):
            operations = self.chooser.onward()
            if not operations:
                return
            self.runner.run(self._batch(operations))
            self._pass_time()
        raise AssertionError([flow for flow in self.model.flows.values() if flow.status not in ENDED])

    def _heal_all(self) -> None:
        """Whatever failed is recovered, and then completes: unless a fork needs what had been cancelled before it."""
        flows = self.model.flows
        failed = self.chooser.failed()
        if failed:
            self.runner.run(self._batch([Rewind("recover", flow.id, flow.token) for flow in failed]))
            self._end_all()
        left = [flows[flow.id] for flow in failed if flows[flow.id].status != "completed"]
        assert [flow for flow in left if flow.error != NEEDED_WAS_CANCELLED] == []

    async def _batch(self, operations: list[Operation]) -> None:
        self.agreed = False
        before = {**self.model.steps}, {**self.model.flows}
        committed = self.model.commit(operations)
        ids = {number: number for number in (*before[0], *self.model.steps)}
        flow_ids = {number: number for number in (*before[1], *self.model.flows)}
        expected, rows = everything(committed, ids, flow_ids, {}), model_rows(self.model)
        for subject in self.subjects:
            got = await subject.commit(operations)
            await subject.learn(self.model)
            names = subject.names
            steps = {theirs: number for number, theirs in names.steps.items()}
            flows = {theirs: number for number, theirs in names.flows.items()}
            tokens = {theirs: mine for mine, theirs in names.tokens.items()}
            assert everything(got, steps, flows, tokens) == expected, subject.name
            assert await subject.rows() == rows, subject.name
        self.agreed = True

    def teardown(self) -> None:
        if not self.agreed:
            return  # it runs after a failure too, and would hide it
        self._end_all()
        self._heal_all()
        read = [self.runner.run(self._read(subject)) for subject in self.subjects]
        assert all(one == read[0] for one in read)

    async def _read(self, subject: Subject) -> Any:
        """What the queries tell of the rows at the end, by the ids of the model."""
        store, names = subject.store, subject.names
        mine = {theirs: token for token, theirs in names.tokens.items()}
        assert await broken_invariants(store) == []
        steps = list(self.model.steps)
        material = await store.materials([names.steps[number] for number in steps])
        found: list[Any] = [material.get(names.steps[number]) for number in steps]
        for number in self.model.flows:
            waiting = await store.interrupted(names.flows[number])
            called = await store.called(names.flows[number])
            listed = await store.steps(names.flows[number])
            found.append([[_named(row, mine) for row in rows] for rows in (waiting, called, listed)])
        return found


@pytest.fixture
def machine(
    tmp_path: Path, mbactor_postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[type[StoreMachine]]:
    drawn = Draw()
    monkeypatch.setattr(leases, "random", drawn)
    monkeypatch.setattr(rate, "STALE", STALE)
    urls = {
        "memory": "sqlite://",
        "file": f"sqlite:///{tmp_path}/flows.db",
        "postgres": mbactor_postgres_server.fresh(),
    }
    with asyncio.Runner() as used:
        made = [Subject(name, cast("SqlStore", used.run(open_store(url)))) for name, url in urls.items()]

        class Machine(StoreMachine):
            subjects = made
            runner = used
            draw = drawn

        yield Machine
        for subject in made:
            used.run(subject.store.close())


@pytest.mark.slow
@pytest.mark.timeout(usual_or_long(600, 7200))
def test_every_store_does_what_the_model_does(machine: type[StoreMachine]) -> None:
    every = [phase for phase in Phase if phase != Phase.explain]  # which traces each line that is run
    chosen = settings(phases=every, max_examples=usual_or_long(18, 3_000), stateful_step_count=usual_or_long(30, 50))
    run_state_machine_as_test(machine, settings=chosen)
