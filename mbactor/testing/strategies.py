"""Hypothesis strategies: states of flows, graphs that are valid, and trees of children that can be started.

    @given(states(), graphs())
    def test_my_host_keeps_what_it_is_given(state: dict[str, Any], graph: Graph) -> None: ...

    @given(child_trees(Orders, child(Stock, args={"items": 3})))
    def test_my_page_draws_any_tree(tree: ChildSpec) -> None: ...

Needs `hypothesis`, which mbactor does not install.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from mbactor.errors import InvalidSpec
from mbactor.foreman.model.graph import END, Graph
from mbactor.kernel.actor import Actor
from mbactor.supervisor.spec import Backoff, ChildSpec, child
from mbactor.supervisor.supervisor import Supervisor

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
"""Texts that can be stored."""
_SCALARS = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), WORDS)
_CONDITIONS = st.sampled_from(["x > 1", "flag", "!flag && name =~ '^a'", "roles.admin || x == 5"])


def json_values(max_leaves: int = 8) -> st.SearchStrategy[Any]:
    """Values that a field can have: integers of any size, no NaN, no NUL, nulls only inside others."""
    nested = st.recursive(
        st.one_of(st.none(), _SCALARS),
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(WORDS, inner, max_size=4)),
        max_leaves=max_leaves,
    )
    return nested.filter(lambda value: value is not None)


def states(max_fields: int = 6) -> st.SearchStrategy[dict[str, Any]]:
    """States of a flow: plain values under field names, some with the prefixes of reducers.

    The fields that the conditions of `graphs` read are among them, and `items`, which its for-each edges need, is an
    array wherever it is there.
    """
    known: dict[str, st.SearchStrategy[Any]] = {
        "x": st.integers(-3, 9),
        "flag": st.booleans(),
        "name": WORDS,
        "roles": st.lists(st.sampled_from(["admin", "user"]), max_size=3),
        "items": st.lists(json_values(3), max_size=4),
        "sumScore": st.integers(),
        "listNotes": st.lists(WORDS, max_size=3),
        "set_tags": st.lists(WORDS, max_size=3),
    }
    names = WORDS.filter(lambda name: name not in known)
    both = st.tuples(st.fixed_dictionaries({}, optional=known), st.dictionaries(names, json_values(), max_size=3))
    return both.map(lambda parts: dict([*parts[0].items(), *parts[1].items()][:max_fields]))


def child_trees(*actors: type[Actor] | ChildSpec, max_leaves: int = 8) -> st.SearchStrategy[ChildSpec]:
    """Trees: a supervisor over the actors, and over supervisors over them, each with at most four children.

    An actor is given by its class, or as a child that says what its constructor takes. How each is restarted, how long
    it has to stop, its backoff, and each supervisor's strategy and budget differ; what it says of its siblings is left
    out. The children are `c0`, `c1`, ..., the root is `tree`. `max_leaves` bounds how many actors and empty supervisors
    there are. InvalidSpec where no actor is given.
    """
    if not actors:
        raise InvalidSpec("child_trees: no actor given, a class or more expected: child_trees(Orders)")
    given = st.sampled_from([one if isinstance(one, ChildSpec) else child(one) for one in actors])
    leaves = st.builds(_leaf, given, _RESTARTS, _SHUTDOWNS, _BACKOFFS)
    return _supervisors(st.recursive(leaves, _supervisors, max_leaves=max_leaves))


_RESTARTS = st.sampled_from(["permanent", "transient", "temporary"])
_SHUTDOWNS = st.none() | st.sampled_from([0.0, 0.5, 1.0, 5.0, 30.0])
_BACKOFFS = st.none() | st.builds(Backoff, st.sampled_from([0.1, 1.0]), st.sampled_from([1.0, 20.0]))


def _leaf(one: ChildSpec, restart: Any, shutdown: float | None, backoff: Backoff | None) -> ChildSpec:
    return replace(one, restart=restart, shutdown=shutdown, backoff=backoff, significant=False, after=())


def _supervisors(below: st.SearchStrategy[ChildSpec]) -> st.SearchStrategy[ChildSpec]:
    return st.builds(
        _supervisor,
        st.fixed_dictionaries(
            {
                "strategy": st.sampled_from(["one_for_one", "one_for_all", "rest_for_one"]),
                "max_restarts": st.integers(0, 6),
                "within": st.sampled_from([1.0, 5.0, 60.0]),
            }
        ),
        st.lists(below, max_size=4),
        _RESTARTS,
        _SHUTDOWNS,
    )


def _supervisor(options: dict[str, Any], below: Sequence[ChildSpec], restart: Any, shutdown: float | None) -> ChildSpec:
    children = tuple(replace(one, id=f"c{number}") for number, one in enumerate(below))
    args = {**options, "children": children}
    return child(Supervisor, id="tree", args=args, restart=restart, shutdown=shutdown)


def graphs(depth: int = 2, max_blocks: int = 3) -> st.SearchStrategy[Graph]:
    """Graphs that `validate` accepts: sequences of tasks, switches, fan-outs, for-each, loops by goto, error edges and
    subgraphs, `depth` of them within each other. The nodes are `n0`, `n1`, ... in the order of their making.
    """
    return st.composite(_graph)(depth, max_blocks)


def _graph(draw: st.DrawFn, depth: int, max_blocks: int) -> Graph:
    graph = Graph("Generated", prefix_reducers=draw(st.booleans()))
    building = _Building(draw, graph, max_blocks)
    first, last = building.sequence(depth)
    graph.add_transition(last, END)
    graph.set_entry_point(first)
    return graph


class _Building:
    """Makes stretches of a graph, each with one way in and one way out: (first node, last node)."""

    def __init__(self, draw: st.DrawFn, graph: Graph, max_blocks: int) -> None:
        self.draw = draw
        self.graph = graph
        self.max_blocks = max_blocks
        self.made = 0

    def node(self) -> str:
        name = f"n{self.made}"
        self.made += 1
        self.graph.set_endpoint(name, f"https://generated.example:428/{name}")
        if self.draw(st.integers(0, 9)) == 9:
            self.graph.set_time_budget(name, self.draw(st.integers(1, 60)))
        return name

    def sequence(self, depth: int) -> tuple[str, str]:
        blocks = [self.block(depth) for _ in range(self.draw(st.integers(1, self.max_blocks)))]
        for (_, before), (after, _) in pairwise(blocks):
            self.graph.add_transition(before, after)
        return blocks[0][0], blocks[-1][1]

    def block(self, depth: int) -> tuple[str, str]:
        flat = [self.task, self.loop, self.handled, self.subgraph]
        nested = [self.switch, self.fan_out, self.for_each]
        make = self.draw(st.sampled_from(flat if depth <= 0 else [*flat, *nested]))
        return make(depth - 1)

    def task(self, _: int) -> tuple[str, str]:
        node = self.node()
        return node, node

    def loop(self, _: int) -> tuple[str, str]:
        node = self.node()
        self.graph.add_transition_goto(node, node)
        return node, node

    def subgraph(self, _: int) -> tuple[str, str]:
        node = self.node()
        fields = st.none() | st.lists(st.sampled_from(["x", "flag", "name"]), unique=True)
        self.graph.add_subgraph(node, "https://generated.example:428/child", self.draw(fields), self.draw(fields))
        return node, node

    def handled(self, _: int) -> tuple[str, str]:
        node, handler, after = self.node(), self.node(), self.node()
        add = self.draw(st.sampled_from([self.graph.add_transition_on_error, self.graph.add_transition_on_timeout]))
        add(node, handler)
        self.graph.add_transition(node, after)
        self.graph.add_transition(handler, after)
        return node, after

    def switch(self, depth: int) -> tuple[str, str]:
        node, after = self.node(), self.node()
        conditions = [self.draw(_CONDITIONS) for _ in range(self.draw(st.integers(1, 2)))]
        for condition in [*conditions, "true"]:
            first, last = self.sequence(depth)
            self.graph.add_transition_switch(node, first, condition)
            self.graph.add_transition(last, after)
        return node, after

    def fan_out(self, depth: int) -> tuple[str, str]:
        node, fan_in = self.node(), self.node()
        for _ in range(self.draw(st.integers(2, 3))):
            first, last = self.sequence(depth)
            condition = self.draw(st.none() | _CONDITIONS)
            if condition is None:
                self.graph.add_transition(node, first)
            else:
                self.graph.add_transition_when(node, first, condition)
            self.graph.add_transition(last, fan_in)
        self.graph.set_fan_in(fan_in)
        return node, fan_in

    def for_each(self, depth: int) -> tuple[str, str]:
        node, fan_in = self.node(), self.node()
        first, last = self.sequence(depth)
        self.graph.add_transition_for_each(
            node, first, for_each="items", as_=self.draw(st.sampled_from(["item", "it"]))
        )
        self.graph.add_transition(last, fan_in)
        self.graph.set_fan_in(fan_in)
        return node, fan_in
