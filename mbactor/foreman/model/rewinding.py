"""What becomes of a tree of flows when steps of it are to run again (pure).

    rewound = rewind(flows, steps, [failed.id])

The steps run again with the input they had. All that followed from them goes, and so do the flows that they, or what
goes, had called. The flows above wait again for those below, and each cohort counts its branches anew. What stays has
every step that its input is folded from: with a step go all that follow it, the fan-in of its cohort too. Then branches
that this fan-in did not wait for go on as well, where they were given up.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from typing import Literal

import msgspec

from mbactor.foreman.model.join import NEVER_BEGAN, has_joined
from mbactor.foreman.model.places import FlowPlace, Places, StepPlace
from mbactor.foreman.model.status import TERMINAL

RewindKind = Literal["restart", "recover", "retry"]


class Rewound(msgspec.Struct, frozen=True):
    """What is to be written."""

    again: tuple[int, ...]
    """Steps that run again."""
    held: dict[int, tuple[int, int]]
    """Those of them that wait until others make room: the step that spawned the cohort, and their branch of it."""
    waiting: dict[int, int]
    """Step -> the flow it called and waits for again."""
    gone_steps: frozenset[int]
    """Steps of the flows that stay."""
    gone_flows: frozenset[int]
    """Flows that go with all their steps."""
    counts: dict[int, tuple[int, int]]
    """Step that spawned a cohort -> arrivals and failures, where they are others than before."""
    reopened: frozenset[int]
    """All that spawned a cohort in which something runs, or waits, again."""
    statuses: dict[int, str]
    """Flow that goes on -> its status."""
    begins: bool = True
    """False: nothing of it is to begin yet."""

    def as_queued(self) -> Rewound:
        """The same where nothing is to begin yet: the flows wait for a place of their concurrency key."""
        statuses = dict.fromkeys(self.statuses, "created")
        return msgspec.structs.replace(self, statuses=statuses, begins=False)

    def status_of(self, step_id: int) -> str:
        """That of a step which runs again."""
        return "pending" if self.begins and step_id not in self.held else "created"


def rewind(flows: Iterable[FlowPlace], steps: Iterable[StepPlace], step_ids: Collection[int]) -> Rewound:
    """Have these steps run again. They may be in several branches, or in flows that others called."""
    tree = Places(flows, steps)
    gone = {below for step_id in step_ids for below in tree.below(step_id)}
    waiting: dict[int, int] = {}
    later: set[int] = set()
    for step_id in step_ids:
        for caller_id, flow_id in tree.callers(step_id):
            waiting[caller_id] = flow_id
            gone |= tree.below(caller_id)
            later |= {other for other in tree.called[caller_id] if other > flow_id}
    again = set(step_ids) - gone
    given_up = _given_up(tree, {*again, *waiting}) - gone - again - waiting.keys()
    again |= given_up
    called = [flow_id for step_id in again | gone for flow_id in tree.called[step_id]]
    gone_flows = tree.with_called([*called, *later])
    gone -= {one.id for one in tree.steps.values() if one.flow_id in gone_flows}
    left = [
        _as_it_goes_on(one, again, waiting)
        for one in tree.steps.values()
        if one.id not in gone and one.flow_id not in gone_flows
    ]
    begun = {tree.steps[step_id].flow_id for step_id in (*again, *waiting)}
    reopened = {spawn for step_id in (*again, *waiting) for spawn in tree.around(step_id)}
    return Rewound(
        again=tuple(sorted(again)),
        held=_held(tree, again),
        waiting=waiting,
        gone_steps=frozenset(gone),
        gone_flows=frozenset(gone_flows),
        counts=_counts(left, reopened),
        reopened=frozenset(reopened),
        statuses=_statuses(tree, left, begun, gone_flows),
    )


def open_failures(steps: Iterable[StepPlace]) -> list[int]:
    """The steps that failed and that nothing has gone on without."""
    tree = Places((), steps)
    return [
        one.id
        for one in tree.steps.values()
        if one.status == "failed" and not any(spawn in tree.fan_ins for spawn in tree.around(one.id))
    ]


def meant(how: RewindKind, steps: Iterable[StepPlace]) -> list[int]:
    """Which steps of a flow run again.

    restart: the entry step. recover: all that failed and that nothing has gone on without. retry: of these the one that
    failed last.
    """
    places = {one.id: one for one in steps}
    if how == "restart":
        return [one.id for one in places.values() if one.predecessor_id is None]
    failed = sorted(open_failures(places.values()), key=lambda step_id: (places[step_id].updated_at, step_id))
    return failed[-1:] if how == "retry" else failed


def _given_up(tree: Places, step_ids: Collection[int]) -> set[int]:
    """The steps that were given up in cohorts around these steps, which are open again."""
    found: set[int] = set()
    todo = {spawn for step_id in step_ids for spawn in tree.around(step_id)}
    members: defaultdict[int, list[StepPlace]] = defaultdict(list)
    for one in tree.steps.values():
        if one.spawn_id is not None:
            members[one.spawn_id].append(one)
    while todo:
        for one in members[todo.pop()]:
            if one.cancel_reason is not None:
                found.add(one.id)
            elif one.cohort_size and one.id not in tree.fan_ins and _decided(one) is None:
                todo.add(one.id)
    return found


def _held(tree: Places, again: Collection[int]) -> dict[int, tuple[int, int]]:
    """Those of the steps that have to wait until others make room, each with the innermost branch for which there is
    none. First come branches that had begun before.
    """
    under_way = tree.under_way()
    wanting: defaultdict[int, set[int]] = defaultdict(set)
    had_begun: set[tuple[int, int]] = set()
    for step_id in again:
        branches = set(tree.branches(step_id))
        if tree.steps[step_id].cancel_reason not in NEVER_BEGAN.values():
            had_begun |= branches
        for spawn_id, ordinal in branches - under_way:
            if tree.steps[spawn_id].cohort_at_once:
                wanting[spawn_id].add(ordinal)
    taken = Counter(spawn_id for spawn_id, _ in under_way)
    late: set[tuple[int, int]] = set()
    for spawn_id, ordinals in wanting.items():
        room = max(0, tree.steps[spawn_id].cohort_at_once - taken[spawn_id])
        in_order = sorted(((spawn_id, one) not in had_begun, one) for one in ordinals)
        late |= {(spawn_id, one) for _, one in in_order[room:]}
    held: dict[int, tuple[int, int]] = {}
    for step_id in again:
        for branch in tree.branches(step_id):
            if branch in late:
                held.setdefault(step_id, branch)
    return held


def _decided(spawn: StepPlace) -> bool | None:
    return has_joined(spawn.cohort_size, spawn.cohort_needed, spawn.cohort_arrivals, spawn.cohort_failures)


def _as_it_goes_on(step: StepPlace, again: Collection[int], waiting: Collection[int]) -> StepPlace:
    if step.id in again:
        return msgspec.structs.replace(step, status="pending", cohort_size=0)
    if step.id in waiting:
        return msgspec.structs.replace(step, status="running", cohort_size=0)
    return step


def _counts(left: list[StepPlace], reopened: Collection[int]) -> dict[int, tuple[int, int]]:
    """Arrivals and failures of these cohorts, where they are to be corrected.

    Others stay as they are: one that was given up undecided is to be known as such when it is gone back to.
    """
    branches: defaultdict[int, dict[int, StepPlace]] = defaultdict(dict)
    first: defaultdict[int, int] = defaultdict(int)
    for step in sorted(left, key=lambda one: one.id):
        if step.spawn_id is not None:
            branches[step.spawn_id][step.ordinal] = step  # a branch is where its youngest step is
            first[step.spawn_id] += step.predecessor_id == step.spawn_id
    going_on = _going_on(left)
    found: dict[int, tuple[int, int]] = {}
    # An inner cohort has been spawned by a younger step than the one around it.
    for spawn in sorted(left, key=lambda one: -one.id):
        if not spawn.cohort_size:
            continue
        arrivals, failures = spawn.cohort_size - first[spawn.id], 0
        for end in branches[spawn.id].values():
            if end.id in going_on:
                continue  # decided or not, it is decided again by what arrives there
            arrived, failed = _arrival(end, found.get(end.id), hasty=spawn.cohort_needed > 0)
            arrivals += arrived
            failures += failed
        found[spawn.id] = (arrivals, failures)
    return {
        one.id: found[one.id]
        for one in left
        if one.id in found and one.id in reopened and found[one.id] != (one.cohort_arrivals, one.cohort_failures)
    }


def _going_on(steps: list[StepPlace]) -> set[int]:
    """The steps that spawned cohorts in which something has not ended."""
    spawns = {one.id: one.spawn_id for one in steps}
    found: set[int] = set()
    for one in steps:
        spawn_id = one.spawn_id if one.status not in TERMINAL else None
        while spawn_id is not None and spawn_id not in found:
            found.add(spawn_id)
            spawn_id = spawns[spawn_id]
    return found


def _arrival(end: StepPlace, own: tuple[int, int] | None, *, hasty: bool) -> tuple[bool, bool]:
    """Whether a branch that ends with this step has arrived at its cohort, and whether as a failed one. `own` are the
    counts of the cohort that the step has spawned itself, and whose fan-in is not there. A `hasty` cohort counts on
    those that completed: one that was cancelled is none.
    """
    match end.status:
        case "completed" if own is not None:
            # Its fan-in is not there though it is decided: too many failed, or it stopped where it was cancelled.
            joined = has_joined(end.cohort_size, end.cohort_needed, *own)
            return joined is not None, joined is False
        case "completed":
            return True, False
        case "cancelled":
            return True, hasty
        case "failed":
            return True, True
        case _:
            return False, False


def _statuses(
    tree: Places, left: list[StepPlace], begun: Collection[int], gone_flows: Collection[int]
) -> dict[int, str]:
    interrupted = {one.flow_id for one in left if one.status == "interrupted"}
    found: dict[int, str] = {}
    # A called flow has been inserted after the flow that its caller is in.
    for flow_id in sorted(begun, reverse=True):
        called = (tree.flows[child] for one in left if one.flow_id == flow_id for child in tree.called[one.id])
        waits = flow_id in interrupted or any(
            found.get(child.id, child.status) == "interrupted" for child in called if child.id not in gone_flows
        )
        found[flow_id] = "interrupted" if waits else "running"
    return found
