"""A plan carried out on the running tree: what there is, step by step what is wanted, and what became of it.

Each step is one call to one supervisor, served in its turn; between two of them the tree is whole, so that whatever
fails or stops meanwhile finds a tree that is specified as it runs. After each step the supervisors above are told, so
that a branch which is restarted later comes back as it was applied.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from mbactor import observe
from mbactor.errors import MbactorError, Unavailable
from mbactor.supervisor.operate.plan import (
    Marks,
    Step,
    applied,
    are_live,
    canonical,
    canonical_child,
    inline,
    plan,
    subtree,
    with_children,
    with_tree,
)
from mbactor.supervisor.operate.plan_values import Change
from mbactor.supervisor.spec import ChildSpec, SupervisorSpec
from mbactor.supervisor.state import ChildState
from mbactor.supervisor.supervisor import Supervisor


class Progress(Protocol):
    """Who follows an apply: hears of the plan first, then of each step when it begins and when it is done."""

    def planned(self, plan: Plan) -> None: ...
    def begun(self, step: Step) -> None: ...
    def done(self, step: Step) -> None: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done so that the running tree is the one that is wanted.

        for step in system.plan(topology).steps:
            print(step.act, step.path, *step.changes)

    `steps` are in the order in which `apply` does them. `later` is what only another start of the process can change.
    """

    system: str
    steps: tuple[Step, ...]
    later: tuple[Change, ...] = ()


class ApplyFailed(MbactorError):
    """A step of an apply failed, for the reason in `__cause__`. Those before are `done`; those after it, `left`, were
    not begun. Nothing was taken back: another apply goes on from here.
    """

    status = 409

    def __init__(self, step: Step, done: Sequence[Step], left: Sequence[Step], cause: MbactorError) -> None:
        super().__init__(f"{step.act} {step.path}: {cause.message}", done=len(done), left=len(left))
        self.step = step
        self.done = tuple(done)
        self.left = tuple(left)
        self.__cause__ = cause


@dataclass(slots=True)
class _Found:
    held: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)

    def marks(self) -> Marks:
        return Marks(frozenset(self.held), frozenset(self.broken), frozenset(self.ended))


class Applying:
    """One apply to the tree under `root`."""

    def __init__(self, root: Supervisor, wanted: SupervisorSpec) -> None:
        if not _is_up(root):
            raise Unavailable(f"the tree of {root.path} is not running")
        self.root = root
        self.wanted = canonical(wanted)
        found = _Found()
        self.spec = _as_it_runs(root, self.wanted, found)
        self.steps = tuple(self._with_losses(step) for step in plan(self.spec, self.wanted, root.path, found.marks()))

    def _with_losses(self, step: Step) -> Step:
        """The step, with what it ends for good: whoever added children at run time is not asked to add them again."""
        if step.kind != "supervisor" or step.act not in {"stop", "restart branch"}:
            return step
        branch = running_at(self.root, step.path.split("/")[1:])
        lost = 0 if branch is None else _added(branch)
        if not lost:
            return step
        counted = "1 child" if lost == 1 else f"{lost} children"
        return replace(step, changes=(*step.changes, Change("added at run time", counted, "none")))

    async def carry_out(self, progress: Progress | None = None) -> SupervisorSpec:
        """Do the steps; what is specified then. ApplyFailed at the first that fails.

        Cancelled, it finishes the step that was begun and leaves the others.
        """
        for number, step in enumerate(self.steps):
            if progress is not None:
                progress.begun(step)
            begun = asyncio.ensure_future(self._do(step))
            try:
                await asyncio.shield(begun)
            except asyncio.CancelledError:
                await asyncio.wait([begun])
                _ = begun.cancelled() or begun.exception()  # nobody waits to be told what it failed with
                raise
            except MbactorError as error:
                raise ApplyFailed(step, self.steps[:number], self.steps[number + 1 :], error) from error
            if progress is not None:
                progress.done(step)
        return self.spec

    async def _do(self, step: Step) -> None:
        await self._call(step)
        changed(step.act, step.path)

    async def _call(self, step: Step) -> None:
        spec = applied(self.spec, step)
        ids = step.path.split("/")[1:]
        try:
            if ids:
                # A child that was held when this was planned may have been started since, and the other way round.
                live = step.act == "change" and are_live(step.fields, step.wanted)
                anew = step.act in {"restart", "restart branch", "change"} and not live
                stop, start = anew or step.act == "stop", anew or step.act == "start"
                if live:
                    await self._tell(spec, ids)
                await self._tell(spec, ids[:-1], ids[-1], stop=stop, start=start, unless_held=anew)
        finally:
            self.spec = spec
            for depth in range(len(ids) - 2, -1, -1) if ids else [0]:
                await self._tell(spec, ids[:depth])

    async def _tell(self, spec: SupervisorSpec, ids: Sequence[str], child: str = "", **what: bool) -> None:
        """Have the supervisor at this path supervise what the specification says of it, where it runs."""
        tree = subtree(spec, ids)
        supervisor = running_at(self.root, ids)
        if tree is not None and supervisor is not None:
            await supervisor.reconfigure(tree, child, **what)


def changed(act: str, path: str) -> None:
    """Tell observers who changed what, where somebody did."""
    observe.emit("tree.changed", act=act, path=path)


def running_at(root: Supervisor, ids: Sequence[str]) -> Supervisor | None:
    """The supervisor at a path of ids below `root`, where it runs in this process, or is about to."""
    found: Supervisor | None = root
    for id in ids:
        found = None if found is None else dict(found.nested()).get(id)
    return found if found is not None and _is_up(found) else None


def _is_up(supervisor: Supervisor) -> bool:
    """It runs, or is about to."""
    return supervisor.phase in {"boot", "running"}


def _added(supervisor: Supervisor) -> int:
    """How many children were added at run time below a supervisor, as far as this process sees."""
    declared = {one.id for one in supervisor.declared.children}
    own = sum(row.id not in declared for row in supervisor.which_children())
    branches = (one for id, one in supervisor.nested() if id in declared and one is not None)
    return own + sum(_added(one) for one in branches if _is_up(one))


def _as_it_runs(supervisor: Supervisor, wanted: SupervisorSpec | None, found: _Found) -> SupervisorSpec:
    """What a supervisor supervises now. Of the children that were added at run time only those that are wanted too:
    the others are no business of what was declared.
    """
    declared = canonical(supervisor.declared)
    names = {one.id for one in declared.children} | {one.id for one in (wanted.children if wanted else ())}
    states = {state.id: state for state in supervisor.states() if state.id in names}
    nested = dict(supervisor.nested())
    behind: dict[str | None, list[ChildSpec]] = {}
    last = None
    for one in declared.children:
        if one.id in states:
            last = one.id
        elif one.restart == "temporary":
            found.ended.add(f"{supervisor.path}/{one.id}")
            behind.setdefault(last, []).append(one)
    children = behind.pop(None, [])
    for state in states.values():
        path = f"{supervisor.path}/{state.id}"
        children += [_child_as_it_runs(path, state, nested.get(state.id), wanted, found), *behind.pop(state.id, ())]
    return with_children(declared, tuple(children))


def _child_as_it_runs(
    path: str, state: ChildState, nested: Supervisor | None, wanted: SupervisorSpec | None, found: _Found
) -> ChildSpec:
    spec = canonical_child(state.spec)
    if state.held:
        (found.broken if state.broken else found.held).add(path)
    if nested is None or not _is_up(nested) or inline(spec) is None:
        return spec
    return with_tree(spec, _as_it_runs(nested, subtree(wanted, [state.id]) if wanted else None, found))
