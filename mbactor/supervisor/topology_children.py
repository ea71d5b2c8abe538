"""The lists of children in a topology file: actors, nested supervisors, short kinds and included files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbactor.errors import InvalidSpec
from mbactor.mailbox import Mailbox
from mbactor.supervisor.spec import (
    AUTO_SHUTDOWNS,
    RESTARTS,
    STRATEGIES,
    ChildSpec,
    SupervisorSpec,
    child,
    kebab_case,
)
from mbactor.supervisor.supervisor import Supervisor
from mbactor.supervisor.topology_classes import arguments, import_class, parameters, short_kinds
from mbactor.supervisor.topology_fields import Section, described, did_you_mean
from mbactor.supervisor.yaml_positions import Entry, Items, Node, Place, Problems, Scalar, Table, read

BUILT_IN = ("actor", "supervisor", "include")
COMMON = frozenset({"id", "restart", "shutdown", "backoff", "config", "significant", "process"})
_TREE = frozenset({"strategy", "max_restarts", "within", "auto_shutdown", "children"})
_KEYS = COMMON | _TREE | {"replicas", "mailbox", "args"}


@dataclass(frozen=True, slots=True)
class Found:
    """A child as the file has it. `spec` is None where it is faulty; its ids still must be unique."""

    id: str | None
    place: Place
    path: str
    replicas: int = 1
    spec: ChildSpec | None = None

    def ids(self) -> list[str]:
        if self.id is None:
            return []
        return [self.id] if self.replicas == 1 else [f"{self.id}-{n + 1}" for n in range(self.replicas)]


class ChildrenReader:
    """Reads lists of children, included files too."""

    def __init__(self, problems: Problems, environ: Mapping[str, str]) -> None:
        self.problems = problems
        self.environ = environ
        self.kinds = short_kinds()
        self.included: list[Path] = []
        self._files: list[Path] = []

    def read(self, section: Section, file: Path) -> tuple[ChildSpec, ...]:
        """The children of one supervisor, those that have no fault; their ids are unique."""
        items = section.items("children")
        if items is None:
            return ()
        self._files.append(file)
        found = list(self._children(items, section.at("children"), file))
        self._files.pop()
        seen: dict[str, Place] = {}
        specs = []
        for one in found:
            twice = [id for id in one.ids() if id in seen]
            for id in twice:
                text = f"the id {id!r} is given twice in this supervisor (first at {seen[id]})"
                self.problems.add(one.place, one.path, text)
            seen.update({id: one.place for id in one.ids() if id not in seen})
            if one.spec is not None and not twice:
                specs.append(one.spec)
        return tuple(specs)

    def _children(self, items: Items, path: str, file: Path) -> Iterator[Found]:
        for n, item in enumerate(items.items):
            at = f"{path}[{n}]"
            if not isinstance(item, Table):
                text = f"{described(item)} given, a mapping such as `actor: module:Class` expected"
                self.problems.add(item.place, at, text)
                continue
            kind = self._kind(item, at)
            section = Section(item, at, self.problems, self.environ)
            if kind == "include":
                yield from self._include(section, file)
            elif kind == "actor":
                yield self._actor(section, "actor")
            elif kind == "supervisor":
                yield self._supervisor(section, file)
            elif kind is not None:
                yield self._short(section, kind)

    def _kind(self, table: Table, path: str) -> str | None:
        kinds = [key for key in table.entries if key in BUILT_IN or (key in self.kinds and key not in _KEYS)]
        if len(kinds) == 1:
            return kinds[0]
        known = [*BUILT_IN, *sorted(self.kinds)]
        unknown = next((entry.key for key, entry in table.entries.items() if key not in _KEYS), None)
        if kinds:
            second = table.entries[kinds[1]].key
            self.problems.add(second.place, path, f"two kinds given, {kinds[0]!r} and {kinds[1]!r}; one expected")
        elif unknown is not None:
            hint = did_you_mean(unknown.text, [*known, *sorted(_KEYS)])
            text = f"unknown kind {unknown.text!r}{hint}; known: {', '.join(known)}"
            self.problems.add(unknown.place, f"{path}.{unknown.text}", text)
        else:
            self.problems.add(table.place, path, f"no kind given, one of {', '.join(known)} expected")
        return None

    # --- one child ----------------------------------------------------------------------------------------

    def _actor(self, section: Section, key: str) -> Found:
        before = len(self.problems.found)
        cls = self._class(section, key)
        options = self._options(section)
        args: dict[str, Any] = {}
        inner = section.section("args")
        if cls is not None and (inner is not None or not section.has("args")):
            args = arguments(cls, inner, section.table.entries[key], section)
        section.refuse_unread()
        return self._found(section, cls, args, options, before)

    def _short(self, section: Section, kind: str) -> Found:
        before = len(self.problems.found)
        entry = section.table.entries[kind]
        section.entry(kind)
        try:
            cls: type | None = import_class(self.kinds[kind].value)
        except ValueError as error:
            cls = None
            section.wrong(entry.key, kind, str(error))
        given = self._short_table(section, kind)
        of_child = (
            {}
            if cls is None
            else {key: inner for key, inner in given.entries.items() if key in COMMON and key not in parameters(cls)}
        )
        for key in of_child.keys() & section.table.entries.keys():
            section.wrong(of_child[key].key, key, f"given in `{kind}` and beside it; once expected")
        whole = Section(
            Table({**section.table.entries, **of_child}, section.table.place), section.path, self.problems, self.environ
        )
        whole.entry(kind)
        options = self._options(whole, of_actor=False)
        args: dict[str, Any] = {}
        if cls is not None:
            inner = Section(given, section.at(kind), self.problems, self.environ)
            args = arguments(cls, inner, entry, section, skip=COMMON)
        whole.refuse_unread()
        return self._found(whole, cls, args, options, before)

    def _short_table(self, section: Section, kind: str) -> Table:
        entry = section.table.entries[kind]
        if isinstance(entry.value, Table):
            return entry.value
        if not (isinstance(entry.value, Scalar) and entry.value.absent):
            section.wrong(entry.value, kind, f"{described(entry.value)} given, a mapping expected")
        return Table({}, entry.value.place)

    def _supervisor(self, section: Section, file: Path) -> Found:
        value = section.table.entries["supervisor"].value
        if isinstance(value, Scalar) and ":" in value.text:
            return self._actor(section, "supervisor")
        before = len(self.problems.found)
        name = section.text("supervisor", "the id of the nested supervisor, or `module:Class`,")
        options = self._options(section, of_actor=False, named=True)
        tree = supervisor_options(section)
        children = self.read(section, file)
        section.refuse_unread()
        if len(self.problems.found) == before:
            try:
                SupervisorSpec(**tree, children=children)
            except InvalidSpec as error:
                section.wrong(section.table.place, "", str(error))
        if name is not None:
            options["id"] = name
        return self._found(section, Supervisor, {**tree, "children": children}, options, before)

    def _found(
        self, section: Section, cls: type | None, args: dict[str, Any], options: dict[str, Any], before: int
    ) -> Found:
        id = options.get("id") or (kebab_case(cls.__name__) if cls is not None else None)
        named = section.table.entries.get("id") or section.table.entries.get("supervisor")
        place = named.value.place if named is not None else section.table.place
        path = section.at("id") if section.has("id") else section.path
        replicas = options.get("replicas", 1)
        spec = None
        if cls is not None and len(self.problems.found) == before:
            try:
                spec = child(cls, args=args, **options)
            except InvalidSpec as error:
                section.wrong(section.table.place, "", str(error))
        return Found(id, place, path, replicas, spec)

    def _class(self, section: Section, key: str) -> type | None:
        reference = section.text(key, "`module:Class`")
        if reference is None:
            return None
        try:
            return import_class(reference)
        except ValueError as error:
            section.wrong(section.table.entries[key].value, key, str(error))
            return None

    def _options(self, section: Section, *, of_actor: bool = True, named: bool = False) -> dict[str, Any]:
        """The keys that a child of any kind may have, where they are given."""
        options: dict[str, Any] = {
            "id": None if named else section.text("id"),
            "restart": section.choice("restart", RESTARTS),
            "backoff": section.backoff("backoff"),
            "significant": section.boolean("significant"),
            "replicas": section.whole("replicas", 1) if of_actor else None,
            "mailbox": self._mailbox(section) if of_actor else None,
            "config": self._config(section),
        }
        options = {name: value for name, value in options.items() if value is not None}
        shutdown = section.duration("shutdown", brutal=0.0, infinity=None)
        if section.has("shutdown"):
            options["shutdown"] = shutdown
        if section.boolean("process"):
            text = "true given, false expected: this version runs everything in one process"
            section.wrong(section.table.entries["process"].value, "process", text)
        return options

    def _config(self, section: Section) -> Any:
        inner = section.section("config")
        return None if inner is None else section.value("config")

    def _mailbox(self, section: Section) -> Mailbox | None:
        inner = section.section("mailbox")
        if inner is None:
            return None
        capacity, overflow = inner.whole("capacity", 1), inner.text("overflow")
        inner.refuse_unread()
        options: dict[str, Any] = {"capacity": capacity, "overflow": overflow}
        try:
            return Mailbox(**{name: value for name, value in options.items() if value is not None})
        except InvalidSpec as error:
            inner.wrong(inner.table.place, "", str(error))
            return None

    # --- included files -------------------------------------------------------------------------------------

    def _include(self, section: Section, file: Path) -> Iterator[Found]:
        name = section.text("include", "the path of a file")
        section.refuse_unread()
        if name is None:
            return
        target = file.parent / name
        above = [path.resolve() for path in self._files]
        if target.resolve() in above:
            cycle = " -> ".join(str(path) for path in [*self._files, target])
            section.wrong(section.table.entries["include"].value, "include", f"the file includes itself: {cycle}")
            return
        if not target.is_file():
            section.wrong(section.table.entries["include"].value, "include", f"there is no file {str(target)!r}")
            return
        self.included.append(target)
        node = read(target, str(target), self.problems)
        items, path = self._included_items(node)
        if items is not None:
            self._files.append(target)
            yield from self._children(items, path, target)
            self._files.pop()

    def _included_items(self, node: Node | None) -> tuple[Items | None, str]:
        """A list of children, a mapping with `children`, or a whole topology file."""
        match node:
            case None:
                return None, ""
            case Items():
                return node, ""
            case Table(entries={"supervisor": Entry(value=Table() as inner)}):
                section = Section(inner, "supervisor", self.problems, self.environ)
                return section.items("children"), section.at("children")
            case Table(entries={"children": _}):
                section = Section(node, "", self.problems, self.environ)
                section.entry("version")
                items = section.items("children")
                section.refuse_unread()
                return items, "children"
            case _:
                text = f"{described(node)} given, a list of children or `children:` expected"
                self.problems.add(node.place, "", text)
                return None, ""


def supervisor_options(section: Section) -> dict[str, Any]:
    """strategy, max_restarts, within and auto_shutdown, where they are given."""
    options: dict[str, Any] = {
        "strategy": section.choice("strategy", STRATEGIES),
        "max_restarts": section.whole("max_restarts", 0),
        "within": section.duration("within"),
        "auto_shutdown": section.choice("auto_shutdown", AUTO_SHUTDOWNS),
    }
    return {name: value for name, value in options.items() if value is not None}
