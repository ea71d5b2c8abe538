"""What is to be done so that a running tree becomes the one that is wanted. Pure.

    for step in plan(running, wanted, "shop"):
        print(step.act, step.path, *step.changes)

Two specifications in, steps out, in the order in which they are to be done: each is one act on one supervisor, and
between two of them every supervisor is whole. `applied` is what a step means for the specification. What a change of
which field does is one table, `EFFECTS`; nothing that no change concerns is in any step.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal

from mbactor.errors import InvalidSpec
from mbactor.supervisor.operate.plan_values import Change, changed, same
from mbactor.supervisor.spec import ChildSpec, Kind, SupervisorSpec
from mbactor.supervisor.supervisor import Supervisor

Act = Literal["start", "stop", "restart", "restart branch", "change", "move"]
Effect = Literal["live", "restart", "replace"]

EFFECTS: Final[Mapping[str, Effect]] = {
    "strategy": "live",
    "max_restarts": "live",
    "within": "live",
    "auto_shutdown": "live",
    "restart": "live",
    "shutdown": "live",
    "backoff": "live",
    "significant": "live",
    "mailbox": "live",
    "after": "live",
    "args": "restart",
    "config": "live",
    "class": "replace",
    "process": "replace",
}
"""What a change of a field does. live: nothing is stopped. restart: the child is restarted; its mailbox and the refs to
it stay. replace: it is stopped and another is started in its place. Of a supervisor that is a class of its own, or
runs in a process of its own, both restart the whole branch. A field that is not here is taken as replace."""
ELSEWHERE: Final = frozenset({"mailbox", "config"})
"""Fields that are live, but for a child in a process of its own: what they are about is there."""
_NAMES = {"target": "class", "kind": "class", "positional": "args"}
_OWN = ("strategy", "max_restarts", "within", "auto_shutdown")
"""What a supervisor written in the file has for itself."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do. `path` are the ids from the root, with slashes between.

    start, stop, restart and "restart branch" (all that is under a supervisor) do what they say; change and move touch
    nothing that runs. `changes` says which fields are others, for people: secrets are masked.
    """

    act: Act
    path: str
    kind: Kind = "actor"
    changes: tuple[Change, ...] = ()
    after: str | None = None
    """The sibling behind which it is put by start and move; None: it is the first."""
    fields: tuple[str, ...] = field(default=(), repr=False)
    """The fields of the specification that a change takes over."""
    wanted: Any = field(default=None, repr=False)
    """What it becomes: a ChildSpec, or the root's SupervisorSpec."""


@dataclass(frozen=True, slots=True)
class Marks:
    """What is to be known of children, by their paths, beside their specifications.

    `held`: an operator stopped it, and it stays stopped. `broken`: its start failed in an earlier apply. `ended`: a
    temporary child that has had its run.
    """

    held: frozenset[str] = frozenset()
    broken: frozenset[str] = frozenset()
    ended: frozenset[str] = frozenset()


def plan(running: SupervisorSpec, wanted: SupervisorSpec, name: str, marks: Marks | None = None) -> tuple[Step, ...]:
    """The steps from one to the other, in order: on each level first what is stopped (the last first), then what is
    changed or moved in place, then what is started or restarted, in the order of the list.
    """
    running, wanted = canonical(running), canonical(wanted)
    own = _own_changes(running, wanted)
    steps = (
        [Step("change", name, "supervisor", own, fields=tuple(one.field for one in own), wanted=wanted)] if own else []
    )
    return (*steps, *_Level(name, running, wanted, marks or Marks()).steps())


def applied(spec: SupervisorSpec, step: Step) -> SupervisorSpec:
    """The tree after a step."""
    ids = step.path.split("/")[1:]
    if not ids:
        return _taking_over(spec, step)
    return _applied_below(spec, ids, step)


# --- a supervisor written in the file ------------------------------------------------------------------------


def inline(spec: ChildSpec) -> SupervisorSpec | None:
    """What a nested supervisor supervises, where its specification says all of that and it runs in this process."""
    return None if spec.process else tree_in(spec)


def tree_in(spec: ChildSpec) -> SupervisorSpec | None:
    """What a nested supervisor supervises, where its specification says all of that."""
    if spec.target is not Supervisor or spec.positional or not spec.args.keys() <= {*_OWN, "children"}:
        return None
    try:
        return SupervisorSpec(**spec.args)
    except InvalidSpec:
        return None  # which its start will tell


def with_tree(spec: ChildSpec, tree: SupervisorSpec) -> ChildSpec:
    """The same supervisor over another tree."""
    own = {name: getattr(tree, name) for name in _OWN}
    return replace(spec, args={**own, "children": tree.children})


def canonical(spec: SupervisorSpec) -> SupervisorSpec:
    """The same tree in the form in which trees are compared: all defaults written out, and the order of the list in
    place of what it was made of (`after`).
    """
    return with_children(spec, tuple(canonical_child(one) for one in spec.children))


def canonical_child(spec: ChildSpec) -> ChildSpec:
    """One child as `canonical` has it."""
    tree = tree_in(spec)
    plain = replace(spec, after=()) if spec.after else spec
    return plain if tree is None else with_tree(plain, canonical(tree))


def with_children(spec: SupervisorSpec, children: tuple[ChildSpec, ...]) -> SupervisorSpec:
    """The same supervisor over other children, which are valid one by one."""
    return _with(spec, children=children)


def subtree(spec: SupervisorSpec, ids: Iterable[str]) -> SupervisorSpec | None:
    """The supervisor under the root at this path of ids, where it is written in the specification."""
    found: SupervisorSpec | None = spec
    for id in ids:
        child = None if found is None else _find(found, id)
        found = None if child is None else inline(child)
    return found


# --- the difference --------------------------------------------------------------------------------------------


class _Level:
    """One supervisor, as it is and as it is wanted."""

    def __init__(self, path: str, running: SupervisorSpec, wanted: SupervisorSpec, marks: Marks) -> None:
        self.path = path
        self.marks = marks
        self.before = {one.id: one for one in running.children}
        self.wanted = {one.id: one for one in wanted.children}
        self.kept = [id for id in self.before if id in self.wanted]

    def steps(self) -> Iterator[Step]:
        pairs = {id: self.pair(self.before[id], self.wanted[id]) for id in self.kept}
        for id in reversed(self.before):
            if id not in self.wanted:
                yield Step("stop", self.at(id), self.before[id].kind)
        for id in self.kept:
            yield from (step for step in pairs[id] if step.act == "change" and step.path == self.at(id))
        yield from self.moves()
        last = None
        for id, one in self.wanted.items():
            if id in pairs:
                yield from (step for step in pairs[id] if step.act != "change" or step.path != self.at(id))
            else:
                yield Step("start", self.at(id), one.kind, after=last, wanted=one)
            last = id

    def at(self, id: str) -> str:
        return f"{self.path}/{id}"

    def moves(self) -> Iterator[Step]:
        """As few as there can be: those that stand in the longest row that is in order already stay."""
        order = [id for id in self.wanted if id in self.before]
        places = {id: place for place, id in enumerate(self.kept)}
        staying = _longest_rise([places[id] for id in order])
        last = None
        for id in order:
            if places[id] not in staying:
                yield Step("move", self.at(id), self.wanted[id].kind, after=last, wanted=self.wanted[id])
            last = id

    def pair(self, old: ChildSpec, new: ChildSpec) -> list[Step]:
        """What becomes of a child that is there and is wanted: at most one step of its own, then those below it."""
        path, names, below = self.at(new.id), _differing(old, new), list[Step]()
        changes = tuple(one for name in names for one in _changed(name, old, new))
        trees = tree_in(old), tree_in(new)
        if trees[0] is not None and trees[1] is not None:
            own = _own_changes(trees[0], trees[1])
            below = list(_Level(path, trees[0], trees[1], self.marks).steps())
            changes = (*(one for one in changes if not one.field.startswith("args.")), *own)
            if not (old.process or new.process or path in self.marks.held):
                names = [*(name for name in names if name != "args"), *(one.field for one in own)]
            else:
                changes, below = (*changes, *_summary(path, below)), []
        act = self._act(path, new, names, supervisor="supervisor" in {old.kind, new.kind})
        if act is None:
            return below
        if act == "start":
            return [Step(act, path, new.kind, changes, after=self._before(new.id), wanted=new)]
        return [
            Step(act, path, new.kind, changes, fields=tuple(names), wanted=new),
            *(below if act == "change" else ()),
        ]

    def _act(self, path: str, new: ChildSpec, names: list[str], *, supervisor: bool) -> Act | None:
        live = are_live(names, new)
        if path in self.marks.broken:
            return "start"
        if not names:
            return None
        if path in self.marks.ended and not (live and new.restart == "temporary"):
            return "start"
        if live or path in self.marks.held | self.marks.ended:
            return "change"
        return "restart branch" if supervisor else "restart"

    def _before(self, id: str) -> str | None:
        order = list(self.wanted)
        place = order.index(id)
        return order[place - 1] if place else None


def effect_of(name: str) -> Effect:
    """What a change of a field of a specification, or of a supervisor, does."""
    return EFFECTS.get(_NAMES.get(name, name), "replace")


def are_live(names: Iterable[str], of: ChildSpec) -> bool:
    """Whether a child that runs takes other values of these fields over as it runs."""
    return all(effect_of(name) == "live" and not (of.process and name in ELSEWHERE) for name in names)


def _differing(old: ChildSpec, new: ChildSpec) -> list[str]:
    return [one.name for one in fields(ChildSpec) if not same(getattr(old, one.name), getattr(new, one.name))]


def _own_changes(old: SupervisorSpec, new: SupervisorSpec) -> tuple[Change, ...]:
    return tuple(one for name in _OWN for one in changed(name, getattr(old, name), getattr(new, name)))


def _changed(name: str, old: ChildSpec, new: ChildSpec) -> Iterator[Change]:
    if name != "kind":  # which goes with the class
        yield from changed(_NAMES.get(name, name), getattr(old, name), getattr(new, name))


def _summary(path: str, steps: Iterable[Step]) -> Iterator[Change]:
    """The steps below a supervisor as changes of it, where it is taken as a whole."""
    for step in steps:
        below = step.path.removeprefix(f"{path}/")
        match step.act:
            case "start":
                yield Change(below, "none", "new")
            case "stop":
                yield Change(below, "there", "none")
            case "move":
                yield Change(below, "there", f"after {step.after}" if step.after else "first")
            case _:
                yield from (replace(one, field=f"{below}.{one.field}") for one in step.changes)


def _longest_rise(places: list[int]) -> set[int]:
    """The longest row of numbers that rise, of a list in which each is once."""
    ends: list[int] = []
    before: dict[int, int | None] = {}
    for place in places:
        at = bisect_left(ends, place)
        before[place] = ends[at - 1] if at else None
        ends[at : at + 1] = [place]
    found: set[int] = set()
    last = ends[-1] if ends else None
    while last is not None:
        found.add(last)
        last = before[last]
    return found


# --- a step taken over into the tree -----------------------------------------------------------------------------


def _applied_below(spec: SupervisorSpec, ids: list[str], step: Step) -> SupervisorSpec:
    id, *rest = ids
    if rest:
        child = _find(spec, id)
        tree = None if child is None else inline(child)
        assert child is not None, step
        assert tree is not None, step
        return _put(spec, with_tree(child, _applied_below(tree, rest, step)))
    match step.act:
        case "stop":
            return with_children(spec, tuple(one for one in spec.children if one.id != id))
        case "start" if _find(spec, id) is None:
            return _inserted(spec, step.wanted, step.after)
        case "start" | "restart" | "restart branch":
            return _put(spec, step.wanted)
        case "change":
            child = _find(spec, id)
            assert child is not None, step
            return _put(spec, _child_taking_over(child, step))
        case "move":
            child = _find(spec, id)
            assert child is not None, step
            without = with_children(spec, tuple(one for one in spec.children if one.id != id))
            return _inserted(without, child, step.after)


def _child_taking_over(child: ChildSpec, step: Step) -> ChildSpec:
    of_child = {name: getattr(step.wanted, name) for name in step.fields if name not in {*_OWN, "children"}}
    taken = replace(child, **of_child)
    if len(of_child) == len(step.fields):
        return taken
    tree, wanted = inline(child), inline(step.wanted)
    assert tree is not None, step
    assert wanted is not None, step
    return with_tree(taken, _taking_over(tree, replace(step, wanted=wanted)))


def _taking_over(tree: SupervisorSpec, step: Step) -> SupervisorSpec:
    named = {*_OWN, "children"}
    return _with(tree, **{name: getattr(step.wanted, name) for name in step.fields if name in named})


def _find(spec: SupervisorSpec, id: str) -> ChildSpec | None:
    return next((one for one in spec.children if one.id == id), None)


def _put(spec: SupervisorSpec, child: ChildSpec) -> SupervisorSpec:
    return with_children(spec, tuple(child if one.id == child.id else one for one in spec.children))


def _inserted(spec: SupervisorSpec, child: ChildSpec, after: str | None) -> SupervisorSpec:
    ids = [one.id for one in spec.children]
    place = ids.index(after) + 1 if after in ids else 0
    return with_children(spec, (*spec.children[:place], child, *spec.children[place:]))


def _with(spec: SupervisorSpec, **changes: Any) -> SupervisorSpec:
    """A specification in between two that are valid: it need not be, while its children are on their way."""
    made: SupervisorSpec = object.__new__(SupervisorSpec)
    for one in fields(SupervisorSpec):
        object.__setattr__(made, one.name, changes.get(one.name, getattr(spec, one.name)))
    return made
