"""What a child of a topology file can be, and what it is called: the words of the format.

kinds = Kinds()
kinds.named_in(table)              # ["actor"]
kinds.id_of(table, sources)        # "orders"
"""

from __future__ import annotations

from mbactor.supervisor.spec import kebab_case
from mbactor.supervisor.topology.arguments import parameters
from mbactor.supervisor.topology.classes import import_class, short_kinds
from mbactor.supervisor.topology.interpolation import Sources, interpolate
from mbactor.supervisor.topology.yaml_positions import Entry, Problems, Scalar, Table

BUILT_IN = ("actor", "supervisor", "include")
COMMON = frozenset({"id", "restart", "shutdown", "backoff", "config", "significant", "process", "after"})
TREE = frozenset({"strategy", "max_restarts", "within", "auto_shutdown", "children"})
KEYS = COMMON | TREE | {"replicas", "partitions", "mailbox", "args", "template"}


class Kinds:
    """The kinds there are: the built-in ones and the short ones that installed packages offer."""

    def __init__(self) -> None:
        self.short = short_kinds()
        self._classes: dict[str, type | ValueError] = {}

    @property
    def known(self) -> list[str]:
        return [*BUILT_IN, *sorted(self.short)]

    def named_in(self, table: Table) -> list[str]:
        """The keys of a child that say what it is; one is expected."""
        return [key for key in table.entries if key in BUILT_IN or (key in self.short and key not in KEYS)]

    def import_class(self, reference: str) -> type:
        """The class at `module:Class`; ValueError says why there is none. What failed is not tried twice."""
        if reference not in self._classes:
            try:
                self._classes[reference] = import_class(reference)
            except ValueError as error:
                self._classes[reference] = error
        found = self._classes[reference]
        if isinstance(found, ValueError):
            raise found
        return found

    @property
    def classes(self) -> dict[str, type]:
        """Those that were imported so far, by the references to them."""
        return {reference: found for reference, found in self._classes.items() if isinstance(found, type)}

    def class_of_short(self, kind: str) -> type | None:
        try:
            return self.import_class(self.short[kind].value)
        except ValueError:
            return None

    def id_of(self, table: Table, sources: Sources) -> str | None:
        """The id of a child, given or by default; None where nothing says it. Faults are for its reader to tell."""
        given = _text(table, "id", sources)
        if given is not None:
            return given
        for kind in self.named_in(table):
            reference = self.short[kind].value if kind in self.short else _text(table, kind, sources)
            if reference is None or kind == "include":
                return None
            return reference if kind == "supervisor" and ":" not in reference else self.default_id(reference)
        return None

    def default_id(self, reference: str) -> str:
        try:
            return kebab_case(self.import_class(reference).__name__)
        except ValueError:
            return kebab_case(reference.rpartition(":")[2].rpartition(".")[2])

    def with_own_keys(self, table: Table, problems: Problems) -> Table:
        """A child of a short kind, with the keys of any child beside it that were given within it."""
        for kind in self.named_in(table):
            entry = table.entries[kind]
            cls = self.class_of_short(kind) if kind in self.short else None
            if cls is None or not isinstance(entry.value, Table):
                continue
            arguments = parameters(cls)
            moved = {key: inner for key, inner in entry.value.entries.items() if key in COMMON and key not in arguments}
            for key in moved.keys() & table.entries.keys():
                problems.add(moved[key].key.place, f"given in `{kind}` and beside it; once expected")
            left = {key: inner for key, inner in entry.value.entries.items() if key not in moved}
            inner = Entry(entry.key, Table(left, entry.value.place))
            table = Table({**table.entries, kind: inner, **moved}, table.place)
        return table


def _text(table: Table, name: str, sources: Sources) -> str | None:
    entry = table.entries.get(name)
    if entry is None or not isinstance(entry.value, Scalar) or entry.value.absent:
        return None
    try:
        return interpolate(entry.value.text, sources)
    except ValueError:
        return None
