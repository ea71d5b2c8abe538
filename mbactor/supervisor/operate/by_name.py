"""Children by the names that people type, under some supervisors of this process and in the nodes below them.

    done = await operate("restart", "orders", roots)

A name is the id of a child, or as much of the end of its path as is enough (`paths.resolve`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mbactor.errors import BadRequest, ChildRunning, NoSuchChild, Unavailable
from mbactor.supervisor.dynamic import DynamicSupervisor
from mbactor.supervisor.operate.applying import changed
from mbactor.supervisor.operate.paths import resolve
from mbactor.supervisor.spec import SupervisorSpec
from mbactor.supervisor.supervisor import Supervisor
from mbactor.supervisor.topology.lints import spec_of
from mbactor.supervisor.tree import TreeNode, refresh

if TYPE_CHECKING:
    from mbactor.supervisor.node.process import NodeProcess

Verb = Literal["stop", "start", "restart"]
LOOK = 0.5
"""Seconds that nodes have to tell what runs in them; what one told last is good enough for its names."""


@dataclass(frozen=True, slots=True)
class Operated:
    """Whom an operation was about, and its state now."""

    path: str
    state: str
    """A child's state, or "forgotten"."""


def supervisors(roots: Iterable[Supervisor]) -> Iterator[tuple[str, Supervisor | None]]:
    """All supervisors of this process, by their paths; None for one that does not run here."""
    pending: list[tuple[str, Supervisor | None]] = [(one.path, one) for one in roots]
    while pending:
        path, one = pending.pop(0)
        runs = one is not None and one.phase in {"boot", "running"}
        yield path, one if runs else None
        if one is not None and runs:
            pending += [(f"{path}/{id}", inner) for id, inner in one.nested()]


def supervisor(name: str, roots: Iterable[Supervisor]) -> Supervisor:
    """The running supervisor that is meant. NoSuchChild, Ambiguous, Unavailable where it does not run here."""
    there = dict(supervisors(roots))
    path = resolve(name, list(there))
    found = there[path]
    if found is None:
        above, _, id = path.rpartition("/")
        parent = there.get(above)
        rows = [] if parent is None else parent.which_children()
        own = any(row.id == id and row.process is not None for row in rows)
        hint = "; it has one of its own, and only actors in there reach it" if own else ""
        raise Unavailable(f"supervisor {name!r} is not running in this process{hint}")
    return found


def parent_of(name: str, roots: Iterable[Supervisor]) -> tuple[Supervisor | NodeProcess, str]:
    """Who has the child that is meant, its supervisor or the node that it is in; and its id, or in a node its path.

    NoSuchChild, Ambiguous; BadRequest for one of the roots.
    """
    above: dict[str, tuple[Supervisor | NodeProcess, str]] = {}
    states: dict[str, str] = {}
    declared: list[str] = []
    tops = []
    for path, one in supervisors(roots):
        if path not in above:
            tops.append(path)
            declared += [] if one is None else _declared(path, one.declared)
        if one is None:
            continue
        for row in one.which_children():
            at = f"{path}/{row.id}"
            above[at], states[at] = (one, row.id), row.state
            if row.process is not None and row.process.view is not None and row.process.pid is not None:
                for below, node in _below(at, row.process.view):
                    above[below], states[below] = (row.process, below), node.state
    try:
        path = resolve(name, [*above, *tops])
    except NoSuchChild:
        _refuse_unborn(name, declared, states)
        raise
    if path not in above:
        raise BadRequest(f"{path} is the root of its tree, which ends with its process", path=path)
    return above[path]


def _below(path: str, node: TreeNode) -> Iterator[tuple[str, TreeNode]]:
    for child in node.children:
        yield f"{path}/{child.id}", child
        yield from _below(f"{path}/{child.id}", child)


def _declared(path: str, spec: SupervisorSpec) -> Iterator[str]:
    """Whom a specification makes, those too whose supervisor does not run now."""
    for child in spec.children:
        yield f"{path}/{child.id}"
        inner = spec_of(child)
        if inner is not None:
            yield from _declared(f"{path}/{child.id}", inner)


def _refuse_unborn(name: str, declared: Sequence[str], states: Mapping[str, str]) -> None:
    """NoSuchChild for one that is specified and not there, as what it is under does not run."""
    try:
        path = resolve(name, [one for one in declared if one not in states])
    except NoSuchChild:
        return
    above = path.rpartition("/")[0]
    while above and above not in states:
        above = above.rpartition("/")[0]
    state = states.get(above, "")
    if state == "running" or not state:
        return
    hint = f"; `mbactor start {above}` starts it" if state == "stopped" else "; try again when it runs"
    raise NoSuchChild(f"{path} does not run, as {above} is {state}{hint}", name=name, candidates=())


async def operate(verb: Verb, name: str, roots: Iterable[Supervisor]) -> Operated:
    """stop: it stays stopped until it is started. start: one that is stopped. restart: both, or a start.

    NoSuchChild, Ambiguous, ChildRunning, ChildRestarting, StartFailed, and ProcessDied where the node that it is in
    dies meanwhile.
    """
    roots = list(roots)
    for root in roots:
        await refresh(root, LOOK)
    above, id = parent_of(name, roots)
    if not isinstance(above, Supervisor):
        return await above.operate(verb, id)
    path = f"{above.path}/{id}"
    try:
        match verb:
            case "stop":
                await above.terminate_child(id)
            case "start":
                await above.restart_child(id)
            case "restart":
                await above.renew_child(id)
    except ChildRunning as error:
        raise _running(above, path) from error
    changed(verb, path)
    state = next((row.state for row in above.which_children() if row.id == id), "forgotten")
    return Operated(path, state)


def _running(above: Supervisor, path: str) -> ChildRunning:
    if isinstance(above, DynamicSupervisor):
        text = f"{path} is under a dynamic supervisor, which forgets whoever is stopped; the program starts it anew"
    else:
        text = f"{path} runs already"
    return ChildRunning(text, id=path)
