"""The supervisors of a topology file, read into specifications: their options and their lists of children.

    reader = TreeReader(problems, sources, kinds)
    spec = reader.supervisor(section, ids=())

What is read is whole already: includes, overlays and templates are worked in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from mbactor.errors import InvalidSpec, did_you_mean
from mbactor.supervisor.spec import AUTO_SHUTDOWNS, STRATEGIES, ChildSpec, SupervisorSpec
from mbactor.supervisor.topology.child import Found, read_child
from mbactor.supervisor.topology.fields import Section, described
from mbactor.supervisor.topology.files import MOST_CHILDREN
from mbactor.supervisor.topology.interpolation import Sources
from mbactor.supervisor.topology.kinds import KEYS, Kinds
from mbactor.supervisor.topology.yaml_positions import Items, Place, Problems, Table

Ids = tuple[str, ...]
"""Where a child stands: the ids from below the root down to its own."""


def nearest(known: Collection[Ids], ids: Ids) -> Ids:
    """Of the children that stand in a file the one that is meant, or that makes it in code: a replica and a partition
    stand where the child does that they are made of.
    """
    fits: list[Ids] = [()]
    for id in ids:
        deeper = [(*one, name) for one in fits for name in (id, id.rpartition("-")[0]) if (*one, name) in known]
        if not deeper:
            break
        fits = deeper
    return fits[0]


class TreeReader:
    """Reads supervisors with their children. `tables` tells afterwards where each child stands in the file."""

    def __init__(self, problems: Problems, sources: Sources, kinds: Kinds) -> None:
        self.problems = problems
        self.sources = sources
        self.kinds = kinds
        self.tables: dict[Ids, Table] = {}
        self._count = 0

    def supervisor(self, section: Section, ids: Ids) -> SupervisorSpec | None:
        """The supervisor that a section describes, with the children that have no fault."""
        self.tables[ids] = section.table
        options: dict[str, Any] = {
            "strategy": section.choice("strategy", STRATEGIES),
            "max_restarts": section.whole("max_restarts", 0),
            "within": section.duration("within"),
            "auto_shutdown": section.choice("auto_shutdown", AUTO_SHUTDOWNS),
        }
        options = {name: value for name, value in options.items() if value is not None}
        items = section.items("children")
        found = [] if items is None else list(self._children(items, ids))
        self._refuse_twice(found)
        after = self._after(found)
        try:
            bare = SupervisorSpec(**options)
        except InvalidSpec as error:
            section.refused(error)
            return None
        children = [spec for one, before in zip(found, after, strict=True) for spec in _allowed(bare, one, before)]
        try:
            return SupervisorSpec(**options, children=children)
        except InvalidSpec as error:
            # What has a position was reported there already.
            if not self.problems.found:
                section.refused(error)
            return None

    def _children(self, items: Items, ids: Ids) -> Iterator[Found]:
        for item in items.items:
            self._count += 1
            if self._count > MOST_CHILDREN:
                self.problems.add(item.place, f"more than {MOST_CHILDREN} children, with those of templates")
                return
            if not isinstance(item, Table):
                text = f"{described(item)} given, a mapping such as `actor: module:Class` expected"
                self.problems.add(item.place, text)
                continue
            kind = self._kind(item)
            if kind is not None:
                section = Section(item, self.problems, self.sources)
                found = read_child(section, kind, self.kinds, lambda inner, id: self.supervisor(inner, (*ids, id)))
                self.tables.update({(*ids, id): item for id in found.ids})
                yield found

    def _kind(self, table: Table) -> str | None:
        kinds, known = self.kinds.named_in(table), self.kinds.known
        unknown = next((entry.key for key, entry in table.entries.items() if key not in KEYS), None)
        if kinds == ["include"]:
            self.problems.add(table.entries["include"].key.place, "an include stands in a list of children by itself")
        elif len(kinds) == 1:
            return kinds[0]
        elif kinds:
            second = table.entries[kinds[1]].key
            self.problems.add(second.place, f"two kinds given, {kinds[0]!r} and {kinds[1]!r}; one expected")
        elif unknown is not None and unknown.text == "remove":
            self.problems.add(unknown.place, "only an overlay removes a child; give it by -o after the file it changes")
        elif unknown is not None:
            hint = did_you_mean(unknown.text, [*known, *sorted(KEYS)]) or f"; known: {', '.join(known)}"
            self.problems.add(unknown.place, f"unknown kind {unknown.text!r}{hint}")
        elif "template" not in table.entries:
            self.problems.add(table.place, f"no kind given, one of {', '.join(known)} expected")
        return None

    def _refuse_twice(self, found: Sequence[Found]) -> None:
        seen: dict[str, Place] = {}
        for one in found:
            for id in one.ids:
                if id in seen:
                    text = f"the id {id!r} is given twice in this supervisor (first at {seen[id]})"
                    self.problems.add(one.place, text)
                seen.setdefault(id, one.place)

    # --- after ------------------------------------------------------------------------------------------------

    def _after(self, found: Sequence[Found]) -> list[tuple[str, ...]]:
        """For each child the ids of those that are started before it, replicas one by one."""
        named: dict[str, int] = {}
        for place, one in enumerate(found):
            named.update(dict.fromkeys([*one.ids, *([one.id] if one.id is not None else [])], place))
        all_known = all(one.id is not None for one in found)
        for one in found:
            for scalar in one.after:
                if scalar.text not in named and all_known:
                    siblings = [id for id in named if id not in one.ids and id != one.id]
                    hint = did_you_mean(scalar.text, siblings) or f", one of its siblings expected: {_list(siblings)}"
                    self.problems.add(scalar.place, f"there is no child {scalar.text!r} here{hint}")
        self._refuse_circles(found, named)
        return [tuple(id for scalar in one.after for id in _ids_of(scalar.text, found, named)) for one in found]

    def _refuse_circles(self, found: Sequence[Found], named: dict[str, int]) -> None:
        before = {
            place: {named[scalar.text] for scalar in one.after if scalar.text in named}
            for place, one in enumerate(found)
        }
        while (circle := _circle(before)) is not None:
            first, second = circle[0], circle[1]
            scalar = next(scalar for scalar in found[first].after if named.get(scalar.text) == second)
            told = " after ".join(str(found[place].id) for place in circle)
            self.problems.add(scalar.place, f"they are started after each other: {told}")
            before[first].discard(second)


def _allowed(supervisor: SupervisorSpec, found: Found, after: tuple[str, ...]) -> list[ChildSpec]:
    """The specifications of a child, where it can be under this supervisor."""
    try:
        for spec in found.specs:
            supervisor.check_child(spec)
    except InvalidSpec as error:
        found.section.refused(error)
        return []
    return [replace(spec, after=after) for spec in found.specs]


def _ids_of(name: str, found: Sequence[Found], named: dict[str, int]) -> tuple[str, ...]:
    place = named.get(name)
    return found[place].ids if place is not None and found[place].id == name else (name,)


def _circle(before: dict[int, set[int]]) -> list[int] | None:
    """Children that wait for each other, from the first of them round to itself; None where there are none."""
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        ring: list[int] = error.args[1][:0:-1]
        start = ring.index(min(ring))
        return [*ring[start:], *ring[:start], min(ring)]
    return None


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
