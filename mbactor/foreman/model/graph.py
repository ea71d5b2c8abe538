"""`Graph`: the definition of a workflow: nodes, transitions, fan-ins, reducers.

    g = Graph("CreditApproval")
    g.add_transition_fan_out(Credit.intake, Credit.verify_credit, Credit.verify_identity)
    g.add_transition(Credit.verify_credit, Credit.decide)
    g.add_transition(Credit.verify_identity, Credit.decide)
    g.set_fan_in(Credit.decide)
    g.add_transition(Credit.decide, END)
    g.validate()

A node is named by a string or by a task reference. Building never fails for reasons of structure:
`validate` reports every problem at once. The JSON form is what a flow keeps of its graph. The questions
of the planner (`out`, `fan_in_of`, `is_fan_out_source`) are answered from an index made at first use.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from msgspec.structs import replace

from mbactor import expressions
from mbactor.durations import Duration, seconds
from mbactor.errors import InvalidGraph
from mbactor.foreman.model import doubts, graph_json, reducers, validation
from mbactor.foreman.model.diagram import Direction, graph_mermaid
from mbactor.foreman.model.graph_index import BranchEnd, GraphIndex, index_of
from mbactor.foreman.model.join import Join
from mbactor.foreman.model.reducers import Reducer
from mbactor.foreman.model.reference import AnyNode, NodeReference, WorkflowReference, name_of, stands_for_task, url_of
from mbactor.foreman.model.state import Fields, decode_value
from mbactor.foreman.model.transition import END, Node, Transition, TransitionKind

__all__ = ["END", "Graph", "GraphWarning", "Node", "NodeReference", "Transition", "TransitionKind", "holds"]


_NONE: frozenset[str] = frozenset()
_NOWHERE = BranchEnd((), makes_room=True)


class GraphWarning(UserWarning):
    """The graph can run, but probably does not mean what it says."""


class Graph:
    """A workflow under construction, and then its definition. Builders may be called in any order.

        graph = Graph("CreditApproval")
        graph.add_transition_fan_out(Credit.intake, Credit.verify_credit, Credit.verify_identity)
        graph.add_transition(Credit.verify_credit, Credit.decide)
        graph.add_transition(Credit.verify_identity, Credit.decide)
        graph.set_fan_in(Credit.decide)
        graph.add_transition(Credit.decide, END)

    The first node registered is the entry point unless `set_entry_point` says otherwise.
    `prefix_reducers=False` switches off the choice of reducers by field name.
    """

    def __init__(self, name: str, *, prefix_reducers: bool = True) -> None:
        self.name = name
        self.prefix_reducers = prefix_reducers
        self._nodes: dict[str, Node] = {}
        self._explicit: set[str] = set()
        self._transitions: list[Transition] = []
        self._reducers: dict[str, str] = {}
        self._fan_ins: dict[str, Join] = {}
        self._budgets: dict[str, float] = {}
        self._entry_point: str | None = None
        self._references: dict[str, AnyNode] = {}
        self._build_problems: list[str] = []
        self._index: GraphIndex | None = None

    def __repr__(self) -> str:
        return f"Graph({self.name!r}, nodes={list(self._nodes)})"

    # --- building ------------------------------------------------------------------------------------

    def add_transition(self, source: AnyNode, target: AnyNode) -> None:
        """Go from source to target. Two or more such edges from one source are a fan-out."""
        self._add(source, target, "plain")

    def add_transition_when(self, source: AnyNode, target: AnyNode, when: str) -> None:
        """Go to target when the expression holds on the state, whatever the other edges do.

            graph.add_transition_when(Order.check, Order.review, "total > 1000 && customer.vip != TRUE")

        Several of one source are branches, which meet at a fan-in; one of several is `add_transition_switch`.

        Operators: == != < <= > >= =~ !~ (regular expression), && || ! and parentheses; literals are numbers, texts in
        quotes, TRUE and FALSE. A name is a field, dots lead into it, `roles.admin` asks whether the list `roles`
        holds "admin". A field that is not there is null: no number is above or below it.
        """
        self._add(source, target, "when", when=when)

    def add_transition_switch(self, source: AnyNode, target: AnyNode, when: str) -> None:
        """An if and its else: of the source's switch edges the first whose expression holds is taken.

            graph.add_transition_switch(Order.approve, Order.charge, "approved")
            graph.add_transition_switch(Order.approve, Order.release, "true")  # else

        The expressions are those of `add_transition_when`. Where no edge of the source is taken the flow ends there,
        as completed: a switch without an else ends flows that nobody thought of.
        """
        self._add(source, target, "switch", when=when)

    def add_transition_goto(self, source: AnyNode, target: AnyNode) -> None:
        """Taken only when the task calls `flow.goto(target)`."""
        self._add(source, target, "goto")

    def add_transition_for_each(
        self, source: AnyNode, target: AnyNode, *, for_each: str, as_: str = "item", max_parallel: int | None = None
    ) -> None:
        """A branch for each element of the array field `for_each`.

        No element, or no such field, is no branch: the flow goes on at the fan-in, and fields that only branches
        would have written are not there. Each branch has `item`, `item_index` and `item_count` (or what `as_` says) in
        its state; what it writes to these stays in it.

        With `max_parallel` at most so many branches of the source's fan-out are under way at once, from their first
        step to the fan-in; the others wait, in the order of the array, with the status "created".
        """
        self._add(source, target, "for_each", for_each=for_each, as_=as_ or "item", max_parallel=max_parallel)

    def add_transition_fan_out(self, source: AnyNode, *targets: AnyNode) -> None:
        """A branch to each target. They meet again at a node marked with `set_fan_in`."""
        for target in targets:
            self.add_transition(source, target)

    def add_transition_chain(self, *nodes: AnyNode) -> None:
        """One after the other."""
        for source, target in pairwise(nodes):
            self.add_transition(source, target)

    def add_transition_on_error(self, source: AnyNode, target: AnyNode) -> None:
        """Taken when the task fails; the target reads what happened in the field `on_err`: its `error`, `statusCode`,
        `type`, `taken` and `fields`, and its `trace_id` where it has one.
        """
        self._add(source, target, "on_error")

    def add_transition_on_timeout(self, source: AnyNode, target: AnyNode) -> None:
        """Taken when the task fails with status 408; wins over `on_error`."""
        self._add(source, target, "on_timeout")

    def add_subgraph(
        self,
        name: str,
        workflow: str | WorkflowReference,
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        """A node that runs a workflow as a child; the named fields go in and come back.

        By default all go in, and what the child has changed or added comes back. Where branches meet, a field that a
        reducer combines counts as what the node wrote: one that goes in and is added to there is counted twice.
        """
        if stands_for_task(workflow):
            raise TypeError(f"add_subgraph({name!r}) needs a workflow, {workflow!r} is a task; use set_endpoint")
        node = Node(name, url_of(workflow), subgraph=True, inputs=_names(inputs), outputs=_names(outputs))
        self._set(node)

    def set_endpoint(self, name: str, task: AnyNode) -> None:
        """What the node of this name runs: a task reference, or a URL, of which no rate is known. Without it a name is
        its own URL.
        """
        if not isinstance(task, str) and not stands_for_task(task) and hasattr(task, "url"):
            raise TypeError(f"set_endpoint({name!r}) needs a task, {task!r} is none; use add_subgraph for a workflow")
        self._references[name] = task
        self._set(Node(name, url_of(task), rate=getattr(task, "rate", "")))

    def set_fan_in(self, node: AnyNode, join: Join = Join.ALL) -> None:
        """Branches meet here: the node runs once, on the merged state of all of them.

        `join` says which it waits for: `Join.ALL`, `Join.FIRST_ERROR`, `Join.ANY`, `Join.at_least(2)`.
        """
        if not isinstance(join, Join):
            raise TypeError(f"set_fan_in needs a Join such as Join.ANY or Join.at_least(2), got join={join!r}")
        self._fan_ins[name_of(node)] = join
        self._index = None

    def set_reducer(self, field: str, reducer: Reducer | str) -> None:
        """How values of this field are combined where branches meet. The last call wins.

            graph.set_reducer("total", "add")  # or append, union, merge, min, max, and, or, concat, replace
            graph.set_reducer("title", "longest")  # one of your own, see `reducer`

        Without it the prefix of a field's name decides, and else what the last branch wrote.
        """
        if not isinstance(field, str):
            raise TypeError(f"set_reducer needs the name of a field, got {field!r}")
        if not isinstance(reducer, str):
            known = reducers.name_of(reducer) if callable(reducer) else None
            meant = f", did you mean {known!r}?" if known else ""
            raise TypeError(f"set_reducer({field!r}) needs the name of a reducer, got {reducer!r}{meant}")
        self._reducers[field] = str(reducer.value if isinstance(reducer, Reducer) else reducer)
        self._index = None

    def set_time_budget(self, node: AnyNode, duration: Duration) -> None:
        """How long one run of this node's task may take, up to 15 minutes, as any ask; and for how long it is offered
        where nobody serves it. A node that calls a workflow waits as long as that takes.
        """
        self._budgets[name_of(node)] = seconds(duration)
        self._index = None

    def set_entry_point(self, node: AnyNode) -> None:
        """Where flows begin, if not at the first node registered."""
        self._entry_point = name_of(node)
        self._index = None

    def _add(self, source: AnyNode, target: AnyNode, kind: TransitionKind, **fields: Any) -> None:
        self._transitions.append(Transition(self._register(source), self._register(target), kind, **fields))
        self._index = None

    def _register(self, node: AnyNode) -> str:
        name = name_of(node)
        if name == END:
            return name
        url = name if isinstance(node, str) else node.url
        known = self._nodes.get(name)
        if known is None or (known.url == name and name not in self._explicit):
            self._nodes[name] = Node(name, url, rate=getattr(node, "rate", ""))
        elif url not in {known.url, name} and name not in self._explicit:
            self._build_problems.append(
                f"node {name!r} stands for two tasks, {known.url} and {url}; "
                f"give one of them a name of its own with set_endpoint(name, task) and use that name"
            )
        if not isinstance(node, str):
            self._references.setdefault(name, node)
        return name

    def _set(self, node: Node) -> None:
        if node.name != END:
            self._nodes[node.name] = node
            self._explicit.add(node.name)
            self._index = None

    # --- reading -------------------------------------------------------------------------------------

    @property
    def entry_point(self) -> str:
        """The node where flows begin; "" while there is none."""
        return self._entry_point if self._entry_point is not None else next(iter(self._nodes), "")

    @property
    def nodes(self) -> tuple[Node, ...]:
        """In the order of registration."""
        return tuple(map(self._whole, self._nodes.values()))

    @property
    def transitions(self) -> tuple[Transition, ...]:
        """In the order of registration."""
        return tuple(self._transitions)

    @property
    def reducers(self) -> Mapping[str, str]:
        """The explicit ones: field -> name."""
        return self._reducers

    @property
    def time_budgets(self) -> Mapping[str, float]:
        """Node name -> seconds, where one was set."""
        return self._budgets

    @property
    def open_fan_outs(self) -> Mapping[str, tuple[str, ...]]:
        """For each node that can be reached, the fan-outs it is inside of, outermost first."""
        return self._indexed().stacks

    @property
    def fan_ins(self) -> tuple[str, ...]:
        """The names marked with `set_fan_in`: the graph's nodes in their order, then what is no node."""
        known = [name for name in self._nodes if name in self._fan_ins]
        return (*known, *(name for name in self._fan_ins if name not in self._nodes))

    def has_node(self, name: str) -> bool:
        return name in self._nodes

    def node(self, name: str) -> Node:
        """The node of this name; KeyError lists those there are."""
        found = self._indexed().nodes.get(name)
        if found is None:
            raise KeyError(f"graph {self.name!r} has no node {name!r}; it has {', '.join(self._nodes) or 'none'}")
        return found

    def url_of(self, name: str) -> str:
        """The URL of a node; END is its own."""
        return END if name == END else self.node(name).url

    def is_fan_in(self, name: str) -> bool:
        return name in self._fan_ins

    def out(self, name: str) -> tuple[Transition, ...]:
        """The edges that leave the node, in the order of registration."""
        return self._indexed().out.get(name, ())

    def only_way(self, name: str) -> Transition | None:
        """The edge that is taken from the node whatever the state is; None where that depends on it."""
        return self._indexed().only_ways.get(name)

    def join_of(self, fan_in: str) -> Join:
        """Which branches the fan-in waits for."""
        return self._fan_ins.get(fan_in, Join.ALL)

    def max_parallel_of(self, source: str) -> int | None:
        """How many branches of the fan-out that this node begins may be under way at once; None: all."""
        return self._indexed().most_at_once.get(source)

    def is_fan_out_source(self, name: str) -> bool:
        """Whether it spawns a cohort: it has a for-each edge, or two or more plain or conditional ones."""
        return name in self._indexed().fan_out_sources

    def fan_in_of(self, source: str) -> str | None:
        """The fan-in where the cohort that this fan-out source spawns converges."""
        return self._indexed().fan_ins.get(source)

    def branch_end(self, name: str) -> BranchEnd:
        """What it means for the cohorts around a step of this node that its branch ends with it."""
        return self._indexed().ends.get(name, _NOWHERE)

    def branch_fields_of(self, source: str) -> frozenset[str]:
        """The fields that stay in the branches of this fan-out: the elements of its for-each and of those within."""
        return self._indexed().branch_fields.get(source, _NONE)

    def failure_transition(self, name: str, status: int) -> Transition | None:
        """The edge for a failure with this status: `on_timeout` for 408 if there is one, else `on_error`."""
        edges = {edge.kind: edge for edge in reversed(self.out(name))}
        timeout = edges.get("on_timeout") if status == 408 else None
        return timeout or edges.get("on_error")

    def _indexed(self) -> GraphIndex:
        if self._index is None:
            self._index = index_of(self.nodes, self._transitions, self.entry_point, self._fan_ins)
        return self._index

    def _whole(self, node: Node) -> Node:
        """The node with what was said of it apart."""
        name = node.name
        if name not in self._fan_ins and name not in self._budgets:
            return node
        return replace(node, fan_in=name in self._fan_ins, join=self.join_of(name), time_budget=self._budgets.get(name))

    # --- checking ------------------------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Everything that keeps the graph from running, each naming its node or edge; empty when valid."""
        return [*validation.structural_problems(self), *self._build_problems, *self._indexed().problems]

    def warnings(self) -> list[str]:
        """What probably is not meant, though it can run.

        Among it: a field that several branches write with no reducer to combine it, as far as the results of the tasks
        are annotated with a Struct, TypedDict or dataclass.
        """
        return doubts.doubts(self, {node.name: self._written_by(node) for node in self.nodes})

    def _written_by(self, node: Node) -> Mapping[str, Any]:
        if node.subgraph:
            return dict.fromkeys(node.outputs or (), Any)
        fields = getattr(self._references.get(node.name), "result_fields", None)
        return fields if isinstance(fields, Mapping) else {}

    def validate(self) -> None:
        """Raise `InvalidGraph` with every problem, or warn (`GraphWarning`) of what is doubtful."""
        found = self.problems()
        if found:
            raise InvalidGraph(self.name, found)
        for doubt in self.warnings():
            warnings.warn(f"graph {self.name!r}: {doubt}", GraphWarning, stacklevel=2)

    def mermaid(
        self,
        *,
        direction: Direction = "LR",
        title: bool = True,
        link: str | None = None,
        styles: Mapping[str, str] | None = None,
    ) -> str:
        """The graph as a Mermaid flowchart; need not be valid.

            graph.mermaid(direction="TD", link="task", styles={"task": "fill:#fff,stroke:#000"})

        `link` makes each node a link to `?<link>=<its name>`. Styles are those of `task`, `term` (circles and diamonds)
        and `link` (edges).
        """
        return graph_mermaid(self, direction=direction, title=title, link=link, styles=styles)

    # --- JSON ------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The graph as plain values with the keys of the stored form; `from_dict` reads them back."""
        return graph_json.to_dict(self)

    def to_json(self) -> str:
        """The graph as JSON text: what is stored with each flow. InvalidGraph where half a surrogate pair is in it."""
        try:
            return graph_json.to_text(self.to_dict())
        except UnicodeEncodeError as error:
            raise InvalidGraph(self.name, self.problems() or [str(error)]) from None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Graph:
        """The graph that `to_dict` wrote. Its structure is for `validate` to judge; `InvalidGraph` here says
        that the data has another shape.
        """
        return cls._of_parts(graph_json.parts_of_dict(data))

    @classmethod
    def from_json(cls, text: str | bytes) -> Graph:
        """The graph that `to_json` wrote; `InvalidGraph` when the text is none."""
        return cls._of_parts(graph_json.parts_of_text(text))

    @classmethod
    def _of_parts(cls, parts: graph_json.Parts) -> Graph:
        graph = cls(parts.name, prefix_reducers=parts.prefix_reducers)
        for node in parts.nodes:
            graph._nodes[node.name] = replace(node, fan_in=False, join=Join.ALL, time_budget=None)
            if node.fan_in:
                graph._fan_ins[node.name] = node.join
            if node.time_budget is not None:
                graph._budgets[node.name] = node.time_budget
        graph._explicit = set(graph._nodes)
        graph._transitions = list(parts.transitions)
        graph._reducers = dict(parts.reducers)
        graph._entry_point = parts.entry_point
        graph._build_problems = list(parts.problems)
        return graph


def holds(when: str, fields: Fields) -> bool:
    """Whether the expression is true on this state. Only the fields it names are decoded.

    `InvalidExpression` when it does not parse, or a regular expression taken from the state is invalid.
    """
    program = expressions.parse(when)
    symbols = {name: decode_value(fields[name]) for name in program.fields if name in fields}
    return program.evaluate(symbols)


def _names(names: Sequence[str] | None) -> tuple[str, ...] | None:
    if isinstance(names, str):
        raise TypeError(f"expected a list of field names, got the string {names!r}")
    return None if names is None else tuple(names)
