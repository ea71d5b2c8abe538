"""A YAML file as plain nodes that know where they stand.

    node = read(Path("shop.yaml"), "shop.yaml", problems)
    node.entries["name"].value.place        # shop.yaml:2:7, path "name"

Every scalar is kept as the text it was written as: what type it has is for the field to say, so `id: on` stays
"on" and `zip: 01234` keeps its zero. Faults of the text (syntax, duplicate keys, foreign tags) are added to
`Problems` with their position.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from mbactor.supervisor.topology.reading import MOST_READ, bounded, read_bounded

_PREFIX = "tag:yaml.org,2002:"
_TAGS = frozenset(
    _PREFIX + name for name in ("null", "bool", "int", "float", "str", "seq", "map", "timestamp", "merge", "value")
)
_MOST_NODES = 100_000
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_WORDS = {"null": None, "~": None, "": None, "true": True, "false": False}


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something stands; line and column count from 1, `path` are the keys that lead to it."""

    file: str
    line: int
    column: int
    path: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def at(self, name: str) -> Place:
        """The same place, for something that is missing there."""
        return replace(self, path=joined(self.path, name))


def joined(path: str, name: str) -> str:
    """A path of keys and one more of them."""
    return f"{path}.{name}" if path else name


@dataclass(frozen=True, slots=True)
class Scalar:
    text: str
    place: Place
    quoted: bool = False
    """It is a text whatever it looks like."""

    @property
    def absent(self) -> bool:
        """Written as nothing, `null` or `~`."""
        return not self.quoted and self.text.lower() in {"", "~", "null"}

    def natural(self) -> Any:
        """The value where no field says what type it has: null, true, false, a number, else the text."""
        if self.quoted:
            return self.text
        if self.text.lower() in _WORDS:
            return _WORDS[self.text.lower()]
        if _INTEGER.fullmatch(self.text):
            return int(self.text)
        return float(self.text) if _FLOAT.fullmatch(self.text) else self.text


@dataclass(frozen=True, slots=True)
class Items:
    """A YAML sequence."""

    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Table:
    """A YAML mapping; keys are unique."""

    entries: dict[str, Entry]
    place: Place


@dataclass(frozen=True, slots=True)
class Entry:
    key: Scalar
    value: Node


Node = Scalar | Items | Table


@dataclass(slots=True)
class Problems:
    """Everything wrong, in the order found; `sorted` and `texts` by position."""

    found: list[tuple[Place, str]] = field(default_factory=list)

    def add(self, place: Place, text: str) -> None:
        self.found.append((place, f"{place.path}: {text}" if place.path else text))

    def sorted(self) -> list[tuple[Place, str]]:
        """Each once, by position."""
        files = list(dict.fromkeys(place.file for place, _ in self.found))
        return sorted(dict.fromkeys(self.found), key=lambda one: (files.index(one[0].file), one[0].line, one[0].column))

    def texts(self) -> list[str]:
        return [f"{place}: {text}" for place, text in self.sorted()]


def read(path: Path, shown: str, problems: Problems, content: bytes | None = None) -> Node | None:
    """The document in the file, or None where it cannot be read. `shown` is how the file is called, `content` what it
    has where it has been read already.
    """
    start = Place(shown, 1, 1)
    try:
        data = read_bounded(path, MOST_READ) if content is None else bounded(content, MOST_READ)
        text = data.decode()
        document = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        problems.add(start, f"the file cannot be read: {error.strerror or error}")
    except UnicodeDecodeError as error:
        problems.add(start, f"the file is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}")
    except ValueError as error:  # it is too large, or no file can be called so
        problems.add(start, f"the file cannot be read: {error}")
    except yaml.MarkedYAMLError as error:
        problems.add(*_syntax(shown, error))
    except RecursionError:
        problems.add(start, "the file is nested too deeply")
    except yaml.YAMLError as error:
        problems.add(start, f"not YAML: {error}")
    else:
        if document is None:
            problems.add(start, "the file is empty, a mapping with `version` and `supervisor` expected")
            return None
        return _Converter(shown, problems).convert(document, "")
    return None


def _syntax(shown: str, error: yaml.MarkedYAMLError) -> tuple[Place, str]:
    mark = error.problem_mark or error.context_mark
    place = Place(shown, mark.line + 1, mark.column + 1) if mark else Place(shown, 1, 1)
    text = ", ".join(part for part in (error.context, error.problem) if part)
    if "'\\t'" in text:
        text += " (YAML indents with spaces, not with tabs)"
    return place, f"not YAML: {text}"


class _Converter:
    """Turns PyYAML's nodes into ours. Aliases may repeat a node, but neither for ever nor without measure."""

    def __init__(self, shown: str, problems: Problems) -> None:
        self.shown = shown
        self.problems = problems
        self.above: set[int] = set()
        self.count = 0

    def convert(self, node: yaml.Node, path: str) -> Node | None:
        place = self.place(node, path)
        self.count += 1
        if id(node) in self.above or self.count > _MOST_NODES:
            self.problems.add(place, "aliases repeat this without end")
            return None
        if node.tag not in _TAGS:
            self.problems.add(place, f"the tag {node.tag!r} given, a plain value expected")
            return None
        self.above.add(id(node))
        try:
            return self.inner(node, place)
        finally:
            self.above.discard(id(node))

    def inner(self, node: yaml.Node, place: Place) -> Node | None:
        if isinstance(node, yaml.MappingNode):
            return self.table(node, place)
        if isinstance(node, yaml.SequenceNode):
            items = (self.convert(item, f"{place.path}[{n}]") for n, item in enumerate(node.value))
            return Items(tuple(item for item in items if item is not None), place)
        style = getattr(node, "style", None)
        return Scalar(node.value, place, quoted=style is not None or node.tag == f"{_PREFIX}str")

    def table(self, node: yaml.MappingNode, place: Place) -> Table:
        entries: dict[str, Entry] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.problems.add(self.place(key, place.path), "a list or mapping given as a key, a text expected")
                continue
            path = joined(place.path, key.value)
            where = self.place(key, path)
            if key.tag == f"{_PREFIX}merge":
                self.problems.add(where, "YAML's merge key given; `template: name` is what shares parts here")
            elif key.value in entries:
                first = entries[key.value].key.place.line
                self.problems.add(where, f"the key is given twice (first in line {first})")
            elif (converted := self.convert(value, path)) is not None:
                entries[key.value] = Entry(Scalar(key.value, where, quoted=True), converted)
        return Table(entries, place)

    def place(self, node: yaml.Node, path: str) -> Place:
        return Place(self.shown, node.start_mark.line + 1, node.start_mark.column + 1, path)
