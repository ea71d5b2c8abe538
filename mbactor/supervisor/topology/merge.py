"""Documents that are made of several: templates of children, and overlays over a whole file.

    templates = Templates(merged_templates([document, overlay]), problems, sources)
    table = Overlays(templates, kinds).file(document.table, overlay.table)
    child = templates.applied(child)

What is merged are nodes that know where they stand, so a fault is reported where its value comes from. Mappings merge
deeply; anything else replaces what was there. Only the lists of children of an overlay merge, by id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from mbactor.errors import did_you_mean
from mbactor.supervisor.topology.fields import Section
from mbactor.supervisor.topology.files import Document
from mbactor.supervisor.topology.interpolation import Sources
from mbactor.supervisor.topology.kinds import Kinds
from mbactor.supervisor.topology.yaml_positions import Entry, Items, Node, Problems, Scalar, Table


def merged(base: Node, over: Node) -> Node:
    """`over`, and what `base` has more where both are mappings."""
    return merged_tables(base, over) if isinstance(base, Table) and isinstance(over, Table) else over


def merged_tables(base: Table, over: Table) -> Table:
    entries = dict(base.entries)
    for name, entry in over.entries.items():
        below = base.entries.get(name)
        entries[name] = entry if below is None else Entry(entry.key, merged(below.value, entry.value))
    return Table(entries, over.place)


class Templates:
    """What children can be made of. `applied` is a child with the template that it names, its own keys first."""

    def __init__(self, entries: Mapping[str, Entry], problems: Problems, sources: Sources) -> None:
        self.entries = entries
        self.problems = problems
        self.sources = sources
        self._whole: dict[str, Table] = {}

    def unused(self) -> list[Entry]:
        """Those that no child was made of so far."""
        return [entry for name, entry in self.entries.items() if name not in self._whole]

    def applied(self, table: Table, above: tuple[str, ...] = ()) -> Table:
        """The child, and those within it, with what their templates have."""
        table = self.in_children(table, above)
        if "template" not in table.entries:
            return table
        base = self._named(table, above)
        # One that is faulty stays: who reads the child then does not ask for what it would have brought.
        return table if base is None else merged_tables(base, _without(table, "template"))

    def in_children(self, table: Table, above: tuple[str, ...] = ()) -> Table:
        """The supervisor with its children applied."""
        children = table.entries.get("children")
        if children is None or not isinstance(children.value, Items):
            return table
        items = [self.applied(one, above) if isinstance(one, Table) else one for one in children.value.items]
        whole = Items(tuple(items), children.value.place)
        return Table({**table.entries, "children": replace(children, value=whole)}, table.place)

    def _named(self, table: Table, above: tuple[str, ...]) -> Table | None:
        section = Section(table, self.problems, self.sources)
        name = section.text("template", "the name of a template")
        if name is None:
            return None
        if name in above:
            cycle = " -> ".join([*above[above.index(name) :], name])
            section.wrong_at("template", f"the template is made of itself: {cycle}")
            return None
        entry = self.entries.get(name)
        if entry is None:
            hint = did_you_mean(name, self.entries) or f"; known: {', '.join(self.entries) or 'none'}"
            section.wrong_at("template", f"there is no template {name!r}{hint}")
            return None
        if name not in self._whole:
            assert isinstance(entry.value, Table)
            self._whole[name] = self.applied(entry.value, (*above, name))
        return self._whole[name]


def merged_templates(documents: Iterable[Document]) -> dict[str, Entry]:
    """The templates of a file as its overlays change them."""
    templates: dict[str, Entry] = {}
    for document in documents:
        for name, entry in document.templates.items():
            below = templates.get(name)
            templates[name] = entry if below is None else Entry(below.key, merged(below.value, entry.value))
    return templates


class Overlays:
    """Changes a file by another: `file(base, over)`."""

    def __init__(self, templates: Templates, kinds: Kinds) -> None:
        self.templates = templates
        self.kinds = kinds
        self.problems, self.sources = templates.problems, templates.sources

    def file(self, base: Table, over: Table) -> Table:
        whole = merged_tables(base, over)
        match base.entries.get("supervisor"), over.entries.get("supervisor"):
            case Entry(value=Table() as below), Entry(key=key, value=Table() as above):
                whole.entries["supervisor"] = Entry(key, self.tree(below, above))
        return Table(whole.entries, base.place)

    def tree(self, base: Table, over: Table) -> Table:
        """A supervisor, or any child, with its children merged by id."""
        whole = merged_tables(base, over)
        match base.entries.get("children"), over.entries.get("children"):
            case Entry(value=Items() as below), Entry(key=key, value=Items() as above):
                whole.entries["children"] = Entry(key, self.children(below, above))
            case None, Entry(key=key, value=Items() as above):
                whole.entries["children"] = Entry(key, self.children(Items((), base.place), above))
        return Table(whole.entries, base.place)

    def children(self, base: Items, over: Items) -> Items:
        ids: dict[str, int] = {}
        for number, one in enumerate(base.items):
            own = self.id_of(one)
            if own is not None:
                ids.setdefault(own, number)
        items: list[Node | None] = [*base.items]
        for item in over.items:
            id = self.id_of(item)
            place = ids.get(id) if id is not None else None
            below = None if place is None else items[place]
            if not isinstance(item, Table):
                items.append(item)
            elif place is None or not isinstance(below, Table):
                items.append(self.added(item, id, [*ids]))
            else:
                items[place] = self.changed(below, item)
                if items[place] is None and id is not None:
                    del ids[id]
        return Items(tuple(item for item in items if item is not None), base.place)

    def added(self, item: Table, id: str | None, known: list[str]) -> Table | None:
        """A child that the base does not have; None where it was meant to have it."""
        remove = self.removes(item)
        has_kind = bool(self.kinds.named_in(self.templates.applied(item)))
        if not remove and (has_kind or id is None):
            return _without(item, "remove")
        hint = did_you_mean(id or "", known) or f"; known: {', '.join(known) or 'none'}"
        verb = "remove" if remove else "change"
        child = "child" if id is None else f"child {id!r}"
        more = "" if remove else " (a new one needs a kind, such as `actor: module:Class`)"
        named = item.entries.get("id", item.entries.get("supervisor"))
        place = item.place if named is None else named.value.place
        self.problems.add(place, f"there is no {child} to {verb} here{hint}{more}")
        return None

    def changed(self, base: Table, over: Table) -> Table | None:
        if not self.removes(over):
            # What says which child is meant does not change it.
            given = over.entries.get("supervisor")
            nested = given is not None and isinstance(given.value, Scalar) and ":" not in given.value.text
            over = _without(over, "remove", "id", *(["supervisor"] if nested else []))
            return self.tree(self.templates.applied(base) if "children" in over.entries else base, over)
        for name, entry in over.entries.items():
            if name not in {"id", "remove", "template", *self.kinds.known}:
                self.problems.add(entry.key.place, "given for a child that is removed; nothing else expected")
        return None

    def removes(self, item: Table) -> bool:
        return Section(item, self.problems, self.sources).boolean("remove") or False

    def id_of(self, item: Node) -> str | None:
        return self.kinds.id_of(self.templates.applied(item), self.sources) if isinstance(item, Table) else None


def _without(table: Table, *names: str) -> Table:
    return Table({name: entry for name, entry in table.entries.items() if name not in names}, table.place)
