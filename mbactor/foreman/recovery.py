"""`Recovery`: what can be done with a flow that went wrong, or that is to go on from where it ended.

    await engine.recovery.recover(flow_key, {"account": "corrected"})

Each operation reads what it needs to say what is to run, and hands in one value: the store looks again, with the tree
locked, and refuses what has changed in between. Overrides replace fields of a step's input; None deletes one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

from mbactor import observe
from mbactor.errors import BadRequest, FlowConflict, ReducerError
from mbactor.foreman.committer import Committer
from mbactor.foreman.graphs import Graphs
from mbactor.foreman.keys import Key, new_token, not_found, parse_key
from mbactor.foreman.model.graph import Graph
from mbactor.foreman.model.places import StepPlace
from mbactor.foreman.model.reducers import fold
from mbactor.foreman.model.rewinding import RewindKind, meant
from mbactor.foreman.model.state import Fields, apply, encode_fields, is_storable
from mbactor.foreman.reader import Reader
from mbactor.foreman.step import fold_material, rate_of
from mbactor.foreman.store.breakpoints import WAITS
from mbactor.foreman.store.operations import (
    BreakBefore,
    Changed,
    ContinueThread,
    Created,
    Fork,
    NewStep,
    ResumeBreak,
    Rewind,
)
from mbactor.foreman.store.rows import FlowRow, Json, StepRow
from mbactor.foreman.store.store import Store


class Recovery:
    """The operations of recovery on the flows of one shard.

    `key` reads the key of a flow, and `judge` raises what a refusal means, as the engine does for its own.
    """

    def __init__(
        self,
        store: Store,
        committer: Committer,
        graphs: Graphs,
        reader: Reader,
        key: Callable[[str], Key],
        judge: Callable[[Key, str, Changed], None],
    ) -> None:
        self._store = store
        self._committer = committer
        self._graphs = graphs
        self._reader = reader
        self._key = key
        self._judge = judge

    # --- in place ------------------------------------------------------------------------------------------

    async def restart(self, flow_key: str, overrides: Fields | None = None) -> None:
        """Run a flow that has stopped from its entry step, under the same key; all other steps of it go."""
        await self._rewind("restart", flow_key, overrides)

    async def recover(self, flow_key: str, overrides: Fields | None = None) -> None:
        """Run every failed step of a failed flow again; each gets the overrides."""
        await self._rewind("recover", flow_key, overrides)

    async def retry(self, flow_key: str, overrides: Fields | None = None) -> None:
        """Run the step of a failed flow again that failed last."""
        await self._rewind("retry", flow_key, overrides)

    async def _rewind(self, how: RewindKind, flow_key: str, overrides: Fields | None) -> None:
        key = self._key(flow_key)
        inputs = None
        if overrides:
            row = await self._reader.flow(key)
            inputs = await self._inputs(row, meant(how, map(_place, await self._store.steps(row.id))), overrides)
        one = Rewind(how, key.id, key.token, inputs=inputs)
        self._judge(key, how, await self._committer.commit(one))
        observe.emit("flow.rewound", flow=key.correlation_id, how=how)

    async def restart_from(self, step_key: str, overrides: Fields | None = None) -> None:
        """Run a step that has ended again, in its flow; all that followed from it goes."""
        key, step, row = await self._step(step_key)
        inputs = await self._inputs(row, [step.id], overrides) if overrides else None
        one = Rewind("restart_from", row.id, step_id=key.id, step_token=key.token, inputs=inputs)
        flow_key = Key(key.shard, row.id, row.token)
        changed = await self._committer.commit(one)
        if changed.status is None:
            raise not_found("step", key)
        self._judge(flow_key, f"restart from {step.node!r} (step {key.correlation_id})", changed)
        observe.emit("flow.rewound", flow=flow_key.correlation_id, how="restart_from")

    # --- as another flow -----------------------------------------------------------------------------------

    async def fork(self, step_key: str, overrides: Fields | None = None) -> str:
        """A new flow that goes on from a step of a tree that has ended; its key. The origin stays as it is."""
        key, step, row = await self._step(step_key)
        size = await self._store.fingerprint(row.root_id or row.id)
        if size is None:
            raise not_found("step", key)
        given = (await self._inputs(row, [step.id], overrides)).get(step.id) if overrides else None
        if overrides and given is None:
            raise not_found("step", key)  # it ran again meanwhile, or one before it did
        one = Fork(row.id, key.id, key.token, size.steps, size.flows, given, observe.traceparent())
        flow_key = Key(key.shard, row.id, row.token)
        made = await self._committer.commit(one)
        if isinstance(made, Changed):
            if made.status is None:
                raise not_found("step", key)
            self._refuse(flow_key, f"fork from {step.node!r} (step {key.correlation_id})", made)
        return self._begun(key, made, row.workflow)

    async def continue_thread(self, flow_key: str, overrides: Fields | None = None) -> str:
        """Another flow of the thread that begins with the final state of its latest; the key of the new one.

        What is given is reduced onto that state, as a fan-in does. Of several that continue at once, one wins.
        """
        key = self._key(flow_key)
        row = await self._reader.flow(key)
        if row.caller_id is not None:
            raise BadRequest(f"flow {key.correlation_id} was called by another flow; continue the thread of that one")
        anchor = row.thread_id or row.id
        latest_id = await self._store.latest_of_thread(anchor)
        latest = await self._store.flow(latest_id) if latest_id is not None else None
        if latest is None:
            raise not_found("flow", key)
        if latest.status != "completed":
            raise FlowConflict(
                f"flow {key.correlation_id} cannot be continued: flow {key.shard}-{latest.id}, the latest of its "
                f"thread, is {latest.status} and has to complete first",
                flow_status=latest.status,
            )
        graph = await self._graphs.get(latest.graph)
        state = _reduced(await self._reader.final_state(latest), overrides or {}, graph)
        first = graph.entry_point
        entry = NewStep(
            first, new_token(), 1, latest.priority, state=encode_fields(state), fairness_key=latest.fairness_key,
            rate=rate_of(graph, first),
        )  # fmt: skip
        one = ContinueThread(latest.id, anchor, new_token(), entry, observe.traceparent())
        made = await self._committer.commit(one)
        if isinstance(made, Changed):
            self._refuse(key, "continue_thread", made)
        return self._begun(key, made, latest.workflow)

    def _begun(self, origin: Key, made: Created, workflow: str) -> str:
        key = Key(origin.shard, made.flow_id, made.token)
        observe.emit("flow.started", flow=key.correlation_id, workflow=made.workflow or workflow)
        return str(key)

    def _refuse(self, key: Key, verb: str, refused: Changed) -> NoReturn:
        self._judge(key, verb, refused)
        raise AssertionError(f"{refused} was no refusal")

    # --- breakpoints -----------------------------------------------------------------------------------------

    async def break_before(self, flow_key: str, node: str, on: bool = True) -> None:
        """Have the flow, and those it calls, pause before each step of a node; or no longer."""
        key = self._key(flow_key)
        if not node or not is_storable(node):
            raise BadRequest(f"task={node!r}: expected the name of a node")
        self._judge(key, "break", await self._committer.commit(BreakBefore(key.id, key.token, node, on)))

    async def resume_break(self, flow_key: str, overrides: Fields | None = None) -> None:
        """Let the step go on that waits at a breakpoint; of several, the one that came first."""
        key = self._key(flow_key)
        row = await self._reader.flow(key)
        waiting = [one for one in await self._store.interrupted(row.id) if one.at_breakpoint == WAITS]
        given = None
        if waiting and overrides:
            own = await self._store.flow(waiting[0].flow_id)
            given = (await self._inputs(own or row, [waiting[0].id], overrides)).get(waiting[0].id)
        one = ResumeBreak(key.id, key.token, waiting[0].id if waiting else 0, given)
        self._judge(key, "resume_break", await self._committer.commit(one))

    # --- what they read ----------------------------------------------------------------------------------------

    async def _step(self, step_key: str) -> tuple[Key, StepRow, FlowRow]:
        key = parse_key(step_key, "step")
        step = await self._store.step(key.id) if key.shard == self._store.shard else None
        row = await self._store.flow(step.flow_id) if step is not None else None
        if step is None or row is None or step.token != key.token:
            raise not_found("step", key)
        return key, step, row

    async def _inputs(self, row: FlowRow, step_ids: Sequence[int], overrides: Fields) -> dict[int, Json]:
        """The input of each step with the overrides."""
        graph = await self._graphs.get(row.graph)
        materials = await self._store.materials(step_ids)
        return {
            step_id: encode_fields(apply(fold_material(material, graph), overrides))
            for step_id, material in materials.items()
        }


def _reduced(final: Fields, overrides: Fields, graph: Graph) -> Fields:
    """A final state with what is given reduced onto it; BadRequest names the field whose value does not fit."""
    try:
        return fold(final, [overrides], graph)
    except ReducerError as error:
        if "incoming_type" not in error.fields:
            raise
        given = error.fields
        raise BadRequest(
            f"state.{given['field']}: {given['incoming_type']} given, to be reduced by {given['reducer']!r} onto the"
            f" final state's {given['base_type']}: {error.__cause__}",
            **given,
        ) from None


def _place(step: StepRow) -> StepPlace:
    """As much of a row as says whether it is meant."""
    return StepPlace(
        step.id, step.flow_id, step.status, step.predecessor_id, spawn_id=step.spawn_id, cohort_id=step.cohort_id,
        updated_at=step.updated_at,
    )  # fmt: skip
