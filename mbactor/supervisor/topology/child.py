"""One child of a topology file, read into specifications.

    found = read_child(section, "actor", kinds, nested)

A child is one specification, or one for each replica where its arguments differ by `${replica}`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mbactor.errors import InvalidSpec
from mbactor.mailbox import Mailbox
from mbactor.mailbox.overflow import OVERFLOWS
from mbactor.supervisor.partition import PartitionSupervisor
from mbactor.supervisor.spec import (
    MOST_REPLICAS,
    RESTARTS,
    ChildSpec,
    SupervisorSpec,
    check_significance,
    child,
)
from mbactor.supervisor.supervisor import Supervisor
from mbactor.supervisor.topology.arguments import Copied, arguments, configuration
from mbactor.supervisor.topology.fields import Section, described
from mbactor.supervisor.topology.interpolation import mentions_replica
from mbactor.supervisor.topology.kinds import BUILT_IN, COMMON, Kinds
from mbactor.supervisor.topology.yaml_positions import Items, Node, Place, Scalar, Table

Variant = tuple[int | None, dict[str, Any], dict[str, Any] | None]
"""The number of a replica, where it differs from others; its arguments and its configuration."""
Nested = Callable[[Section, str], SupervisorSpec | None]
"""Reads the tree of a supervisor within the file, which is called so."""


@dataclass(frozen=True, slots=True)
class Found:
    """A child as the file has it. `specs` are none where it is faulty; its ids still must be unique."""

    id: str | None
    section: Section
    replicas: int = 1
    specs: tuple[ChildSpec, ...] = ()
    after: tuple[Scalar, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        if self.id is None:
            return ()
        return (self.id,) if self.replicas == 1 else tuple(f"{self.id}-{n + 1}" for n in range(self.replicas))

    @property
    def place(self) -> Place:
        """Where its id is given, or else the child."""
        entries = self.section.table.entries
        named = entries.get("id") or entries.get("supervisor")
        return self.section.table.place if named is None else named.value.place


def read_child(section: Section, kind: str, kinds: Kinds, nested: Nested) -> Found:
    """The child in a section; `kind` is the key of it that says what it is."""
    before = len(section.problems.found)
    reference = section.text(kind, _EXPECTED[kind]) if kind in BUILT_IN else kinds.short[kind].value
    name = reference if kind == "supervisor" and reference is not None and ":" not in reference else None
    options = _options(section, kind, named=name is not None)
    replicas = options.pop("replicas", 1)
    after = _after(section)
    id = name or options.pop("id", None)
    cls: type | None = Supervisor
    variants: list[Variant] = []
    if name is not None:
        partitions = section.whole("partitions", 1, MOST_REPLICAS)
        spec = nested(section, name)
        tree = {} if spec is None else {field: getattr(spec, field) for field in SupervisorSpec.__slots__}
        if partitions is not None:
            cls = PartitionSupervisor
            alike = _alike(section, tree.pop("children", ()))
            tree = {**tree, "child": alike, "partitions": partitions}
        config = section.section("config")
        variants = [(None, tree, None if config is None else configuration(Supervisor, config))]
    else:
        cls = None if reference is None else _class(section, kind, kinds, reference)
        variants = [] if cls is None else list(_variants(section, kind, cls, replicas))
        if not section.has("id"):
            id = kinds.id_of(section.table, section.sources)
    for known in ("template", "config", *(["args"] if name is None and kind in BUILT_IN else [])):
        section.entry(known)
    section.refuse_unread()
    specs: list[ChildSpec] = []
    if len(section.problems.found) > before:
        _check_together(section, id, options)
    elif cls is not None and id is not None:
        for number, args, config_values in variants:
            own = id if number is None or replicas == 1 else f"{id}-{number}"
            count = replicas if number is None else 1
            try:
                made = child(cls, id=own, replicas=count, args=args, config=config_values, **options)
                specs.append(replace(made, args=Copied(made.args)) if made.kind == "actor" else made)
            except InvalidSpec as error:
                section.refused(error)
    return Found(id, section, replicas, tuple(specs), after)


def _alike(section: Section, children: tuple[ChildSpec, ...]) -> ChildSpec | None:
    """The one child that all partitions are made of."""
    if len(children) == 1:
        return children[0]
    if not section.problems.found:
        text = f"{len(children)} children given beside `partitions`, 1 expected: all partitions are made of that one"
        section.problems.add(section.table.place, text)
    return None


_EXPECTED = {"actor": "`module:Class`", "supervisor": "the id of the nested supervisor, or `module:Class`,"}


def _class(section: Section, kind: str, kinds: Kinds, reference: str) -> type | None:
    entry = section.table.entries[kind]
    section.entry(kind)
    try:
        return kinds.import_class(reference)
    except ValueError as error:
        section.wrong(entry.value if kind in BUILT_IN else entry.key, str(error))
        return None


def _options(section: Section, kind: str, *, named: bool) -> dict[str, Any]:
    """The keys that a child may have whatever it is made with, where they are given."""
    options: dict[str, Any] = {
        "id": None if named else section.text("id"),
        "restart": section.choice("restart", RESTARTS),
        "backoff": section.backoff("backoff"),
        "significant": section.boolean("significant"),
        "process": section.boolean("process"),
        "replicas": section.whole("replicas", 1, MOST_REPLICAS) if kind in BUILT_IN else None,
        "mailbox": _mailbox(section) if kind == "actor" else None,
    }
    options = {name: value for name, value in options.items() if value is not None}
    shutdown = section.duration("shutdown", brutal=0.0, infinity=None)
    if section.has("shutdown"):
        options["shutdown"] = shutdown
    return options


def _check_together(section: Section, id: str | None, options: Mapping[str, Any]) -> None:
    """What fields say of each other, where other mistakes keep the child from being made."""
    if section.has("restart") and "restart" not in options:  # it was refused, so nobody knows what was meant
        return
    try:
        check_significance(id, options.get("restart", "permanent"), options.get("significant", False))
    except InvalidSpec as error:
        section.refused(error)


def _mailbox(section: Section) -> Mailbox | None:
    inner = section.section("mailbox")
    if inner is None:
        return None
    before = len(section.problems.found)
    given: dict[str, Any] = {"capacity": inner.whole("capacity", 1), "overflow": inner.choice("overflow", OVERFLOWS)}
    inner.refuse_unread()
    if len(section.problems.found) > before:
        return None
    return Mailbox(**{name: value for name, value in given.items() if value is not None})


def _after(section: Section) -> tuple[Scalar, ...]:
    items = section.items("after")
    found = [section.filled_scalar(item, "the id of a sibling") for item in items.items] if items is not None else []
    return tuple(scalar for scalar in found if scalar is not None)


# --- arguments ---------------------------------------------------------------------------------------------


def _variants(section: Section, kind: str, cls: type, replicas: int) -> Iterator[Variant]:
    """Arguments and configuration; for each replica where they differ."""
    given, config = _given(section, kind), _config(section)
    tables = (given, config)
    differ = section.has("replicas") and any(table is not None and _mentions_replica(table) for table in tables)
    others = () if kind in BUILT_IN else COMMON
    for number in range(1, replicas + 1) if differ else (None,):
        before = len(section.problems.found)
        sources = replace(section.sources, secrets=True, replica=number)
        inner = None if given is None else Section(given, section.problems, sources)
        args = {} if inner is None else arguments(cls, inner, others)
        values = None if config is None else configuration(cls, Section(config, section.problems, sources))
        yield number, args, values
        if len(section.problems.found) > before:
            return


def _given(section: Section, kind: str) -> Table | None:
    """The mapping with the arguments, an empty one where there is none; None where it is something else."""
    if kind in BUILT_IN:
        inner = section.section("args")
        if inner is not None or section.has("args"):
            return None if inner is None else inner.table
        return Table({}, replace(section.table.entries[kind].value.place, path=section.table.place.at("args").path))
    value = section.table.entries[kind].value
    if isinstance(value, Table):
        return value
    if not (isinstance(value, Scalar) and value.absent):
        section.wrong(value, f"{described(value)} given, a mapping expected")
        return None
    return Table({}, value.place)


def _config(section: Section) -> Table | None:
    """The mapping with the configuration, as `_given` has that of the arguments."""
    inner = section.section("config")
    if inner is not None or section.has("config"):
        return None if inner is None else inner.table
    return Table({}, section.table.place.at("config"))


def _mentions_replica(node: Node) -> bool:
    match node:
        case Scalar(text=text):
            return mentions_replica(text)
        case Items(items=items):
            return any(map(_mentions_replica, items))
        case Table(entries=entries):
            return any(_mentions_replica(entry.value) for entry in entries.values())
