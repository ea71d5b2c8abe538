"""The read side: rows become outcomes, histories and lists. Writes nothing."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec

from mbactor.errors import ReducerError
from mbactor.foreman.graphs import Graphs
from mbactor.foreman.keys import Key, not_found, parse_key
from mbactor.foreman.model.fold_order import fold_order
from mbactor.foreman.model.graph import Graph
from mbactor.foreman.model.outcome import FlowOutcome, FlowSummary, StepRecord, Subflow
from mbactor.foreman.model.paging import Listed, Position, bound, position_of
from mbactor.foreman.model.query import FlowQuery
from mbactor.foreman.model.reducers import Chosen, fold_explained
from mbactor.foreman.model.state import Fields, apply, decode_all, decode_fields
from mbactor.foreman.model.status import FlowStatus, StepStatus, is_stopped, is_terminal
from mbactor.foreman.model.winners import winners
from mbactor.foreman.parks import decode_payloads
from mbactor.foreman.step import deltas_of, fold_material, run_of, was_answered
from mbactor.foreman.store.rows import FlowFilter, FlowRow, Json, Places, Progress, StepRow
from mbactor.foreman.store.store import Store

DEEPEST = 64
"""So deep the flows that were called are within a history: what is nested by the hundred, nothing reads or writes."""
_ELSEWHERE = -1
"""The id of a thread whose flows are all in another shard."""


class Reader:
    """Answers questions about the flows of one store."""

    def __init__(self, store: Store, graphs: Graphs) -> None:
        self._store = store
        self._graphs = graphs

    # --- one flow ----------------------------------------------------------------------------------------

    async def flow(self, key: Key) -> FlowRow:
        """The flow's row; FlowNotFound for an unknown id and a wrong token alike."""
        return (await self._with_root(key))[0]

    async def _kept(self, key: Key) -> FlowRow:
        """The row of a flow that has not been deleted; FlowNotFound otherwise: what was, goes a little later."""
        row, root = await self._with_root(key)
        if root.delete_at is not None:
            raise not_found("flow", key)
        return row

    async def _with_root(self, key: Key) -> tuple[FlowRow, FlowRow]:
        row = await self._store.flow(key.id) if key.shard == self._store.shard else None
        root = await self._root_of(row)
        if row is None or root is None or row.token != key.token or _is_gone(root):
            raise not_found("flow", key)
        return row, root

    async def _root_of(self, row: FlowRow | None) -> FlowRow | None:
        """The flow it all began with."""
        return row if row is None or row.root_id is None else await self._store.flow(row.root_id)

    async def snapshot(self, key: Key) -> FlowOutcome:
        """How the flow stands."""
        row = await self.flow(key)
        status = cast("FlowStatus", row.status)
        outcome = FlowOutcome(flow_key=str(key), status=status, cancel_reason=row.cancel_reason)
        if row.status == "interrupted":
            waiting = await self._store.interrupted(row.id)
            outcome.interrupts = [(self._step_key(step), decode_payloads(step.payloads)[-1]) for step in waiting]
            own = next((step for step in waiting if step.flow_id == row.id), None)
            outcome.state = decode_all(await self._reached(row, own))
        elif is_stopped(row.status):
            outcome.error = _told(_error(row.error))
            outcome.state = decode_all(await self.final_state(row))
        return outcome

    async def final_state(self, row: FlowRow) -> Fields:
        """The state in which a flow ended. One that did not complete ends with what its trunk had reached."""
        if row.final_state is not None:
            return decode_fields(row.final_state)
        return await self._reached(row, None)

    async def _reached(self, row: FlowRow, step: StepRow | None) -> Fields:
        """The input of a step with what it wrote; by default of the last one on the trunk. A trunk step that has
        completed while the flow has not is a fan-out: then what its branches completed is folded in.
        """
        if step is None:
            trunk = [one for one in await self._store.steps(row.id) if one.spawn_id is None]
            step = max(trunk, key=lambda one: one.id, default=None)
        if step is None:
            return {}
        graph = await self._graphs.get(row.graph)
        if step.status == "completed":
            cohort = await self._store.cohort(step.id, joined=False)
            return {} if cohort is None else _folded_as_far_as_possible(cohort, graph)
        material = (await self._store.materials([step.id])).get(step.id)
        state = {} if material is None else _folded_as_far_as_possible(material, graph)
        return apply(state, decode_fields(step.changes)) if step.changes else state

    # --- steps -------------------------------------------------------------------------------------------

    async def history(self, key: Key) -> list[StepRecord]:
        """Every step of the flow, by depth and age; flows it called are nested in the step that called them, as many
        as `DEEPEST` deep.
        """
        return await self._history(await self._kept(key), DEEPEST)

    async def fingerprint(self, key: Key) -> tuple[str, FlowStatus]:
        """A hash that is another after each step that began or ended in the flow or those it called; and its status."""
        found = await self._store.fingerprint(key.id) if key.shard == self._store.shard else None
        if found is None or found.token != key.token or found.gone:
            raise not_found("flow", key)
        text = f"{found.status} {found.flows} {found.steps} {found.changed_at!r}"
        return hashlib.sha256(text.encode()).hexdigest(), cast("FlowStatus", found.status)

    async def _history(self, row: FlowRow, deep: int) -> list[StepRecord]:
        graph = await self._graphs.get(row.graph)
        steps = await self._store.steps(row.id)
        called = await self._called(row.id)
        around = _Around(steps)
        return [
            await self._whole(step, steps, graph, self._record(step, graph, around), called.get(step.id), deep)
            for step in steps
        ]

    async def _called(self, flow_id: int) -> dict[int, FlowRow]:
        """By each step of the flow that called one, the last that it called."""
        return {flow.caller_id: flow for flow in await self._store.called(flow_id) if flow.caller_id}

    async def _whole(
        self, step: StepRow, steps: list[StepRow], graph: Graph, record: StepRecord, child: FlowRow | None, deep: int
    ) -> StepRecord:
        """The record with what its row alone does not tell: the flow that it called, how its branches were combined."""
        if child is not None:
            record.subflow = Subflow(
                flow_key=self._flow_key(child), workflow=child.workflow, workflow_name=child.name,
                steps=await self._history(child, deep - 1) if deep else [], cut=not deep,
            )  # fmt: skip
        if step.cohort_id is not None:
            chosen = await self._chosen(step.cohort_id, graph)
            record.reducers = {name: f"{one.name} ({one.why})" for name, one in chosen.items()}
            record.winners = winners(self._writes(steps, step.cohort_id, graph), chosen)
        return record

    async def step(self, key: Key) -> StepRecord:
        """One step with its payloads; of a flow that it called the steps are left out."""
        step = await self._store.step(key.id) if key.shard == self._store.shard else None
        row = await self._store.flow(step.flow_id) if step is not None else None
        root = await self._root_of(row)
        if step is None or row is None or root is None or step.token != key.token or root.delete_at is not None:
            raise not_found("step", key)
        graph = await self._graphs.get(row.graph)
        steps, called = await self._store.steps(row.id), await self._called(row.id)
        record = self._record(step, graph, _Around(steps))
        record = await self._whole(step, steps, graph, record, called.get(step.id), 0)
        material = (await self._store.materials([step.id])).get(step.id)
        record.state = decode_all(_folded_as_far_as_possible(material, graph)) if material else {}
        record.changes = {name: msgspec.json.decode(raw) for name, raw in decode_fields(step.changes or b"{}").items()}
        record.interrupts = decode_payloads(step.payloads)
        return record

    def _record(self, step: StepRow, graph: Graph, around: _Around) -> StepRecord:
        before, after = around.of(step)
        put_off = step.status == "pending" and step.not_before > step.updated_at
        return StepRecord(
            step_key=self._step_key(step),
            node=step.node,
            task=graph.url_of(step.node) if graph.has_node(step.node) else "",
            status=cast("StepStatus", step.status),
            depth=step.depth,
            attempt=step.attempt,
            runs=run_of(step),
            lost=step.lost_leases,
            error=_error(step.error),
            cancel_reason=step.cancel_reason,
            created_at=_moment(step.created_at),
            started_at=_moment(step.started_at),
            ended_at=_moment(step.updated_at) if is_terminal(step.status) else None,
            answered_at=_moment(step.not_before) if was_answered(step) else None,
            due_at=_moment(step.not_before) if put_off else None,
            predecessor=None if before is None else self._step_key(before),
            successor=None if after is None else self._step_key(after),
        )

    async def _chosen(self, spawn_id: int, graph: Graph) -> dict[str, Chosen]:
        material = await self._store.cohort(spawn_id)
        if material is None or material.cohort is None:
            return {}
        base = fold_material(msgspec.structs.replace(material, cohort=None), graph)
        try:
            return fold_explained(base, deltas_of(material, graph), graph)[1]
        except ReducerError:
            return {}

    def _writes(self, steps: list[StepRow], spawn_id: int, graph: Graph) -> Iterator[tuple[int, str, Fields]]:
        spawn = next((one for one in steps if one.id == spawn_id), None)
        waits_for_all = spawn is None or spawn.cohort_needed == 0
        own = graph.branch_fields_of(spawn.node) if spawn is not None else ()
        for branch, step in fold_order(steps, spawn_id, arrived_only=not waits_for_all):
            if step.changes is not None:
                wrote = decode_fields(step.changes)
                yield branch, self._step_key(step), {name: raw for name, raw in wrote.items() if name not in own}

    # --- many flows ----------------------------------------------------------------------------------------

    async def listed(self, query: FlowQuery) -> list[Listed]:
        """The flows of this shard that the query is about, behind its cursor; one more than its limit."""
        wanted = await self.filter_of(query)
        if wanted is None:
            return []
        rows = await self._store.flows(msgspec.structs.replace(wanted, limit=query.limit + 1))
        if not rows:
            return []
        return await self._all_listed(rows)

    async def summary(self, key: Key) -> FlowSummary:
        """The flow as a list has it."""
        return (await self._all_listed([await self._kept(key)]))[0].flow

    async def _all_listed(self, rows: Sequence[FlowRow]) -> list[Listed]:
        progress = await self._store.progress([row.id for row in rows])
        anchors = {row.thread_id for row in rows if row.thread_id is not None}
        tokens = await self._store.tokens(sorted(anchors)) if anchors else {}
        queues = {row.concurrency_key for row in rows if _is_queued(row) and row.concurrency_key is not None}
        places = await self._store.places(sorted(queues)) if queues else {}
        found = [self._listed(row, progress.get(row.id, Progress("", 0, 0)), tokens) for row in rows]
        for row, one in zip(rows, found, strict=True):
            if one.flow.queued:
                self._tell_places(one.flow, places.get(row.concurrency_key or ""))
        return found

    def _tell_places(self, flow: FlowSummary, places: Places | None) -> None:
        if places is not None:
            flow.places_taken = places.taken
            flow.waits_for = [str(Key(self._store.shard, flow_id, token)) for flow_id, token in places.by]

    async def filter_of(self, query: FlowQuery) -> FlowFilter | None:
        """What the query means in this shard; None where no flow of it can be meant."""
        thread_id = await self._thread(query)
        if query.shard not in {None, self._store.shard} or thread_id == _ELSEWHERE:
            return None
        position = position_of(query.cursor)
        return FlowFilter(
            query.status, query.workflow, thread_id, query.task, query.fairness_key, query.concurrency_key,
            query.priority, query.older_than, query.newer_than, query.search, query.include_subflows, query.limit,
            None if position is None else bound(position, self._store.shard), self._store.shard,
        )  # fmt: skip

    async def _thread(self, query: FlowQuery) -> int | None:
        if query.thread is None:
            return None
        key = parse_key(query.thread)
        if key.shard != self._store.shard:
            return _ELSEWHERE
        anchor = await self.flow(key)
        return anchor.thread_id or anchor.id

    def _listed(self, row: FlowRow, progress: Progress, tokens: Mapping[int, str]) -> Listed:
        shard = self._store.shard
        error = _error(row.error)
        anchor = Key(shard, row.id, row.token)
        if row.thread_id is not None and row.thread_id in tokens:
            anchor = Key(shard, row.thread_id, tokens[row.thread_id])
        summary = FlowSummary(
            flow_key=self._flow_key(row),
            status=cast("FlowStatus", row.status),
            workflow=row.workflow,
            workflow_name=row.name,
            thread_key=str(anchor),
            task=progress.node,
            error="" if error is None else str(error["error"]),
            cancel_reason=row.cancel_reason,
            priority=row.priority,
            fairness_key=row.fairness_key,
            concurrency_key=row.concurrency_key or "",
            concurrency_limit=row.concurrency_limit or 1,
            queued=_is_queued(row),
            breakpoints=[] if row.breakpoints is None else msgspec.json.decode(row.breakpoints, type=list[str]),
            subflow=row.caller_id is not None,
            trace_id=(row.trace_parent or "--").split("-")[1],
            created_at=_moment(row.created_at),
            started_at=_moment(row.started_at),
            updated_at=_moment(row.updated_at),
            steps=progress.known,
            steps_done=progress.done,
        )
        return Listed(Position(row.created_at, shard, row.id), summary)

    def _flow_key(self, row: FlowRow) -> str:
        return str(Key(self._store.shard, row.id, row.token))

    def _step_key(self, row: StepRow) -> str:
        return str(Key(self._store.shard, row.id, row.token))


def _is_gone(root: FlowRow) -> bool:
    """Whether a tree was disposable and has completed: not even how it ended is told."""
    return bool(root.delete_on_completion) and root.status == "completed"


def _is_queued(row: FlowRow) -> bool:
    return row.status == "created" and bool(row.queued)


class _Around:
    """The steps of a flow, each found by what others know of it."""

    def __init__(self, steps: Sequence[StepRow]) -> None:
        self._by_id = {step.id: step for step in steps}
        self._fan_ins = {step.cohort_id: step for step in steps if step.cohort_id is not None}

    def of(self, step: StepRow) -> tuple[StepRow | None, StepRow | None]:
        """What comes before a step and what behind it."""
        after = self._by_id.get(step.successor_id or 0)
        if step.successor_id is None and step.status == "completed" and step.spawn_id is not None:
            # The end of a branch does not know its fan-in: that was inserted by whoever arrived last.
            after = self._fan_ins.get(step.spawn_id)
        return self._by_id.get(step.predecessor_id or 0), after


_LAST_DAY = dt.datetime(dt.MAXYEAR, 12, 31, tzinfo=dt.UTC).timestamp()


def _folded_as_far_as_possible(material: Any, graph: Graph) -> Fields:
    """The fold, or where branches do not fit together, what there was before they parted."""
    try:
        return fold_material(material, graph)
    except ReducerError:
        return fold_material(msgspec.structs.replace(material, cohort=None), graph)


def _told(error: dict[str, Any] | None) -> dict[str, Any] | None:
    """An error as an outcome has it: outcomes go far, so the traceback stays with the step (`history`)."""
    return None if error is None else {name: value for name, value in error.items() if name != "trace"}


def _error(data: Json | None) -> dict[str, Any] | None:
    return None if data is None else cast("dict[str, Any]", msgspec.json.decode(data))


def _moment(unix: float | None) -> dt.datetime | None:
    # What sleeps, or starts, after the end of the calendar is told as of its last day.
    return None if unix is None else dt.datetime.fromtimestamp(min(unix, _LAST_DAY), dt.UTC)
