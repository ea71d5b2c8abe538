"""The tree as a value: of a running supervisor at one moment, or of a specification; and drawings of it.

print(render(system.tree(), "text"))
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mbactor.durations import text_of
from mbactor.errors import InvalidSpec, error_told
from mbactor.kernel.look import ActorView, PastExit, RunningMessage, cell_of, look, loop_time, reason_of
from mbactor.mailbox import MailboxStatistics
from mbactor.supervisor.children import Budget, Child, ChildRow
from mbactor.supervisor.spec import ChildSpec, Kind, Restart, SupervisorSpec
from mbactor.supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from mbactor.supervisor.node.process import NodeProcess
    from mbactor.transport.nats_server import ServerView


@dataclass(frozen=True, slots=True)
class TreeNode:
    """One actor or supervisor of the tree. A specification has the state "declared" and nothing that happened.

        place = next(node for node in system.tree().children if node.id == "orders")
        place.mailbox.depth, [message.method for message in place.running], place.exits[-1].reason

    A supervisor has no mailbox, and of its ends only the last reason is known.
    """

    id: str
    kind: Kind | Literal["broker"]
    state: str
    """starting, running, stopping, stopped, restarting (it waits for its restart), or down (it has ended, and its
    supervisor has not judged that yet)."""
    restart: Restart | None = None
    """None for the root: nobody restarts it."""
    strategy: str | None = None
    host: str | None = None
    incarnation: int = 0
    restarts: int = 0
    last_exit: str | None = None
    uptime: float | None = None
    held: bool = False
    """It was stopped on somebody's request, and stays so until it is started."""
    budget: Budget | None = None
    """How many restarts count now, and how many are allowed: of a supervisor that runs, and of a child of a dynamic
    one, which has its own."""
    restarts_in: float | None = None
    """Seconds until it is started again, where it is restarting after a backoff."""
    mailbox: MailboxStatistics | None = None
    capacity: int | None = None
    """How many messages the mailbox takes."""
    running: tuple[RunningMessage, ...] = ()
    """What it handles, the oldest message first."""
    exits: tuple[PastExit, ...] = ()
    """Its last few ends, the newest last."""
    process: bool = False
    """It runs in an OS process of its own, with all that is under it."""
    pid: int | None = None
    """The number of that process, while there is one."""
    silent: float | None = None
    """Seconds since that process was asked what runs in it, where it has not answered: what is shown is older."""
    children: tuple[TreeNode, ...] = ()


_PHASES = {"idle": "stopped", "boot": "starting", "ended": "stopped"}
"""A supervisor's own words for what is a child's state."""


def tree_of(supervisor: Supervisor) -> TreeNode:
    """The running tree under `supervisor`, at this moment."""
    phase = supervisor.phase
    return TreeNode(
        id=supervisor.path.rpartition("/")[2],
        kind="supervisor",
        state=_PHASES.get(phase, phase),
        strategy=supervisor.strategy,
        incarnation=supervisor.incarnation,
        budget=supervisor.restart_budget(),
        children=_below(supervisor, loop_time()),
    )


def tree_of_child(child: Child, id: str) -> TreeNode:
    """What one child is at this moment, as the process that it runs in tells."""
    if isinstance(child.ref, Supervisor):
        return tree_of(child.ref)
    cell = cell_of(child.ref)
    if cell is None:
        return TreeNode(id, "actor", "stopped")
    view = look(cell)
    return TreeNode(id, "actor", view.state, host=view.host, incarnation=view.incarnation, **_seen(view))


async def refresh(supervisor: Supervisor, within: float) -> None:
    """Ask what runs in other processes under `supervisor`, and wait for the answers for so many seconds."""
    await asyncio.gather(*(process.look(within) for process in _processes(supervisor)))


def _processes(supervisor: Supervisor) -> Iterator[NodeProcess]:
    for row in supervisor.which_children():
        if row.process is not None:
            yield row.process
        elif isinstance(row.ref, Supervisor):
            yield from _processes(row.ref)


def _seen(view: ActorView) -> dict[str, Any]:
    return {"mailbox": view.mailbox, "capacity": view.capacity, "running": view.running, "exits": view.exits}


def _with_process(node: TreeNode, process: NodeProcess) -> TreeNode:
    """The child as its supervisor has it, with what its own process told last."""
    node = dataclasses.replace(node, process=True, pid=process.pid)
    if process.pid is None:
        return node
    told = process.view
    if told is None:  # nor is it to tell anything while it starts
        return dataclasses.replace(node, silent=process.silent if node.state == "running" else None)
    return dataclasses.replace(
        node,
        silent=process.silent,
        strategy=told.strategy,
        budget=told.budget,
        host=told.host,
        mailbox=told.mailbox,
        capacity=told.capacity,
        running=told.running,
        exits=told.exits,
        children=told.children,
    )


def with_spawned(tree: TreeNode, spawned: Supervisor) -> TreeNode:
    """The tree, and what was spawned beside it as its last child, where anything was."""
    beside = tree_of(spawned)
    return dataclasses.replace(tree, children=(*tree.children, beside)) if beside.children else tree


def with_broker(tree: TreeNode, server: ServerView) -> TreeNode:
    """The tree, and the broker that it runs on as its first child."""
    broker = TreeNode(
        "broker",
        "broker",
        server.state,
        incarnation=server.restarts + 1,
        restarts=server.restarts,
        last_exit=server.last_end,
        uptime=server.uptime,
        process=True,
        pid=server.pid,
    )
    return dataclasses.replace(tree, children=(broker, *tree.children))


def _below(supervisor: Supervisor, now: float) -> tuple[TreeNode, ...]:
    return tuple(_running(row, now) for row in supervisor.which_children())


def _running(row: ChildRow, now: float) -> TreeNode:
    inner = row.ref if isinstance(row.ref, Supervisor) else None
    cell = cell_of(row.ref)
    view = None if cell is None else look(cell, now)
    found = TreeNode(
        id=row.id,
        kind=row.kind,
        state=_state(row, view),
        restart=row.restart,
        strategy=None if inner is None else inner.strategy,
        host=None if inner is not None else getattr(row.ref, "host", None),
        incarnation=row.incarnation,
        restarts=row.restarts,
        last_exit=None if row.last_exit is None else reason_of(row.last_exit),
        uptime=row.uptime,
        held=row.held,
        budget=row.budget if inner is None else inner.restart_budget(),
        restarts_in=row.restarts_in,
        mailbox=None if view is None else view.mailbox,
        capacity=None if view is None else view.capacity,
        running=() if view is None else view.running,
        exits=() if view is None else view.exits,
        children=() if inner is None else _below(inner, now),
    )
    return found if row.process is None else _with_process(found, row.process)


def _state(row: ChildRow, view: ActorView | None) -> str:
    """An actor that ends by itself knows it before its supervisor does."""
    ending = view is not None and row.state == "running" and view.state in {"stopping", "down"}
    return view.state if view is not None and ending else row.state


def walked(node: TreeNode, above: str = "") -> Iterator[tuple[str, TreeNode]]:
    """Each node of the tree with its path, the root first."""
    path = f"{above}{node.id}"
    yield path, node
    for child in node.children:
        yield from walked(child, f"{path}/")


def tree_of_spec(spec: SupervisorSpec, name: str) -> TreeNode:
    """The tree that a specification declares. Nested supervisors are constructed, and not started: children that
    one makes only in its `on_start` are not seen. InvalidSpec where the constructor of one refuses its arguments.
    """
    return _declared_tree(spec, name, "")


def _declared_tree(spec: SupervisorSpec, name: str, above: str) -> TreeNode:
    children = tuple(_declared(child, f"{above}{child.id}") for child in spec.children)
    return TreeNode(name, "supervisor", "declared", strategy=spec.strategy, children=children)


def _declared(spec: ChildSpec, path: str) -> TreeNode:
    if spec.kind == "actor":
        host = getattr(spec.target, "host", None)
        return TreeNode(spec.id, "actor", "declared", restart=spec.restart, host=host, process=spec.process)
    try:
        inner: Supervisor = spec.target(*spec.positional, **spec.args)
    except Exception as error:
        said = error.message if isinstance(error, InvalidSpec) else error_told(error)
        raise InvalidSpec(f"child {path!r} cannot be made: {said}", child=path) from error
    below = _declared_tree(inner.spec(), spec.id, f"{path}/")
    return dataclasses.replace(below, restart=spec.restart, process=spec.process)


# --- drawings -------------------------------------------------------------------------------------------


def render(tree: TreeNode, form: str) -> str:
    """The tree as `text`, `mermaid`, `dot` or `json`."""
    if form not in _FORMS:
        raise InvalidSpec(f"format: {form!r} given, one of {', '.join(_FORMS)} expected")
    return _FORMS[form](tree)


def text(tree: TreeNode) -> str:
    """With box-drawing lines, one node a line."""
    lines = [_line(tree)]

    def draw(node: TreeNode, indent: str) -> None:
        for child in node.children:
            last = child is node.children[-1]
            lines.append(f"{indent}{'└── ' if last else '├── '}{_line(child)}")
            draw(child, indent + ("    " if last else "│   "))

    draw(tree, "")
    return "\n".join(lines)


def _line(node: TreeNode) -> str:
    return "  ".join([node.id, *_facts(node)])


def _facts(node: TreeNode) -> list[str]:
    facts = [node.kind if node.strategy is None else f"supervisor ({node.strategy})"]
    if node.restart is not None:
        facts.append(node.restart)
    if node.host is not None:
        facts.append(node.host)
    facts += _of_process(node)
    if node.state != "declared":
        facts.append(f"{node.state}, held" if node.held else node.state)
    if node.uptime is not None:
        facts.append(f"up {text_of(round(node.uptime) if node.uptime >= 1 else round(node.uptime, 3))}")
    if node.restarts:
        facts.append(f"restarts {node.restarts}")
    if node.last_exit is not None:
        facts.append(f"last: {one_line(node.last_exit)}")
    if node.mailbox is not None and node.mailbox.depth:
        facts.append(f"waiting {node.mailbox.depth}")
    if node.running:
        facts.append(f"runs {', '.join(message.method for message in node.running)}")
    return facts


def _of_process(node: TreeNode) -> list[str]:
    if not node.process:
        return []
    named = "own process" if node.pid is None else f"process {node.pid}"
    return [named] if node.silent is None else [named, f"silent for {text_of(round(node.silent, 1))}"]


def one_line(text: str) -> str:
    """Text of somebody else's as one line that a terminal only shows: no line ends, no control characters."""
    joined = " ".join(text.split())
    return joined if joined.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in joined)


def mermaid(tree: TreeNode) -> str:
    """A Mermaid flowchart."""
    lines = ["flowchart TD"]
    for number, node, above in _numbered(tree):
        label = _label(node).replace('"', "#quot;")
        lines.append(f'    n{number}["{label}"]')
        if above is not None:
            lines.append(f"    n{above} --> n{number}")
    return "\n".join(lines)


def dot(tree: TreeNode) -> str:
    """A Graphviz graph."""
    lines = ["digraph tree {", "    node [shape=box];"]
    for number, node, above in _numbered(tree):
        label = _label(node).replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'    n{number} [label="{label}"];')
        if above is not None:
            lines.append(f"    n{above} -> n{number};")
    return "\n".join([*lines, "}"])


def _label(node: TreeNode) -> str:
    return f"{node.id} ({node.strategy})" if node.strategy else node.id


def _numbered(tree: TreeNode) -> Iterator[tuple[int, TreeNode, int | None]]:
    """Each node with its number and that of the node above, from the top."""
    pending: list[tuple[TreeNode, int | None]] = [(tree, None)]
    number = 0
    while pending:
        node, above = pending.pop(0)
        yield number, node, above
        pending.extend((child, number) for child in node.children)
        number += 1


def as_json(tree: TreeNode) -> str:
    """The nodes as JSON objects, nested."""
    plain: dict[str, Any] = dataclasses.asdict(tree)
    return json.dumps(plain, indent=2, ensure_ascii=False)


_FORMS: dict[str, Callable[[TreeNode], str]] = {"text": text, "mermaid": mermaid, "dot": dot, "json": as_json}
