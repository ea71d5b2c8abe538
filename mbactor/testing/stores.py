"""`check_store`: what every database of the Foreman must do.

    async def test_store() -> None:
        await check_store(lambda: open_store("sqlite://"))

It raises AssertionError with the rule that was broken.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mbactor.foreman.store.operations import (
    AddShard,
    Arrival,
    Cancel,
    Child,
    Claim,
    Create,
    Delete,
    Enrol,
    Extend,
    FlowEnd,
    Lease,
    NewStep,
    Operation,
    Reap,
    Recover,
    Release,
    Resume,
    Rewind,
    Settle,
    Start,
)
from mbactor.foreman.store.rows import FlowFilter, Progress, StepRow
from mbactor.foreman.store.store import Store

TOKEN = "0" * 16
LEASE = Lease("worker", 60.0)
_QUESTION = b'[{"kind":"interrupt"}]'
_CALL = b'[{"kind":"subgraph","workflow":"url"}]'


async def check_store(opened: Callable[[], Awaitable[Store]]) -> None:
    """Every rule of the `Store` contract, each on an empty database of its own, which `opened` opens."""
    for rule in (
        _a_flow_is_there_as_it_was_created,
        _a_claim_takes_the_best_priority_and_then_the_oldest,
        _a_lease_that_is_lost_lets_nothing_land,
        _leases_are_extended_released_and_recovered,
        _a_cohort_is_joined_by_whoever_arrives_last,
        _whoever_joins_a_cohort_is_told_whether_a_branch_of_it_was_run_again,
        _a_failure_in_an_inner_cohort_fails_the_flow,
        _an_answer_wakes_the_step_and_the_flows_above,
        _the_end_of_a_called_flow_answers_its_caller,
        _a_cancelled_tree_is_at_rest_and_may_be_deleted,
        _an_id_is_never_given_out_twice,
        _an_idempotency_key_names_one_flow,
        _the_roll_of_shards_is_kept,
        _what_is_open_is_counted,
        _inputs_are_folded_from_what_was_changed,
        _lists_are_newest_first,
    ):
        store = await opened()
        try:
            await rule(store)
        except AssertionError as error:
            error.add_note(f"rule of the store: {rule.__name__.strip('_').replace('_', ' ')}")
            raise
        finally:
            await store.close()


def _new(priority: int = 100, **fields: Any) -> Create:
    entry = {name: fields.pop(name) for name in ("delay", "lease") if name in fields}
    step = NewStep("start", TOKEN, 1, priority, state=b'{"n":1}', **entry)
    return Create(TOKEN, "url", "name", "hash", b"{}", step, priority=priority, **fields)


def _next(node: str = "next", **fields: Any) -> NewStep:
    return NewStep(node, TOKEN, fields.pop("depth", 2), 100, **fields)


async def _do(store: Store, *batch: Operation) -> list[Any]:
    return list((await store.commit(batch)).results)


async def _claimed(store: Store, limit: int = 100) -> tuple[StepRow, ...]:
    (claimed,) = await _do(store, Claim(LEASE, limit))
    steps: tuple[StepRow, ...] = claimed.steps
    return steps


def _settled(step: StepRow, status: str = "completed", changes: bytes | None = None, **fields: Any) -> Settle:
    return Settle(step.id, step.flow_id, step.lease_number, status, changes, **fields)


async def _a_flow_is_there_as_it_was_created(store: Store) -> None:
    (created, other) = await _do(store, _new(baggage=b'{"a":"\\u00e9"}', fairness_key="k"), _new(started=False))
    row = await store.flow(created.flow_id)
    assert row is not None
    assert (row.token, row.status, row.baggage, row.fairness_key) == (TOKEN, "running", b'{"a":"\\u00e9"}', "k")
    assert await store.graph("hash") == b"{}"
    assert await store.statuses([created.flow_id, other.flow_id, 99]) == {
        created.flow_id: "running",
        other.flow_id: "created",
    }
    assert [step.flow_id for step in await _claimed(store)] == [created.flow_id]
    (started,) = await _do(store, Start(other.flow_id, TOKEN))
    assert started.done
    assert [step.flow_id for step in await _claimed(store)] == [other.flow_id]
    (refused, unknown) = await _do(store, Start(other.flow_id, TOKEN), Start(other.flow_id, "f" * 16))
    assert (refused.done, refused.status, unknown.status) == (False, "running", None)


async def _a_claim_takes_the_best_priority_and_then_the_oldest(store: Store) -> None:
    results = (await store.commit([_new(200), _new(100), _new(100), _new(50, delay=60.0)])).results
    ids: Sequence[int] = [one.step_id for one in results]  # type: ignore[union-attr]
    assert [step.id for step in await _claimed(store, 2)] == [ids[1], ids[2]]
    committed = await store.commit([Claim(LEASE, 2)])
    (claimed,) = committed.results
    assert [step.id for step in claimed.steps] == [ids[0]]  # type: ignore[union-attr]
    assert committed.best_due is None
    assert 50 < claimed.next_due <= 60  # type: ignore[union-attr,operator]


async def _a_lease_that_is_lost_lets_nothing_land(store: Store) -> None:
    await _do(store, _new(), _new())
    first, second = await _claimed(store)
    good = _settled(first, successors=(_next(),))
    stale = Settle(second.id, second.flow_id, second.lease_number + 1, "completed", None, successors=(_next(),))
    landed = [one.landed for one in await _do(store, stale, good, good)]
    assert landed == [False, True, False]
    assert [step.node for step in await store.steps(first.flow_id)] == ["start", "next"]
    assert [step.node for step in await store.steps(second.flow_id)] == ["start"]


async def _leases_are_extended_released_and_recovered(store: Store) -> None:
    await _do(store, _new(), _new(), _new())
    steps = await _claimed(store)
    held = tuple((step.id, step.lease_number) for step in steps)
    (still,) = await _do(store, Extend(LEASE, (held[0], (held[1][0], 99))))
    assert still == {held[0][0]}
    assert await _do(store, Release("worker", (held[0][0],)), Release("somebody else"), Recover()) == [1, 0, 0]
    assert await _do(store, Extend(Lease("worker", -1.0), held)) == [{held[1][0], held[2][0]}]
    assert await _do(store, Recover()) == [2]
    again = await _claimed(store)
    assert [step.lease_number for step in again] == [2, 2, 2]
    assert await _do(store, Release("worker")) == [3]


async def _cohort(store: Store, parent: StepRow, *nodes: str, ordinal: int = 0) -> list[StepRow]:
    branches = tuple(
        _next(node, spawn_id=parent.id, ordinal=ordinal + place, depth=parent.depth + 1)
        for place, node in enumerate(nodes)
    )
    await _do(store, _settled(parent, cohort_size=len(nodes), depth=parent.depth, successors=branches))
    return sorted(await _claimed(store), key=lambda step: step.ordinal)


async def _a_cohort_is_joined_by_whoever_arrives_last(store: Store) -> None:
    await _do(store, _new())
    (start,) = await _claimed(store)
    a, b, c = await _cohort(store, start, "a", "b", "c")
    join = _next("join", state=None)
    arrivals = [
        _settled(
            step,
            changes=b'{"by":"%s"}' % step.node.encode(),
            arrival=Arrival(start.id, 2, fan_in=join, makes_room=False),
        )
        for step in (c, a, b)
    ]
    (early,) = await _do(store, arrivals[0])
    assert early.inserted == ()
    settled = await _do(store, arrivals[1], arrivals[2])
    assert [[one.step.node for one in result.inserted] for result in settled] == [[], ["join"]]
    assert settled[1].inserted[0].spawn_lease == start.lease_number
    (fan_in,) = await _claimed(store)
    assert (fan_in.node, fan_in.depth, fan_in.cohort_id) == ("join", 3, start.id)
    material = (await store.materials([fan_in.id]))[fan_in.id]
    assert material.cohort == (b'{"by":"a"}', b'{"by":"b"}', b'{"by":"c"}')


async def _whoever_joins_a_cohort_is_told_whether_a_branch_of_it_was_run_again(store: Store) -> None:
    await _do(store, _new())
    (start,) = await _claimed(store)
    a, b = await _cohort(store, start, "a", "b")

    async def arrive(step: StepRow) -> Any:
        arrival = Arrival(start.id, 2, fan_in=_next("join"), makes_room=False)
        return (await _do(store, _settled(step, arrival=arrival)))[0]

    await arrive(a)
    (rewound,) = await _do(store, Rewind("restart_from", a.flow_id, step_id=a.id, step_token=TOKEN))
    assert rewound.done
    await arrive(b)
    (again,) = await _claimed(store)
    (joined,) = (await arrive(again)).inserted
    spawn = await store.step(start.id)
    assert spawn is not None
    assert joined.spawn_lease == spawn.lease_number != start.lease_number
    assert spawn.lease_number - spawn.unused_leases == 1


async def _a_failure_in_an_inner_cohort_fails_the_flow(store: Store) -> None:
    await _do(store, _new())
    (start,) = await _claimed(store)
    (outer,) = await _cohort(store, start, "outer")
    (inner,) = await _cohort(store, outer, "inner")
    failed = _settled(inner, "failed", error=b'{"error":"no"}', arrival=Arrival(outer.id, 3, failed=True))
    committed = await store.commit([failed])
    assert [(one.flow_id, one.status) for one in committed.stopped] == [(start.flow_id, "failed")]
    row = await store.flow(start.flow_id)
    assert row is not None
    assert row.error == b'{"error":"no"}'


async def _called(store: Store) -> tuple[StepRow, StepRow]:
    """A step that waits for the flow it called, and the entry step of that."""
    await _do(store, _new())
    (caller,) = await _claimed(store)
    child = Child("1" * 16, "child", "child", "other hash", b"[]", _next("inner"))
    await _do(store, _settled(caller, "running", parks=_CALL, child=child))
    (inner,) = await _claimed(store)
    return caller, inner


async def _an_answer_wakes_the_step_and_the_flows_above(store: Store) -> None:
    caller, inner = await _called(store)
    await _do(store, _settled(inner, "interrupted", parks=_QUESTION, payloads=b'["why?"]'))
    statuses = await store.statuses([caller.flow_id, inner.flow_id])
    assert set(statuses.values()) == {"interrupted"}
    assert [step.id for step in await store.interrupted(caller.flow_id)] == [inner.id]
    assert [flow.id for flow in await store.called(caller.flow_id)] == [inner.flow_id]
    (of_the_child, resumed) = await _do(
        store, Resume(inner.flow_id, "1" * 16, b"true"), Resume(caller.flow_id, TOKEN, b"true")
    )
    assert (of_the_child.done, of_the_child.called, resumed.done) == (False, True, True)
    assert set((await store.statuses([caller.flow_id, inner.flow_id])).values()) == {"running"}
    (again,) = await _claimed(store)
    assert again.id == inner.id
    assert b"true" in (again.parks or b"")


async def _the_end_of_a_called_flow_answers_its_caller(store: Store) -> None:
    caller, inner = await _called(store)
    await _do(store, _settled(inner, end=FlowEnd("completed", b'{"sum":3}')))
    (again,) = await _claimed(store)
    assert again.id == caller.id
    assert b'{"sum":3}' in (again.parks or b"")


async def _a_cancelled_tree_is_at_rest_and_may_be_deleted(store: Store) -> None:
    caller, inner = await _called(store)
    (early,) = await _do(store, Delete(caller.flow_id, TOKEN))
    assert (early.done, early.status) == (False, "running")
    (cancelled,) = await _do(store, Cancel(caller.flow_id, TOKEN, "no longer wanted"))
    assert cancelled.flows == (caller.flow_id, inner.flow_id)
    (late, twice) = await _do(store, _settled(inner, successors=(_next(),)), Cancel(caller.flow_id, TOKEN, "again"))
    assert (late.landed, twice.done) == (False, False)
    row = await store.flow(caller.flow_id)
    assert row is not None
    assert (row.status, row.cancel_reason) == ("cancelled", "no longer wanted")
    (deleted,) = await _do(store, Delete(caller.flow_id, TOKEN))
    assert deleted.done
    assert await store.flows(FlowFilter(subflows=True)) == []
    again, resumed, reaped = await _do(
        store, Delete(caller.flow_id, TOKEN), Resume(caller.flow_id, TOKEN, b"true"), Reap(9)
    )
    assert (again.done, resumed.done, reaped) == (True, False, 1)
    assert await store.statuses([caller.flow_id, inner.flow_id]) == {}
    assert await store.step(inner.id) is None


async def _an_id_is_never_given_out_twice(store: Store) -> None:
    flows, steps = set[int](), set[int]()
    for _ in range(3):
        kept, gone = await _do(store, _new(), _new())
        await _do(store, Cancel(gone.flow_id, TOKEN), Delete(gone.flow_id, TOKEN), Reap(9))
        assert await store.flow(gone.flow_id) is None
        assert (kept.flow_id < gone.flow_id, kept.step_id < gone.step_id) == (True, True)
        flows |= {kept.flow_id, gone.flow_id}
        steps |= {kept.step_id, gone.step_id}
    assert (len(flows), len(steps)) == (6, 6)


async def _an_idempotency_key_names_one_flow(store: Store) -> None:
    first, twin = await _do(store, _new(idempotency_key="k"), _new(idempotency_key="k"))
    again, other = await _do(store, _new(idempotency_key="k"), _new())
    assert [one.existed for one in (first, twin, again, other)] == [False, True, True, False]
    assert twin.flow_id == again.flow_id == first.flow_id != other.flow_id
    assert len(await store.steps(first.flow_id)) == 1
    row = await store.keyed("k")
    assert row is not None
    assert row.id == first.flow_id
    assert await store.keyed("other") is None


async def _the_roll_of_shards_is_kept(store: Store) -> None:
    assert await store.roll() == {}
    (first, twice) = await _do(store, Enrol({2: "active", 1: "active"}), Enrol({2: "cordoned", 3: "active"}))
    assert first == {1: "active", 2: "active"}
    assert twice == {1: "active", 2: "active", 3: "active"}
    (changed,) = await _do(store, Enrol({2: "cordoned", 9: "removed"}, changing=True))
    assert changed == await store.roll() == {1: "active", 2: "cordoned", 3: "active"}
    known = {1: "active", 2: "cordoned", 3: "active", 4: "active"}
    assert await _do(store, AddShard(4), AddShard(4)) == [known, {}]
    assert await _do(store, AddShard(2)) == [{}]
    assert await store.roll() == known


async def _what_is_open_is_counted(store: Store) -> None:
    assert await store.standing() == (0, 0)
    await _do(store, _new(), _new(), _new(started=False))
    (step,) = await _do(store, Claim(LEASE, 1))
    assert await store.standing() == (3, 2)
    await _do(store, _settled(step.steps[0], end=FlowEnd("completed", b"{}")))
    assert await store.standing() == (2, 1)


async def _inputs_are_folded_from_what_was_changed(store: Store) -> None:
    await _do(store, _new())
    (start,) = await _claimed(store)
    await _do(store, _settled(start, changes=b'{"a":1}', successors=(_next(added=b'{"item":7}'),)))
    (second,) = await _claimed(store)
    await _do(store, _settled(second, successors=(_next("third", depth=3),)))
    (third,) = await _claimed(store)
    found = await store.materials([second.id, third.id, 999_999])
    assert set(found) == {second.id, third.id}
    assert (found[third.id].snapshot, found[third.id].deltas) == (b'{"n":1}', (b'{"a":1}', b'{"item":7}'))


async def _lists_are_newest_first(store: Store) -> None:
    ids = [one.flow_id for one in await _do(store, *(_new() for _ in range(5)))]
    assert ids == sorted(ids)
    row = await store.flow(ids[3])
    assert row is not None
    assert [row.id for row in await store.flows(FlowFilter(limit=2))] == ids[:2:-1]
    assert [row.id for row in await store.flows(FlowFilter(status="running", before=(row.created_at, row.id)))] == ids[
        2::-1
    ]
    assert await store.progress(ids[:1]) == {ids[0]: Progress("start", 0, 1)}
