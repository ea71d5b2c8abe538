"""The resolved topology file: what is included, overlays, templates, variables and defaults written out.

    print(as_yaml(topology.document))

Loaded again, from any folder and with no environment, it gives the same specifications. Secrets stay references, and
`${replica}` too; a secret property that stands in the file, or in the environment, is a variable that has to be set.
Each line of the YAML says where its value comes from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mbactor.kernel.properties import properties_of
from mbactor.supervisor.spec import kind_of
from mbactor.supervisor.topology import interpolation
from mbactor.supervisor.topology.interpolation import has_reference
from mbactor.supervisor.topology.kinds import BUILT_IN, Kinds
from mbactor.supervisor.topology.yaml_positions import Entry, Items, Node, Place, Scalar, Table

_DEFAULT = Place("", 0, 0)
_PLAIN = re.compile(r"[A-Za-z0-9_./][\w./@+-]*(:[\w./@+-]+)*", re.ASCII)
_FIRST = ("id", "replicas", "restart", "shutdown", "backoff", "mailbox", "significant", "process", "after")
_NO_TEXTS = frozenset({"replicas", "max_restarts", "significant", "process", "capacity", "factor", "jitter"})
_LAST = ("config", "args", "children")
_OF_TREE = {"strategy": "one_for_one", "max_restarts": "3", "within": "5s", "auto_shutdown": "never"}
_OF_BACKOFF = {"factor": "2.0", "jitter": "0.2"}
_OF_MAILBOX = {"capacity": "1000", "overflow": "reject"}


def resolved(table: Table, name: str, kinds: Kinds, environ: Mapping[str, str]) -> Table:
    """The document of a right file with its variables filled in and its defaults in their places."""
    fill = _Fill(environ, kinds)
    entries = {"version": _default("version", "1"), "name": _default("name", name, quoted=True)}
    entries["transport"] = _default("transport", "local")
    for key, entry in table.entries.items():
        entries[key] = Entry(entry.key, fill.node(entry.value))
    supervisor = entries["supervisor"]
    assert isinstance(supervisor.value, Table)
    entries["supervisor"] = Entry(supervisor.key, _tree(supervisor.value, fill))
    return Table(entries, table.place)


def as_yaml(document: Table) -> str:
    """The document as YAML, with a comment on where each value was written."""
    return "\n".join(_lines(document, "")) + "\n"


def as_json(document: Table) -> str:
    """The document as JSON, for programs."""
    return json.dumps(_plain(document), indent=2, ensure_ascii=False)


# --- what is filled in ------------------------------------------------------------------------------------------


class _Fill:
    """Fills in the variables of a document."""

    def __init__(self, environ: Mapping[str, str], kinds: Kinds) -> None:
        self.environ = environ
        self.kinds = kinds
        self.written: dict[Place, str] = {}
        """The texts that had references, as they were."""
        self.free = {"args", "config", *kinds.short}
        """What is in these is a text where it was filled in; elsewhere the field says what it is."""

    def node(self, node: Node, *, field: str = "", free: bool = False) -> Node:
        match node:
            case Scalar(text=text, place=place) if has_reference(text):
                self.written[place] = text
                shown = interpolation.resolved(text, self.environ, Path(place.file).parent)
                return Scalar(shown, place, quoted=free or field not in _NO_TEXTS)
            case Scalar():
                return node
            case Items(items=items, place=place):
                return Items(tuple(self.node(item, free=free) for item in items), place)
            case Table(entries=entries, place=place):
                filled = {
                    key: Entry(entry.key, self.node(entry.value, field=key, free=free or key in self.free))
                    for key, entry in entries.items()
                }
                return Table(filled, place)


def _default(key: str, text: str, *, quoted: bool = False) -> Entry:
    return Entry(Scalar(key, _DEFAULT, quoted=True), Scalar(text, _DEFAULT, quoted=quoted))


def _completed(table: Table, defaults: Mapping[str, str]) -> Table:
    """The defaults, where nothing else is given, first."""
    return Table({**{key: _default(key, text) for key, text in defaults.items()}, **table.entries}, table.place)


def _tree(table: Table, fill: _Fill) -> Table:
    whole = _completed(table, _OF_TREE)
    children = whole.entries.pop("children", None)
    if children is not None and isinstance(children.value, Items):
        items = tuple(_child(item, fill) for item in children.value.items if isinstance(item, Table))
        whole.entries["children"] = Entry(children.key, Items(items, children.value.place))
    return whole


def _child(table: Table, fill: _Fill) -> Table:
    kinds = fill.kinds
    (kind,) = kinds.named_in(table)
    given = table.entries[kind].value
    reference = given.text if isinstance(given, Scalar) and kind in BUILT_IN else kinds.short[kind].value
    nested = kind == "supervisor" and ":" not in reference
    supervises = nested or kind_of(kinds.import_class(reference)) == "supervisor"
    if nested:
        table = _tree(table, fill)
    defaults = {"restart": "permanent", "shutdown": "infinity" if supervises else "5s"}
    whole = dict(_completed(table, defaults).entries)
    if not nested and "id" not in whole:
        whole["id"] = _default("id", kinds.default_id(reference), quoted=True)
    for key, more in (("backoff", _OF_BACKOFF), ("mailbox", _OF_MAILBOX)):
        if key in whole and isinstance(inner := whole[key].value, Table):
            completed = {**inner.entries, **{k: _default(k, v) for k, v in more.items() if k not in inner.entries}}
            whole[key] = Entry(whole[key].key, Table(completed, inner.place))
    config = whole.get("config")
    if not nested and config is not None and isinstance(config.value, Table):
        whole["config"] = Entry(config.key, _hiding(config.value, kinds.import_class(reference), fill.written))
    middle = [key for key in whole if key not in {kind, *_FIRST, *_LAST}]
    order = [key for key in (kind, *_FIRST, *middle, *_LAST) if key in whole]
    return Table({key: whole[key] for key in order}, table.place)


def _hiding(config: Table, cls: type, written: Mapping[Place, str]) -> Table:
    """A configuration with references in the place of its secrets."""
    entries = dict(config.entries)
    for name, one in properties_of(cls).items():
        if one.secret and name in entries and isinstance(given := entries[name].value, Scalar) and not given.absent:
            reference = _reference(name, written.get(given.place, given.text))
            shown = given if reference is None else Scalar(reference, given.place, quoted=True)
            entries[name] = Entry(entries[name].key, shown)
    return Table(entries, config.place)


def _reference(name: str, text: str) -> str | None:
    """What stands for a secret; None where the text as it is has nothing to hide: it refers to a file."""
    pieces = [piece for piece in interpolation.parse(text) if piece]
    references = [piece for piece in pieces if not isinstance(piece, str)]
    if any(piece.kind == "file" for piece in references) and all(piece.kind != "variable" for piece in references):
        return None
    alone = len(pieces) == 1 and references and references[0].kind == "variable"
    variable = references[0].name if alone else name.upper()
    return f"${{{variable}:?a secret, which is not printed}}"


# --- how it is written ------------------------------------------------------------------------------------------


def _lines(table: Table, indent: str) -> Iterator[str]:
    for entry in table.entries.values():
        yield from _line(f"{indent}{_word(entry.key.text)}:", entry.value, indent)


def _line(head: str, node: Node, indent: str) -> Iterator[str]:
    """A value behind what is written before it on its line."""
    match node:
        case Table(entries=entries) if entries:
            yield head
            yield from _lines(node, indent + "  ")
        case Items(items=items) if items:
            yield head
            for item in items:
                yield from _item(item, indent + "  ")
        case _:
            yield f"{head} {_value(node)}{_origin(node.place)}"


def _item(node: Node, indent: str) -> Iterator[str]:
    if isinstance(node, Table) and node.entries:
        first, *rest = _lines(node, indent + "  ")
        yield f"{indent}- {first[len(indent) + 2 :]}"
        yield from rest
    else:
        yield from _line(f"{indent}-", node, indent)


def _value(node: Node) -> str:
    match node:
        case Scalar() if node.absent:
            return "null"
        case Scalar(text=text, quoted=quoted):
            return text if not quoted and not isinstance(node.natural(), str) else _word(text)
        case Items():
            return "[]"
        case Table():
            return "{}"


def _word(text: str) -> str:
    """A text as YAML that reads as this text, whatever it looks like."""
    bare = Scalar(text, _DEFAULT)
    if _PLAIN.fullmatch(text) and isinstance(bare.natural(), str):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'


def _origin(place: Place) -> str:
    where = f"{place.file}:{place.line}" if place.line else "default"
    return f"  # {''.join(c if c.isprintable() else '?' for c in where)}"


def _plain(node: Node) -> Any:
    match node:
        case Scalar():
            return node.natural()
        case Items(items=items):
            return [_plain(item) for item in items]
        case Table(entries=entries):
            return {key: _plain(entry.value) for key, entry in entries.items()}
