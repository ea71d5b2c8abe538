"""A topology file with what it includes, as one document of nodes that know where they stand.

    document = Files(problems, sources, kinds).document(Path("shop.yaml"))

`- include: more.yaml` in a list of children brings in the children and the templates of another file: a list, a
mapping with `children`, or a whole topology file. Its path is relative to the file that it stands in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mbactor.supervisor.topology.fields import Section, described
from mbactor.supervisor.topology.interpolation import Sources
from mbactor.supervisor.topology.kinds import Kinds
from mbactor.supervisor.topology.yaml_positions import Entry, Items, Node, Problems, Table, read

MOST_CHILDREN = 100_000
MOST_INCLUDES = 1_000
"""More than these is files that include others again and again."""


@dataclass(frozen=True, slots=True)
class Document:
    """A file without includes and, apart from it, the templates of all its files."""

    table: Table
    templates: Mapping[str, Entry]


class Files:
    """Reads files, but those whose content is `given`; `included` are those that others brought in."""

    def __init__(
        self, problems: Problems, sources: Sources, kinds: Kinds, given: Mapping[Path, bytes] | None = None
    ) -> None:
        self.given = given or {}
        self.problems = problems
        self.sources = sources
        self.kinds = kinds
        self.included: list[Path] = []
        self._above: list[Path] = []
        self._templates: dict[str, Entry] = {}
        self._nodes: dict[Path, Node | None] = {}
        self._children_read = 0
        self._includes_read = 0

    def document(self, file: Path) -> Document | None:
        """The document of a file, or None where it is none."""
        node = read(file, str(file), self.problems, self.given.get(file))
        if node is None:
            return None
        if not isinstance(node, Table):
            self.problems.add(
                node.place, f"{described(node)} given, a mapping with `version` and `supervisor` expected"
            )
            return None
        self._above, self._templates = [file], {}
        entries = dict(node.entries)
        self._collect(node)
        entries.pop("templates", None)
        supervisor = entries.get("supervisor")
        if supervisor is not None and isinstance(supervisor.value, Table):
            entries["supervisor"] = replace(supervisor, value=self._tree(supervisor.value))
        return Document(Table(entries, node.place), self._templates)

    def _section(self, table: Table) -> Section:
        return Section(table, self.problems, self.sources)

    def _collect(self, table: Table) -> None:
        """Keep the templates of a file."""
        templates = self._section(table).section("templates")
        for name, entry in templates.table.entries.items() if templates is not None else ():
            known = self._templates.get(name)
            if not isinstance(entry.value, Table):
                self.problems.add(entry.value.place, f"{described(entry.value)} given, a mapping expected")
            elif known is not None and known.key.place != entry.key.place:
                self.problems.add(entry.key.place, f"the template is given twice (first at {known.key.place})")
            elif known is None:
                whole = self._tree(self.kinds.with_own_keys(entry.value, self.problems))
                self._templates[name] = replace(entry, value=whole)

    def _tree(self, table: Table) -> Table:
        """A supervisor, or what may be one, with the whole list of its children."""
        children = table.entries.get("children")
        if children is None or not isinstance(children.value, Items):
            return table
        whole = Items(tuple(self._children(children.value)), children.value.place)
        return Table({**table.entries, "children": replace(children, value=whole)}, table.place)

    def _children(self, items: Items) -> Iterator[Node]:
        for item in items.items:
            self._children_read += 1
            if self._children_read > MOST_CHILDREN:
                self.problems.add(item.place, f"more than {MOST_CHILDREN} children, with those of included files")
                return
            if not isinstance(item, Table):
                yield item
            elif "include" in item.entries and len(self.kinds.named_in(item)) == 1:
                yield from self._include(item)
            else:
                yield self._tree(self.kinds.with_own_keys(item, self.problems))

    # --- included files ---------------------------------------------------------------------------------------

    def _include(self, item: Table) -> Iterator[Node]:
        section = self._section(item)
        name = section.text("include", "the path of a file")
        section.refuse_unread()
        if name is None:
            return
        here = self._above[-1]
        target = here.parent / name
        try:
            circular = target.resolve() in [path.resolve() for path in self._above]
        except (OSError, RuntimeError, ValueError):  # links that lead to each other, or a name that no file can have
            section.wrong_at("include", f"there is no file {str(target)!r}")
            return
        if circular:
            cycle = " -> ".join(str(path) for path in [*self._above, target])
            section.wrong_at("include", f"the file includes itself: {cycle}")
            return
        if not target.is_file():
            section.wrong_at("include", f"there is no file {str(target)!r}")
            return
        self._includes_read += 1
        if self._includes_read > MOST_INCLUDES:
            section.wrong_at("include", f"more than {MOST_INCLUDES} includes, with those of included files")
            return
        # By whichever way it is named it is one file, where what it names in turn is looked for in the same folder.
        one = target.parent.resolve() / target.name
        if one not in self._nodes:
            self.included.append(target)
            self._nodes[one] = read(target, str(target), self.problems)
        self._above.append(target)
        items = self._included_items(self._nodes[one])
        if items is not None:
            yield from self._children(items)
        self._above.pop()

    def _included_items(self, node: Node | None) -> Items | None:
        """A list of children, a mapping with `children`, or a whole topology file."""
        match node:
            case None:
                return None
            case Items():
                return node
            case Table(entries={"supervisor": Entry(value=Table() as inner)}):
                self._collect(node)
                return self._section(inner).items("children")
            case Table(entries={"children": _}):
                self._collect(node)
                section = self._section(node)
                section.entry("version")
                section.entry("templates")
                items = section.items("children")
                section.refuse_unread()
                return items
            case _:
                self.problems.add(node.place, f"{described(node)} given, a list of children or `children:` expected")
                return None
